//! Children: what they give, how they fail, who they are, and what becomes of them when somebody ends.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{completed, forgetful, history, of_type, seen, types, until_status};
use crate::support::{P3, Server, Setup, eventually};

fn call(function: &str, input: &Value, id: Option<&str>) -> String {
    json!({"function": function, "input": input, "id": id}).to_string()
}

/// All instances of the server: name of the function and status, by ID.
fn instances(server: &Server) -> BTreeMap<String, (String, String)> {
    let list = server.get(&format!("{P3}/instances?top=10000")).json();
    let text = |value: &Value| value.as_str().expect("it is text").to_owned();
    let entries = list.as_array().expect("a list").iter();
    entries.map(|it| (text(&it["instanceId"]), (text(&it["name"]), text(&it["runtimeStatus"])))).collect()
}

#[test]
fn the_result_of_a_child_comes_back_as_three_events() {
    let server = Server::start();
    server.start_as("parent", "CallChild", &call("FanOut", &json!(3), None));
    let status = server.finished("parent");
    assert_eq!(status["output"], 3);
    assert_eq!(types(&status), ["ExecutionStarted", "SubOrchestrationInstanceCompleted", "ExecutionCompleted"]);
    let child = &history(&status)[1];
    assert_eq!((&child["FunctionName"], &child["Input"], &child["Result"]), (&json!("FanOut"), &json!("3"), &json!(3)));
    let id = child["InstanceId"].as_str().unwrap();
    assert!(id.len() == 32 + 1 + 4 && id.ends_with(":0000"), "{id}");
    assert_eq!(completed(&server, id), 3, "a child is an instance like any other");
}

#[test]
fn all_that_a_failure_carries_comes_through_to_the_grandparent() {
    let server = Server::start();
    let between = json!({"function": "CallChild", "input": {"function": "FailWithAll"}});
    server.start_as("caught", "CatchChild", &between.to_string());
    let caught = completed(&server, "caught");
    let expected = json!({
        "kind": "OvenCold", "message": "the oven is cold", "details": [20, 18], "non_retriable": true,
        "causes": [["BottleEmpty", "the bottle is empty"], ["ShopClosed", "it is Sunday"]],
    });
    assert_eq!(caught, expected);

    server.start_as("failed", "CallChild", &between.to_string());
    let status = server.finished("failed");
    assert_eq!(status["output"], "Orchestrator function 'CallChild' failed: the oven is cold");
    let event = of_type(&status, "SubOrchestrationInstanceFailed")[0];
    for details in [&event["FailureDetails"], &history(&status).last().unwrap()["FailureDetails"]] {
        assert_eq!((&details["ErrorType"], &details["ErrorMessage"]), (&json!("OvenCold"), &json!("the oven is cold")));
        assert_eq!(
            (&details["IsNonRetriable"], &details["Properties"]["Details"]),
            (&json!(true), &json!([20, 18])),
            "{details}"
        );
        let causes = [&details["InnerFailure"], &details["InnerFailure"]["InnerFailure"]];
        assert_eq!(causes.map(|it| it["ErrorType"].as_str().unwrap()), ["BottleEmpty", "ShopClosed"]);
        assert_eq!(causes[1]["InnerFailure"], Value::Null);
    }
}

#[test]
fn a_child_that_panics_fails_the_task_with_the_panic() {
    let server = Server::start();
    server.start_as("parent", "CatchChild", &call("Panic", &Value::Null, None));
    let caught = completed(&server, "parent");
    assert_eq!(caught["kind"], "Panic");
    assert!(caught["message"].as_str().unwrap().contains("the oven is cold"), "{caught}");
}

#[test]
fn a_child_has_the_id_that_it_was_given_and_knows_its_parent() {
    let server = Server::start();
    server.start_as("parent", "CallChild", &call("Lineage", &Value::Null, Some("the child")));
    assert_eq!(completed(&server, "parent"), json!(["the child", "parent"]));
    assert_eq!(completed(&server, "the%20child"), json!(["the child", "parent"]));
    server.start_as("alone", "Lineage", "");
    assert_eq!(completed(&server, "alone"), json!(["alone", null]));
}

