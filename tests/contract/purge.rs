//! Purging: one instance, and all that a filter lets through.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;

use serde_json::{Value, json};

use super::PREFIXES;
use crate::support::{Client, P3, Reply, Server, eventually, guests};

fn purge(client: &Client, id: &str) -> Reply {
    client.send("DELETE", &format!("{P3}/instances/{id}"), b"")
}

fn purge_many(client: &Client, query: &str) -> Reply {
    client.send("DELETE", &format!("{P3}/instances?{query}"), b"")
}

/// Status and body of a purge that has gone well: how many went.
fn deleted(count: usize) -> (u16, String) {
    (200, format!("{{\"instancesDeleted\":{count}}}"))
}

#[track_caller]
fn check(reply: &Reply, expected: (u16, String)) {
    assert_eq!((reply.status, reply.text().to_owned()), expected);
}

const NOT_THERE: (u16, String) = (404, String::new());

fn run_as(client: &Client, id: &str, function: &str, query: &str) {
    let reply = client.post(&format!("{P3}/orchestrators/{function}/{id}?timeout=60&{query}"), r#"{"count":1}"#);
    assert_eq!(reply.status, 200, "{reply}");
}

fn ids(client: &Client, query: &str) -> Vec<String> {
    let list = client.get(&format!("{P3}/instances?top=1000&{query}")).json();
    list.as_array().expect("a list").iter().map(|row| row["instanceId"].as_str().expect("an ID").to_owned()).collect()
}

#[test]
fn an_ended_instance_is_purged_on_every_prefix_and_is_gone_for_good() {
    let mut server = Server::start();
    for (number, prefix) in PREFIXES.into_iter().enumerate() {
        let id = format!("a-{number}");
        run_as(&server, &id, ["Race", "FailActivity", "Panic", "Sequence"][number], "");
        let reply = server.send("DELETE", &format!("{prefix}/Instances/{id}/"), b"");
        assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
        check(&reply, deleted(1));
        assert_eq!(server.status(&id, "").status, 404, "{prefix}");
        assert_eq!(server.get(&format!("{P3}/instances/{id}/logs")).status, 404);
        check(&server.send("DELETE", &format!("{prefix}/instances/{id}"), b""), NOT_THERE);
    }
    assert_eq!(ids(&server, ""), [""; 0]);
    server.kill();
    server.restart();
    assert_eq!(server.status("a-0", "").status, 404);
    // The ID is free, and whoever has it next begins anew.
    run_as(&server, "a-3", "Race", "");
    assert_eq!(server.finished("a-3")["name"], "Race");
}

#[test]
fn what_is_not_there_or_has_not_ended_is_not_purged() {
    let server = Server::start();
    server.start_as("loaf+17", "Forever", "");
    let reply = purge(&server, "loaf+17");
    assert_eq!(reply.status, 412, "{reply}");
    let why = reply.json();
    let why = why.as_str().expect("a JSON string");
    assert!(why.contains("loaf 17") && (why.contains("Running") || why.contains("Pending")), "{why}");
    assert_eq!(server.status("loaf+17", "").status, 202);
    check(&purge(&server, "nobody"), NOT_THERE);
    check(&purge(&server, "a%23b"), NOT_THERE);
    check(&purge(&server, "loaf+17?taskHub=Elsewhere"), NOT_THERE);
    check(&purge(&server, "@counter@loaves"), deleted(0));
    for query in ["taskHub=1", "connection=Elsewhere"] {
        let reply = purge(&server, &format!("loaf+17?{query}"));
        assert_eq!((reply.status, reply.keys().len()), (400, 4), "{reply}");
    }
    server.post(&format!("{P3}/instances/loaf+17/terminate"), "");
    check(&purge(&server, "loaf+17"), deleted(1));
}

#[test]
fn an_instance_can_be_purged_as_soon_as_its_end_can_be_seen_whoever_uses_its_id() {
    let server = Server::start();
    let client = server.clone();
    let starting = thread::spawn(move || (0..40).for_each(|_| run_as(&client, "a", "Race", "")));
    let mut purged = 0;
    while !starting.is_finished() {
        let ended = server.status("a", "edition=current").status == 200;
        let reply = purge(&server, "a");
        match reply.status {
            200 => purged += 1,
            // Started anew meanwhile; there is nobody else who purges.
            412 => (),
            404 => assert!(!ended, "{reply}"),
            _ => panic!("{reply}"),
        }
    }
    starting.join().expect("every start went through");
    assert!(purged > 0);
}

#[test]
fn a_filter_purges_what_has_ended_and_meets_all_conditions() {
    let server = Server::start();
    server.upload("Bakery", "guests", guests::test_guests());
    run_as(&server, "elsewhere", "Race", "taskHub=Bakery");
    let bake = || {
        for (id, function, tag) in [
            ("done", "Race", "north"),
            ("done-2", "Race", "south"),
            ("broken", "FailActivity", "north"),
            ("gone", "Collect", "west"),
        ] {
            let start = server.post(&format!("{P3}/orchestrators/{function}/{id}?tag.shop={tag}"), "9");
            assert_eq!(start.status, 202, "{start}");
        }
        server.post(&format!("{P3}/instances/gone/terminate"), "");
        ["done", "done-2", "broken"].into_iter().for_each(|id| drop(server.finished(id)));
    };
    server.start_as("busy", "Forever", "");
    let all = "createdTimeFrom=2020-01-01T00:00:00Z";
    for (query, left) in [
        ("", "busy"),
        ("runtimeStatus=Completed", "broken busy gone"),
        ("runtimeStatus=failed,Terminated,Running", "busy done done-2"),
        ("runtimeStatus=Baked", "busy"),
        ("instanceIdPrefix=done", "broken busy gone"),
        ("instanceIdPrefix=d&runtimeStatus=Failed,Completed&tag.shop=south", "broken busy done gone"),
        ("tag.shop=north", "busy done-2 gone"),
        ("createdTimeTo=2999-01-01T00:00:00Z", "busy"),
        ("createdTimeTo=tomorrow", "busy"),
    ] {
        bake();
        let before = ids(&server, "").len();
        let reply = purge_many(&server, &format!("{all}&{query}"));
        let mut seen = ids(&server, "");
        seen.sort();
        assert_eq!(seen.join(" "), left, "{query}: {reply}");
        check(&reply, deleted(before - seen.len()));
    }
    bake();
    for query in [
        "runtimeStatus=Running",
        "runtimeStatus=Running,Pending,Suspended,ContinuedAsNew",
        "runtimeStatus=Canceled",
        "createdTimeTo=2020-01-02T00:00:00Z",
        "instanceIdPrefix=@",
        "tag.shop=east",
        "taskHub=Elsewhere",
    ] {
        check(&purge_many(&server, &format!("{all}&{query}")), NOT_THERE);
    }
    check(&purge_many(&server, "createdTimeFrom=2999-01-01T00:00:00Z"), NOT_THERE);
    assert_eq!(ids(&server, "").len(), 5);
    assert_eq!(ids(&server, "taskHub=Bakery"), ["elsewhere"]);
}

#[test]
fn a_filter_has_to_say_since_when_on_every_prefix() {
    let server = Server::start();
    run_as(&server, "a", "Race", "");
    for prefix in PREFIXES {
        for query in
            ["", "runtimeStatus=Completed", "createdTimeFrom=", "createdTimeFrom=yesterday", "createdTimeTo=2999-01-01T00:00:00Z"]
        {
            let reply = server.send("DELETE", &format!("{prefix}/instances?{query}"), b"");
            assert_eq!(reply.status, 400, "{prefix} {query}: {reply}");
            assert!(reply.json().as_str().is_some_and(|why| why.contains("createdTimeFrom")), "{reply}");
        }
    }
    let reply = purge_many(&server, "createdTimeFrom=2020-01-01T00:00:00Z&tag.a%20b=1");
    assert_eq!((reply.status, reply.keys().len()), (400, 4), "{reply}");
    assert_eq!(ids(&server, ""), ["a"]);
    for prefix in PREFIXES {
        run_as(&server, "b", "Race", "");
        let reply = server.send(
            "DELETE",
            &format!("{prefix}/instances/?createdTimeFrom=2020-01-01T00:00:00.000000Z&instanceIdPrefix=b"),
            b"",
        );
        check(&reply, deleted(1));
    }
}

/// Starts so many and waits for their ends.
fn bake(server: &Server, count: usize) {
    (0..count).for_each(|number| server.start_as(&format!("loaf-{number}"), "Race", ""));
    eventually("the ends", || ids(server, "runtimeStatus=Running,Pending").is_empty().then_some(()));
}

#[test]
fn many_go_in_slices_while_others_run() {
    let server = Server::start();
    bake(&server, 450);
    server.start_as("busy", "Forever", "");
    let client = server.clone();
    let purging = thread::spawn(move || purge_many(&client, "createdTimeFrom=2020-01-01T00:00:00Z"));
    while !purging.is_finished() {
        assert_eq!(server.output("Sequence", r#"{"count":1}"#), json!([0]));
    }
    let reply = purging.join().expect("it is answered");
    let count = reply.json()["instancesDeleted"].as_u64().expect("a number");
    assert!(count >= 450, "{reply}"); // The first of the others may have ended before it was asked for.
    assert!(ids(&server, "instanceIdPrefix=loaf-").is_empty());
    assert!(ids(&server, "").contains(&"busy".to_owned()));
}

#[test]
fn a_client_that_hangs_up_leaves_a_purge_that_can_be_asked_for_again() {
    let server = Server::start();
    bake(&server, 450);
    let query = "createdTimeFrom=2020-01-01T00:00:00Z";
    let mut stream = TcpStream::connect(server.authority()).expect("connect");
    let request = format!("DELETE {P3}/instances?{query} HTTP/1.1\r\nHost: {}\r\n\r\n", server.authority());
    stream.write_all(request.as_bytes()).expect("ask");
    eventually("a slice", || (ids(&server, "").len() < 450).then_some(()));
    drop(stream);
    // Whatever it has left is whole.
    for id in ids(&server, "") {
        assert!(matches!(server.status(&id, "showHistory=true").status, 200 | 404));
    }
    assert!(matches!(purge_many(&server, query).status, 200 | 404));
    assert_eq!(ids(&server, ""), [""; 0]);
    assert_eq!(server.output("Sequence", r#"{"count":1}"#), json!([0]));
}

#[test]
fn a_server_that_stops_in_the_middle_of_a_purge_says_how_far_it_has_come() {
    let mut server = Server::start();
    bake(&server, 450);
    let client = server.clone();
    let purging = thread::spawn(move || purge_many(&client, "createdTimeFrom=2020-01-01T00:00:00Z"));
    eventually("a slice", || (ids(&server, "").len() < 450).then_some(()));
    server.stop();
    let reply = purging.join().expect("it is answered");
    server.restart();
    let left = ids(&server, "").len();
    match reply.status {
        503 => {
            let why = reply.json()["ExceptionMessage"].as_str().expect("a text").to_owned();
            assert!(why.contains(&format!("{} instances were purged", 450 - left)), "{why}");
            check(&purge_many(&server, "createdTimeFrom=2020-01-01T00:00:00Z"), deleted(left));
        }
        _ => check(&reply, deleted(450)),
    }
    assert_eq!(ids(&server, ""), [""; 0]);
}

#[test]
fn an_answer_to_a_purged_parent_is_given_to_nobody() {
    let server = Server::start();
    let call = |child: &str| json!({"function": "Collect", "input": 1, "id": child}).to_string();
    server.start_as("parent", "CallChild", &call("first"));
    eventually("the child", || (server.status("first", "").status == 202).then_some(()));
    server.post(&format!("{P3}/instances/parent/terminate"), "");
    check(&purge(&server, "parent"), deleted(1));
    assert_eq!(server.status("first", "").status, 202, "a child is not touched");
    server.start_as("parent", "CallChild", &call("second"));
    server.raise("first", "item", "1");
    server.finished("first");
    eventually("the child", || (server.status("second", "").status == 202).then_some(()));
    assert_eq!(server.status("parent", "").status, 202);
    server.raise("second", "item", "2");
    assert_eq!(server.finished("parent")["output"], json!([2]));
    check(&purge(&server, "second"), deleted(1));
    let child: &Value = &server.finished("parent")["historyEvents"][1];
    assert_eq!((&child["InstanceId"], &child["Result"]), (&json!("second"), &json!([2])));
}

#[test]
fn making_primary_is_answered_on_every_prefix() {
    let server = Server::start();
    for prefix in PREFIXES {
        for method in ["GET", "POST", "DELETE"] {
            check(&server.send(method, &format!("{prefix}/MakePrimary/"), b""), (200, String::new()));
        }
        assert_eq!(server.put(&format!("{prefix}/makeprimary"), "").status, 405);
    }
}
