//! How do a partition's inputs and effects get to where they belong? The thin shell around the pure state machines of one hub.
//!
//! Whoever has an input (a caller's thread, a turn's, an activity's, the committer's) hands it to the partition under that
//! partition's lock, which is held for microseconds and never while waiting, and then carries out the effects itself. So nothing
//! is handed from thread to thread more often than the work asks for.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::activities::{Activities, ActivityContext, Done};
use super::alarm::Alarms;
use super::backlog::Backlog;
use super::changes::Changes;
use super::due::Searched;
use super::functions::{Code, Functions};
use super::guest_log::GuestLog;
use super::in_flight::{InFlight, Noted};
use super::orders::{
    ActivityOrder, Answer, CommitOrder, Effect, Ended, HttpOrder, Input, LoadError, NoRewind, RewindOrder, Start, Token,
    TurnFailure, TurnOrder, TurnResult,
};
use super::partition::{ExecutionNumbers, Numbers, Partition};
use super::pool::{HubModule, TurnPool};
use super::post::Post;
use super::residents::Residents;
use super::rewind::{self, Plans};
use super::suspects::{Suspects, Verdict};
use super::turns::{self, TurnContext};
use crate::clock::Clock;
use crate::host::{Catalog, Host, Surroundings, SurroundingsByHub};
use crate::limits::Limits;
use crate::metrics::{GuestFault, Metrics};
use crate::model::{
    Body, Digest, Execution, ExecutionKey, Failure, HttpCall, InstanceId, Message, MessageKey, Retention, Started, TaskId,
};
use crate::priority;
use crate::replay::{Fault, TurnError};
use crate::store::group::{Committer, Refusal};
use crate::store::{HubRow, InstanceRow, Replaces, Store, StoreError};

/// What all hubs of a server share.
pub(super) struct Machinery {
    pub store: Arc<dyn Store>,
    pub committer: Committer,
    pub host: Arc<Host>,
    pub turns: TurnPool,
    pub in_flight: InFlight,
    pub suspects: Suspects,
    pub residents: Residents,
    pub activities: Activities,
    pub backlog: Arc<Backlog>,
    pub guest_log: GuestLog,
    pub alarms: Alarms,
    pub post: Post,
    pub plans: Plans,
    /// Who listens to what instances do.
    pub changes: Arc<Changes>,
    /// Messages that nobody takes any more.
    pub discarded: Mutex<Vec<MessageKey>>,
    /// The engine's own runtime.
    pub handle: Handle,
    pub clock: Clock,
    pub limits: Arc<Limits>,
    pub surroundings: SurroundingsByHub,
    pub metrics: Arc<Metrics>,
    /// All hubs go on with what they had to do at the start.
    pub recovered: AtomicBool,
    /// One upload or deletion at a time, so that two cannot take the same function, and no bytes go that somebody takes just now.
    pub uploads: Mutex<()>,
}

impl Machinery {
    /// What a turn needs.
    pub(super) fn turn_context(&self) -> TurnContext<'_> {
        let Self { store, host, residents, limits, metrics, in_flight, .. } = self;
        TurnContext { store: store.as_ref(), host, residents, limits, metrics, in_flight }
    }

    /// Whether so much waits to be committed or run that new work has to come later. First turns do not count: what they will ask for waits
    /// behind all that comes for others.
    pub(super) fn is_overloaded(&self) -> bool {
        self.committer.queued().max(self.turns.queued()).max(self.post.waiting()) >= self.limits.work_queued_max
    }

    /// Whether the first turn of a new instance may run before its start is recorded: if it need not stand in line for long, and not soon after the
    /// server died in such a turn, which nobody could tell from others.
    pub(super) fn runs_at_once(&self, module: HubModule) -> bool {
        self.suspects.may_run_unrecorded() && self.turns.begins_soon(module)
    }

    /// Whether a new instance of `module` has to come later. What one asks for may take far more memory than an event does.
    pub(super) fn is_overloaded_for(&self, module: HubModule) -> bool {
        self.is_overloaded() || self.backlog.is_full() || self.turns.queued_of(module) >= self.limits.starts_queued_max
    }
}

