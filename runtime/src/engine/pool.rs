//! Who runs turns? A pool of plain threads.
//!
//! Turns never run on threads that do I/O. The pool adds a thread when its queue stands still, since a turn may compute for
//! long; so one slow guest does not hold up the others. A module whose guest has used up its bounds gets one thread at a time
//! for a while, however many instances it has. A thread whose guest computes for long gets a low priority (`priority.rs`), does
//! nothing else afterwards, and has a successor meanwhile.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::model::Digest;
use crate::priority;

/// How long the queue may stand still before the pool grows by a thread.
const PATIENCE: Duration = Duration::from_millis(10);

/// How long a thread that was added stays without work.
const IDLE: Duration = Duration::from_secs(1);

/// How long a module runs one turn at a time after a guest of it has used up its bounds.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// The stack of a thread that runs guests, in bytes: wasmtime gives a guest 512 KiB of it.
const STACK_BYTES: usize = 4 << 20;

type Work = Box<dyn FnOnce() + Send>;

/// Threads that run turns, in the order in which they were asked for.
pub(super) struct TurnPool {
    state: Arc<PoolState>,
}

struct PoolState {
    queue: Mutex<Queue>,
    /// There is a job, or the pool is closed.
    wake: Condvar,
    threads_kept: usize,
    threads_max: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// What waits behind a module's job that runs or stands in `jobs`, of modules that run one at a time.
    lanes: HashMap<Digest, VecDeque<Work>>,
    /// Modules that run one at a time, and since when.
    suspects: HashMap<Digest, Instant>,
    /// How many jobs were ever taken: it stands still when all threads are busy with long ones.
    taken: u64,
    /// How many of them run now.
    running: usize,
    threads: usize,
    /// Of these, the ones that end with the job that they have, since it computes for long.
    lowered: usize,
    closed: bool,
}

struct Job {
    /// Whose turn it is, if it is one.
    module: Option<Digest>,
    /// Its end lets the next one of its module's lane run.
    in_lane: bool,
    work: Work,
}

impl TurnPool {
    /// A pool that keeps `threads_kept` threads and may grow to `threads_max`.
    pub(super) fn new(threads_kept: usize, threads_max: usize) -> Self {
        let state = Arc::new(PoolState { queue: Mutex::default(), wake: Condvar::new(), threads_kept, threads_max });
        for _ in 0..threads_kept {
            add_thread(&state, &mut state.lock());
        }
        let watched = Arc::downgrade(&state);
        let watch = move || {
            let mut seen = 0;
            while let Some(state) = watched.upgrade() {
                let mut queue = state.lock();
                if queue.closed {
                    return;
                }
                let stands_still = !queue.jobs.is_empty() && queue.taken == seen;
                let needs_one = stands_still || queue.threads - queue.lowered < state.threads_kept;
                if needs_one && queue.threads < state.threads_max {
                    add_thread(&state, &mut queue);
                }
                seen = queue.taken;
                drop(queue);
                drop(state);
                thread::sleep(PATIENCE);
            }
        };
        thread::Builder::new()
            .name("dacapo-turns".into())
            .spawn(watch)
            .expect("a process that cannot start one thread cannot start at all");
        Self { state }
    }

    /// Runs `work`, a turn of `module`, as soon as a thread is free, and if the module is under suspicion, its turns before are
    /// done. After [`TurnPool::close`] it is dropped.
    pub(super) fn submit(&self, module: Digest, work: impl FnOnce() + Send + 'static) {
        self.push(Some(module), Box::new(work));
    }

    /// Runs `work`, which is no turn, as soon as a thread is free. After [`TurnPool::close`] it is dropped.
    pub(super) fn submit_other(&self, work: impl FnOnce() + Send + 'static) {
        self.push(None, Box::new(work));
    }

    fn push(&self, module: Option<Digest>, work: Work) {
        let mut queue = self.state.lock();
        if queue.closed {
            return;
        }
        let in_lane = module.is_some_and(|module| queue.is_suspected(module));
        if in_lane && let Some(lane) = module.and_then(|module| queue.lanes.get_mut(&module)) {
            lane.push_back(work);
            return;
        }
        if in_lane {
            queue.lanes.extend(module.map(|module| (module, VecDeque::new())));
        }
        queue.jobs.push_back(Job { module, in_lane, work });
        drop(queue);
        self.state.wake.notify_one();
    }

    /// A guest of `module` has used up its bounds: from now on its turns run one at a time, for a while, those that wait already
    /// included.
    pub(super) fn suspect(&self, module: Digest) {
        let mut queue = self.state.lock();
        queue.suspects.insert(module, Instant::now());
        let (mut waiting, others) = std::mem::take(&mut queue.jobs)
            .into_iter()
            .partition::<VecDeque<Job>, _>(|job| job.module == Some(module) && !job.in_lane);
        queue.jobs = others;
        if !queue.lanes.contains_key(&module)
            && let Some(first) = waiting.pop_front()
        {
            queue.jobs.push_back(Job { in_lane: true, ..first });
            queue.lanes.insert(module, VecDeque::new());
        }
        if let Some(lane) = queue.lanes.get_mut(&module) {
            lane.extend(waiting.into_iter().map(|job| job.work));
        }
    }

