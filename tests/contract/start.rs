//! Starting an instance.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dacapo::limits::Limits;
use serde_json::{Value, json};

use super::PREFIXES;
use crate::support::server::HUB;
use crate::support::{DEADLINE_S, P3, Reply, Server, Setup, eventually, golden};

const JSON: &str = "application/json; charset=utf-8";

#[test]
fn a_start_is_accepted_under_every_prefix_with_the_urls_of_the_new_instance() {
    let server = Server::start();
    for path in PREFIXES.into_iter().chain(["/api"]) {
        let reply = server.post(&format!("{path}/orchestrators/Sequence"), r#"{"count":1}"#);
        assert_eq!(reply.status, 202, "{path}: {reply}");
        assert_eq!(reply.header("content-type"), Some(JSON));
        assert_eq!(reply.header("retry-after"), Some("10"));
        let body = reply.json();
        assert_eq!(reply.header("location"), body["statusQueryGetUri"].as_str());
        let id = body["id"].as_str().unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        // Whichever prefix was used, all URLs have the canonical one.
        golden::check("start", reply.text(), &[(id, "<id>"), (&server.origin, "http://server")]);
        server.finished(id);
    }
}

#[test]
fn an_id_that_the_server_draws_begins_with_the_time() {
    let server = Server::start();
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let began_ms = now_ms();
    let id = |reply: Reply| reply.json()["id"].as_str().expect("it has been accepted").to_owned();
    let first = id(server.post(&format!("{P3}/orchestrators/Sequence"), r#"{"count":1}"#));
    server.finished(&first);
    let again = id(server.post(&format!("{P3}/instances/{first}/restart"), ""));
    for id in [first, again] {
        let drawn_ms = u128::from_str_radix(&id[..12], 16).expect("hex digits");
        assert!((began_ms..=now_ms()).contains(&drawn_ms), "{id}");
    }
}

#[test]
fn the_location_of_a_start_leads_to_the_instance() {
    let server = Server::start();
    for (path, id) in [("loaf-17", "loaf-17"), ("a%20b", "a b"), ("c+d", "c d"), ("%C3%9C%3A1%2B1", "Ü:1+1"), ("m@%25", "m@%")] {
        let reply = server.post(&format!("{P3}/orchestrators/Race/{path}"), "");
        assert_eq!(reply.status, 202, "{path}: {reply}");
        assert_eq!(reply.json()["id"], id);
        let status = server.get(reply.header("location").unwrap());
        assert!(matches!(status.status, 200 | 202), "{path}: {status}");
        assert_eq!(status.json()["instanceId"], id);
    }
}

#[test]
fn a_function_is_found_in_any_case_and_shown_as_it_was_called() {
    let server = Server::start();
    server.start_as("a", "sEQUENCE", r#"{"count":1}"#);
    let status = server.finished("a");
    assert_eq!(status["name"], "sEQUENCE");
    assert_eq!(status["output"], json!([0]));
}

#[test]
fn a_body_of_nothing_or_blanks_is_null() {
    let server = Server::start();
    for (id, body) in [("none", ""), ("blank", " \t\r\n"), ("null", "null"), ("mark", "\u{feff}"), ("marked", "\u{feff}null")] {
        server.start_as(id, "Race", body);
        assert_eq!(server.status(id, "").member("input"), "null", "{id}");
        server.finished(id);
    }
}

#[test]
fn no_content_type_is_asked_for_and_a_chunked_body_of_nothing_is_none() {
    let server = Server::start();
    for kind in ["application/octet-stream", "text/plain", "application/x-www-form-urlencoded", ""] {
        let reply = server.with_header("content-type", kind).run("Sequence", r#"{"count":2}"#);
        assert_eq!((reply.status, reply.text()), (200, "[0,1]"), "{kind}");
    }
    let host = server.authority();
    for (chunks, input) in [("0\r\n\r\n", "null"), ("4\r\n[1, \r\n2\r\n2]\r\n0\r\n\r\n", "[1, 2]")] {
        let request = format!(
            "POST {P3}/orchestrators/Race HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        );
        let reply = server.raw(&request);
        let id = reply.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(server.status(&id, "").member("input"), input);
        server.finished(&id);
    }
}

#[test]
fn an_input_comes_back_byte_for_byte() {
    let server = Server::start();
    let inputs = [
        "12345678901234567890123",
        "-0.0",
        "1e400",
        "1.10",
        r#"{"b":1,"a":2,"b":3}"#,
        r#"{ "spaced" : [ 1 ,2 ] }"#,
        r#""2026-03-01T08:00:00.0000000Z""#,
        r#""\u00fcber \ud83c\udf5e 🍞 \/ ü""#,
        r#""\ud800""#,
        r#"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"#,
    ];
    for (number, input) in inputs.into_iter().enumerate() {
        let id = format!("input-{number}");
        server.start_as(&id, "Race", input);
        assert_eq!(server.status(&id, "").member("input"), input);
        // Not every parser of JSON reads all of this, so the answer is taken as text.
        eventually("its end", || (server.status(&id, "").status == 200).then_some(()));
        assert_eq!(server.status(&id, "").member("input"), input);
        let history = server.status(&id, "showHistory=true").member("historyEvents");
        let quoted = serde_json::to_string(input).unwrap();
        assert!(history.contains(&format!("\"Input\":{quoted}}}")), "there it is text that holds JSON: {history}");
    }
}

#[track_caller]
fn assert_long_form(reply: &Reply, message: &str) {
    assert_eq!(reply.status, 400, "{reply}");
    assert_eq!(reply.header("content-type"), Some(JSON));
    assert_eq!(reply.keys(), ["Message", "ExceptionMessage", "ExceptionType", "StackTrace"]);
    assert_eq!(reply.json()["Message"], message);
    assert!(reply.json()["ExceptionMessage"].as_str().is_some_and(|text| !text.is_empty()), "{reply}");
}

#[test]
fn a_body_that_is_not_json_is_refused_and_nothing_starts() {
    let server = Server::start();
    let deep = "[".repeat(100_000);
    let bodies: [&[u8]; 9] =
        [b"{", b"{'a':1}", b"[1] 2", b"// no\n1", b"[1,]", b"NaN", b"\xff\xfe", b"\"a\nb\"", deep.as_bytes()];
    for body in bodies {
        let reply = server.post(&format!("{P3}/orchestrators/Race/bad"), body);
        assert_long_form(&reply, "Invalid JSON content");
        assert_eq!(server.status("bad", "").status, 404);
    }
}

#[test]
fn an_unknown_orchestrator_is_refused_in_words_that_clients_read() {
    let server = Server::start();
    // An activity is no orchestrator.
    for name in ["NobodyHasThis", "Echo", "Race%20"] {
        let reply = server.post(&format!("{P3}/orchestrators/{name}/a"), "1");
        assert_long_form(&reply, "One or more of the arguments submitted is incorrect");
        assert!(reply.json()["ExceptionMessage"].as_str().unwrap().contains(name.trim_end_matches("%20")), "{reply}");
    }
    let reply = server.post(&format!("{P3}/orchestrators/NobodyHasThis"), "");
    golden::check("unknown-orchestrator", reply.text(), &[]);
    assert_eq!(server.status("a", "").status, 404);
}

#[test]
fn an_id_has_to_follow_the_rules() {
    let server = Server::start();
    let emoji = "%F0%9F%8D%9E"; // Two units of UTF-16.
    for bad in ["@x", &"x".repeat(257), &emoji.repeat(129), "a%5Cb", "a%23b", "a%3Fb", "a%0Ab", "a%7Fb", "a%C2%85b"] {
        let reply = server.post(&format!("{P3}/orchestrators/Race/{bad}"), "");
        assert_long_form(&reply, "One or more of the arguments submitted is incorrect");
        assert_eq!(server.get(&format!("{P3}/instances/{bad}")).status, 404, "elsewhere an impossible ID is just unknown");
    }
    for good in ["x".repeat(256), emoji.repeat(128), "x@y".into(), "%20".into(), "a.b:c-d_e!f*g(h)'i".into(), "%C3%9F".into()] {
        let reply = server.post(&format!("{P3}/orchestrators/Race/{good}"), "");
        assert_eq!(reply.status, 202, "{good}: {reply}");
        assert!(matches!(server.get(reply.header("location").unwrap()).status, 200 | 202), "{good}");
    }
    let reply = server.post(&format!("{P3}/orchestrators/Race/a%2Fb"), "");
    assert_eq!((reply.status, reply.text()), (404, ""), "a slash makes another path");
}

#[test]
fn the_version_of_a_start_is_a_label_of_the_instance() {
    let server = Server::start();
    for (id, query) in [("a", "version=1.5"), ("b", "Version=2"), ("c", "")] {
        assert_eq!(server.post(&format!("{P3}/orchestrators/Forever/{id}?{query}"), "").status, 202);
    }
    let listed = server.get(&format!("{P3}/instances?tag.version=1.5")).json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["instanceId"]), (1, &"a".into()));
}

#[test]
fn tags_have_to_follow_the_rules() {
    let server = Server::start();
    let many: String = (0..17).map(|number| format!("&tag.n{number}=1")).collect();
    let long = format!("tag.a={}", "x".repeat(257));
    for prefix in PREFIXES.into_iter().chain(["/api"]) {
        for (bad, rule) in [
            ("tag.=1", "1 to 64 letters"),
            ("tag.a%20b=1", "1 to 64 letters"),
            ("tag.a=1&tag.a=1", "given twice"),
            (long.as_str(), "may have 256"),
            (many.as_str(), "16 tags"),
        ] {
            let reply = server.post(&format!("{prefix}/orchestrators/Race/bad?{bad}"), "");
            assert_long_form(&reply, "One or more of the arguments submitted is incorrect");
            assert!(reply.json()["ExceptionMessage"].as_str().unwrap().contains(rule), "{bad}: {reply}");
        }
    }
    assert_eq!(server.status("bad", "").status, 404);
    let reply = server.post(&format!("{P3}/orchestrators/Race/a?tag.shop=north&tag.empty=&tag"), "");
    assert_eq!(reply.status, 202, "{reply}");
    assert_eq!(server.status("a", "").keys().len(), 8, "the status has no place for tags");
    server.finished("a");
}

#[test]
fn ids_differ_by_case() {
    let server = Server::start();
    server.start_as("loaf", "Forever", "1");
    server.start_as("Loaf", "Forever", "2");
    assert_eq!(server.status("loaf", "").json()["input"], 1);
    assert_eq!(server.status("LOAF", "").status, 404);
}

#[test]
fn a_live_id_is_refused_and_its_instance_goes_on_untouched() {
    let server = Server::start();
    server.start_as("a", "Forever", "1");
    let reply = server.post(&format!("{P3}/orchestrators/Race/a"), "2");
    assert_eq!((reply.status, reply.keys()), (409, vec!["Message".to_owned()]), "{reply}");
    assert!(reply.json()["Message"].as_str().unwrap().contains("instance a exists"), "{reply}");
    let status = server.status("a", "").json();
    assert_eq!((&status["name"], &status["input"]), (&json!("Forever"), &json!(1)));
}

#[test]
fn of_many_starts_of_one_id_exactly_one_wins() {
    let server = Server::start();
    let start = |input: usize| server.post(&format!("{P3}/orchestrators/Forever/a"), input.to_string()).status;
    let codes: Vec<u16> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|input| scope.spawn(move || start(input))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == 202).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 409).count(), 7, "{codes:?}");
    let winner = codes.iter().position(|code| *code == 202).unwrap();
    assert_eq!(server.status("a", "").json()["input"], winner);
}

#[test]
fn a_finished_id_is_replaced_and_has_a_fresh_history() {
    let server = Server::start();
    // From Completed, then from Failed.
    for (function, input) in [("Sequence", r#"{"count":3}"#), ("FailActivity", "1"), ("Panic", "2")] {
        server.start_as("a", function, input);
        let before = server.finished("a");
        assert!(before["historyEvents"].as_array().unwrap().len() >= 2, "{before}");
        server.start_as("a", "Race", "9");
        let after = server.finished("a");
        assert_eq!(after["runtimeStatus"], "Completed");
        assert_eq!(after["input"], 9);
        let events = after["historyEvents"].as_array().unwrap();
        let count = |kind: &str| events.iter().filter(|event| event["EventType"] == kind).count();
        assert_eq!((count("ExecutionStarted"), count("ExecutionCompleted")), (1, 1), "{after}");
        assert_eq!(events[0]["Input"], "9");
    }
    server.start_as("a", "Status", "");
    assert_eq!(server.finished("a")["customStatus"], json!({ "baked": 3 }));
    server.start_as("a", "Forever", "");
    assert_eq!(server.status("a", "").json()["customStatus"], Value::Null, "the old custom status is gone too");
    assert_eq!(server.status("a", "").json()["output"], Value::Null);
}

/// Who has seen an end may use the ID again at once, although the server may still be busy with what follows from the end.
#[test]
fn an_id_is_free_as_soon_as_its_end_is_seen() {
    let server = Server::start();
    let rounds = &|id: &str| {
        for round in 0..40 {
            let reply = server.post(&format!("{P3}/orchestrators/Status/{id}"), "");
            assert_eq!(reply.status, 202, "round {round}: {reply}");
            let began = Instant::now();
            while server.status(id, "").status == 202 {
                assert!(began.elapsed() < Duration::from_secs(DEADLINE_S), "round {round} does not end");
            }
        }
    };
    thread::scope(|scope| {
        for id in ["a", "b", "c", "d", "e", "f"] {
            scope.spawn(move || rounds(id));
        }
    });
}

#[test]
fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let server = Setup::limits(Limits { payload_bytes_max: 1_000, ..Limits::default() }).start();
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    server.start_as("fits", "Race", &text(1_000));
    assert_eq!(server.finished("fits")["runtimeStatus"], "Completed");
    let reply = server.post(&format!("{P3}/orchestrators/Race/a"), text(1_001));
    assert_eq!(reply.status, 413, "{reply}");
    assert!(reply.text().contains("payload_bytes_max"), "{reply}");
    // One that does not say beforehand how long it is.
    let host = server.authority();
    let chunk = format!("3e9\r\n{}\r\n0\r\n\r\n", text(1_001));
    let head = format!("POST {P3}/orchestrators/Race/a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    let reply = server.raw(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}"));
    assert_eq!(reply.status, 413, "{reply}");
    assert_eq!(server.status("a", "").status, 404);
}

