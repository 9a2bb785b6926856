//! What is one run of an activity? A call of the module that has it, with a time limit and what an earlier run said of its
//! progress.
//!
//! When it runs, `queue.rs` decides, and `crew.rs` does it. HTTP requests of orchestrations stand in the same line. Called by
//! the shell; calls the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

pub(super) use super::crew::Done;
use super::crew::{Crew, Key, Work};
use super::heartbeats::Heartbeats;
use super::module;
use super::orders::{ActivityOrder, HttpOrder};
use super::queue::Lane;
use crate::host::{Heartbeat, Host, Invocation, Module, NoGuest, SharedLines, Surroundings};
use crate::limits::{Limits, WorkLimits};
use crate::model::{ActivityCall, Digest, Failure, HttpCall, HubKey, Outcome, Payload};
use crate::store::{Store, StoreError};

/// What bounds on functions call an HTTP request of an orchestration: the name that it has in Durable Functions.
const HTTP_FUNCTION: &str = "BuiltIn::HttpActivity";

/// How long to wait for a slot that a stopped guest has not given back yet.
const SLOT_WAIT: Duration = Duration::from_millis(1);

/// The activities and HTTP requests that run or wait in line.
pub(super) struct Activities {
    crew: Crew,
    heartbeats: Heartbeats,
}

/// What an activity needs of the server and its hub.
pub(super) struct ActivityContext {
    /// Whose bounds hold.
    pub hub: HubKey,
    pub host: Arc<Host>,
    pub store: Arc<dyn Store>,
    pub limits: Arc<Limits>,
    /// Says which module has the activity now, if one has.
    pub current: Box<dyn Fn() -> Option<Digest> + Send + Sync>,
    /// What the hub gives it.
    pub surroundings: Arc<Surroundings>,
}

impl Activities {
    /// They are done by `crew`; what they say of their progress is kept in `store`, by tasks of `runtime`.
    pub(super) fn new(crew: Crew, runtime: Handle, store: Arc<dyn Store>) -> Self {
        Self { crew, heartbeats: Heartbeats::new(runtime, store) }
    }

    /// Bounds the work of `hub`; to be called before it has any.
    pub(super) fn add_hub(&self, hub: HubKey, limits: WorkLimits) {
        self.crew.set_limits(hub, limits);
    }

    /// Runs one activity to its end when it is its turn, on the module that has it then, or else on the execution's own, and
    /// hands what came of it to `done`, unless it is cancelled before.
    pub(super) fn run_activity(&self, context: ActivityContext, order: ActivityOrder, done: impl FnOnce(Done) + Send + 'static) {
        let (key, instance) = ((order.execution, order.task), order.instance.clone());
        let lane = Lane::new(context.hub, &order.call.name);
        let bytes = order.call.input.text().len();
        let may_have_run = AtomicBool::new(order.recovered || order.call.attempt > 1);
        let call = Arc::new(Call { context, order, heartbeats: self.heartbeats.clone(), may_have_run });
        let run = move || {
            let call = call.clone();
            async move { call.run().await }
        };
        self.crew.give(Work::new(key, instance, lane, bytes, run, done));
    }

