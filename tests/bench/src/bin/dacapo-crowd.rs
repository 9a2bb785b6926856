//! The `dacapo-crowd` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dacapo_bench::crowd::main()
}
