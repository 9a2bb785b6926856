//! What a guest answers, in `begin`, `advance` and `invoke`: what is wrong, endless or too much fails its own instance, with the cause.

use dacapo::limits::Limits;
use serde_json::json;

use super::{assert_parts, failure, quick_limits, resident_bytes};
use crate::support::server::HUB;
use crate::support::wasm::{self, Bodies};
use crate::support::{DEADLINE_S, P3, Server, Setup, eventually, eventually_within, guests};

#[test]
fn a_guest_that_answers_with_what_is_no_json_has_failed() {
    let server = Server::start();
    // Completed, with the text at address 512.
    let liar = wasm::liar(&[0, 0, 0, 0, 0, 1, 0, 512, 8], r#"(data (i32.const 512) "not json")"#);
    server.upload(HUB, "liar", &liar);
    let failure = failure(&server, "Liar", "");
    assert_eq!(failure["ErrorType"], "InvalidJson");
    assert_parts(failure["ErrorMessage"].as_str().unwrap(), &["result", "not JSON"]);
}

#[test]
fn a_guest_that_lies_about_task_numbers_has_failed() {
    let server = Server::start();
    // One action, at address 512: cancel task 7.
    let liar = wasm::liar(&[512, 1, 0, 0, 0, 0, 0, 0, 0], r#"(data (i32.const 512) "\03\00\00\00\00\00\00\00\07\00\00\00")"#);
    server.upload(HUB, "liar", &liar);
    assert_parts(failure(&server, "Liar", "")["ErrorMessage"].as_str().unwrap(), &["cancels task 7"]);
}

#[test]
fn a_custom_status_over_its_bound_has_failed() {
    let server = Server::start();
    // A custom status of 9,002 characters, which are two bytes each in UTF-16, at address 512.
    let text = format!(r#"(data (i32.const 512) "\22{}\22")"#, "x".repeat(9_000));
    server.upload(HUB, "liar", &wasm::liar(&[0, 0, 1, 512, 9_002, 0, 0, 0, 0], &text));
    let failure = failure(&server, "Liar", "");
    assert_eq!(failure["ErrorType"], "LimitExceeded");
    assert_parts(failure["ErrorMessage"].as_str().unwrap(), &["custom status", "18004", "16384"]);
}

#[test]
fn a_guest_that_asks_for_what_is_not_offered_has_failed() {
    let server = Server::start();
    // One action, at address 512: an extension with name and value at 600.
    let extension = r#"(data (i32.const 512) "\0c\00\00\00\00\00\00\00\58\02\00\00\04\00\00\00\5c\02\00\00\04\00\00\00")
        (data (i32.const 600) "warpnull")"#;
    server.upload(HUB, "liar", &wasm::liar(&[512, 1, 0, 0, 0, 0, 0, 0, 0], extension));
    let failure = failure(&server, "Liar", "");
    assert_eq!(failure["ErrorType"], "NotOffered");
    assert_parts(failure["ErrorMessage"].as_str().unwrap(), &["warp"]);
}

#[test]
fn a_guest_that_points_outside_its_memory_has_failed() {
    let server = Server::start();
    for (number, progress) in
        [[0, 0, 0, 0, 0, 1, 0, 65_000, 9_000], [512, u32::MAX, 0, 0, 0, 0, 0, 0, 0], [0, 0, 9, 0, 0, 9, 9, 0, 0]]
            .into_iter()
            .enumerate()
    {
        server.upload(&format!("Hub{number}"), "liar", &wasm::liar(&progress, ""));
        let reply = server.post(&format!("{P3}/orchestrators/Liar/a?taskHub=Hub{number}&timeout=60"), "");
        assert_eq!((reply.status, reply.json()["runtimeStatus"].as_str()), (200, Some("Failed")), "{progress:?}: {reply}");
    }
}

const LOOPS: &str = "(loop $again br $again)";
const GROWS: &str = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))";
const DOWN: &str = "(func $down (call $down))";

/// How much a guest says that says too much, in bytes: 100 MB.
const LONG: u32 = 100 << 20;

/// How much more memory the server may hold when all is over than before, in bytes.
const GROWTH_MAX: u64 = 64 << 20;

/// How many pages hold it, with the one before it.
const LONG_PAGES: u32 = LONG / (64 << 10) + 2;

/// A bound on guests that lets one have so much, and the others as they are in [`quick_limits`].
fn roomy() -> Limits {
    Limits { guest_memory_bytes_max: 256 << 20, ..quick_limits() }
}

/// A guest, and parts of what is said of it.
type Case = (&'static str, Vec<u8>, &'static [&'static str]);

/// An orchestrator with these bodies of `begin` and `advance`.
fn orchestrator(begin: &str, advance: &str, rest: &str) -> Vec<u8> {
    Bodies { pages: 1_000, begin, advance, rest, ..Bodies::default() }.liar()
}

/// One that answers with this progress. It may name data at 512, and all of its memory.
fn answering(pages: u32, progress: &[u32], data: &str) -> Vec<u8> {
    let rest = format!("{} {data}", wasm::at_128(progress));
    Bodies { pages, advance: "i32.const 128", rest: &rest, ..Bodies::default() }.liar()
}

/// One that asks for so many things of this kind, each with the text at address 65,536 of so many bytes.
fn asking(count: u32, kind: u32, length: u32) -> Vec<u8> {
    const ACTION: u32 = 72;
    const FIRST: u32 = 4 << 20;
    let end = FIRST + count * ACTION;
    let advance = format!(
        "(local $at i32) (local.set $at (i32.const {FIRST}))
         (loop $next
            (i32.store8 (local.get $at) (i32.const {kind}))
            (i32.store offset=8 (local.get $at) (i32.const 65536))
            (i32.store offset=12 (local.get $at) (i32.const {length}))
            (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const {ACTION}))) (i32.const {end}))))
         (i32.const 128)"
    );
    orchestrator("", &advance, &wasm::at_128(&[FIRST, count, 0, 0, 0, 0]))
}

