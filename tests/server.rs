//! The program under test: the `dacapo` binary, built by this package.

use std::process::ExitCode;

fn main() -> ExitCode {
    dacapo::cli::main()
}
