//! Following an instance over one request.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use dacapo::limits::Limits;
use serde_json::json;

use super::PREFIXES;
use crate::support::{P3, SentEvent, Server, Setup, eventually};

fn whats(events: &[SentEvent]) -> Vec<String> {
    events.iter().map(SentEvent::what).collect()
}

/// The elements of a history among these.
fn history(events: &[SentEvent]) -> Vec<serde_json::Value> {
    events.iter().filter(|event| event.name == "history").map(|event| event.data.clone()).collect()
}

#[test]
fn a_stream_of_an_ended_instance_is_its_history_and_then_its_status() {
    let server = Server::start();
    server.start_as("a", "Sequence", r#"{"count":2}"#);
    let whole = server.finished("a");
    let mut stream = server.follow("a", "showHistoryOutput=true", None);
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    assert_eq!(stream.headers["cache-control"], "no-store");
    let events: Vec<_> = stream.by_ref().collect();
    assert!(stream.others.iter().any(|line| line.starts_with("retry: ")), "{:?}", stream.others);
    let expected = ["ExecutionStarted", "TaskScheduled", "TaskCompleted", "TaskScheduled", "TaskCompleted"];
    assert_eq!(whats(&events), [&expected[..], &["ExecutionCompleted", "status Completed"]].concat());
    // But for what was asked for and is answered by now, these are the elements of `historyEvents`.
    let told: Vec<_> = history(&events).into_iter().filter(|event| event["EventType"] != "TaskScheduled").collect();
    assert_eq!(json!(told), whole["historyEvents"]);
    let mut status = whole.clone();
    status.as_object_mut().expect("an object").remove("historyEvents");
    assert_eq!(events.last().expect("an event").data, status);
}

#[test]
fn a_stream_shows_no_more_than_it_is_asked_for() {
    let server = Server::start();
    server.start_as("a", "Sequence", r#"{"count":1}"#);
    server.finished("a");
    let check = |query: &str, input: bool, result: bool| {
        let events: Vec<_> = server.follow("a", query, None).collect();
        for event in history(&events) {
            assert_eq!(event.get("Input").is_some(), input && event["EventType"] != "ExecutionCompleted", "{query}: {event}");
            let is_answer = ["TaskCompleted", "ExecutionCompleted"].iter().any(|name| event["EventType"] == *name);
            assert_eq!(event.get("Result").is_some(), result && is_answer, "{query}: {event}");
        }
        assert_eq!(events.last().expect("an event").data["input"].is_null(), !input);
    };
    check("", true, false);
    check("showInput=false", false, false);
    check("showInput=FALSE&showHistoryOutput=True", false, true);
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let server = Server::start();
    server.start_as("a", "Talks", "");
    let mut stream = server.follow("a", "", None);
    assert!(stream.next().expect("a status").what().starts_with("status "), "how it stands comes first");
    let told = stream.until_it_is("TaskCompleted");
    let types: Vec<_> = history(&told).iter().map(|event| event["EventType"].clone()).collect();
    assert_eq!(types, ["ExecutionStarted", "TaskScheduled", "TaskCompleted"]);
    let raised = server.with_header("content-type", "application/json").post(&format!("{P3}/instances/a/raiseEvent/other"), "5");
    assert_eq!(raised.status, 202);
    stream.until_it_is("EventRaised");
    server.with_header("content-type", "application/json").post(&format!("{P3}/instances/a/raiseEvent/done"), "null");
    let rest: Vec<_> = stream.collect();
    let rest: Vec<_> = rest.iter().filter(|event| event.what() != "status Running").cloned().collect();
    assert_eq!(whats(&rest), ["EventRaised", "ExecutionCompleted", "status Completed"]);
}

#[test]
fn a_status_is_told_when_the_custom_status_changes() {
    let server = Server::start();
    server.start_as("a", "Announce", "");
    let mut stream = server.follow("a", "", None);
    stream.until_it_is("status Running");
    server.with_header("content-type", "application/json").post(&format!("{P3}/instances/a/raiseEvent/say"), r#""hot""#);
    let told = stream.until(|event| event.name == "status");
    assert_eq!(whats(&told), ["EventRaised", "status Running"]);
    assert_eq!(told[1].data["customStatus"], "hot");
}

#[test]
fn an_instance_that_continues_as_new_is_told_with_its_new_input() {
    let server = Server::start();
    server.start_as("a", "Till", r#"{"left":2,"taken":[]}"#);
    let mut stream = server.follow("a", "", None);
    stream.until_it_is("status Running");
    server.with_header("content-type", "application/json").post(&format!("{P3}/instances/a/raiseEvent/coin"), "5");
    let told = stream.until(|event| event.name == "status" && event.data["input"]["left"] == 1);
    assert!(!told.is_empty());
}

#[test]
fn a_stream_goes_on_behind_any_of_its_events() {
    let server = Server::start();
    server.start_as("a", "Household", "");
    let mut live = server.follow("a", "", None);
    live.until(|event| event.data["EventType"] == "EventSent");
    server.post(&format!("{P3}/instances/a/terminate?reason=enough"), "");
    assert_eq!(live.last().expect("an event").what(), "status Terminated");
    let whole: Vec<_> = server.follow("a", "", None).collect();
    assert!(whats(&whole).ends_with(&["ExecutionTerminated".into(), "ExecutionCompleted".into(), "status Terminated".into()]));
    let ids: std::collections::BTreeSet<_> = whole.iter().map(|event| &event.id).collect();
    assert_eq!(ids.len(), whole.len(), "each has an ID of its own");
    for (number, event) in whole.iter().enumerate().take(whole.len() - 1) {
        let rest: Vec<_> = server.follow("a", "", Some(&event.id)).collect();
        assert_eq!(rest, whole[number + 1..], "behind {}", event.id);
    }
    let last = server.with_header("accept", "text/event-stream").with_header("last-event-id", &whole[whole.len() - 1].id);
    let reply = last.get(&format!("{P3}/instances/a"));
    assert_eq!((reply.status, reply.text()), (204, ""), "so that nobody comes again");
    for nonsense in ["", "x", "1-2-3", "00-1-", &whole[0].id.replace('-', "--")] {
        assert_eq!(server.follow("a", "", Some(nonsense)).collect::<Vec<_>>(), whole, "{nonsense}");
    }
}

#[test]
fn a_stream_goes_on_after_a_restart_without_gap_or_repetition() {
    let mut server = Server::start();
    server.start_as("a", "Collect", "4");
    let raise = |server: &Server, number: u32| {
        let json = server.with_header("content-type", "application/json");
        assert_eq!(json.post(&format!("{P3}/instances/a/raiseEvent/item"), number.to_string()).status, 202);
    };
    let mut seen = Vec::new();
    let mut last: Option<String> = None;
    for number in 0..4 {
        let mut stream = server.follow("a", "", last.as_deref());
        if number == 0 {
            seen.extend(stream.until_it_is("status Running"));
        }
        raise(&server, number);
        seen.extend(stream.until_it_is("EventRaised"));
        last = seen.last().map(|event| event.id.clone());
        if number % 2 == 0 {
            server.kill();
        } else {
            server.stop();
        }
        server.restart();
    }
    seen.extend(server.follow("a", "", last.as_deref()));
    let whole: Vec<_> = server.follow("a", "", None).collect();
    assert_eq!(history(&seen), history(&whole));
    let statuses: Vec<_> = seen.iter().filter(|event| event.name == "status").map(SentEvent::what).collect();
    assert!(statuses.ends_with(&["status Running".into(), "status Completed".into()]), "{statuses:?}");
    assert!(statuses.len() <= 3, "none comes twice: {statuses:?}");
}

#[test]
fn a_stream_goes_over_to_the_execution_that_an_instance_continues_as() {
    let server = Server::start();
    server.start_as("a", "Till", r#"{"left":2,"taken":[]}"#);
    let mut stream = server.follow("a", "", None);
    let before = stream.until_it_is("status Running");
    let json = server.with_header("content-type", "application/json");
    json.post(&format!("{P3}/instances/a/raiseEvent/coin"), "1");
    let after = stream.until_it_is("ExecutionStarted");
    let generation = |event: &SentEvent| event.id.split('-').next().expect("a part").to_owned();
    let (old, new) = (&before[before.len() - 1], &after[after.len() - 1]);
    assert_ne!(generation(old), generation(new));
    assert_eq!(new.data["Input"], r#"{"left":1,"taken":[1]}"#);
    drop(stream);
    // Who was away meanwhile begins with the present execution.
    let events = server.follow("a", "", Some(&old.id)).until_it_is("ExecutionStarted");
    assert_eq!(generation(&events[events.len() - 1]), generation(new));
    assert_eq!(events[events.len() - 1].data, new.data);
}

#[test]
fn tasks_are_told_with_what_they_were_asked_however_many_are_open() {
    let server = Server::start();
    server.start_as("a", "FanOutTexts", "3000");
    let mut stream = server.follow("a", "showHistoryOutput=true", None);
    let events: Vec<_> = stream.by_ref().collect();
    let mut answered: Vec<_> = history(&events).into_iter().filter(|event| event["EventType"] == "TaskCompleted").collect();
    assert_eq!(answered.len(), 3_000);
    for event in &answered {
        assert_eq!(event["FunctionName"], "EchoText");
        assert_eq!(event["Input"], event["Result"].to_string(), "{event}");
    }
    answered.dedup_by_key(|event| event["Input"].clone());
    assert_eq!(answered.len(), 3_000);
}

#[test]
fn there_is_no_stream_of_what_is_not_there() {
    let server = Server::start();
    let client = server.with_header("accept", "text/event-stream");
    for prefix in PREFIXES {
        for path in ["/instances/a", "/Instances/a%5Cb/", "/instances/a?taskHub=Elsewhere"] {
            let reply = client.get(&format!("{prefix}{path}"));
            assert_eq!((reply.status, reply.text()), (404, ""), "{prefix}{path}");
        }
    }
    assert_eq!(client.get(&format!("{P3}/instances/a?taskHub=x")).status, 400);
    let server = Setup { keys: true, ..Setup::default() }.start();
    server.start_as("a", "Race", "");
    let stranger = crate::support::Client::new(&server.origin).with_header("accept", "text/event-stream");
    let reply = stranger.get(&format!("{P3}/instances/a"));
    assert_eq!((reply.status, reply.text()), (401, ""));
    let events = stranger.stream(&format!("{P3}/instances/a?code={}", server.key("system")));
    assert_eq!(events.last().expect("an event").what(), "status Completed");
}

#[test]
fn every_prefix_has_streams_for_those_who_rather_want_them() {
    let server = Server::start();
    server.start_as("a", "Race", "");
    server.finished("a");
    for prefix in PREFIXES {
        for (accept, is_stream) in [
            ("text/event-stream", true),
            ("Text/Event-Stream;q=0.5, */*;q=0.1", true),
            ("application/json;q=0.2, text/event-stream", true),
            ("application/json, text/event-stream", false),
            ("text/event-stream;q=0, */*", false),
            ("*/*", false),
            ("text/html", false),
        ] {
            let reply = server.with_header("accept", accept).get(&format!("{prefix}/instances/a"));
            let kind = reply.header("content-type").expect("a type");
            assert_eq!((reply.status, kind.starts_with("text/event-stream")), (200, is_stream), "{prefix} {accept}");
        }
    }
}

#[test]
fn a_stream_that_is_left_frees_its_place_at_once() {
    let limits = Limits { event_streams_max: 2, ..Limits::default() };
    let server = Setup::limits(limits).start();
    server.start_as("a", "Forever", "");
    let mut streams: Vec<_> = (0..2).map(|_| server.follow("a", "", None)).collect();
    streams.iter_mut().for_each(|stream| drop(stream.until_it_is("status Running")));
    let client = server.with_header("accept", "text/event-stream");
    let reply = client.get(&format!("{P3}/instances/a"));
    assert_eq!(reply.status, 503, "{reply}");
    assert!(reply.json()["ExceptionMessage"].as_str().expect("text").contains("event_streams_max"), "{reply}");
    assert_eq!(server.metric("dacapo_http_streams_open"), 2.0);
    drop(streams);
    // Long before anything is sent again that would show that nobody is there.
    let freed = crate::support::eventually_within(10, || (server.metric("dacapo_http_streams_open") == 0.0).then_some(()));
    assert!(freed.is_some(), "its place is taken still");
    server.follow("a", "", None).until_it_is("status Running");
}

#[test]
fn a_stream_ends_when_the_server_stops_and_goes_on_with_the_next() {
    let mut server = Server::start();
    server.start_as("a", "Forever", "");
    let mut stream = server.follow("a", "", None);
    let seen = stream.until_it_is("status Running");
    let began = std::time::Instant::now();
    server.stop();
    assert!(began.elapsed() < Duration::from_secs(4), "nobody was cut off");
    assert_eq!(stream.next(), None, "that was the end");
    server.restart();
    let mut stream = server.follow("a", "", Some(&seen[seen.len() - 1].id));
    server.post(&format!("{P3}/instances/a/terminate"), "");
    assert_eq!(whats(&stream.by_ref().collect::<Vec<_>>()).last().expect("an event"), "status Terminated");
}

#[test]
fn clients_that_do_not_read_cost_no_memory() {
    const CLIENTS: u32 = 12;
    let server = Server::start();
    server.start_as("a", "Forever", "");
    let (json, text) = (server.with_header("content-type", "application/json"), format!("{:?}", "x".repeat(32 << 10)));
    for _ in 0..640 {
        assert_eq!(json.post(&format!("{P3}/instances/a/raiseEvent/item"), &text).status, 202);
    }
    let before = server.metric("process_resident_memory_bytes");
    let clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut stream = TcpStream::connect(server.authority()).expect("connect");
            let head =
                format!("GET {P3}/instances/a HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n", server.authority());
            stream.write_all(head.as_bytes()).expect("write a request");
            stream.read_exact(&mut [0; 12]).expect("an answer begins");
            stream
        })
        .collect();
    // The system takes some megabytes for each, and then the server waits for the clients.
    let mut seen = 0.0;
    eventually("an end of the reading", || {
        let now = server.metric("process_cpu_seconds_total");
        let is_idle = now - std::mem::replace(&mut seen, now) < 0.02;
        std::thread::sleep(Duration::from_millis(200));
        is_idle.then_some(())
    });
    assert_eq!(server.metric("dacapo_http_streams_open"), f64::from(CLIENTS));
    let each = (server.metric("process_resident_memory_bytes") - before) / f64::from(CLIENTS);
    assert!(each < 2e6, "{each} bytes for each of them, where the history has 20 MB");
    drop(clients);
}
