//! How an instance stands.

use dacapo::limits::Limits;
use serde_json::json;

use super::PREFIXES;
use crate::support::{P3, Server, Setup, eventually, golden};

const KEYS: [&str; 8] =
    ["name", "instanceId", "runtimeStatus", "input", "customStatus", "output", "createdTime", "lastUpdatedTime"];

#[test]
fn a_completed_instance_is_200_with_its_eight_keys_under_every_prefix() {
    let server = Server::start();
    server.start_as("a", "Sequence", r#"{"count":3}"#);
    server.finished("a");
    for prefix in PREFIXES {
        let reply = server.get(&format!("{prefix}/instances/a"));
        assert_eq!((reply.status, reply.header("location"), reply.header("retry-after")), (200, None, None), "{prefix}");
        assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(reply.keys(), KEYS);
        golden::check("status-completed", reply.text(), &[]);
    }
}

#[test]
fn a_running_instance_is_202_and_its_location_is_the_request_with_its_query() {
    let server = Server::start();
    server.start_as("a%20b", "Forever", r#"{"flour": "rye"}"#);
    eventually("the first turn", || (server.status("a+b", "").json()["runtimeStatus"] == "Running").then_some(()));
    for prefix in PREFIXES {
        for query in ["", "?", "?showInput=false&Edition=current&x=%2F+y"] {
            let url = format!("{}{prefix}/Instances/a+b{query}", server.origin);
            let reply = server.get(&url);
            assert_eq!((reply.status, reply.header("retry-after")), (202, Some("5")), "{url}: {reply}");
            assert_eq!(reply.header("location"), Some(url.as_str()));
            assert_eq!(reply.keys(), KEYS);
        }
    }
    golden::check("status-running", server.status("a+b", "").text(), &[]);
}

#[test]
fn an_instance_is_pending_until_its_first_turn_is_recorded_and_has_no_history_yet() {
    // A guest that never gives its thread back, so that its first turn takes all the time it may have, three times.
    let server = Setup::limits(Limits { turn_cpu_ms_max: 400, ..Limits::default() }).start();
    server.start_as("a", "Loop", "1");
    let reply = server.status("a", "showHistory=true");
    assert_eq!((reply.status, reply.json()["runtimeStatus"].as_str()), (202, Some("Pending")), "never 404: {reply}");
    assert_eq!(reply.keys(), KEYS, "{reply}");
    assert_eq!(reply.member("output"), "null");
    server.finished("a");
    assert!(server.status("a", "showHistory=true").keys().contains(&"historyEvents".to_owned()));
}

#[test]
fn the_edition_decides_the_code_of_a_failed_instance() {
    let server = Server::start();
    server.start_as("failed", "FailActivity", "");
    server.start_as("faulted", "Panic", "");
    server.finished("failed");
    server.finished("faulted");
    let code = |prefix: &str, id: &str, query: &str| {
        let reply = server.get(&format!("{prefix}/instances/{id}?{query}"));
        assert_eq!((reply.json()["runtimeStatus"].as_str(), reply.header("location")), (Some("Failed"), None));
        assert_eq!(reply.keys(), KEYS);
        reply.status
    };
    for prefix in &PREFIXES[..3] {
        for (query, failed, faulted) in [
            ("", 400, 500),
            ("edition=2018", 400, 500),
            ("edition=current", 200, 200),
            ("edition=1999", 400, 500),
            ("returnInternalServerErrorOnFailure=true", 500, 500),
            ("returnInternalServerErrorOnFailure=True&edition=current", 500, 500),
            ("RETURNINTERNALSERVERERRORONFAILURE=+TRUE+", 500, 500),
            ("returnInternalServerErrorOnFailure=1", 400, 500),
            ("returnInternalServerErrorOnFailure=false", 400, 500),
        ] {
            assert_eq!((code(prefix, "failed", query), code(prefix, "faulted", query)), (failed, faulted), "{prefix} {query}");
        }
    }
    // The prefix for workers has the newest codes, whatever is asked for.
    assert_eq!((code("/durabletask", "failed", ""), code("/durabletask", "faulted", "edition=2018")), (200, 200));
    assert_eq!(code("/durabletask", "failed", "returnInternalServerErrorOnFailure=true"), 500);
    golden::check("status-failed", server.status("failed", "").text(), &[]);
}

#[test]
fn what_is_not_there_is_404_with_an_empty_body() {
    let server = Server::start();
    for prefix in PREFIXES {
        for id in ["nobody", "@entity@key", "a%23b", &"x".repeat(257)] {
            let reply = server.get(&format!("{prefix}/instances/{id}"));
            assert_eq!((reply.status, reply.text(), reply.header("content-type")), (404, "", None), "{prefix} {id}");
        }
    }
}

#[test]
fn an_input_that_is_not_to_be_shown_is_null() {
    let server = Server::start();
    server.start_as("a", "Race", r#"{"secret":1}"#);
    server.finished("a");
    for (query, input) in [
        ("showInput=false", "null"),
        ("SHOWINPUT=False", "null"),
        ("showInput=true", r#"{"secret":1}"#),
        ("showInput=0", r#"{"secret":1}"#),
        ("showInput", r#"{"secret":1}"#),
    ] {
        assert_eq!(server.status("a", query).member("input"), input, "{query}");
    }
}

#[test]
fn a_custom_status_is_seen_and_stays_after_the_end() {
    let server = Server::start();
    server.start_as("a", "Status", "");
    server.finished("a");
    assert_eq!(server.status("a", "").member("customStatus"), r#"{"baked":3}"#);
    assert_eq!(server.status("a", "").member("output"), "null");
}

#[test]
fn the_times_of_an_instance_stay_and_go_on() {
    let mut server = Server::start();
    server.start_as("a", "Sequence", r#"{"count":2}"#);
    let done = server.finished("a");
    let (created, updated) = (done["createdTime"].as_str().unwrap(), done["lastUpdatedTime"].as_str().unwrap());
    assert!(created <= updated, "{done}");
    server.stop();
    server.restart();
    assert_eq!(server.finished("a"), done, "a restart changes nothing of what is finished");
    assert_eq!(server.get(&format!("{P3}/instances/a?connection=Elsewhere")).status, 400);
    assert_eq!(server.get(&format!("{P3}/instances/a?taskHub=x")).status, 400);
    assert_eq!(done["output"], json!([0, 1]));
}
