//! A request that waits for people: answered, passed on, and left alone.

use serde_json::{Value, json};

use crate::support::server::HUB;
use crate::support::{P3, Server, eventually, guests};

const HOUR_MS: u64 = 3_600_000;

/// A server on which the request `oven` has been made: first to Ada, then to Grace, who wait so long.
fn requested(ada_ms: u64, grace_ms: u64) -> Server {
    let server = Server::empty();
    server.upload(HUB, "human-approval", guests::human_approval());
    let approvers = json!([{"name": "Ada", "patience_ms": ada_ms}, {"name": "Grace", "patience_ms": grace_ms}]);
    server.start_as("oven", "HumanApproval", &json!({"what": "a new oven", "approvers": approvers}).to_string());
    server
}

/// Waits until the status says so.
fn says(server: &Server, expected: &str) {
    eventually(expected, || (server.status("oven", "").json()["customStatus"] == expected).then_some(()));
}

fn answer(server: &Server, answer: &Value) {
    let client = server.with_header("content-type", "application/json");
    let reply = client.post(&format!("{P3}/instances/oven/raiseEvent/approve"), answer.to_string());
    assert_eq!(reply.status, 202, "{reply}");
}

/// The history as clients see it: types of events, in their order.
fn events(status: &Value) -> Vec<&str> {
    let events = status["historyEvents"].as_array().expect("it has a history").iter();
    events.map(|event| event["EventType"].as_str().expect("an event has a type")).collect()
}

#[test]
fn an_answer_in_time_is_the_result() {
    let server = requested(HOUR_MS, HOUR_MS);
    says(&server, "waiting for Ada");
    let is_asked = || events(&server.status("oven", "showHistory=true").json()).contains(&"TimerCreated").then_some(());
    eventually("Ada has been asked", is_asked);
    answer(&server, &json!({"approved": false, "by": "Ada"}));
    let status = server.finished("oven");
    assert_eq!(status["output"], json!({"approved": false, "by": "Ada"}));
    assert_eq!(status["customStatus"], "answered");
    assert_eq!(events(&status), ["ExecutionStarted", "TaskCompleted", "TimerCreated", "EventRaised", "ExecutionCompleted"]);
}

#[test]
fn who_does_not_answer_is_passed_over_and_a_silence_is_a_no() {
    let server = requested(20, 20);
    let status = server.finished("oven");
    assert_eq!(status["output"], json!({"approved": false, "by": null}));
    assert_eq!(status["customStatus"], "nobody has answered");
    let asked = ["TaskCompleted", "TimerCreated", "TimerFired"];
    assert_eq!(events(&status), [&["ExecutionStarted"], &asked[..], &asked[..], &["ExecutionCompleted"]].concat());
    let logs = server.get(&format!("{P3}/instances/oven/logs")).json();
    let lines: Vec<&str> = logs["lines"].as_array().expect("lines").iter().filter_map(|line| line["message"].as_str()).collect();
    assert_eq!(
        lines,
        [
            "Dear Ada, may we have a new oven?",
            "Ada has not answered within 20ms",
            "Dear Grace, may we have a new oven?",
            "Grace has not answered within 20ms"
        ]
    );
}

/// Killed while it waits for Ada, while it waits for Grace, and when her answer has just been taken.
#[test]
fn neither_the_wait_nor_the_answer_is_lost_when_the_server_is_killed() {
    let mut server = requested(300, HOUR_MS);
    says(&server, "waiting for Ada");
    for _ in 0..2 {
        server.kill();
        server.restart();
        says(&server, "waiting for Grace");
    }
    answer(&server, &json!({"approved": true, "by": "Grace"}));
    server.kill();
    server.restart();
    let status = server.finished("oven");
    assert_eq!(status["output"], json!({"approved": true, "by": "Grace"}));
    let (ada, grace) = (["TaskCompleted", "TimerCreated", "TimerFired"], ["TaskCompleted", "TimerCreated", "EventRaised"]);
    // Whether Grace answers before or after it is noted that she was asked, is for her to say.
    let mut seen = events(&status);
    let mut expected = [&["ExecutionStarted"], &ada[..], &grace[..], &["ExecutionCompleted"]].concat();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}
