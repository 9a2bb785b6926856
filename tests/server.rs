//! The program under test: the `dacapo` binary, built by this package.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    dacapo::cli::main()
}
