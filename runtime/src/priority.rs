//! How does what computes for long leave the machine to the others? By threads of low priority.
//!
//! On Linux each thread has a priority of its own, which whoever runs it may lower and, without special rights, not raise again. So a
//! thread that was lowered does nothing else afterwards. Used by the engine's turn threads and by the host.
//!
//! Niceness alone is not enough, however much of it: what wakes up is still put behind such a thread while another core is free,
//! or beside it. A thread under the policy `SCHED_IDLE` counts as none, so whoever wakes up takes its core at once.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use rustix::process::nice;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Of what one piece of work computes at a time, so much is free. From then on its thread is nice to others.
const FREE: Duration = Duration::from_millis(10);

/// And from here on it has what all others leave. Honest turns are over by then.
const LONG: Duration = Duration::from_millis(50);

/// How much nicer a thread gets at first, and the compiler at once: it then has a tenth of what one of the others has.
const NICENESS: i32 = 10;

/// How far a thread was lowered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    AsTheOthers,
    Nice,
    /// It has what the others leave.
    Idle,
}

thread_local! {
    /// Who is told when this thread is lowered for the first time; `None` if it is not to be lowered, or has been.
    static TOLD: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    static LEVEL: Cell<Level> = const { Cell::new(Level::AsTheOthers) };
}

/// Lets this thread be lowered from now on. `told` is called on it when that happens, once.
pub(crate) fn may_be_lowered(told: impl FnOnce() + 'static) {
    TOLD.set(Some(Box::new(told)));
}

/// Whether this thread has been lowered, and so is to end.
pub(crate) fn is_lowered() -> bool {
    LEVEL.get() > Level::AsTheOthers
}

/// Says that the work of this thread has computed for so long at a time. Lowers it accordingly, if it may be lowered.
pub(crate) fn has_computed(cpu: Duration) {
    let wanted = match cpu {
        _ if cpu >= LONG => Level::Idle,
        _ if cpu >= FREE => Level::Nice,
        _ => Level::AsTheOthers,
    };
    if wanted <= LEVEL.get() {
        return;
    }
    match TOLD.take() {
        Some(told) => told(),
        None if is_lowered() => (),
        None => return,
    }
    lower(wanted);
}

/// Makes this thread nice to others, and those that it starts from now on: for long work that somebody waits for.
pub(crate) fn be_nice() {
    lower(Level::Nice);
}

/// Leaves this thread, and those that it starts from now on, what all others leave.
pub(crate) fn leave_to_others() {
    lower(Level::Idle);
}

/// None of it needs any rights. Should it be refused all the same, all goes on as before.
fn lower(level: Level) {
    LEVEL.set(level);
    match level {
        Level::AsTheOthers => (),
        Level::Nice => drop(nice(NICENESS)),
        Level::Idle => {
            let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
            let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::{fs, thread};

    use super::*;

    /// Niceness and policy of this thread in the eyes of the system.
    fn seen() -> (i32, u32) {
        const IN_BRACKETS: usize = 2;
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        (fields[19 - 1 - IN_BRACKETS].parse().unwrap(), fields[41 - 1 - IN_BRACKETS].parse().unwrap())
    }

    const NORMAL: u32 = 0;
    const IDLE: u32 = 5;

    /// What a thread of its own sees of itself: its niceness, as more than there was before, its policy, and how often it was told.
    fn after(may_be_lowered_first: bool, computed_ms: &[u64]) -> (i32, u32, u32) {
        thread::scope(|scope| {
            let on_its_own = || {
                let (before, told) = (seen().0, Arc::new(AtomicU32::new(0)));
                let counted = told.clone();
                if may_be_lowered_first {
                    may_be_lowered(move || {
                        counted.fetch_add(1, Ordering::Relaxed);
                    });
                }
                computed_ms.iter().for_each(|ms| has_computed(Duration::from_millis(*ms)));
                let (niceness, policy) = seen();
                (niceness - before, policy, told.load(Ordering::Relaxed))
            };
            scope.spawn(on_its_own).join().unwrap()
        })
    }

    #[test]
    fn the_longer_a_thread_computes_the_lower_it_gets_and_that_is_said_once() {
        assert_eq!(after(true, &[0, 9]), (0, NORMAL, 0));
        assert_eq!(after(true, &[10, 20]), (NICENESS, NORMAL, 1));
        for computed_ms in [&[10, 20, 50, 10][..], &[1_000, 2_000]] {
            let (_, policy, told) = after(true, computed_ms);
            assert_eq!((policy, told), (IDLE, 1));
        }
        assert_eq!(after(false, &[1_000]), (0, NORMAL, 0));
    }

    #[test]
    fn other_threads_stay_as_they_are() {
        let before = seen();
        after(true, &[1_000]);
        assert_eq!(seen(), before);
    }
}
