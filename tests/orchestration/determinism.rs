//! Ordinary std code and ordinary crates give equal values in every replay.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{forgetful, of_type};
use crate::support::{Server, Setup};

/// Guests of which none stays alive between its turns, so that what was read before is read anew in each. The inputs of their
/// activities hold what they read at first, their outputs what they read at last.
#[test]
fn clocks_hash_maps_random_numbers_and_uuids_are_the_same_in_every_replay() {
    const STEPS: usize = 6;
    let server = Setup::limits(forgetful()).start();
    let ids: Vec<_> = (0..8).map(|_| server.start("Roulette", &STEPS.to_string())).collect();
    let mut uuids = BTreeSet::new();
    let mut others: [BTreeSet<String>; 4] = Default::default();
    for id in &ids {
        let status = server.finished(id);
        let last = status["output"].as_array().unwrap_or_else(|| panic!("{status}"));
        let first: Vec<Value> = of_type(&status, "TaskCompleted")
            .iter()
            .map(|event| serde_json::from_str(event["Input"].as_str().expect("an input is text")).expect("an input is JSON"))
            .collect();
        assert_eq!((last, last.len()), (&first, STEPS));
        let times = |key: &str| last.iter().map(|reading| reading[key].as_u64().expect("a number")).collect::<Vec<_>>();
        assert!(times("system_ms").is_sorted() && times("elapsed_ns").is_sorted(), "{status}");
        assert!(times("elapsed_ns")[STEPS - 1] > 0, "time goes on from turn to turn: {status}");
        for reading in last {
            assert!(uuids.insert(reading["uuid"].to_string()), "{} came twice", reading["uuid"]);
            for (seen, key) in others.iter_mut().zip(["keys", "members", "number", "shuffled"]) {
                seen.insert(reading[key].to_string());
            }
        }
    }
    for seen in &others {
        assert!(seen.len() > ids.len() * STEPS / 2, "they differ from one to the next: {seen:?}");
    }
}

#[test]
fn they_are_the_same_after_a_kill() {
    const STEPS: usize = 40;
    let mut server = Server::start();
    server.start_as("a", "Roulette", &STEPS.to_string());
    for count in [5, 15, 25] {
        super::until(&server, "a", "TaskCompleted", count);
        server.kill();
        server.restart();
    }
    let status = server.finished("a");
    let inputs = of_type(&status, "TaskCompleted").into_iter().map(|event| event["Input"].as_str().unwrap());
    let inputs: Vec<Value> = inputs.map(|input| serde_json::from_str(input).unwrap()).collect();
    assert_eq!(status["output"], json!(inputs));
}

#[test]
fn a_request_of_an_orchestrator_is_refused_with_what_to_use_instead() {
    let server = Server::start();
    server.start_as("a", "FetchItself", "\"http://127.0.0.1:1/\"");
    let status = server.finished("a");
    assert_eq!(status["runtimeStatus"], "Failed", "{status}");
    let text = status.to_string() + &server.lines("a").concat();
    assert!(text.contains("ctx.http") || text.contains("activity"), "{text}");
}
