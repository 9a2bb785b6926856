//! Who does the work that the queue gives out? The thread on which it begins, as far as it gets there; then, if it has to wait, a task of an
//! asynchronous runtime. What waits in line is no task.
//!
//! What goes wrong on our side is nobody's answer: such work is tried again until there is one, and nobody waits in line behind
//! that. Used by `activities.rs`; knows nothing of what the work is.

use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::backlog::{Backlog, LINE_MAX, Share};
use super::queue::{Lane, Queue};
use super::why::Work as Stage;
use crate::limits::WorkLimits;
use crate::metrics::{ActivityInHand, Held, Metrics};
use crate::model::{Digest, ExecutionKey, HubKey, InstanceId, LogLine, Outcome, TaskId};

/// How long to wait before work is tried again that could not be done for a reason on our side.
const RETRY: Duration = Duration::from_secs(1);

/// However few executions stand in line, so many activities make it as long as one more does. They take turns, so that those who come keep
/// their pace; but 32,768 activities are seconds of work.
const ACTIVITIES_EACH: usize = 32;

/// What a piece of work takes in memory beside its input, in bytes, about.
const WORK_BYTES: usize = 1_024;

/// Which task of which execution asked for the work.
pub(super) type Key = (ExecutionKey, TaskId);

/// What came of it.
pub(super) struct Done {
    pub outcome: Outcome,
    /// The module that ran, if one did.
    pub ran: Option<Digest>,
    /// What it said.
    pub lines: Vec<LogLine>,
}

/// Work that was asked for.
pub(super) struct Work {
    key: Key,
    instance: InstanceId,
    lane: Lane,
    /// What it is done with, in bytes.
    bytes: usize,
    run: Box<dyn FnMut() -> Run + Send>,
    done: Box<dyn FnOnce(Done) + Send>,
}

/// The beginning of a run.
type Beginning = Box<dyn FnOnce() + Send>;

/// One run: what came of it, or why nothing did through our own fault. Dropping it stops the work.
type Run = Pin<Box<dyn Future<Output = Result<Done, String>> + Send>>;

impl Work {
    /// Work for this task of `instance`, on `bytes` of input. `run` does it once, and is asked again if it could not be done; `done` takes
    /// what came of it.
    pub(super) fn new<R: Future<Output = Result<Done, String>> + Send + 'static>(
        key: Key,
        instance: InstanceId,
        lane: Lane,
        bytes: usize,
        mut run: impl FnMut() -> R + Send + 'static,
        done: impl FnOnce(Done) + Send + 'static,
    ) -> Self {
        Self { key, instance, lane, bytes, run: Box::new(move || Box::pin(run())), done: Box::new(done) }
    }
}

/// Does the work of a server.
#[derive(Clone)]
pub(super) struct Crew {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Handle,
    /// Has something done on a thread where work may begin, soon.
    begin: Box<dyn Fn(Beginning) + Send + Sync>,
    metrics: Arc<Metrics>,
    backlog: Arc<Backlog>,
    /// How much runs, rests, or has its answer taken to where it belongs.
    busy: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    queue: Queue<Job>,
    in_hand: HashMap<Key, InHand>,
    /// How many pieces of work have been taken.
    taken: u64,
    /// Somebody takes work out of the queue just now, and goes on until nothing is left that may run.
    is_taking: bool,
}

/// Where a piece of work is that has no answer yet.
enum InHand {
    Waits(Lane),
    /// It runs, or rests before it is tried again.
    Runs {
        /// Tells it from others for the same task.
        number: u64,
        /// Dropping it stops the work.
        _stop: oneshot::Sender<()>,
    },
}

struct Job {
    work: Work,
    counted: ActivityInHand,
    waits: Option<(Held, Share)>,
}

impl Crew {
    /// At most `running_max` at once. Each begins where `begin` takes it, and goes on with `runtime`. What waits is a part of `backlog`, and when that
    /// stops, nothing more begins.
    pub(super) fn new(
        runtime: Handle,
        begin: impl Fn(Beginning) + Send + Sync + 'static,
        running_max: u32,
        metrics: Arc<Metrics>,
        backlog: Arc<Backlog>,
    ) -> Self {
        let queue = Queue::new(running_max as usize);
        let state = Mutex::new(State { queue, in_hand: HashMap::new(), taken: 0, is_taking: false });
        let (begin, busy) = (Box::new(begin), AtomicUsize::new(0));
        Self { shared: Arc::new(Shared { runtime, begin, metrics, backlog, busy, state }) }
    }

