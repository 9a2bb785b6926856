//! Requests that wait: a start for the end of its instance, and a status for a change.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use dacapo::limits::Limits;

use super::PREFIXES;
use crate::support::{Client, P3, Server, Setup, eventually, eventually_within};

#[test]
fn a_result_in_time_is_the_bare_output() {
    let server = Server::start();
    for (function, input, output) in [("Sequence", r#"{"count":3}"#, "[0,1,2]"), ("FanOut", "10", "45"), ("Status", "", "null")] {
        let reply = server.run(function, input);
        assert_eq!((reply.status, reply.text()), (200, output), "{function}");
        assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(reply.header("location"), None);
    }
    let reply = server.post(&format!("{P3}/orchestrators/BigResult?timeout=30&pollingInterval=0.5"), "3");
    assert_eq!((reply.status, reply.text()), (200, r#""xxx""#));
}

#[test]
fn a_failure_in_time_is_the_status_object_with_200_whatever_the_edition() {
    let server = Server::start();
    for function in ["FailActivity", "Panic"] {
        for query in ["", "&returnInternalServerErrorOnFailure=true", "&edition=2018", "&edition=current"] {
            let reply = server.post(&format!("{P3}/orchestrators/{function}?timeout=30{query}"), "");
            assert_eq!(reply.status, 200, "{function}{query}: {reply}");
            assert_eq!(reply.json()["runtimeStatus"], "Failed");
            assert_eq!(reply.keys().len(), 8, "{reply}");
        }
    }
    let reply = server.post(&format!("{P3}/orchestrators/FailActivity?timeout=30&showHistory=true&showInput=false"), "7");
    assert_eq!(reply.keys().len(), 9, "the query says what is shown, as for the status: {reply}");
    assert_eq!(reply.member("input"), "null");
}

#[test]
fn when_the_time_is_up_the_answer_is_that_of_a_start() {
    let server = Server::start();
    for timeout in ["0.05", "0", "-1"] {
        let began = Instant::now();
        let reply = server.post(&format!("{P3}/orchestrators/Forever?timeout={timeout}&pollingInterval=-2"), "");
        assert!(began.elapsed() < Duration::from_secs(10), "{timeout}");
        assert_eq!((reply.status, reply.header("retry-after")), (202, Some("10")), "{timeout}: {reply}");
        assert_eq!(reply.keys().len(), 9, "{reply}");
        assert_eq!(reply.header("location"), reply.json()["statusQueryGetUri"].as_str());
    }
}

#[test]
fn polling_more_slowly_than_the_timeout_is_refused_and_nothing_starts() {
    let server = Server::start();
    let reply = server.post(&format!("{P3}/orchestrators/Race/a?timeout=1&pollingInterval=1.5"), "");
    assert_eq!(reply.status, 400, "{reply}");
    assert!(reply.json()["ExceptionMessage"].as_str().unwrap().contains("pollingInterval"), "{reply}");
    assert_eq!(server.status("a", "").status, 404);
}

#[test]
fn without_a_timeout_that_can_be_read_nobody_waits() {
    let server = Server::start();
    for query in ["pollingInterval=1", "timeout=soon", "timeout=", "timeout=1e9", "timeout=5s&pollingInterval=9"] {
        let reply = server.post(&format!("{P3}/orchestrators/Forever?{query}"), "");
        assert_eq!(reply.status, 202, "{query}: {reply}");
    }
}

#[test]
fn who_waits_is_refused_like_anybody_else() {
    let server = Server::start();
    server.start_as("a", "Forever", "");
    assert_eq!(server.post(&format!("{P3}/orchestrators/Race/a?timeout=1"), "").status, 409);
    assert_eq!(server.post(&format!("{P3}/orchestrators/NobodyHasThis?timeout=1"), "").status, 400);
    assert_eq!(server.post(&format!("{P3}/orchestrators/Race?timeout=1"), "{").status, 400);
}

#[test]
fn who_waits_is_answered_when_the_server_stops() {
    let mut server = Server::start();
    let (client, began) = (server.clone(), Instant::now());
    let waiting = std::thread::spawn(move || client.post(&format!("{P3}/orchestrators/Forever/a?timeout=50"), ""));
    crate::support::eventually("the start", || (server.status("a", "").status == 202).then_some(()));
    server.stop();
    let reply = waiting.join().unwrap();
    assert_eq!(reply.status, 202, "{reply}");
    assert!(began.elapsed() < Duration::from_secs(40));
}

/// Waits until so many requests wait for an instance.
#[track_caller]
fn waiting(server: &Client, count: f64) {
    let waiting = eventually_within(20, || (server.metric("dacapo_http_requests_waiting") == count).then_some(()));
    assert!(waiting.is_some(), "{} requests wait", server.metric("dacapo_http_requests_waiting"));
}

#[test]
fn who_waits_and_goes_frees_its_place_at_once() {
    let server = Server::start();
    server.start_as("a", "Forever", "");
    let host = server.authority();
    for request in [
        format!("POST {P3}/orchestrators/Forever/b?timeout=60 HTTP/1.1\r\nhost: {host}\r\ncontent-length: 2\r\n\r\n{{}}"),
        format!("POST {P3}/orchestrators/Forever/c?timeout=60 HTTP/1.1\r\nhost: {host}\r\n\r\n"),
        format!("GET {P3}/instances/a?wait=60 HTTP/1.1\r\nhost: {host}\r\n\r\n"),
    ] {
        let mut client = TcpStream::connect(host).expect("connect");
        client.write_all(request.as_bytes()).expect("write a request");
        waiting(&server, 1.0);
        drop(client);
        waiting(&server, 0.0);
    }
}

#[test]
fn a_status_that_waits_is_answered_by_the_next_change() {
    let server = Server::start();
    for prefix in PREFIXES {
        let id = server.start("Collect", "1");
        eventually("its first turn", || (server.status(&id, "").json()["runtimeStatus"] == "Running").then_some(()));
        let (client, path) = (server.clone(), format!("{prefix}/instances/{id}?wait=50.5&showHistory=true&edition=current"));
        let asked = thread::spawn(move || client.get(&path));
        waiting(&server, 1.0);
        let json = server.with_header("content-type", "application/json");
        json.post(&format!("{P3}/instances/{id}/raiseEvent/other"), "1");
        assert_eq!(server.metric("dacapo_http_requests_waiting"), 1.0, "the history is no reason to answer");
        json.post(&format!("{P3}/instances/{id}/raiseEvent/item"), "7");
        let reply = asked.join().expect("an answer");
        assert_eq!((reply.status, &reply.json()["output"]), (200, &serde_json::json!([7])), "{reply}");
        assert_eq!(reply.json()["historyEvents"].as_array().map(Vec::len), Some(4), "{reply}");
    }
}

#[test]
fn a_status_that_waits_is_answered_by_a_custom_status_and_by_another_execution() {
    let server = Server::start();
    server.start_as("a", "Till", r#"{"left":3,"taken":[]}"#);
    eventually("its first turn", || (server.status("a", "").json()["runtimeStatus"] == "Running").then_some(()));
    let client = server.clone();
    let asked = thread::spawn(move || client.status("a", "wait=50"));
    waiting(&server, 1.0);
    server.with_header("content-type", "application/json").post(&format!("{P3}/instances/a/raiseEvent/coin"), "1");
    let reply = asked.join().expect("an answer");
    assert_eq!((reply.status, &reply.json()["input"]["left"]), (202, &serde_json::json!(2)), "{reply}");

    server.start_as("b", "Announce", "");
    eventually("its first turn", || (server.status("b", "").json()["runtimeStatus"] == "Running").then_some(()));
    let client = server.clone();
    let asked = thread::spawn(move || client.status("b", "wait=50"));
    waiting(&server, 1.0);
    server.with_header("content-type", "application/json").post(&format!("{P3}/instances/b/raiseEvent/say"), r#""gone""#);
    let reply = asked.join().expect("an answer");
    assert_eq!((reply.status, &reply.json()["customStatus"]), (202, &serde_json::json!("gone")), "{reply}");
}

#[test]
fn a_status_waits_no_longer_than_it_may() {
    let server = Setup::limits(Limits { status_wait_s_max: 1, ..Limits::default() }).start();
    server.start_as("a", "Forever", "");
    server.start_as("done", "Race", "");
    server.finished("done");
    eventually("its first turn", || (server.status("a", "").json()["runtimeStatus"] == "Running").then_some(()));
    let check = |id: &str, wait: &str, at_least_ms: u64, status: u16| {
        let began = Instant::now();
        let reply = server.status(id, &format!("edition=current&wait={wait}"));
        assert_eq!(reply.status, status, "{id} {wait}: {reply}");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(at_least_ms) && took < Duration::from_secs(20), "{id} {wait}: {took:?}");
        reply
    };
    let reply = check("a", "0.3", 300, 202);
    assert_eq!((reply.header("retry-after"), reply.keys().len()), (Some("5"), 8), "{reply}");
    assert!(reply.header("location").is_some_and(|url| url.ends_with("wait=0.3")), "{reply}");
    check("a", "9999", 1_000, 202);
    for at_once in ["0", "-5", "soon", ""] {
        let began = Instant::now();
        check("a", at_once, 0, 202);
        assert!(began.elapsed() < Duration::from_millis(900), "{at_once}");
    }
    let began = Instant::now();
    check("done", "60", 0, 200);
    check("nobody", "60", 0, 404);
    assert!(began.elapsed() < Duration::from_millis(900), "nobody waits for what has ended or is not there");
}

#[test]
fn a_status_that_waits_is_answered_when_the_server_stops() {
    let mut server = Server::start();
    server.start_as("a", "Forever", "");
    eventually("its first turn", || (server.status("a", "").json()["runtimeStatus"] == "Running").then_some(()));
    let (client, began) = (server.clone(), Instant::now());
    let asked = thread::spawn(move || client.status("a", "wait=50"));
    waiting(&server, 1.0);
    server.stop();
    let reply = asked.join().expect("an answer");
    assert_eq!((reply.status, &reply.json()["runtimeStatus"]), (202, &serde_json::json!("Running")), "{reply}");
    assert!(began.elapsed() < Duration::from_secs(40));
}
