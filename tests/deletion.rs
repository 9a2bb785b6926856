//! Modules go: when they may, and what is left of them.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dacapo::model::Digest;
use serde_json::json;

use crate::support::server::HUB;
use crate::support::{P3, Reply, Server, eventually, golden, guests, wasm};

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

fn delete(server: &Server, path: &str) -> Reply {
    server.send("DELETE", &format!("/admin/modules/{path}"), b"")
}

/// Status and error code of a refusal.
fn refusal(reply: &Reply) -> (u16, String) {
    (reply.status, reply.json()["error"]["code"].as_str().expect("a code").to_owned())
}

/// Whether the server keeps compiled code of `bytes`.
fn is_compiled(server: &Server, bytes: &[u8]) -> bool {
    let files = fs::read_dir(server.data().join("compiled")).expect("list compiled code");
    files.into_iter().any(|file| file.expect("list").file_name().to_string_lossy().starts_with(&digest(bytes)))
}

#[test]
fn a_deleted_module_is_gone_with_its_functions_also_after_a_restart() {
    let mut server = Server::start();
    let bytes = guests::test_guests();
    let reply = delete(&server, "guests");
    assert_eq!((reply.status, reply.json()), (200, json!({ "deleted": [digest(bytes)] })));
    for round in ["before", "after"] {
        assert_eq!(server.get("/admin/modules").json(), json!([]), "{round} a restart");
        assert_eq!(server.get("/admin/modules/guests").status, 404);
        assert_eq!(server.get(&format!("/admin/modules/guests/versions/{}", digest(bytes))).status, 404);
        let start = server.post(&format!("{P3}/orchestrators/Race"), "");
        assert_eq!(start.status, 400, "{start}");
        assert_eq!(delete(&server, "guests").status, 404);
        assert!(!is_compiled(&server, bytes), "{round} a restart");
        if round == "before" {
            server.kill();
            server.restart();
        }
    }
    // Its names are free for others, and it may come back.
    server.upload(HUB, "others", bytes);
    assert_eq!(server.output("Sequence", r#"{"count":1}"#), json!([0]));
}

#[test]
fn a_module_that_open_instances_need_stays() {
    let server = Server::start();
    let (old, new) = (guests::test_guests(), wasm::variant(guests::test_guests(), "2"));
    for id in ["a", "b", "c", "d"] {
        server.start_as(id, "Forever", "");
    }
    server.upload(HUB, "guests", &new);
    let masks = [(digest(old), "<old>"), (digest(&new), "<new>")];
    let masks = masks.each_ref().map(|(digest, mask)| (digest.as_str(), *mask));
    for path in ["guests".to_owned(), format!("guests/versions/{}", digest(old))] {
        let reply = delete(&server, &path);
        assert_eq!(refusal(&reply), (409, "in_use".into()), "{path}: {reply}");
        golden::check("delete-in-use", reply.text(), &masks);
    }
    assert_eq!(server.get("/admin/modules/guests").json()["versions"].as_array().expect("a list").len(), 2);
    assert_eq!(server.status("a", "").status, 202);
}

#[test]
fn the_current_version_goes_only_with_the_whole_module() {
    let server = Server::start();
    let (old, new) = (guests::test_guests(), wasm::variant(guests::test_guests(), "2"));
    server.upload(HUB, "guests", &new);
    let reply = delete(&server, &format!("guests/versions/{}", digest(&new)));
    assert_eq!(refusal(&reply), (409, "current".into()), "{reply}");
    golden::check("delete-current", reply.text(), &[]);
    let reply = delete(&server, &format!("guests/versions/{}", digest(old)));
    assert_eq!((reply.status, reply.json()), (200, json!({ "deleted": [digest(old)] })));
    assert!(!is_compiled(&server, old) && is_compiled(&server, &new));
    assert_eq!(server.output("Sequence", r#"{"count":1}"#), json!([0]));
    // The last version is the module.
    let id = server.start("Sequence", r#"{"count":1}"#);
    server.finished(&id);
    assert_eq!(delete(&server, &format!("guests/versions/{}", digest(&new))).status, 200);
    assert_eq!(server.get("/admin/modules").json(), json!([]));
}

#[test]
fn what_is_not_there_cannot_be_deleted() {
    let server = Server::start();
    let known = digest(guests::test_guests());
    for path in [
        "nothing".to_owned(),
        "a%20b".into(),
        format!("guests/versions/{}", digest(b"")),
        "guests/versions/x".into(),
        format!("nothing/versions/{known}"),
        "guests?taskHub=Elsewhere".into(),
    ] {
        let reply = delete(&server, &path);
        assert_eq!(refusal(&reply), (404, "not_found".into()), "{path}: {reply}");
    }
    assert_eq!(refusal(&delete(&server, "guests?taskHub=1")), (400, "bad_request".into()));
    assert_eq!(server.get("/admin/modules").json().as_array().expect("a list").len(), 1);
}

/// When the server goes, the test support replays all that ended; that it can is what this is about.
#[test]
fn the_history_of_an_ended_instance_outlives_its_module() {
    let mut server = Server::start();
    let bytes = guests::test_guests();
    let id = server.start("Sequence", r#"{"count":2}"#);
    let before = server.finished(&id);
    assert_eq!(delete(&server, "guests").status, 200);
    assert_eq!(server.finished(&id), before);
    assert!(is_compiled(&server, bytes), "the code can still be run");
    // With the instance, the last reason to keep it goes; that is found out at the next start at the latest.
    server.upload(HUB, "other", &wasm::variant(bytes, "2"));
    server.start_as(&id, "Race", "");
    server.finished(&id);
    server.stop();
    server.restart();
    eventually("the end of the compiled code", || (!is_compiled(&server, bytes)).then_some(()));
}

#[test]
fn the_same_module_of_another_hub_is_not_touched() {
    let server = Server::start();
    let bytes = guests::test_guests();
    server.upload("Bakery", "guests", bytes);
    assert_eq!(delete(&server, "guests").status, 200);
    assert!(is_compiled(&server, bytes));
    let run = server.post(&format!("{P3}/orchestrators/Race?taskHub=Bakery&timeout=60"), "");
    assert_eq!(run.status, 200, "{run}");
}

/// Starts and deletions race, over and over: every start that was accepted runs to its end, and every other one is a clean 400.
#[test]
fn a_start_beside_a_deletion_runs_or_is_refused() {
    let server = Server::start();
    let bytes = guests::test_guests();
    let done = AtomicBool::new(false);
    let accepted = thread::scope(|scope| {
        let starts = scope.spawn(|| {
            let mut accepted = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let reply = server.post(&format!("{P3}/orchestrators/Race"), "");
                match reply.status {
                    202 => accepted.push(reply.json()["id"].as_str().expect("text").to_owned()),
                    400 => assert!(reply.text().contains("no module in this task hub"), "{reply}"),
                    _ => panic!("{reply}"),
                }
            }
            accepted
        });
        for _ in 0..20 {
            eventually("a moment without open instances", || {
                let reply = delete(&server, "guests");
                assert!(matches!(reply.status, 200 | 409), "{reply}");
                (reply.status == 200).then_some(())
            });
            server.upload(HUB, "guests", bytes);
        }
        done.store(true, Ordering::Relaxed);
        starts.join().expect("the starts go on")
    });
    for id in accepted {
        assert_eq!(server.finished(&id)["runtimeStatus"], "Completed");
    }
}
