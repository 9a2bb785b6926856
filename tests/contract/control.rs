//! Acting on an instance that runs: raising events, ending it, reading what it says.

use serde_json::{Value, json};

use super::PREFIXES;
use crate::support::{Client, P3, Reply, Server, Setup, eventually};
use dacapo::limits::Limits;

/// Raises an event with a JSON body.
fn raise(client: &Client, id: &str, event: &str, body: &str) -> Reply {
    let json = client.with_header("content-type", "application/json; charset=utf-8");
    json.post(&format!("{P3}/instances/{id}/raiseEvent/{event}"), body)
}

fn raised(client: &Client, id: &str, event: &str, body: &str) {
    let reply = raise(client, id, event, body);
    assert_eq!((reply.status, reply.text(), reply.header("content-length")), (202, "", Some("0")), "{event} to {id}");
}

fn terminate(client: &Client, id: &str, query: &str) -> Reply {
    client.post(&format!("{P3}/instances/{id}/terminate?{query}"), "")
}

/// Waits until an instance has so many events that clients see.
fn wait_for_events(client: &Client, id: &str, count: usize) {
    eventually("the events", || {
        let status = client.status(id, "showHistory=true").json();
        (status["historyEvents"].as_array().map_or(0, Vec::len) >= count).then_some(())
    });
}

fn kinds(status: &Value) -> Vec<&str> {
    let events = status["historyEvents"].as_array().expect("a history").iter();
    events.map(|event| event["EventType"].as_str().expect("a kind")).collect()
}