#[test]
fn an_id_that_is_live_fails_the_task_and_leaves_the_other_alone() {
    let server = Server::start();
    server.start_as("taken", "Collect", "1");
    until_status(&server, "taken", "Running");
    server.start_as("parent", "CatchChild", &call("Lineage", &Value::Null, Some("taken")));
    let caught = completed(&server, "parent");
    assert_eq!(caught["kind"], "InstanceExists", "{caught}");
    assert!(caught["message"].as_str().unwrap().contains("\"taken\" is Running"), "{caught}");
    server.raise("taken", "item", "5");
    assert_eq!(completed(&server, "taken"), json!([5]));
    // It has ended: now its ID is free.
    server.start_as("again", "CallChild", &call("Lineage", &Value::Null, Some("taken")));
    assert_eq!(completed(&server, "again"), json!(["taken", "again"]));
}

#[test]
fn of_two_children_with_one_id_the_first_is_started() {
    let server = Server::start();
    server.start_as("parent", "Twins", "\"twin\"");
    assert_eq!(completed(&server, "parent"), json!(["14", "InstanceExists"]));
}

#[test]
fn an_orchestrator_that_nobody_has_fails_the_task() {
    let server = Server::start();
    server.start_as("parent", "CatchChild", &call("NobodyHasThis", &Value::Null, Some("child")));
    let caught = completed(&server, "parent");
    assert!(caught["message"].as_str().unwrap().contains("NobodyHasThis"), "{caught}");
    assert_eq!(server.status("child", "").status, 404, "nothing was started");
    // The name of an activity is not one of an orchestrator.
    server.start_as("other", "CatchChild", &call("Echo", &json!(1), Some("child")));
    assert!(completed(&server, "other")["message"].as_str().unwrap().contains("Echo"));
    assert_eq!(server.status("child", "").status, 404);
}

#[test]
fn a_terminated_child_fails_the_task_with_the_reason() {
    let server = Server::start();
    server.start_as("parent", "CatchChild", &call("Collect", &json!(1), Some("child")));
    until_status(&server, "child", "Running");
    assert_eq!(server.post(&format!("{P3}/instances/child/terminate?reason=out%20of%20flour"), "").status, 202);
    let caught = completed(&server, "parent");
    assert_eq!(caught["message"], "out of flour", "{caught}");
    assert_eq!(server.finished("child")["runtimeStatus"], "Terminated");
}

#[test]
fn a_child_lives_on_when_its_parent_ends_in_any_way() {
    let mut server = Server::start();
    for parent in ["left", "terminated"] {
        server.start_as(parent, "Leave", &format!("\"child of {parent}\""));
        until_status(&server, &format!("child+of+{parent}"), "Running");
    }
    server.raise("left", "leave", "null");
    assert_eq!(completed(&server, "left"), "left");
    assert_eq!(server.post(&format!("{P3}/instances/terminated/terminate"), "").status, 202);
    assert_eq!(server.finished("terminated")["runtimeStatus"], "Terminated");
    let before = ["left", "terminated"].map(|id| seen(&server, id));
    server.kill();
    server.restart();
    for parent in ["left", "terminated"] {
        let child = format!("child+of+{parent}");
        server.raise(&child, "item", "7");
        assert_eq!(completed(&server, &child), json!([7]), "{parent}");
    }
    assert_eq!(before, ["left", "terminated"].map(|id| seen(&server, id)), "nothing happens to who has ended");
}

#[test]
fn a_detached_start_is_its_own_and_gets_its_events_in_order() {
    for limits in [dacapo::limits::Limits::default(), forgetful()] {
        let server = Setup::limits(limits).start();
        server.start_as("sender", "StartAndSend", r#"{"to": "receiver", "count": 23}"#);
        assert_eq!(completed(&server, "sender"), "receiver");
        assert_eq!(completed(&server, "receiver"), json!((0..23).collect::<Vec<_>>()));
        let status = server.finished("sender");
        let created = of_type(&status, "SubOrchestrationInstanceCreated");
        assert_eq!((created.len(), &created[0]["InstanceId"]), (1, &json!("receiver")));
        let sent = of_type(&status, "EventSent");
        assert_eq!(sent.len(), 23);
        assert_eq!(
            (&sent[7]["InstanceId"], &sent[7]["Name"], &sent[7]["Input"]),
            (&json!("receiver"), &json!("item"), &json!("7"))
        );
        let tagged = server.get(&format!("{P3}/instances?tag.kind=parcel")).json();
        assert_eq!(tagged.as_array().unwrap().len(), 1, "{tagged}");
        assert_eq!(tagged[0]["instanceId"], "receiver");
    }
}

#[test]
fn detached_starts_have_ids_of_their_own_and_no_parent() {
    let server = Server::start();
    server.start_as("starter", "StartTwo", "");
    let ids = completed(&server, "starter");
    let ids = [0, 1].map(|index| ids[index].as_str().unwrap().to_owned());
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        eventually("the start", || (server.status(&id, "").status != 404).then_some(()));
        assert_eq!(completed(&server, &id), json!([id, null]));
    }
}

