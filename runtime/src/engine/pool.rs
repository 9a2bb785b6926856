//! Who runs turns? A pool of plain threads.
//!
//! Turns never run on threads that do I/O. The pool adds a thread when its queue stands still, since a turn may compute for
//! long; so one slow guest does not hold up the others. A thread whose guest computes for long gets a low priority (`priority.rs`), does nothing
//! else afterwards, and has a successor meanwhile; a module has a part of the threads for such turns. One whose guest has used up its bounds
//! gets one thread at a time for a while, however many instances it has; so do, together, all turns that may have taken the server down. The
//! same module in another hub is another one: hubs do not feel each other.
//!
//! What has begun goes before what has not: the first turns of new instances wait behind all other jobs, and while much else waits in
//! memory; modules take turns. Instances begin slowly while they would only stand in line with activities for a moment. So under more load
//! than the machine can bear, what is let in comes to its end, and the rest stays as small as it came.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::backlog::{Backlog, LINE_MAX};
use super::queue::{Ring, TakesTurns};
use crate::model::{Digest, HubKey};
use crate::priority;

/// How long the queue may stand still before the pool grows by a thread.
const PATIENCE: Duration = Duration::from_millis(10);

/// How long a thread that was added stays without work.
const IDLE: Duration = Duration::from_secs(1);

/// How long a module runs one turn at a time after a guest of it has used up its bounds.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// Of so many jobs one may be a first turn while others wait, so that those that go on for ever keep none from beginning.
const BEGINS_ONE_IN: u64 = 8;

/// How often one begins while it would only stand in line with activities: what needs none should not wait for them for ever.
const BEGIN_EVERY: Duration = Duration::from_millis(10);

/// How long to look at the line of activities to see whether it moves. It does if it is through in about a second at that pace: then it is
/// better to wait outside. Otherwise who begins keeps nobody from anything.
const LOOK_AT_LINE: Duration = Duration::from_millis(100);
const LINE_PER_S: f64 = LINE_MAX as f64;

/// How long to wait for the backlog to get less before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// One in so many threads at most runs a turn of the same module that computes for long. Other turns of that module wait then, since each may be
/// one more.
const LONG_ONE_IN: usize = 4;

/// Of so many threads all but one may run turns that compute for long, while other modules have such turns too; the rest is for those that have
/// none.
const SHORT_ONE_IN: usize = 4;

/// The stack of a thread that runs guests, in bytes: wasmtime gives a guest 512 KiB of it.
const STACK_BYTES: usize = 4 << 20;

type Work = Box<dyn FnOnce() + Send>;

/// Threads that run turns, in the order in which they were asked for, first turns last.
pub(super) struct TurnPool {
    state: Arc<PoolState>,
}

struct PoolState {
    queue: Mutex<Queue>,
    /// There is a job, or the pool is closed.
    wake: Condvar,
    backlog: Arc<Backlog>,
    threads_kept: usize,
    threads_max: usize,
}

#[derive(Default)]
struct Queue {
    /// What is no turn. It has to be done even when no turn may run.
    others: VecDeque<Job>,
    turns: VecDeque<Job>,
    /// First turns of instances that nobody waits for inside, by module.
    beginnings: Ring<HubModule, Beginnings>,
    /// How many these are.
    beginnings_count: usize,
    /// When the last of these was taken.
    begun: Option<Instant>,
    line: Option<LineSeen>,
    /// What waits behind a job of its lane that runs or stands in `turns`.
    lanes: HashMap<Lane, VecDeque<Work>>,
    /// How many turns of a module compute for long just now.
    long: HashMap<HubModule, usize>,
    /// Modules of which no more turns may run until fewer compute for long, and the turns that wait for that.
    held: HashMap<HubModule, VecDeque<Job>>,
    /// Modules that run one at a time, and since when.
    suspects: HashMap<HubModule, Instant>,
    /// How many jobs were ever taken: it stands still when all threads are busy with long ones.
    taken: u64,
    /// How many of them run now.
    running: usize,
    threads: usize,
    /// Of these, the ones that end with the job that they have, since it computes for long.
    lowered: usize,
    closed: bool,
}

