//! Retries: each attempt and each wait stands in the history, until the policy has enough.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{completed, history, of_type, types};
use crate::support::Server;

/// A time of the history.
#[track_caller]
fn time(event: &Value, key: &str) -> Timestamp {
    event[key].as_str().unwrap_or_else(|| panic!("no {key} in {event}")).parse().expect("a time")
}

#[test]
fn each_attempt_and_each_wait_stands_in_the_history() {
    let server = Server::start();
    server.start_as("a", "RetryFlaky", r#"[3, {"interval_ms": 20, "attempts": 5, "coefficient": 3.0}]"#);
    let status = server.finished("a");
    let failed_and_waited = ["TaskFailed", "TimerCreated", "TimerFired"];
    let expected = [&["ExecutionStarted"][..], &failed_and_waited, &failed_and_waited, &["TaskCompleted", "ExecutionCompleted"]];
    assert_eq!(types(&status), expected.concat(), "{status}");
    let timers = of_type(&status, "TimerCreated");
    let waits: Vec<_> = timers.iter().map(|it| time(it, "FireAt").duration_since(time(it, "Timestamp")).as_millis()).collect();
    assert_eq!(waits, [20, 60]);
    let attempts: Vec<_> = of_type(&status, "TaskFailed").iter().map(|event| event["Attempt"].clone()).collect();
    assert_eq!(attempts, [Value::Null, json!(2)], "the first is the usual one");
    assert_eq!(of_type(&status, "TaskCompleted")[0]["Attempt"], 3);
    let failures: Vec<_> = of_type(&status, "TaskFailed").iter().map(|event| event["Reason"].clone()).collect();
    assert_eq!(failures, ["attempt 1 is not enough", "attempt 2 is not enough"]);
}

#[test]
fn the_idempotency_key_is_the_same_in_all_attempts_and_another_for_another_call() {
    let server = Server::start();
    let mut keys = BTreeSet::new();
    for id in ["a", "b"] {
        server.start_as(id, "RetryFlaky", r#"[3, {"interval_ms": 1, "attempts": 3}]"#);
        let status = server.finished(id);
        let failed = of_type(&status, "TaskFailed");
        let told = failed.iter().map(|event| event["FailureDetails"]["Properties"]["Details"].clone());
        assert_eq!(told.collect::<Vec<_>>(), [status["output"].clone(), status["output"].clone()]);
        keys.insert(status["output"].as_str().unwrap().to_owned());
    }
    assert_eq!(keys.len(), 2);
}

#[test]
fn the_policy_ends_with_its_attempts_and_the_last_failure() {
    let server = Server::start();
    server.start_as("a", "RetryFlaky", r#"[100, {"interval_ms": 1, "attempts": 4}]"#);
    let status = server.finished("a");
    assert_eq!(status["output"], "Orchestrator function 'RetryFlaky' failed: attempt 4 is not enough");
    assert_eq!((of_type(&status, "TaskFailed").len(), of_type(&status, "TimerFired").len()), (4, 3));
    assert_eq!(
        types(&status).iter().rev().take(2).collect::<Vec<_>>(),
        [&"ExecutionCompleted", &"TaskFailed"],
        "no wait is left over"
    );
}

#[test]
fn the_policy_ends_with_its_time() {
    let server = Server::start();
    server.start_as("a", "RetryFlaky", r#"[100, {"interval_ms": 300, "attempts": 1000, "total_ms": 1000}]"#);
    let status = server.finished("a");
    assert_eq!(status["runtimeStatus"], "Failed");
    let failed = of_type(&status, "TaskFailed");
    // Waits of 300 ms, of which none begins once the time is over: at most four.
    assert!(failed.len() <= 5, "{status}");
    let first = time(failed[0], "ScheduledTime");
    let since_first = |event: &Value| time(event, "Timestamp").duration_since(first).as_millis();
    assert!(of_type(&status, "TimerCreated").into_iter().all(|event| since_first(event) < 1_000), "{status}");
    assert!(since_first(failed[failed.len() - 1]) >= 1_000, "it has not given up before: {status}");
}

#[test]
fn a_wait_is_never_longer_than_the_policy_says() {
    let server = Server::start();
    let policy = r#"{"interval_ms": 10, "attempts": 5, "coefficient": 10.0, "max_interval_ms": 30}"#;
    server.start_as("a", "RetryFlaky", &format!("[5, {policy}]"));
    let status = server.finished("a");
    assert_eq!(status["runtimeStatus"], "Completed", "{status}");
    let timers = of_type(&status, "TimerCreated");
    let waits: Vec<_> = timers.iter().map(|it| time(it, "FireAt").duration_since(time(it, "Timestamp")).as_millis()).collect();
    assert_eq!(waits, [10, 30, 30, 30]);
}

#[test]
fn what_is_of_no_use_to_try_again_is_tried_once() {
    let server = Server::start();
    for (id, is_flagged) in [("by its flag", true), ("by its kind", false)] {
        let id = id.replace(' ', "+");
        server.start_as(&id, "RetryHopeless", &is_flagged.to_string());
        let status = server.finished(&id);
        assert_eq!(types(&status), ["ExecutionStarted", "TaskFailed", "ExecutionCompleted"]);
        assert_eq!(history(&status)[1]["FailureDetails"]["IsNonRetriable"], is_flagged);
    }
}

#[test]
fn each_attempt_at_a_child_is_a_child_of_its_own() {
    let server = Server::start();
    server.start_as("a", "RetryChild", "null");
    let status = server.finished("a");
    let failed = of_type(&status, "SubOrchestrationInstanceFailed");
    let ids: BTreeSet<_> = failed.iter().map(|event| event["InstanceId"].as_str().unwrap()).collect();
    assert_eq!((failed.len(), ids.len(), of_type(&status, "TimerFired").len()), (3, 3, 2), "{status}");
    for (event, id) in failed.iter().map(|event| (event, event["InstanceId"].as_str().unwrap())) {
        assert_eq!(event["Reason"], format!("{id} is not enough"));
        assert_eq!(server.finished(id)["runtimeStatus"], "Failed");
    }
}

#[test]
fn a_child_with_an_id_is_tried_again_under_the_same() {
    let server = Server::start();
    server.start_as("a", "RetryChild", "\"the child\"");
    let status = server.finished("a");
    let failed = of_type(&status, "SubOrchestrationInstanceFailed");
    let reasons: Vec<_> = failed.iter().map(|event| event["Reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["the child is not enough"; 3], "{status}");
}

#[test]
fn each_attempt_has_the_whole_time_that_one_call_may_take() {
    let server = Server::start();
    server.start_as("a", "RetryTimeout", "60");
    let status = server.finished("a");
    let failed = of_type(&status, "TaskFailed");
    assert_eq!(failed.len(), 2, "{status}");
    for event in failed {
        let took = time(event, "Timestamp").duration_since(time(event, "ScheduledTime"));
        assert!(took.as_millis() >= 60, "{event}");
        assert!(event["Reason"].as_str().unwrap().contains("60 ms"), "{event}");
    }
}

#[test]
fn a_retry_goes_on_where_it_was_killed() {
    let mut server = Server::start();
    server.start_as("a", "RetryFlaky", r#"[4, {"interval_ms": 400, "attempts": 4}]"#);
    for attempts in 1..=3 {
        super::until(&server, "a", "TaskFailed", attempts);
        server.kill();
        server.restart();
    }
    completed(&server, "a");
    let status = server.finished("a");
    assert_eq!((of_type(&status, "TaskFailed").len(), of_type(&status, "TimerFired").len()), (3, 3), "{status}");
}
