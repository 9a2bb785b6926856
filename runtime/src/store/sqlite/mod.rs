//! How does one file keep everything, and survive a power cut? SQLite with a write-ahead log, synced at every batch.
//!
//! One connection writes, behind a mutex (`write.rs`, `delete.rs`); a few read, each from a consistent snapshot, and never wait for the
//! writer (`read.rs`, `list.rs`); one moves the log into the file (`checkpoint.rs`). Group commit is not here but in `store::group`.

pub mod backup;
mod checkpoint;
mod delete;
mod inspect;
mod list;
mod read;
mod renew;
mod write;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

pub use self::inspect::{Amount, Inspector, Page};

use self::checkpoint::Checkpointer;
use self::read::Readers;
use self::write::Writer;
use super::schema::{self, MIGRATIONS};
use super::{
    Commit, CommitOutcome, Deletion, DueRow, Filter, HubRow, InstanceRow, Listed, LogPage, ModuleRow, Position, Progress, Store,
    StoreError, Upload, Uploaded,
};
use crate::model::{
    Digest, Event, ExecutionKey, HubKey, InstanceId, InstanceKey, Message, MessageKey, ModuleName, Payload, TaskId,
};

/// The name of the database in its directory.
pub const FILE: &str = "dacapo.db";

/// How long the writer waits for somebody from outside who has the file locked, for example a copying tool.
const BUSY_MS_MAX: u64 = 5_000;

/// Pages that the writer keeps in memory, in KiB. Filled only as far as they are used; four times as much made no difference with a million
/// instances in the store, since what is written lies at the end of most trees, and the kernel has the other pages. SQLite walks through
/// all of them after a transaction that has split a tree in its middle.
const WRITER_CACHE_KIB: i64 = 8 * 1024;

/// The store of a single machine: `dacapo.db` in a directory of its own, with SQLite's two files beside it.
///
/// # Durability
/// Every method that writes returns after its transaction has been synced. The directory is locked for as long as the store
/// is open, and a clean close leaves everything in the one file.
pub struct SqliteStore {
    readers: Readers,
    checkpointer: Checkpointer,
    writer: Arc<Mutex<Writer>>,
    wal: PathBuf,
    /// Locked until this is dropped, so it has to be the last field.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store in `dir`, and makes it if there is none; what it makes is for its owner's eyes only. From now on, whoever
    /// had it open before is refused.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it open, [`StoreError::Newer`] if it was written by a newer version.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let lock = make_files(dir)?;
        Self::open_locked(dir, lock)
    }

    /// As a second machine would that does not see the lock.
    #[cfg(test)]
    pub(super) fn take_over(dir: &Path) -> Result<Self, StoreError> {
        let unlocked = File::open(dir).map_err(|error| StoreError::Other(error.to_string()))?;
        Self::open_locked(dir, unlocked)
    }

    fn open_locked(dir: &Path, lock: File) -> Result<Self, StoreError> {
        let (path, wal) = (dir.join(FILE), dir.join(format!("{FILE}-wal")));
        renew::renew(&wal).map_err(|error| StoreError::Other(format!("write {} anew: {error}", wal.display())))?;
        let mut conn = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        schema::version(&conn, MIGRATIONS)?; // A newer file is refused before anything in it changes.
        conn.pragma_update(None, "page_size", 4096)?;
        conn.pragma_update(None, "journal_mode", "wal")?;
        conn.pragma_update(None, "synchronous", "full")?;
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        schema::migrate(&mut conn, MIGRATIONS)?;

        let signal = Arc::default();
        let writer = Arc::new(Mutex::new(Writer::new(conn, path.clone(), Arc::clone(&signal))?));
        let own = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let checkpointer = Checkpointer::start(own, Arc::clone(&writer), signal)?;
        Ok(Self { readers: Readers::new(path), checkpointer, writer, wal, _lock: lock })
    }

    fn writing<T>(&self, write: impl FnOnce(&mut Writer) -> Result<T, StoreError>) -> Result<T, StoreError> {
        write(&mut self.writer.lock().expect("no thread panics while it holds the writer"))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.checkpointer.stop();
        self.close();
    }
}

