//! How is the write-ahead log kept short? By a thread that moves it into the database file while commits go on.
//!
//! A checkpoint beside the writer never catches up with it, and SQLite starts the log over only when all of it is in the file.
//! So each one ends with a short checkpoint between two batches, under the writer's mutex. Started by `SqliteStore::open`.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;

use super::write::Writer;
use super::{BUSY_MS_MAX, StoreError};

/// Pages of the log that start a checkpoint: 64 MB.
const DUE_PAGES: u64 = 16_384;

/// Pages of the log between one checkpoint and the next if the log could not be started over: 16 MB. Also what is left to be
/// moved while the writer waits.
pub(super) const STEP_PAGES: u64 = 4_096;

/// Pages of the log from which the writer waits for readers that hold on to an old part of it: 128 MB.
const PATIENCE_PAGES: u64 = 32_768;

/// Pages of the log from which the writer itself shortens it before it goes on, since the thread beside it does not keep up: 192 MB.
pub(super) const STALL_PAGES: u64 = 49_152;

/// How long it waits for them. No reader of ours takes that long, see `read.rs`.
const READERS_MS_MAX: u64 = 250;

/// Rounds beside the writer before a checkpoint ends: a writer that is always faster has to be stopped some time.
const ROUNDS_MAX: u32 = 3;

/// After this long without a commit the log is emptied.
const IDLE: Duration = Duration::from_secs(5);

/// How a checkpoint treats others who use the log. The names are SQLite's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    /// Moves nothing, tells only how long the log is.
    Noop,
    /// Moves what can be moved without waiting for anybody.
    Passive,
    /// Moves everything, and waits until no reader needs the log.
    Restart,
    /// The same, and empties the log's file.
    Truncate,
}

/// What a checkpoint has come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    /// It could not do all that its mode says, because of others who use the log.
    pub is_blocked: bool,
    /// How many pages the log has.
    pub pages: u64,
    /// How many of them are in the file now.
    pub moved: u64,
}

/// Runs one checkpoint on `conn`.
pub(super) fn checkpoint(conn: &Connection, mode: Mode) -> Result<Moved, StoreError> {
    let sql = match mode {
        Mode::Noop => "PRAGMA wal_checkpoint(NOOP)",
        Mode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        Mode::Restart => "PRAGMA wal_checkpoint(RESTART)",
        Mode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    // SQLite answers -1 when there is no log yet.
    let pages = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(|pages| u64::try_from(pages).unwrap_or(0));
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Moved { is_blocked: row.get::<_, i64>(0)? != 0, pages: pages(row, 1)?, moved: pages(row, 2)? })
    };
    Ok(conn.prepare_cached(sql)?.query_row([], read)?)
}

/// Where the writer tells the checkpoint thread how long the log has become.
#[derive(Debug, Default)]
pub(super) struct Signal {
    log: Mutex<Log>,
    changed: Condvar,
    /// Held during a checkpoint beside the writer: SQLite lets nobody else begin one meanwhile, and does not wait.
    beside: Mutex<()>,
}

#[derive(Debug)]
struct Log {
    /// Its length after the last batch.
    pages: u64,
    /// From which length on the next checkpoint is due.
    due_pages: u64,
    /// Batches so far, to see whether there was any lately.
    batches: u64,
    /// The store is being closed.
    stop: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { pages: 0, due_pages: DUE_PAGES, batches: 0, stop: false }
    }
}

/// What the thread wakes up for.
enum Call {
    Due,
    Idle,
    Stop,
}

impl Signal {
    /// A batch is durable, and the log now has this many pages.
    pub(super) fn wrote(&self, pages: u64) {
        let mut log = self.lock();
        let (was_empty, started_over) = (log.pages == 0, pages < log.pages);
        if started_over {
            log.due_pages = DUE_PAGES;
        }
        log.pages = pages;
        log.batches += 1;
        // The thread looks by itself now and then while there is a log, so that most batches need not wake it.
        if was_empty || pages >= log.due_pages {
            self.changed.notify_one();
        }
    }

    fn wait(&self) -> Call {
        let mut log = self.lock();
        loop {
            if log.stop {
                return Call::Stop;
            }
            if log.pages >= log.due_pages {
                return Call::Due;
            }
            if log.pages == 0 {
                log = self.changed.wait(log).expect(NO_PANIC);
                continue;
            }
            let batches = log.batches;
            let (after, timeout) = self.changed.wait_timeout(log, IDLE).expect(NO_PANIC);
            log = after;
            if timeout.timed_out() && log.batches == batches {
                return Call::Idle;
            }
        }
    }

