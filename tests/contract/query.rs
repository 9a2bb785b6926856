//! Questions about an instance.

use std::thread;

use super::PREFIXES;
use crate::support::{Client, P3, Reply, Server, Setup, eventually};

/// Asks `id` the question `name`, and checks the code of the error that comes back.
#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str) -> String {
    assert_eq!((reply.status, reply.header("content-type")), (status, Some("application/json; charset=utf-8")), "{reply}");
    let error = &reply.json()["error"];
    assert_eq!(error["code"], code, "{reply}");
    error["message"].as_str().expect("a message is text").to_owned()
}

/// An instance that has run its first turn and waits.
fn waiting(server: &Server, id: &str) {
    server.start_as(id, "Collect", "1");
    eventually("its first turn", || (server.status(id, "").json()["runtimeStatus"] == "Running").then_some(()));
}

#[test]
fn an_instance_that_is_not_there_is_404() {
    let server = Server::start();
    for prefix in PREFIXES {
        for path in ["/instances/a/query/far", "/Instances/a/QUERY/far/?input=1", "/instances/a%5Cb/query/far"] {
            refused(&server.get(&format!("{prefix}{path}")), 404, "not_found");
        }
    }
    refused(&server.get(&format!("{P3}/instances/a/query/far?taskHub=Elsewhere")), 404, "not_found");
}

#[test]
fn a_question_that_an_orchestration_does_not_answer_is_404_and_says_so() {
    let server = Server::start();
    waiting(&server, "a");
    server.start_as("done", "Sequence", r#"{"count":2}"#);
    server.finished("done");
    let before = ["a", "done"].map(|id| server.status(id, "edition=current&showHistory=true&showHistoryOutput=true").body);
    for prefix in PREFIXES {
        for id in ["a", "done"] {
            let reply = server.get(&format!("{prefix}/instances/{id}/query/NobodyAnswersThis?input=%7B%22a%22%3A1%7D"));
            let message = refused(&reply, 404, "unknown_query");
            assert!(message.contains("NobodyAnswersThis"), "{message}");
            assert_eq!(reply.json()["error"]["kind"], "UnknownQuery", "{reply}");
        }
    }
    let after = ["a", "done"].map(|id| server.status(id, "edition=current&showHistory=true&showHistoryOutput=true").body);
    assert_eq!(before, after, "a question leaves no trace");
    server.post(&format!("{P3}/instances/a/terminate"), "");
    refused(&server.get(&format!("{P3}/instances/a/query/far")), 404, "unknown_query");
}

#[test]
fn what_an_instance_says_on_the_way_to_an_answer_is_not_written_again() {
    let server = Server::start();
    server.start_as("a", "Talks", "");
    let lines = || server.get(&format!("{P3}/instances/a/logs")).json()["lines"].as_array().expect("lines").len();
    eventually("three lines", || (lines() == 3).then_some(()));
    refused(&server.get(&format!("{P3}/instances/a/query/far")), 404, "unknown_query");
    assert_eq!(lines(), 3);
}

#[test]
fn an_input_that_is_not_json_is_400() {
    let server = Server::start();
    waiting(&server, "a");
    for input in ["hot", "%7B", "1&input=2", "%FF"] {
        let message = refused(&server.get(&format!("{P3}/instances/a/query/far?input={input}")), 400, "bad_request");
        assert!(message.contains("input is not JSON"), "{message}");
    }
    for wrong in ["taskHub=x", "connection=Elsewhere"] {
        refused(&server.get(&format!("{P3}/instances/a/query/far?{wrong}")), 400, "bad_request");
    }
    for nothing in ["", "input=", "input=+", "input=null"] {
        refused(&server.get(&format!("{P3}/instances/a/query/far?{nothing}")), 404, "unknown_query");
    }
}

#[test]
fn an_instance_none_of_whose_code_can_be_run_again_is_409() {
    let server = Server::start();
    server.start_as("a", "Panic", "");
    server.finished("a");
    let message = refused(&server.get(&format!("{P3}/instances/a/query/far")), 409, "not_run");
    assert_eq!(message, "none of the instance's code has run: it is Failed");
}

#[test]
fn many_questions_at_once_are_all_answered_and_the_instance_goes_on() {
    let server = Server::start();
    waiting(&server, "a");
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| refused(&server.get(&format!("{P3}/instances/a/query/far")), 404, "unknown_query"));
        }
    });
    let raised = server.with_header("content-type", "application/json").post(&format!("{P3}/instances/a/raiseEvent/item"), "5");
    assert_eq!(raised.status, 202, "{raised}");
    assert_eq!(server.finished("a")["output"], serde_json::json!([5]));
}

#[test]
fn the_key_is_that_of_reading() {
    let server = Setup { keys: true, ..Setup::default() }.start();
    server.start_as("a", "Race", "");
    server.finished("a");
    let stranger = Client::new(&server.origin);
    let path = format!("{P3}/instances/a/query/far");
    let reply = stranger.get(&path);
    assert_eq!((reply.status, reply.text()), (401, ""));
    refused(&stranger.get(&format!("{path}?code={}", server.key("system"))), 404, "unknown_query");
}