/// What no orchestrator may do.
fn orchestrators() -> Vec<Case> {
    const TIMER: u32 = 1;
    const WAIT_EVENT: u32 = 2;
    let completed = |address: u32, length: u32| [0, 0, 0, 0, 0, 1, 0, address, length];
    let call = |attempt: u32, first: u32| {
        let call = [0, 0, 100, 12, 600, 4, attempt, 1, first, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let data = format!(r#"(data (i32.const 512) "{}") (data (i32.const 600) "null")"#, wasm::words(&call));
        answering(1, &[512, 1, 0, 0, 0, 0], &data)
    };
    let text = |text: &str| format!(r#"(data (i32.const 512) "{text}")"#);
    vec![
        ("begin loops", orchestrator(LOOPS, "unreachable", ""), &["turn_cpu_ms_max", "100 ms"]),
        ("begin grows", orchestrator(GROWS, "unreachable", ""), &["guest_memory_bytes_max"]),
        ("begin recurses", orchestrator("(call $down)", "unreachable", DOWN), &["recursed too deep"]),
        ("begin traps", orchestrator("unreachable", "unreachable", ""), &["unreachable"]),
        ("advance loops", orchestrator("", "(loop $again br $again) unreachable", ""), &["turn_cpu_ms_max"]),
        ("advance grows", orchestrator("", &format!("{GROWS} unreachable"), ""), &["guest_memory_bytes_max"]),
        ("advance recurses", orchestrator("", "(call $down) unreachable", DOWN), &["recursed too deep"]),
        ("200,000 timers", asking(200_000, TIMER, 0), &["tasks_max", "50"]),
        ("waits for 10,000 events of one name of a megabyte", asking(10_000, WAIT_EVENT, 1 << 20), &["handed over more"]),
        ("a list beyond its memory", answering(1, &[512, 0x0fff_ffff, 0, 0, 0, 0], ""), &["out of bounds"]),
        ("100 MB beyond its memory", answering(1, &completed(512, LONG), ""), &["out of bounds"]),
        ("100 MB", answering(LONG_PAGES, &completed(65_536, LONG), ""), &["104857600 bytes", "payload_bytes_max"]),
        ("a custom status of 100 MB", answering(LONG_PAGES, &[0, 0, 1, 65_536, LONG, 0], ""), &["custom status", "104857600"]),
        ("no UTF-8", answering(1, &completed(512, 4), &text("\\22\\ff\\fe\\22")), &["utf-8"]),
        ("half a character", answering(1, &completed(512, 3), &text("\\22\\c3\\22")), &["utf-8"]),
        ("half of JSON", answering(1, &completed(512, 4), &text("[1,2")), &["result", "not JSON"]),
        ("two values", answering(1, &completed(512, 3), &text("1 2")), &["result", "not JSON"]),
        ("attempt 2 of a task to come", call(2, 5), &["LiarActivity", "attempt 2", "task 5"]),
        ("attempt 1 of another task", call(1, 0), &["LiarActivity", "attempt 1", "task 0"]),
        ("attempt 0", call(0, 0), &["LiarActivity", "attempt 0"]),
        (
            "keeps an event that it never got",
            answering(
                1,
                &[0, 0, 0, 0, 0, 1, 2, 512, 4, 600, 2, 0, 0, 0],
                &(text("null") + r#"(data (i32.const 600) "\07\00\00\00\07")"#),
            ),
            &["keeps event 7"],
        ),
    ]
}

/// One that calls its own activity, which has this body of `invoke`.
fn calling(pages: u32, imports: &str, invoke: &str, rest: &str) -> Vec<u8> {
    let call = [0, 0, 100, 12, 600, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let rest = format!(
        r#"{} (data (i32.const 512) "{}") (data (i32.const 600) "null") {rest}"#,
        wasm::at_128(&[512, 1, 0, 0, 0, 0]),
        wasm::words(&call)
    );
    Bodies { pages, imports, advance: ONCE, invoke, rest: &(rest + TURN), ..Bodies::default() }.liar()
}

/// The body of an `advance` that must not be called again.
const ONCE: &str = "(if (global.get $turn) (then unreachable)) (global.set $turn (i32.const 1)) (i32.const 128)";
const TURN: &str = "(global $turn (mut i32) (i32.const 0))";

/// What no activity may do.
fn activities() -> Vec<Case> {
    let result = |pages: u32, address: u32, length: u32, data: &str| {
        let rest = format!(r#"(data (i32.const 256) "{}") {data}"#, wasm::words(&[0, address, length]));
        calling(pages, "", "i32.const 256", &rest)
    };
    let reports = r#"(import "dacapo:guest/heartbeat@0.1.0" "report" (func $report (param i32 i32)))"#;
    let report =
        |pages: u32| calling(pages, reports, &format!("(call $report (i32.const 65536) (i32.const {LONG})) unreachable"), "");
    let then_trap = |body: &str| calling(1, "", &format!("{body} unreachable"), DOWN);
    vec![
        ("invoke loops", then_trap(LOOPS), &["LiarActivity", "activity_ms_max"]),
        ("invoke grows", then_trap(GROWS), &["LiarActivity", "guest_memory_bytes_max"]),
        ("invoke recurses", then_trap("(call $down)"), &["LiarActivity", "recursed too deep"]),
        ("invoke traps", then_trap(""), &["LiarActivity", "unreachable"]),
        ("100 MB beyond its memory", result(1, 512, LONG, ""), &["out of bounds"]),
        ("100 MB", result(LONG_PAGES, 65_536, LONG, ""), &["104857600 bytes", "payload_bytes_max"]),
        ("no UTF-8", result(1, 700, 2, r#"(data (i32.const 700) "\ff\fe")"#), &["utf-8"]),
        ("no JSON", result(1, 700, 2, r#"(data (i32.const 700) "{{")"#), &["result", "not JSON"]),
        ("a report of 100 MB beyond its memory", report(1), &["out of bounds"]),
        ("a report of 100 MB", report(LONG_PAGES), &["heartbeat_bytes_max"]),
    ]
}

/// Runs each of them, and says how it failed. What is uploaded under one name takes its place.
fn check_orchestrators(server: &Server, cases: &[Case]) {
    for (what, module, parts) in cases {
        server.upload(HUB, "liar", module);
        let message = failure(server, "Liar", "")["ErrorMessage"].to_string();
        for part in *parts {
            assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
        }
    }
}

fn check_activities(server: &Server, cases: &[Case]) {
    for (what, module, parts) in cases {
        server.upload(HUB, "liar", module);
        let id = server.start("Liar", "");
        let status = server.finished(&id);
        let answer = &status["historyEvents"][1];
        assert_eq!(answer["EventType"], "TaskFailed", "{what}: {status}");
        let message = answer["FailureDetails"]["ErrorMessage"].to_string();
        for part in *parts {
            assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
        }
    }
}

/// The guests of each round have, and say, a gigabyte all together. What the server holds on to is what it needs for itself.
#[test]
fn whatever_a_guest_does_fails_its_own_instance_with_the_cause_and_gives_back_its_memory() {
    const ROUNDS: usize = 3;
    let mut server = Setup { limits: roomy(), empty: true, ..Setup::default() }.start();
    server.upload(HUB, "hello", guests::hello_sequence());
    server.output("E1_HelloSequence", "");
    let before = resident_bytes(&server);
    let (orchestrators, activities) = (orchestrators(), activities());
    let mut after_round = Vec::new();
    for _ in 0..ROUNDS {
        check_orchestrators(&server, &orchestrators);
        check_activities(&server, &activities);
        after_round.push(resident_bytes(&server));
    }
    assert!(server.is_alive());
    let mut least = u64::MAX;
    let is_back = eventually_within(DEADLINE_S, || {
        // What is freed goes back to the system while others work.
        server.output("E1_HelloSequence", "");
        least = least.min(resident_bytes(&server));
        (least < before + GROWTH_MAX).then_some(())
    });
    assert!(is_back.is_some(), "{before} before, {after_round:?} after the rounds, and then no less than {least}");
}

#[test]
fn what_is_cancelled_twice_is_cancelled_once() {
    let server = Server::start();
    // A timer and an event; then both are cancelled, one of them three times; the instance waits for another event.
    let words = |tag: u32, rest: &[u32]| {
        let mut action = [0; 18];
        action[0] = tag;
        action[2..2 + rest.len()].copy_from_slice(rest);
        wasm::words(&action)
    };
    let actions =
        [words(1, &[0, 1_000_000]), words(2, &[700, 2]), words(3, &[0]), words(3, &[1]), words(3, &[0]), words(3, &[0])];
    let data = format!(r#"(data (i32.const 1024) "{}") (data (i32.const 700) "go")"#, actions.concat());
    let rest = format!("{} {data} {TURN}", wasm::at_128(&[1_024, 6, 0, 0, 0, 0]));
    server.upload(HUB, "liar", &Bodies { advance: ONCE, rest: &rest, ..Bodies::default() }.liar());
    let id = server.start("Liar", "");
    eventually("its first turn", || server.status(&id, "").text().contains("Running").then_some(()));
    let why = server.get(&format!("{P3}/instances/{id}/why")).json();
    assert_eq!(why["tasks"], json!([]), "{why}");
}

#[test]
fn nothing_is_handed_to_a_guest_that_has_ended() {
    let server = Server::start();
    let rest = format!(r#"{} (data (i32.const 700) "null") {TURN}"#, wasm::at_128(&[0, 0, 0, 0, 0, 1, 0, 700, 4]));
    server.upload(HUB, "liar", &Bodies { advance: ONCE, rest: &rest, ..Bodies::default() }.liar());
    let id = server.start("Liar", "");
    assert_eq!(server.finished(&id)["runtimeStatus"], "Completed");
    for operation in ["raiseEvent/go", "terminate", "suspend", "resume", "rewind"] {
        let client = server.with_header("content-type", "application/json");
        let reply = client.post(&format!("{P3}/instances/{id}/{operation}"), "1");
        assert_eq!(reply.status, 410, "{operation}: {reply}");
    }
    // A question is put to a guest that has been brought to its end by replay; this one traps.
    assert_eq!(server.get(&format!("{P3}/instances/{id}/query/where")).status, 500);
    assert_eq!(server.finished(&id)["runtimeStatus"], "Completed");
}

#[test]
fn json_that_is_nested_without_end_is_refused_from_clients_and_guests() {
    const DEPTH: usize = 400_000;
    let server = Server::start();
    let nested = "[".repeat(DEPTH) + &"]".repeat(DEPTH);
    // Behind what the host writes, which is the same text.
    let data = format!(r#"(data (i32.const 1048576) "{nested}")"#);
    let length = u32::try_from(nested.len()).expect("a megabyte");
    server.upload(HUB, "liar", &answering(32, &[0, 0, 0, 0, 0, 1, 0, 1 << 20, length], &data));
    let refused = server.post(&format!("{P3}/orchestrators/Liar"), &nested);
    assert!(refused.status == 400 && refused.text().contains("127 deep"), "{refused}");
    let status = server.finished(&server.start("Liar", ""));
    assert!(status["output"].as_str().is_some_and(|output| output.contains("127 deep")), "{status}");
    assert_eq!(server.output("Sequence", r#"{"count":1}"#), json!([0]));
}

#[test]
fn a_line_of_100_mb_is_cut_and_a_panic_too() {
    let server = Setup { limits: roomy(), empty: true, ..Setup::default() }.start();
    let import = |function: &str, parameters: &str| {
        format!(r#"(import "dacapo:guest/log@0.1.0" "{function}" (func $say (param {parameters})))"#)
    };
    let say = format!("(i32.const 65536) (i32.const {LONG})");
    let fill = format!("(memory.fill (i32.const 65536) (i32.const 120) (i32.const {LONG}))");
    let rest = format!(r#"{} (data (i32.const 700) "null")"#, wasm::at_128(&[0, 0, 0, 0, 0, 1, 0, 700, 4]));
    let write = Bodies {
        pages: LONG_PAGES,
        imports: &import("write", "i32 i32 i32 i32 i32"),
        advance: &format!("{fill} (call $say (i32.const 2) {say} {say}) (i32.const 128)"),
        rest: &rest,
        ..Bodies::default()
    };
    server.upload(HUB, "liar", &write.liar());
    let id = server.start("Liar", "");
    assert_eq!(server.finished(&id)["runtimeStatus"], "Completed");
    let lines = server.lines(&id);
    assert!(lines.len() == 1 && lines[0].len() < 70_000 && lines[0].ends_with('…'), "{} lines", lines.len());

    let panicked = import("panicked", "i32 i32 i32 i32");
    let advance = format!("{fill} (call $say {say} {say}) unreachable");
    server.upload(HUB, "liar", &Bodies { imports: &panicked, advance: &advance, ..write }.liar());
    let failure = failure(&server, "Liar", "");
    assert_eq!(failure["ErrorType"], "Panic");
    assert!(failure["ErrorMessage"].as_str().expect("text").len() < 140_000);
}
