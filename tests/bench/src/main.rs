//! The `dacapo-bench` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dacapo_bench::main()
}