    /// Bounds the work of `hub`, before there is any.
    pub(super) fn set_limits(&self, hub: HubKey, limits: WorkLimits) {
        self.shared.lock().queue.set_limits(hub, limits);
    }

    /// Has `work` done when it is its turn, unless it is cancelled before. Work for a task that has some in hand already is
    /// dropped: it is the same.
    pub(super) fn give(&self, work: Work) {
        let mut state = self.shared.lock();
        if state.in_hand.contains_key(&work.key) {
            drop(state);
            return;
        }
        let waits = Some(self.shared.waits(&work));
        state.line_up(Job { work, counted: self.shared.metrics.activity(), waits });
        drop(state);
        self.shared.start();
    }

    /// How far the work for a task is, if it is in hand.
    pub(super) fn work(&self, key: Key) -> Option<Stage> {
        let state = self.shared.lock();
        Some(match state.in_hand.get(&key)? {
            InHand::Waits(lane) => Stage::Queued(state.queue.bound(lane)),
            InHand::Runs { .. } => Stage::Running,
        })
    }

    /// How much runs, or rests before it is tried again.
    pub(super) fn busy(&self) -> usize {
        self.shared.busy.load(Ordering::Acquire)
    }

    /// Tells work to stop: what waits goes at once, what runs stops where it next waits, or within a tick of the epoch. No
    /// answer comes of it any more.
    pub(super) fn cancel(&self, key: Key) {
        let mut state = self.shared.lock();
        let dropped = match state.in_hand.remove(&key) {
            Some(InHand::Waits(lane)) => (state.queue.remove(&lane, key.0, key.1), None),
            Some(runs @ InHand::Runs { .. }) => (None, Some(runs)),
            None => (None, None),
        };
        drop(state); // The job may be the last that holds something large.
        drop(dropped);
    }
}

impl State {
    fn line_up(&mut self, job: Job) {
        let (lane, (execution, task)) = (job.work.lane.clone(), job.work.key);
        self.queue.push(&lane, execution, task, job);
        self.in_hand.insert((execution, task), InHand::Waits(lane));
    }

    /// Whether this piece of work is still wanted.
    fn is_wanted(&self, key: Key, number: u64) -> bool {
        matches!(self.in_hand.get(&key), Some(InHand::Runs { number: of, .. }) if *of == number)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A queue that has panicked has lost track of what runs: activities would wait for ever, and all is well after a restart.
        self.state.lock().unwrap_or_else(|poisoned| {
            tracing::error!("the queue of activities broke one of its own rules; the server stops");
            drop(poisoned);
            std::process::abort();
        })
    }

    /// To be held while `work` waits.
    fn waits(&self, work: &Work) -> (Held, Share) {
        (self.metrics.activity_waits(), self.backlog.holding(WORK_BYTES + work.bytes))
    }

    /// Starts all that may run now.
    fn start(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.is_taking {
            return; // Whoever does so looks again before it stops.
        }
        state.is_taking = true;
        while !self.backlog.is_stopping()
            && let Some((_, mut job)) = state.queue.take()
        {
            let number = state.taken;
            state.taken += 1;
            let (stop, stopped) = oneshot::channel();
            state.in_hand.insert(job.work.key, InHand::Runs { number, _stop: stop });
            let place = Place { shared: self.clone(), lane: job.work.lane.clone() };
            let busy = Busy::of(self.clone());
            // Without the lock: a server that is being shut down drops it right here, and its place with it.
            drop(state);
            job.waits = None;
            let (shared, run) = (self.clone(), self.clone().run(job, number, (place, busy), stopped));
            (self.begin)(Box::new(move || shared.begin_run(Box::pin(run))));
            state = self.lock();
        }
        state.is_taking = false;
        self.backlog.line(state.queue.line(LINE_MAX, ACTIVITIES_EACH), state.taken);
    }

