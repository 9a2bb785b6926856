//! Can a guest or an upload harm the server, or another instance? Each is contained, and told what it did.

mod answers;
mod uploads;

use dacapo::limits::Limits;
use serde_json::{Value, json};

use crate::support::server::HUB;
use crate::support::{Client, P3, Server, Service, Setup, eventually, guests};

#[track_caller]
fn assert_parts(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// Runs an orchestrator that must fail, and returns its failure as the history shows it.
#[track_caller]
fn failure(server: &Server, function: &str, input: &str) -> Value {
    let id = server.start(function, input);
    let status = server.finished(&id);
    assert_eq!(status["runtimeStatus"], "Failed", "{status}");
    let last = status["historyEvents"].as_array().expect("it has a history").last().expect("it has an end").clone();
    let message = last["FailureDetails"]["ErrorMessage"].as_str().expect("text");
    assert_eq!(status["output"], format!("Orchestrator function '{function}' failed: {message}"));
    last["FailureDetails"].clone()
}

fn quick_limits() -> Limits {
    Limits { turn_cpu_ms_max: 100, activity_ms_max: 1_000, tasks_max: 50, ..Limits::default() }
}

#[test]
fn a_loop_is_failed_by_its_bound_while_others_go_on() {
    let server = Setup::limits(quick_limits()).start();
    let loops: Vec<_> = (0..3).map(|_| server.start("Loop", "")).collect();
    assert_eq!(server.output("Sequence", r#"{"count":20}"#).as_array().unwrap().len(), 20);
    for id in loops {
        let status = server.finished(&id);
        assert_parts(status["output"].as_str().unwrap(), &["turn_cpu_ms_max", "100 ms"]);
        assert_eq!(server.status(&id, "").status, 500);
    }
}

#[test]
fn a_hundred_loops_of_one_module_leave_turns_to_others() {
    let server = Setup::limits(Limits { turn_cpu_ms_max: 3_600_000, ..Limits::default() }).start();
    server.upload(HUB, "hello", guests::hello_sequence());
    let loops: Vec<_> = (0..100).map(|_| server.start("Loop", "")).collect();
    // No bound will end any of them while this runs.
    for _ in 0..3 {
        let id = server.start("E1_HelloSequence", "");
        assert_eq!(server.finished(&id)["runtimeStatus"], "Completed");
    }
    for id in loops {
        let terminated = server.post(&format!("{P3}/instances/{id}/terminate"), "");
        assert_eq!(terminated.status, 202, "{terminated:?}");
    }
}

#[test]
fn a_panic_is_failed_at_once_with_message_and_place() {
    let server = Server::start();
    let failure = failure(&server, "Panic", "");
    assert_eq!(failure["ErrorType"], "Panic");
    assert_parts(failure["ErrorMessage"].as_str().unwrap(), &["the oven is cold", "hostile.rs:"]);
    assert_parts(failure["StackTrace"].as_str().unwrap(), &["hostile.rs:"]);
    let id = server.start("Panic", "");
    server.finished(&id);
    assert_eq!(server.status(&id, "").status, 500);
}

#[test]
fn growing_without_end_is_failed_by_the_bound_of_memory() {
    let server = Setup::limits(quick_limits()).start();
    let failure = failure(&server, "Grow", "");
    assert_parts(failure["ErrorMessage"].as_str().unwrap(), &["guest_memory_bytes_max", &(64 << 20).to_string()]);
    assert_eq!(server.output("Sequence", r#"{"count":3}"#), json!([0, 1, 2]));
}

#[test]
fn recursing_without_end_is_failed_by_its_stack() {
    let server = Server::start();
    assert_parts(failure(&server, "Recurse", "")["ErrorMessage"].as_str().unwrap(), &["recursed too deep"]);
    assert_eq!(server.output("Sequence", r#"{"count":3}"#), json!([0, 1, 2]));
}

#[test]
fn an_orchestrator_has_no_files_and_is_told_so() {
    let server = Server::start();
    let reply = server.run("ReadFile", "");
    assert_eq!(reply.status, 200, "{reply}");
    assert!(reply.json().is_string(), "it gets an error that it can handle: {reply}");
}

#[test]
fn too_many_tasks_are_failed_by_their_bound() {
    let server = Setup::limits(quick_limits()).start();
    assert_eq!(server.output("FanOut", "50"), 50 * 49 / 2);
    assert_parts(failure(&server, "FanOut", "51")["ErrorMessage"].as_str().unwrap(), &["tasks_max", "50"]);
    assert_parts(failure(&server, "ManyActions", "100")["ErrorMessage"].as_str().unwrap(), &["tasks_max", "50"]);
    assert_parts(failure(&server, "Sequence", r#"{"count":51}"#)["ErrorMessage"].as_str().unwrap(), &["tasks_max", "50"]);
}

#[test]
fn too_long_a_history_is_failed_by_its_bound() {
    let server = Setup::limits(Limits { history_events_max: 30, ..Limits::default() }).start();
    assert_eq!(server.output("Sequence", r#"{"count":5}"#), json!([0, 1, 2, 3, 4]));
    assert_parts(
        failure(&server, "Sequence", r#"{"count":30}"#)["ErrorMessage"].as_str().unwrap(),
        &["history_events_max", "30"],
    );
}

#[test]
fn dropped_tasks_are_cancelled_and_do_no_harm() {
    let server = Server::start();
    assert_eq!(server.output("ManyActions", "500"), 500);
}

#[test]
fn a_result_over_the_limit_is_failed_by_it() {
    let server = Setup::limits(Limits { payload_bytes_max: 1_000, ..Limits::default() }).start();
    assert_eq!(server.output("BigResult", "998").as_str().unwrap().len(), 998);
    assert_parts(failure(&server, "BigResult", "999")["ErrorMessage"].as_str().unwrap(), &["payload_bytes_max", "1001", "1000"]);
}

#[test]
fn what_is_handed_over_above_the_limit_is_an_error_that_can_be_handled() {
    let server = Setup::limits(Limits { payload_bytes_max: 1_000, ..Limits::default() }).start();
    assert_eq!(server.output("AskTooMuch", "1001"), json!(vec!["LimitExceeded"; 5]));
    let kinds = server.output("AskTooMuch", "900");
    assert!(!kinds.to_string().contains("LimitExceeded"), "{kinds}");
}

#[test]
fn an_input_that_cannot_be_read_fails_the_instance() {
    let server = Server::start();
    let failure = failure(&server, "Sequence", r#"{"length":1}"#);
    assert_eq!((&failure["ErrorType"], &failure["IsNonRetriable"]), (&json!("InvalidInput"), &json!(true)));
    assert_parts(failure["ErrorMessage"].as_str().unwrap(), &["Sequence", "count"]);
}

#[test]
fn an_activity_that_panics_fails_its_task() {
    let server = Server::start();
    let id = server.start("CallPanicActivity", "");
    let status = server.finished(&id);
    assert_parts(status["output"].as_str().unwrap(), &["the oven is on fire"]);
    assert_eq!(status["historyEvents"][1]["EventType"], "TaskFailed");
    assert_eq!(server.status(&id, "").status, 400, "the orchestrator itself has returned an error");
}

#[test]
fn an_activity_that_never_comes_back_fails_its_task_by_its_bound() {
    let server = Setup::limits(quick_limits()).start();
    let ids: Vec<_> = (0..3).map(|_| server.start("CallLoopActivity", "")).collect();
    assert_eq!(server.output("Sequence", r#"{"count":5}"#), json!([0, 1, 2, 3, 4]));
    for id in ids {
        let status = server.finished(&id);
        assert_parts(status["output"].as_str().unwrap(), &["activity_ms_max"]);
        assert_eq!(status["historyEvents"][1]["EventType"], "TaskFailed");
    }
}

#[test]
fn an_activity_that_nobody_has_fails_its_task() {
    let server = Server::start();
    assert_parts(failure(&server, "UnknownActivity", "")["ErrorMessage"].as_str().unwrap(), &["NobodyHasThis"]);
}

#[test]
fn a_failure_that_is_caught_does_not_fail_the_instance() {
    let server = Server::start();
    assert_eq!(server.output("CatchFailure", ""), json!(["OvenCold", "the oven is cold"]));
}

/// The most memory that the server has had at once, in bytes.
fn peak_bytes(server: &Server) -> u64 {
    memory_bytes(server, "VmHWM:")
}

/// How much memory it has now, in bytes.
fn resident_bytes(server: &Server) -> u64 {
    memory_bytes(server, "VmRSS:")
}

fn memory_bytes(server: &Server, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process_id())).expect("read about the server");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel counts it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Without bounds each of these takes hundreds of megabytes, or gigabytes, of the server's own memory.
#[test]
fn an_activity_cannot_fill_the_hosts_memory_with_what_the_host_keeps_for_it() {
    let mut server = Server::start();
    server.output("CallHoard", r#"["fields", 1, 1]"#);
    let before = peak_bytes(&server);
    for (what, taken) in [
        (r#"["fields", 900, 16000]"#, 900),
        (r#"["authority", 900, 4000000]"#, 0),
        (r#"["authority", 10, 10000]"#, 10),
        (r#"["method", 900, 4000000]"#, 0),
        (r#"["method", 10, 10000]"#, 10),
    ] {
        assert_eq!(server.output("CallHoard", what), taken, "{what}");
    }
    for (what, part) in [
        (r#"["fields", 4000, 16000]"#, "1000 things of the host"),
        (r#"["fields", 4000, 120000]"#, "header fields of more than 16384 bytes"),
    ] {
        let failure = failure(&server, "CallHoard", what);
        assert_eq!(failure["ErrorType"], "LimitExceeded", "{failure}");
        assert_parts(failure["ErrorMessage"].as_str().unwrap(), &[part]);
    }
    let grown = peak_bytes(&server) - before;
    assert!(grown < 100 << 20, "the server has grown by {grown} bytes");
    assert!(server.is_alive());
}

#[test]
fn an_orchestrator_cannot_hold_more_things_of_the_host_than_its_bound() {
    let server = Server::start();
    let failure = failure(&server, "HoardStreams", "1100");
    assert_eq!(failure["ErrorType"], "LimitExceeded", "{failure}");
    assert_parts(failure["ErrorMessage"].as_str().unwrap(), &["1000 things of the host"]);
    let id = server.start("HoardStreams", "900");
    server.raise(&id, "go", "null");
    assert_eq!(server.finished(&id)["runtimeStatus"], "Completed");
}

#[test]
fn the_connections_of_guests_leave_the_server_its_own() {
    const WIDTH: u32 = 240;
    let service = Service::holding();
    let server = Setup { configuration: service.allowed(), shell: "ulimit -n 220", ..Setup::default() }.start();
    let id = server.start("FetchMany", &json!([service.url(""), WIDTH, 0]).to_string());
    eventually("all activities", || (server.metric("dacapo_activities_running") == f64::from(WIDTH)).then_some(()));
    // Half of what the server does not need itself.
    eventually("as many connections as there may be", || (service.waiting().len() == 46).then_some(()));
    for _ in 0..20 {
        let other = Client::new(&server.origin);
        assert_eq!(other.get("/healthz").status, 200);
    }
    service.release();
    assert_eq!(server.finished(&id)["output"], WIDTH);
    assert_eq!(service.waiting_max(), 46);
}

#[test]
fn a_hostile_crowd_leaves_the_server_as_it_was() {
    let mut server = Setup::limits(quick_limits()).start();
    let mut ids = Vec::new();
    for _ in 0..3 {
        for function in ["Loop", "Panic", "Grow", "Recurse", "CallPanicActivity", "CallLoopActivity", "FailActivity"] {
            ids.push(server.start(function, ""));
        }
    }
    let good: Vec<_> = (0..20).map(|count| server.start("FanOut", &count.to_string())).collect();
    for (count, id) in (0..20_u64).zip(&good) {
        assert_eq!(server.finished(id)["output"], count * count.saturating_sub(1) / 2);
    }
    for id in &ids {
        assert_eq!(server.finished(id)["runtimeStatus"], "Failed");
    }
    assert!(server.is_alive());
}
