//! Where does what a guest says go? To the server's own log, with the instance's name, from a thread of its own.
//!
//! Whoever has lines may be the thread that commits for everybody, and writing a log may stall: so lines are handed over, and
//! dropped and counted when there are too many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use crate::model::{InstanceId, LogLevel, LogLine, TaskId};

/// How many turns' and activities' lines may wait to be written.
const WAITING_MAX: usize = 1_000;

/// Hands lines to the thread that writes them.
pub(super) struct GuestLog {
    waiting: SyncSender<Said>,
    dropped: Arc<AtomicU64>,
}

struct Said {
    instance: InstanceId,
    task: Option<TaskId>,
    lines: Vec<LogLine>,
}

impl GuestLog {
    /// Starts the thread; it ends when this is dropped and all is written.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn new() -> std::io::Result<Self> {
        let (waiting, inbox) = mpsc::sync_channel(WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = dropped.clone();
        thread::Builder::new().name("dacapo-log".into()).spawn(move || write(&inbox, &counted))?;
        Ok(Self { waiting, dropped })
    }

    /// Has `lines` written that `instance` said, or the activity that is `task` of it. Never waits.
    pub(super) fn show(&self, instance: InstanceId, task: Option<TaskId>, lines: Vec<LogLine>) {
        let count = lines.len() as u64;
        if count > 0 && self.waiting.try_send(Said { instance, task, lines }).is_err() {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

fn write(inbox: &Receiver<Said>, dropped: &AtomicU64) {
    for Said { instance, task, lines } in inbox {
        let task = task.map(|task| task.0);
        for LogLine { level, target, message } in lines {
            match level {
                LogLevel::Trace => tracing::trace!(target: "dacapo::guest", %instance, task, "{target}: {message}"),
                LogLevel::Debug => tracing::debug!(target: "dacapo::guest", %instance, task, "{target}: {message}"),
                LogLevel::Info => tracing::info!(target: "dacapo::guest", %instance, task, "{target}: {message}"),
                LogLevel::Warn => tracing::warn!(target: "dacapo::guest", %instance, task, "{target}: {message}"),
                LogLevel::Error => tracing::error!(target: "dacapo::guest", %instance, task, "{target}: {message}"),
            }
        }
        match dropped.swap(0, Ordering::Relaxed) {
            0 => (),
            lines => tracing::warn!("{lines} lines of guests were dropped: they come faster than this log takes them"),
        }
    }
}