    /// Does what can be done at once. If there is more, a task of the runtime goes on with it, and is told when to.
    fn begin_run(&self, mut run: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let _for_timers = self.runtime.enter();
        if run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.runtime.spawn(run);
        }
    }

    /// Tries a job, unless it is stopped.
    async fn run(self: Arc<Self>, mut job: Job, number: u64, (place, _busy): (Place, Busy), stopped: oneshot::Receiver<()>) {
        let Work { key, instance, run, .. } = &mut job.work;
        let key = *key;
        let work = async {
            let runs = self.metrics.activity_runs();
            let result = caught(async { run().await }).await;
            drop((runs, place));
            if let Err(message) = &result {
                let task = key.1;
                tracing::error!(%instance, %task, "an activity could not be run, and is tried again in a second: {message}");
                tokio::time::sleep(RETRY).await;
            }
            result
        };
        let result = tokio::select! {
            biased;
            _ = stopped => return,
            result = work => result,
        };
        let mut state = self.lock();
        if !state.is_wanted(key, number) {
            return;
        }
        match result {
            Ok(done) => {
                state.in_hand.remove(&key);
                drop(state);
                match done.outcome {
                    Outcome::Completed(_) => job.counted.completed(),
                    Outcome::Failed(_) | Outcome::Fired => job.counted.failed(),
                }
                (job.work.done)(done);
            }
            Err(_) => {
                job.waits = Some(self.waits(&job.work));
                state.line_up(job);
                drop(state);
                self.start();
            }
        }
    }
}

/// The place of something that runs. Dropped, it goes to what is next.
struct Place {
    shared: Arc<Shared>,
    lane: Lane,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().queue.done(&self.lane);
        self.shared.start();
    }
}

/// Something is busy for as long as this lives.
struct Busy(Arc<Shared>);

