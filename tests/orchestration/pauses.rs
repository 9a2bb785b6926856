//! Suspended instances: none of their code runs, nothing that comes for them is lost. And the end of a whole family.

use dacapo::limits::Limits;
use serde_json::json;

use super::{completed, forgetful, of_type, seen, types, until_status};
use crate::support::{Client, P3, Reply, Server, Setup, eventually};

fn tell(client: &Client, id: &str, what: &str) -> Reply {
    client.post(&format!("{P3}/instances/{id}/{what}"), "")
}

#[track_caller]
fn told(client: &Client, id: &str, what: &str) {
    let reply = tell(client, id, what);
    assert_eq!((reply.status, reply.text()), (202, ""), "{what}: {reply}");
}

#[test]
fn what_comes_for_a_suspended_instance_waits_in_order_through_a_kill() {
    let mut server = Server::start();
    server.start_as("a", "Collect", "4");
    server.raise("a", "item", "1");
    until_status(&server, "a", "Running");
    told(&server, "a", "suspend?reason=lunch");
    let status = server.status("a", "");
    assert_eq!((status.status, status.header("retry-after")), (202, Some("5")));
    assert_eq!((&status.json()["runtimeStatus"], &status.json()["output"]), (&json!("Suspended"), &json!("lunch")));
    server.raise("a", "item", "2");
    server.raise("a", "item", "3");
    server.kill();
    server.restart();
    server.raise("a", "item", "4");
    let status = seen(&server, "a");
    assert_eq!((&status["runtimeStatus"], of_type(&status, "EventRaised").len()), (&json!("Suspended"), 4));
    told(&server, "a", "resume?reason=back");
    assert_eq!(completed(&server, "a"), json!([1, 2, 3, 4]));
    let status = seen(&server, "a");
    assert_eq!(of_type(&status, "ExecutionSuspended")[0]["Reason"], "lunch");
    assert_eq!(of_type(&status, "ExecutionResumed")[0]["Reason"], "back");
}

#[test]
fn activities_run_to_their_end_and_timers_fire_while_it_is_suspended() {
    let server = Setup::limits(forgetful()).start();
    server.start_as("sleeper", "Sleeper", "300");
    until_status(&server, "sleeper", "Running");
    told(&server, "sleeper", "suspend");
    let fired = super::until(&server, "sleeper", "TimerFired", 1);
    assert_eq!((&fired["runtimeStatus"], &fired["output"]), (&json!("Suspended"), &json!(null)));
    told(&server, "sleeper", "resume");
    completed(&server, "sleeper");

    // So many that some run for as long as it takes to suspend it.
    server.start_as("worker", "FanOutTexts", "5000");
    until_status(&server, "worker", "Running");
    told(&server, "worker", "suspend");
    let status = super::until(&server, "worker", "TaskCompleted", 5_000);
    assert_eq!(status["runtimeStatus"], "Suspended");
    told(&server, "worker", "resume");
    completed(&server, "worker");
}

#[test]
fn more_than_a_guest_can_hold_comes_to_it_in_several_turns() {
    let server = Server::start();
    server.start_as("a", "Count", "30");
    until_status(&server, "a", "Running");
    told(&server, "a", "suspend");
    let large = format!("\"{}\"", "x".repeat(3 << 20));
    (0..30).for_each(|_| server.raise("a", "item", &large));
    told(&server, "a", "resume");
    assert_eq!(completed(&server, "a"), 30 * (3 << 20));
}

