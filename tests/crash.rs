//! What survives kill -9? All that was acknowledged, each event once.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};

use crate::support::{Client, P3, Server, eventually};

/// How many events clients see of an instance by now.
fn events(client: &Client, id: &str) -> usize {
    let status = client.status(id, "showHistory=true").json();
    status["historyEvents"].as_array().map_or(0, Vec::len)
}

/// Waits until an instance has so many events, or has ended.
fn wait_for_events(client: &Client, id: &str, count: usize) {
    eventually("the events before a kill", || (events(client, id) >= count).then_some(()));
}

/// The results of an instance's activities, in the order of its history.
fn results(status: &Value) -> Vec<u64> {
    let events = status["historyEvents"].as_array().expect("it has a history").iter();
    let completed = events.filter(|event| event["EventType"] == "TaskCompleted");
    completed.map(|event| event["Result"].as_u64().expect("a number")).collect()
}

#[test]
fn a_sequence_goes_on_where_it_was_killed_and_every_result_counts_once_and_in_order() {
    let mut server = Server::start();
    server.start_as("a", "Sequence", r#"{"count":50}"#);
    wait_for_events(&server, "a", 10);
    server.kill();
    server.restart();
    let status = server.finished("a");
    assert_eq!(results(&status), (0..50).collect::<Vec<_>>());
    assert_eq!(status["output"], json!((0..50).collect::<Vec<_>>()));
    assert_eq!(status["historyEvents"].as_array().unwrap().len(), 52, "{status}");
}

#[test]
fn a_fan_out_goes_on_where_it_was_killed_and_every_result_counts_once() {
    let mut server = Server::start();
    server.start_as("a", "FanOut", "1000");
    wait_for_events(&server, "a", 2);
    server.kill();
    server.restart();
    let status = server.finished("a");
    assert_eq!(status["output"], 1000 * 999 / 2);
    let mut results = results(&status);
    results.sort_unstable();
    assert_eq!(results, (0..1000).collect::<Vec<_>>());
}

#[test]
fn many_kills_in_a_row_lose_and_repeat_nothing() {
    const COUNT: usize = 300;
    let mut server = Server::start();
    server.start_as("sequence", "Sequence", &format!(r#"{{"count":{COUNT}}}"#));
    server.start_as("wide", "FanOut", "500");
    server.start_as("clocks", "Clocks", "");
    for kill in 1..=6 {
        // Each time a little further, so that it is killed while it recovers as well as while it runs.
        wait_for_events(&server, "sequence", kill * 30);
        server.kill();
        server.restart();
    }
    let status = server.finished("sequence");
    assert_eq!(results(&status), (0..COUNT as u64).collect::<Vec<_>>());
    assert_eq!(server.finished("wide")["output"], 500 * 499 / 2);
    assert_eq!(server.finished("clocks")["runtimeStatus"], "Completed");
}

/// Kills the server while several clients start instances as fast as they can. What was acknowledged has to be there.
#[test]
fn every_acknowledged_start_survives_a_kill() {
    const THREADS: usize = 4;
    const ENOUGH: usize = 150;
    let mut server = Server::start();
    let acknowledged = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, acknowledged) = ((*server).clone(), &acknowledged);
            scope.spawn(move || {
                for number in 0.. {
                    let id = format!("start-{thread}-{number}");
                    let url = format!("{P3}/orchestrators/Sequence/{id}");
                    match client.try_send("POST", &url, br#"{"count":2}"#) {
                        Ok(reply) if reply.status == 202 => acknowledged.lock().unwrap().insert(id),
                        Ok(reply) => panic!("{id}: {reply}"),
                        Err(_) => return, // The server is gone.
                    };
                }
            });
        }
        eventually("enough starts", || (acknowledged.lock().unwrap().len() >= ENOUGH).then_some(()));
        server.kill();
    });
    server.restart();
    let acknowledged = acknowledged.into_inner().unwrap();
    for id in &acknowledged {
        let status = server.finished(id);
        assert_eq!((&status["output"], results(&status)), (&json!([0, 1]), vec![0, 1]), "{id}");
    }
}

#[test]
fn an_end_that_a_client_has_seen_stays() {
    let mut server = Server::start();
    let before: Vec<_> = ["Sequence", "FailActivity", "Panic", "Status"]
        .map(|function| {
            server.start_as(function, function, r#"{"count":3}"#);
            server.finished(function)
        })
        .into();
    server.kill();
    server.restart();
    let after: Vec<_> = ["Sequence", "FailActivity", "Panic", "Status"].map(|id| server.finished(id)).into();
    assert_eq!(before, after);
}

#[test]
fn an_instance_goes_on_after_a_stop_in_order() {
    let mut server = Server::start();
    server.start_as("a", "Sequence", r#"{"count":200}"#);
    wait_for_events(&server, "a", 5);
    server.stop();
    server.restart();
    let status = server.finished("a");
    assert_eq!(results(&status), (0..200).collect::<Vec<_>>());
}

#[test]
fn an_activity_that_ran_when_the_server_was_killed_is_run_again() {
    let mut server = Server::start();
    server.start_as("a", "CallLoopActivity", "");
    wait_for_events(&server, "a", 2);
    server.kill();
    server.restart();
    // It still runs, and it still does not hold up anybody else.
    assert_eq!(server.output("Sequence", r#"{"count":3}"#), json!([0, 1, 2]));
    let status = server.status("a", "showHistory=true");
    assert_eq!(status.json()["historyEvents"].as_array().unwrap().len(), 2, "{status}");
}
