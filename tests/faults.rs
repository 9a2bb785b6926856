//! What does a person see whose function goes wrong? Every way that a guest can fail, in the words of the server, for people to read.
//!
//! Each file in `golden/faults` is one case: what the status says of the instance, and of the activity if it was one.

use std::fs;

use dacapo::limits::Limits;
use serde_json::Value;

use crate::support::golden;
use crate::support::{Server, Setup};

/// Tight, so that what never ends is over soon.
fn limits() -> Limits {
    Limits { turn_cpu_ms_max: 100, activity_ms_max: 500, guest_memory_bytes_max: 16 << 20, ..Limits::default() }
}

/// Runs `function`, which must fail, and compares what is seen with `golden/faults/{case}.txt`.
#[track_caller]
fn check(server: &Server, case: &str, function: &str, input: &str) {
    let id = server.start(function, input);
    golden::check_text(&format!("faults/{case}.txt"), &seen(&server.finished(&id)));
}

/// What the status of a failed instance says of its failures.
#[track_caller]
fn seen(status: &Value) -> String {
    assert_eq!(status["runtimeStatus"], "Failed", "{status}");
    let mut text = format!("output: {}\n", status["output"].as_str().expect("the output of a failure is text"));
    for event in status["historyEvents"].as_array().expect("it has a history") {
        let failure = &event["FailureDetails"];
        if failure.is_object() {
            let name = event["FunctionName"].as_str().unwrap_or_default();
            text += &format!("\n{}\n", format!("{} {name}", event["EventType"].as_str().expect("text")).trim_end());
            describe(failure, "  ", &mut text);
        }
    }
    mask_sizes(&text)
}

/// How much memory was asked for depends on how much the module's own data takes.
fn mask_sizes(text: &str) -> String {
    let mut parts = text.split("wanted ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |masked, part| {
        masked + "wanted <some> " + part.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start()
    })
}

fn describe(failure: &Value, indent: &str, text: &mut String) {
    let lines = |value: &Value| value.as_str().unwrap_or("none").replace('\n', &format!("\n{indent}  "));
    *text += &format!("{indent}{}: {}\n", lines(&failure["ErrorType"]), lines(&failure["ErrorMessage"]));
    if !failure["StackTrace"].is_null() {
        *text += &format!("{indent}  {}\n", lines(&failure["StackTrace"]));
    }
    if failure["InnerFailure"].is_object() {
        *text += &format!("{indent}caused by\n");
        describe(&failure["InnerFailure"], &format!("{indent}  "), text);
    }
}

#[test]
fn an_orchestrator_that_panics_shows_the_line_of_its_own_source() {
    let server = Server::start();
    check(&server, "panic", "Panic", "");
    check(&server, "out-of-bounds", "OutOfBounds", "");
    check(&server, "unwrap", "Unwrap", "");
    check(&server, "divide-by-zero", "DivideByZero", "");
    check(&server, "spawn-thread", "SpawnThread", "");
}

#[test]
fn an_orchestrator_that_passes_a_limit_shows_which_and_where_it_is_set() {
    let server = Setup::limits(limits()).start();
    check(&server, "loop", "Loop", "");
    check(&server, "grow", "Grow", "");
    check(&server, "recurse", "Recurse", "");
}

#[test]
fn an_orchestrator_that_reaches_for_the_world_is_told_what_to_use_instead() {
    let server = Server::start();
    check(&server, "need-file", "NeedFile", "");
    check(&server, "need-environment", "NeedEnvironment", "");
    check(&server, "connect", "Connect", "");
    check(&server, "sleep-thread", "SleepThread", "");
    check(&server, "exit", "Exit", "");
}

#[test]
fn an_error_that_is_returned_shows_its_causes() {
    let server = Server::start();
    check(&server, "causes", "FailWithCauses", "");
}

#[test]
fn an_activity_that_goes_wrong_is_named_with_the_line_of_its_own_source() {
    let server = Setup::limits(limits()).start();
    let activity = |case: &str, name: &str| check(&server, case, "CallActivity", &format!("{name:?}"));
    activity("activity-panic", "PanicActivity");
    activity("activity-out-of-bounds", "OutOfBoundsActivity");
    activity("activity-loop", "LoopActivity");
    activity("activity-grow", "GrowActivity");
    activity("activity-recurse", "RecurseActivity");
    activity("activity-write-file", "WriteFileActivity");
    activity("activity-connect", "ConnectActivity");
    activity("activity-exit", "ExitActivity");
}

#[test]
fn a_call_that_does_not_fit_says_what_would() {
    let server = Server::start();
    check(&server, "mistyped-activity", "MistypedActivity", "");
    check(&server, "wrong-input", "WrongInput", "");
    check(&server, "wrong-output", "WrongOutput", "");
    check(&server, "unreadable-input", "Sequence", r#"{"length":1}"#);
}

/// The other side of it: what is given has to work. `CallActivity` returns nothing, so this number cannot be read as that.
#[test]
fn an_activity_has_clocks_randomness_and_a_place_to_print() {
    let server = Server::start();
    let id = server.start("CallActivity", "\"Worldly\"");
    let status = server.finished(&id);
    assert_eq!(
        (&status["historyEvents"][1]["EventType"], &status["historyEvents"][1]["Result"]),
        (&"TaskCompleted".into(), &2.into())
    );
}

/// Stands for a module that does not do again what it did: the history is changed behind its back while it waits.
#[test]
fn a_divergence_shows_both_sides_and_what_causes_it() {
    let patient = Limits { activity_ms_max: 600_000, ..limits() };
    let mut server = Setup::limits(patient).start();
    server.start_as("a", "EchoThenLoop", "");
    crate::support::eventually("the second task", || {
        let status = server.get("/runtime/webhooks/durabletask/instances/a?showHistory=true");
        status.to_string().contains("TaskCompleted").then_some(())
    });
    server.stop();
    let (then, now) = (br#""name":"Echo","input":1"#, br#""name":"Echo","input":7"#);
    replace(&server, then, now);
    server.restart_with(limits());
    let status = server.finished("a");
    server.stop();
    replace(&server, now, then); // What ends this test replays every history.
    golden::check_text("faults/divergence.txt", &seen(&status));
}

/// Puts `now` wherever the store has `then`, also in pages that are no longer in use.
fn replace(server: &Server, then: &[u8], now: &[u8]) {
    let store = server.data().join("dacapo.db");
    let mut bytes = fs::read(&store).expect("read the store");
    let places: Vec<usize> = (0..bytes.len() - then.len()).filter(|&at| bytes[at..].starts_with(then)).collect();
    assert!(!places.is_empty(), "the history is text");
    places.into_iter().for_each(|at| bytes[at..at + now.len()].copy_from_slice(now));
    fs::write(&store, bytes).expect("write the store");
}
