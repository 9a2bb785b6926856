//! What only a file can do: be locked, be newer, be damaged, be full, grow a log.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;
use crate::model::{RuntimeStatus, Wake};
use crate::store::EncodedMessage;
use crate::store::suite::{self, World};

fn store() -> (TempDir, SqliteStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    (dir, store)
}

/// A connection past the store, for what no store would write.
fn outside(dir: &TempDir) -> Connection {
    connect(&dir.path().join("dacapo.db"), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
}

#[test]
fn a_store_is_open_only_once() {
    let (dir, store) = store();
    let Err(error) = SqliteStore::open(dir.path()) else { panic!("it was opened twice") };
    let expected = format!("another process has {} open; stop it first, or choose another data directory", dir.path().display());
    assert_eq!(error.to_string(), expected);
    drop(store);
    SqliteStore::open(dir.path()).unwrap();
}

#[test]
fn what_it_makes_is_for_its_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/data");
    let store = SqliteStore::open(&dir).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in ["dacapo.db", "dacapo.db-wal", "dacapo.db-shm", "dacapo.lock"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    drop(store);
}

#[test]
fn a_clean_close_leaves_everything_in_one_file() {
    let (dir, store) = store();
    let world = World::new(&store);
    store.commit(&[world.create(1, "loaf")]).unwrap();
    assert!(store.wal_bytes() > 0);
    drop(store);
    std::fs::remove_file(dir.path().join("dacapo.db-wal")).ok();
    let store = SqliteStore::open(dir.path()).unwrap();
    assert!(store.instance(world.hub, &suite::id("loaf")).unwrap().is_some());
}

#[test]
fn a_newer_file_is_refused_untouched() {
    let (dir, store) = store();
    drop(store);
    outside(&dir).pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(dir.path().join("dacapo.db")).unwrap();
    let Err(error) = SqliteStore::open(dir.path()) else { panic!("it was opened") };
    assert!(matches!(error, StoreError::Newer { found: 99, known } if known == MIGRATIONS.len() as i64), "{error}");
    assert_eq!(std::fs::read(dir.path().join("dacapo.db")).unwrap(), before);
}

#[test]
fn a_file_that_is_no_database_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dacapo.db"), "bread ".repeat(2_000)).unwrap();
    let Err(error) = SqliteStore::open(dir.path()) else { panic!("it was opened") };
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
}

#[test]
fn damaged_rows_are_errors() {
    let damages = [
        "UPDATE history SET events = 'x' WHERE seq = 1",
        "UPDATE history SET events = '[]' WHERE seq = 1",
        "UPDATE history SET events = x'ff' WHERE seq = 1",
        "UPDATE history SET events = CAST(x'ff' AS TEXT) WHERE seq = 1",
        "UPDATE history SET events = '[{\"risen\":{}}]' WHERE seq = 1",
        "UPDATE history SET seq = 2 WHERE seq = 1",
        "UPDATE history SET seq = -1 WHERE seq = 1",
        "UPDATE instance SET status = 77",
        "UPDATE instance SET status = 'baked'",
        "UPDATE instance SET module = 77",
        "UPDATE instance SET length = -1",
        "UPDATE instance SET id = 'a/b'",
        "UPDATE instance SET custom_status = '{'",
        "UPDATE instance SET wake = -1",
        "UPDATE instance SET wake = 'soon'",
        "UPDATE instance SET tags = '{\"a b\":\"c\"}'",
        "UPDATE instance SET tags = x'ff'",
        "UPDATE hub SET id = 131072",
        "UPDATE hub SET name = '-'",
        "UPDATE version SET module = 77",
        "UPDATE blob SET digest = x'00'",
    ];
    for damage in damages {
        let (dir, store) = store();
        let world = World::new(&store);
        store.commit(&[world.create(1, "loaf")]).unwrap();
        store.commit(&[world.advance(1, 1)]).unwrap();
        outside(&dir).execute_batch(damage).unwrap();
        let errors = [
            store.history(world.execution(1)).err(),
            store.first_event(world.execution(1)).err(),
            store.last_event(world.execution(1)).err(),
            store.instances(world.hub, None, 9).err(),
            store.hubs().err(),
            store.modules(world.hub).err(),
        ];
        let errors: Vec<_> = errors.into_iter().flatten().collect();
        assert!(!errors.is_empty(), "{damage}");
        for error in errors {
            assert!(matches!(error, StoreError::Corrupt(_)), "{damage}: {error}");
        }
    }
}

