//! What does `dacapo verify` find, and what does it leave as it was? On real data directories, some of which are damaged first.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use dacapo::limits::Limits;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::server::{PROGRAM, run_to_end};
use crate::support::{Server, eventually};

fn run(data: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = run_to_end(Command::new(PROGRAM).arg("verify").arg(data).args(arguments));
    let text = |bytes| String::from_utf8(bytes).expect("it writes text");
    (status.code(), text(stdout), text(stderr))
}

/// A server that has been killed, with something of everything in its store: ended, waiting, suspended, continued, children.
fn used() -> Server {
    let mut server = Server::start();
    server.start_as("ended", "Sequence", r#"{"count":3}"#);
    server.start_as("waiting", "Collect", "2");
    server.raise("waiting", "item", "1");
    server.start_as("continued", "CountDown", "[3,0]");
    server.start_as("failed", "Panic", "");
    server.start_as("parent", "CallChild", r#"{"function":"Collect","input":1,"id":"child"}"#);
    for id in ["ended", "continued", "failed"] {
        server.finished(id);
    }
    eventually("the child", || {
        let reply = server.status("child", "");
        (reply.status == 202 && reply.json()["runtimeStatus"] == "Running").then_some(())
    });
    server.kill();
    server
}

/// What all files of a folder hold, but for the index of the log, which SQLite makes anew whenever it opens a file.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("list a folder").map(|entry| entry.expect("list a folder").path()) {
        let name = entry.file_name().expect("it has a name").to_string_lossy().into_owned();
        if entry.is_dir() {
            found.extend(contents(&entry).into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else if name != "dacapo.db-shm" {
            found.insert(name, fs::read(&entry).expect("read a file"));
        }
    }
    found
}

/// Writes into the file of a stopped server what no server would.
fn damage(server: &Server, sql: &str) {
    let file = Connection::open(server.data().join("dacapo.db")).expect("open the store");
    file.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[test]
fn what_a_killed_server_leaves_is_sound_and_stays_as_it_is() {
    let server = used();
    let before = contents(&server.data());
    assert!(!before["dacapo.db-wal"].is_empty(), "the log of a killed server holds what it wrote last");
    let (code, report, errors) = run(&server.data(), &[]);
    assert_eq!(code, Some(0), "{report}{errors}");
    assert!(report.starts_with("sound: 6 instances of 1 task hubs (3 ended), "), "{report}");
    let (code, report, _) = run(&server.data(), &["--json"]);
    let report: Value = serde_json::from_str(&report).expect("it is JSON");
    assert_eq!((code, &report["sound"], &report["found"]), (Some(0), &Value::Bool(true), &0.into()), "{report}");
    assert!(report["turns"].as_u64() > Some(5) && report["modules"] == 1, "{report}");
    assert!(contents(&server.data()) == before, "it changed something");
}

#[test]
fn a_copy_of_the_file_alone_is_enough() {
    let mut server = used();
    server.restart();
    server.stop();
    let folder = tempfile::tempdir().expect("make a folder");
    fs::copy(server.data().join("dacapo.db"), folder.path().join("dacapo.db")).expect("copy the store");
    let (code, report, errors) = run(folder.path(), &[]);
    assert_eq!(code, Some(0), "{report}{errors}");
    assert_eq!(contents(folder.path()).len(), 1, "it left something behind");
}

#[test]
fn a_store_that_cannot_be_checked_is_left_alone_and_the_reason_told() {
    let mut server = Server::start();
    let (code, _, errors) = run(&server.data(), &[]);
    assert!(code == Some(2) && errors.contains("another process has") && errors.contains("stop it first"), "{errors}");
    server.stop();
    damage(&server, "PRAGMA user_version = 4");
    let before = contents(&server.data());
    let (code, _, errors) = run(&server.data(), &[]);
    assert!(code == Some(2) && errors.contains("schema version 4") && errors.contains("a server of this version"), "{errors}");
    assert!(contents(&server.data()) == before, "it migrated");
    damage(&server, "PRAGMA user_version = 999");
    let (code, _, errors) = run(&server.data(), &[]);
    assert!(code == Some(2) && errors.contains("schema version 999"), "{errors}");
    let nothing = tempfile::tempdir().expect("make a folder");
    let (code, _, errors) = run(nothing.path(), &[]);
    assert!(code == Some(2) && errors.contains("No such file"), "{errors}");
    assert_eq!(contents(nothing.path()).len(), 0, "it made a store");
    fs::remove_dir_all(server.data()).expect("remove what cannot be replayed any more");
    fs::create_dir(server.data()).expect("make the folder again");
    server.restart();
}

/// Each damage with a word of what is said of it; all of them in one store.
#[test]
fn all_that_is_wrong_is_found_in_one_go() {
    let mut server = used();
    server.restart();
    for id in ["short", "long", "gone", "early", "moved", "renamed"] {
        server.start_as(id, "Sequence", r#"{"count":2}"#);
        server.finished(id);
    }
    server.stop();
    let whole = fs::read(server.data().join("dacapo.db")).expect("read the store");
    let row_of = |id: &str| format!("(SELECT execution FROM instance WHERE id = '{id}')");
    let damages = [
        ("UPDATE instance SET length = length + 1 WHERE id = 'long'".to_owned(), "long of task hub", "the row has length"),
        ("UPDATE instance SET status = 0 WHERE id = 'ended'".into(), "ended of task hub", "the row has status Running"),
        (format!("DELETE FROM history WHERE execution = {} AND seq = 0", row_of("short")), "short of task hub", "has 0 events before"),
        (format!("DELETE FROM history WHERE execution = {}", row_of("gone")), "gone of task hub", "event 0 of the history cannot be"),
        (
            format!("UPDATE history SET events = replace(events, '\"task\":1', '\"task\":0') WHERE execution = {}", row_of("early")),
            "early of task hub",
            "of the history cannot be",
        ),
        ("UPDATE instance SET wake = NULL WHERE id = 'parent'; DELETE FROM history WHERE execution = (SELECT execution FROM instance WHERE id = 'child'); DELETE FROM instance WHERE id = 'child'".into(), "parent of task hub", "waits for sub-orchestration child, which is not there"),
        ("INSERT INTO inbox VALUES ((1 << 46) + 900, 'ended', '{\"word\":1}')".into(), "message 70368744178564", "cannot be read"),
        ("INSERT INTO inbox VALUES ((9 << 46) + 900, 'ended', '{\"raise\":{\"name\":\"a\",\"payload\":1}}')".into(), "message ", "is of a hub that is not there"),
        ("INSERT INTO history VALUES ((1 << 46) + 12345678, 0, '[]')".into(), "a history is there of execution", "which is that of no instance"),
        ("UPDATE instance SET function = x'FF' WHERE id = 'moved'".into(), "the row of instance number", "cannot be read"),
        ("UPDATE instance SET id = 'another' WHERE id = 'renamed'".into(), "another of task hub", "the row has ID another"),
        ("UPDATE blob SET bytes = x'00'".into(), "module ", "has other bytes than were uploaded"),
    ];
    for (sql, ..) in &damages {
        damage(&server, sql);
    }
    let (code, report, errors) = run(&server.data(), &[]);
    assert!(code == Some(1) && errors.contains("is not as it should be"), "{report}{errors}");
    for (sql, subject, what) in &damages {
        assert!(report.lines().any(|line| line.contains(subject) && line.contains(what)), "{sql}: {what}\n{report}");
    }
    assert!(report.contains("\nnot sound, "), "{report}");
    let error = dacapo::engine::verify(&server.data(), &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("the row has length"), "{error}");
    fs::write(server.data().join("dacapo.db"), whole).expect("put the store back");
}

/// An index that lacks a row is damage that no reading of instances would notice.
#[test]
fn damage_of_the_file_is_found() {
    let mut server = used();
    server.restart();
    server.stop();
    let path = server.data().join("dacapo.db");
    let whole = fs::read(&path).expect("read the store");
    damage(
        &server,
        "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'instance_created';
        INSERT INTO instance SELECT key + 1000, hub, id || '-2', execution + 1000, length, function, module, status, created, updated, NULL, wake, tags, reason
        FROM instance WHERE id = 'ended'",
    );
    let (code, report, _) = run(&server.data(), &[]);
    assert_eq!(code, Some(1), "{report}");
    fs::write(&path, whole).expect("put the store back");
}
