//! A failed instance goes on from before its failure: with its failed tasks open again, on mended code, with its children.

use serde_json::{Value, json};

use super::versions::second_edition;
use super::{completed, forgetful, history, of_type, once, seen, types};
use crate::support::server::HUB;
use crate::support::{Client, P3, Reply, Server, Setup};

fn rewind(client: &Client, id: &str, query: &str) -> Reply {
    client.post(&format!("{P3}/instances/{id}/rewind?{query}"), "")
}

#[track_caller]
fn rewound(client: &Client, id: &str, query: &str) {
    let reply = rewind(client, id, query);
    assert_eq!((reply.status, reply.text()), (202, ""), "{reply}");
}

/// Starts an instance on the module that fails, and waits until it has.
fn failed(server: &Server, id: &str, function: &str, input: &str) -> Value {
    server.start_as(id, function, input);
    once(server, id, "the failure", |status| status["runtimeStatus"] == "Failed")
}

#[test]
fn a_failed_activity_runs_again_and_its_failure_is_shown_no_more() {
    let server = Server::start();
    failed(&server, "a", "AllMended", "3");
    server.upload(HUB, "guests", &second_edition());
    rewound(&server, "a", "reason=oven+fixed");
    assert_eq!(completed(&server, "a"), json!([0, 1, 2]));
    let status = seen(&server, "a");
    let expected = [&["ExecutionStarted", "ExecutionRewound"][..], &["TaskCompleted"; 3], &["ExecutionCompleted"]].concat();
    assert_eq!(types(&status), expected, "{status}");
    let event = &history(&status)[1];
    assert_eq!((&event["Reason"], &event["InstanceId"]), (&json!("oven fixed"), &json!("a")));
}

#[test]
fn what_still_fails_fails_again_and_may_be_rewound_again() {
    let server = Server::start();
    failed(&server, "a", "AllMended", "1");
    for round in 1..=3 {
        rewound(&server, "a", "");
        let status = once(&server, "a", "another failure", |status| {
            of_type(status, "ExecutionRewound").len() == round && status["runtimeStatus"] == "Failed"
        });
        assert_eq!(of_type(&status, "TaskFailed").len(), 1, "{status}");
        assert_eq!(status["output"], "Orchestrator function 'AllMended' failed: activity 0 is not mended yet");
    }
    server.upload(HUB, "guests", &second_edition());
    rewound(&server, "a", "");
    assert_eq!(completed(&server, "a"), json!([0]));
}

#[test]
fn timers_and_retries_survive_a_rewind() {
    for limits in [forgetful(), dacapo::limits::Limits::default()] {
        let server = Setup::limits(limits).start();
        let status = failed(&server, "a", "AfterMended", "3");
        let timers = of_type(&status, "TimerFired").len();
        assert_eq!(
            (timers, of_type(&status, "TaskFailed").len()),
            (3, 3),
            "a sleep, and one before each further attempt: {status}"
        );
        server.upload(HUB, "guests", &second_edition());
        rewound(&server, "a", "");
        assert_eq!(completed(&server, "a"), json!([1, 2]));
        let status = seen(&server, "a");
        assert_eq!(of_type(&status, "TimerFired").len(), 4, "{status}");
        assert_eq!(of_type(&status, "TaskFailed").len(), 2, "those that the code tried again after: {status}");
    }
}

#[test]
fn a_mended_orchestrator_goes_on_where_the_broken_one_failed() {
    for (input, kind) in [("false", "Error"), ("true", "Panic")] {
        let server = Server::start();
        let status = failed(&server, "a", "MendedItself", input);
        assert_eq!(history(&status).last().unwrap()["FailureDetails"]["ErrorType"], kind, "{status}");
        rewound(&server, "a", "");
        once(&server, "a", "the same failure", |status| {
            of_type(status, "ExecutionRewound").len() == 1 && status["runtimeStatus"] == "Failed"
        });
        server.upload(HUB, "guests", &second_edition());
        rewound(&server, "a", "");
        assert_eq!(completed(&server, "a"), 3);
    }
}

#[test]
fn a_failure_that_the_code_has_dealt_with_stays_and_only_the_end_is_played_again() {
    let server = Server::start();
    failed(&server, "a", "Compensates", "");
    server.upload(HUB, "guests", &second_edition());
    rewound(&server, "a", "");
    assert_eq!(completed(&server, "a"), "undone");
    let status = seen(&server, "a");
    assert_eq!(types(&status), ["ExecutionStarted", "TaskFailed", "TaskCompleted", "ExecutionRewound", "ExecutionCompleted"]);
}