#[test]
fn a_body_that_announces_too_much_is_refused_before_it_is_sent() {
    let server = Server::start();
    let head = format!("POST {P3}/orchestrators/Race HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", server.authority());
    let reply = server.raw(&format!("{head}Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n"));
    assert_eq!(reply.status, 413, "{reply}");
}

#[test]
fn a_hub_or_connection_that_cannot_be_is_refused() {
    let server = Server::start();
    let long = format!("taskHub={}", "x".repeat(46));
    for query in ["taskHub=ab", "taskHub=1abc", "taskHub=a-b-c", &long, "connection=Elsewhere"] {
        let reply = server.post(&format!("{P3}/orchestrators/Race/a?{query}"), "");
        assert_long_form(&reply, "One or more of the arguments submitted is incorrect");
    }
    // Given twice, the values are joined with a comma, and such a name no hub can have.
    let reply = server.post(&format!("{P3}/orchestrators/Race/a?taskHub=Bakery&TASKHUB=Bakery"), "");
    assert_long_form(&reply, "One or more of the arguments submitted is incorrect");
    let reply = server.post(&format!("{P3}/orchestrators/Race/a?taskHub=+&connection=sTORAGE&connectionName=Elsewhere&x"), "");
    assert_eq!(reply.status, 202, "{reply}");
    assert!(reply.header("location").unwrap().ends_with(&format!("taskHub={HUB}&connection=Storage")), "{reply}");
}