#[test]
fn files_that_are_moved_away_take_no_writes_until_they_are_back() {
    let (dir, store) = store();
    let world = World::new(&store);
    let (data, away) = (dir.path().join(FILE), dir.path().join("away"));
    std::fs::rename(&data, &away).unwrap();
    assert!(matches!(store.commit(&[world.create(1, "loaf")]), Err(StoreError::Gone)));
    std::fs::write(&data, "somebody else's").unwrap();
    assert!(matches!(store.commit(&[world.create(1, "loaf")]), Err(StoreError::Gone)));
    std::fs::rename(&away, &data).unwrap();
    store.commit(&[world.create(1, "loaf")]).unwrap();
    assert_eq!(store.history(world.execution(1)).unwrap().len(), 1);
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let (_dir, store) = store();
    let world = World::new(&store);
    store.commit(&[world.create(1, "loaf")]).unwrap();
    let limit = |pages: i64| {
        store
            .writing(|writer| {
                let full: i64 = writer.conn().pragma_query_value(None, "page_count", |row| row.get(0))?;
                Ok(writer.conn().query_row(&format!("PRAGMA max_page_count = {}", full + pages), [], |_| Ok(()))?)
            })
            .unwrap();
    };
    let large = Commit { events: suite::filler(1_000_000), ..world.create(2, "roll") };
    limit(10);
    for _ in 0..2 {
        assert!(matches!(store.commit(&[world.advance(1, 1), large.clone()]), Err(StoreError::Full)));
        assert_eq!(store.history(world.execution(1)).unwrap().len(), 1);
    }
    limit(1_000);
    store.commit(&[world.advance(1, 1), large]).unwrap();
    assert_eq!(store.history(world.execution(1)).unwrap().len(), 3);
}

#[test]
fn after_a_failed_sync_nothing_is_written_until_it_is_reopened() {
    let (dir, store) = store();
    let world = World::new(&store);
    store.commit(&[world.create(1, "loaf")]).unwrap();
    let sync_failed = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), None);
    store.writer.lock().unwrap().note(&sync_failed.into());
    for _ in 0..2 {
        assert!(matches!(store.commit(&[world.advance(1, 1)]), Err(StoreError::Poisoned(_))));
        assert!(matches!(store.sweep(1), Err(StoreError::Poisoned(_))));
    }
    assert_eq!(store.history(world.execution(1)).unwrap().len(), 1);
    drop(store);
    assert!(dir.path().join("dacapo.db-wal").metadata().unwrap().len() > 0, "the log of a store in doubt is left alone");
    let store = SqliteStore::open(dir.path()).unwrap();
    store.commit(&[world.advance(1, 1)]).unwrap();
}

#[test]
fn an_error_at_commit_that_leaves_the_outcome_open_poisons() {
    let meaning = |code| write::commit_error(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
    for code in [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMMAP] {
        assert!(matches!(meaning(code), StoreError::Poisoned(_)), "{code}");
    }
    for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_SHMSIZE] {
        assert!(matches!(meaning(code), StoreError::Full), "{code}");
    }
    assert!(matches!(meaning(ffi::SQLITE_BUSY), StoreError::Other(_)));
}

