//! Who runs turns, and begins activities? A pool of plain threads.
//!
//! Turns never run on threads that do I/O. Activities begin here too: most compute for a moment and wait for nothing, and the turn that takes the result
//! then runs on the same thread, without anybody being woken. What an activity has to wait for, it waits for elsewhere (`crew.rs`). The pool adds a thread when its queue stands still, since a turn may compute for
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

/// With so many turns in line, or first turns of a module, the next one does not begin soon.
const SOON_MAX: usize = 128;

/// The stack of a thread that runs guests, in bytes: wasmtime gives a guest 512 KiB of it.
const STACK_BYTES: usize = 4 << 20;

pub(super) type Work = Box<dyn FnOnce() + Send>;

thread_local! {
    /// This thread takes jobs.
    static IS_OF_A_POOL: Cell<bool> = const { Cell::new(false) };
}

/// Threads that run turns, in the order in which they were asked for, first turns last, and begin activities.
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
    /// Activities to begin. They leave less to do than they find, so they go before turns.
    activities: VecDeque<Job>,
    /// How many of these are being begun.
    activities_begun: usize,
    /// How many may be: the other threads are for turns, which must not wait while activities compute.
    activities_max: usize,
    /// How many were ever taken.
    activities_taken: u64,
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
    /// How many other jobs were ever taken: it stands still when all their threads are busy with long ones.
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
    is_activity: bool,
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
    /// The beginning of an activity.
    Activity,
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
    /// A pool that keeps `threads_kept` threads for turns and may grow to `threads_max`; on `activities_max` more activities begin. Turns wait while
    /// `backlog` says so.
    pub(super) fn new(threads_kept: usize, threads_max: usize, activities_max: usize, backlog: Arc<Backlog>) -> Self {
        let (threads_kept, threads_max) = (threads_kept + activities_max, threads_max + activities_max);
        let (queue, wake) = (Mutex::new(Queue { activities_max, ..Queue::default() }), Condvar::new());
        let state = Arc::new(PoolState { queue, wake, backlog, threads_kept, threads_max });
        for _ in 0..threads_kept {
            add_thread(&state, &mut state.lock());
        }
        let watched = Arc::downgrade(&state);
        let watch = move || {
            let (mut seen, mut seen_activities) = (0, 0);
            while let Some(state) = watched.upgrade() {
                let mut queue = state.lock();
                if queue.closed {
                    return;
                }
                let stands_still = queue.taken == seen && queue.has_next(&state.backlog)
                    || queue.activities_taken == seen_activities && queue.may_begin_activity();
                if stands_still {
                    state.wake.notify_one(); // Somebody may have meant to take it and be busy still.
                }
                let needs_one = stands_still || queue.threads - queue.lowered < state.threads_kept;
                if needs_one && queue.threads < state.threads_max {
                    add_thread(&state, &mut queue);
                }
                (seen, seen_activities) = (queue.taken, queue.activities_taken);
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
        self.state.push(Some(module), Kind::Turn, Box::new(work));
    }

    /// The same for the first turn of an instance.
    pub(super) fn submit_beginning(&self, module: HubModule, work: impl FnOnce() + Send + 'static) {
        self.state.push(Some(module), Kind::Beginning, Box::new(work));
    }

    /// Runs `work`, a turn of `module` that may take the server down, as soon as a thread is free and all such turns before are done.
    pub(super) fn submit_alone(&self, module: HubModule, work: impl FnOnce() + Send + 'static) {
        self.state.push(Some(module), Kind::Alone, Box::new(work));
    }

    /// Runs `work`, which is no turn, as soon as a thread is free. After [`TurnPool::close`] it is dropped.
    pub(super) fn submit_other(&self, work: impl FnOnce() + Send + 'static) {
        self.state.push(None, Kind::Other, Box::new(work));
    }

    /// What begins activities here, each as soon as a thread is free. After [`TurnPool::close`] they are dropped.
    pub(super) fn for_activities(&self) -> impl Fn(Work) + Send + Sync + use<> {
        let state = self.state.clone();
        move |work| state.push(None, Kind::Activity, work)
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

    /// Whether a first turn of `module` would begin within some hundredths of a second, as far as that can be seen.
    pub(super) fn begins_soon(&self, module: HubModule) -> bool {
        let mut queue = self.state.lock();
        let waiting = queue.beginnings.change(&module, |beginnings| beginnings.jobs.len()).unwrap_or_default();
        let is_free = !queue.held.contains_key(&module) && !queue.is_suspected(module);
        is_free
            && waiting.max(queue.turns.len()) < SOON_MAX
            && self.state.backlog.may_begin()
            && !self.state.backlog.has_long_line()
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
        let Queue { others, activities, turns, beginnings, beginnings_count, lanes, held, .. } = &mut *queue;
        *beginnings_count = 0;
        let lines = [others, activities, turns].map(std::mem::take);
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
        queue.running > 0 || !queue.others.is_empty() || !queue.activities.is_empty() || !queue.turns.is_empty()
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

    fn push(&self, module: Option<HubModule>, kind: Kind, work: Work) {
        let mut queue = self.lock();
        if queue.closed {
            drop(queue); // What is dropped may come back here.
            return drop(work);
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
        let job = Job { module, lane, is_activity: kind == Kind::Activity, work };
        match (module, kind, lane) {
            (_, Kind::Activity, _) => queue.activities.push_back(job),
            (None, ..) => queue.others.push_back(job),
            (Some(module), Kind::Beginning, None) => queue.push_beginning(module, job),
            _ => queue.turns.push_back(job),
        }
        // Who works here is nearly done, and takes it.
        let is_for_this_thread = IS_OF_A_POOL.get() && queue.waiting() == 1;
        drop(queue);
        if !is_for_this_thread {
            self.wake.notify_one();
        }
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
            if let Some(Job { module, lane, is_activity, work }) = queue.next(&self.backlog) {
                queue.taken += u64::from(!is_activity);
                queue.activities_taken += u64::from(is_activity);
                queue.running += 1;
                of.set(module);
                drop(queue);
                // What has gone wrong is in the log already; the thread and the lane have to go on.
                let _ = catch_unwind(AssertUnwindSafe(work));
                queue = self.lock();
                queue.running -= 1;
                queue.activities_begun -= usize::from(is_activity);
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
        self.waiting() == 0
    }

    /// How many jobs wait for a thread. Activities that have to wait for others of them do not: whoever ends one of those takes the next.
    fn waiting(&self) -> usize {
        let activities = if self.may_begin_activity() { self.activities.len() } else { 0 };
        self.others.len() + activities + self.turns.len() + self.beginnings_count
    }

    fn may_begin_activity(&self) -> bool {
        !self.activities.is_empty() && self.activities_begun < self.activities_max
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

    /// Whether there is a job that may be run now, activities aside.
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
        if self.may_begin_activity()
            && let Some(job) = self.activities.pop_front()
        {
            self.activities_begun += 1;
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
            Some(work) => self.turns.push_back(Job { module, lane: Some(lane), is_activity: false, work }),
            None => {
                self.lanes.remove(&lane);
            }
        }
    }
}

fn add_thread(state: &Arc<PoolState>, queue: &mut Queue) {
    let pool = state.clone();
    let run = move || {
        IS_OF_A_POOL.set(true);
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
mod tests;
