//! What is uploaded: each module that must not be taken is refused with the reason, within its bounds, and nothing of it stays.

use dacapo::limits::Limits;
use serde_json::json;

use super::{assert_parts, quick_limits};
use crate::support::wasm::{self, Bodies};
use crate::support::{P3, Server, Setup, guests};

/// A hub that would come into being with the first module that is taken.
const REFUSING: &str = "Refusing";

/// How much a module says that says too much, in bytes: 100 MB.
const LONG: u32 = 100 << 20;

/// Uploads what must not be taken, and returns the reason. Nothing of it stays.
#[track_caller]
fn refused(server: &Server, module: &[u8]) -> String {
    let kept = || server.data().join("compiled").read_dir().expect("list compiled code").count();
    let before = kept();
    let reply = server.put(&format!("/admin/modules/bad?taskHub={REFUSING}"), module);
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (400, Some("invalid_module")), "{reply}");
    assert_eq!(server.get(&format!("/admin/modules?taskHub={REFUSING}")).text(), "[]", "nothing is stored");
    assert_eq!(server.post(&format!("{P3}/orchestrators/Liar?taskHub={REFUSING}"), "").status, 400, "nothing can be started");
    assert_eq!(kept(), before, "nothing is kept of what was compiled");
    reply.json()["error"]["message"].as_str().expect("text").to_owned()
}

/// Uploads each of them, which is refused with these parts of a reason.
#[track_caller]
fn check(server: &mut Server, cases: &[(&str, Vec<u8>, &[&str])]) {
    for (what, module, parts) in cases {
        let reason = refused(server, module);
        for part in *parts {
            assert!(reason.contains(part), "{what}: {part:?} is not in {reason:?}");
        }
    }
    assert!(server.is_alive());
}

