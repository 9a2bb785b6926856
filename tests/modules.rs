//! Modules: how they come in, what is known of them, and which version runs.

use std::path::Path;

use dacapo::limits::Limits;
use dacapo::model::Digest;
use serde_json::{Value, json};

use crate::support::server::HUB;
use crate::support::{P3, Server, Setup, eventually, golden, guests, wasm};

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// How many instances that have not ended run on each version of `guests`, the newest upload first.
fn live(server: &Server) -> Vec<(String, u64)> {
    let module = server.get("/admin/modules/guests").json();
    let versions = module["versions"].as_array().expect("a list").iter();
    versions
        .map(|it| (it["digest"].as_str().expect("text").to_owned(), it["liveInstances"].as_u64().expect("a number")))
        .collect()
}

#[test]
fn a_module_is_201_at_first_200_again_and_then_listed() {
    let server = Server::empty();
    let module = guests::hello_sequence();
    let (digest, length) = (digest(module), format!("\"bytes\":{}", module.len()));
    let secrets = [(digest.as_str(), "<digest>"), (length.as_str(), "\"bytes\":0")];
    let first = server.put("/admin/modules/hello", module);
    assert_eq!(first.status, 201, "{first}");
    assert_eq!(first.header("content-type"), Some("application/json; charset=utf-8"));
    golden::check("module-uploaded", first.text(), &secrets);
    let again = server.put("/admin/modules/hello", module);
    assert_eq!((again.status, again.json()), (200, first.json()));
    let list = server.get("/admin/modules");
    assert_eq!(list.status, 200);
    golden::check("modules", list.text(), &secrets);
    assert_eq!(server.get("/admin/modules/hello").json(), list.json()[0]);
}

#[test]
fn the_bytes_come_back_as_they_were_uploaded() {
    let server = Server::empty();
    for (name, module) in [("hello", guests::hello_sequence()), ("core", guests::core_hello_sequence())] {
        server.upload(if name == "core" { "Bakery" } else { HUB }, name, module);
    }
    for (name, hub, module) in [("hello", HUB, guests::hello_sequence()), ("core", "Bakery", guests::core_hello_sequence())] {
        let url = format!("/admin/modules/{name}/versions/{}", digest(module));
        let reply = server.get(&format!("{url}?taskHub={hub}"));
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/wasm")), "{name}");
        assert!(reply.body == module, "{name}: other bytes come back");
        assert_eq!(server.get(&format!("{url}?taskHub=Elsewhere")).status, 404);
    }
    for url in [
        format!("/admin/modules/hello/versions/{}", digest(b"")),
        "/admin/modules/hello/versions/x".into(),
        "/admin/modules/x".into(),
    ] {
        let reply = server.get(&url);
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (404, Some("not_found")), "{url}: {reply}");
    }
}

#[test]
fn a_hub_does_not_see_the_modules_of_another() {
    let server = Server::start();
    server.upload("Bakery", "hello", guests::hello_sequence());
    let names = |hub: &str| {
        let list = server.get(&format!("/admin/modules?taskHub={hub}")).json();
        list.as_array().expect("a list").iter().map(|module| module["name"].clone()).collect::<Vec<Value>>()
    };
    assert_eq!((names(HUB), names("bakery"), names("Elsewhere")), (vec![json!("guests")], vec![json!("hello")], vec![]));
    let url = format!("/admin/modules/guests/versions/{}?taskHub=Bakery", digest(guests::test_guests()));
    assert_eq!(server.get(&url).status, 404, "not even by its digest");
}

#[test]
fn a_function_that_another_module_has_is_not_taken() {
    let server = Server::empty();
    server.upload(HUB, "hello", guests::hello_sequence());
    let reply = server.put("/admin/modules/other", guests::hello_sequence());
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (409, Some("function_taken")), "{reply}");
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("\"E1_") && message.contains("\"hello\""), "{message}");
    assert_eq!(server.get("/admin/modules/other").status, 404, "nothing is stored");
    assert_eq!(server.get("/admin/modules").json().as_array().unwrap().len(), 1);
    server.upload("Bakery", "other", guests::hello_sequence());
}

#[test]
fn a_name_has_to_follow_the_rules() {
    let server = Server::empty();
    for bad in ["-a", ".a", "_a", "a%20b", "%C3%A4", "a:b", &"x".repeat(101)] {
        let reply = server.put(&format!("/admin/modules/{bad}"), guests::hello_sequence());
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (400, Some("bad_request")), "{bad}: {reply}");
    }
    let good = format!("0.a-b_{}", "x".repeat(94));
    server.upload(HUB, &good, guests::hello_sequence());
    assert_eq!(server.get(&format!("/admin/modules/{good}")).json()["name"], good);
    assert_eq!(server.put("/admin/modules/a?taskHub=1", guests::hello_sequence()).status, 400);
}

