//! What an instance waits for.

use serde_json::{Value, json};

use super::PREFIXES;
use crate::support::{P3, Server, Setup, eventually};

/// What an instance waits for, once that is `condition`.
#[track_caller]
fn why(server: &Server, id: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let ask = || {
        let reply = server.get(&format!("{P3}/instances/{id}/why"));
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json; charset=utf-8")), "{reply}");
        let why = reply.json();
        condition(&why).then_some(why)
    };
    eventually(what, ask)
}

fn raise(server: &Server, id: &str, name: &str) {
    let json = server.with_header("content-type", "application/json");
    assert_eq!(json.post(&format!("{P3}/instances/{id}/raiseEvent/{name}"), "1").status, 202);
}

#[test]
fn what_is_not_there_is_404_with_an_empty_body() {
    let server = Server::start();
    for prefix in PREFIXES {
        for path in ["/instances/a/why", "/Instances/a%5Cb/WHY/", "/instances/a/why?taskHub=Elsewhere"] {
            let reply = server.get(&format!("{prefix}{path}"));
            assert_eq!((reply.status, reply.text()), (404, ""), "{prefix}{path}");
        }
    }
}

#[test]
fn an_event_that_nobody_waits_for_is_told_with_the_one_that_may_be_meant() {
    let server = Server::start();
    server.start_as("a", "Approval", "600000");
    raise(&server, "a", "Aprove");
    raise(&server, "a", "other");
    let why = why(&server, "a", "two unread events", |why| why["unreadEvents"].as_array().is_some_and(|all| all.len() == 2));
    assert_eq!((&why["runtimeStatus"], &why["name"], &why["instanceId"]), (&json!("Running"), &json!("Approval"), &json!("a")));
    assert_eq!(why["open"], json!({"activities": 0, "httpRequests": 0, "timers": 1, "events": 1, "subOrchestrations": 0}));
    let kinds: Vec<_> =
        why["tasks"].as_array().expect("a list").iter().map(|task| task["kind"].as_str().expect("text")).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "timer").count(), 1, "{why}");
    let event = why["tasks"].as_array().expect("a list").iter().find(|task| task["kind"] == "event").expect("an event");
    assert_eq!(event["name"], "approve");
    assert!(event["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{why}");
    let [first, second] = &why["unreadEvents"].as_array().expect("a list")[..] else { panic!("{why}") };
    assert_eq!((&first["name"], &first["count"]), (&json!("Aprove"), &json!(1)));
    assert!(first["hint"].as_str().is_some_and(|hint| hint.contains("did you mean \"approve\"?")), "{why}");
    assert_eq!((&second["name"], second.get("hint")), (&json!("other"), None), "{why}");
    let summary = why["summary"].as_str().expect("text");
    assert!(summary.starts_with("It waits for event \"approve\" and a timer that is due at 2"), "{summary}");
    assert!(summary.ends_with("did you mean \"approve\"?"), "{summary}");
    raise(&server, "a", "APPROVE");
    server.get(&format!("{P3}/instances/a?wait=30"));
}

#[test]
fn activities_in_line_say_behind_which_bound() {
    let configuration = "[hubs.DurableFunctionsHub.limits]\nfunctions.LoopActivity.running_max = 1\n".to_owned();
    let server = Setup { configuration, ..Setup::default() }.start();
    server.start_as("first", "CallLoopActivity", "");
    let running = |why: &Value| why["tasks"][0]["state"] == "running";
    let first = why(&server, "first", "an activity that runs", running);
    assert_eq!((&first["tasks"][0]["kind"], &first["tasks"][0]["attempt"]), (&json!("activity"), &json!(1)), "{first}");
    server.start_as("second", "CallLoopActivity", "");
    let second = why(&server, "second", "an activity in line", |why| why["tasks"][0]["state"] == "queued");
    assert_eq!(second["tasks"][0]["behind"], "function", "{second}");
    let summary = second["summary"].as_str().expect("text");
    assert!(summary.ends_with("which stands in line behind the limit of its function."), "{summary}");
    for id in ["first", "second"] {
        assert_eq!(server.post(&format!("{P3}/instances/{id}/terminate"), "").status, 202);
        let why = why(&server, id, "its end", |why| why["runtimeStatus"] == "Terminated");
        assert_eq!((&why["summary"], &why["tasks"]), (&json!("It has ended as Terminated."), &json!([])));
    }
}

#[test]
fn children_are_told_with_how_they_stand() {
    let server = Server::start();
    server.start_as("parent", "CallChild", r#"{"function":"Collect","input":1,"id":"child"}"#);
    let waiting = why(&server, "parent", "a child that runs", |why| why["children"][0]["runtimeStatus"] == "Running");
    assert_eq!(waiting["open"]["subOrchestrations"], 1);
    assert_eq!(waiting["tasks"][0]["instanceId"], "child", "{waiting}");
    assert_eq!(waiting["summary"], r#"It waits for sub-orchestration "Collect" (child)."#);
    server.post(&format!("{P3}/instances/child/terminate?reason=enough"), "");
    let failed = why(&server, "parent", "its end", |why| why["runtimeStatus"] == "Failed");
    let child = &failed["children"][0];
    assert_eq!((&child["instanceId"], &child["runtimeStatus"]), (&json!("child"), &json!("Terminated")), "{failed}");
    assert!(child["failure"].as_str().is_some_and(|why| why.contains("enough")), "{failed}");
}

#[test]
fn an_instance_that_is_to_begin_later_says_when() {
    let server = Server::start();
    server.start_as("a", "StartLater", r#"{"id":"later","ms":600000}"#);
    server.finished("a");
    eventually("the later one", || (server.status("later", "").status == 202).then_some(()));
    let why = why(&server, "later", "a time", |why| why["notBefore"].is_string());
    assert_eq!(why["runtimeStatus"], "Pending");
    let expected = format!("It is to begin at {}.", why["notBefore"].as_str().expect("text"));
    assert_eq!(why["summary"], expected);
}

#[test]
fn of_many_open_tasks_a_hundred_are_told_and_all_are_counted() {
    let server = Server::start();
    server.start_as("a", "FanOut", "10000");
    let reply = server.get(&format!("{P3}/instances/a/why"));
    assert!(reply.body.len() < 100_000, "{} bytes", reply.body.len());
    let why = reply.json();
    let counted = why["open"]["activities"].as_u64().expect("a number");
    assert_eq!(why["tasks"].as_array().expect("a list").len() as u64, counted.min(100));
    server.finished("a");
}