fn text(module: &str) -> Vec<u8> {
    wat::parse_str(module).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_is_no_module_is_refused_with_the_reason() {
    let mut server = Server::start();
    let component = guests::hello_sequence();
    assert_parts(&refused(&server, b""), &["not WebAssembly"]);
    assert_parts(&refused(&server, b"#!/bin/sh"), &["not WebAssembly"]);
    assert_parts(&refused(&server, b"\0asm\x02\0\0\0"), &["version"]);
    assert_parts(&refused(&server, &component[..component.len() / 2]), &["not valid"]);
    assert_parts(&refused(&server, &component[..9]), &["not valid"]);
    assert_parts(&refused(&server, &text("(module (func (export \"run\")))")), &["catalog"]);
    assert_parts(&refused(&server, &text("(module (import \"env\" \"go\" (func)))")), &["core module"]);
    let mut spoiled = component.to_vec();
    spoiled[component.len() / 3] ^= 0xff;
    // Whatever that byte was, the server says something and goes on.
    assert!(matches!(server.put("/admin/modules/spoiled", &spoiled).status, 200 | 201 | 400 | 409));
    assert!(server.is_alive());
}

#[test]
fn a_component_of_another_world_is_refused() {
    let server = Server::start();
    assert_parts(&refused(&server, &text("(component)")), &["does not export dacapo:guest/catalog@0.1.0"]);
    let unknown = text(r#"(component (import "evil:door/open@1.0.0" (instance (export "go" (func)))))"#);
    assert_parts(&refused(&server, &unknown), &["evil:door/open@1.0.0", "neither"]);
    let later = text(r#"(component (import "dacapo:guest/log@9.0.0" (instance)))"#);
    assert_parts(&refused(&server, &later), &["dacapo:guest/log@9.0.0"]);
    let function = text(r#"(component (import "go" (func)))"#);
    assert_parts(&refused(&server, &function), &["\"go\""]);
    let preview3 = text(r#"(component (import "wasi:clocks/wall-clock@0.3.0" (instance)))"#);
    assert_parts(&refused(&server, &preview3), &["wasi:clocks/wall-clock@0.3.0"]);
}

#[test]
fn an_import_with_the_name_of_wasi_and_another_type_is_refused() {
    let server = Server::start();
    let liar =
        text(r#"(component (import "wasi:random/random@0.2.0" (instance (export "get-random-u64" (func (result string))))))"#);
    refused(&server, &liar);
    let unknown = text(r#"(component (import "wasi:random/random@0.2.0" (instance (export "get-dice" (func (result u64))))))"#);
    refused(&server, &unknown);
}

#[test]
fn a_catalog_that_misbehaves_is_refused() {
    let server = Setup::limits(quick_limits()).start();
    let catalog = |describe: &str, rest: &str| wasm::module(describe, "unreachable", rest);
    assert_parts(&refused(&server, &catalog("unreachable", "")), &["catalog", "unreachable"]);
    assert_parts(&refused(&server, &catalog("(loop $again br $again) unreachable", "")), &["catalog", "turn_cpu_ms_max"]);
    assert_parts(&refused(&server, &catalog("i32.const 0", "(func $start unreachable) (start $start)")), &["catalog"]);
    assert_parts(&refused(&server, &catalog("i32.const 0x7fffffff", "")), &["catalog"]);
    assert_parts(&refused(&server, &catalog("i32.const 0", "")), &["catalog is empty"]);
    // A generator of 4 GiB.
    let vast = r#"(data (i32.const 0) "\00\00\00\00\ff\ff\ff\ff")"#;
    assert_parts(&refused(&server, &catalog("i32.const 0", vast)), &["catalog"]);
    let grows = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    assert_parts(&refused(&server, &catalog(grows, "")), &["guest_memory_bytes_max"]);
    assert_eq!(server.output("Sequence", r#"{"count":1}"#), json!([0]));
}

#[test]
fn a_module_that_is_larger_than_its_slot_is_refused() {
    let server = Setup::limits(quick_limits()).start();
    let vast = wasm::module("i32.const 0", "unreachable", "(table 1000000 funcref)");
    refused(&server, &vast);
}

const LOOPS: &str = "(loop $again br $again)";
const GROWS: &str = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))";
const RECURSES: &str = "(call $down)";
const DOWN: &str = "(func $down (call $down))";

/// What runs at an upload runs within the bounds of a turn: the start function, and the catalog's.
#[test]
fn a_module_that_misbehaves_before_it_has_said_what_it_is_is_refused_with_what_it_did() {
    let mut server = Setup::limits(quick_limits()).start();
    let describes = |body: &str| {
        let describe = format!("{body} unreachable");
        Bodies { describe: &describe, rest: DOWN, ..Bodies::default() }.module()
    };
    let starts = |body: &str| {
        let rest = format!("{DOWN} (func $start {body}) (start $start)");
        Bodies { rest: &rest, ..Bodies::default() }.liar()
    };
    check(
        &mut server,
        &[
            ("describe loops", describes(LOOPS), &["catalog", "turn_cpu_ms_max", "100 ms"]),
            ("describe grows", describes(GROWS), &["catalog", "guest_memory_bytes_max"]),
            ("describe recurses", describes(RECURSES), &["catalog", "recursed too deep"]),
            ("start traps", starts("unreachable"), &["catalog", "unreachable"]),
            ("start loops", starts(LOOPS), &["catalog", "turn_cpu_ms_max", "100 ms"]),
            ("start grows", starts(GROWS), &["catalog", "guest_memory_bytes_max"]),
            ("start recurses", starts(RECURSES), &["catalog", "recursed too deep"]),
        ],
    );
    assert_eq!(server.output("Sequence", r#"{"count":1}"#), json!([0]));
}

/// Of what a catalog says, no more is taken over than a guest's memory may hold.
#[test]
fn a_catalog_that_says_too_much_or_nonsense_is_refused() {
    let says = |pages: u32, description: &[u32], rest: &str| {
        let rest = format!("{} {rest}", wasm::at_128(description));
        Bodies { pages, describe: "i32.const 128", rest: &rest, ..Bodies::default() }.module()
    };
    let pages = LONG / (64 << 10) + 2;
    let invalid = r#"(data (i32.const 512) "\ff\fe")"#;
    let mut server = Setup::limits(quick_limits()).start();
    check(
        &mut server,
        &[
            ("more than its memory has", says(1, &[512, LONG, 0, 0], ""), &["catalog", "out of bounds"]),
            ("more than it may have", says(pages, &[65_536, LONG, 0, 0], ""), &["guest_memory_bytes_max"]),
            ("a list beyond its memory", says(1, &[512, 1, 512, 0x0fff_ffff], ""), &["catalog", "out of bounds"]),
            ("a list without names", says(900, &[512, 1, 4_096, 1_000_000], ""), &["handed over more", "guest_memory_bytes_max"]),
            ("no UTF-8", says(1, &[512, 2, 0, 0], invalid), &["catalog", "utf-8"]),
        ],
    );
    let roomy = Limits { guest_memory_bytes_max: 256 << 20, ..quick_limits() };
    let mut server = Setup { limits: roomy, empty: true, ..Setup::default() }.start();
    let long = says(pages, &[65_536, LONG, 0, 0], "");
    check(&mut server, &[("long within its memory", long, &["104857600 characters", "may have 200"])]);
}

/// The compiler's process may overflow its stack over some of these; that is why it is a process of its own.
#[test]
fn components_and_types_that_are_nested_too_deep_are_refused() {
    let mut server = Server::start();
    check(
        &mut server,
        &[
            ("components 1,000 deep", wasm::nested_components(1_000), &[]),
            ("types 1,000 deep", wasm::nested_types(1_000), &[]),
            ("types 1,000,000 deep", wasm::nested_types(1_000_000), &[]),
        ],
    );
    assert_eq!(server.output("Sequence", r#"{"count":1}"#), json!([0]));
}

#[test]
fn a_module_that_compiles_slowly_is_given_up_by_its_bound_while_others_are_served() {
    let mut server = Setup::limits(Limits { compile_cpu_s_max: 2, ..Limits::default() }).start();
    let module = wasm::many_functions(4_000, 1_500);
    let served = std::thread::scope(|scope| {
        let server = &server;
        let upload = scope.spawn(move || refused(server, &module));
        let mut served = 0;
        while !upload.is_finished() {
            assert_eq!(server.output("Sequence", r#"{"count":3}"#), json!([0, 1, 2]));
            served += usize::from(!upload.is_finished());
        }
        assert_parts(&upload.join().expect("it is refused"), &["2 s of CPU", "compile_cpu_s_max"]);
        served
    });
    assert!(served > 0, "nobody was served meanwhile");
    assert!(server.is_alive());
}

#[test]
fn a_module_that_needs_too_much_memory_to_compile_is_given_up_by_its_bound() {
    let limits = Limits { compile_memory_bytes_max: 256 << 20, ..Limits::default() };
    let mut server = Setup { limits, empty: true, ..Setup::default() }.start();
    check(&mut server, &[("one vast function", wasm::many_functions(1, 1_000_000), &["compile_memory_bytes_max"])]);
}