    /// Makes one HTTP request when it is its turn, as `request` does it, and hands what came of it to `done`, unless it is
    /// cancelled before.
    pub(super) fn run_request<R: Future<Output = Outcome> + Send + 'static>(
        &self,
        hub: HubKey,
        order: HttpOrder,
        request: impl Fn(HttpCall) -> R + Send + 'static,
        done: impl FnOnce(Done) + Send + 'static,
    ) {
        let HttpOrder { execution, task, instance, call } = order;
        let bytes = call.uri.len() + call.body.as_ref().map_or(0, String::len);
        let run = move || {
            let answer = request(call.clone());
            async move { Ok(Done { outcome: answer.await, ran: None, lines: Vec::new() }) }
        };
        self.crew.give(Work::new((execution, task), instance, Lane::new(hub, HTTP_FUNCTION), bytes, run, done));
    }

    /// Tells an activity or a request to stop, wherever it is: see [`Crew::cancel`].
    pub(super) fn cancel(&self, key: Key) {
        self.crew.cancel(key);
    }

    /// How many run, or rest before they are tried again.
    pub(super) fn busy(&self) -> usize {
        self.crew.busy()
    }

    /// How far the work for a task is, if it is in hand.
    pub(super) fn work(&self, key: Key) -> Option<super::why::Work> {
        self.crew.work(key)
    }

    /// What an activity, by the task of its first attempt, said last of its progress. Blocks.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) fn progress(&self, key: Key) -> Result<Option<Payload>, StoreError> {
        self.heartbeats.known(key)
    }

    /// Saves what activities have said of their progress, when nothing runs any more. Blocks.
    pub(super) fn close(&self) {
        self.heartbeats.close();
    }
}

/// An activity that was asked for.
struct Call {
    context: ActivityContext,
    order: ActivityOrder,
    heartbeats: Heartbeats,
    /// So that there may be progress to go on from.
    may_have_run: AtomicBool,
}

impl Call {
    /// Runs it once.
    ///
    /// # Errors
    /// If it could not be run for a reason on our side.
    async fn run(&self) -> Result<Done, String> {
        let ActivityContext { host, store, limits, current, surroundings, .. } = &self.context;
        let ActivityOrder { execution, task, instance, generation, .. } = &self.order;
        let ActivityCall { name, input, attempt, first_attempt, timeout_ms } = &self.order.call;
        let digest = current().unwrap_or(self.order.module);
        let module = match host.ready_module(digest) {
            Some(module) => module,
            // Mapping compiled code, or compiling it, takes long: not on a thread that others wait for.
            None => {
                let (host, store) = (host.clone(), store.clone());
                let found = tokio::task::spawn_blocking(move || module(&host, store.as_ref(), digest)).await;
                found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?
            }
        };
        if module.catalog().activity(name).is_none() {
            return Ok(failed(Failure::new("UnknownActivity", module.catalog().no_activity(name)).non_retriable()));
        }
        let kept_for = (*execution, first_attempt.unwrap_or(*task));
        let progress = match self.may_have_run.load(Ordering::Relaxed) {
            true => self.heartbeats.last(kept_for).await?,
            false => None,
        };
        let heartbeats = self.heartbeats.clone();
        let invocation = Invocation {
            function: name.clone(),
            input: input.clone(),
            instance: instance.clone(),
            generation: *generation,
            task: *task,
            attempt: *attempt,
            first_attempt: *first_attempt,
            progress,
            heartbeat: Heartbeat::new(move |progress| heartbeats.report(kept_for, progress)),
            lines: SharedLines::new(surroundings),
        };
        self.may_have_run.store(true, Ordering::Relaxed);
        let (limit_ms, whose) = limits.activity_ms(*timeout_ms);
        let run = invoke(&module, &invocation, limits, surroundings);
        let outcome = match tokio::time::timeout(Duration::from_millis(limit_ms), run).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(NoGuest::Guest(fault))) => Outcome::Failed(fault.failure().clone()),
            Ok(Err(NoGuest::Host(message))) => return Err(message),
            Ok(Err(NoGuest::NoSlot)) => unreachable!("`invoke` waits for a slot"),
            Err(_) => Outcome::Failed(timed_out(name, limit_ms, whose)),
        };
        if let Outcome::Completed(_) = outcome {
            self.heartbeats.forget(kept_for);
        }
        Ok(Done { outcome, ran: Some(digest), lines: invocation.lines.take() })
    }
}

/// Waits for a slot if there is none. Never [`NoGuest::NoSlot`].
async fn invoke(
    module: &Module,
    invocation: &Invocation,
    limits: &Limits,
    surroundings: &Arc<Surroundings>,
) -> Result<Outcome, NoGuest> {
    loop {
        match module.invoke(invocation, limits, surroundings).await {
            Err(NoGuest::NoSlot) => tokio::time::sleep(SLOT_WAIT).await,
            done => return done,
        }
    }
}