#[test]
fn damaged_rows_do_not_keep_others_from_being_due() {
    let (dir, store) = store();
    let world = World::new(&store);
    store.commit(&[1, 2, 3, 4, 5].map(|n| world.create(n, &format!("loaf-{n}")))).unwrap();
    let damage = "UPDATE instance SET wake = 50; UPDATE instance SET id = 'a/b' WHERE id = 'loaf-2';
        UPDATE instance SET wake = 60.5 WHERE id = 'loaf-4'; UPDATE instance SET wake = 70 WHERE id = 'loaf-5';
        UPDATE instance SET wake = -7 WHERE id = 'loaf-1'";
    outside(&dir).execute_batch(damage).unwrap();
    for max in 1..=5 {
        let (mut after, mut seen) = (None, Vec::new());
        while let page = store.due(world.hub, None, 99, after.as_ref(), max).unwrap()
            && !page.is_empty()
        {
            seen.extend(page.iter().map(|row| row.id.to_string()));
            after = page.into_iter().next_back();
        }
        assert_eq!(seen, ["loaf-3", "loaf-5"], "by {max}");
    }
}

#[test]
fn a_damaged_message_does_not_keep_others_from_being_read() {
    let (dir, store) = store();
    let world = World::new(&store);
    let (first, _) = MessageKey::range(world.hub, 0);
    let message = |n: i64| {
        let body = crate::model::Body::Raise { name: "risen".into(), payload: Payload::null() };
        EncodedMessage::of(&Message { key: MessageKey(first.0 + n), to: suite::id("roll"), body })
    };
    store.commit(&[Commit { sends: [1, 2, 3, 4].map(message).into(), ..world.create(1, "loaf") }]).unwrap();
    let damage = "UPDATE inbox SET body = '{' WHERE id = ?1 + 1; UPDATE inbox SET body = x'ff' WHERE id = ?1 + 2;
        UPDATE inbox SET recipient = 'a/b' WHERE id = ?1 + 3"
        .replace("?1", &first.0.to_string());
    outside(&dir).execute_batch(&damage).unwrap();
    for max in 1..=4 {
        let keys: Vec<_> = store.inbox(world.hub, None, max).unwrap().iter().map(|message| message.key.0 - first.0).collect();
        assert_eq!(keys, [4], "by {max}");
    }
}

#[test]
fn damaged_progress_is_an_error() {
    let (dir, store) = store();
    let world = World::new(&store);
    let execution = ExecutionKey::range(world.hub).0;
    store.save_progress(&[Progress { execution, task: TaskId(0), payload: Payload::null() }]).unwrap();
    outside(&dir).execute_batch("UPDATE progress SET payload = '{'").unwrap();
    assert!(matches!(store.progress(execution, TaskId(0)), Err(StoreError::Corrupt(_))));
}

/// As a rewind does that comes between the look and the deletion.
#[test]
fn the_sweep_leaves_the_progress_of_an_execution_that_goes_on_again() {
    let (_dir, store) = store();
    let world = World::new(&store);
    store.commit(&[world.create(1, "loaf"), world.create(2, "roll")]).unwrap();
    store.commit(&[world.end(2, 1, RuntimeStatus::Failed)]).unwrap();
    let rows = [1, 2].map(|n| (world.execution(n), TaskId(0)));
    let said = rows.map(|(execution, task)| Progress { execution, task, payload: Payload::of(&"risen") });
    store.save_progress(&said).unwrap();
    store.writing(|writer| writer.discard_progress(&rows)).unwrap();
    let is_there = rows.map(|(execution, task)| store.progress(execution, task).unwrap().is_some());
    assert_eq!(is_there, [true, false]);
}

