//! Who runs turns? A pool of plain threads.
//!
//! Turns never run on threads that do I/O. The pool adds a thread when its queue stands still, since a turn may compute for
//! long; so one slow guest does not hold up the others. A module whose guest has used up its bounds gets one thread at a time
//! for a while, however many instances it has; so do, together, all turns that may have taken the server down.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::model::Digest;

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
    /// What waits behind a job of its lane that runs or stands in `jobs`.
    lanes: HashMap<Lane, VecDeque<Work>>,
    /// Modules that run one at a time, and since when.
    suspects: HashMap<Digest, Instant>,
    /// How many jobs were ever taken: it stands still when all threads are busy with long ones.
    taken: u64,
    /// How many of them run now.
    running: usize,
    threads: usize,
    closed: bool,
}

struct Job {
    /// Whose turn it is, if it is one.
    module: Option<Digest>,
    /// Its end lets the next one of this lane run.
    lane: Option<Lane>,
    work: Work,
}

/// Where jobs run one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    /// The turns of a module that is under suspicion.
    Module(Digest),
    /// The turns of all instances that may have taken the server down.
    Alone,
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
                if !queue.jobs.is_empty() && queue.taken == seen && queue.threads < state.threads_max {
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
        self.push(Some(module), false, Box::new(work));
    }

    /// Runs `work`, a turn of `module` that may take the server down, as soon as a thread is free and all such turns before are done.
    pub(super) fn submit_alone(&self, module: Digest, work: impl FnOnce() + Send + 'static) {
        self.push(Some(module), true, Box::new(work));
    }

    /// Runs `work`, which is no turn, as soon as a thread is free. After [`TurnPool::close`] it is dropped.
    pub(super) fn submit_other(&self, work: impl FnOnce() + Send + 'static) {
        self.push(None, false, Box::new(work));
    }

    fn push(&self, module: Option<Digest>, alone: bool, work: Work) {
        let mut queue = self.state.lock();
        if queue.closed {
            return;
        }
        let lane = if alone { Some(Lane::Alone) } else { module.filter(|module| queue.is_suspected(*module)).map(Lane::Module) };
        if let Some(lane) = lane {
            if let Some(waiting) = queue.lanes.get_mut(&lane) {
                waiting.push_back(work);
                return;
            }
            queue.lanes.insert(lane, VecDeque::new());
        }
        queue.jobs.push_back(Job { module, lane, work });
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
            .partition::<VecDeque<Job>, _>(|job| job.module == Some(module) && job.lane.is_none());
        queue.jobs = others;
        let lane = Lane::Module(module);
        if !queue.lanes.contains_key(&lane)
            && let Some(first) = waiting.pop_front()
        {
            queue.jobs.push_back(Job { lane: Some(lane), ..first });
            queue.lanes.insert(lane, VecDeque::new());
        }
        if let Some(lane) = queue.lanes.get_mut(&lane) {
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
            if let Some(Job { module, lane, work }) = queue.jobs.pop_front() {
                queue.taken += 1;
                queue.running += 1;
                drop(queue);
                // What has gone wrong is in the log already; the thread and the lane have to go on.
                let _ = catch_unwind(AssertUnwindSafe(work));
                queue = self.lock();
                queue.running -= 1;
                if let Some(lane) = lane {
                    queue.go_on_in_lane(lane, module);
                }
                continue;
            }
            let (woken, timeout) = self.wake.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if timeout.timed_out() && queue.jobs.is_empty() && queue.threads > self.threads_kept {
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
        suspected || self.lanes.contains_key(&Lane::Module(module))
    }

    /// A job of `lane` is done, which was of `module`: the next one may run.
    fn go_on_in_lane(&mut self, lane: Lane, module: Option<Digest>) {
        match self.lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
            // The thread that calls this takes it, or an earlier one; nobody needs to be woken.
            Some(work) => self.jobs.push_back(Job { module, lane: Some(lane), work }),
            None => {
                self.lanes.remove(&lane);
            }
        }
    }
}

fn add_thread(state: &Arc<PoolState>, queue: &mut Queue) {
    let pool = state.clone();
    let run = move || {
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
    fn what_may_take_the_server_down_runs_alone_and_others_go_past_it() {
        let (one, other) = (Digest([1; 32]), Digest([2; 32]));
        let pool = TurnPool::new(2, 4);
        let (release, held) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        let first = done.clone();
        pool.submit_alone(one, move || {
            held.recv().unwrap();
            first.send("alone 1").unwrap();
        });
        let second = done.clone();
        pool.submit_alone(other, move || second.send("alone 2").unwrap());
        pool.submit(one, move || done.send("past them").unwrap());
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("past them"));
        release.send(()).unwrap();
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("alone 1"));
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("alone 2"));
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
