//! Does it make a difference which guests stay alive between their turns? It must not: what is dropped is replayed.

use std::collections::HashSet;
use std::fs;
use std::thread;

use dacapo::limits::Limits;
use serde_json::{Value, json};

use crate::support::{Server, Setup};

/// A server that keeps one guest alive, so that nearly every turn begins with a replay.
fn forgetful() -> Server {
    Setup::limits(Limits { residents_max: 1, ..Limits::default() }).start()
}

#[test]
fn a_hundred_orchestrations_with_room_for_one_give_what_they_should() {
    let server = forgetful();
    thread::scope(|scope| {
        for thread in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for number in 0..25 {
                    let count = 2 + (thread + number) % 7;
                    server.start_as(&format!("a-{thread}-{number}"), "Sequence", &format!(r#"{{"count":{count}}}"#));
                }
            });
        }
    });
    for thread in 0..4 {
        for number in 0..25 {
            let count = 2 + (thread + number) % 7;
            let status = server.finished(&format!("a-{thread}-{number}"));
            assert_eq!(status["output"], json!((0..count).collect::<Vec<_>>()), "{status}");
        }
    }
}

#[test]
fn fan_outs_and_races_with_room_for_one_give_what_they_should() {
    let server = forgetful();
    for number in 0..20 {
        server.start_as(&format!("wide-{number}"), "FanOut", &number.to_string());
        server.start_as(&format!("race-{number}"), "Race", "");
        server.start_as(&format!("caught-{number}"), "CatchFailure", "");
    }
    for number in 0..20_u64 {
        assert_eq!(server.finished(&format!("wide-{number}"))["output"], number * number.saturating_sub(1) / 2);
        assert!(matches!(server.finished(&format!("race-{number}"))["output"].as_u64(), Some(1 | 2)));
        assert_eq!(server.finished(&format!("caught-{number}"))["output"], json!(["OvenCold", "the oven is cold"]));
    }
}

/// What was read before the activity is read again in the replay after it, and has to come out the same, or the replay at the
/// end of this test finds another output than was recorded.
#[test]
fn clocks_randomness_and_hash_maps_are_the_same_in_every_replay() {
    let server = forgetful();
    let ids: Vec<_> = (0..30).map(|_| server.start("Clocks", "")).collect();
    let mut uuids = HashSet::new();
    let mut orders = HashSet::new();
    for id in &ids {
        let status = server.finished(id);
        let readings = &status["output"];
        let pair = |name: &str| -> (&Value, &Value) { (&readings[name][0], &readings[name][1]) };
        assert_eq!(readings["system_ms"], readings["context_ms"], "there is one clock: {status}");
        let (before, after) = pair("system_ms");
        assert!(before.as_u64().unwrap() > 1_700_000_000_000 && before.as_u64() <= after.as_u64(), "{status}");
        for uuid in [pair("uuids").0, pair("uuids").1] {
            assert!(uuids.insert(uuid.as_str().unwrap().to_owned()), "{uuid} came twice");
        }
        for keys in [pair("keys").0, pair("keys").1] {
            let mut keys: Vec<_> = keys.as_array().unwrap().iter().map(|key| key.as_u64().unwrap()).collect();
            orders.insert(keys.clone());
            keys.sort_unstable();
            assert_eq!(keys, (0..8).collect::<Vec<_>>());
        }
    }
    assert!(orders.len() > 10, "every execution has its own randomness: {orders:?}");
}

/// The check that ends all of these tests has to notice what it is there for.
#[test]
fn a_history_that_was_changed_does_not_replay() {
    let mut server = Server::start();
    server.start_as("a", "Sequence", r#"{"count":3}"#);
    server.finished("a");
    server.stop();
    let files = fs::read_dir(server.data()).unwrap().map(|entry| entry.unwrap().path());
    let store = files.filter(|path| path.is_file()).find(|path| fs::read(path).unwrap().starts_with(b"SQLite format 3")).unwrap();
    let original = fs::read(&store).unwrap();
    let then = br#""name":"Echo","input":1"#;
    let at = original.windows(then.len()).position(|bytes| bytes == then).expect("the history is text");
    let mut changed = original.clone();
    changed[at + then.len() - 1] = b'7';
    fs::write(&store, changed).unwrap();
    let error = dacapo::engine::verify(&server.data(), &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("instance a of") && error.contains("it does not replay: task 1"), "{error}");
    fs::write(&store, original).unwrap();
}
