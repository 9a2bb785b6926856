//! How much waits in memory, and what has to wait because of that? Bytes, about, of all that is between a request and the disk, or between a turn
//! and its activities.
//!
//! Work multiplies: one start may ask for 100,000 activities. So it is not enough to count starts as they come in; what has been let in has to
//! wait too, where it is cheap, until there is room for what it will ask for. Asked by whoever lets work in, and by the pool; calls nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// From so many times its bound on, the backlog keeps back turns of instances that have begun, too: they could only add to it.
const TURNS_WAIT_FROM: usize = 2;

/// From how many executions on, of which nothing but their turn keeps activities from running, the line is long: four times as many as run
/// at once by default. More in line make no machine busier, and each that has begun takes more memory than one that has not.
pub(super) const LINE_MAX: usize = 1_024;

/// What waits in the memory of a server.
#[derive(Debug)]
pub(super) struct Backlog {
    bytes_max: usize,
    /// Of instances that do not only wait for others.
    instances: AtomicUsize,
    /// Of activities in line and of commits: what gets less while no turn runs, so that turns may wait for that.
    work: AtomicUsize,
    /// How many executions wait for nothing but their turn to run activities, as far as that was counted.
    line: AtomicUsize,
    /// How many activities have left the line.
    left_line: AtomicU64,
    is_stopping: AtomicBool,
}

/// A part of the backlog, for as long as it lives.
#[derive(Debug)]
pub(super) struct Share {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Backlog {
    /// Nothing waits. At `bytes_max` it is full.
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            instances: AtomicUsize::new(0),
            work: AtomicUsize::new(0),
            line: AtomicUsize::new(0),
            left_line: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
        })
    }

    /// A commit or an activity of so many bytes waits.
    pub(super) fn holding(self: &Arc<Self>, bytes: usize) -> Share {
        self.work.fetch_add(bytes, Ordering::Relaxed);
        Share { backlog: self.clone(), bytes }
    }

    /// The instances of a partition took `before` bytes, and take `after`.
    pub(super) fn instances(&self, before: usize, after: usize) {
        // The sum is right whatever the order, also if it passes below zero on the way.
        self.instances.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// So many executions wait for their turn to run activities, and so many activities have left the line. It need not be said by how many the
    /// executions are more than [`LINE_MAX`].
    pub(super) fn line(&self, executions: usize, left: u64) {
        self.line.store(executions, Ordering::Relaxed);
        self.left_line.store(left, Ordering::Relaxed);
    }

    /// Whether many executions wait for their turn to run activities.
    pub(super) fn has_long_line(&self) -> bool {
        self.line.load(Ordering::Relaxed) >= LINE_MAX
    }

    /// How many activities have left the line since the server was started.
    pub(super) fn left_line(&self) -> u64 {
        self.left_line.load(Ordering::Relaxed)
    }

    /// How much waits, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let signed = |bytes: &AtomicUsize| bytes.load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned();
        signed(&self.instances) + self.work()
    }

    fn work(&self) -> usize {
        self.work.load(Ordering::Relaxed)
    }

    /// Whether nothing more may be let in.
    pub(super) fn is_full(&self) -> bool {
        self.bytes() >= self.bytes_max
    }

    /// Whether instances that have not run yet may begin.
    pub(super) fn may_begin(&self) -> bool {
        self.work() < self.bytes_max && !self.is_stopping()
    }

    /// Whether instances that have begun may go on.
    pub(super) fn may_go_on(&self) -> bool {
        self.work() < self.bytes_max.saturating_mul(TURNS_WAIT_FROM)
    }

    /// The server is about to stop: from now on nothing begins, no instance and no activity.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// Whether it is.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.backlog.work.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_goes_on_for_longer_than_anything_begins_or_is_let_in() {
        let backlog = Backlog::new(100);
        let check = |full: bool, may_begin: bool, may_go_on: bool| {
            assert_eq!(
                (backlog.is_full(), backlog.may_begin(), backlog.may_go_on()),
                (full, may_begin, may_go_on),
                "{backlog:?}"
            );
        };
        check(false, true, true);
        // Instances do not get less by waiting: nobody may wait for them.
        backlog.instances(0, 100);
        check(true, true, true);
        let line = backlog.holding(100);
        check(true, false, true);
        let commit = backlog.holding(100);
        check(true, false, false);
        drop(commit);
        backlog.instances(100, 0);
        check(true, false, true);
        drop(line);
        check(false, true, true);
        backlog.stop();
        check(false, false, true);
    }
}
