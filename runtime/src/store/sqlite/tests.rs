//! What only a file can do: be locked, be newer, be damaged, be full, grow a log.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;
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
fn a_damaged_row_does_not_keep_the_other_open_instances_from_going_on() {
    let (dir, store) = store();
    let world = World::new(&store);
    store.commit(&[world.create(1, "loaf"), world.create(2, "roll"), world.create(3, "bun")]).unwrap();
    outside(&dir).execute_batch("UPDATE instance SET custom_status = '{' WHERE id = 'roll'").unwrap();
    let open = store.open_instances(world.hub, None, 9).unwrap();
    assert_eq!(open.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["loaf", "bun"]);
    // Also where a whole page is damaged.
    let behind = store.open_instances(world.hub, Some(open[0].key), 1).unwrap();
    assert_eq!(behind.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["bun"]);
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
            store.open_instances(world.hub, None, 9).err(),
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
    for code in [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMSIZE] {
        assert!(matches!(meaning(code), StoreError::Poisoned(_)), "{code}");
    }
    assert!(matches!(meaning(ffi::SQLITE_FULL), StoreError::Full));
    assert!(matches!(meaning(ffi::SQLITE_BUSY), StoreError::Other(_)));
}

#[test]
fn queries_use_the_indexes_made_for_them() {
    let (dir, _store) = store();
    let plan = |sql: &str| {
        let conn = outside(&dir);
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let lines = statement.query_map([], |row| row.get::<_, String>(3)).unwrap();
        lines.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    let open = format!("SELECT key FROM instance WHERE hub = 1 AND {} AND key > 7 ORDER BY key LIMIT 5", schema::OPEN);
    assert_eq!(plan(&open), "SEARCH instance USING INDEX instance_open (hub=? AND rowid>?)");
    let by_status = "SELECT key FROM instance WHERE hub = 1 AND status = 0 AND created > 7 ORDER BY created, key";
    assert_eq!(plan(by_status), "SEARCH instance USING COVERING INDEX instance_status (hub=? AND status=? AND created>?)");
    let has_module = "SELECT 1 FROM version WHERE version.module = 1 AND version.hub = 2";
    assert_eq!(plan(has_module), "SEARCH version USING COVERING INDEX version_module (module=? AND hub=?)");
    let last = "SELECT max(execution) FROM history WHERE execution >= 1 AND execution < 9";
    assert_eq!(plan(last), "SEARCH history USING COVERING INDEX history_order (execution>? AND execution<?)");
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
