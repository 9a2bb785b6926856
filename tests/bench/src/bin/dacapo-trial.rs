//! The `dacapo-trial` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dacapo_bench::trial::main()
}
