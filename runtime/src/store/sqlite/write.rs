//! How does a batch become durable, all of it or nothing? One transaction, which begins with the fence.
//!
//! Everything that changes the file goes through [`Writer::transact`], so that no error leaves a transaction open, and none
//! that puts the disk in doubt is forgotten.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension, ffi, params};

use super::checkpoint::{self, Mode, Moved, STALL_PAGES, Signal};
use super::{StoreError, read};
use crate::model::{Digest, ExecutionKey, HubKey, InstanceKey, MessageKey, RuntimeStatus, TaskId, Wake};
use crate::store::schema::{HUB_KEY_MAX, PART, PARTITIONS};
use crate::store::{
    Change, Commit, CommitOutcome, EncodedLines, EncodedMessage, InstanceRow, NOTHING_LEFT, NewInstance, Progress, Upload,
    Uploaded, message_is_there,
};

/// A stale owner sets its epoch to NULL here, which the column forbids. Works alike where the others' epoch is raised by another
/// machine.
const FENCE: &str = "UPDATE lease SET last_batch = ?1, epoch = CASE WHEN epoch = ?2 THEN epoch END WHERE part = ?3";

const APPEND: &str = "INSERT INTO history (execution, seq, events) VALUES (?1, ?2, ?3)";

/// A step that leaves status and wake as they are, as most do. It must not name their columns on the left: SQLite would write the
/// entries of two indexes anew, each on a page of its own.
pub(super) const ADVANCE: &str =
    "UPDATE instance SET length = length + ?4, updated = ?5, custom_status = coalesce(?6, custom_status)
    WHERE key = ?1 AND execution = ?2 AND length = ?3 AND status = ?7 AND (NOT ?8 OR wake IS ?9)";

/// A step that changes the wake and leaves the status as it is: it writes to one index.
pub(super) const ADVANCE_WAKE: &str =
    "UPDATE instance SET length = length + ?4, updated = ?5, custom_status = coalesce(?6, custom_status),
    wake = ?9 WHERE key = ?1 AND execution = ?2 AND length = ?3 AND status = ?7";

/// A step that changes the status. The index with the wake is written anew in any case.
pub(super) const ADVANCE_STATUS: &str =
    "UPDATE instance SET length = length + ?4, updated = ?5, custom_status = coalesce(?6, custom_status), status = ?7,
    wake = CASE WHEN ?8 THEN ?9 ELSE wake END, reason = ?10 WHERE key = ?1 AND execution = ?2 AND length = ?3";

/// A failed instance goes on.
const REOPEN: &str = "UPDATE instance SET length = length + ?4, updated = ?5, status = ?6,
    module = (SELECT id FROM blob WHERE digest = ?7
        AND EXISTS (SELECT 1 FROM version WHERE version.module = blob.id AND version.hub = instance.hub)),
    wake = ?8 WHERE key = ?1 AND execution = ?2 AND length = ?3 AND status = ?9";

/// The next execution of an instance.
const CONTINUE: &str = "UPDATE instance SET execution = ?4, length = ?5, status = ?6, created = ?7, updated = ?7,
    module = (SELECT id FROM blob WHERE digest = ?8
        AND EXISTS (SELECT 1 FROM version WHERE version.module = blob.id AND version.hub = instance.hub)),
    custom_status = coalesce(?9, custom_status), wake = ?10 WHERE key = ?1 AND execution = ?2 AND length = ?3";

const CREATE: &str = "INSERT INTO instance (key, hub, id, execution, length, function, module, status, created, updated, wake, tags, custom_status)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6,
        (SELECT id FROM blob WHERE digest = ?7 AND EXISTS (SELECT 1 FROM version WHERE version.module = blob.id AND version.hub = ?2)),
        ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT (hub, id) DO NOTHING";

/// The first execution that was given up and of which something is left.
pub(super) const NEXT_SUPERSEDED: &str =
    "SELECT execution, instance FROM superseded WHERE instance IS NOT ?1 ORDER BY execution LIMIT 1";

/// Whether a higher number of a hub is stored.
pub(super) const HAS_HIGHER: &str = "SELECT EXISTS (SELECT 1 FROM history WHERE execution > ?1 AND execution < ?2)
    OR EXISTS (SELECT 1 FROM superseded WHERE execution > ?1 AND execution < ?2)";

