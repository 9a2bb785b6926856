//! Who runs turns, and which guests stay alive between them? A pool of plain threads, and the residents.
//!
//! Turns never run on threads that do I/O. The pool adds a thread when its queue stands still, since a turn may compute for
//! long; so one slow guest does not hold up the others. A module whose guest has used up its bounds gets one thread at a time
//! for a while, however many instances it has.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::partition::{TurnFailure, TurnOrder, TurnResult};
use crate::host::{Host, NoGuest, OrchestratorGuest};
use crate::limits::Limits;
use crate::model::{Digest, Event, ExecutionKey};
use crate::replay;
use crate::store::Store;

/// How long the queue may stand still before the pool grows by a thread.
const PATIENCE: Duration = Duration::from_millis(10);

/// How long a thread that was added stays without work.
const IDLE: Duration = Duration::from_secs(1);

/// How long a module runs one turn at a time after a guest of it has used up its bounds.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// The stack of a thread that runs guests, in bytes: wasmtime gives a guest 512 KiB of it.
const STACK_BYTES: usize = 4 << 20;

type Job = Box<dyn FnOnce() + Send>;

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
    jobs: VecDeque<(Option<Digest>, Job)>,
    /// The jobs of a module that runs one at a time, behind the one that runs or stands in `jobs`.
    lanes: HashMap<Digest, VecDeque<Job>>,
    /// Modules that run one at a time, and since when.
    suspects: HashMap<Digest, Instant>,
    /// How many jobs were ever taken: it stands still when all threads are busy with long ones.
    taken: u64,
    /// How many of them run now.
    running: usize,
    threads: usize,
    closed: bool,
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

    /// Runs `job`, a turn of `module`, as soon as a thread is free, and the module's last job is done if it is under suspicion.
    /// After [`TurnPool::close`] it is dropped.
    pub(super) fn submit(&self, module: Digest, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.state.lock();
        let suspected = queue.suspects.get(&module).is_some_and(|since| since.elapsed() < SUSPECT_FOR);
        if queue.closed {
            return;
        } else if suspected || queue.lanes.contains_key(&module) {
            if let Some(lane) = queue.lanes.get_mut(&module) {
                lane.push_back(Box::new(job));
                return;
            }
            queue.lanes.insert(module, VecDeque::new());
            queue.jobs.push_back((Some(module), Box::new(job)));
        } else {
            queue.suspects.remove(&module);
            queue.jobs.push_back((None, Box::new(job)));
        }
        drop(queue);
        self.state.wake.notify_one();
    }

    /// Runs `job`, which is no turn, as soon as a thread is free. After [`TurnPool::close`] it is dropped.
    pub(super) fn submit_other(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.state.lock();
        if !queue.closed {
            queue.jobs.push_back((None, Box::new(job)));
            drop(queue);
            self.state.wake.notify_one();
        }
    }

    /// A guest of `module` has used up its bounds: its turns run one at a time from now on, for a while.
    pub(super) fn suspect(&self, module: Digest) {
        self.state.lock().suspects.insert(module, Instant::now());
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
            if let Some((lane, job)) = queue.jobs.pop_front() {
                queue.taken += 1;
                queue.running += 1;
                drop(queue);
                job();
                queue = self.lock();
                queue.running -= 1;
                if let Some(module) = lane {
                    queue.go_on_in_lane(module);
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
    /// A job of `module` is done: its next one may run.
    fn go_on_in_lane(&mut self, module: Digest) {
        match self.lanes.get_mut(&module).and_then(VecDeque::pop_front) {
            // The thread that calls this takes it, or an earlier one; nobody needs to be woken.
            Some(next) => self.jobs.push_back((Some(module), next)),
            None => {
                self.lanes.remove(&module);
            }
        }
    }
}

fn add_thread(state: &Arc<PoolState>, queue: &mut Queue) {
    let pool = state.clone();
    let run = move || {
        /// Counts the thread out, also when a job panics.
        struct Leave(Arc<PoolState>);
        impl Drop for Leave {
            fn drop(&mut self) {
                let mut queue = self.0.lock();
                queue.threads -= 1;
                if thread::panicking() && !queue.closed {
                    add_thread(&self.0, &mut queue);
                }
            }
        }
        let leave = Leave(pool);
        leave.0.work();
    };
    match thread::Builder::new().name("dacapo-turn".into()).stack_size(STACK_BYTES).spawn(run) {
        Ok(_) => queue.threads += 1,
        Err(error) => tracing::warn!("cannot start one more thread for turns: {error}"),
    }
}

/// The guests that are alive between turns. The least recently used ones go first; each can be rebuilt by replay.
pub(super) struct Residents {
    guests: Mutex<Guests>,
    count_max: usize,
    bytes_max: usize,
}

struct Guests {
    by_execution: LruCache<ExecutionKey, Resident>,
    bytes: usize,
}

struct Resident {
    turns: u32,
    bytes: usize,
    guest: OrchestratorGuest,
}

impl Residents {
    /// Room for `count_max` guests that have grown by `bytes_max` in all.
    pub(super) fn new(count_max: usize, bytes_max: u64) -> Self {
        let guests = Guests { by_execution: LruCache::unbounded(), bytes: 0 };
        Self { guests: Mutex::new(guests), count_max, bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX) }
    }

    /// The guest of `execution`, if it is alive and has played exactly `turns` turns.
    pub(super) fn take(&self, execution: ExecutionKey, turns: u32) -> Option<OrchestratorGuest> {
        let resident = self.lock().pop(execution)?;
        (resident.turns == turns).then_some(resident.guest)
    }

    /// Keeps `guest`, which has played `turns` turns of `execution`, and drops others if there is no room.
    pub(super) fn put(&self, execution: ExecutionKey, turns: u32, guest: OrchestratorGuest) {
        let mut dropped = Vec::new(); // Outside the lock: it takes a while.
        let mut guests = self.lock();
        let resident = Resident { turns, bytes: guest.grown_bytes(), guest };
        guests.bytes += resident.bytes;
        if let Some(old) = guests.by_execution.put(execution, resident) {
            guests.bytes -= old.bytes;
            dropped.push(old);
        }
        while guests.by_execution.len() > self.count_max || guests.bytes > self.bytes_max {
            dropped.push(guests.pop_oldest().expect("there is at least the one that was put"));
        }
        drop(guests);
    }

    /// Drops the guest of `execution`, if it is alive.
    pub(super) fn evict(&self, execution: ExecutionKey) {
        let dropped = self.lock().pop(execution);
        drop(dropped);
    }

    /// Drops the guest that was not used for longest; whether there was one.
    pub(super) fn evict_oldest(&self) -> bool {
        let dropped = self.lock().pop_oldest();
        dropped.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        // The two fields are changed together, without anything between them that can panic.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn pop(&mut self, execution: ExecutionKey) -> Option<Resident> {
        let resident = self.by_execution.pop(&execution)?;
        self.bytes -= resident.bytes;
        Some(resident)
    }

    fn pop_oldest(&mut self) -> Option<Resident> {
        let (_, resident) = self.by_execution.pop_lru()?;
        self.bytes -= resident.bytes;
        Some(resident)
    }
}

/// What a turn needs of the server.
pub(super) struct TurnContext<'a> {
    pub store: &'a dyn Store,
    pub host: &'a Host,
    pub residents: &'a Residents,
    pub limits: &'a Limits,
}

