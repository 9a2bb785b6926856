//! Who comes when a partition's time has come? One thread for all hubs, with the next time of each partition.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::orders::Input;
use super::shell::Shell;
use crate::clock::Clock;
use crate::model::HubKey;

/// How long to sleep before the clock is looked at again, which may have been set meanwhile.
const CLOCK_CHECK: Duration = Duration::from_secs(1);

/// A partition of a hub.
type Place = (HubKey, u32);

/// The next time of each partition that has one.
pub(super) struct Alarms {
    state: Arc<AlarmState>,
}

struct AlarmState {
    set: Mutex<Set>,
    changed: Condvar,
}

#[derive(Default)]
struct Set {
    by_time: BTreeSet<(u64, Place)>,
    by_place: HashMap<Place, (u64, Weak<Shell>)>,
    closed: bool,
}

impl Alarms {
    /// Starts the thread; it ends when this is dropped.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn new(clock: Clock) -> std::io::Result<Self> {
        let state = Arc::new(AlarmState { set: Mutex::default(), changed: Condvar::new() });
        let watched = state.clone();
        thread::Builder::new().name("dacapo-alarm".into()).spawn(move || watched.run(clock))?;
        Ok(Self { state })
    }

    /// Comes to this partition at `at_ms`, milliseconds since 1970, and not later: if it was asked to come earlier, that stays. Who asks first need not
    /// be heard first, and coming too early does no harm.
    pub(super) fn arm(&self, shell: &Arc<Shell>, partition: u32, at_ms: u64) {
        let place = (shell.row.key, partition);
        let mut set = self.state.lock();
        if let Some(old_ms) = set.by_place.get(&place).map(|(old_ms, _)| *old_ms) {
            if old_ms <= at_ms {
                return;
            }
            set.by_time.remove(&(old_ms, place));
        }
        set.by_place.insert(place, (at_ms, Arc::downgrade(shell)));
        set.by_time.insert((at_ms, place));
        let is_next = set.by_time.first() == Some(&(at_ms, place));
        drop(set);
        if is_next {
            self.state.changed.notify_one();
        }
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        self.state.lock().closed = true;
        self.state.changed.notify_one();
    }
}

impl AlarmState {
    fn run(&self, clock: Clock) {
        let mut set = self.lock();
        while !set.closed {
            let now_ms = clock.now_ms();
            match set.by_time.first().copied() {
                Some((at_ms, place)) if at_ms <= now_ms => {
                    set.by_time.pop_first();
                    let shell = set.by_place.remove(&place).and_then(|(_, shell)| shell.upgrade());
                    drop(set);
                    if let Some(shell) = shell {
                        shell.deliver(place.1, Input::Alarm);
                    }
                    set = self.lock();
                }
                next => {
                    let left = next.map_or(CLOCK_CHECK, |(at_ms, _)| Duration::from_millis(at_ms - now_ms).min(CLOCK_CHECK));
                    set = self.changed.wait_timeout(set, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        // Nothing panics while it holds the lock.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