/// Takes an instance away, if it has not got on. A step that changes the status changes the length too.
pub(super) const PURGE: &str = "DELETE FROM instance WHERE key = ?1 AND execution = ?2 AND length = ?3";

/// The connection that writes, and what it must remember between batches.
pub(super) struct Writer {
    conn: Connection,
    /// Who we are to the fence.
    epoch: i64,
    /// The number of the last batch that was begun.
    batch: i64,
    /// Where the file is, and which one it was when it was opened.
    file: (PathBuf, Option<FileId>),
    /// What a sync said when it failed. Nothing is written any more then.
    poisoned: Option<String>,
    signal: Arc<Signal>,
    /// From how many pages of the log on the writer shortens it itself.
    stall_pages: u64,
}

/// Tells a file from all others: its device, and its number there.
type FileId = (u64, u64);

fn file_id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

impl Writer {
    /// Takes the store over: raises the epoch, so that earlier owners are refused. Durable on return.
    pub(super) fn new(conn: Connection, path: PathBuf, signal: Arc<Signal>) -> Result<Self, StoreError> {
        let raise = "UPDATE lease SET epoch = epoch + 1 WHERE part = ?1 RETURNING epoch, last_batch";
        let (epoch, batch) = conn.query_row(raise, [PART], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let file = (path.clone(), file_id(&path));
        let writer = Self { conn, epoch, batch, file, poisoned: None, signal, stall_pages: STALL_PAGES };
        writer.report();
        Ok(writer)
    }

    /// As [`crate::store::Store::commit`].
    pub(super) fn commit(&mut self, batch: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        self.transact(|conn| {
            let mut statements = Statements::prepare(conn)?;
            batch.iter().map(|commit| statements.commit(commit)).collect()
        })
    }

    /// As [`crate::store::Store::upload`].
    pub(super) fn upload(&mut self, upload: &Upload<'_>) -> Result<Uploaded, StoreError> {
        self.transact(|conn| {
            let hub = make_hub(conn, upload)?;
            conn.prepare_cached("INSERT INTO blob (digest, bytes) VALUES (?1, ?2) ON CONFLICT (digest) DO NOTHING")?
                .execute(params![upload.digest.0, upload.bytes])?;
            let module: i64 =
                conn.prepare_cached("SELECT id FROM blob WHERE digest = ?1")?.query_row([upload.digest.0], |row| row.get(0))?;

            let name = upload.name.as_str();
            let version = "INSERT INTO version (hub, name, module, uploaded, catalog) VALUES (?1, ?2, ?3, ?4, ?5)
                ON CONFLICT (hub, name, module) DO NOTHING";
            let inserted = conn.prepare_cached(version)?.execute(params![
                hub.0,
                name,
                module,
                upload.at_ms.cast_signed(),
                upload.catalog
            ])?;
            let current = "INSERT INTO module (hub, name, current) VALUES (?1, ?2, ?3)
                ON CONFLICT (hub, name) DO UPDATE SET current = excluded.current";
            conn.prepare_cached(current)?.execute(params![hub.0, name, module])?;
            Ok(if inserted == 1 { Uploaded::New } else { Uploaded::Known })
        })
    }

    /// As [`crate::store::Store::sweep`].
    pub(super) fn sweep(&mut self, rows_max: usize) -> Result<usize, StoreError> {
        if self.poisoned.is_none() && next_superseded(&self.conn)?.is_none() {
            return Ok(0); // Usually so, and not worth a sync.
        }
        self.transact(|conn| {
            // From the end, so that whoever still reads it sees the beginning of a history, not a damaged one.
            let history = "DELETE FROM history WHERE rowid IN
                (SELECT rowid FROM history WHERE execution = ?1 ORDER BY seq DESC LIMIT ?2)";
            let lines = "DELETE FROM log WHERE rowid IN (SELECT rowid FROM log WHERE instance = ?1 ORDER BY line LIMIT ?2)";
            let delete_some = |sql: &str, of: i64, max: usize| -> Result<usize, StoreError> {
                Ok(conn.prepare_cached(sql)?.execute(params![of, i64::try_from(max).unwrap_or(i64::MAX)])?)
            };
            let mut room = rows_max;
            while room > 0
                && let Some((execution, instance)) = next_superseded(conn)?
            {
                room -= delete_some(history, execution, room)?;
                if let Some(instance) = instance {
                    room -= delete_some(lines, instance, room)?;
                }
                if room > 0 {
                    forget(conn, ExecutionKey(execution))?;
                    room -= 1;
                }
            }
            Ok(rows_max - room)
        })
    }

    /// As [`crate::store::Store::purge`].
    pub(super) fn purge(&mut self, rows: &[InstanceRow]) -> Result<usize, StoreError> {
        self.transact(|conn| {
            let mut delete = conn.prepare_cached(PURGE)?;
            let mut purged = 0;
            for row in rows.iter().filter(|row| row.status.is_ended()) {
                if delete.execute(params![row.key.0, row.execution.0, row.length])? == 1 {
                    supersede(conn, row.execution.0, Some(row.key.0))?;
                    purged += 1;
                }
            }
            Ok(purged)
        })
    }

    /// As [`crate::store::Store::discard_messages`].
    pub(super) fn discard_messages(&mut self, keys: &[MessageKey]) -> Result<(), StoreError> {
        self.transact(|conn| take(conn, keys))
    }

    /// As [`crate::store::Store::save_progress`].
    pub(super) fn save_progress(&mut self, progress: &[Progress]) -> Result<(), StoreError> {
        self.transact(|conn| {
            let save = "INSERT INTO progress (execution, task, payload) VALUES (?1, ?2, ?3)
                ON CONFLICT (execution, task) DO UPDATE SET payload = excluded.payload";
            let mut save = conn.prepare_cached(save)?;
            for Progress { execution, task, payload } in progress {
                save.execute(params![execution.0, task.0, payload.text()])?;
            }
            Ok(())
        })
    }

    /// Deletes these rows of progress, if they are still stale: an execution that had failed may have been rewound since they were found.
    pub(super) fn discard_progress(&mut self, of: &[(ExecutionKey, TaskId)]) -> Result<(), StoreError> {
        self.transact(|conn| {
            let delete = format!("DELETE FROM progress WHERE execution = ?1 AND task = ?2 AND {}", read::is_stale());
            let mut delete = conn.prepare_cached(&delete)?;
            for (execution, task) in of {
                delete.execute(params![execution.0, task.0])?;
            }
            Ok(())
        })
    }

    /// Empties the log at the end, so that the store is left as one file. What goes wrong here is put right at the next open.
    pub(super) fn close(&mut self) {
        if self.poisoned.is_none()
            && let Err(error) = checkpoint::between_batches(self, Mode::Truncate)
        {
            tracing::warn!("last checkpoint of the store: {error}");
        }
    }

    /// The connection, for checkpoints between batches.
    pub(super) fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Whether a sync has failed.
    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.is_some()
    }

