//! Who runs activities? An asynchronous runtime of its own, bounded in number; the others wait in line.

use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::module;
use super::partition::ActivityOrder;
use crate::host::{Heartbeat, Host, Invocation, Module, NoGuest, Surroundings};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::model::{ActivityCall, Digest, ExecutionKey, Failure, LogLine, Outcome, TaskId};
use crate::store::Store;

/// How long to wait for a slot that a stopped guest has not given back yet.
const SLOT_WAIT: Duration = Duration::from_millis(1);

/// The activities that run or wait in line, and the timers.
pub(super) struct Activities {
    runtime: Handle,
    permits: Arc<Semaphore>,
    running: Arc<Running>,
}

type Running = Mutex<HashMap<(ExecutionKey, TaskId), AbortHandle>>;

/// What came of an activity.
pub(super) struct Done {
    pub outcome: Outcome,
    /// The module that ran, if one did.
    pub ran: Option<Digest>,
    /// What it said.
    pub lines: Vec<LogLine>,
}

impl Activities {
    /// At most `running_max` at once, on `runtime`.
    pub(super) fn new(runtime: Handle, running_max: u32) -> Self {
        Self { runtime, permits: Arc::new(Semaphore::new(running_max as usize)), running: Arc::default() }
    }

    /// Runs `work`, and hands what came of it to `done`, unless it is cancelled before.
    pub(super) fn dispatch(
        &self,
        key: (ExecutionKey, TaskId),
        work: impl Future<Output = Done> + Send + 'static,
        done: impl FnOnce(Done) + Send + 'static,
    ) {
        let running = self.running.clone();
        // Under the lock, so that the task cannot take itself off the list before it is on it.
        let mut list = lock(&self.running);
        let task = self.runtime.spawn(async move {
            let result = work.await;
            lock(&running).remove(&key);
            done(result);
        });
        list.insert(key, task.abort_handle());
    }

    /// Runs one activity to its end when it is its turn, on the module that has it then, or else on the execution's own.
    ///
    /// What goes wrong on our side is nobody's answer: it is tried again until it works, and nobody waits in line behind that.
    pub(super) fn run(&self, context: ActivityContext, order: ActivityOrder) -> impl Future<Output = Done> + Send + 'static {
        let permits = self.permits.clone();
        async move {
            let in_hand = context.metrics.activity();
            loop {
                let waits = context.metrics.activity_waits();
                let permit = permits.acquire().await;
                drop(waits);
                let runs = context.metrics.activity_runs();
                // A panic of ours must not leave the instance waiting for this answer for ever.
                let mut attempt = pin!(attempt(&context, &order));
                let result = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| attempt.as_mut().poll(cx))) {
                    Ok(poll) => poll,
                    Err(_) => Poll::Ready(Err("the host panicked".into())),
                });
                let result = result.await;
                drop((permit, runs));
                match result {
                    Ok(done) => {
                        let is_completed = matches!(done.outcome, Outcome::Completed(_));
                        if is_completed {
                            in_hand.completed()
                        } else {
                            in_hand.failed()
                        }
                        return done;
                    }
                    Err(message) => {
                        let (instance, task) = (&order.instance, order.task);
                        tracing::error!(%instance, %task, "an activity could not be run, and is tried again in a second: {message}");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        }
    }

    /// Tells an activity to stop: it does so where it next waits, or within a tick of the epoch.
    pub(super) fn cancel(&self, key: (ExecutionKey, TaskId)) {
        let task = lock(&self.running).remove(&key);
        if let Some(task) = task {
            task.abort();
        }
    }
}

fn lock(running: &Running) -> MutexGuard<'_, HashMap<(ExecutionKey, TaskId), AbortHandle>> {
    // Nothing panics while it holds the lock.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long to wait before an activity is tried again that could not be run for a reason on our side.
const RETRY: Duration = Duration::from_secs(1);

/// What an activity needs of the server.
pub(super) struct ActivityContext {
    pub host: Arc<Host>,
    pub store: Arc<dyn Store>,
    pub limits: Arc<Limits>,
    pub surroundings: Arc<Surroundings>,
    pub metrics: Arc<Metrics>,
    /// Says which module has the activity now, if one has.
    pub current: Box<dyn Fn() -> Option<Digest> + Send + Sync>,
}

async fn attempt(context: &ActivityContext, order: &ActivityOrder) -> Result<Done, String> {
    let ActivityContext { host, store, limits, surroundings, current, .. } = context;
    let ActivityCall { name, input, attempt, first_attempt, timeout_ms } = &order.call;
    let digest = current().unwrap_or(order.module);
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
    let invocation = Invocation {
        function: name.clone(),
        input: input.clone(),
        instance: order.instance.clone(),
        generation: order.generation,
        task: order.task,
        attempt: *attempt,
        first_attempt: *first_attempt,
        progress: None,
        heartbeat: Heartbeat::default(),
    };
    let limit_ms = timeout_ms.unwrap_or(limits.activity_ms_max).min(limits.activity_ms_max);
    match tokio::time::timeout(Duration::from_millis(limit_ms), invoke(&module, &invocation, limits, surroundings)).await {
        Ok(Ok((outcome, lines))) => Ok(Done { outcome, ran: Some(digest), lines }),
        Ok(Err(NoGuest::Guest(fault))) => Ok(Done { ran: Some(digest), ..failed(fault.failure().clone()) }),
        Ok(Err(NoGuest::Host(message))) => Err(message),
        Ok(Err(NoGuest::NoSlot)) => unreachable!("`invoke` waits for a slot"),
        Err(_) => {
            let whose = if limit_ms == limits.activity_ms_max {
                " (limit activity_ms_max, section [limits] of the server's configuration)"
            } else {
                ""
            };
            let message = format!("activity {name:?} took longer than {limit_ms} ms{whose}, and was stopped");
            Ok(failed(Failure::new("Timeout", message)))
        }
    }
}

/// Waits for a slot if there is none. Never [`NoGuest::NoSlot`].
async fn invoke(
    module: &Module,
    invocation: &Invocation,
    limits: &Limits,
    surroundings: &Arc<Surroundings>,
) -> Result<(Outcome, Vec<LogLine>), NoGuest> {
    loop {
        match module.invoke(invocation, limits, surroundings).await {
            Err(NoGuest::NoSlot) => tokio::time::sleep(SLOT_WAIT).await,
            done => return done,
        }
    }
}

fn failed(failure: Failure) -> Done {
    Done { outcome: Outcome::Failed(failure), ran: None, lines: Vec::new() }
}
