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

/// Of what one piece of work computes at a time, so much is free: honest turns are over by then. From then on it has what all others leave.
const FREE: Duration = Duration::from_millis(20);

/// How much nicer the compiler is: it has a tenth of what one of the others has.
const NICENESS: i32 = 10;

thread_local! {
    /// Who is told when this thread is lowered for the first time; `None` if it is not to be lowered, or has been.
    static TOLD: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    static IS_LOWERED: Cell<bool> = const { Cell::new(false) };
}

/// Lets this thread be lowered from now on. `told` is called on it when that happens, once.
pub(crate) fn may_be_lowered(told: impl FnOnce() + 'static) {
    TOLD.set(Some(Box::new(told)));
}

/// Whether this thread has been lowered, and so is to end.
pub(crate) fn is_lowered() -> bool {
    IS_LOWERED.get()
}

/// Says that the work of this thread has computed for so long at a time. If that is too long, and it may be lowered, it is.
pub(crate) fn has_computed(cpu: Duration) {
    if cpu >= FREE
        && let Some(told) = TOLD.take()
    {
        told();
        leave_to_others();
    }
}

/// Leaves this thread, and those that it starts from now on, what all others leave. It needs no rights; should it be refused all the same,
/// all goes on as before.
pub(crate) fn leave_to_others() {
    IS_LOWERED.set(true);
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
}

/// Makes this thread nice to others, and those that it starts from now on: for long work that somebody waits for.
pub(crate) fn be_nice() {
    let _ = nice(NICENESS); // As above.
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::{fs, thread};

    use super::*;

    /// The policy of this thread in the eyes of the system.
    fn policy() -> u32 {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        // Field 41, of which two stand before the end of the name.
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(41 - 1 - 2).unwrap().parse().unwrap()
    }

    const NORMAL: u32 = 0;
    const IDLE: u32 = 5;

    /// The policy of a thread of its own, whether it is to end, and how often it was told.
    fn after(may_be_lowered_first: bool, computed_ms: &[u64]) -> (u32, bool, u32) {
        thread::scope(|scope| {
            let on_its_own = || {
                let told = Arc::new(AtomicU32::new(0));
                let counted = told.clone();
                if may_be_lowered_first {
                    may_be_lowered(move || {
                        counted.fetch_add(1, Ordering::Relaxed);
                    });
                }
                computed_ms.iter().for_each(|ms| has_computed(Duration::from_millis(*ms)));
                (policy(), is_lowered(), told.load(Ordering::Relaxed))
            };
            scope.spawn(on_its_own).join().unwrap()
        })
    }

    #[test]
    fn a_thread_that_computes_for_long_has_what_others_leave_and_that_is_said_once() {
        assert_eq!(after(true, &[0, 19]), (NORMAL, false, 0));
        assert_eq!(after(true, &[10, 20, 50, 10]), (IDLE, true, 1));
        assert_eq!(after(false, &[1_000]), (NORMAL, false, 0));
    }

    #[test]
    fn other_threads_stay_as_they_are() {
        after(true, &[1_000]);
        assert_eq!(policy(), NORMAL);
    }
}
