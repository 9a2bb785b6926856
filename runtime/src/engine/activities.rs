//! Who runs activities? An asynchronous runtime of its own, bounded in number; the others wait in line.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::module;
use super::partition::ActivityOrder;
use crate::host::{Host, Invocation, Module, NoGuest};
use crate::limits::Limits;
use crate::model::{Action, Digest, ExecutionKey, Failure, LogLine, Outcome, TaskId};
use crate::store::Store;

/// How long to wait for a slot that a stopped guest has not given back yet.
const SLOT_WAIT: Duration = Duration::from_millis(1);

/// The activities that run or wait in line.
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

    /// Runs `work` when it is its turn, and hands what came of it to `done`, unless it is cancelled before.
    pub(super) fn dispatch(
        &self,
        key: (ExecutionKey, TaskId),
        work: impl Future<Output = Done> + Send + 'static,
        done: impl FnOnce(Done) + Send + 'static,
    ) {
        let (permits, running) = (self.permits.clone(), self.running.clone());
        // Under the lock, so that the task cannot take itself off the list before it is on it.
        let mut list = lock(&self.running);
        let task = self.runtime.spawn(async move {
            let permit = permits.acquire().await;
            let result = work.await;
            drop(permit);
            lock(&running).remove(&key);
            done(result);
        });
        list.insert(key, task.abort_handle());
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

/// Runs one activity to its end, on the module that has it now: `current`, or else the execution's own.
pub(super) async fn run(
    host: Arc<Host>,
    store: Arc<dyn Store>,
    limits: Limits,
    current: Option<Digest>,
    order: ActivityOrder,
) -> Done {
    let Action::Activity { name, input, attempt, first_attempt, timeout_ms } = order.action;
    let digest = current.unwrap_or(order.module);
    let found = match host.ready_module(digest) {
        Some(module) => Ok(module),
        // Mapping compiled code, or compiling it, takes long: not on a thread that others wait for.
        None => {
            let host = host.clone();
            match tokio::task::spawn_blocking(move || module(&host, store.as_ref(), digest)).await {
                Ok(found) => found.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    let module = match found {
        Ok(module) if module.catalog().activity(&name).is_some() => module,
        Ok(_) => {
            let message = format!("no module in this task hub has an activity named {name:?}");
            return failed(Failure::new("UnknownActivity", message).non_retriable());
        }
        Err(message) => return failed(Failure::new("ModuleUnavailable", message)),
    };
    let invocation = Invocation {
        function: name,
        input,
        instance: order.instance,
        generation: order.generation,
        task: order.task,
        attempt,
        first_attempt,
    };
    let limit_ms = timeout_ms.unwrap_or(limits.activity_ms_max).min(limits.activity_ms_max);
    match tokio::time::timeout(Duration::from_millis(limit_ms), invoke(&module, &invocation, &limits)).await {
        Ok(Ok((outcome, lines))) => Done { outcome, ran: Some(digest), lines },
        Ok(Err(message)) => failed(Failure::new("ActivityNotRun", message)),
        Err(_) => {
            let whose = if limit_ms == limits.activity_ms_max { " (limit activity_ms_max)" } else { "" };
            let message = format!("activity {:?} took longer than {limit_ms} ms{whose}, and was stopped", invocation.function);
            failed(Failure::new("Timeout", message))
        }
    }
}

async fn invoke(module: &Module, invocation: &Invocation, limits: &Limits) -> Result<(Outcome, Vec<LogLine>), String> {
    loop {
        match module.invoke(invocation, limits).await {
            Ok(done) => return Ok(done),
            Err(NoGuest::NoSlot) => tokio::time::sleep(SLOT_WAIT).await,
            Err(NoGuest::Failed(message)) => return Err(message),
        }
    }
}

fn failed(failure: Failure) -> Done {
    Done { outcome: Outcome::Failed(failure), ran: None, lines: Vec::new() }
}