    /// How many jobs wait for a thread. What waits in a lane does not count: it is in nobody else's way.
    pub(super) fn queued(&self) -> usize {
        self.state.lock().jobs.len()
    }

    /// Lets the running jobs end in their own time and drops the others.
    pub(super) fn close(&self) {
        let mut queue = self.state.lock();
        queue.closed = true;
        let unfinished = (std::mem::take(&mut queue.jobs), std::mem::take(&mut queue.lanes));
        drop(queue);
        drop(unfinished);
        self.state.wake.notify_all();
    }

    /// Whether it takes no more jobs.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Whether a job runs.
    pub(super) fn is_busy(&self) -> bool {
        self.state.lock().running > 0
    }
}

impl Drop for TurnPool {
    fn drop(&mut self) {
        self.close();
    }
}

impl PoolState {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A job runs without the lock, so a panic in one leaves the queue whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.lock();
        while !queue.closed {
            if let Some(Job { module, in_lane, work }) = queue.jobs.pop_front() {
                queue.taken += 1;
                queue.running += 1;
                drop(queue);
                // What has gone wrong is in the log already; the thread and the lane have to go on.
                let _ = catch_unwind(AssertUnwindSafe(work));
                queue = self.lock();
                queue.running -= 1;
                if in_lane && let Some(module) = module {
                    queue.go_on_in_lane(module);
                }
                if priority::is_lowered() {
                    queue.lowered -= 1;
                    // What this thread would have taken next is for another one.
                    self.wake.notify_one();
                    break;
                }
                continue;
            }
            let (woken, timeout) = self.wake.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if timeout.timed_out() && queue.jobs.is_empty() && queue.threads - queue.lowered > self.threads_kept {
                break;
            }
        }
    }
}

impl Queue {
    fn is_suspected(&mut self, module: Digest) -> bool {
        let suspected = self.suspects.get(&module).is_some_and(|since| since.elapsed() < SUSPECT_FOR);
        if !suspected {
            self.suspects.remove(&module);
        }
        // Until its lane is empty, what comes later must not go past what waits there.
        suspected || self.lanes.contains_key(&module)
    }

    /// A job of `module` is done: its next one may run.
    fn go_on_in_lane(&mut self, module: Digest) {
        match self.lanes.get_mut(&module).and_then(VecDeque::pop_front) {
            // The thread that calls this takes it, or an earlier one; nobody needs to be woken.
            Some(work) => self.jobs.push_back(Job { module: Some(module), in_lane: true, work }),
            None => {
                self.lanes.remove(&module);
            }
        }
    }
}

fn add_thread(state: &Arc<PoolState>, queue: &mut Queue) {
    let pool = state.clone();
    let run = move || {
        let counting = Arc::downgrade(&pool);
        priority::may_be_lowered(move || {
            if let Some(pool) = counting.upgrade() {
                pool.lock().lowered += 1;
            }
        });
        pool.work();
        pool.lock().threads -= 1;
    };
    match thread::Builder::new().name("dacapo-turn".into()).stack_size(STACK_BYTES).spawn(run) {
        Ok(_) => queue.threads += 1,
        Err(error) => tracing::warn!("cannot start one more thread for turns: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn the_pool_grows_when_all_its_threads_are_busy() {
        let pool = TurnPool::new(1, 3);
        let (release, held) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        pool.submit_other(move || held.recv().unwrap());
        pool.submit_other(move || done.send("past the one that waits").unwrap());
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("past the one that waits"));
        release.send(()).unwrap();
    }

    #[test]
    fn what_waits_already_when_a_module_comes_under_suspicion_waits_in_line() {
        let (suspect, honest) = (Digest([1; 32]), Digest([2; 32]));
        let pool = TurnPool::new(1, 2);
        let (release, held) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        // The only thread is busy, so that all of this waits.
        pool.submit_other(move || held.recv().unwrap());
        let (block, blocked) = mpsc::channel::<()>();
        let first = done.clone();
        pool.submit(suspect, move || {
            blocked.recv().unwrap();
            first.send("suspect 1").unwrap();
        });
        let second = done.clone();
        pool.submit(suspect, move || second.send("suspect 2").unwrap());
        pool.suspect(suspect);
        assert!(pool.queued() >= 1);
        pool.submit(honest, move || done.send("honest").unwrap());
        release.send(()).unwrap();
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("honest"));
        block.send(()).unwrap();
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("suspect 1"));
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("suspect 2"));
    }

    #[test]
    fn a_suspected_module_runs_one_job_at_a_time_and_others_go_past_it() {
        let (suspect, honest) = (Digest([1; 32]), Digest([2; 32]));
        let pool = TurnPool::new(2, 4);
        pool.suspect(suspect);
        let (release, held) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        let first = done.clone();
        pool.submit(suspect, move || {
            held.recv().unwrap();
            first.send("suspect 1").unwrap();
        });
        let second = done.clone();
        pool.submit(suspect, move || second.send("suspect 2").unwrap());
        pool.submit(honest, move || done.send("honest").unwrap());
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("honest"));
        release.send(()).unwrap();
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("suspect 1"));
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("suspect 2"));
    }
}
