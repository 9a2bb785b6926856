//! What can be run? A table: a name, an orchestrator of `tests/bench/guest`, its input, and the output that it has to have.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::http;

/// Orchestrations that are all alike.
#[derive(Debug)]
pub(crate) struct Workload {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) about: &'static str,
    /// The orchestrator.
    function: &'static str,
    /// Its input, as JSON.
    input: &'static str,
    /// Its output, as JSON to the byte.
    pub(crate) output: &'static str,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "sequence-3",
        about: "three trivial activities, one after the other",
        function: "Sequence",
        input: "3",
        output: r#"["Hello Tokyo!","Hello Seattle!","Hello London!"]"#,
    },
    Workload {
        name: "sequence-5",
        about: "five trivial activities, one after the other",
        function: "Sequence",
        input: "5",
        output: r#"["Hello Tokyo!","Hello Seattle!","Hello London!","Hello Amsterdam!","Hello Mumbai!"]"#,
    },
    Workload {
        name: "fan-out-100",
        about: "a hundred trivial activities side by side",
        function: "FanOut",
        input: "100",
        output: "100",
    },
    Workload { name: "fan-out-1000", about: "a thousand of them", function: "FanOut", input: "1000", output: "1000" },
    Workload { name: "fan-out-10000", about: "ten thousand of them", function: "FanOut", input: "10000", output: "10000" },
    Workload {
        name: "sub-orchestrations-50",
        about: "fifty sub-orchestrations side by side, with one trivial activity each",
        function: "Parent",
        input: "50",
        output: "50",
    },
];

impl Workload {
    /// The request that starts an orchestration and is answered with its output.
    pub(crate) fn request(&self, server: SocketAddr) -> Vec<u8> {
        // Should an orchestration be stuck, the server says so after this time with a 202.
        let path = format!("/api/orchestrators/{}?timeout=30", self.function);
        http::request("POST", &path, server, "application/json", self.input.as_bytes())
    }
}

/// The workload of this name.
pub(crate) fn named(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}

/// What the command line takes for a workload.
pub(crate) fn parser() -> impl TypedValueParser<Value = &'static Workload> {
    let names = WORKLOADS.iter().map(|workload| PossibleValue::new(workload.name).help(workload.about));
    PossibleValuesParser::new(names).map(|name| named(&name).expect("the parser takes names of the table only"))
}

/// Builds the guests of all workloads into one module.
pub(crate) fn build_module() -> Result<Vec<u8>> {
    const TARGET: &str = "wasm32-wasip2";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Where the tests build theirs: a cargo around this program may hold a lock on the workspace's own target directory.
    let folder = root.join("target/guests");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&root).args(["build", "--quiet", "--package", "bench-guest", "--profile", "guest", "--target", TARGET]);
    let status = cargo.arg("--target-dir").arg(&folder).status().context("run cargo, which comes with Rust")?;
    ensure!(status.success(), "cargo could not build the guests; what it said is above");
    let file = folder.join(TARGET).join("guest/bench_guest.wasm");
    fs::read(&file).with_context(|| format!("read {}", file.display()))
}
