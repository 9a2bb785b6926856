//! How is a store copied while a server writes to it? As it stood at one moment: page by page, out of a snapshot that is held until the end.
//!
//! The snapshot holds nobody up. What is written meanwhile stays in the write-ahead log, which cannot start over until the snapshot is
//! gone, and grows by that much; `checkpoint.rs` waits the less often for it the longer it takes. Called by the command line, in a
//! process of its own as a rule.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::{FILE, StoreError, connect};
use crate::store::schema::{self, MIGRATIONS};

/// How many pages are copied at once, between two looks at how far it is: 4 MB.
const STEP_PAGES: i32 = 1_024;

/// The size of a page, in bytes: that of every store.
const PAGE_BYTES: u64 = 4_096;

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copying {
    /// How many bytes are copied.
    pub bytes: u64,
    /// How many there are.
    pub of: u64,
}

/// A copy that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreCopy {
    /// How large it is, in bytes.
    pub bytes: u64,
    /// How many instances are in it.
    pub instances: u64,
}

/// Copies the store in the directory `from`, which a server may have open, into the directory `to`, which has none. `tell` hears how far
/// it is: once before anything is copied, when the moment that the copy shows is past.
///
/// On return the copy is durable but for its name in `to`, and SQLite has found nothing wrong with its structure.
///
/// # Errors
/// If either cannot be read or written, [`StoreError::Newer`], or [`StoreError::Corrupt`]. What is in `to` is of no use then.
pub fn copy(from: &Path, to: &Path, tell: impl FnMut(Copying)) -> Result<StoreCopy, StoreError> {
    let (from, to) = (from.join(FILE), to.join(FILE));
    if !from.is_file() {
        return Err(StoreError::Other(format!("there is no {}", from.display())));
    }
    let failed = |error: std::io::Error| StoreError::Other(format!("{}: {error}", to.display()));
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(&to).map_err(failed)?;
    copy_file(&from, &to, tell)?;
    let instances = check(&to)?;
    let file = File::open(&to).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(StoreCopy { bytes: file.metadata().map_err(failed)?.len(), instances })
}

fn copy_file(from: &Path, to: &Path, mut tell: impl FnMut(Copying)) -> Result<(), StoreError> {
    let source = open_source(from)?;
    source.execute_batch("BEGIN")?;
    schema::version(&source, MIGRATIONS)?; // The first thing that is read takes the snapshot.
    let mut target = connect(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Until it is whole it is of no use to anybody; then it is synced.
    target.pragma_update(None, "journal_mode", "off")?;
    target.pragma_update(None, "synchronous", "off")?;
    let backup = Backup::new(&source, &mut target)?;
    let pages: i64 = source.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let of = pages.cast_unsigned() * PAGE_BYTES;
    tell(Copying { bytes: 0, of });
    loop {
        match backup.step(STEP_PAGES)? {
            StepResult::Done => break,
            StepResult::More => {
                let progress = backup.progress();
                let copied = u64::try_from(progress.pagecount - progress.remaining).unwrap_or(0);
                tell(Copying { bytes: copied * PAGE_BYTES, of });
            }
            // Nobody writes to a snapshot, and nobody else knows of the copy.
            step => return Err(StoreError::Other(format!("{} is in use ({step:?})", to.display()))),
        }
    }
    tell(Copying { bytes: of, of });
    Ok(())
}

/// Opens what is to be copied. A store at rest has no log, as a backup has none; whoever only reads could not take away the one that comes
/// with reading, and somebody who may write does so at the end, if nobody else has come by then.
fn open_source(path: &Path) -> Result<Connection, StoreError> {
    if path.with_extension("db-wal").exists() {
        return connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    }
    Ok(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?)
}

/// Has SQLite look through the structure of the file; how many instances are in it. Leaves nothing beside the file.
fn check(path: &Path) -> Result<u64, StoreError> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let said: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return Err(StoreError::Corrupt(said));
    }
    let instances: i64 = conn.query_row("SELECT count(*) FROM instance", [], |row| row.get(0))?;
    conn.close().map_err(|(_, error)| error)?;
    Ok(instances.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
    use std::thread;

    use super::*;
    use crate::model::{HubKey, InstanceKey};
    use crate::store::Store;
    use crate::store::sqlite::SqliteStore;
    use crate::store::suite::World;

    fn rows(store: &dyn Store, hub: HubKey) -> i64 {
        let (mut after, mut count): (Option<InstanceKey>, _) = (None, 0);
        loop {
            let rows = store.instances(hub, after, 500).unwrap();
            let Some(last) = rows.last() else { return count };
            after = Some(last.key);
            for row in rows {
                assert_eq!(store.history(row.execution).unwrap().len(), row.length as usize, "instance {}", row.id);
                count += 1;
            }
        }
    }

    #[test]
    fn a_copy_shows_one_moment_while_others_write() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = SqliteStore::open(from.path()).unwrap();
        let world = World::new(&store);
        let (written, done) = (AtomicI64::new(0), AtomicBool::new(false));
        let write = |number: i64| {
            store.commit(&[world.create(number, &format!("loaf-{number}"))]).unwrap();
            store.commit(&[world.advance(number, 1)]).unwrap();
            written.store(number, Ordering::SeqCst);
        };
        (1..=300).for_each(write);
        let (before, copied) = thread::scope(|scope| {
            scope.spawn(|| (301..).take_while(|_| !done.load(Ordering::SeqCst)).for_each(write));
            let mut before = 0;
            let copied = copy(from.path(), to.path(), |copying| {
                if copying.bytes == 0 {
                    before = written.load(Ordering::SeqCst);
                    // The snapshot is there; what is written from here on must not be in the copy.
                    while written.load(Ordering::SeqCst) < before + 50 {
                        thread::yield_now();
                    }
                }
            });
            done.store(true, Ordering::SeqCst);
            (before, copied.unwrap())
        });
        let names: Vec<_> = to.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE], "the file is all of it");
        let copy = SqliteStore::open(to.path()).unwrap();
        let count = rows(&copy, world.hub);
        assert_eq!(count.unsigned_abs(), copied.instances);
        assert!((300..=before + 1).contains(&count), "{count} instances, {before} were written before");
        // It is a store of its own from here on.
        copy.commit(&[world.create(9_999, "roll")]).unwrap();
        assert!(rows(&store, world.hub) >= before + 50);
    }

    #[test]
    fn what_is_no_store_is_not_copied_and_what_is_there_not_overwritten() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let check = |expected: &str| {
            let error = copy(from.path(), to.path(), |_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("there is no ");
        drop(SqliteStore::open(from.path()).unwrap());
        copy(from.path(), to.path(), |_| ()).unwrap();
        check("File exists");
        std::fs::remove_file(to.path().join(FILE)).unwrap();
        let conn = Connection::open(from.path().join(FILE)).unwrap();
        conn.pragma_update(None, "user_version", 999).unwrap();
        drop(conn);
        check("schema version 999");
    }
}