    /// Remembers `error` if it says that a sync has failed.
    pub(super) fn note(&mut self, error: &StoreError) {
        if let StoreError::Poisoned(why) = error
            && self.poisoned.is_none()
        {
            tracing::error!("a sync of the store has failed: {why}");
            self.poisoned = Some(why.clone());
        }
    }

    /// Does `work` in one transaction behind the fence. Durable on return; after an error it has not happened, unless that is
    /// [`StoreError::Poisoned`].
    pub(super) fn transact<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.shorten_if_it_is_time();
        if let Some(why) = &self.poisoned {
            return Err(StoreError::Poisoned(why.clone()));
        }
        // What is written to files without a name is lost with the process, whatever the disk has confirmed.
        if file_id(&self.file.0) != self.file.1 {
            return Err(StoreError::Gone);
        }
        self.batch += 1;
        let result = self.attempt(work);
        match &result {
            Ok(_) => self.report(),
            Err(error) => {
                self.note(error);
                self.roll_back();
            }
        }
        result
    }

    /// Shortens the log here and now, if the thread that should do so does not keep up.
    fn shorten_if_it_is_time(&mut self) {
        let pages = self.signal.pages();
        if pages < STALL_PAGES {
            self.stall_pages = STALL_PAGES;
        }
        if pages < self.stall_pages || self.poisoned.is_some() {
            return;
        }
        let signal = Arc::clone(&self.signal);
        let moved = {
            let _none_beside = signal.none_beside();
            checkpoint::between_batches(self, Mode::Restart)
        };
        // A reader that holds on to the log for long must not slow down every batch.
        if !matches!(moved, Ok(Moved { is_blocked: false, .. })) {
            self.stall_pages = pages + checkpoint::patient_step(pages);
        }
        if let Err(error) = moved {
            tracing::warn!("checkpoint of the store: {error}");
            self.note(&error);
        }
    }

    fn attempt<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let fenced = self.conn.prepare_cached(FENCE)?.execute(params![self.batch, self.epoch, PART]);
        match fenced {
            Ok(1) => (),
            Ok(rows) => return Err(StoreError::Corrupt(format!("{rows} rows in lease for part {PART}"))),
            Err(error) if constraint(&error) == Some(ffi::SQLITE_CONSTRAINT_NOTNULL) => {
                return Err(StoreError::Fenced { epoch: self.epoch });
            }
            Err(error) => return Err(error.into()),
        }
        let done = work(&self.conn)?;
        self.conn.prepare_cached("COMMIT")?.execute([]).map_err(commit_error)?;
        Ok(done)
    }

    /// Ends the transaction that an error has left open: SQLite ends it by itself only after some.
    fn roll_back(&mut self) {
        if self.conn.is_autocommit() {
            return;
        }
        if let Err(error) = self.conn.execute_batch("ROLLBACK") {
            // The next batch would become part of what this one has left.
            self.note(&StoreError::Poisoned(format!("rolling back: {error}")));
        }
    }

    /// Tells the checkpoint thread how long the log is now.
    fn report(&self) {
        match checkpoint::checkpoint(&self.conn, Mode::Noop) {
            Ok(Moved { pages, .. }) => self.signal.wrote(pages),
            Err(error) => tracing::warn!("length of the store's log: {error}"), // The next batch asks again.
        }
    }
}