/// Runs one turn: on the living guest, or on one that is brought to this point by replay.
pub(super) fn run(context: &TurnContext<'_>, order: &TurnOrder) -> Result<TurnResult, TurnFailure> {
    let mut guest = match context.residents.take(order.execution, order.turns) {
        Some(guest) => guest,
        None => rebuild(context, order)?,
    };
    let progress = replay::turn(&mut guest, order.at_ms, &order.inputs, order.next_task, None).map_err(TurnFailure::Guest)?;
    let lines = guest.take_lines();
    if progress.end.is_none() {
        context.residents.put(order.execution, order.turns + 1, guest);
    }
    Ok(TurnResult { progress, lines })
}

fn rebuild(context: &TurnContext<'_>, order: &TurnOrder) -> Result<OrchestratorGuest, TurnFailure> {
    let host = |what: String| TurnFailure::Host(what);
    let history = match &order.started {
        Some(started) => vec![Event::Started(started.clone())],
        None => context.store.history(order.execution).map_err(|error| host(format!("the history cannot be read: {error}")))?,
    };
    let mut guest = new_guest(context, order)?;
    replay::replay(&history, &mut guest).map_err(TurnFailure::Guest)?;
    let _said_before = guest.take_lines(); // These were shown when they were new.
    Ok(guest)
}

/// A fresh guest. When all slots are taken, the resident that was not used for longest makes room.
fn new_guest(context: &TurnContext<'_>, order: &TurnOrder) -> Result<OrchestratorGuest, TurnFailure> {
    let module =
        super::module(context.host, context.store, order.module).map_err(|error| TurnFailure::Host(error.to_string()))?;
    loop {
        match module.orchestrator(context.limits) {
            Ok(guest) => return Ok(guest),
            // There are more slots than residents, so other turns are on their way to free one.
            Err(NoGuest::NoSlot) if context.residents.evict_oldest() => (),
            Err(NoGuest::NoSlot) => thread::sleep(Duration::from_millis(1)),
            Err(NoGuest::Failed(message)) => return Err(TurnFailure::Host(message)),
        }
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
