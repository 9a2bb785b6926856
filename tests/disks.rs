//! What does a server do on a disk that is full, or fails to sync? It answers what it can, says why it cannot do the rest, and loses nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use dacapo_disk::Layer;
use dacapo_disk::trace::{self, Record};
use serde_json::{Value, json};

use crate::support::server::{HUB, PROGRAM, run_to_end};
use crate::support::{Client, P3, Reply, Server, Setup, eventually, guests};

/// What `/readyz`, the log and refused clients say.
const FULL: &str = "the disk of the store is full: make room, and writing goes on by itself";
const FAILED: &str = "a sync of the store has failed: nothing is written until the disk is in order and the server is restarted";

const GONE: &str = "the files of the store have been moved or deleted: put them back, and writing goes on by itself; or stop the server and start it \
                    where they are";

/// A server on a disk that does what it is told.
fn on_a_disk() -> Server {
    Setup { disk: true, ..Setup::default() }.start()
}

/// Starts an instance that writes all the time, and waits until it does.
fn start_busy(client: &Client) {
    client.start_as("busy", "Sequence", r#"{"count":400}"#);
    eventually("the first turn", || (client.status("busy", "").json()["runtimeStatus"] == "Running").then_some(()));
}

/// Waits until the server says for this reason that it is not ready.
fn wait_until_unready(server: &Server, reason: &str) {
    eventually("a server that is not ready", || {
        let reply = server.get("/readyz");
        let is_it = reply.status == 503 && reply.json()["reasons"] == json!([reason]);
        is_it.then(|| assert_eq!(reply.json()["status"], "read_only"))
    });
}

fn wait_until_ready(server: &Server) {
    eventually("a server that is ready", || (server.get("/readyz").status == 200).then_some(()));
}

/// Raises an event as a client does that is told to try again: an instance whose last step was refused rests for a second.
fn raise_patiently(client: &Client, id: &str, event: &str, json: &str) {
    let client = client.with_header("content-type", "application/json");
    eventually("an event that is taken", || {
        let reply = client.post(&format!("{P3}/instances/{id}/raiseEvent/{event}"), json);
        assert!(matches!(reply.status, 202 | 503), "raise {event} to {id}: {reply}");
        (reply.status == 202).then_some(())
    });
}

/// A module that the server has not seen yet: that of the tests with a section that means nothing.
fn another_module() -> Vec<u8> {
    [guests::hello_sequence(), b"\0\x02\x01x"].concat()
}

/// One of each request that would write. `ended` is the ID of an instance that has ended, `waiting` of one that waits.
fn writes(client: &Client, ended: &str, waiting: &str) -> Vec<(&'static str, Reply)> {
    let instance = |id: &str, rest: &str| format!("{P3}/instances/{id}{rest}");
    let json = client.with_header("content-type", "application/json");
    let module = |hub: &str| format!("/admin/modules/hello?taskHub={hub}");
    vec![
        ("a start", client.post(&format!("{P3}/orchestrators/Sequence/refused"), r#"{"count":1}"#)),
        ("an event", json.post(&instance(waiting, "/raiseEvent/item"), "7")),
        ("a terminate", client.post(&instance(waiting, "/terminate"), "")),
        ("a suspend", client.post(&instance(waiting, "/suspend"), "")),
        ("a restart", client.post(&instance(ended, "/restart"), "")),
        ("a purge", client.send("DELETE", &instance(ended, ""), b"")),
        ("a purge of many", client.send("DELETE", &format!("{P3}/instances?createdTimeFrom=2026-01-01T00:00:00Z"), b"")),
        ("an upload", client.put(&module("Other"), another_module())),
        ("a deletion", client.send("DELETE", &format!("/admin/modules/spare?taskHub={HUB}"), b"")),
    ]
}

fn check_refused(writes: &[(&str, Reply)], reason: &str) {
    for (what, reply) in writes {
        assert_eq!(reply.status, 503, "{what}: {reply}");
        assert!(reply.text().contains(reason), "{what}: {reply}");
        assert!(reply.header("retry-after").is_some(), "{what}: {reply}");
    }
}

/// What can be answered without writing.
fn check_reads(client: &Client, ended: &str) {
    let status = client.status(ended, "showHistory=true");
    assert_eq!((status.status, &status.json()["output"]), (200, &json!([0, 1, 2])), "{status}");
    for path in [
        format!("{P3}/instances?top=10"),
        format!("{P3}/instances/{ended}/logs"),
        format!("/admin/modules?taskHub={HUB}"),
        "/metrics".to_owned(),
        "/healthz".to_owned(),
    ] {
        let reply = client.get(&path);
        assert_eq!(reply.status, 200, "{path}: {reply}");
    }
}

/// How often the log says it.
fn said(server: &Server, line: &str) -> usize {
    server.log().matches(line).count()
}

#[test]
fn a_full_disk_refuses_writes_answers_reads_and_all_goes_on_when_there_is_room() {
    let mut server = on_a_disk();
    server.upload(HUB, "spare", guests::word_count());
    server.start_as("ended", "Sequence", r#"{"count":3}"#);
    server.finished("ended");
    server.start_as("waiting", "Collect", "3");
    server.raise("waiting", "item", "1");
    server.start_as("asleep", "Sleeper", "200");
    start_busy(&server);

    server.disk().set_room(Some(0)).expect("fill the disk");
    check_refused(&writes(&server, "ended", "waiting"), FULL);
    wait_until_unready(&server, FULL);
    check_reads(&server, "ended");
    check_refused(&writes(&server, "ended", "waiting"), FULL);
    assert_eq!(server.status("refused", "").status, 404);
    assert_eq!(server.status("busy", "").json()["runtimeStatus"], "Running");
    assert_eq!(said(&server, FULL), 1, "{}", server.log());
    let left: Vec<_> = fs::read_dir(server.data().join("compiled")).expect("list a folder").collect();
    let drafts = left.iter().flatten().filter(|file| file.file_name().to_string_lossy().ends_with(".unfinished")).count();
    assert_eq!(drafts, 0, "compiled code for which there was no room lies about");

    server.disk().set_room(None).expect("make room");
    wait_until_ready(&server);
    assert!(server.is_alive() && said(&server, "the store takes writes again") == 1, "{}", server.log());
    assert_eq!(server.finished("busy")["output"], json!((0..400).collect::<Vec<_>>()));
    assert_eq!(server.finished("asleep")["output"], true);
    raise_patiently(&server, "waiting", "item", "2");
    raise_patiently(&server, "waiting", "item", "3");
    assert_eq!(server.finished("waiting")["output"], json!([1, 2, 3]));
    server.upload("Other", "hello", &another_module());
    assert_eq!(server.output("Sequence", r#"{"count":2}"#), json!([0, 1]));
}

/// Passes through every way in which the room can be used up: in the middle of a commit, in the middle of a page, and where SQLite's shared memory has
/// to grow after the commit was written to the log.
#[test]
fn a_disk_that_has_room_for_a_part_of_a_commit_only_loses_nothing_and_needs_no_restart() {
    /// Less than the shared memory grows by at once.
    const STEP: u64 = 20_000;
    /// For how much of the log there is room in its first part, and a little less.
    const LOG_BYTES: u64 = 4_062 * 4_120 - 300_000;
    let server = on_a_disk();
    let size = |name: &str| fs::metadata(server.data().join(name)).expect("look at a file").len();
    let start = |id: &str, input: &str| server.post(&format!("{P3}/orchestrators/Listen/{id}"), input);
    let mut acknowledged = Vec::new();
    let long = Value::from("x".repeat(2_000_000)).to_string();
    for number in 0.. {
        let left = LOG_BYTES.saturating_sub(size("dacapo.db-wal"));
        let id = format!("long-{number}");
        match left {
            0 => break,
            2_100_000.. => server.start_as(&id, "Listen", &long),
            _ => server.start_as(&id, "Listen", &long[long.len() - 60_000..].replacen('x', "\"", 1)),
        }
        acknowledged.push(id);
    }
    let before = size("dacapo.db-shm");
    let mut refused = 0;
    for number in 0..400 {
        server.disk().set_room(Some(STEP)).expect("make some room");
        let id = format!("short-{number}");
        let reply = start(&id, "1");
        match reply.status {
            202 => acknowledged.push(id),
            503 => refused += 1,
            _ => panic!("{id}: {reply}"),
        }
        if size("dacapo.db-shm") > before && number > 30 {
            break;
        }
    }
    assert!(refused > 5 && size("dacapo.db-shm") > before, "{refused} refused, {before} bytes of shared memory before");
    server.disk().set_room(None).expect("make room");
    wait_until_ready(&server);
    for id in &acknowledged {
        raise_patiently(&server, id, "go", "2");
    }
    for id in &acknowledged {
        assert_eq!(server.finished(id)["output"][1], 2, "{id}");
    }
}

#[test]
fn after_a_failed_sync_nothing_is_written_until_a_restart_which_finds_all_that_was_acknowledged() {
    let mut server = on_a_disk();
    server.upload(HUB, "spare", guests::word_count());
    server.start_as("ended", "Sequence", r#"{"count":3}"#);
    server.finished("ended");
    server.start_as("waiting", "Collect", "2");
    server.raise("waiting", "item", "1");
    start_busy(&server);

    server.disk().fail_syncs(1).expect("fail a sync");
    eventually("a sync that fails", || (server.disk().syncs_to_fail().expect("ask") == 0).then_some(()));
    wait_until_unready(&server, FAILED);
    let written = || changes(server.disk());
    let before = written();
    check_refused(&writes(&server, "ended", "waiting"), FAILED);
    check_reads(&server, "ended");
    check_refused(&writes(&server, "ended", "waiting"), FAILED);
    assert_eq!(written(), before, "the store was written to after a failed sync");
    assert_eq!(said(&server, FAILED), 1, "{}", server.log());
    wait_until_unready(&server, FAILED);

    server.stop();
    server.restart();
    wait_until_ready(&server);
    assert_eq!(server.finished("busy")["output"], json!((0..400).collect::<Vec<_>>()));
    server.raise("waiting", "item", "2");
    assert_eq!(server.finished("waiting")["output"], json!([1, 2]));
    check_reads(&server, "ended");
    assert_eq!(server.output("Sequence", r#"{"count":2}"#), json!([0, 1]));
}

/// How often the store was written to.
fn changes(disk: &Layer) -> usize {
    let trace = disk.trace().expect("read the trace");
    let files = ["dacapo.db", "dacapo.db-wal"].map(|name| fs::metadata(disk.folder().join(name)).map_or(0, |file| file.ino()));
    let is_of_store = |record: &Record<'_>| matches!(record, Record::Written { file, .. } if files.contains(file));
    trace::records(&trace).filter(|(_, record)| is_of_store(record)).count()
}

#[test]
fn a_sync_that_fails_at_the_end_of_a_server_loses_nothing() {
    let mut server = on_a_disk();
    server.start_as("waiting", "Collect", "1");
    server.disk().fail_syncs(1).expect("fail a sync");
    server.stop();
    assert_eq!(server.disk().syncs_to_fail().expect("ask"), 0, "the end of a server syncs");
    server.restart();
    server.raise("waiting", "item", "1");
    assert_eq!(server.finished("waiting")["output"], json!([1]));
}

#[test]
fn a_server_that_finds_no_room_at_its_start_says_so_and_starts_when_there_is() {
    let mut server = on_a_disk();
    server.start_as("waiting", "Collect", "1");
    server.kill();
    server.disk().set_room(Some(0)).expect("fill the disk");
    let said = said_at_start(server.disk(), &["--no-auth"]);
    assert!(said.contains("the disk of the store is full"), "{said}");
    server.disk().set_room(None).expect("make room");
    server.restart();
    server.raise("waiting", "item", "1");
    assert_eq!(server.finished("waiting")["output"], json!([1]));
}

#[test]
fn half_a_file_of_keys_is_never_left() {
    let folder = tempfile::tempdir().expect("make a folder");
    let disk = Layer::new(&folder.path().join("data"), folder.path()).expect("make a disk");
    for room in [0, 20] {
        disk.set_room(Some(room)).expect("fill the disk");
        let said = said_at_start(&disk, &[]);
        assert!(said.contains("No space left on device"), "{said}");
        assert_eq!(fs::read_dir(disk.folder()).expect("list the folder").count(), 0, "with room for {room} bytes");
    }
}

/// What a server says that cannot be started on this disk.
fn said_at_start(disk: &Layer, arguments: &[&str]) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(disk.folder()).args(arguments);
    disk.put_under(&mut command);
    let output = run_to_end(&mut command);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn nothing_is_acknowledged_while_the_data_directory_is_elsewhere() {
    let server = Server::start();
    server.start_as("before", "Sequence", r#"{"count":2}"#);
    server.finished("before");
    let (data, away) = (server.data(), server.data().with_extension("away"));
    fs::rename(&data, &away).expect("move the data directory away");
    fs::create_dir(&data).expect("make an empty one");
    let start = |id: &str| server.post(&format!("{P3}/orchestrators/Sequence/{id}"), r#"{"count":2}"#);
    let refused = start("meanwhile");
    assert_eq!(refused.status, 503, "{refused}");
    wait_until_unready(&server, GONE);
    fs::remove_dir_all(&data).expect("remove what came in its place");
    fs::rename(&away, &data).expect("move it back");
    wait_until_ready(&server);
    assert_eq!(server.status("meanwhile", "").status, 404);
    server.start_as("after", "Sequence", r#"{"count":2}"#);
    server.finished("after");
}