#[test]
fn a_module_over_the_limit_is_refused() {
    let module = guests::hello_sequence();
    let limits = Limits { module_bytes_max: module.len(), ..Limits::default() };
    let server = Setup { limits, empty: true, ..Setup::default() }.start();
    let reply = server.put("/admin/modules/hello", wasm::variant(module, "larger"));
    assert_eq!(reply.status, 413, "{reply}");
    assert!(reply.text().contains("module_bytes_max"), "{reply}");
    server.upload(HUB, "hello", module);
}

#[test]
fn other_verbs_are_405_with_those_that_work() {
    let server = Server::start();
    for (method, path, allow) in [
        ("DELETE", "/admin/modules", "GET"),
        ("POST", "/admin/modules/guests", "PUT, GET, DELETE"),
        ("PUT", "/admin/modules/guests/versions/x", "GET, DELETE"),
        ("POST", "/healthz", "GET"),
    ] {
        let reply = server.send(method, path, b"");
        assert_eq!((reply.status, reply.header("allow"), reply.text()), (405, Some(allow), ""), "{method} {path}");
    }
}

#[test]
fn a_running_instance_stays_on_its_version_and_new_ones_take_the_current() {
    let mut server = Server::start();
    let old = guests::test_guests();
    let new = wasm::variant(old, "2");
    server.start_as("first", "Forever", "");
    assert_eq!(live(&server), [(digest(old), 1)]);

    server.upload(HUB, "guests", &new);
    server.start_as("second", "Forever", "");
    server.start_as("third", "Forever", "");
    assert_eq!(server.get("/admin/modules/guests").json()["current"], digest(&new));
    let expected = [(digest(&new), 2), (digest(old), 1)];
    assert_eq!(live(&server), expected);

    server.kill();
    server.restart();
    assert_eq!(live(&server), expected, "a restart changes neither");
    assert_eq!(server.output("Sequence", r#"{"count":1}"#), json!([0]));

    // Uploading what is known makes it current again: that is how to go back.
    let reply = server.put("/admin/modules/guests", old);
    assert_eq!((reply.status, &reply.json()["liveInstances"]), (200, &json!(1)), "{reply}");
    server.start_as("fourth", "Forever", "");
    assert_eq!(server.get("/admin/modules/guests").json()["current"], digest(old));
    let mut counts = live(&server);
    counts.sort();
    let mut expected = vec![(digest(old), 2), (digest(&new), 2)];
    expected.sort();
    assert_eq!(counts, expected);
}

#[test]
fn an_instance_that_has_ended_needs_its_version_no_longer() {
    let server = Server::start();
    let id = server.start("Sequence", r#"{"count":2}"#);
    server.finished(&id);
    assert_eq!(live(&server), [(digest(guests::test_guests()), 0)]);
    server.start("Panic", "");
    eventually("the end", || (live(&server)[0].1 == 0).then_some(()));
}

#[test]
fn compiled_code_is_kept_for_the_owner_of_the_data_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::empty();
    server.upload(HUB, "hello", guests::hello_sequence());
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&server.data().join("compiled")), 0o700);
}

#[test]
fn compiled_code_that_was_touched_is_not_run() {
    let mut server = Server::start();
    server.stop();
    let compiled = server.data().join("compiled");
    let mut spoiled = 0;
    for entry in std::fs::read_dir(&compiled).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        spoiled += 1;
    }
    assert!(spoiled > 0);
    server.restart();
    assert_eq!(server.output("Sequence", r#"{"count":2}"#), json!([0, 1]), "it is compiled again");
    assert_eq!(server.post(&format!("{P3}/orchestrators/Race?timeout=60"), "").status, 200);
}

/// After an update of the server, or of a setting that compiled code depends on, all open instances want their module at once.
#[test]
fn a_module_is_compiled_once_however_many_want_it() {
    let mut server = Server::empty();
    server.upload(HUB, "guests", guests::test_guests());
    let once = server.cpu_ticks_of_children().max(1);
    let ids: Vec<_> = (0..30).map(|_| server.start("Forever", "")).collect();
    server.stop();
    server.restart_with(Limits { guest_memory_bytes_max: 32 << 20, ..Limits::default() });
    let new: Vec<_> = (0..30).map(|_| server.start("Race", "")).collect();
    new.iter().for_each(|id| drop(server.finished(id)));
    let again = server.cpu_ticks_of_children();
    assert!((1..=4 * once).contains(&again), "compiling took {once} ticks for one upload, and {again} when many wanted it");
    assert_eq!(server.status(&ids[0], "").status, 202);
}