impl Store for SqliteStore {
    fn close(&self) {
        if let Ok(mut writer) = self.writer.lock() {
            writer.close();
        }
    }

    fn commit(&self, batch: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        self.writing(|writer| writer.commit(batch))
    }

    fn upload(&self, upload: &Upload<'_>) -> Result<Uploaded, StoreError> {
        self.writing(|writer| writer.upload(upload))
    }

    fn delete_module(&self, hub: HubKey, name: &ModuleName, digest: Option<Digest>) -> Result<Deletion, StoreError> {
        self.writing(|writer| writer.transact(|conn| delete::delete_module(conn, hub, name, digest)))
    }

    fn discard_modules(&self) -> Result<Vec<Digest>, StoreError> {
        let mut orphans = delete::orphans(&*self.readers.take()?)?;
        let mut after = Some(i64::MIN);
        while let Some(key) = after
            && !orphans.is_empty()
        {
            after = delete::strike_referred(&*self.readers.take()?, &mut orphans, key)?;
        }
        if orphans.is_empty() {
            return Ok(Vec::new());
        }
        // Without a version no instance has come to refer to them since.
        self.writing(|writer| writer.transact(|conn| delete::discard(conn, &orphans)))?;
        Ok(orphans.into_values().collect())
    }

    fn probe(&self) -> Result<(), StoreError> {
        self.writing(|writer| writer.transact(|_| Ok(()))) // The fence writes.
    }

    fn due(
        &self,
        hub: HubKey,
        from_ms: Option<u64>,
        until_ms: u64,
        after: Option<&DueRow>,
        max: usize,
    ) -> Result<Vec<DueRow>, StoreError> {
        read::due(&*self.readers.take()?, hub, from_ms, until_ms, after, max)
    }

    fn inbox(&self, hub: HubKey, after: Option<MessageKey>, max: usize) -> Result<Vec<Message>, StoreError> {
        read::inbox(&*self.readers.take()?, hub, after, max)
    }

    fn discard_messages(&self, keys: &[MessageKey]) -> Result<(), StoreError> {
        if keys.is_empty() { Ok(()) } else { self.writing(|writer| writer.discard_messages(keys)) }
    }

    fn last_message(&self, first: MessageKey, end: MessageKey) -> Result<Option<MessageKey>, StoreError> {
        read::last_message(&*self.readers.take()?, first, end)
    }

    fn save_progress(&self, progress: &[Progress]) -> Result<(), StoreError> {
        if progress.is_empty() { Ok(()) } else { self.writing(|writer| writer.save_progress(progress)) }
    }

    fn progress(&self, execution: ExecutionKey, task: TaskId) -> Result<Option<Payload>, StoreError> {
        read::progress(&*self.readers.take()?, execution, task)
    }

    fn sweep_progress(&self, rows_max: usize) -> Result<usize, StoreError> {
        let stale = read::stale_progress(&*self.readers.take()?, rows_max)?;
        if !stale.is_empty() {
            self.writing(|writer| writer.discard_progress(&stale))?;
        }
        Ok(stale.len())
    }

    fn wal_bytes(&self) -> u64 {
        std::fs::metadata(&self.wal).map_or(0, |file| file.len())
    }

    fn hubs(&self) -> Result<Vec<HubRow>, StoreError> {
        read::hubs(&*self.readers.take()?)
    }

    fn modules(&self, hub: HubKey) -> Result<Vec<ModuleRow>, StoreError> {
        read::modules(&*self.readers.take()?, hub)
    }