#[test]
fn a_start_at_a_later_time_is_pending_until_then() {
    let mut server = Setup::limits(forgetful()).start();
    server.start_as("soon", "StartLater", r#"{"id": "due soon", "ms": 1500}"#);
    server.start_as("late", "StartLater", r#"{"id": "due late", "ms": 3600000}"#);
    for id in ["soon", "late"] {
        completed(&server, id);
        until_status(&server, &format!("due+{id}"), "Pending");
    }
    server.kill();
    server.restart();
    assert_eq!(completed(&server, "due+soon"), json!(["due soon", null]));
    let (asked, status) = (server.finished("soon"), server.finished("due+soon"));
    let time = |event: &Value| event["Timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let waited =
        time(history(&status).last().unwrap()).duration_since(time(of_type(&asked, "SubOrchestrationInstanceCreated")[0]));
    assert!(waited.as_millis() >= 1_500, "{waited:?}");
    assert_eq!(seen(&server, "due+late")["runtimeStatus"], "Pending");
    assert_eq!(server.post(&format!("{P3}/instances/due+late/terminate"), "").status, 202);
    assert_eq!(server.finished("due+late")["runtimeStatus"], "Terminated");
}

/// Many parents wait for their children when the server is killed, again and again.
#[test]
fn parents_and_children_survive_kills_and_each_child_runs_once() {
    const PARENTS: u32 = 6;
    const LOAVES: u32 = 20;
    let mut server = Server::start();
    for parent in 0..PARENTS {
        server.start_as(&format!("parent-{parent}"), "Batch", &LOAVES.to_string());
    }
    for kill in 1..=3 {
        // Each time a little further: while children are created, while they run, while their answers come back.
        eventually("some children", || (instances(&server).len() as u32 >= PARENTS + kill * 30).then_some(()));
        server.kill();
        server.restart();
    }
    for parent in 0..PARENTS {
        let status = server.finished(&format!("parent-{parent}"));
        assert_eq!(status["output"], json!((0..LOAVES).map(|loaf| loaf * 2).collect::<Vec<_>>()));
        assert_eq!(of_type(&status, "SubOrchestrationInstanceCompleted").len() as u32, LOAVES);
        assert_eq!(history(&status).len() as u32, LOAVES + 2);
    }
    let all = instances(&server);
    assert_eq!(all.len() as u32, PARENTS * (1 + LOAVES), "each child was created once");
    for (id, (name, status)) in &all {
        assert_eq!(status, "Completed", "{id}");
        if name == "Loaf" {
            let child = seen(&server, id);
            assert_eq!(history(&child).len(), 6, "its start, two calls, its timer set and fired, its end: {child}");
        }
    }
}

#[test]
fn a_fan_out_of_children_with_room_for_nobody_gives_what_it_should() {
    let server = Setup::limits(forgetful()).start();
    let ids: Vec<_> = (0..5).map(|_| server.start("Batch", "10")).collect();
    for id in ids {
        assert_eq!(completed(&server, &id), json!((0..10).map(|loaf| loaf * 2).collect::<Vec<_>>()));
    }
}

/// So many open tasks are not kept in memory while they wait.
#[test]
fn a_parent_of_more_children_than_stay_in_memory_ends() {
    const LOAVES: u32 = 150;
    let server = Server::start();
    server.start_as("parent", "Batch", &LOAVES.to_string());
    assert_eq!(completed(&server, "parent"), json!((0..LOAVES).map(|loaf| loaf * 2).collect::<Vec<_>>()));
}

#[test]
fn what_is_no_instance_id_is_a_failure_that_can_be_handled() {
    let server = Server::start();
    for id in ["a/b", "", "@loaf"] {
        assert_eq!(server.output("CallClumsily", &serde_json::json!(id).to_string()), "InvalidInstanceId", "{id:?}");
    }
}
