//! How many instructions does each part of the way of an orchestration take, and have they become more?
//!
//! `cargo bench --bench instructions [-- NAME…]` runs the scenarios of `scenarios.rs`, or those that are named, under valgrind, which counts
//! instructions: a figure that does not depend on how busy the machine is. It compares them with `figures.toml` and fails if one is further away than
//! its tolerance, also if it is lower, so that what was gained once cannot be lost again unseen. `DACAPO_GOLDEN=write` before it writes the
//! figures anew; the difference is then for people to read. The profile of each scenario's last round stays in `target/instructions`, for
//! `callgrind_annotate`; its first rows are those who call the scenario.
//!
//! What makes the figures agree between runs and machines: valgrind shows every program the same processor (as long as the real one has AVX2),
//! the guest is compiled under it too, and a scenario runs on one core. What moves them: the Rust compiler, the C library, dependencies, and a kernel
//! without PAGEMAP_SCAN (Linux 6.7), where slots of guests are cleaned in another way.

mod gate;
mod scenarios;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use mimalloc::MiMalloc;
use scenarios::SCENARIOS;

/// That of the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Result<ExitCode> {
    // Cargo adds `--bench`.
    let args: Vec<_> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // What the gate calls this program with, under valgrind.
        [gate::PREPARE, folder, module] => {
            scenarios::prepare(Path::new(folder), &std::fs::read(module).context("read the module")?);
            Ok(ExitCode::SUCCESS)
        }
        [gate::RUN, name, folder] => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).context("find the scenario")?;
            scenario.run(Path::new(folder));
            Ok(ExitCode::SUCCESS)
        }
        ref names => gate::run(names),
    }
}
