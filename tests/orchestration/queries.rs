//! Questions that an orchestration answers, and those that it answers badly.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::{Value, json};

use super::{completed, forgetful, seen, until, until_status};
use crate::support::{P3, Reply, Server, Setup, eventually, guests, wasm};

fn ask(server: &Server, id: &str, name: &str, input: &str) -> Reply {
    server.get(&format!("{P3}/instances/{id}/query/{name}?input={input}"))
}

#[track_caller]
fn answer(server: &Server, id: &str, name: &str, input: &str) -> Value {
    let reply = ask(server, id, name, input);
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json; charset=utf-8")), "{reply}");
    reply.json()
}

/// A shelf that has run its first turn.
fn shelf(server: &Server, id: &str, room: u32) {
    server.start_as(id, "Shelf", &room.to_string());
    eventually("the shelf", || (seen(server, id)["customStatus"] == "empty").then_some(()));
}

#[test]
fn answers_follow_the_state_through_events_the_end_and_restarts() {
    for limits in [dacapo::limits::Limits::default(), forgetful()] {
        let mut server = Setup::limits(limits).start();
        shelf(&server, "a", 3);
        assert_eq!(answer(&server, "a", "count", ""), 0);
        for (number, loaf) in [500, 750].into_iter().enumerate() {
            server.raise("a", "loaf", &loaf.to_string());
            eventually("the loaf", || (answer(&server, "a", "count", "") == number + 1).then_some(()));
        }
        assert_eq!(answer(&server, "a", "heavier%20than", "600"), json!([750]));
        assert_eq!(answer(&server, "a", "heavier+than", "1"), json!([500, 750]));
        server.kill();
        server.restart();
        assert_eq!(answer(&server, "a", "heavier+than", "600"), json!([750]));
        server.raise("a", "loaf", "1000");
        assert_eq!(completed(&server, "a"), 2_250);
        assert_eq!(answer(&server, "a", "count", ""), 3);
        server.kill();
        server.restart();
        assert_eq!(answer(&server, "a", "heavier+than", "600"), json!([750, 1000]));
    }
}

#[test]
fn a_question_that_nobody_knows_is_told_which_there_are() {
    let server = Server::start();
    shelf(&server, "a", 1);
    let reply = ask(&server, "a", "weight", "");
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (404, Some("unknown_query")), "{reply}");
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    for name in ["\"weight\"", "count", "heavier than", "take", "panic"] {
        assert!(message.contains(name), "{name:?} is not in {message:?}");
    }
}

#[test]
fn a_question_that_goes_wrong_is_an_error_and_changes_nothing() {
    let server = Setup::limits(dacapo::limits::Limits { turn_cpu_ms_max: 200, ..Default::default() }).start();
    shelf(&server, "a", 2);
    server.raise("a", "loaf", "500");
    until(&server, "a", "EventRaised", 1);
    eventually("the loaf", || (answer(&server, "a", "count", "") == 1).then_some(()));
    let (before, lines) = (seen(&server, "a"), server.lines("a"));
    for (name, input, kind) in [
        ("ask", "", "QueryAsked"),
        ("say", "", "QueryAsked"),
        ("panic", "", "Panic"),
        ("heavier+than", "%22much%22", "InvalidInput"),
    ] {
        let reply = ask(&server, "a", name, input);
        assert!((400..=599).contains(&reply.status), "{name}: {reply}");
        assert_eq!(reply.json()["error"]["kind"], kind, "{name}: {reply}");
    }
    let reply = ask(&server, "a", "loop", "");
    assert!(reply.status >= 500 && reply.text().contains("turn_cpu_ms_max"), "{reply}");
    // What a question takes is taken from a guest that nobody uses any more, and what it says is said to nobody.
    assert_eq!((answer(&server, "a", "take", ""), answer(&server, "a", "take", "")), (json!(500), json!(500)));
    assert_eq!((seen(&server, "a"), server.lines("a")), (before, lines));
    server.raise("a", "loaf", "750");
    assert_eq!(completed(&server, "a"), 1_250);
}

#[test]
fn who_waits_for_children_and_timers_answers_too() {
    let server = Setup::limits(forgetful()).start();
    server.start_as("parent", "CallChild", r#"{"function": "Shelf", "input": 1, "id": "child"}"#);
    until_status(&server, "child", "Running");
    assert_eq!(answer(&server, "child", "count", ""), 0);
    assert_eq!(ask(&server, "parent", "count", "").status, 404);
    server.raise("child", "loaf", "5");
    assert_eq!(completed(&server, "parent"), 5);
    assert_eq!(answer(&server, "child", "count", ""), 1);
}

/// The turns of a bad module stand in a line of their own, and questions about its instances stand behind them.
#[test]
fn questions_that_wait_behind_a_bad_module_do_not_hold_up_others() {
    let limits = dacapo::limits::Limits { turn_cpu_ms_max: 500, ..Default::default() };
    let server = Setup::limits(limits).start();
    server.upload("Bakery", "guests", &wasm::variant(guests::test_guests(), "bakery"));
    let start = |function: &str, id: &str, input: &str| {
        let reply = server.post(&format!("{P3}/orchestrators/{function}/{id}?taskHub=Bakery"), input);
        assert_eq!(reply.status, 202, "{reply}");
    };
    start("Shelf", "bad", "1");
    let status = format!("{P3}/instances/bad?taskHub=Bakery&edition=current");
    eventually("the shelf", || (server.get(&status).json()["customStatus"] == "empty").then_some(()));
    shelf(&server, "good", 1);
    start("Loop", "first", "");
    eventually("the first loop's end", || {
        let list = server.get(&format!("{P3}/instances?taskHub=Bakery&runtimeStatus=Failed")).json();
        (!list.as_array().expect("a list").is_empty()).then_some(())
    });
    // From now on they run one after the other, and take half a minute.
    (0..60).for_each(|number| start("Loop", &format!("loop-{number}"), ""));
    let asked: Vec<TcpStream> = (0..12)
        .map(|_| {
            let mut stream = TcpStream::connect(server.authority()).expect("connect");
            let head =
                format!("GET {P3}/instances/bad/query/count?taskHub=Bakery HTTP/1.1\r\nhost: {}\r\n\r\n", server.authority());
            stream.write_all(head.as_bytes()).expect("ask");
            stream
        })
        .collect();
    assert_eq!(answer(&server, "good", "count", ""), 0);
    drop(asked);
    assert_eq!(answer(&server, "good", "count", ""), 0);
}