/// It took too long, by the bound of its call or by the server's. Trying again may help.
fn timed_out(name: &str, limit_ms: u64, whose: &str) -> Failure {
    Failure::new("Timeout", format!("activity {name:?} took longer than {limit_ms} ms ({whose}), and was stopped"))
}

fn failed(failure: Failure) -> Done {
    Done { outcome: Outcome::Failed(failure), ran: None, lines: Vec::new() }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::engine::backlog::Backlog;
    use crate::model::{ExecutionKey, TaskId};
    use crate::store::memory::MemoryStore;

    #[test]
    fn a_timeout_says_whose_bound_it_was_and_may_be_tried_again() {
        let limits = Limits { activity_ms_default: 600, activity_ms_max: 9_000, ..Limits::default() };
        let check = |limits: &Limits, timeout_ms, expected: &str| {
            let (limit_ms, whose) = limits.activity_ms(timeout_ms);
            let failure = timed_out("Bake", limit_ms, whose);
            let expected = format!("activity \"Bake\" took longer than {expected}, and was stopped");
            assert_eq!((failure.kind, failure.message, failure.non_retriable), ("Timeout".to_owned(), expected, false));
        };
        let servers = "section [limits] of the server's configuration";
        check(&limits, Some(50), "50 ms (the timeout of its call)");
        check(&limits, Some(8_999), "8999 ms (the timeout of its call)");
        check(&limits, None, &format!("600 ms (limit activity_ms_default, {servers})"));
        check(&limits, Some(9_000), &format!("9000 ms (limit activity_ms_max, {servers})"));
        check(&limits, Some(90_000), &format!("9000 ms (limit activity_ms_max, {servers})"));
        let lower = Limits { activity_ms_max: 500, ..limits };
        check(&lower, None, &format!("500 ms (limit activity_ms_max, {servers})"));
    }

    #[test]
    fn requests_stand_in_line_within_the_bound_on_their_function() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let handle = runtime.handle();
        let crew = Crew::new(handle.clone(), |begin| begin(), 8, Arc::default(), Backlog::new(usize::MAX));
        let activities = Activities::new(crew, handle.clone(), Arc::new(MemoryStore::new()));
        let limits = toml::from_str("functions.\"BuiltIn::HttpActivity\".running_max = 1").unwrap();
        activities.add_hub(HubKey(1), limits);
        let (began, begins) = mpsc::channel();
        let (ended, ends) = mpsc::channel();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        for task in 0..2 {
            let call = HttpCall {
                method: "GET".into(),
                uri: format!("https://oven.example/{task}"),
                headers: Vec::new(),
                body: None,
                timeout_ms: None,
            };
            let order = HttpOrder { execution: ExecutionKey(1), task: TaskId(task), instance: "loaf-17".parse().unwrap(), call };
            let (began, ended, gate) = (began.clone(), ended.clone(), gate.clone());
            let request = move |call: HttpCall| {
                began.send(call.uri).unwrap();
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    Outcome::Completed(Payload::of(&200))
                }
            };
            activities.run_request(HubKey(1), order, request, move |done| ended.send((task, done.outcome)).unwrap());
        }
        let patience = Duration::from_secs(20);
        assert_eq!(begins.recv_timeout(patience).unwrap(), "https://oven.example/0");
        assert!(begins.try_recv().is_err(), "the other one waits");
        gate.add_permits(1);
        assert_eq!(ends.recv_timeout(patience).unwrap(), (0, Outcome::Completed(Payload::of(&200))));
        assert_eq!(begins.recv_timeout(patience).unwrap(), "https://oven.example/1");
        gate.add_permits(1);
        assert_eq!(ends.recv_timeout(patience).unwrap().0, 1);
    }
}