/// A module of a hub: whose turns they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct HubModule {
    pub hub: HubKey,
    pub module: Digest,
}

/// First turns of instances of a module, in the order in which they were asked for.
struct Beginnings {
    jobs: VecDeque<Job>,
    /// The module is at its bound.
    is_held: bool,
}

impl TakesTurns for Beginnings {
    fn is_ready(&self) -> bool {
        !self.jobs.is_empty() && !self.is_held
    }

    fn is_needed(&self) -> bool {
        !self.jobs.is_empty()
    }
}

/// What the line of activities looked like when it was long.
struct LineSeen {
    at: Instant,
    /// How many activities had left it.
    left: u64,
    moves: bool,
}

struct Job {
    /// Whose turn it is, if it is one.
    module: Option<HubModule>,
    /// Its end lets the next one of this lane run.
    lane: Option<Lane>,
    work: Work,
}

/// What a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A turn of an instance that has begun.
    Turn,
    /// The first turn of one.
    Beginning,
    /// A turn that may take the server down.
    Alone,
    /// No turn.
    Other,
}

/// Where jobs run one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    /// The turns of a module that is under suspicion.
    Module(HubModule),
    /// The turns of all instances that may have taken the server down.
    Alone,
}

impl TurnPool {
    /// A pool that keeps `threads_kept` threads and may grow to `threads_max`. Turns wait while `backlog` says so.
    pub(super) fn new(threads_kept: usize, threads_max: usize, backlog: Arc<Backlog>) -> Self {
        let state = PoolState { queue: Mutex::default(), wake: Condvar::new(), backlog, threads_kept, threads_max };
        let state = Arc::new(state);
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
                let stands_still = queue.taken == seen && queue.has_next(&state.backlog);
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
    pub(super) fn submit(&self, module: HubModule, work: impl FnOnce() + Send + 'static) {
        self.push(Some(module), Kind::Turn, Box::new(work));
    }

    /// The same for the first turn of an instance.
    pub(super) fn submit_beginning(&self, module: HubModule, work: impl FnOnce() + Send + 'static) {
        self.push(Some(module), Kind::Beginning, Box::new(work));
    }

    /// Runs `work`, a turn of `module` that may take the server down, as soon as a thread is free and all such turns before are done.
    pub(super) fn submit_alone(&self, module: HubModule, work: impl FnOnce() + Send + 'static) {
        self.push(Some(module), Kind::Alone, Box::new(work));
    }

    /// Runs `work`, which is no turn, as soon as a thread is free. After [`TurnPool::close`] it is dropped.
    pub(super) fn submit_other(&self, work: impl FnOnce() + Send + 'static) {
        self.push(None, Kind::Other, Box::new(work));
    }

    fn push(&self, module: Option<HubModule>, kind: Kind, work: Work) {
        let mut queue = self.state.lock();
        if queue.closed {
            return;
        }
        let lane = if kind == Kind::Alone {
            Some(Lane::Alone)
        } else {
            module.filter(|module| queue.is_suspected(*module)).map(Lane::Module)
        };
        if let Some(lane) = lane {
            if let Some(waiting) = queue.lanes.get_mut(&lane) {
                waiting.push_back(work);
                return;
            }
            queue.lanes.insert(lane, VecDeque::new());
        }
        let job = Job { module, lane, work };
        match (module, kind, lane) {
            (None, ..) => queue.others.push_back(job),
            (Some(module), Kind::Beginning, None) => queue.push_beginning(module, job),
            _ => queue.turns.push_back(job),
        }
        drop(queue);
        self.state.wake.notify_one();
    }

    /// A guest of `module` has used up its bounds: from now on its turns run one at a time, for a while, those that wait already
    /// included.
    pub(super) fn suspect(&self, module: HubModule) {
        let mut queue = self.state.lock();
        queue.suspects.insert(module, Instant::now());
        let turns = std::mem::take(&mut queue.turns);
        let (mut waiting, others): (VecDeque<Job>, VecDeque<Job>) =
            turns.into_iter().partition(|job| job.module == Some(module) && job.lane.is_none());
        queue.turns = others;
        waiting.extend(queue.take_beginnings(module));
        waiting.extend(queue.held.get_mut(&module).map(std::mem::take).unwrap_or_default());
        let lane = Lane::Module(module);
        if !queue.lanes.contains_key(&lane)
            && let Some(first) = waiting.pop_front()
        {
            queue.turns.push_back(Job { lane: Some(lane), ..first });
            queue.lanes.insert(lane, VecDeque::new());
        }
        if let Some(lane) = queue.lanes.get_mut(&lane) {
            lane.extend(waiting.into_iter().map(|job| job.work));
        }
    }

    /// How many jobs wait for a thread, first turns aside. What waits in a lane does not count: it is in nobody else's way.
    pub(super) fn queued(&self) -> usize {
        let queue = self.state.lock();
        queue.others.len() + queue.turns.len()
    }

    /// How many of them are no turns.
    pub(super) fn others_queued(&self) -> usize {
        self.state.lock().others.len()
    }

    /// How many first turns wait.
    pub(super) fn beginnings_queued(&self) -> usize {
        self.state.lock().beginnings_count
    }

    /// How many first turns of `module` wait, and how many turns wait for others of it.
    pub(super) fn queued_of(&self, module: HubModule) -> usize {
        let queue = self.state.lock();
        let in_lane = queue.lanes.get(&Lane::Module(module)).map_or(0, VecDeque::len);
        let held = queue.held.get(&module).map_or(0, VecDeque::len);
        in_lane + held + queue.beginnings.get(&module).map_or(0, |beginnings| beginnings.jobs.len())
    }

    /// How many turns wait for others of their module, or for those that may take the server down.
    pub(super) fn queued_behind_others(&self) -> usize {
        let queue = self.state.lock();
        let in_lanes: usize = queue.lanes.values().map(VecDeque::len).sum();
        in_lanes + queue.held.values().map(VecDeque::len).sum::<usize>()
    }

    /// Lets the running jobs end in their own time and drops the others.
    pub(super) fn close(&self) {
        let mut queue = self.state.lock();
        queue.closed = true;
        let Queue { others, turns, beginnings, beginnings_count, lanes, held, .. } = &mut *queue;
        *beginnings_count = 0;
        let lines = [others, turns].map(std::mem::take);
        let unfinished = (lines, std::mem::take(beginnings), std::mem::take(lanes), std::mem::take(held));
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

    /// Whether a job runs or waits for a thread, first turns aside.
    pub(super) fn has_begun_work(&self) -> bool {
        let queue = self.state.lock();
        queue.running > 0 || !queue.others.is_empty() || !queue.turns.is_empty()
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

    /// A turn has begun to compute for long, or one has ended that did: holds modules that are at their bound now, and lets those go
    /// on that no longer are. Whether there are any of these.
    fn settle(&self, queue: &mut Queue) -> bool {
        let long_max = (self.threads_max / LONG_ONE_IN).max(1);
        let is_crowded = queue.lowered >= (self.threads_max - self.threads_max / SHORT_ONE_IN).max(1);
        let Queue { long, held, beginnings, turns, .. } = queue;
        let is_at_bound = |long: &usize| *long >= long_max || is_crowded;
        for (module, _) in long.iter().filter(|(_, long)| is_at_bound(long)) {
            held.entry(*module).or_default();
            beginnings.change(module, |beginnings| beginnings.is_held = true);
        }
        let mut go_on = false;
        for (module, jobs) in held.extract_if(|module, _| !long.get(module).is_some_and(is_at_bound)) {
            go_on = true;
            beginnings.change(&module, |beginnings| beginnings.is_held = false);
            jobs.into_iter().rev().for_each(|job| turns.push_front(job));
        }
        go_on
    }

    /// Takes one job after the other; `of` says whose turn it is.
    fn work(&self, of: &Cell<Option<HubModule>>) {
        let mut queue = self.lock();
        while !queue.closed {
            if let Some(Job { module, lane, work }) = queue.next(&self.backlog) {
                queue.taken += 1;
                queue.running += 1;
                of.set(module);
                drop(queue);
                // What has gone wrong is in the log already; the thread and the lane have to go on.
                let _ = catch_unwind(AssertUnwindSafe(work));
                queue = self.lock();
                queue.running -= 1;
                if let Some(lane) = lane {
                    queue.go_on_in_lane(lane, module);
                }
                if priority::is_lowered() {
                    queue.lowered -= 1;
                    if let Some(module) = module {
                        queue.is_long_no_more(module);
                    }
                    if self.settle(&mut queue) {
                        self.wake.notify_all();
                    }
                    // What this thread would have taken next is for another one.
                    self.wake.notify_one();
                    break;
                }
                continue;
            }
            // The backlog gets less without a word.
            let patience = if queue.is_empty() { IDLE } else { LOOK_AGAIN };
            let (woken, timeout) = self.wake.wait_timeout(queue, patience).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if timeout.timed_out() && queue.is_empty() && queue.threads - queue.lowered > self.threads_kept {
                break;
            }
        }
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.others.is_empty() && self.turns.is_empty() && self.beginnings_count == 0
    }

    fn push_beginning(&mut self, module: HubModule, job: Job) {
        let is_held = self.held.contains_key(&module);
        let new = || Beginnings { jobs: VecDeque::new(), is_held };
        self.beginnings.change_or_add(&module, new, |beginnings| beginnings.jobs.push_back(job));
        self.beginnings_count += 1;
    }

    /// Takes those of a module.
    fn take_beginnings(&mut self, module: HubModule) -> VecDeque<Job> {
        let taken = self.beginnings.change(&module, |beginnings| std::mem::take(&mut beginnings.jobs)).unwrap_or_default();
        self.beginnings_count -= taken.len();
        taken
    }

    /// Whether there is a job that may be run now.
    fn has_next(&mut self, backlog: &Backlog) -> bool {
        !self.others.is_empty() || (!self.turns.is_empty() && backlog.may_go_on()) || self.may_begin(backlog)
    }

    fn may_begin(&mut self, backlog: &Backlog) -> bool {
        self.beginnings.is_ready() && backlog.may_begin() && !self.is_better_outside(backlog)
    }

    /// Whether an instance that begins now would only stand in line, and would do so for a moment.
    fn is_better_outside(&mut self, backlog: &Backlog) -> bool {
        if !backlog.has_long_line() || self.begun.is_none_or(|begun| begun.elapsed() >= BEGIN_EVERY) {
            return false;
        }
        let (now, left) = (Instant::now(), backlog.left_line());
        let seen = self.line.get_or_insert(LineSeen { at: now, left, moves: true });
        let past = now - seen.at;
        if past >= LOOK_AT_LINE {
            let moves = (left - seen.left) as f64 >= LINE_PER_S * past.as_secs_f64();
            *seen = LineSeen { at: now, left, moves };
        }
        seen.moves
    }

    /// Takes the job that is to be run next. Turns of modules that are held are put aside.
    fn next(&mut self, backlog: &Backlog) -> Option<Job> {
        loop {
            let job = self.first(backlog)?;
            match job.module.filter(|_| job.lane.is_none()).and_then(|module| self.held.get_mut(&module)) {
                Some(held) => held.push_back(job),
                None => return Some(job),
            }
        }
    }

    /// A turn of `module` that computed for long is done.
    fn is_long_no_more(&mut self, module: HubModule) {
        if let Some(long) = self.long.get_mut(&module) {
            *long -= 1;
            if *long == 0 {
                self.long.remove(&module);
            }
        }
    }

    /// Takes the job that is first in line.
    fn first(&mut self, backlog: &Backlog) -> Option<Job> {
        if let Some(job) = self.others.pop_front() {
            return Some(job);
        }
        let is_for_a_beginning = self.turns.is_empty() || self.taken.is_multiple_of(BEGINS_ONE_IN);
        if is_for_a_beginning && self.may_begin(backlog) {
            self.begun = Some(Instant::now());
            let job = self.beginnings.take(|_, beginnings| beginnings.jobs.pop_front()).flatten();
            self.beginnings_count -= usize::from(job.is_some());
            return job;
        }
        if backlog.may_go_on() { self.turns.pop_front() } else { None }
    }

    fn is_suspected(&mut self, module: HubModule) -> bool {
        let suspected = self.suspects.get(&module).is_some_and(|since| since.elapsed() < SUSPECT_FOR);
        if !suspected {
            self.suspects.remove(&module);
        }
        // Until its lane is empty, what comes later must not go past what waits there.
        suspected || self.lanes.contains_key(&Lane::Module(module))
    }

    /// A job of `lane` is done, which was of `module`: the next one may run.
    fn go_on_in_lane(&mut self, lane: Lane, module: Option<HubModule>) {
        match self.lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
            // The thread that calls this takes it, or an earlier one; nobody needs to be woken.
            Some(work) => self.turns.push_back(Job { module, lane: Some(lane), work }),
            None => {
                self.lanes.remove(&lane);
            }
        }
    }
}

fn add_thread(state: &Arc<PoolState>, queue: &mut Queue) {
    let pool = state.clone();
    let run = move || {
        let of = Rc::new(Cell::new(None));
        let (counting, counted) = (Arc::downgrade(&pool), of.clone());
        priority::may_be_lowered(move || {
            if let Some(pool) = counting.upgrade() {
                let mut queue = pool.lock();
                queue.lowered += 1;
                if let Some(module) = counted.get() {
                    *queue.long.entry(module).or_default() += 1;
                }
                pool.settle(&mut queue);
            }
        });
        pool.work(&of);
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

    fn module(number: u8) -> HubModule {
        HubModule { hub: HubKey(1), module: Digest([number; 32]) }
    }

    fn pool(threads_kept: usize, threads_max: usize) -> TurnPool {
        TurnPool::new(threads_kept, threads_max, Backlog::new(usize::MAX))
    }

    #[test]
    fn what_has_begun_goes_first_and_new_instances_wait_while_much_waits() {
        let (module, backlog) = (module(1), Backlog::new(10));
        let pool = TurnPool::new(1, 1, backlog.clone());
        let (release, held) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        pool.submit_other(move || held.recv().unwrap());
        let much = backlog.holding(20);
        let says = |what: &'static str| {
            let done = done.clone();
            move || done.send(what).unwrap()
        };
        pool.submit_beginning(module, says("beginning"));
        pool.submit(module, says("turn"));
        pool.submit_other(says("other"));
        release.send(()).unwrap();
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("other"));
        assert_eq!((pool.queued(), pool.beginnings_queued(), finished.try_recv().ok()), (1, 1, None), "so much waits");
        drop(much);
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("turn"));
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("beginning"));
    }

    #[test]
    fn modules_take_turns_to_begin() {
        let (flood, other) = (module(1), module(2));
        let pool = pool(1, 1);
        let (release, held) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        pool.submit_other(move || held.recv().unwrap());
        for module in [flood, flood, flood, other] {
            let done = done.clone();
            pool.submit_beginning(module, move || done.send(module).unwrap());
        }
        assert_eq!((pool.queued_of(flood), pool.queued_of(other), pool.beginnings_queued()), (3, 1, 4));
        release.send(()).unwrap();
        let begun: Vec<HubModule> = (0..4).map(|_| finished.recv_timeout(DEADLINE).unwrap()).collect();
        assert_eq!(begun, [flood, other, flood, flood]);
        assert_eq!((pool.queued_of(flood), pool.beginnings_queued()), (0, 0));
    }

    #[test]
    fn a_long_line_of_activities_holds_instances_back_while_it_moves() {
        let backlog = Backlog::new(usize::MAX);
        let mut queue = Queue { begun: Some(Instant::now() + DEADLINE), ..Queue::default() };
        assert!(!queue.is_better_outside(&backlog), "nothing is in line");
        backlog.line(LINE_MAX, 7);
        assert!(queue.is_better_outside(&backlog), "it is not known yet whether it moves");
        queue.line.as_mut().unwrap().at -= LOOK_AT_LINE;
        assert!(!queue.is_better_outside(&backlog), "it stands, and may do so for hours");
        queue.line.as_mut().unwrap().at -= LOOK_AT_LINE;
        backlog.line(LINE_MAX, 7 + LINE_MAX as u64);
        assert!(queue.is_better_outside(&backlog), "it is soon short again");
    }

    #[test]
    fn instances_begin_slowly_while_the_line_of_activities_is_long_and_moves() {
        let (module, backlog) = (module(1), Backlog::new(usize::MAX));
        let pool = TurnPool::new(1, 1, backlog.clone());
        backlog.line(LINE_MAX, 0);
        let (done, finished) = mpsc::channel();
        for _ in 0..4 {
            let done = done.clone();
            pool.submit_beginning(module, move || done.send(Instant::now()).unwrap());
        }
        let begun: Vec<Instant> = (0..4).map(|_| finished.recv_timeout(DEADLINE).unwrap()).collect();
        assert!(begun[3] - begun[0] >= 2 * BEGIN_EVERY, "they begin one by one");
    }

    #[test]
    fn the_pool_grows_when_all_its_threads_are_busy() {
        let pool = pool(1, 3);
        let (release, held) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        pool.submit_other(move || held.recv().unwrap());
        pool.submit_other(move || done.send("past the one that waits").unwrap());
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("past the one that waits"));
        release.send(()).unwrap();
    }

    #[test]
    fn what_waits_already_when_a_module_comes_under_suspicion_waits_in_line() {
        let (suspect, honest) = (module(1), module(2));
        let pool = pool(1, 2);
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
    fn a_module_whose_turns_compute_for_long_leaves_threads_to_others() {
        let (hog, other) = (module(1), module(2));
        let pool = pool(1, 2 * LONG_ONE_IN);
        let (done, finished) = mpsc::channel();
        let hold = |what: &'static str| {
            let (release, held) = mpsc::channel::<()>();
            let done = done.clone();
            pool.submit(hog, move || {
                priority::has_computed(Duration::from_secs(1));
                done.send("computes").unwrap();
                held.recv().unwrap();
                done.send(what).unwrap();
            });
            release
        };
        let first = hold("first");
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("computes"));
        let second = hold("second");
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("computes"));
        let third = hold("third");
        let past = done.clone();
        pool.submit(other, move || past.send("past them").unwrap());
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("past them"));
        let begins = done.clone();
        pool.submit_beginning(hog, move || begins.send("begins").unwrap());
        let past = done.clone();
        pool.submit_beginning(HubModule { hub: HubKey(2), ..hog }, move || past.send("in another hub").unwrap());
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("in another hub"));
        assert_eq!((pool.queued(), pool.queued_of(hog), pool.queued_behind_others()), (0, 2, 1), "they wait for one of the two");
        first.send(()).unwrap();
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("first"));
        assert_eq!(finished.recv_timeout(DEADLINE), Ok("computes"), "the third, before what has not begun");
        second.send(()).unwrap();
        third.send(()).unwrap();
        let mut rest = [0; 3].map(|_| finished.recv_timeout(DEADLINE).unwrap());
        rest.sort_unstable();
        assert_eq!(rest, ["begins", "second", "third"]);
    }

    #[test]
    fn what_may_take_the_server_down_runs_alone_and_others_go_past_it() {
        let (one, other) = (module(1), module(2));
        let pool = pool(2, 4);
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
        let (suspect, honest) = (module(1), module(2));
        let pool = pool(2, 4);
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