#[test]
fn events_beyond_what_may_lie_unread_are_refused_until_it_has_gone_on() {
    let mut server = Setup::limits(Limits { unread_event_bytes_max: 2_000, ..Limits::default() }).start();
    server.start_as("a", "Collect", "7");
    until_status(&server, "a", "Running");
    told(&server, "a", "suspend");
    // 256 bytes for each, its name and its value.
    let text = "x".repeat(98);
    (0..6).for_each(|_| server.raise("a", "item", &format!("\"{text}\"")));
    let refused = |server: &Server| {
        let json = server.with_header("content-type", "application/json");
        let reply = json.post(&format!("{P3}/instances/a/raiseEvent/item"), "1");
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{reply}");
        let sentence =
            "has 2160 bytes of events that its code has not taken, and gets no more beyond 2000 (limit unread_event_bytes_max)";
        assert!(reply.text().contains(sentence), "{reply}");
    };
    refused(&server);
    server.kill();
    server.restart();
    refused(&server);
    told(&server, "a", "resume");
    eventually("room", || {
        let json = server.with_header("content-type", "application/json");
        (json.post(&format!("{P3}/instances/a/raiseEvent/item"), "2").status == 202).then_some(())
    });
    assert_eq!(completed(&server, "a"), json!([text, text, text, text, text, text, 2]));
}

#[test]
fn it_can_be_suspended_once_and_resumed_once_and_terminated_meanwhile() {
    let server = Server::start();
    for what in ["suspend", "resume"] {
        let nobody = tell(&server, "nobody", what);
        assert_eq!((nobody.status, nobody.text()), (404, ""), "{what}");
    }
    server.start_as("a", "Collect", "1");
    until_status(&server, "a", "Running");
    let running = tell(&server, "a", "resume");
    assert_eq!((running.status, &running.json()["ExceptionType"]), (500, &json!("System.InvalidOperationException")));
    told(&server, "a", "suspend");
    let suspended = tell(&server, "a", "suspend");
    assert_eq!((suspended.status, &suspended.json()["ExceptionType"]), (500, &json!("System.InvalidOperationException")));
    let list = server.get(&format!("{P3}/instances?runtimeStatus=Suspended")).json();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    told(&server, "a", "terminate?reason=enough");
    let status = seen(&server, "a");
    assert_eq!((&status["runtimeStatus"], &status["output"]), (&json!("Terminated"), &json!("enough")));
    for what in ["suspend", "resume"] {
        let ended = tell(&server, "a", what);
        assert_eq!((ended.status, ended.text()), (410, ""), "{what}");
    }
}

#[test]
fn an_instance_that_was_started_for_later_can_be_suspended_before_its_time() {
    let server = Server::start();
    server.start_as("parent", "StartLater", r#"{"id":"later","ms":3600000}"#);
    completed(&server, "parent");
    eventually("the instance", || (server.status("later", "").status != 404).then_some(()));
    told(&server, "later", "suspend?reason=not+yet");
    server.raise("later", "item", "7");
    let status = || server.status("later", "").json()["runtimeStatus"].clone();
    assert_eq!(status(), "Suspended");
    told(&server, "later", "resume");
    assert_eq!(status(), "Pending", "its time has not come");
    told(&server, "later", "terminate");
}

#[test]
fn a_family_is_ended_as_a_whole_if_that_is_asked_for() {
    let server = Server::start();
    let child = json!({"function": "Collect", "input": 1, "id": "child"});
    let parent = json!({"function": "CallChild", "input": child, "id": "parent"});
    let start = || {
        server.start_as("grandparent", "CallChild", &parent.to_string());
        until_status(&server, "child", "Running");
    };
    start();
    told(&server, "grandparent", "terminate?recursive=true&reason=power+cut");
    for id in ["grandparent", "parent", "child"] {
        until_status(&server, id, "Terminated");
        let status = seen(&server, id);
        assert_eq!(status["output"], "power cut", "{id}");
        assert_eq!(types(&status).last(), Some(&"ExecutionCompleted"));
    }
    start();
    told(&server, "grandparent", "terminate");
    assert_eq!(seen(&server, "grandparent")["runtimeStatus"], "Terminated");
    for id in ["parent", "child"] {
        assert_eq!(seen(&server, id)["runtimeStatus"], "Running", "{id} is an instance of its own");
    }
}
