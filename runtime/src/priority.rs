//! How does what computes for long leave the machine to the others? By threads of low priority.
//!
//! On Linux each thread has a priority of its own, which whoever runs it may lower and, without special rights, not raise again. So a
//! thread that was lowered does nothing else afterwards. Used by the engine's turn threads and by the host.

use std::cell::{Cell, OnceCell, RefCell};
use std::time::Duration;

use rustix::process::{getpriority_process, setpriority_process};

/// How much more niceness than the others a thread may get: then it has what they leave, and a seventieth of what one of them gets.
const LOWEST: i32 = 19;

/// With so much it has a tenth: for long work that is wanted.
const LOW: i32 = 10;

/// Of what one piece of work has computed at a time, so much is free.
const FREE: Duration = Duration::from_millis(10);

/// How much the niceness grows with each further [`FREE`]: work of 20 ms hardly feels it, and after 70 ms it is [`LOWEST`].
const STEP: u32 = 3;

thread_local! {
    /// Who is told when this thread is lowered for the first time; `None` if it is not to be lowered, or has been.
    static TOLD: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    /// How much niceness this thread was given here.
    static GIVEN: Cell<i32> = const { Cell::new(0) };
    /// How much it had before: what the server was started with.
    static BEFORE: OnceCell<i32> = const { OnceCell::new() };
}

/// Lets this thread be lowered from now on. `told` is called on it when that happens, once.
pub(crate) fn may_be_lowered(told: impl FnOnce() + 'static) {
    TOLD.set(Some(Box::new(told)));
}

/// Whether this thread has been lowered, and so is to end.
pub(crate) fn is_lowered() -> bool {
    GIVEN.get() > 0
}

/// Says that the work of this thread has computed for so long at a time. Lowers it accordingly, if it may be lowered.
pub(crate) fn has_computed(cpu: Duration) {
    let steps = u32::try_from(cpu.as_millis() / FREE.as_millis()).unwrap_or(u32::MAX);
    let wanted = i32::try_from(steps.saturating_mul(STEP)).unwrap_or(LOWEST).min(LOWEST);
    if wanted <= GIVEN.get() {
        return;
    }
    match TOLD.take() {
        Some(told) => told(),
        None if is_lowered() => (),
        None => return,
    }
    lower(wanted);
}

/// Lowers this thread, and those that it starts from now on: for work that is long and wanted.
pub(crate) fn lower_for_long_work() {
    lower(LOW);
}

fn lower(niceness: i32) {
    let before = BEFORE.with(|before| *before.get_or_init(|| getpriority_process(None).unwrap_or(0)));
    GIVEN.set(niceness);
    // It needs no rights; should it be refused all the same, all goes on as before. The kernel takes no more than 19 for 19.
    let _ = setpriority_process(None, before + niceness);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    /// What a thread of its own says of itself: its niceness in the eyes of the system, as more than there was before, and how often it was told.
    fn after(may_be_lowered_first: bool, computed_ms: &[u64]) -> (i32, u32) {
        thread::scope(|scope| {
            let on_its_own = || {
                let (before, told) = (getpriority_process(None).unwrap(), Arc::new(AtomicU32::new(0)));
                let counted = told.clone();
                if may_be_lowered_first {
                    may_be_lowered(move || {
                        counted.fetch_add(1, Ordering::Relaxed);
                    });
                }
                computed_ms.iter().for_each(|ms| has_computed(Duration::from_millis(*ms)));
                (getpriority_process(None).unwrap() - before, told.load(Ordering::Relaxed))
            };
            scope.spawn(on_its_own).join().unwrap()
        })
    }

    #[test]
    fn the_longer_a_thread_computes_the_lower_it_gets_and_that_is_said_once() {
        assert_eq!(after(true, &[0, 9]), (0, 0));
        assert_eq!(after(true, &[10]), (3, 1));
        assert_eq!(after(true, &[10, 20, 30, 10]), (9, 1));
        assert_eq!(after(true, &[1_000, 2_000]), (19, 1));
        assert_eq!(after(false, &[1_000]), (0, 0));
    }

    #[test]
    fn other_threads_stay_as_they_are() {
        let before = getpriority_process(None).unwrap();
        after(true, &[1_000]);
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