impl Busy {
    fn of(shared: Arc<Shared>) -> Self {
        shared.busy.fetch_add(1, Ordering::AcqRel);
        Self(shared)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A panic of ours must not leave the instance waiting for this answer for ever.
async fn caught(work: impl Future<Output = Result<Done, String>>) -> Result<Done, String> {
    let mut work = pin!(work);
    let poll = |cx: &mut Context<'_>| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(_) => Poll::Ready(Err("the host panicked".into())),
    };
    poll_fn(poll).await
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    use tokio::runtime::Runtime;
    use tokio::sync::Notify;

    use super::*;
    use crate::metrics::Sample;
    use crate::model::Payload;

    /// How long a test waits for what should happen at once.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A crew for as many as `running_max` at once, and what came of its work.
    struct World {
        runtime: Option<Runtime>,
        crew: Crew,
        metrics: Arc<Metrics>,
        backlog: Arc<Backlog>,
        seen: Arc<(Mutex<Seen>, Condvar)>,
        /// Work that runs waits for a permit of it.
        gate: Arc<tokio::sync::Semaphore>,
    }

    #[derive(Default)]
    struct Seen {
        began: Vec<Key>,
        ended: Vec<(Key, Outcome)>,
    }

    impl World {
        fn new(running_max: u32) -> Self {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
            let metrics = Arc::<Metrics>::default();
            let backlog = Backlog::new(usize::MAX);
            let handle = runtime.handle().clone();
            let begin = move |begin: Beginning| drop(handle.spawn(async move { begin() }));
            let crew = Crew::new(runtime.handle().clone(), begin, running_max, metrics.clone(), backlog.clone());
            let gate = Arc::new(tokio::sync::Semaphore::new(0));
            Self { runtime: Some(runtime), crew, metrics, backlog, seen: Arc::default(), gate }
        }

        /// Gives work that ends as soon as the gate lets it through.
        fn give(&self, key: Key) {
            let gate = self.gate.clone();
            self.give_work(key, move || {
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok(completed())
                }
            });
        }

        fn give_work<R>(&self, key: Key, mut run: impl FnMut() -> R + Send + 'static)
        where
            R: Future<Output = Result<Done, String>> + Send + 'static,
        {
            let (began, ended) = (self.seen.clone(), self.seen.clone());
            let run = move || {
                note(&began, |seen| seen.began.push(key));
                run()
            };
            let done = move |done: Done| note(&ended, |seen| seen.ended.push((key, done.outcome)));
            let lane = Lane::new(HubKey(1), "Mix");
            self.crew.give(Work::new(key, "loaf-17".parse().unwrap(), lane, 6, run, done));
        }

        /// Waits until `condition` holds of what was seen.
        fn until<T>(&self, what: &str, condition: impl Fn(&Seen) -> Option<T>) -> T {
            let (seen, changed) = &*self.seen;
            let deadline = Instant::now() + PATIENCE;
            let mut seen = seen.lock().unwrap();
            loop {
                if let Some(result) = condition(&seen) {
                    return result;
                }
                let left = deadline.checked_duration_since(Instant::now()).unwrap_or_else(|| panic!("not in time: {what}"));
                seen = changed.wait_timeout(seen, left).unwrap().0;
            }
        }

        fn until_began(&self, count: usize) -> Vec<Key> {
            self.until("so much has begun", |seen| (seen.began.len() >= count).then(|| seen.began.clone()))
        }

        fn until_ended(&self, count: usize) -> Vec<(Key, Outcome)> {
            self.until("so much has ended", |seen| (seen.ended.len() >= count).then(|| seen.ended.clone()))
        }

        /// Waits for a line of the metrics.
        fn until_measured(&self, line: &str) {
            let deadline = Instant::now() + PATIENCE;
            while !self.metrics.text(&Sample::default()).lines().any(|it| it == line) {
                assert!(Instant::now() < deadline, "no {line}");
                std::thread::yield_now();
            }
        }
    }

    fn note(seen: &(Mutex<Seen>, Condvar), change: impl FnOnce(&mut Seen)) {
        change(&mut seen.0.lock().unwrap());
        seen.1.notify_all();
    }

    fn completed() -> Done {
        Done { outcome: Outcome::Completed(Payload::null()), ran: None, lines: Vec::new() }
    }

    fn key(execution: i64, task: u32) -> Key {
        (ExecutionKey(execution), TaskId(task))
    }

    /// Says so when it is dropped.
    struct Dropped(Arc<Notify>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }

    #[test]
    fn ten_thousand_that_wait_are_no_tasks_and_keep_another_instance_waiting_for_one_of_them() {
        let world = World::new(4);
        for task in 0..10_000 {
            world.give(key(1, task));
        }
        world.give(key(2, 0));
        assert_eq!(world.until_began(4).len(), 4);
        world.until_measured("dacapo_activities_waiting 9997");
        world.until_measured("dacapo_activities_running 4");
        assert!(world.runtime.as_ref().unwrap().metrics().num_alive_tasks() <= 4);
        world.gate.add_permits(2);
        let began = world.until_began(6);
        assert!(began[..6].contains(&key(2, 0)), "{began:?}");

        world.gate.add_permits(10_000);
        assert_eq!(world.until_ended(10_001).len(), 10_001);
        world.until_measured("dacapo_activities_waiting 0");
        world.until_measured("dacapo_activities_running 0");
        world.until_measured("dacapo_activities_finished_total{outcome=\"completed\"} 10001");
        let state = world.crew.shared.lock();
        assert!(state.in_hand.is_empty());
    }

    #[test]
    fn what_waits_is_a_part_of_the_backlog_until_it_runs_or_is_cancelled() {
        let world = World::new(1);
        (0..4).for_each(|task| world.give(key(1, task)));
        world.until_began(1);
        assert_eq!(world.backlog.bytes(), 3 * (WORK_BYTES + 6));
        world.crew.cancel(key(1, 3));
        assert_eq!(world.backlog.bytes(), 2 * (WORK_BYTES + 6));
        world.gate.add_permits(3);
        world.until_ended(3);
        assert_eq!(world.backlog.bytes(), 0);
    }

    #[test]
    fn when_the_server_stops_what_runs_comes_to_its_end_and_nothing_begins() {
        let world = World::new(1);
        (0..3).for_each(|task| world.give(key(1, task)));
        world.until_began(1);
        world.backlog.stop();
        world.gate.add_permits(3);
        assert_eq!(world.until_ended(1).len(), 1);
        let deadline = Instant::now() + PATIENCE;
        while world.crew.busy() > 0 {
            assert!(Instant::now() < deadline, "something is busy still");
            std::thread::yield_now();
        }
        assert_eq!((world.until_began(1).len(), world.until_ended(1).len()), (1, 1));
    }

    #[test]
    fn what_is_cancelled_while_it_waits_never_begins() {
        let world = World::new(1);
        (0..3).for_each(|task| world.give(key(1, task)));
        world.until_began(1);
        world.crew.cancel(key(1, 1));
        world.gate.add_permits(2);
        let ended: Vec<Key> = world.until_ended(2).into_iter().map(|(key, _)| key).collect();
        assert_eq!(ended, [key(1, 0), key(1, 2)]);
        assert_eq!(world.until_began(2), [key(1, 0), key(1, 2)]);
        world.until_measured("dacapo_activities_finished_total{outcome=\"cancelled\"} 1");
    }

    #[test]
    fn what_is_cancelled_while_it_runs_stops_and_leaves_its_place() {
        let world = World::new(1);
        let dropped = Arc::new(Notify::new());
        let told = dropped.clone();
        world.give_work(key(1, 0), move || {
            let guest = Dropped(told.clone());
            async move {
                std::future::pending::<()>().await;
                drop(guest);
                Ok(completed())
            }
        });
        world.give(key(1, 1));
        world.until_began(1);
        world.crew.cancel(key(1, 0));
        world.runtime.as_ref().unwrap().block_on(async { tokio::time::timeout(PATIENCE, dropped.notified()).await.unwrap() });
        world.gate.add_permits(1);
        assert_eq!(world.until_ended(1)[0].0, key(1, 1));
        world.until_measured("dacapo_activities_finished_total{outcome=\"cancelled\"} 1");
        world.until_measured("dacapo_activities_running 0");
    }

    #[test]
    fn what_our_side_cannot_do_is_tried_again_and_keeps_no_place_meanwhile() {
        let world = World::new(1);
        let (tries, gate) = (AtomicU32::new(0), world.gate.clone());
        world.give_work(key(1, 0), move || {
            let (tried, gate) = (tries.fetch_add(1, Ordering::Relaxed), gate.clone());
            async move {
                match tried {
                    0 => Err("no memory mappings left".into()),
                    1 => panic!("a mistake of ours"),
                    _ => {
                        gate.acquire().await.unwrap().forget();
                        Ok(completed())
                    }
                }
            }
        });
        world.give(key(1, 1));
        // The other one runs while the first rests.
        assert_eq!(world.until_began(2), [key(1, 0), key(1, 1)]);
        world.gate.add_permits(2);
        let ended = world.until_ended(2);
        assert_eq!((ended[0].0, ended[1].0), (key(1, 1), key(1, 0)));
        assert_eq!(world.until_began(4)[2..], [key(1, 0), key(1, 0)]);
        world.until_measured("dacapo_activities_finished_total{outcome=\"completed\"} 2");
    }

    #[test]
    fn what_is_cancelled_while_it_rests_is_not_tried_again() {
        let world = World::new(1);
        let told = Arc::new(Notify::new());
        let dropped = Dropped(told.clone());
        world.give_work(key(1, 0), move || {
            let _ = &dropped;
            async { Err("no memory mappings left".into()) }
        });
        world.until_began(1);
        world.until_measured("dacapo_activities_running 0");
        world.crew.cancel(key(1, 0));
        world.runtime.as_ref().unwrap().block_on(async { tokio::time::timeout(PATIENCE, told.notified()).await.unwrap() });
        assert_eq!(world.until_began(1).len(), 1);
        world.until_measured("dacapo_activities_finished_total{outcome=\"cancelled\"} 1");
    }

    #[test]
    fn a_task_whose_work_is_in_hand_is_not_worked_on_twice_and_one_that_was_cancelled_may_come_again() {
        let world = World::new(2);
        world.give(key(1, 0));
        world.give(key(1, 0));
        world.until_began(1);
        world.crew.cancel(key(1, 0));
        world.give(key(1, 0));
        world.until_began(2);
        world.gate.add_permits(1);
        assert_eq!(world.until_ended(1).len(), 1);
        world.until_measured("dacapo_activities_finished_total{outcome=\"completed\"} 1");
        world.until_measured("dacapo_activities_finished_total{outcome=\"cancelled\"} 1");
        assert_eq!(world.until_began(2).len(), 2);
    }

    #[test]
    fn a_runtime_that_goes_takes_along_what_runs_and_what_waits() {
        let mut world = World::new(2);
        let held = Arc::new(());
        for task in 0..50_000 {
            let (held, gate) = (held.clone(), world.gate.clone());
            world.give_work(key(1, task), move || {
                let (held, gate) = (held.clone(), gate.clone());
                async move {
                    gate.acquire().await.unwrap().forget();
                    drop(held);
                    Ok(completed())
                }
            });
        }
        world.until_began(2);
        world.runtime.take().unwrap().shutdown_timeout(PATIENCE);
        assert_eq!(Arc::strong_count(&held), 1);
        assert_eq!(world.until_ended(0), []);
        world.give(key(2, 0));
        world.until_measured("dacapo_activities_waiting 0");
    }
}