/// The statements that most commits need, looked up once per batch.
struct Statements<'conn> {
    conn: &'conn Connection,
    append: CachedStatement<'conn>,
    advance: CachedStatement<'conn>,
    advance_wake: CachedStatement<'conn>,
    advance_status: CachedStatement<'conn>,
    create: CachedStatement<'conn>,
}

impl<'conn> Statements<'conn> {
    fn prepare(conn: &'conn Connection) -> Result<Self, StoreError> {
        Ok(Self {
            conn,
            append: conn.prepare_cached(APPEND)?,
            advance: conn.prepare_cached(ADVANCE)?,
            advance_wake: conn.prepare_cached(ADVANCE_WAKE)?,
            advance_status: conn.prepare_cached(ADVANCE_STATUS)?,
            create: conn.prepare_cached(CREATE)?,
        })
    }

    fn commit(&mut self, commit: &Commit) -> Result<CommitOutcome, StoreError> {
        let seq = match &commit.change {
            Change::Create(new) => {
                if let Some(status) = self.create(commit, new)? {
                    return Ok(CommitOutcome::Refused(status));
                }
                0
            }
            Change::Continue { from, expected_length, module, created_ms, custom_status, wake } => {
                let continued = self.conn.prepare_cached(CONTINUE)?.execute(params![
                    commit.instance.0,
                    from.0,
                    expected_length,
                    commit.execution.0,
                    commit.events.count,
                    RuntimeStatus::Running as u8,
                    created_ms.cast_signed(),
                    module.0,
                    custom_status.as_ref().map(|payload| payload.text()),
                    wake_column(*wake),
                ]);
                if continued.map_err(|error| no_module(error, *module))? != 1 {
                    return Err(StoreError::Conflict { execution: *from, expected: *expected_length });
                }
                supersede(self.conn, from.0, None)?;
                0
            }
            Change::Reopen { expected_length, status, module, updated_ms, wake } => {
                let reopened = self.conn.prepare_cached(REOPEN)?.execute(params![
                    commit.instance.0,
                    commit.execution.0,
                    expected_length,
                    commit.events.count,
                    updated_ms.cast_signed(),
                    *status as u8,
                    module.0,
                    wake_column(*wake),
                    RuntimeStatus::Failed as u8,
                ]);
                if reopened.map_err(|error| no_module(error, *module))? != 1 {
                    return Err(conflict(commit, *expected_length));
                }
                *expected_length
            }
            Change::Advance { expected_length, status, updated_ms, custom_status, wake, reason } => {
                let params = params![
                    commit.instance.0,
                    commit.execution.0,
                    expected_length,
                    commit.events.count,
                    updated_ms.cast_signed(),
                    custom_status.as_ref().map(|payload| payload.text()),
                    *status as u8,
                    wake.is_some(),
                    wake.and_then(wake_column),
                ];
                // An end always changes the status.
                let same_status = !status.is_ended()
                    && (self.advance.execute(params)? == 1 || wake.is_some() && self.advance_wake.execute(params)? == 1);
                if !same_status && self.advance_status.execute(&[params, &[reason]].concat()[..])? != 1 {
                    return Err(conflict(commit, *expected_length));
                }
                *expected_length
            }
        };
        let appended = self.append.execute(params![commit.execution.0, seq, commit.events.json]);
        match appended {
            Ok(_) => (),
            Err(error) if constraint(&error) == Some(ffi::SQLITE_CONSTRAINT_UNIQUE) => return Err(conflict(commit, seq)),
            Err(error) => return Err(error.into()),
        }
        if let Some(lines) = &commit.lines {
            append_lines(self.conn, commit.instance, lines)?;
        }
        take(self.conn, &commit.takes)?;
        send(self.conn, &commit.sends)?;
        Ok(CommitOutcome::Done)
    }