#[test]
fn failed_children_are_rewound_with_their_parents_through_a_kill() {
    let mut server = Server::start();
    let child = json!({"function": "AllMended", "input": 2, "id": "child"});
    let parent = json!({"function": "CallChild", "input": child, "id": "parent"});
    failed(&server, "grandparent", "CallChild", &parent.to_string());
    server.upload(HUB, "guests", &second_edition());
    rewound(&server, "grandparent", "reason=again");
    server.kill();
    server.restart();
    assert_eq!(completed(&server, "grandparent"), json!([0, 1]));
    for id in ["parent", "child"] {
        let status = seen(&server, id);
        assert_eq!(of_type(&status, "ExecutionRewound")[0]["Reason"], "again", "{status}");
        assert_eq!(completed(&server, id), json!([0, 1]));
    }
}

#[test]
fn a_child_that_has_come_to_its_end_meanwhile_answers_at_once() {
    let server = Server::start();
    let child = json!({"function": "AllMended", "input": 1, "id": "child"});
    failed(&server, "parent", "CallChild", &child.to_string());
    server.upload(HUB, "guests", &second_edition());
    rewound(&server, "child", "");
    assert_eq!(completed(&server, "child"), json!([0]));
    assert_eq!(seen(&server, "parent")["runtimeStatus"], "Failed", "nobody has told the parent to go on");
    rewound(&server, "parent", "");
    assert_eq!(completed(&server, "parent"), json!([0]));
}

#[test]
fn a_child_whose_place_another_has_taken_fails_the_task() {
    let server = Server::start();
    let child = json!({"function": "AllMended", "input": 1, "id": "child"});
    failed(&server, "parent", "CallChild", &child.to_string());
    server.start_as("child", "Collect", "1");
    rewound(&server, "parent", "");
    let status = once(&server, "parent", "another failure", |status| {
        of_type(status, "ExecutionRewound").len() == 1 && status["runtimeStatus"] == "Failed"
    });
    let details = &history(&status).last().unwrap()["FailureDetails"];
    assert_eq!(details["ErrorType"], "ChildGone", "{status}");
}

#[test]
fn only_what_has_failed_can_be_rewound() {
    let server = Server::start();
    let nobody = rewind(&server, "nobody", "");
    assert_eq!((nobody.status, nobody.text()), (404, ""));
    server.start_as("open", "Collect", "1");
    let open = rewind(&server, "open", "");
    assert_eq!(open.status, 412, "{open}");
    assert!(open.json().as_str().is_some_and(|text| text.contains("open")), "a text for people: {open}");
    assert_eq!(server.post(&format!("{P3}/instances/open/suspend"), "").status, 202);
    assert_eq!(rewind(&server, "open", "").status, 412);
    assert_eq!(server.post(&format!("{P3}/instances/open/terminate"), "").status, 202);
    let terminated = rewind(&server, "open", "");
    assert_eq!((terminated.status, terminated.text()), (410, ""));
    server.start_as("done", "Sequence", r#"{"count":1}"#);
    completed(&server, "done");
    assert_eq!(rewind(&server, "done", "").status, 410);
}

#[test]
fn a_rewind_does_not_wait_for_code_that_is_gone() {
    let server = Server::start();
    failed(&server, "a", "AllMended", "1");
    let path = format!("/admin/modules/guests?taskHub={HUB}");
    let deleted = server.send("DELETE", &path, b"");
    assert!(deleted.status < 300, "{deleted}");
    let reply = rewind(&server, "a", "");
    assert_eq!(reply.status, 412, "{reply}");
    assert!(reply.json().as_str().is_some_and(|text| text.contains("deleted")), "{reply}");
    server.upload(HUB, "guests", &second_edition());
    rewound(&server, "a", "");
    assert_eq!(completed(&server, "a"), json!([0]));
}

#[test]
fn a_rewind_that_nothing_agrees_with_changes_nothing() {
    let server = Server::start();
    // It has dealt with the failure of its activity, and then never comes to an end of its turn.
    let status = failed(&server, "a", "CompensatesForEver", "");
    let details = &history(&status).last().unwrap()["FailureDetails"];
    assert_eq!(details["ErrorType"], "LimitExceeded", "{status}");
    rewound(&server, "a", "");
    let status = once(&server, "a", "the same failure", |status| {
        of_type(status, "ExecutionRewound").len() == 1 && status["runtimeStatus"] == "Failed"
    });
    assert_eq!(history(&status).last().unwrap()["FailureDetails"]["ErrorType"], "LimitExceeded", "{status}");
    server.upload(HUB, "guests", &second_edition());
    rewound(&server, "a", "");
    assert_eq!(completed(&server, "a"), "undone");
}

#[test]
fn a_child_that_could_not_be_started_is_started_by_the_rewind() {
    let server = Server::start();
    let child = json!({"function": "E1_HelloSequence", "input": null, "id": "child"});
    failed(&server, "parent", "CallChild", &child.to_string());
    server.upload(HUB, "hello", crate::support::guests::hello_sequence());
    rewound(&server, "parent", "");
    assert_eq!(completed(&server, "parent"), json!(["Hello Tokyo!", "Hello Seattle!", "Hello London!"]));
}
