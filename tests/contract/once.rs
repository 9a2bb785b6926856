//! Starts that meet an instance: with a key they happen once, and by configuration they replace it.

use std::thread;

use serde_json::json;

use super::PREFIXES;
use crate::support::server::HUB;
use crate::support::{Client, P3, Reply, Server, Setup, eventually, guests};

fn start(client: &Client, key: &str, path: &str, input: &str) -> Reply {
    client.with_header("Idempotency-Key", key).post(&format!("{P3}/orchestrators/{path}"), input)
}

fn id(reply: &Reply) -> String {
    assert_eq!((reply.status, reply.header("retry-after"), reply.keys().len()), (202, Some("10"), 9), "{reply}");
    reply.json()["id"].as_str().expect("an ID").to_owned()
}

#[track_caller]
fn check_conflict(reply: &Reply, why: &str) {
    assert_eq!((reply.status, reply.keys()), (409, vec!["Message".to_owned()]), "{reply}");
    assert!(reply.json()["Message"].as_str().is_some_and(|message| message.contains(why)), "{reply}");
}

/// How many instances there are.
fn count(client: &Client) -> usize {
    client.get(&format!("{P3}/instances?top=1000")).json().as_array().expect("a list").len()
}

#[test]
fn a_start_that_is_sent_again_answers_with_the_instance_of_the_first() {
    let mut server = Server::start();
    let first = start(&server, "order 17", "Collect", "[1]".trim_matches(['[', ']']));
    let body = first.text().to_owned();
    let name = id(&first);
    assert!(name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{name}");
    let again = |server: &Server| {
        for prefix in PREFIXES.into_iter().chain(["/api"]) {
            let client = server.with_header("idempotency-key", "order 17");
            let reply = client.post(&format!("{prefix}/orchestrators/COLLECT?tag.shop=south"), " 1 ");
            assert_eq!((reply.status, reply.json()["id"].as_str()), (202, Some(name.as_str())), "{prefix}: {reply}");
        }
        assert_eq!(count(server), 1);
    };
    again(&server);
    assert_eq!(start(&server, "order 17", "Collect", "1").text(), body, "to the byte");
    // Whatever becomes of it.
    server.raise(&name, "item", "7");
    server.finished(&name);
    again(&server);
    server.kill();
    server.restart();
    again(&server);
    assert_eq!(server.send("DELETE", "/admin/modules/guests", b"").status, 200);
    again(&server);
    assert_eq!(server.finished(&name)["output"], json!([7]));
    server.upload(HUB, "guests", guests::test_guests());
    // As long as it is stored.
    assert_eq!(server.send("DELETE", &format!("{P3}/instances/{name}"), b"").status, 200);
    assert_eq!(id(&start(&server, "order 17", "Race", "")), name);
}

#[test]
fn a_key_stands_for_one_request() {
    let server = Server::start();
    id(&start(&server, "k", "Collect", "1"));
    check_conflict(&start(&server, "k", "Collect", "2"), "this key, for another function or input");
    check_conflict(&start(&server, "k", "Race", "1"), "this key, for another function or input");
    check_conflict(&start(&server, "k", "Collect", "1.0"), "this key");
    id(&start(&server, "K", "Collect", "2"));
    // In another hub it stands for something else.
    server.upload("Bakery", "guests", guests::test_guests());
    let elsewhere = id(&start(&server, "k", "Race?taskHub=Bakery", ""));
    assert_ne!(elsewhere, id(&start(&server, "k", "Collect", "1")));
    assert_eq!(count(&server), 2);
}

#[test]
fn an_id_and_a_key_stand_for_one_request_together() {
    let server = Server::start();
    assert_eq!(id(&start(&server, "k", "Race/a", "")), "a");
    server.finished("a");
    assert_eq!(id(&start(&server, "k", "Race/a", "null")), "a");
    assert_eq!(id(&start(&server, "k", "Race/b", "")), "b", "another ID, another instance");
    check_conflict(&start(&server, "other", "Race/a", ""), "was started with another key");
    check_conflict(&start(&server, "k", "Race/a", "1"), "this key, for another function or input");
    let before = server.finished("a");
    // Without a key the usual rules hold: it has ended, so it is replaced.
    server.start_as("a", "Collect", "1");
    check_conflict(&start(&server, "k", "Race/a", ""), "was started with no key");
    server.raise("a", "item", "1");
    assert_ne!(server.finished("a"), before);
    check_conflict(&start(&server, "k", "Race/a", ""), "was started with no key");
}

#[test]
fn starts_with_one_key_at_the_same_time_are_one() {
    let server = Server::start();
    for (round, path) in ["Race", "Race/a"].into_iter().enumerate() {
        let key = format!("round {round}");
        let ids = thread::scope(|scope| {
            let start = || id(&start(&server, &key, path, "1"));
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it is answered")).collect::<Vec<_>>()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(count(&server), round + 1);
    }
}

#[test]
fn a_repeated_start_can_wait_for_the_end_and_the_end_may_be_over() {
    let server = Server::start();
    let client = server.clone();
    let waiting = thread::spawn(move || start(&client, "k", "Collect?timeout=60", "1"));
    let name = eventually("the start", || {
        let list = server.get(&format!("{P3}/instances")).json();
        list[0]["instanceId"].as_str().map(str::to_owned)
    });
    assert_eq!(start(&server, "k", "Collect?timeout=0", "1").status, 202);
    let client = server.clone();
    let again = thread::spawn(move || start(&client, "k", "Collect?timeout=60", "1"));
    server.raise(&name, "item", "7");
    for reply in [waiting.join().unwrap(), again.join().unwrap(), start(&server, "k", "Collect?timeout=60", "1")] {
        assert_eq!((reply.status, reply.text()), (200, "[7]"));
    }
    assert_eq!(count(&server), 1);
}

#[test]
fn what_has_continued_or_was_restarted_is_still_what_its_start_made() {
    let server = Server::start();
    let name = id(&start(&server, "k", "CountDown", "[3, 0]"));
    assert_eq!(server.finished(&name)["output"], 3);
    assert_eq!(id(&start(&server, "k", "CountDown", "[3, 0]")), name);
    let restart = |query: &str| server.post(&format!("{P3}/instances/{name}/restart?{query}"), "");
    assert_ne!(id(&restart("")), name);
    assert_eq!(id(&restart("restartWithNewInstanceId=false")), name);
    assert_eq!(id(&start(&server, "k", "CountDown", "[3, 0]")), name);
    assert_eq!(count(&server), 2);
}

#[test]
fn a_key_that_breaks_its_rules_is_400_and_nothing_starts() {
    let server = Server::start();
    for key in ["", "é", &"x".repeat(256)] {
        let reply = start(&server, key, "Race", "");
        assert_eq!(reply.status, 400, "{key:?}: {reply}");
        assert!(reply.json()["ExceptionMessage"].as_str().is_some_and(|why| why.contains("1 to 255")), "{reply}");
    }
    let twice = server.with_header("idempotency-key", "a").with_header("idempotency-key", "b");
    assert_eq!(twice.post(&format!("{P3}/orchestrators/Race"), "").status, 400);
    assert_eq!(count(&server), 0);
    id(&start(&server, &"x".repeat(255), "Race", ""));
}

fn any_state() -> Server {
    Setup { configuration: "overridable_existing_instance_states = \"AnyState\"".into(), ..Setup::default() }.start()
}

#[test]
fn with_any_state_a_start_replaces_a_live_instance_and_who_waits_hears_that_it_was_terminated() {
    let server = any_state();
    let client = server.clone();
    let waiting = thread::spawn(move || client.post(&format!("{P3}/orchestrators/Collect/a?timeout=60"), "1"));
    eventually("the start", || (server.status("a", "").status == 202).then_some(()));
    server.start_as("a", "Collect", "2");
    let reply = waiting.join().expect("it is answered");
    // How it ended is there until the new one is.
    match reply.status {
        200 => assert_eq!(
            (&reply.json()["runtimeStatus"], &reply.json()["output"]),
            (&json!("Terminated"), &json!("replaced by a new start"))
        ),
        _ => assert_eq!((reply.status, reply.keys().len()), (202, 9), "{reply}"),
    }
    assert_eq!(server.status("a", "").member("input"), "2");
    (1..3).for_each(|item| server.raise("a", "item", &item.to_string()));
    let status = server.finished("a");
    assert_eq!((&status["runtimeStatus"], &status["output"]), (&json!("Completed"), &json!([1, 2])));
    server.start_as("a", "Race", "");
    server.finished("a");
    assert_eq!(count(&server), 1);
}

#[test]
fn with_any_state_a_parent_hears_that_its_child_was_replaced() {
    let server = any_state();
    let call = json!({"function": "Collect", "input": 1, "id": "child"});
    server.start_as("parent", "CatchChild", &call.to_string());
    eventually("the child", || (server.status("child", "").status == 202).then_some(()));
    server.start_as("child", "Forever", "");
    let caught = server.finished("parent")["output"].clone();
    assert!(caught["message"].as_str().is_some_and(|message| message.contains("replaced by a new start")), "{caught}");
    assert_eq!(server.status("child", "").json()["name"], "Forever");
}

#[test]
fn with_any_state_a_key_still_stands_for_one_request() {
    let server = any_state();
    assert_eq!(id(&start(&server, "k", "Collect/a", "1")), "a");
    assert_eq!(id(&start(&server, "k", "Collect/a", "1")), "a");
    check_conflict(&start(&server, "k", "Collect/a", "2"), "this key");
    server.raise("a", "item", "1");
    assert_eq!(server.finished("a")["output"], json!([1]));
    // Many starts on one ID at once: each finds its way, and one is left.
    thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| server.start_as("b", "Forever", "")))));
    assert_eq!(server.status("b", "").status, 202);
    assert_eq!(count(&server), 2);
}
