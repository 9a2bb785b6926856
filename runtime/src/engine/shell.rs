//! How do a partition's inputs and effects get to where they belong? The thin shell around the pure state machines of one hub.
//!
//! Whoever has an input (a caller's thread, a turn's, an activity's, the committer's) hands it to the partition under that
//! partition's lock, which is held for microseconds and never while waiting, and then carries out the effects itself. So nothing
//! is handed from thread to thread more often than the work asks for.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::activities::{Activities, ActivityContext, Done};
use super::functions::Functions;
use super::guest_log::GuestLog;
use super::partition::{
    ActivityOrder, Answer, CommitOrder, Effect, Ended, Input, LoadError, Partition, Token, TurnFailure, TurnOrder,
};
use super::pool::TurnPool;
use super::residents::Residents;
use super::turns::{self, TurnContext};
use crate::clock::Clock;
use crate::host::Host;
use crate::limits::Limits;
use crate::metrics::{GuestFault, Metrics};
use crate::model::{Execution, ExecutionKey, InstanceId, Outcome, TaskId};
use crate::replay::{Fault, TurnError};
use crate::store::group::Committer;
use crate::store::{HubRow, InstanceRow, Store, StoreError};

/// What all hubs of a server share.
pub(super) struct Machinery {
    pub store: Arc<dyn Store>,
    pub committer: Committer,
    pub host: Arc<Host>,
    pub turns: TurnPool,
    pub residents: Residents,
    pub activities: Activities,
    pub guest_log: GuestLog,
    pub timers: Handle,
    pub clock: Clock,
    pub limits: Arc<Limits>,
    pub metrics: Arc<Metrics>,
    /// All hubs go on with what they had open at the start.
    pub recovered: AtomicBool,
    /// One upload or deletion at a time, so that two cannot take the same function, and no bytes go that somebody takes just now.
    pub uploads: Mutex<()>,
}

impl Machinery {
    /// Whether so much waits to be committed or run that new work has to come later.
    pub(super) fn is_overloaded(&self) -> bool {
        self.committer.queued().max(self.turns.queued()) >= self.limits.starts_queued_max
    }
}

/// With more effects than this, a turn thread carries them out: whoever had the input may be the one that commits for
/// everybody.
const EFFECTS_AT_ONCE: usize = 64;

/// How long a timer sleeps before it looks at the clock again.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// One hub: its partitions, and the functions that its modules offer.
pub(super) struct Shell {
    pub row: HubRow,
    pub functions: RwLock<Functions>,
    pub machinery: Arc<Machinery>,
    cells: Vec<Mutex<Cell>>,
}

/// A partition with those who wait for its answers.
struct Cell {
    partition: Partition,
    callers: HashMap<Token, oneshot::Sender<Answer>>,
    next_token: Token,
}

impl Shell {
    /// The hub as the store has it; nothing runs yet.
    ///
    /// # Errors
    /// If the store cannot say which numbers are given out.
    pub(super) fn new(row: HubRow, functions: Functions, machinery: Arc<Machinery>) -> Result<Self, StoreError> {
        let cell = |number| {
            let (first, end) = ExecutionKey::range(row.key, number);
            let next = machinery.store.last_execution(first, end)?.map_or(first, ExecutionKey::next);
            Ok(Mutex::new(Cell { partition: Partition::new(next), callers: HashMap::new(), next_token: 0 }))
        };
        let cells = (0..row.partitions).map(cell).collect::<Result<_, StoreError>>()?;
        Ok(Self { row, functions: RwLock::new(functions), machinery, cells })
    }

