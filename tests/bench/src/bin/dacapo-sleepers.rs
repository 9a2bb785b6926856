//! The `dacapo-sleepers` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dacapo_bench::sleepers::main()
}