/// With more effects than this, a turn thread carries them out: whoever had the input may be the one that commits for
/// everybody.
const EFFECTS_AT_ONCE: usize = 64;

/// One hub: its partitions, and the functions that its modules offer.
pub(super) struct Shell {
    pub row: HubRow,
    pub functions: RwLock<Functions>,
    pub machinery: Arc<Machinery>,
    /// How far the search for what is due has come.
    pub searched: Mutex<Searched>,
    /// What this hub gives its activities.
    surroundings: Arc<Surroundings>,
    cells: Vec<Mutex<Cell>>,
    /// By partition, the first number that a message of this life of the server gets.
    first_messages: Vec<MessageKey>,
    /// What was sent in earlier lives is on its way, so that what is sent now may follow. Until then it stays in the store.
    post_is_open: Mutex<bool>,
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
        let (first, end) = ExecutionKey::range(row.key);
        let last = machinery.store.last_execution(first, end)?;
        let executions = ExecutionNumbers::from(last.map_or(first, ExecutionKey::next));
        let numbers = |partition| {
            let (first, end) = MessageKey::range(row.key, partition);
            let message = machinery.store.last_message(first, end)?.map_or(first, MessageKey::next);
            Ok(Numbers { executions: executions.clone(), message, turns: 0 })
        };
        let numbers = (0..row.partitions).map(numbers).collect::<Result<Vec<_>, StoreError>>()?;
        let idle_max = machinery.limits.idle_instances_max.div_ceil(row.partitions as usize);
        let cell = |numbers: &Numbers| {
            Mutex::new(Cell { partition: Partition::new(numbers.clone(), idle_max), callers: HashMap::new(), next_token: 0 })
        };
        let cells = numbers.iter().map(cell).collect();
        let first_messages = numbers.iter().map(|numbers| numbers.message).collect();
        let (functions, searched) = (RwLock::new(functions), Mutex::default());
        let surroundings = machinery.surroundings.of(&row.name);
        let post_is_open = Mutex::new(false);
        Ok(Self { row, functions, machinery, searched, surroundings, cells, first_messages, post_is_open })
    }

    /// Whether a message with this number was sent before the server was started.
    pub(super) fn is_of_an_earlier_life(&self, key: MessageKey) -> bool {
        // The ranges of the partitions ascend, and each starts below its own first number.
        (0..).zip(&self.first_messages).any(|(partition, first)| {
            let (begin, _) = MessageKey::range(self.row.key, partition);
            begin <= key && key < *first
        })
    }

    /// Which code runs new instances of the orchestrator `name`.
    pub(super) fn current(&self, name: &str) -> Option<Code> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).orchestrator(name)
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

    /// A module of this hub, for the pool.
    pub(super) fn hub_module(&self, module: Digest) -> HubModule {
        HubModule { hub: self.row.key, module }
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
    pub(super) fn deliver(self: &Arc<Self>, partition: u32, input: Input) {
        let effects = self.take(partition, input);
        self.act(partition, effects);
    }

    /// Hands `input` to a partition and answers those who wait; what else there is to do.
    fn take(self: &Arc<Self>, partition: u32, input: Input) -> Vec<Effect> {
        let mut cell = self.lock(partition);
        let before = cell.partition.busy_weight();
        let effects = cell.partition.on(self.machinery.clock.now_ms(), input);
        self.machinery.backlog.instances(before, cell.partition.busy_weight());
        let mut answers = Vec::new();
        let mut rest = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Reply(token, answer) => answers.extend(cell.callers.remove(&token).map(|caller| (caller, answer))),
                // Under the lock, so that nothing which an instance sends later comes before it.
                Effect::Send(message) => self.post(*message),
                other => rest.push(other),
            }
        }
        drop(cell);
        for (caller, answer) in answers {
            let _ = caller.send(answer); // Whoever does not listen any more has gone.
        }
        rest
    }

    fn act(self: &Arc<Self>, partition: u32, effects: Vec<Effect>) {
        if effects.len() > EFFECTS_AT_ONCE {
            let shell = self.clone();
            self.machinery.turns.submit_other(move || shell.carry_out_all(partition, effects));
        } else {
            self.carry_out_all(partition, effects);
        }
    }

    fn carry_out_all(self: &Arc<Self>, partition: u32, effects: Vec<Effect>) {
        let mut dispatched = Vec::new();
        for effect in effects {
            match &effect {
                Effect::Dispatch(order) => dispatched.push((order.execution, order.task)),
                Effect::Request(order) => dispatched.push((order.execution, order.task)),
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
            Effect::Find(instance, messages) => self.find(partition, instance, messages),
            Effect::PlanRewind(order) => self.plan_rewind(partition, order),
            Effect::Dispatch(order) => self.dispatch(partition, *order),
            Effect::Request(order) => self.request(partition, *order),
            Effect::Cancel(execution, task) => self.machinery.activities.cancel((execution, task)),
            Effect::Arm(at_ms) => self.machinery.alarms.arm(self, partition, at_ms),
            Effect::Discard(key) => {
                self.machinery.discarded.lock().unwrap_or_else(PoisonError::into_inner).push(key);
            }
            Effect::Evict(execution) => self.machinery.residents.evict(execution),
            Effect::Log(instance, lines) => self.machinery.guest_log.show(instance, lines),
            Effect::Ended(ended) => {
                let Ended { instance, function, status, took_ms } = *ended;
                tracing::debug!(target: "dacapo::ended", %instance, function, %status, took_ms, "ended");
            }
            Effect::Reply(..) | Effect::Send(_) => unreachable!("`take` has taken these out"),
        }
    }

    fn run_turn(self: &Arc<Self>, partition: u32, order: Box<TurnOrder>) {
        let (shell, module) = (self.clone(), order.module);
        let verdict = self.machinery.suspects.judge(order.flight());
        let runs_alone = verdict == Verdict::Alone;
        // What has a parent belongs to what has begun.
        let begins = order.started.as_ref().is_some_and(Started::begins_instance);
        let work = move || {
            // The instance may have been terminated while this stood in line.
            if !shell.lock(partition).partition.begin_turn(order.execution, order.number) {
                return;
            }
            if let Verdict::SetAside(failure) = verdict {
                tracing::error!("execution {} is failed: {}", order.execution.0, failure.message);
                shell.machinery.suspects.forget(order.execution);
                let error = TurnError::Fault(Fault::Certain(failure));
                let failure = TurnFailure::Guest { error, lines: Vec::new() };
                return shell.deliver(partition, Input::TurnDone(order.execution, order.number, Err(failure)));
            }
            let turns = &shell.machinery.turns;
            let context = shell.machinery.turn_context();
            let began = Instant::now();
            let mut noted = None;
            let played = catch_unwind(AssertUnwindSafe(|| turns::run(&context, &order, &mut noted, |name| shell.current(name))));
            let result = played.unwrap_or_else(|panic| Err(panicked(&*panic)));
            let took = began.elapsed();
            if priority::is_lowered() {
                // This thread may rest at any instruction for as long as others have work, so it must not hold what they may need.
                drop(noted);
                let others = shell.clone();
                return turns.submit_other(move || others.turn_is_done(partition, &order, took, result, None));
            }
            shell.turn_is_done(partition, &order, took, result, noted);
        };
        if runs_alone {
            self.machinery.turns.submit_alone(self.hub_module(module), work);
        } else if begins {
            self.machinery.turns.submit_beginning(self.hub_module(module), work);
        } else {
            self.machinery.turns.submit(self.hub_module(module), work);
        }
    }

    /// Takes in what a turn has come to. It stays `noted` until the partition has taken it: that may be what a rule of ours breaks at. What
    /// follows is other instances' work too.
    fn turn_is_done(
        self: &Arc<Self>,
        partition: u32,
        order: &TurnOrder,
        took: Duration,
        result: Result<TurnResult, TurnFailure>,
        noted: Option<Noted<'_>>,
    ) {
        let Machinery { turns, metrics, .. } = &*self.machinery;
        metrics.turn(took, result.as_ref().err().and_then(guest_fault));
        match &result {
            Err(TurnFailure::Host(message)) if order.is_recorded => {
                tracing::error!("a turn could not be run, and is tried again in a second: {message}")
            }
            // What a turn does that nobody waits for any more says nothing about the module.
            Err(TurnFailure::Guest { error: TurnError::Fault(Fault::Exhausted(_)), .. })
                if self.lock(partition).partition.is_in_turn(order.execution, order.number) =>
            {
                turns.suspect(self.hub_module(order.module));
            }
            Err(TurnFailure::Guest { .. } | TurnFailure::Host(_)) | Ok(_) => (),
        }
        let effects = self.take(partition, Input::TurnDone(order.execution, order.number, result));
        drop(noted);
        self.act(partition, effects);
    }

    fn commit(self: &Arc<Self>, partition: u32, order: CommitOrder) {
        let (shell, execution, instance) = (self.clone(), order.answers_to(), order.instance);
        let commit = order.encoded(self.machinery.limits.log_bytes_max);
        let waits = self.machinery.backlog.holding(commit.bytes());
        self.machinery.committer.submit(commit, move |result| {
            drop(waits);
            let input = match result {
                Ok(outcome) => {
                    shell.machinery.changes.note(instance);
                    Input::Committed(execution, outcome)
                }
                Err(error) => {
                    // That nothing is written at all, the committer says once.
                    if Refusal::of(&error).is_none() {
                        tracing::error!("a commit failed: {error}");
                    }
                    Input::CommitFailed(execution, error)
                }
            };
            shell.deliver(partition, input);
        });
    }

    fn find(self: &Arc<Self>, partition: u32, instance: InstanceId, messages: Vec<MessageKey>) {
        let shell = self.clone();
        self.machinery.turns.submit_other(move || {
            let found = shell.read(&instance).and_then(|found| Ok((found, shell.unrecorded(&messages)?)));
            let (found, unrecorded) = match found {
                Ok((found, unrecorded)) => (Ok(found), unrecorded),
                Err(StoreError::Corrupt(why)) => {
                    tracing::error!("instance {instance} is damaged and stays as it is: {why}");
                    (Err(LoadError::Damaged), Vec::new())
                }
                Err(error) => {
                    tracing::warn!("instance {instance} cannot be read now: {error}");
                    (Err(LoadError::Passing), Vec::new())
                }
            };
            shell.deliver(partition, Input::Found { instance, found, unrecorded });
        });
    }

    fn plan_rewind(self: &Arc<Self>, partition: u32, order: Box<RewindOrder>) {
        let (shell, machinery) = (self.clone(), self.machinery.clone());
        let work = move || {
            let planned = catch_unwind(AssertUnwindSafe(|| rewind::plan(&shell, &order)));
            let plan = planned.unwrap_or_else(|_| Err(NoRewind::Refused("the host panicked; its log has more".into())));
            shell.deliver(partition, Input::Planned(order, plan));
            let Machinery { plans, turns, .. } = &*machinery;
            plans.done(|next| turns.submit_other(next));
        };
        self.machinery.plans.submit(Box::new(work), |plan| self.machinery.turns.submit_other(plan));
    }

    /// An instance as it is stored, if it is open.
    fn read(&self, id: &InstanceId) -> Result<Option<Box<(InstanceRow, Execution)>>, StoreError> {
        let Some(row) = self.row_of(id)?.filter(|row| !row.status.is_ended()) else { return Ok(None) };
        let history = self.machinery.store.history(row.execution)?;
        let execution = Execution::fold(&history).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        Ok(Some(Box::new((row, execution))))
    }

    /// Those of these messages that are still in the store.
    fn unrecorded(&self, keys: &[MessageKey]) -> Result<Vec<MessageKey>, StoreError> {
        let mut unrecorded = Vec::new();
        for key in keys {
            let found = self.machinery.store.inbox(self.row.key, Some(MessageKey(key.0 - 1)), 1)?;
            unrecorded.extend(found.first().map(|message| message.key).filter(|found| found == key));
        }
        Ok(unrecorded)
    }

    /// Sends a message of this life of the server.
    fn post(self: &Arc<Self>, message: Message) {
        if *self.post_is_open.lock().unwrap_or_else(PoisonError::into_inner) {
            self.machinery.post.send(self, message);
        }
    }

    /// Opens the post, behind the messages that `rest` finds in the store and that nobody has sent on.
    ///
    /// # Errors
    /// That of `rest`; the post stays shut.
    pub(super) fn open_post(self: &Arc<Self>, rest: impl FnOnce() -> Result<Vec<Message>, StoreError>) -> Result<(), StoreError> {
        // Whoever sends now waits: its message is in the store, so that `rest` may find it.
        let mut is_open = self.post_is_open.lock().unwrap_or_else(PoisonError::into_inner);
        for message in rest()? {
            self.machinery.post.send(self, message);
        }
        *is_open = true;
        Ok(())
    }

    /// Hands a message to the partition that it is for. May have to read the store; gives the message back if that fails, so that it is tried
    /// again later, before all that comes for the same instance.
    pub(super) fn hand_over(self: &Arc<Self>, message: Message) -> Option<Message> {
        let partition = self.partition_of(&message.to);
        let input = match message.body {
            Body::Start { .. } => match self.child(&message) {
                Ok(start) => Input::StartChild(Box::new(message), start),
                Err(error) => {
                    tracing::error!("{} cannot be started now, which is tried again in a second: {error}", message.to);
                    return Some(message);
                }
            },
            _ => Input::Message(Box::new(message)),
        };
        self.deliver(partition, input);
        None
    }

    /// What the message wants started: on the sender's code if that has the function, else on what is current. Or why there is nothing to
    /// start.
    fn child(&self, message: &Message) -> Result<Result<Box<Start>, Failure>, StoreError> {
        let Body::Start { function, input, generation, seed, module, parent, tags, not_before_ms } = &message.body else {
            unreachable!("the caller has looked")
        };
        let senders = match *module {
            Some(digest) => self.catalog(digest)?.map(|catalog| (digest, catalog)),
            None => None,
        };
        let senders = senders.filter(|(_, catalog)| catalog.orchestrator(function).is_some());
        let code = senders.map(|(digest, catalog)| Code::of(digest, &catalog)).or_else(|| self.current(function));
        let Some(Code { module, made_by }) = code else {
            let message = format!(
                "no module in this task hub has an orchestrator named {function:?}; upload one that has, or check the name"
            );
            return Ok(Err(Failure::new("UnknownOrchestrator", message).non_retriable()));
        };
        let started = Started {
            at_ms: self.machinery.clock.now_ms(),
            instance: message.to.clone(),
            module,
            function: function.clone(),
            input: input.clone(),
            generation: *generation,
            seed: *seed,
            limits: self.machinery.limits.in_force(),
            made_by,
            parent: parent.clone(),
            tags: tags.clone(),
            not_before_ms: *not_before_ms,
            idempotency: None,
            continued: 0,
        };
        let runs_at_once = self.machinery.runs_at_once(self.hub_module(module));
        Ok(Ok(Box::new(Start { hub: self.row.key, started, waiter: None, replaces: Replaces::Ended, runs_at_once })))
    }

    /// What a module offers, current or not. `None` if this hub does not have it, unless another one has: then the store will say so.
    fn catalog(&self, digest: Digest) -> Result<Option<Arc<Catalog>>, StoreError> {
        let current = self.functions.read().unwrap_or_else(PoisonError::into_inner).catalog(digest);
        if let Some(catalog) = current.or_else(|| Some(self.machinery.host.ready_module(digest)?.catalog().clone())) {
            return Ok(Some(catalog));
        }
        let rows = self.machinery.store.modules(self.row.key)?;
        let catalog = rows.iter().find(|row| row.digest == digest).map(super::catalog_of).transpose()?;
        Ok(catalog.map(Arc::new))
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
            surroundings: self.surroundings.clone(),
        };
        let done = self.done(partition, (order.execution, order.task));
        activities.run_activity(context, order, done);
    }

    fn request(self: &Arc<Self>, partition: u32, order: HttpOrder) {
        let Machinery { host, limits, activities, .. } = &*self.machinery;
        let done = self.done(partition, (order.execution, order.task));
        let (host, limits, surroundings) = (host.clone(), limits.clone(), self.surroundings.clone());
        let request = move |call: HttpCall| {
            let (host, limits, surroundings) = (host.clone(), limits.clone(), surroundings.clone());
            async move { host.request(&call, &surroundings, &limits).await }
        };
        activities.run_request(self.row.key, order, request, done);
    }

    /// Takes what came of a task to the partition.
    fn done(self: &Arc<Self>, partition: u32, (execution, task): (ExecutionKey, TaskId)) -> impl FnOnce(Done) + Send + 'static {
        let shell = self.clone();
        move |Done { outcome, ran, lines }| shell.deliver(partition, Input::TaskDone { execution, task, outcome, ran, lines })
    }

    /// Looks at the partition of this instance, which changes nothing.
    pub(super) fn look<T>(&self, id: &InstanceId, look: impl FnOnce(&Partition) -> T) -> T {
        look(&self.lock(self.partition_of(id)).partition)
    }

    /// How many instances its partitions hold.
    pub(super) fn loaded_instances(&self) -> usize {
        (0..self.row.partitions).map(|partition| self.lock(partition).partition.loaded_instances()).sum()
    }

    /// As [`Store::purge`], noting whether the store takes writes. Blocks.
    pub(super) fn purge(&self, rows: &[InstanceRow]) -> Result<usize, StoreError> {
        let purged = self.machinery.store.purge(rows);
        if !rows.is_empty() {
            self.machinery.committer.note(purged.as_ref().map(drop));
        }
        purged
    }

    /// How long what has ended is kept.
    pub(super) fn retention(&self) -> Retention {
        self.surroundings.retention
    }

    /// The stored row of an instance. Blocks.
    pub(super) fn row_of(&self, id: &InstanceId) -> Result<Option<InstanceRow>, StoreError> {
        self.machinery.store.instance(self.row.key, id)
    }
}

/// What becomes of a turn in which our own code has panicked: it is tried again, and the third time the instance is failed. The log has where it
/// was.
fn panicked(panic: &(dyn Any + Send)) -> TurnFailure {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = format!("the host panicked in this turn: {}", text.unwrap_or("it did not say why"));
    let error = TurnError::Fault(Fault::Exhausted(Failure::new("HostPanicked", message)));
    TurnFailure::Guest { error, lines: Vec::new() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_ours_is_tried_again_and_named() {
        for (panic, text) in [
            (Box::new("no room") as Box<dyn Any + Send>, "no room"),
            (Box::new("no room left".to_owned()), "no room left"),
            (Box::new(7), "it did not say why"),
        ] {
            let TurnFailure::Guest { error: TurnError::Fault(Fault::Exhausted(failure)), .. } = panicked(&*panic) else {
                panic!("it would not be tried again, or for ever")
            };
            assert_eq!(failure.message, format!("the host panicked in this turn: {text}"));
        }
    }
}