    /// Hands the partitions what the store has open, page by page, each when the one before is mostly loaded: so new work waits for
    /// a page at most. How many it were. Does not give up: what cannot be read now is tried again.
    pub(super) fn recover(self: &Arc<Self>) -> usize {
        const PAGE: usize = 256;
        const PAUSE: Duration = Duration::from_millis(2);
        const RETRY: Duration = Duration::from_secs(1);
        let (mut after, mut found) = (None, 0);
        while !self.machinery.turns.is_closed() {
            let rows = match self.machinery.store.open_instances(self.row.key, after, PAGE) {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::error!("cannot read the open instances of hub {}, trying again: {error}", self.row.name);
                    thread::sleep(RETRY);
                    continue;
                }
            };
            let Some(last) = rows.last() else { break };
            after = Some(last.key);
            found += rows.len();
            for row in rows {
                self.deliver(self.partition_of(&row.id), Input::Found(Box::new(row)));
            }
            while self.machinery.turns.queued() > PAGE && !self.machinery.turns.is_closed() {
                thread::sleep(PAUSE);
            }
        }
        found
    }

    /// Sends a caller's input, which `input` makes of the caller's token, and returns where the answer will come.
    pub(super) fn ask(
        self: &Arc<Self>,
        id: &InstanceId,
        input: impl FnOnce(Token) -> Input,
    ) -> (Token, oneshot::Receiver<Answer>) {
        let (token, receiver) = self.caller(id);
        self.tell(id, input(token));
        (token, receiver)
    }

    /// A new token for who calls about this instance, and where the answer to it will come.
    pub(super) fn caller(&self, id: &InstanceId) -> (Token, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let mut cell = self.lock(self.partition_of(id));
        let token = cell.next_token;
        cell.next_token += 1;
        cell.callers.insert(token, sender);
        (token, receiver)
    }

    /// Hands an input to the partition of this instance.
    pub(super) fn tell(self: &Arc<Self>, id: &InstanceId, input: Input) {
        self.deliver(self.partition_of(id), input);
    }

    /// Nobody waits for this answer any more.
    pub(super) fn forget(self: &Arc<Self>, id: &InstanceId, token: Token) {
        let partition = self.partition_of(id);
        if self.lock(partition).callers.remove(&token).is_some() {
            self.deliver(partition, Input::Forget(token, id.clone()));
        }
    }

    fn partition_of(&self, id: &InstanceId) -> u32 {
        id.partition(self.row.partitions)
    }

    fn lock(&self, partition: u32) -> std::sync::MutexGuard<'_, Cell> {
        // A partition that has panicked has lost track of its instances. Going on would write what is wrong, and every promise
        // holds again after a restart.
        self.cells[partition as usize].lock().unwrap_or_else(|poisoned| {
            tracing::error!("partition {partition} of hub {} broke one of its own rules; the server stops", self.row.name);
            drop(poisoned);
            std::process::abort();
        })
    }

    /// Hands `input` to a partition and carries out what follows.
    fn deliver(self: &Arc<Self>, partition: u32, input: Input) {
        let mut cell = self.lock(partition);
        let effects = cell.partition.on(self.machinery.clock.now_ms(), input);
        let mut answers = Vec::new();
        let mut rest = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Reply(token, answer) => answers.extend(cell.callers.remove(&token).map(|caller| (caller, answer))),
                other => rest.push(other),
            }
        }
        drop(cell);
        for (caller, answer) in answers {
            let _ = caller.send(answer); // Whoever does not listen any more has gone.
        }
        if rest.len() > EFFECTS_AT_ONCE {
            let shell = self.clone();
            self.machinery.turns.submit_other(move || shell.carry_out_all(partition, rest));
        } else {
            self.carry_out_all(partition, rest);
        }
    }

    fn carry_out_all(self: &Arc<Self>, partition: u32, effects: Vec<Effect>) {
        let mut dispatched = Vec::new();
        for effect in effects {
            match &effect {
                Effect::Dispatch(order) => dispatched.push((order.execution, order.task)),
                Effect::Sleep(execution, task, _) => dispatched.push((*execution, *task)),
                _ => (),
            }
            self.carry_out(partition, effect);
        }
        if !dispatched.is_empty() {
            // Another thread may have cancelled some before they were there to be cancelled.
            let cell = self.lock(partition);
            dispatched.retain(|(execution, task)| !cell.partition.is_running(*execution, *task));
            drop(cell);
            for key in dispatched {
                self.machinery.activities.cancel(key);
            }
        }
    }

    fn carry_out(self: &Arc<Self>, partition: u32, effect: Effect) {
        match effect {
            Effect::RunTurn(order) => self.run_turn(partition, order),
            Effect::Commit(commit) => self.commit(partition, *commit),
            Effect::Load(execution) => self.load(partition, execution),
            Effect::Dispatch(order) => self.dispatch(partition, *order),
            Effect::Sleep(execution, task, due_ms) => self.sleep(partition, (execution, task), due_ms),
            Effect::Cancel(execution, task) => self.machinery.activities.cancel((execution, task)),
            Effect::Rest(execution, at_ms) => self.rest(partition, execution, at_ms),
            Effect::Evict(execution) => self.machinery.residents.evict(execution),
            Effect::Log(instance, lines) => self.machinery.guest_log.show(instance, lines),
            Effect::Ended(ended) => {
                let Ended { instance, function, status, took_ms } = *ended;
                tracing::debug!(target: "dacapo::ended", %instance, function, %status, took_ms, "ended");
            }
            Effect::Reply(..) => unreachable!("`deliver` has taken the answers out"),
        }
    }

    fn run_turn(self: &Arc<Self>, partition: u32, order: Box<TurnOrder>) {
        let shell = self.clone();
        self.machinery.turns.submit(order.module, move || {
            // The instance may have been terminated while this stood in line.
            if !shell.lock(partition).partition.begin_turn(order.execution, order.number) {
                return;
            }
            let Machinery { store, host, residents, limits, turns, metrics, .. } = &*shell.machinery;
            let context = TurnContext { store: store.as_ref(), host, residents, limits, metrics };
            let began = Instant::now();
            // A panic of ours must not leave the instance waiting for its turn for ever.
            let result = catch_unwind(AssertUnwindSafe(|| turns::run(&context, &order)))
                .unwrap_or_else(|_| Err(TurnFailure::Host("the host panicked".into())));
            metrics.turn(began.elapsed(), result.as_ref().err().and_then(guest_fault));
            match &result {
                Err(TurnFailure::Host(message)) => {
                    tracing::error!("a turn could not be run, and is tried again in a second: {message}")
                }
                // What a turn does that nobody waits for any more says nothing about the module.
                Err(TurnFailure::Guest { error: TurnError::Fault(Fault::Exhausted(_)), .. })
                    if shell.lock(partition).partition.is_in_turn(order.execution, order.number) =>
                {
                    turns.suspect(order.module);
                }
                Err(TurnFailure::Guest { .. }) | Ok(_) => (),
            }
            shell.deliver(partition, Input::TurnDone(order.execution, order.number, result));
        });
    }

    fn commit(self: &Arc<Self>, partition: u32, order: CommitOrder) {
        let (shell, execution) = (self.clone(), order.execution);
        let commit = order.encoded(self.machinery.limits.log_bytes_max);
        self.machinery.committer.submit(commit, move |result| {
            let input = match result {
                Ok(outcome) => Input::Committed(execution, outcome),
                Err(error) => {
                    tracing::error!("a commit failed: {error}");
                    Input::CommitFailed(execution, error)
                }
            };
            shell.deliver(partition, input);
        });
    }

    fn load(self: &Arc<Self>, partition: u32, execution: ExecutionKey) {
        let shell = self.clone();
        self.machinery.turns.submit_other(move || {
            let damaged = |why: String| {
                tracing::error!("execution {} is damaged and stays as it is: {why}", execution.0);
                LoadError::Damaged
            };
            let loaded = match shell.machinery.store.history(execution) {
                Ok(history) => Execution::fold(&history).map(Box::new).map_err(|error| damaged(error.to_string())),
                Err(StoreError::Corrupt(why)) => Err(damaged(why)),
                Err(error) => {
                    tracing::warn!("execution {} cannot be read, and is tried again in a second: {error}", execution.0);
                    Err(LoadError::Passing)
                }
            };
            shell.deliver(partition, Input::Loaded(execution, loaded));
        });
    }

    fn dispatch(self: &Arc<Self>, partition: u32, order: ActivityOrder) {
        let Machinery { host, store, limits, activities, .. } = &*self.machinery;
        let (hub, name) = (self.clone(), order.call.name.clone());
        let current = move || hub.functions.read().unwrap_or_else(PoisonError::into_inner).activity(&name);
        let context = ActivityContext {
            hub: self.row.key,
            host: host.clone(),
            store: store.clone(),
            limits: limits.clone(),
            current: Box::new(current),
            recovered: false,
        };
        let done = self.done(partition, (order.execution, order.task));
        activities.run_activity(context, order, done);
    }

    /// Timers stand on the list of what runs, so that they are cancelled in the same way; they take up no place there.
    fn sleep(self: &Arc<Self>, partition: u32, key: (ExecutionKey, TaskId), due_ms: u64) {
        let shell = self.clone();
        let work = async move {
            let clock = &shell.machinery.clock;
            // The clock may be set meanwhile, so it is looked at again now and then.
            while let Some(left) = due_ms.checked_sub(clock.now_ms()).filter(|left| *left > 0) {
                tokio::time::sleep(Duration::from_millis(left).min(CLOCK_CHECK)).await;
            }
            Done { outcome: Outcome::Fired, ran: None, lines: Vec::new() }
        };
        self.machinery.activities.dispatch(key, work, self.done(partition, key));
    }

    /// Takes what came of a task to the partition.
    fn done(self: &Arc<Self>, partition: u32, (execution, task): (ExecutionKey, TaskId)) -> impl FnOnce(Done) + Send + 'static {
        let shell = self.clone();
        move |Done { outcome, ran, lines }| shell.deliver(partition, Input::TaskDone { execution, task, outcome, ran, lines })
    }

    fn rest(self: &Arc<Self>, partition: u32, execution: ExecutionKey, at_ms: u64) {
        let shell = self.clone();
        let wait = Duration::from_millis(at_ms.saturating_sub(self.machinery.clock.now_ms()));
        self.machinery.timers.spawn(async move {
            tokio::time::sleep(wait).await;
            shell.deliver(partition, Input::RestOver(execution));
        });
    }

    /// How many instances its partitions hold.
    pub(super) fn open_instances(&self) -> usize {
        (0..self.row.partitions).map(|partition| self.lock(partition).partition.open_instances()).sum()
    }

    /// The stored row of an instance. Blocks.
    pub(super) fn row_of(&self, id: &InstanceId) -> Result<Option<InstanceRow>, StoreError> {
        self.machinery.store.instance(self.row.key, id)
    }
}

/// What to count a failed turn as, if it is the guest's doing.
fn guest_fault(failure: &TurnFailure) -> Option<GuestFault> {
    match failure {
        TurnFailure::Guest { error: TurnError::Diverged(_), .. } => Some(GuestFault::Diverged),
        TurnFailure::Guest { error: TurnError::Fault(Fault::Certain(_)), .. } => Some(GuestFault::Certain),
        TurnFailure::Guest { error: TurnError::Fault(Fault::Exhausted(_)), .. } => Some(GuestFault::Exhausted),
        TurnFailure::Guest { error: TurnError::Corrupt(_), .. } | TurnFailure::Host(_) => None,
    }
}
