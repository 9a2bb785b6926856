//! A monitor that looks at a job from time to time, as a new execution each time.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::server::HUB;
use crate::support::{P3, Server, eventually, guests};

/// A server with the monitor `a` of a job that starts now and takes so long. It gives up after `patience_ms`.
fn watching(takes_ms: u64, patience_ms: u64) -> Server {
    let server = Server::empty();
    server.upload(HUB, "monitor", guests::monitor());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let now_ms = u64::try_from(now.as_millis()).expect("it is before the year 500,000,000");
    let watch = json!({
        "job": {"started_ms": now_ms, "takes_ms": takes_ms},
        "interval_ms": 20,
        "interval_ms_max": 100,
        "deadline_ms": now_ms + patience_ms,
    });
    server.start_as("a", "Monitor", &watch.to_string());
    server
}

/// What the monitor answers to the query, once it has looked so often.
fn progress(server: &Server, looks: u64) -> Value {
    eventually("progress", || {
        let reply = server.get(&format!("{P3}/instances/a/query/progress"));
        let answer = (reply.status == 200).then(|| reply.json())?;
        (answer["looks"].as_u64()? >= looks).then_some(answer)
    })
}

/// How often it had looked when its last execution began.
fn looks_before(status: &Value) -> u64 {
    let events = status["historyEvents"].as_array().expect("it has a history");
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["EventType"].as_str()).collect();
    assert_eq!(kinds, ["ExecutionStarted", "TaskCompleted", "ExecutionCompleted"], "one look is the whole history: {status}");
    let input: Value = serde_json::from_str(events[0]["Input"].as_str().expect("it has an input")).expect("it is JSON");
    input["seen"]["looks"].as_u64().expect("it hands on what it has seen")
}

#[test]
fn it_looks_until_the_job_is_done() {
    let server = watching(700, 3_600_000);
    let status = server.finished("a");
    let looks = status["output"]["looks"].as_u64().expect("it has looked");
    assert_eq!(status["output"], json!({"percent": 100, "looks": looks}));
    assert_eq!(status["customStatus"], "done");
    // At 0, 20, 60, 140, 240, 340, … milliseconds or later.
    assert!((2..=11).contains(&looks), "{status}");
    assert_eq!(looks_before(&status), looks - 1);
}

#[test]
fn it_gives_up_at_the_deadline() {
    let server = watching(3_600_000, 300);
    let status = server.finished("a");
    assert_eq!((&status["output"]["percent"], &status["customStatus"]), (&json!(0), &json!("given up")));
    let looks = status["output"]["looks"].as_u64().expect("it has looked");
    assert!(looks >= 2, "{status}");
    assert_eq!(looks_before(&status), looks - 1);
}

#[test]
fn it_says_how_far_the_job_is_and_goes_on_after_a_kill() {
    let mut server = watching(6_000, 3_600_000);
    let before = progress(&server, 3);
    assert!(before["percent"].as_u64().is_some_and(|percent| percent < 100), "{before}");
    server.kill();
    server.restart();
    let after = progress(&server, 3);
    assert!(after["looks"].as_u64() >= before["looks"].as_u64(), "{before} {after}");
    let status = server.finished("a");
    assert_eq!((&status["output"]["percent"], &status["customStatus"]), (&json!(100), &json!("done")));
    assert!(status["output"]["looks"].as_u64() > before["looks"].as_u64(), "{before} {status}");
    assert_eq!(progress(&server, 3), status["output"], "it answers after its end too");
}
