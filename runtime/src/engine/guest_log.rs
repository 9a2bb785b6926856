//! Where does what a guest says go? To the server's own log, with the instance's name, from a thread of its own.
//!
//! Whoever has lines may be the thread that commits for everybody, and writing a log may stall: so lines are handed over, and
//! dropped and counted when there are too many.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use crate::model::{InstanceId, LogLevel, LogLine, LogRecord};

/// How many turns' and activities' lines may wait to be written, and how many bytes they may have.
const WAITING_MAX: usize = 1_000;
const WAITING_BYTES_MAX: usize = 16 << 20;

/// Hands lines to the thread that writes them.
pub(super) struct GuestLog {
    waiting: SyncSender<Said>,
    bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

struct Said {
    instance: InstanceId,
    lines: Arc<[LogRecord]>,
}

impl GuestLog {
    /// Starts the thread; it ends when this is dropped and all is written.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn new() -> std::io::Result<Self> {
        let (waiting, inbox) = mpsc::sync_channel(WAITING_MAX);
        let (bytes, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let (held, counted) = (bytes.clone(), dropped.clone());
        thread::Builder::new().name("dacapo-log".into()).spawn(move || write(&inbox, &held, &counted))?;
        Ok(Self { waiting, bytes, dropped })
    }

    /// Has `lines` written that `instance` and its activities said. Never waits.
    pub(super) fn show(&self, instance: InstanceId, lines: Arc<[LogRecord]>) {
        let (count, size) = (lines.len() as u64, size(&lines));
        let is_too_much = self.bytes.fetch_add(size, Ordering::Relaxed) + size > WAITING_BYTES_MAX;
        if is_too_much || self.waiting.try_send(Said { instance, lines }).is_err() {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

fn size(lines: &[LogRecord]) -> usize {
    lines.iter().map(|LogRecord { line, .. }| size_of::<LogRecord>() + line.target.len() + line.message.len()).sum()
}

fn write(inbox: &Receiver<Said>, bytes: &AtomicUsize, dropped: &AtomicU64) {
    for Said { instance, lines } in inbox {
        bytes.fetch_sub(size(&lines), Ordering::Relaxed);
        for LogRecord { task, line: LogLine { level, target, message }, .. } in lines.iter() {
            let (task, target, message) = (task.map(|task| task.0), on_one_line(target), on_one_line(message));
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

/// `text` without what begins a new line or steers a terminal: else a guest could write what looks like a line of the server.
fn on_one_line(text: &str) -> Cow<'_, str> {
    let is_seen = |c: char| c == '\t' || !c.is_control();
    if text.chars().all(is_seen) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if is_seen(c) { c.to_string() } else { c.escape_default().to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_stays_on_its_line() {
        assert!(matches!(on_one_line("bread\tand brød"), Cow::Borrowed(_)));
        assert_eq!(on_one_line("one\ntwo\r\u{1b}[31mred\u{85}"), r"one\ntwo\r\u{1b}[31mred\u{85}");
    }
}