#[test]
fn what_no_url_or_client_could_bear_is_refused() {
    let server = Server::start();
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (path, body, why) in [
        (".", "", "stands for a folder"),
        ("%2e%2E", "", "stands for a folder"),
        ("%ff", "", "UTF-8"),
        ("a", deep.as_str(), "127 deep"),
    ] {
        // A client would take the first two out of the path by itself.
        let (origin, length) = (server.authority(), body.len());
        let reply = server.raw(&format!(
            "POST {P3}/orchestrators/Race/{path} HTTP/1.1\r\nhost: {origin}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        ));
        assert_eq!(reply.status, 400, "{path}: {reply}");
        assert!(reply.json()["ExceptionMessage"].as_str().is_some_and(|message| message.contains(why)), "{reply}");
    }
}

#[test]
fn a_body_that_was_packed_on_the_way_is_refused() {
    let server = Server::start();
    let check = |header: &str, code: u16| {
        let head = format!("POST {P3}/orchestrators/Race HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", server.authority());
        let reply = server.raw(&format!("{head}{header}\r\n\r\n0\r\n\r\n"));
        assert_eq!(reply.status, code, "{header}: {reply}");
    };
    check("transfer-encoding: chunked", 202);
    check("transfer-encoding: gzip, chunked", 501);
    check("transfer-encoding: chunked\r\ncontent-encoding: gzip", 415);
}

#[test]
fn nobody_waits_when_too_many_wait() {
    let limits = Limits { requests_waiting_max: 0, ..Limits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    let reply = server.post(&format!("{P3}/orchestrators/Forever/a?timeout=300"), "");
    assert_eq!(reply.status, 202, "as if the time were up");
    assert_eq!(server.status("a", "wait=300").status, 202);
}