    /// Makes the row; or says in which status the instance is that has the ID already and stays.
    fn create(&mut self, commit: &Commit, new: &NewInstance) -> Result<Option<RuntimeStatus>, StoreError> {
        if self.insert(commit, new)? {
            return Ok(None);
        }
        let holder = "SELECT key, execution, status FROM instance WHERE hub = ?1 AND id = ?2";
        let (key, execution, status): (i64, i64, u8) = self
            .conn
            .prepare_cached(holder)?
            .query_row(params![new.hub.0, new.id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let status = read::status(status)?;
        if key == commit.instance.0 {
            return Err(conflict(commit, 0)); // This very commit is there already.
        }
        if !new.replaces.allows(status) {
            return Ok(Some(status));
        }
        self.conn.prepare_cached("DELETE FROM instance WHERE key = ?1")?.execute([key])?;
        supersede(self.conn, execution, Some(key))?;
        if self.insert(commit, new)? { Ok(None) } else { Err(StoreError::Corrupt(format!("instance {key} is still there"))) }
    }

    fn insert(&mut self, commit: &Commit, new: &NewInstance) -> Result<bool, StoreError> {
        let print = |tags| serde_json::to_string(tags).expect("texts by texts print without errors");
        let tags = (!new.tags.is_empty()).then(|| print(&new.tags));
        let inserted = self.create.execute(params![
            commit.instance.0,
            new.hub.0,
            new.id.as_str(),
            commit.execution.0,
            commit.events.count,
            new.function,
            new.module.0,
            new.status as u8,
            new.created_ms.cast_signed(),
            new.updated_ms.cast_signed(),
            wake_column(new.wake),
            tags,
            new.custom_status.as_ref().map(|payload| payload.text()),
        ]);
        inserted.map(|rows| rows == 1).map_err(|error| match constraint(&error) {
            Some(ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => conflict(commit, 0),
            _ => no_module(error, new.module),
        })
    }
}

/// Adds a row of lines, and takes away the oldest rows that there is no room for any more. What this costs does not depend on how many
/// rows there are.
fn append_lines(conn: &Connection, instance: InstanceKey, lines: &EncodedLines) -> Result<(), StoreError> {
    let last = "SELECT line + count, upto FROM log WHERE instance = ?1 ORDER BY line DESC LIMIT 1";
    let last = conn.prepare_cached(last)?.query_row([instance.0], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (next, upto): (i64, i64) = last.unwrap_or_default();
    let line = next + i64::from(lines.skipped);
    let bytes = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    let upto = upto.saturating_add(bytes(lines.json.len()));
    conn.prepare_cached("INSERT INTO log (instance, line, count, upto, lines) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        instance.0,
        line,
        lines.count,
        upto,
        lines.json
    ])?;
    let oldest = "DELETE FROM log WHERE instance = ?1
        AND line < (SELECT line FROM log WHERE instance = ?1 AND upto > ?2 ORDER BY line LIMIT 1)";
    conn.prepare_cached(oldest)?.execute(params![instance.0, upto - bytes(lines.kept_bytes_max)])?;
    Ok(())
}

/// Deletes messages.
fn take(conn: &Connection, keys: &[MessageKey]) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut delete = conn.prepare_cached("DELETE FROM inbox WHERE id = ?1")?;
    for key in keys {
        delete.execute([key.0])?;
    }
    Ok(())
}

/// Keeps messages until somebody takes them.
fn send(conn: &Connection, messages: &[EncodedMessage]) -> Result<(), StoreError> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut insert = conn.prepare_cached("INSERT INTO inbox (id, recipient, body) VALUES (?1, ?2, ?3)")?;
    for message in messages {
        let inserted = insert.execute(params![message.key.0, message.to.as_str(), message.json]);
        inserted.map_err(|error| match constraint(&error) {
            Some(ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => message_is_there(message.key),
            _ => error.into(),
        })?;
    }
    Ok(())
}

/// Gives an execution up, and the instance with it if that is gone.
fn supersede(conn: &Connection, execution: i64, instance: Option<i64>) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO superseded (execution, instance) VALUES (?1, ?2)";
    conn.prepare_cached(sql)?.execute(params![execution, instance])?;
    Ok(())
}

/// The hub of an upload, which is made if this is its first.
fn make_hub(conn: &Connection, upload: &Upload<'_>) -> Result<HubKey, StoreError> {
    let name = upload.hub.as_str();
    conn.prepare_cached("INSERT INTO hub (name, partitions) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING")?
        .execute(params![name, PARTITIONS])?;
    let hub: u32 = conn.prepare_cached("SELECT id FROM hub WHERE name = ?1")?.query_row([name], |row| row.get(0))?;
    if hub > HUB_KEY_MAX {
        return Err(StoreError::Other(format!("the store has {HUB_KEY_MAX} task hubs, and no room for another")));
    }
    Ok(HubKey(hub))
}

/// The next one of which something is left. Of each hub, one at most is passed over.
fn next_superseded(conn: &Connection) -> Result<Option<(i64, Option<i64>)>, StoreError> {
    Ok(conn.prepare_cached(NEXT_SUPERSEDED)?.query_row([NOTHING_LEFT.0], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// Takes away the note that an execution is superseded of which nothing else is left; or keeps it, in the place of a lower one, if no
/// higher number of its hub is stored.
fn forget(conn: &Connection, execution: ExecutionKey) -> Result<(), StoreError> {
    let (first, end) = execution.hub_range();
    if conn.prepare_cached(HAS_HIGHER)?.query_row([execution.0, end.0], |row| row.get(0))? {
        conn.prepare_cached("DELETE FROM superseded WHERE execution = ?1")?.execute([execution.0])?;
    } else {
        let lower = "DELETE FROM superseded WHERE execution >= ?1 AND execution < ?2 AND instance = ?3";
        conn.prepare_cached(lower)?.execute([first.0, execution.0, NOTHING_LEFT.0])?;
        supersede(conn, execution.0, Some(NOTHING_LEFT.0))?;
    }
    Ok(())
}

/// A wake as it stands in its column.
fn wake_column(wake: Wake) -> Option<i64> {
    wake.ms().map(u64::cast_signed)
}

fn conflict(commit: &Commit, expected: u32) -> StoreError {
    StoreError::Conflict { execution: commit.execution, expected }
}

/// What an error means of a statement that has looked for `module`.
fn no_module(error: rusqlite::Error, module: Digest) -> StoreError {
    match constraint(&error) {
        Some(ffi::SQLITE_CONSTRAINT_NOTNULL) => StoreError::NoModule(module),
        _ => error.into(),
    }
}

/// Which constraint an error is about, if it is about one.
fn constraint(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().filter(|cause| cause.code == rusqlite::ErrorCode::ConstraintViolation).map(|cause| cause.extended_code)
}

/// What an error of COMMIT means: other than one of a statement, it can come after the data was written.
///
/// A full disk is certain, since then the record that makes a transaction count is missing. Or there was room for that, and none for the
/// shared memory in which SQLite finds it: then nobody sees the transaction, and the next one is written over it. If the server is killed
/// before, it comes to light after all, as one may that was not acknowledged.
pub(super) fn commit_error(error: rusqlite::Error) -> StoreError {
    let is_of_disk = error.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure);
    match error.into() {
        StoreError::Other(why) if is_of_disk => StoreError::Poisoned(why),
        error => error,
    }
}