    fn module_bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        read::module_bytes(&*self.readers.take()?, digest)
    }

    fn live_instances(&self, hub: HubKey) -> Result<Vec<(Digest, u64)>, StoreError> {
        read::live_instances(&*self.readers.take()?, hub)
    }

    fn instance(&self, hub: HubKey, id: &InstanceId) -> Result<Option<InstanceRow>, StoreError> {
        read::instance(&*self.readers.take()?, hub, id)
    }

    fn instances(&self, hub: HubKey, after: Option<InstanceKey>, max: usize) -> Result<Vec<InstanceRow>, StoreError> {
        read::instances(&*self.readers.take()?, hub, after, max)
    }

    fn list(&self, hub: HubKey, filter: &Filter, after: Option<&Position>, max: usize) -> Result<Listed, StoreError> {
        list::list(&*self.readers.take()?, hub, filter, after, max)
    }

    fn history(&self, execution: ExecutionKey) -> Result<Vec<Event>, StoreError> {
        // The texts are copied out first: parsing a long history must not hold a snapshot, and with it the log.
        let rows = read::history(&*self.readers.take()?, execution)?;
        read::parse_history(execution, rows)
    }

    fn history_from(&self, execution: ExecutionKey, from: u32, bytes_max: usize) -> Result<Vec<Event>, StoreError> {
        let rows = read::history_from(&*self.readers.take()?, execution, from, bytes_max)?;
        read::parse_history_from(execution, from, bytes_max, &rows)
    }

    fn first_event(&self, execution: ExecutionKey) -> Result<Option<Event>, StoreError> {
        read::first_event(&*self.readers.take()?, execution)
    }

    fn last_event(&self, execution: ExecutionKey) -> Result<Option<Event>, StoreError> {
        read::last_event(&*self.readers.take()?, execution)
    }

    fn last_execution(&self, first: ExecutionKey, end: ExecutionKey) -> Result<Option<ExecutionKey>, StoreError> {
        read::last_execution(&*self.readers.take()?, first, end)
    }

    fn log(&self, instance: InstanceKey, from: u64) -> Result<LogPage, StoreError> {
        let rows = read::log(&*self.readers.take()?, instance, from)?;
        read::parse_log(instance, from, rows)
    }

    fn purge(&self, rows: &[InstanceRow]) -> Result<usize, StoreError> {
        if rows.is_empty() { Ok(0) } else { self.writing(|writer| writer.purge(rows)) }
    }

    fn sweep(&self, rows_max: usize) -> Result<usize, StoreError> {
        self.writing(|writer| writer.sweep(rows_max))
    }
}

/// Makes directory, lock file and database file where they are missing, and takes the lock, which the file returned holds.
fn make_files(dir: &Path) -> Result<File, StoreError> {
    let failed = |what: &str| {
        let what = format!("{what} {}", dir.display());
        move |error: io::Error| StoreError::Other(format!("{what}: {error}"))
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make directory"))?;
    let touch = |name| OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join(name));

    let lock = touch("dacapo.lock").map_err(failed("make the lock file in"))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StoreError::Locked(dir.display().to_string()),
        TryLockError::Error(error) => failed("lock")(error),
    })?;
    // SQLite would give its file the rights that the umask leaves, and gives the files beside it the rights of this one.
    touch(FILE).map_err(failed("make the database in"))?;
    // A file is only as durable as its name: in its directory, and in the directory above.
    for dir in [Some(dir), dir.parent()].into_iter().flatten().filter(|dir| !dir.as_os_str().is_empty()) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync"))?;
    }
    Ok(lock)
}

/// A connection that neither checkpoints by itself nor minds the order in which rows of different tables are written.
fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let conn = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(Duration::from_millis(BUSY_MS_MAX))?;
    conn.set_prepared_statement_cache_capacity(32);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Plans do not depend on what is bound. Otherwise each run of a statement whose plan may would compile it anew.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "foreign_keys", false)?;
    Ok(conn)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
        let text = error.to_string();
        match error {
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..) => {
                Self::Corrupt(text)
            }
            rusqlite::Error::SqliteFailure(cause, _) => match (cause.code, cause.extended_code) {
                (_, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => Self::Poisoned(text),
                // The shared memory could not grow.
                (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => Self::Full,
                (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => Self::Corrupt(text),
                _ => Self::Other(text),
            },
            _ => Self::Other(text),
        }
    }
}

#[cfg(test)]
mod tests;
