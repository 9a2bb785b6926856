//! The history as clients see it.

use serde_json::Value;

use crate::support::{P3, Server, eventually, golden, guests};

#[test]
fn three_activities_in_sequence_are_five_events() {
    let server = Server::empty();
    server.upload("Bakery", "hello", guests::hello_sequence());
    let start = format!("{P3}/orchestrators/E1_HelloSequence/a?taskHub=Bakery&timeout=60");
    assert_eq!(server.post(&start, r#"{"to": ["all"]}"#).status, 200);
    let status = |query: &str| server.get(&format!("{P3}/instances/a?taskHub=Bakery&{query}"));
    golden::check("history-all", status("showHistory=true&showHistoryOutput=true").text(), &[]);
    golden::check("history-without-output", status("showHistory=True").text(), &[]);
    golden::check("history-without-input", status("showHistory=true&showHistoryOutput=true&showInput=false").text(), &[]);
    for query in ["", "showHistory=false", "showHistory=1", "showHistoryOutput=true"] {
        assert_eq!(status(query).keys().len(), 8, "{query}");
    }
}

#[test]
fn a_failed_activity_is_shown_with_its_reason_and_all_that_it_carries() {
    let server = Server::start();
    server.start_as("a", "FailActivity", "null");
    server.finished("a");
    // Reasons and details stay although no outputs are asked for.
    golden::check("history-failed", server.status("a", "showHistory=true").text(), &[]);
}

#[test]
fn a_panic_is_shown_with_its_message_and_place() {
    let server = Server::start();
    server.start_as("a", "Panic", "null");
    let status = server.finished("a");
    let output = status["output"].as_str().unwrap();
    assert!(output.starts_with("Orchestrator function 'Panic' failed: "), "{output}");
    for part in ["the oven is cold", "hostile.rs:"] {
        assert!(output.contains(part), "{output}");
    }
    let events = status["historyEvents"].as_array().unwrap();
    assert_eq!(events.len(), 2, "{status}");
    let failure = &events[1]["FailureDetails"];
    assert_eq!(failure["ErrorType"], "Panic");
    assert!(failure["StackTrace"].as_str().is_some_and(|trace| trace.contains("hostile.rs:")), "{status}");
}

#[test]
fn an_activity_that_has_not_answered_stands_on_its_own() {
    let server = Server::start();
    server.start_as("a", "CallLoopActivity", "");
    let events = eventually("the activity", || {
        let reply = server.status("a", "showHistory=true");
        reply.json()["historyEvents"].as_array().filter(|events| events.len() == 2).cloned()
    });
    assert_eq!(events[1]["EventType"], "TaskScheduled");
    assert_eq!((&events[1]["Name"], &events[1]["Input"]), (&Value::from("LoopActivity"), &Value::from("null")));
    assert_eq!(events[1].get("FunctionName"), None);
    let reply = server.status("a", "showHistory=true&showInput=false");
    assert_eq!(reply.json()["historyEvents"][1].get("Input"), None, "{reply}");
}

#[test]
fn the_first_answer_of_a_race_wins() {
    let server = Server::start();
    server.start_as("a", "Race", "");
    let status = server.finished("a");
    let events = status["historyEvents"].as_array().unwrap();
    let first = events.iter().find(|event| event["EventType"] == "TaskCompleted").unwrap();
    assert_eq!(first["Result"], status["output"], "{status}");
    // The loser stands open, or has answered behind the winner.
    assert_eq!(events.len(), 4, "{status}");
}

#[test]
fn a_long_history_is_complete_and_in_order() {
    let server = Server::start();
    server.start_as("a", "Sequence", r#"{"count":200}"#);
    let status = server.finished("a");
    let events = status["historyEvents"].as_array().unwrap();
    assert_eq!(events.len(), 202);
    for (number, event) in events[1..201].iter().enumerate() {
        assert_eq!((&event["FunctionName"], &event["Result"]), (&Value::from("Echo"), &Value::from(number)));
        assert_eq!(event["Input"], number.to_string());
        assert!(event["ScheduledTime"].as_str().unwrap()[..19] <= event["Timestamp"].as_str().unwrap()[..19], "{event}");
    }
}

#[test]
fn all_that_an_orchestration_asks_for_is_shown() {
    let server = Server::start();
    server.start_as("house", "Household", "null");
    let open = eventually("the open child", || {
        let reply = server.status("house", "showHistory=true");
        let events = reply.json()["historyEvents"].as_array().cloned()?;
        let last = events.into_iter().next_back()?;
        (last["EventType"] == "SubOrchestrationInstanceCreated" && last["Name"] == "Collect" && last["InstanceId"] != "detached")
            .then(|| last["InstanceId"].as_str().expect("an ID is text").to_owned())
    });
    // The ID of the child and the idempotency key begin with it.
    let generation = open.split(':').next().expect("a generation");
    let secrets = [(generation, "<generation>")];
    golden::check("history-household", server.status("house", "showHistory=true&showHistoryOutput=true").text(), &secrets);
    server.post(&format!("{P3}/instances/house/terminate?reason=closed"), "");
    server.finished("house");
    golden::check("history-household-terminated", server.status("house", "showHistory=true&showInput=false").text(), &secrets);
}
