//! What can an orchestrator do? All that is promised of it, from outside: each through evictions, kills and restarts.

mod activities;
mod children;
mod continuing;
mod determinism;
mod logs;
mod pauses;
mod queries;
mod retries;
mod rewinds;
mod timers;
pub(crate) mod versions;
mod waiting;

use dacapo::limits::Limits;
use serde_json::Value;

use crate::support::{Client, eventually};

/// Keeps next to nothing in memory: what is not busy is unloaded, and nearly every turn begins with a replay.
fn forgetful() -> Limits {
    Limits { residents_max: 1, idle_instances_max: 0, ..Limits::default() }
}

/// The events of an instance that has a history in its status.
#[track_caller]
fn history(status: &Value) -> &[Value] {
    status["historyEvents"].as_array().unwrap_or_else(|| panic!("no history in {status}"))
}

/// The types of its events.
#[track_caller]
fn types(status: &Value) -> Vec<&str> {
    history(status).iter().map(|event| event["EventType"].as_str().expect("a type is text")).collect()
}

/// Its events of one type.
#[track_caller]
fn of_type<'a>(status: &'a Value, kind: &str) -> Vec<&'a Value> {
    history(status).iter().filter(|event| event["EventType"] == kind).collect()
}

/// How an instance stands now, with all that is known of it.
fn seen(client: &Client, id: &str) -> Value {
    client.status(id, "edition=current&showHistory=true&showHistoryOutput=true").json()
}

/// Waits until an instance is there and stands as `wanted` says, and returns how that is.
fn once(client: &Client, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{what} of {id}"), || {
        let reply = client.status(id, "edition=current&showHistory=true&showHistoryOutput=true");
        // Without a history it is only about to begin.
        let status = (reply.status != 404).then(|| reply.json()).filter(|status| status["historyEvents"].is_array())?;
        wanted(&status).then_some(status)
    })
}

/// Waits until an instance has so many events of a type, and returns how it stands then.
fn until(client: &Client, id: &str, kind: &str, count: usize) -> Value {
    once(client, id, &format!("{count} times {kind}"), |status| of_type(status, kind).len() >= count)
}

/// Waits until an instance is in this state.
fn until_status(client: &Client, id: &str, status: &str) {
    eventually(&format!("{id} is {status}"), || {
        let reply = client.status(id, "edition=current");
        (reply.status != 404 && reply.json()["runtimeStatus"] == status).then_some(())
    });
}

/// The output of an instance that must complete.
#[track_caller]
fn completed(client: &Client, id: &str) -> Value {
    let status = client.finished(id);
    assert_eq!(status["runtimeStatus"], "Completed", "{status}");
    status["output"].clone()
}