#[test]
fn events_reach_the_orchestrator_in_order_on_every_prefix_whether_it_waits_or_not() {
    let server = Server::start();
    let json = server.with_header("content-type", "APPLICATION/json");
    server.start_as("a", "Collect", "5");
    for (number, prefix) in (1..).zip(PREFIXES) {
        // Names match without case, in the path as in the wait.
        let reply = json.post(&format!("{prefix}/INSTANCES/a/RaiseEvent/{}", ["item", "ITEM"][number % 2]), format!("{number}"));
        assert_eq!((reply.status, reply.text()), (202, ""), "{prefix}: {reply}");
    }
    raised(&server, "a", "nobody+waits+for+this", "null");
    raised(&server, "a", "item", r#"{"last": 1.0}"#);
    let status = server.finished("a");
    assert_eq!(status["output"], json!([1, 2, 3, 4, { "last": 1.0 }]));
    let first = &status["historyEvents"][1];
    assert_eq!((&first["EventType"], &first["Name"], &first["Input"]), (&json!("EventRaised"), &json!("ITEM"), &json!("1")));
}

#[test]
fn an_event_is_refused_for_the_first_of_its_faults() {
    let server = Server::start();
    let plain = server.with_header("content-type", "text/plain");
    let path = |id: &str| format!("{P3}/instances/{id}/raiseEvent/item");
    // No instance, then an ended one, then the content type, then the body.
    let gone = plain.post(&path("nobody"), "{");
    assert_eq!((gone.status, gone.text()), (404, ""));
    assert_eq!(plain.post(&path("@entity"), "{").status, 404);
    server.start_as("ended", "Sequence", r#"{"count":1}"#);
    server.finished("ended");
    let ended = plain.post(&path("ended"), "{");
    assert_eq!((ended.status, ended.text()), (410, ""));
    server.start_as("open", "Collect", "1");
    for client in [&plain, &*server] {
        let reply = client.post(&path("open"), "{");
        assert_eq!((reply.status, reply.keys()), (400, vec!["Message".to_owned()]), "{reply}");
    }
    for body in ["", "  ", "{", "1 2", "\u{0}"] {
        let reply = raise(&server, "open", "item", body);
        assert_eq!(reply.status, 400, "{body:?}: {reply}");
        assert_eq!(reply.json()["Message"], "Invalid JSON content");
    }
    assert_eq!(raise(&server, "open", "", "1").status, 404, "an event has a name");
    raised(&server, "open", "item", "\u{feff}null");
    assert_eq!(server.finished("open")["output"], json!([null]));
}

#[test]
fn an_event_over_the_payload_limit_is_refused() {
    let server = Setup::limits(Limits { payload_bytes_max: 1_000, ..Limits::default() }).start();
    server.start_as("a", "Collect", "1");
    assert_eq!(raise(&server, "a", "item", &format!("\"{}\"", "x".repeat(1_000))).status, 413);
    raised(&server, "a", "item", "1");
}

#[test]
fn acknowledged_events_survive_a_kill_each_of_them_once_and_in_order() {
    let mut server = Server::start();
    server.start_as("a", "Collect", "60");
    for round in 0..3 {
        (0..20).for_each(|number| raised(&server, "a", "item", &(20 * round + number).to_string()));
        server.kill();
        server.restart();
    }
    assert_eq!(server.finished("a")["output"], json!((0..60).collect::<Vec<_>>()));
}

#[test]
fn a_termination_is_the_end_with_its_reason_as_the_output() {
    let server = Server::start();
    let cases = [("", json!(null)), ("reason=", json!("")), ("reason=power%20cut", json!("power cut")), ("REASON=42", json!(42))];
    for (number, (query, output)) in cases.into_iter().enumerate() {
        let id = format!("a-{number}");
        server.start_as(&id, "Collect", "1");
        let reply = terminate(&server, &id, query);
        assert_eq!((reply.status, reply.text()), (202, ""), "{query}");
        let status = server.status(&id, "showHistory=true&showHistoryOutput=true&edition=current");
        assert_eq!(status.status, 200, "a 202 says that it is done: {status}");
        let status = status.json();
        assert_eq!((&status["runtimeStatus"], &status["output"]), (&json!("Terminated"), &output), "{query}");
        assert_eq!(kinds(&status)[1..], ["ExecutionTerminated", "ExecutionCompleted"]);
        assert_eq!(status["historyEvents"][2]["OrchestrationStatus"], "Terminated");
        assert_eq!(server.status(&id, "").status, 400, "as the first editions say");
        assert_eq!(terminate(&server, &id, "").status, 410);
        assert_eq!(raise(&server, &id, "item", "1").status, 410);
    }
    assert_eq!(terminate(&server, "nobody", "").status, 404);
}

#[test]
fn a_termination_is_asked_for_by_post_or_delete_on_every_prefix() {
    let server = Server::start();
    for (number, prefix) in PREFIXES.into_iter().enumerate() {
        for method in ["POST", "DELETE"] {
            let id = format!("{method}-{number}");
            server.start_as(&id, "Collect", "1");
            let reply = server.send(method, &format!("{prefix}/instances/{id}/terminate"), b"");
            assert_eq!(reply.status, 202, "{method} {prefix}: {reply}");
            assert_eq!(server.finished(&id)["runtimeStatus"], "Terminated");
        }
    }
}

#[test]
fn who_waits_for_an_instance_hears_that_it_was_terminated() {
    let server = Server::start();
    let client = server.clone();
    let waiting = std::thread::spawn(move || client.post(&format!("{P3}/orchestrators/Collect/a?timeout=50"), "1"));
    eventually("the start", || (server.status("a", "").status == 202).then_some(()));
    terminate(&server, "a", "reason=enough");
    let reply = waiting.join().unwrap();
    assert_eq!((reply.status, &reply.json()["runtimeStatus"]), (200, &json!("Terminated")), "{reply}");
}

#[test]
fn a_guest_that_loops_is_terminated_without_waiting_for_it() {
    let server = Setup::limits(Limits { turn_cpu_ms_max: 600_000, ..Limits::default() }).start();
    server.start_as("a", "Loop", "");
    assert_eq!(terminate(&server, "a", "reason=loops").status, 202);
    assert_eq!(server.finished("a")["output"], "loops");
    server.start_as("a", "Sequence", r#"{"count":2}"#);
    assert_eq!(server.finished("a")["output"], json!([0, 1]), "its ID is free again");
}

#[test]
fn a_termination_stops_what_runs_for_the_instance() {
    let server = Server::start();
    server.start_as("a", "CallLoopActivity", "");
    wait_for_events(&server, "a", 2);
    assert_eq!(terminate(&server, "a", "").status, 202);
    let status = server.finished("a");
    assert_eq!(kinds(&status), ["ExecutionStarted", "TaskScheduled", "ExecutionTerminated", "ExecutionCompleted"]);
}

#[test]
fn a_timer_fires_when_it_is_due_and_not_before() {
    let server = Server::start();
    for ms in [0, 1, 80] {
        let id = server.start("Sleeper", &ms.to_string());
        let status = server.finished(&id);
        assert_eq!(status["output"], true, "{ms} ms");
        assert_eq!(kinds(&status), ["ExecutionStarted", "TimerCreated", "TimerFired", "ExecutionCompleted"]);
        let times = status["historyEvents"].as_array().unwrap();
        assert_eq!(times[1]["FireAt"], times[2]["FireAt"]);
        assert!(times[2]["Timestamp"].as_str().unwrap() >= times[2]["FireAt"].as_str().unwrap(), "{status}");
    }
}

#[test]
fn a_timer_that_came_due_while_the_server_was_down_fires_at_its_next_start() {
    let mut server = Server::start();
    server.start_as("short", "Sleeper", "300");
    server.start_as("long", "Sleeper", "86400000000");
    wait_for_events(&server, "short", 2);
    wait_for_events(&server, "long", 2);
    server.kill();
    server.restart();
    assert_eq!(server.finished("short")["output"], true);
    assert_eq!(server.status("long", "").json()["runtimeStatus"], "Running");
    assert_eq!(terminate(&server, "long", "").status, 202);
}

#[test]
fn the_loser_of_a_race_between_an_event_and_a_timer_leaves_nothing_behind() {
    let mut server = Server::start();
    for (id, body, output) in [("yes", "true", "approved"), ("no", "false", "denied")] {
        server.start_as(id, "Approval", "86400000");
        raised(&server, id, "approve", body);
        let status = server.finished(id);
        assert_eq!(status["output"], output);
        assert!(!kinds(&status).contains(&"TimerFired"), "{status}");
    }
    let late = server.start("Approval", "20");
    assert_eq!(server.finished(&late)["output"], "timed out");
    server.start_as("open", "Approval", "86400000");
    wait_for_events(&server, "open", 2);
    server.kill();
    server.restart();
    raised(&server, "open", "Approve", "true");
    assert_eq!(server.finished("open")["output"], "approved");
}

#[test]
fn what_an_instance_and_its_activities_say_is_kept_once() {
    let mut server = Server::start();
    let logs = |server: &Server, query: &str| server.get(&format!("{P3}/instances/a/logs?{query}")).json();
    server.start_as("a", "Talks", "");
    let all = eventually("three lines", || {
        let all = logs(&server, "");
        (all["next"] == 3).then_some(all)
    });
    let said: Vec<_> =
        all["lines"].as_array().unwrap().iter().map(|line| [&line["level"], &line["task"], &line["message"]]).collect();
    assert_eq!(
        said,
        [
            [&json!("info"), &json!(null), &json!("first the mixing")],
            [&json!("info"), &json!(0), &json!("the dough")],
            [&json!("warn"), &json!(null), &json!("the oven is at 250 °C")],
        ]
    );
    let keys: Vec<_> = all["lines"][0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["level", "message", "number", "target", "task", "time"]);
    assert_eq!(logs(&server, "after=2")["lines"][0], all["lines"][2]);
    assert_eq!(logs(&server, "after=3"), json!({ "lines": [], "next": 3 }));
    // The guest says all of it again when it is rebuilt; nobody hears it.
    server.kill();
    server.restart();
    raised(&server, "a", "done", "null");
    server.finished("a");
    assert_eq!(logs(&server, ""), all);
    assert_eq!(server.get(&format!("{P3}/instances/nobody/logs")).status, 404);
}

#[test]
fn of_an_instance_that_says_much_the_newest_lines_are_kept() {
    let server = Setup::limits(Limits { log_bytes_max: 2_000, ..Limits::default() }).start();
    server.start_as("a", "Chatter", "200");
    server.finished("a");
    let log = server.get(&format!("{P3}/instances/a/logs")).json();
    let (lines, next) = (log["lines"].as_array().unwrap(), log["next"].as_u64().unwrap());
    assert_eq!(next, 200);
    assert!((5..50).contains(&lines.len()), "{} lines", lines.len());
    assert_eq!(lines.last().unwrap()["message"], "line 199");
    assert_eq!(lines[0]["number"], next - lines.len() as u64);
}
