//! What can be run? A table: a name, and what each client does with the orchestrators of `tests/bench/guest`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// Units of work that are all alike.
#[derive(Debug)]
pub(crate) struct Workload {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What a unit is.
    pub(crate) about: &'static str,
    /// What is counted, in one word.
    pub(crate) unit: &'static str,
    /// How many units to run before each measurement, if nobody says.
    pub(crate) warm_up: u64,
    pub(crate) task: Task,
    /// Whether one more client lists instances meanwhile.
    pub(crate) is_listed: bool,
}

/// What a unit is to a client.
#[derive(Debug)]
pub(crate) enum Task {
    Start(Orchestration),
    /// An event to an instance of `Echo`.
    Raise,
}

/// An orchestration to start and to wait for.
#[derive(Debug)]
pub(crate) struct Orchestration {
    /// The orchestrator.
    pub(crate) function: &'static str,
    /// Its input, as JSON.
    pub(crate) input: &'static str,
    /// Its output, as JSON to the byte.
    pub(crate) output: &'static str,
}

const GREETINGS_3: &str = r#"["Hello Tokyo!","Hello Seattle!","Hello London!"]"#;
const GREETINGS_5: &str = r#"["Hello Tokyo!","Hello Seattle!","Hello London!","Hello Amsterdam!","Hello Mumbai!"]"#;

const WORKLOADS: &[Workload] = &[
    start("sequence-3", "three trivial activities, one after the other", "Sequence", "3", GREETINGS_3),
    start("sequence-5", "five trivial activities, one after the other", "Sequence", "5", GREETINGS_5),
    Workload { warm_up: 20, ..start("long-1000", "a thousand trivial activities, one after the other", "Chain", "1000", "1000") },
    start("fan-out-100", "a hundred trivial activities side by side", "FanOut", "100", "100"),
    Workload { warm_up: 100, ..start("fan-out-1000", "a thousand of them", "FanOut", "1000", "1000") },
    Workload { warm_up: 20, ..start("fan-out-10000", "ten thousand of them", "FanOut", "10000", "10000") },
    start("sub-orchestrations-50", "fifty sub-orchestrations side by side, with one trivial activity each", "Parent", "50", "50"),
    start("timers", "three timers of a millisecond, one after the other", "Timers", "3", "3"),
    Workload {
        name: "event-ping",
        about: "an event to a running instance, until an open stream of its status shows what the turn that took it has set",
        unit: "event",
        warm_up: 1_000,
        task: Task::Raise,
        is_listed: false,
    },
    Workload {
        is_listed: true,
        ..start(
            "list-under-load",
            "sequence-3, while one more client lists pages of 100 by status and creation time, without a pause",
            "Sequence",
            "3",
            GREETINGS_3,
        )
    },
];

/// A workload of orchestrations.
const fn start(
    name: &'static str,
    about: &'static str,
    function: &'static str,
    input: &'static str,
    output: &'static str,
) -> Workload {
    let task = Task::Start(Orchestration { function, input, output });
    Workload { name, about, unit: "orchestration", warm_up: 1_000, task, is_listed: false }
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
