//! Going on as a new execution: what stays, what goes, and what it costs after ten thousand times.

use std::fs;

use serde_json::{Value, json};

use super::{completed, forgetful, history, of_type, once, seen, types, until, until_status};
use crate::support::server::HUB;
use crate::support::{DEADLINE_S, P3, Server, Setup, eventually, eventually_within, guests, wasm};

#[test]
fn only_the_newest_execution_is_shown() {
    let server = Server::start();
    server.start_as("a", "CountDown", "[5, 0]");
    let status = server.finished("a");
    assert_eq!((&status["output"], &status["input"]), (&json!(5), &json!([0, 5])));
    assert_eq!(types(&status), ["ExecutionStarted", "ExecutionCompleted"]);
    assert_eq!(history(&status)[0]["Input"], "[0,5]");
}

#[test]
fn events_that_nobody_has_read_are_kept_in_order_through_all_executions() {
    for limits in [dacapo::limits::Limits::default(), forgetful()] {
        let server = Setup::limits(limits).start();
        server.start_as("till", "Till", r#"{"left": 40, "taken": []}"#);
        for coin in 0..20 {
            server.raise("till", "coin", &coin.to_string());
        }
        // In between what nobody ever reads.
        server.raise("till", "button", "1");
        for coin in 20..40 {
            server.raise("till", "COIN", &coin.to_string());
        }
        assert_eq!(completed(&server, "till"), json!((0..40).collect::<Vec<_>>()));
        let status = server.finished("till");
        assert_eq!(of_type(&status, "EventRaised").len(), 1, "the one that nobody read is still there: {status}");
    }
}

#[test]
fn events_that_nobody_has_read_are_dropped_if_asked_for() {
    let server = Server::start();
    server.start_as("a", "Forget", "true");
    for (event, coin) in [("coin", "1"), ("coin", "2"), ("go", "null")] {
        server.raise("a", event, coin);
    }
    once(&server, "a", "the second execution", |status| status["input"] == false && of_type(status, "EventRaised").is_empty());
    server.raise("a", "coin", "3");
    assert_eq!(completed(&server, "a"), 3);
}

/// The events come from several clients while the server is killed; each execution takes one.
#[test]
fn events_that_come_while_executions_follow_each_other_survive_kills() {
    const COINS: u64 = 90;
    let mut server = Server::start();
    server.start_as("till", "Till", &format!(r#"{{"left": {COINS}, "taken": []}}"#));
    for coin in 0..COINS {
        server.raise("till", "coin", &coin.to_string());
        if coin % 30 == 17 {
            server.kill();
            server.restart();
        }
    }
    assert_eq!(completed(&server, "till"), json!((0..COINS).collect::<Vec<_>>()));
}

#[test]
fn custom_status_tags_and_lines_stay_through_all_executions() {
    let mut server = Setup::limits(forgetful()).start();
    let start = format!("{P3}/orchestrators/Rounds/a?tag.shop=north&tag.kind=rye");
    assert_eq!(server.post(&start, "[3, 0]").status, 202);
    until_status(&server, "a", "Running");
    eventually("the last round", || (seen(&server, "a")["input"] == json!([0, 3])).then_some(()));
    server.kill();
    server.restart();
    let status = seen(&server, "a");
    assert_eq!(status["customStatus"], "kneading", "{status}");
    let tagged = server.get(&format!("{P3}/instances?tag.shop=north&tag.kind=rye")).json();
    assert_eq!(tagged[0]["instanceId"], "a", "{tagged}");
    server.raise("a", "done", "null");
    assert_eq!(completed(&server, "a"), json!([["kind", "rye"], ["shop", "north"]]));
    let expected: Vec<_> = (0..4).flat_map(|round| [format!("round {round}"), format!("round {round} is over")]).collect();
    assert_eq!(server.lines("a"), expected);
}

#[test]
fn who_waits_for_the_end_waits_for_the_last_execution() {
    let server = Server::start();
    assert_eq!(server.output("CountDown", "[50, 0]"), 50);
    assert_eq!(server.output("CallChild", r#"{"function": "CountDown", "input": [50, 0]}"#), 50, "a parent too");
}

#[test]
fn a_parent_gets_the_failure_of_the_last_execution() {
    let server = Server::start();
    server.start_as("a", "CatchChild", r#"{"function": "ContinueAndFail", "input": true}"#);
    assert_eq!(completed(&server, "a")["message"], "the second dough did not rise");
}

#[test]
fn the_next_execution_takes_the_current_version_unless_it_is_to_keep_its_own() {
    let server = Server::start();
    server.start_as("takes", "NextEdition", "[true, false]");
    server.start_as("keeps", "NextEdition", "[true, true]");
    until_status(&server, "takes", "Running");
    until_status(&server, "keeps", "Running");
    let (first, second) = super::versions::EDITIONS;
    server.upload(HUB, "guests", &wasm::reworded(guests::test_guests(), first, second));
    for id in ["takes", "keeps"] {
        server.raise(id, "go", "null");
    }
    assert_eq!((completed(&server, "takes"), completed(&server, "keeps")), (json!(second), json!(first)));
}

/// How much one execution is in the history that clients see.
fn size(status: &Value) -> usize {
    status["historyEvents"].to_string().len()
}

/// Neither the history nor the store may grow with the executions that were.
#[test]
fn ten_thousand_executions_later_an_instance_is_as_small_as_a_new_one() {
    let stored = |executions: u32| {
        let mut server = Server::start();
        server.start_as("a", "CountDown", &format!("[{executions}, 0]"));
        // Each is a commit, so a slow disk takes its time.
        let status = eventually_within(5 * DEADLINE_S, || {
            let reply = server.status("a", "edition=current&showHistory=true&showHistoryOutput=true");
            (reply.status == 200).then(|| reply.json())
        });
        let status = status.expect("the last execution has ended");
        assert_eq!(status["output"], executions);
        assert_eq!(types(&status), ["ExecutionStarted", "ExecutionCompleted"]);
        server.stop();
        let bytes = fs::metadata(server.data().join("dacapo.db")).expect("look at the store").len();
        println!("{executions} executions: {} bytes of history, {bytes} bytes of store", size(&status));
        (size(&status), bytes)
    };
    let (few, many) = (stored(3_000), stored(10_000));
    assert!(many.0 <= few.0 + 20, "the history: {} bytes, {} after many", few.0, many.0);
    // Both have had what there is between two sweeps, which depends on the machine. Seven thousand more executions would take 3.5 MB.
    assert!(many.1 <= few.1 + (1 << 20), "the store: {} bytes, {} after many", few.1, many.1);
}

#[test]
fn a_first_execution_is_not_waited_for_by_events_of_the_second() {
    let server = Server::start();
    server.start_as("till", "Till", r#"{"left": 2, "taken": []}"#);
    server.raise("till", "coin", "1");
    eventually("the second execution", || (seen(&server, "till")["input"]["left"] == 1).then_some(()));
    server.raise("till", "coin", "2");
    let status = until(&server, "till", "ExecutionCompleted", 1);
    assert_eq!(status["output"], json!([1, 2]));
}