    /// One checkpoint beside the writer, on a connection of its own.
    fn checkpoint_beside(&self, own: &Connection) -> Result<Moved, StoreError> {
        let _beside = self.beside.lock().expect(NO_PANIC);
        checkpoint(own, Mode::Passive)
    }

    /// Waits for the checkpoint beside the writer, so that the writer can do one. The other side never holds this while it waits
    /// for the writer.
    pub(super) fn none_beside(&self) -> MutexGuard<'_, ()> {
        self.beside.lock().expect(NO_PANIC)
    }

    /// How long the log is.
    pub(super) fn pages(&self) -> u64 {
        self.lock().pages
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "nothing in this file panics while it holds the lock";

/// The checkpoint thread, for as long as the store is open.
pub(super) struct Checkpointer {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread, which has the connection `own` to itself.
    pub(super) fn start(own: Connection, writer: Arc<Mutex<Writer>>, signal: Arc<Signal>) -> Result<Self, StoreError> {
        own.pragma_update(None, "synchronous", "full")?;
        let heard = Arc::clone(&signal);
        let run = move || {
            loop {
                let shorten_or_empty = match heard.wait() {
                    Call::Due => shorten,
                    Call::Idle => empty,
                    Call::Stop => return,
                };
                // After a failed sync the file may lack what the log has, so the log is left alone.
                if lock(&writer).is_poisoned() {
                    return;
                }
                if let Err(error) = shorten_or_empty(&own, &writer, &heard) {
                    tracing::warn!("checkpoint of the store: {error}");
                    lock(&writer).note(&error);
                }
            }
        };
        let thread = thread::Builder::new().name("checkpoint".into()).spawn(run);
        let thread = thread.map_err(|error| StoreError::Other(format!("start the checkpoint thread: {error}")))?;
        Ok(Self { signal, thread: Some(thread) })
    }

    /// Ends the thread, after the checkpoint in hand.
    pub(super) fn stop(&mut self) {
        self.signal.lock().stop = true;
        self.signal.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the checkpoint thread of the store has panicked");
        }
    }
}

/// Moves the log into the file so far that the next batch starts it over.
fn shorten(own: &Connection, writer: &Mutex<Writer>, signal: &Signal) -> Result<(), StoreError> {
    let result = (|| {
        for _ in 0..ROUNDS_MAX {
            let Moved { moved, .. } = signal.checkpoint_beside(own)?;
            if signal.pages().saturating_sub(moved) < STEP_PAGES {
                break;
            }
        }
        let writer = lock(writer);
        // Usually nobody waits here. But readers may follow one another so closely that there is always one with an old part.
        let mode = if signal.pages() < PATIENCE_PAGES { Mode::Passive } else { Mode::Restart };
        between_batches(&writer, mode)
    })();
    // Whatever came of it: not again at once.
    let mut log = signal.lock();
    let is_blocked = matches!(result, Ok(Moved { is_blocked: true, .. }));
    log.due_pages = log.pages.max(DUE_PAGES) + if is_blocked { patient_step(log.pages) } else { STEP_PAGES };
    result.map(drop)
}

/// How many pages are written before the writer waits again for a reader that it has waited for in vain. A copy of a large store takes
/// minutes, and the longer it has taken the longer it may take still: so the waits become as rare as the log is long.
pub(super) fn patient_step(pages: u64) -> u64 {
    STEP_PAGES.max(pages / 4)
}

/// Moves the whole log into the file and empties it, so that an idle store is one file.
fn empty(own: &Connection, writer: &Mutex<Writer>, signal: &Signal) -> Result<(), StoreError> {
    signal.checkpoint_beside(own)?;
    let writer = lock(writer);
    signal.lock().pages = between_batches(&writer, Mode::Truncate)?.pages;
    Ok(())
}

/// One checkpoint on the writer's connection. On another one, it would throw away what the writer has cached.
pub(super) fn between_batches(writer: &Writer, mode: Mode) -> Result<Moved, StoreError> {
    writer.conn().busy_timeout(Duration::from_millis(READERS_MS_MAX))?;
    let result = checkpoint(writer.conn(), mode);
    writer.conn().busy_timeout(Duration::from_millis(BUSY_MS_MAX))?;
    result
}

fn lock(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().expect("no thread panics while it holds the writer")
}