#[test]
fn queries_use_the_indexes_made_for_them() {
    let (dir, _store) = store();
    let plan = |sql: &str| {
        let conn = outside(&dir);
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let values = rusqlite::params_from_iter((0..statement.parameter_count()).map(|_| 1));
        let lines = statement.query_map(values, |row| row.get::<_, String>(3)).unwrap();
        lines.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(
        plan(&read::due_sql()),
        "MERGE (UNION ALL); LEFT; SEARCH instance USING INDEX instance_open (hub=? AND wake=? AND rowid>?); \
        RIGHT; SEARCH instance USING INDEX instance_open (hub=? AND wake>? AND wake<?)"
    );
    assert_eq!(
        plan(&read::stale_progress_sql()),
        "SCAN progress; CORRELATED SCALAR SUBQUERY 1; SEARCH instance USING INTEGER PRIMARY KEY (rowid=?); \
        CORRELATED SCALAR SUBQUERY 2; SEARCH instance USING INDEX instance_continued (execution=?)"
    );
    let by_status = "SELECT key FROM instance WHERE hub = 1 AND status = 0 AND created > 7 ORDER BY created, key";
    assert_eq!(plan(by_status), "SEARCH instance USING COVERING INDEX instance_status (hub=? AND status=? AND created>?)");
    let has_module = "SELECT 1 FROM version WHERE version.module = 1 AND version.hub = 2";
    assert_eq!(plan(has_module), "SEARCH version USING COVERING INDEX version_module (module=? AND hub=?)");
    assert_eq!(plan(write::PURGE), "SEARCH instance USING INTEGER PRIMARY KEY (rowid=?)");
    assert_eq!(plan(write::NEXT_SUPERSEDED), "SCAN superseded", "in the order of its key, and only to the first");
    assert_eq!(
        plan(write::HAS_HIGHER),
        "SCAN CONSTANT ROW; SCALAR SUBQUERY 1; SEARCH history USING COVERING INDEX history_order (execution>? AND execution<?); \
        SCALAR SUBQUERY 2; SEARCH superseded USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
    );
    let last = plan(read::LAST_EXECUTION);
    for search in [
        "SEARCH history USING COVERING INDEX history_order (execution>? AND execution<?)",
        "SEARCH superseded USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
        "SEARCH progress USING PRIMARY KEY (execution>? AND execution<?)",
    ] {
        assert!(last.contains(search), "{last}");
    }
}

#[test]
fn a_step_writes_to_no_index_that_it_leaves_as_it_is() {
    let (dir, _store) = store();
    let conn = outside(&dir);
    let written = |sql: &str| {
        let mut statement = conn.prepare(&format!("EXPLAIN {sql}")).unwrap();
        let values = rusqlite::params_from_iter((0..statement.parameter_count()).map(|_| 1));
        let codes = statement.query_map(values, |row| row.get::<_, String>(1)).unwrap();
        codes.map(Result::unwrap).filter(|code| code == "IdxInsert").count()
    };
    assert_eq!([write::ADVANCE, write::ADVANCE_WAKE, write::ADVANCE_STATUS].map(written), [0, 1, 2]);
}

/// The file of an older version, with everything that could be in one.
#[test]
fn a_file_without_wakes_messages_and_progress_is_migrated() {
    let dir = tempfile::tempdir().unwrap();
    let mut conn = Connection::open(dir.path().join("dacapo.db")).unwrap();
    schema::migrate(&mut conn, &MIGRATIONS[..3]).unwrap();
    let (module, hub) = (Digest::of(suite::MODULE), HubKey(1));
    let first = ExecutionKey::range(hub).0.0;
    let line = |n: i64| format!(r#"[{{"at_ms":{n},"level":"info","target":"oven","message":"warm"}}]"#);
    let started = suite::World { hub }.create(0, "x").events.json;
    conn.execute("INSERT INTO hub VALUES (1, 'Bakery', 64)", []).unwrap();
    conn.execute("INSERT INTO blob VALUES (1, ?1, x'00')", [module.0]).unwrap();
    conn.execute_batch("INSERT INTO module VALUES (1, 'bread', 1); INSERT INTO version VALUES (1, 'bread', 1, 100, '{}')")
        .unwrap();
    // Pending, running, ended; and one whose place another has taken, which is not swept yet.
    for (n, of, status) in [(1, "loaf", 6), (2, "roll", 0), (3, "bun", 1)] {
        let insert = "INSERT INTO instance VALUES (?1, 1, ?2, ?1, 1, 'BakeBread', 1, ?3, 1000, 2000, '\"warm\"')";
        conn.execute(insert, rusqlite::params![first + n, of, status]).unwrap();
    }
    for n in 1..=4 {
        conn.execute("INSERT INTO history VALUES (?1, 0, ?2)", rusqlite::params![first + n, started]).unwrap();
        conn.execute("INSERT INTO log VALUES (?1, 0, 1, 66, ?2)", rusqlite::params![first + n, line(n)]).unwrap();
    }
    conn.execute("INSERT INTO superseded VALUES (?1)", [first + 4]).unwrap();
    drop(conn);

    let store = SqliteStore::open(dir.path()).unwrap();
    let world = World { hub };
    let rows = store.instances(hub, None, 9).unwrap();
    let seen: Vec<_> = rows.iter().map(|row| (row.id.as_str(), row.status, row.wake, row.tags.is_empty())).collect();
    let expected = [
        ("loaf", RuntimeStatus::Pending, Wake::AT_ONCE, true),
        ("roll", RuntimeStatus::Running, Wake::AT_ONCE, true),
        ("bun", RuntimeStatus::Completed, Wake::NEVER, true),
    ];
    assert_eq!(seen, expected);
    assert!(rows.iter().all(|row| row.module == module && row.custom_status == Some(Payload::of(&"warm"))));
    let due = store.due(hub, None, 0, None, 9).unwrap();
    assert_eq!(
        due.iter().map(|row| (row.id.as_str(), row.key)).collect::<Vec<_>>(),
        [("loaf", world.key(1)), ("roll", world.key(2))]
    );
    let log = |n: i64| store.log(world.key(n), 0).unwrap().lines.iter().map(|(_, line)| line.at_ms).collect::<Vec<_>>();
    assert_eq!([1, 2, 3, 4].map(log), [[1], [2], [3], [4]]);
    assert_eq!((store.inbox(hub, None, 9).unwrap(), store.sweep_progress(9).unwrap()), (Vec::new(), 0));
    assert_eq!([9, 9].map(|rows| store.sweep(rows).unwrap()), [3, 0], "its history, its lines, and the note of it");
    assert!(log(4).is_empty());
    assert_eq!(log(3), [3]);
    // And it goes on.
    store.commit(&[world.end(1, 1, RuntimeStatus::Completed), world.create(5, "bun")]).unwrap();
    assert_eq!(store.due(hub, None, 0, None, 9).unwrap().len(), 1);
    assert_eq!(store.sweep(9).unwrap(), 3);
}

/// 1 GB in a few seconds, while readers follow one another so closely that there is always one.
#[test]
fn the_log_stays_short_under_a_flood_of_writes() {
    let (_dir, store) = store();
    let world = World::new(&store);
    store.commit(&[world.create(1, "loaf")]).unwrap();
    let done = AtomicBool::new(false);
    let longest = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(store.history(world.execution(1)).unwrap().len(), 1);
                }
            });
        }
        let events = suite::filler(4 << 20);
        let write = |n| {
            store.commit(&[Commit { events: events.clone(), ..world.create(n, &format!("loaf-{n}")) }]).unwrap();
            store.wal_bytes()
        };
        let longest = (2..258).map(write).max();
        done.store(true, Ordering::Relaxed);
        longest
    });
    assert!(longest < Some(256 << 20), "{longest:?} bytes");
}

#[test]
fn readers_wait_for_one_another_when_there_are_too_many() {
    let (_dir, store) = store();
    let world = World::new(&store);
    store.commit(&[world.create(1, "loaf")]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 * read::READERS_MAX {
            scope.spawn(|| assert!((0..50).all(|_| store.history(world.execution(1)).unwrap().len() == 1)));
        }
    });
}
