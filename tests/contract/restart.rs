//! Restarting: the same again, as an instance of its own or in the same place.

use serde_json::{Value, json};

use super::PREFIXES;
use crate::support::{Client, P3, Reply, Server, eventually};

fn restart(client: &Client, id: &str, query: &str) -> Reply {
    client.post(&format!("{P3}/instances/{id}/restart?{query}"), "")
}

/// The ID of what was started.
fn started(reply: &Reply) -> String {
    assert_eq!((reply.status, reply.header("retry-after"), reply.keys().len()), (202, Some("10"), 9), "{reply}");
    let body = reply.json();
    assert_eq!(reply.header("location"), body["statusQueryGetUri"].as_str());
    body["id"].as_str().expect("an ID").to_owned()
}

/// That a request was refused with this code and the long form, whose parts are returned.
fn refused(reply: &Reply, code: u16) -> [String; 2] {
    assert_eq!(
        (reply.status, reply.keys()),
        (code, ["Message", "ExceptionMessage", "ExceptionType", "StackTrace"].map(str::to_owned).to_vec()),
        "{reply}"
    );
    let body = reply.json();
    ["Message", "ExceptionMessage"].map(|key| body[key].as_str().expect("a text").to_owned())
}

const UNKNOWN: &str = "InstanceId does not match a valid orchestration instance.";

#[test]
fn the_same_runs_again_under_a_new_id_on_every_prefix() {
    let server = Server::start();
    let reply = server.post(&format!("{P3}/orchestrators/sEQUENCE/a?tag.shop=north"), r#"{"count": 2}"#);
    assert_eq!(reply.status, 202);
    let first = server.finished("a");
    for (number, prefix) in PREFIXES.into_iter().enumerate() {
        let query =
            ["", "?restartWithNewInstanceId=true", "?RestartWithNewInstanceId=True", "?restartWithNewInstanceId=1"][number];
        let id = started(&server.post(&format!("{prefix}/Instances/a/ReStart{query}"), ""));
        assert!(id.len() == 32 && id != "a", "{id}");
        let again = server.finished(&id);
        assert_eq!((&again["name"], &again["output"]), (&json!("sEQUENCE"), &json!([0, 1])));
        assert_eq!(server.status(&id, "").member("input"), r#"{"count": 2}"#);
    }
    assert_eq!(server.finished("a"), first, "it is as it was");
    let north = server.get(&format!("{P3}/instances?tag.shop=north")).json();
    assert_eq!(north.as_array().map(Vec::len), Some(5), "{north}");
}

#[test]
fn an_instance_that_goes_on_can_be_restarted_under_a_new_id_only() {
    let server = Server::start();
    server.start_as("a", "Collect", "1");
    let id = started(&restart(&server, "a", ""));
    let [_, why] = refused(&restart(&server, "a", "restartWithNewInstanceId=false"), 409);
    assert!(why.contains("instance a exists already and is "), "{why}");
    for id in ["a", &id] {
        assert_eq!(server.status(id, "").status, 202);
        server.raise(id, "item", "7");
        assert_eq!(server.finished(id)["output"], json!([7]));
    }
}

#[test]
fn an_ended_instance_can_be_restarted_in_its_place() {
    let server = Server::start();
    server.start_as("a", "Collect", "1");
    server.post(&format!("{P3}/instances/a/terminate?reason=enough"), "");
    assert_eq!(started(&restart(&server, "a", "restartWithNewInstanceId=False")), "a");
    server.raise("a", "item", "1");
    let status = server.finished("a");
    assert_eq!((&status["runtimeStatus"], &status["output"]), (&json!("Completed"), &json!([1])));
    let list = server.get(&format!("{P3}/instances")).json();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
}

#[test]
fn a_restart_waits_for_the_end_as_a_start_does() {
    let server = Server::start();
    server.start_as("a", "Sequence", r#"{"count":2}"#);
    server.finished("a");
    let reply = restart(&server, "a", "timeout=60&pollingInterval=0.5");
    assert_eq!((reply.status, reply.text()), (200, "[0,1]"));
    server.start_as("b", "Forever", "");
    assert_eq!(restart(&server, "b", "timeout=0.05").status, 202);
    let [message, why] = refused(&restart(&server, "a", "timeout=1&pollingInterval=2"), 400);
    assert!(message.starts_with("One or more") && why.contains("pollingInterval"), "{why}");
}

#[test]
fn what_cannot_be_restarted_is_400() {
    let server = Server::start();
    server.start_as("a", "Race", "");
    server.finished("a");
    for (id, query) in
        [("nobody", ""), ("a", "taskHub=Elsewhere"), ("@counter@a", ""), ("nobody", "restartWithNewInstanceId=false")]
    {
        let [message, _] = refused(&restart(&server, id, query), 400);
        assert_eq!(message, UNKNOWN, "{id} {query}");
    }
    refused(&restart(&server, "a", "taskHub=1"), 400);
    assert_eq!(server.get(&format!("{P3}/instances/a/restart")).status, 404);
    assert_eq!(server.send("DELETE", "/admin/modules/guests", b"").status, 200);
    for query in ["", "restartWithNewInstanceId=false"] {
        let [_, why] = refused(&restart(&server, "a", query), 400);
        assert!(why.contains("\"Race\""), "{why}");
    }
    assert_eq!(server.status("a", "").status, 200, "and what is there stays");
}

#[test]
fn a_child_that_is_restarted_has_no_parent() {
    let server = Server::start();
    let call = json!({"function": "Lineage", "id": "child"});
    server.start_as("parent", "CallChild", &call.to_string());
    assert_eq!(server.finished("parent")["output"][1], "parent");
    let id = started(&restart(&server, "child", ""));
    assert_eq!(server.finished(&id)["output"], json!([id, Value::Null]));
    assert_eq!(started(&restart(&server, "child", "restartWithNewInstanceId=false")), "child");
    assert_eq!(server.finished("child")["output"], json!(["child", Value::Null]));
}

#[test]
fn what_has_continued_is_restarted_with_its_last_input() {
    let server = Server::start();
    server.start_as("a", "CountDown", "[3, 0]");
    assert_eq!(server.finished("a")["output"], 3);
    let id = started(&restart(&server, "a", ""));
    eventually("the end", || (server.status(&id, "").status == 200).then_some(()));
    assert_eq!(server.status(&id, "").member("input"), "[0,3]", "as its status shows it");
}

#[test]
fn a_restart_that_is_sent_again_with_its_key_is_one() {
    let server = Server::start();
    server.start_as("a", "Sequence", r#"{"count":1}"#);
    server.finished("a");
    let client = server.with_header("idempotency-key", "again");
    let first = started(&restart(&client, "a", ""));
    assert_eq!(started(&restart(&client, "a", "")), first);
    assert_ne!(started(&restart(&server, "a", "")), first);
    server.start_as("b", "Sequence", r#"{"count":1}"#);
    refused(&restart(&client, "b", ""), 409);
    refused(&restart(&client, "a", "restartWithNewInstanceId=false"), 400);
}
