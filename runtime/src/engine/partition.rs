//! What happens next to an instance? One partition of a hub: a pure state machine that owns its instances.
//!
//! Inputs in, effects out; the shell moves both. It names no tokio, no wasm, no SQL, reads no clock, and never waits: at most one
//! turn or commit of an instance counts at a time, and all other instances go on. The order of the effects is the
//! durability argument: **turn, commit, act**. What an instance is in memory is the fold of what is stored
//! ([`Execution`]), plus what has arrived and is not recorded yet; so it can be dropped and loaded again at any moment.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lru::LruCache;

use super::instance::{Instance, Phase};
use crate::model::{
    ActivityCall, Body, Digest, End, Event, Execution, ExecutionKey, Failure, Generation, HttpCall, HubKey, Input as Given,
    InstanceId, InstanceKey, LimitsInForce, LogLine, LogRecord, Message, MessageKey, Outcome, Payload, Progress, RuntimeStatus,
    Started, TaskId, Versions,
};
use crate::replay::{Fault, TurnError};
use crate::store::{
    Change, Commit, CommitOutcome, EncodedEvents, EncodedLines, EncodedMessage, InstanceRow, NewInstance, StoreError,
};

/// Whom to answer: a number that the shell gives out and finds the caller by.
pub type Token = u64;

/// Something that happens to a partition.
#[derive(Debug)]
pub enum Input {
    /// Somebody wants an instance to start.
    Start(Token, Box<Start>),
    /// Somebody wants to know how an instance ends.
    Wait(Token, InstanceId),
    /// Somebody raises an event to an instance.
    Raise {
        /// Who.
        caller: Token,
        /// To which one.
        instance: InstanceId,
        /// The event's name.
        name: String,
        /// The event's value.
        payload: Payload,
    },
    /// Somebody wants an instance to end.
    Terminate {
        /// Who.
        caller: Token,
        /// Which one.
        instance: InstanceId,
        /// Why.
        reason: Option<String>,
    },
    /// The one who waited has gone.
    Forget(Token, InstanceId),
    /// Another instance wants one to start, by this message. Nothing of it is to be started if the shell could not find the code.
    StartChild(Box<Message>, Result<Box<Start>, Failure>),
    /// Another instance has something else for one.
    Message(Box<Message>),
    /// The store has this open instance, which has to be looked at now or soon.
    Due(InstanceId),
    /// The store is searched for what has to be looked at up to this time, in milliseconds since 1970; what is due by then stays in memory
    /// from now on.
    Horizon(u64),
    /// What [`Effect::Find`] asked for. `None` if no open instance has this ID.
    Found {
        /// Which one.
        instance: InstanceId,
        /// Its row, and the fold of its history.
        found: Result<Option<Box<(InstanceRow, Execution)>>, LoadError>,
        /// Those of the messages asked about that nobody has recorded yet.
        unrecorded: Vec<MessageKey>,
    },
    /// What [`Effect::RunTurn`] asked for: the turn's number there, and what came of it.
    TurnDone(ExecutionKey, u64, Result<TurnResult, TurnFailure>),
    /// The commit is durable, or refused.
    Committed(ExecutionKey, CommitOutcome),
    /// The commit did not go through.
    CommitFailed(ExecutionKey, Arc<StoreError>),
    /// An activity or a request has come to its end.
    TaskDone {
        /// Whose task it was.
        execution: ExecutionKey,
        /// Which one.
        task: TaskId,
        /// How it came out.
        outcome: Outcome,
        /// The module that ran, if one did.
        ran: Option<Digest>,
        /// What it said.
        lines: Vec<LogLine>,
    },
    /// The time of an [`Effect::Arm`] has come.
    Alarm,
}

/// An instance to start. Whoever asks draws what has to be random and looks up what has to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The hub, which the partition is one of.
    pub hub: HubKey,
    /// The first event of the new execution.
    pub started: Started,
    /// Who waits for its end from the beginning.
    pub waiter: Option<Token>,
}

/// What a turn gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnResult {
    /// What it brought about.
    pub progress: Progress,
    /// What the guest said in it.
    pub lines: Vec<LogLine>,
    /// What the next execution needs, if the instance continues as new.
    pub next: Option<Box<Next>>,
}

/// What an execution that continues another one needs to know from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// Its code.
    pub module: Digest,
    /// What writes its history.
    pub made_by: Versions,
    /// The bounds in force.
    pub limits: LimitsInForce,
    /// Names and values of the events that it takes over.
    pub kept: Vec<(String, Payload)>,
}

/// Why a turn gave nothing. The guest is gone in each case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnFailure {
    /// The guest's doing.
    Guest {
        /// What it did.
        error: TurnError,
        /// What it said in this turn.
        lines: Vec<LogLine>,
    },
    /// The host could not do its part: it could not read the history, or not get hold of the module. To be tried again.
    Host(String),
}

/// Why an execution could not be loaded. The shell has told the details to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadError {
    /// It may work a little later.
    Passing,
    /// What is stored cannot be read.
    Damaged,
}

/// Something that the shell has to do for a partition, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Run a turn; answer with [`Input::TurnDone`].
    RunTurn(Box<TurnOrder>),
    /// Write this; answer with [`Input::Committed`] or [`Input::CommitFailed`].
    Commit(Box<CommitOrder>),
    /// Read an instance from the store, and which of these messages are still there; answer with [`Input::Found`].
    Find(InstanceId, Vec<MessageKey>),
    /// Run an activity, which is scheduled durably; answer with [`Input::TaskDone`].
    Dispatch(Box<ActivityOrder>),
    /// Make a request, which is scheduled durably; answer with [`Input::TaskDone`].
    Request(Box<HttpOrder>),
    /// Tell this activity or request to stop, if it runs.
    Cancel(ExecutionKey, TaskId),
    /// Answer with [`Input::Alarm`] at this time, in milliseconds since 1970, in the place of what was asked for before.
    Arm(u64),
    /// Answer a caller.
    Reply(Token, Answer),
    /// Drop the guest of this execution, if one is alive.
    Evict(ExecutionKey),
    /// Hand this message, which is durable, to the partition that it is for.
    Send(Box<Message>),
    /// Nobody takes this message any more.
    Discard(MessageKey),
    /// Show what guests said in a step that is recorded now.
    Log(InstanceId, Arc<[LogRecord]>),
    /// Tell that an instance has ended.
    Ended(Box<Ended>),
}

/// A turn to run.
#[derive(Debug, Clone)]
pub struct TurnOrder {
    /// Of which execution.
    pub execution: ExecutionKey,
    /// Which of the turns that this instance began in this life of the server.
    pub number: u64,
    /// Which of them a living guest must have played last; 0 if none will do.
    pub after: u64,
    /// Its code.
    pub module: Digest,
    /// The orchestrator's name, as the caller spelled it.
    pub function: String,
    /// How many turns are recorded.
    pub turns: u32,
    /// The start, if it is all that is recorded; then nobody needs to read the history.
    pub started: Option<Started>,
    /// The guest's time in this turn, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it gets.
    pub inputs: Vec<Given>,
    /// The number of the next task that it asks for.
    pub next_task: TaskId,
}

/// Something to write, all of it or nothing.
#[derive(Debug, Clone)]
pub struct CommitOrder {
    /// Which instance.
    pub instance: InstanceKey,
    /// Which execution of it.
    pub execution: ExecutionKey,
    /// Appended behind what the execution has. Not printed yet: that takes time, and nobody may wait for a partition.
    pub events: Arc<[Event]>,
    /// Kept with the execution.
    pub lines: Arc<[LogRecord]>,
    /// What becomes of the instance's row.
    pub change: Change,
    /// For other instances.
    pub sends: Arc<[Message]>,
    /// From other instances, and recorded with this.
    pub takes: Vec<MessageKey>,
}

impl CommitOrder {
    /// The execution that hears of it: the one before, if this one begins another.
    pub fn answers_to(&self) -> ExecutionKey {
        if let Change::Continue { from, .. } = &self.change { *from } else { self.execution }
    }

    /// Prints the events and lines, of which the store keeps `log_bytes_max` for the execution.
    pub fn encoded(self, log_bytes_max: usize) -> Commit {
        let Self { instance, execution, events, lines, change, sends, takes } = self;
        let lines = EncodedLines::of(&lines, log_bytes_max);
        let sends = sends.iter().map(EncodedMessage::of).collect();
        Commit { instance, execution, events: EncodedEvents::of(&events), lines, change, sends, takes }
    }
}

/// An instance that has come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which one.
    pub instance: InstanceId,
    /// The orchestrator's name, as the caller spelled it.
    pub function: String,
    /// How it ended.
    pub status: RuntimeStatus,
    /// How long after its start, in milliseconds.
    pub took_ms: u64,
}

/// An activity to run.
#[derive(Debug, Clone)]
pub struct ActivityOrder {
    /// For which execution.
    pub execution: ExecutionKey,
    /// For which task of it.
    pub task: TaskId,
    /// What was asked for.
    pub call: ActivityCall,
    /// The instance.
    pub instance: InstanceId,
    /// The execution's generation.
    pub generation: Generation,
    /// The execution's own code, which runs the activity if no current module has it.
    pub module: Digest,
    /// It was found open, so that it may have run before.
    pub recovered: bool,
}

/// A request to make.
#[derive(Debug, Clone)]
pub struct HttpOrder {
    /// For which execution.
    pub execution: ExecutionKey,
    /// For which task of it.
    pub task: TaskId,
    /// What was asked for.
    pub call: HttpCall,
    /// The instance.
    pub instance: InstanceId,
}

/// What a caller gets to know.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The start is durable.
    Started,
    /// A live instance has that ID, in this status. Nothing has changed.
    Exists(RuntimeStatus),
    /// What was raised or asked for is durable.
    Recorded,
    /// It could not be recorded, or nobody knows whether it was.
    Failed(Arc<StoreError>),
    /// The instance has ended; it is durable.
    Ended(End),
    /// No such instance is open here: it has ended, or never was.
    NotOpen,
}

/// How often a turn may use up its bounds before the instance is failed.
const TRIES_MAX: u8 = 3;

/// How long to wait before something is tried again that failed on our side, in milliseconds.
pub(super) const RETRY_MS: u64 = 1_000;

/// The owner of a part of a hub's instances.
pub struct Partition {
    numbers: Numbers,
    instances: HashMap<ExecutionKey, Instance>,
    by_id: HashMap<InstanceId, ExecutionKey>,
    /// The store is asked for these, or is to be asked again, and this has come for them meanwhile. None of them is among `instances`.
    sought: HashMap<InstanceId, Vec<Input>>,
    /// When to look at an instance: a timer is due, or a rest is over.
    alarms: BTreeSet<(u64, ExecutionKey)>,
    /// When to ask the store again.
    searches: BTreeSet<(u64, InstanceId)>,
    /// When the shell will come, if it was asked to.
    armed_ms: Option<u64>,
    /// The instances that only wait and could be read again, the least recently used first.
    idle: LruCache<ExecutionKey, ()>,
    idle_max: usize,
    /// What is due by then is in memory or will be handed in.
    horizon_ms: u64,
}

/// The numbers that a partition gives out.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    /// All executions so far have lower ones.
    pub execution: ExecutionKey,
    /// All messages so far that are still stored have lower ones.
    pub message: MessageKey,
}

/// The moment at which an input is taken: the time, the numbers to give out, and what is to be done so far.
pub(super) struct Moment<'a> {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    pub effects: &'a mut Vec<Effect>,
    numbers: &'a mut Numbers,
}

impl Moment<'_> {
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn reply(&mut self, caller: Token, answer: Answer) {
        self.push(Effect::Reply(caller, answer));
    }

    pub(super) fn next_execution(&mut self) -> ExecutionKey {
        let next = self.numbers.execution;
        self.numbers.execution = next.next();
        next
    }

    pub(super) fn next_message(&mut self) -> MessageKey {
        let next = self.numbers.message;
        self.numbers.message = next.next();
        next
    }
}

impl Partition {
    /// A partition that goes on with `numbers`, and keeps at most `idle_max` instances in memory that only wait.
    pub fn new(numbers: Numbers, idle_max: usize) -> Self {
        Self {
            numbers,
            instances: HashMap::new(),
            by_id: HashMap::new(),
            sought: HashMap::new(),
            alarms: BTreeSet::new(),
            searches: BTreeSet::new(),
            armed_ms: None,
            idle: LruCache::unbounded(),
            idle_max,
            horizon_ms: 0,
        }
    }

    /// How many open instances are in memory.
    pub fn loaded_instances(&self) -> usize {
        self.instances.len()
    }

    /// Whether the answer of this task, which was dispatched, is still wanted.
    pub fn is_running(&self, execution: ExecutionKey, task: TaskId) -> bool {
        self.instances.get(&execution).is_some_and(|instance| instance.is_running(task))
    }

    /// Whether the result of this turn is still wanted.
    pub fn is_in_turn(&self, execution: ExecutionKey, number: u64) -> bool {
        self.instances.get(&execution).is_some_and(|instance| instance.is_in_turn(number))
    }

    /// A thread has come to this turn. Whether it is still wanted.
    pub fn begin_turn(&mut self, execution: ExecutionKey, number: u64) -> bool {
        self.instances.get_mut(&execution).is_some_and(|instance| instance.begin_turn(number))
    }

    /// Takes `input` at `now_ms`, milliseconds since 1970, and says what there is to do.
    pub fn on(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(now_ms, input, &mut effects);
        self.arm(&mut effects);
        effects
    }

    fn take(&mut self, now_ms: u64, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Start(_, ref start) | Input::StartChild(_, Ok(ref start)) => {
                let id = start.started.instance.clone();
                self.take_for(now_ms, id, input, effects);
            }
            Input::StartChild(message, Err(failure)) => refuse_start(*message, failure, effects),
            Input::Wait(_, ref id)
            | Input::Raise { instance: ref id, .. }
            | Input::Terminate { instance: ref id, .. }
            | Input::Forget(_, ref id)
            | Input::Due(ref id) => {
                let id = id.clone();
                self.take_for(now_ms, id, input, effects);
            }
            Input::Message(ref message) => {
                let id = message.to.clone();
                self.take_for(now_ms, id, input, effects);
            }
            Input::Horizon(until_ms) => self.horizon_ms = self.horizon_ms.max(until_ms),
            Input::Found { instance, found, unrecorded } => self.found(now_ms, instance, found, &unrecorded, effects),
            Input::TurnDone(key, number, result) => self.turn_done(now_ms, key, number, result, effects),
            Input::Committed(key, outcome) => self.committed(now_ms, key, outcome, effects),
            Input::CommitFailed(key, error) => self.commit_failed(now_ms, key, error, effects),
            Input::TaskDone { execution, task, outcome, ran, lines } => {
                self.with(now_ms, execution, effects, |instance, moment| {
                    instance.answer(moment.now_ms, task, outcome, ran, lines);
                    instance.go_on(moment);
                });
            }
            Input::Alarm => self.alarm(now_ms, effects),
        }
    }

    /// Does `work` with an instance if it is in memory, and then sees to what follows from how it stands.
    fn with<T>(
        &mut self,
        now_ms: u64,
        key: ExecutionKey,
        effects: &mut Vec<Effect>,
        work: impl FnOnce(&mut Instance, &mut Moment<'_>) -> T,
    ) -> Option<T> {
        let instance = self.instances.get_mut(&key)?;
        let done = work(instance, &mut Moment { now_ms, effects, numbers: &mut self.numbers });
        self.settle(key, effects);
        Some(done)
    }

    /// Takes an input for the instance with this ID: hands it over, or has the store asked first.
    fn take_for(&mut self, now_ms: u64, id: InstanceId, input: Input, effects: &mut Vec<Effect>) {
        if let Some(key) = self.by_id.get(&id).copied() {
            return self.hand_over(now_ms, key, input, effects);
        }
        if let Some(inputs) = self.sought.get_mut(&id) {
            return match input {
                Input::Forget(token, _) => inputs.retain(|input| !matches!(input, Input::Wait(other, _) if *other == token)),
                input => inputs.push(input),
            };
        }
        match input {
            // Only the store knows whether the ID is free: the commit finds out, and creates the instance in the same step.
            Input::Start(token, start) => self.start(now_ms, Starter::Caller(token), *start, effects),
            Input::StartChild(message, Ok(start)) => self.start(now_ms, Starter::Message(message), *start, effects),
            Input::Forget(..) => (),
            input => {
                effects.push(Effect::Find(id.clone(), Vec::new()));
                self.sought.insert(id, vec![input]);
            }
        }
    }

    /// Hands an input to an instance that is in memory.
    fn hand_over(&mut self, now_ms: u64, key: ExecutionKey, input: Input, effects: &mut Vec<Effect>) {
        self.with(now_ms, key, effects, |instance, moment| match input {
            // If it turns out that the ID was not free, they are for the one that has it.
            Input::Message(_) | Input::Due(_) if matches!(instance.phase, Phase::Starting { .. }) => instance.early.push(input),
            Input::Start(token, start) => instance.contend(Starter::Caller(token), *start, moment),
            Input::StartChild(message, Ok(start)) => instance.contend(Starter::Message(message), *start, moment),
            Input::Wait(token, _) => instance.waiters.push(token),
            Input::Forget(token, _) => instance.waiters.retain(|waiter| *waiter != token),
            Input::Raise { caller, name, payload, .. } => instance.raise(Some(caller), None, name, payload, moment),
            Input::Terminate { caller, reason, .. } => instance.terminate(caller, reason, moment),
            Input::Message(message) => instance.receive(*message, moment),
            _ => (), // It is known that it is due.
        });
    }

    /// Says that no open instance has the ID that this is for.
    fn turn_away(input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Wait(token, _) | Input::Raise { caller: token, .. } | Input::Terminate { caller: token, .. } => {
                effects.push(Effect::Reply(token, Answer::NotOpen));
            }
            Input::Message(message) => effects.push(Effect::Discard(message.key)),
            _ => (),
        }
    }

    fn start(&mut self, now_ms: u64, starter: Starter, start: Start, effects: &mut Vec<Effect>) {
        let mut moment = Moment { now_ms, effects, numbers: &mut self.numbers };
        let key = moment.next_execution();
        let Start { hub, started, waiter } = start;
        let id = started.instance.clone();
        let takes = if let Starter::Message(message) = &starter { vec![message.key] } else { Vec::new() };
        moment.push(Effect::Commit(Box::new(CommitOrder {
            instance: key.instance(),
            execution: key,
            events: [Event::Started(started.clone())].into(),
            lines: [].into(),
            change: Change::Create(NewInstance {
                hub,
                id: id.clone(),
                function: started.function.clone(),
                module: started.module,
                created_ms: started.at_ms,
                tags: started.tags.clone(),
                wake: Execution::new(started.clone()).wake(),
            }),
            sends: [].into(),
            takes,
        })));
        let phase = Phase::Starting { starter, start: Box::new(Start { hub, started, waiter }) };
        self.by_id.insert(id.clone(), key);
        let mut instance = Instance::new(key.instance(), key, id, phase);
        instance.waiters.extend(waiter);
        self.instances.insert(key, instance);
    }

    /// Takes the store's word for where an instance stands, and acts on what follows from it.
    fn found(
        &mut self,
        now_ms: u64,
        id: InstanceId,
        found: Result<Option<Box<(InstanceRow, Execution)>>, LoadError>,
        unrecorded: &[MessageKey],
        effects: &mut Vec<Effect>,
    ) {
        if let Some(key) = self.by_id.get(&id).copied() {
            if matches!(self.instances[&key].phase, Phase::Loading) {
                self.found_again(now_ms, key, found, unrecorded, effects);
            }
            return;
        }
        let Some(inputs) = self.sought.remove(&id) else { return };
        match found {
            Ok(found) => {
                let generation = found.as_ref().map(|found| found.1.started.generation);
                if let Some(found) = found {
                    let (row, execution) = *found;
                    let key = row.execution;
                    self.by_id.insert(id.clone(), key);
                    self.instances.insert(key, Instance::new(row.key, key, id.clone(), Phase::Loading));
                    self.load(now_ms, key, execution, &[], effects);
                }
                for input in inputs {
                    match input {
                        // It is the one that this asked for: the commit went through after all.
                        Input::StartChild(_, Ok(start)) if Some(start.started.generation) == generation => (),
                        // Its code is gone, and the shell has to look for another.
                        Input::StartChild(message, _) if matches!(message.body, Body::Start { module: None, .. }) => {
                            effects.push(Effect::Send(message));
                        }
                        Input::Start(..) | Input::StartChild(..) => self.take_for(now_ms, id.clone(), input, effects),
                        _ if self.by_id.contains_key(&id) => self.take_for(now_ms, id.clone(), input, effects),
                        _ => Self::turn_away(input, effects),
                    }
                }
            }
            Err(error) => {
                let why = unreadable(&id);
                let mut left = Vec::new();
                for input in inputs {
                    match input {
                        Input::Start(token, _)
                        | Input::Wait(token, _)
                        | Input::Raise { caller: token, .. }
                        | Input::Terminate { caller: token, .. } => {
                            effects.push(Effect::Reply(token, Answer::Failed(why.clone())));
                        }
                        input => left.push(input),
                    }
                }
                // If it is damaged, nothing that we could do would be right. Its messages stay in the store, for people to look at.
                if error == LoadError::Passing && !left.is_empty() {
                    self.seek_later(now_ms, id, left);
                }
            }
        }
    }

    /// The same for an instance that is in memory, and that the store was asked about because nobody knew what a commit had come to.
    fn found_again(
        &mut self,
        now_ms: u64,
        key: ExecutionKey,
        found: Result<Option<Box<(InstanceRow, Execution)>>, LoadError>,
        unrecorded: &[MessageKey],
        effects: &mut Vec<Effect>,
    ) {
        match found {
            Ok(Some(found)) => {
                let (row, execution) = *found;
                self.rename(now_ms, key, row.execution, effects);
                self.load(now_ms, row.execution, execution, unrecorded, effects);
            }
            Ok(None) => {
                self.with(now_ms, key, effects, |instance, moment| instance.send_unsent(unrecorded, moment));
                self.drop_instance(now_ms, key, &Answer::NotOpen, effects);
            }
            Err(error) => {
                self.with(now_ms, key, effects, |instance, moment| {
                    let why = unreadable(&instance.id);
                    instance.answer_contenders(&Answer::Failed(why.clone()), moment);
                    instance.refuse_callers(&Answer::Failed(why.clone()), moment);
                    instance.phase = match error {
                        LoadError::Passing => Phase::Resting { until_ms: now_ms + RETRY_MS, unknown: Some(why) },
                        LoadError::Damaged => Phase::Halted { why },
                    };
                });
            }
        }
    }

    fn load(
        &mut self,
        now_ms: u64,
        key: ExecutionKey,
        execution: Execution,
        unrecorded: &[MessageKey],
        effects: &mut Vec<Effect>,
    ) {
        self.with(now_ms, key, effects, |instance, moment| instance.loaded(execution, unrecorded, moment));
        if !self.finish(now_ms, key, effects) {
            self.still_open(now_ms, key, effects);
        }
    }

    /// The store is asked for this instance a little later.
    fn seek_later(&mut self, now_ms: u64, id: InstanceId, inputs: Vec<Input>) {
        self.searches.insert((now_ms + RETRY_MS, id.clone()));
        self.sought.insert(id, inputs);
    }

    fn turn_done(
        &mut self,
        now_ms: u64,
        key: ExecutionKey,
        number: u64,
        result: Result<TurnResult, TurnFailure>,
        effects: &mut Vec<Effect>,
    ) {
        // The guest of a turn that nobody waits for any more has gone where no history went.
        if !self.is_in_turn(key, number) {
            return effects.push(Effect::Evict(key));
        }
        self.with(now_ms, key, effects, |instance, moment| match result {
            Ok(result) => instance.record(result, moment),
            Err(TurnFailure::Host(_)) => {
                instance.take_back();
                instance.phase = Phase::Resting { until_ms: now_ms + RETRY_MS, unknown: None };
                instance.append_while_waiting(moment);
            }
            Err(TurnFailure::Guest { error, lines }) => {
                instance.tries += 1;
                if matches!(error, TurnError::Fault(Fault::Exhausted(_))) && instance.tries < TRIES_MAX {
                    instance.try_again(moment);
                } else {
                    instance.record_fault(error, lines, moment);
                }
            }
        });
    }

    fn committed(&mut self, now_ms: u64, key: ExecutionKey, outcome: CommitOutcome, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key) else { return };
        match (std::mem::replace(&mut instance.phase, Phase::Idle), outcome) {
            (Phase::Starting { starter, start }, CommitOutcome::Done) => {
                instance.execution = Some(Execution::new(start.started));
                starter.started(effects);
                for input in std::mem::take(&mut instance.early) {
                    self.hand_over(now_ms, key, input, effects);
                }
                self.still_open(now_ms, key, effects);
            }
            (Phase::Starting { starter, .. }, CommitOutcome::Refused(status)) => {
                let id = instance.id.clone();
                starter.refused(&id, status, effects);
                let mut moment = Moment { now_ms, effects, numbers: &mut self.numbers };
                instance.answer_contenders(&Answer::Exists(status), &mut moment);
                for input in self.drop_unstarted(now_ms, key, effects) {
                    self.take_for(now_ms, id.clone(), input, effects);
                }
            }
            (Phase::Committing(step), CommitOutcome::Done) => {
                let key = step.next.map_or(key, |next| self.rename(now_ms, key, next, effects));
                self.with(now_ms, key, effects, |instance, moment| instance.commit_done(*step, moment));
                if !self.finish(now_ms, key, effects) {
                    self.still_open(now_ms, key, effects);
                }
            }
            (phase, outcome) => panic!("instance {key:?} got {outcome:?} in {phase:?}: no commit of that kind is in flight"),
        }
    }

    fn commit_failed(&mut self, now_ms: u64, key: ExecutionKey, error: Arc<StoreError>, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key) else { return };
        let may_pass = !matches!(*error, StoreError::Fenced { .. } | StoreError::Poisoned(_));
        let mut moment = Moment { now_ms, effects, numbers: &mut self.numbers };
        instance.answer_contenders(&Answer::Failed(error.clone()), &mut moment);
        if let Phase::Starting { .. } = &instance.phase {
            let id = instance.id.clone();
            let Phase::Starting { starter, start } = std::mem::replace(&mut instance.phase, Phase::Idle) else { unreachable!() };
            let again = starter.failed(*start, error, effects);
            let rest = self.drop_unstarted(now_ms, key, effects);
            // It may be there after all, and somebody has to run it then.
            if may_pass {
                self.seek_later(now_ms, id, again.into_iter().chain(rest).collect());
            }
            return;
        }
        // The guest is ahead of the store. Whether the commit went through after all, only the store can tell.
        instance.take_back();
        moment.push(Effect::Evict(key));
        instance.refuse_callers(&Answer::Failed(error.clone()), &mut moment);
        instance.phase = if may_pass {
            Phase::Resting { until_ms: now_ms + RETRY_MS, unknown: Some(error) }
        } else {
            Phase::Halted { why: error }
        };
        self.settle(key, effects);
    }

    /// It is durable that the instance is open: goes on with it.
    fn still_open(&mut self, now_ms: u64, key: ExecutionKey, effects: &mut Vec<Effect>) {
        self.with(now_ms, key, effects, |instance, moment| {
            instance.answer_contenders(&Answer::Exists(instance.status()), moment);
            instance.go_on(moment);
        });
    }

    /// If the execution has ended: tells who waits for it, and forgets it.
    fn finish(&mut self, now_ms: u64, key: ExecutionKey, effects: &mut Vec<Effect>) -> bool {
        let Some(execution) = self.instances.get(&key).and_then(|instance| instance.execution.as_ref()) else { return false };
        let Some(end) = execution.end.clone() else { return false };
        effects.push(Effect::Evict(key));
        effects.push(Effect::Ended(Box::new(Ended {
            instance: execution.started.instance.clone(),
            function: execution.started.function.clone(),
            status: end.status(),
            took_ms: execution.latest_ms - execution.started.at_ms,
        })));
        self.drop_instance(now_ms, key, &Answer::Ended(end), effects);
        true
    }

    /// Forgets an instance; its ID is free for who waits for it.
    fn drop_instance(&mut self, now_ms: u64, key: ExecutionKey, answer: &Answer, effects: &mut Vec<Effect>) {
        let instance = self.forget(key);
        let id = instance.id.clone();
        let mut moment = Moment { now_ms, effects, numbers: &mut self.numbers };
        for (starter, start) in instance.dismiss(answer, &mut moment) {
            self.take_for(now_ms, id.clone(), starter.input(start), effects);
        }
    }

    /// Forgets an instance that did not come into being. Returns what came for the ID meanwhile and is still to be settled: another instance may have
    /// it.
    fn drop_unstarted(&mut self, now_ms: u64, key: ExecutionKey, effects: &mut Vec<Effect>) -> Vec<Input> {
        let mut instance = self.forget(key);
        let early = std::mem::take(&mut instance.early);
        let mut moment = Moment { now_ms, effects, numbers: &mut self.numbers };
        let contenders = instance.dismiss(&Answer::NotOpen, &mut moment);
        contenders.into_iter().map(|(starter, start)| starter.input(start)).chain(early).collect()
    }

    /// Takes an instance out of memory.
    fn forget(&mut self, key: ExecutionKey) -> Instance {
        let instance = self.instances.remove(&key).expect("the caller has just found it");
        self.by_id.remove(&instance.id);
        if let Some(alarm_ms) = instance.alarm_ms {
            self.alarms.remove(&(alarm_ms, key));
        }
        self.idle.pop(&key);
        instance
    }

    /// The instance goes on as another execution.
    fn rename(&mut self, now_ms: u64, from: ExecutionKey, to: ExecutionKey, effects: &mut Vec<Effect>) -> ExecutionKey {
        if from == to {
            return to;
        }
        let mut instance = self.forget(from);
        effects.push(Effect::Evict(from));
        instance.become_execution(to, &mut Moment { now_ms, effects, numbers: &mut self.numbers });
        self.by_id.insert(instance.id.clone(), to);
        self.instances.insert(to, instance);
        to
    }

    /// The time of an alarm has come, or is near.
    fn alarm(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        self.armed_ms = None;
        while let Some((at_ms, key)) = self.alarms.first().copied()
            && at_ms <= now_ms
        {
            self.alarms.pop_first();
            self.with(now_ms, key, effects, |instance, moment| {
                instance.alarm_ms = None;
                instance.alarm(moment);
            });
        }
        while let Some((at_ms, _)) = self.searches.first()
            && *at_ms <= now_ms
        {
            let (_, id) = self.searches.pop_first().expect("it was just looked at");
            if self.sought.contains_key(&id) {
                effects.push(Effect::Find(id, Vec::new()));
            }
        }
    }

    /// Sees to it that the instance is looked at when its time comes, and that not too many are in memory that only wait.
    fn settle(&mut self, key: ExecutionKey, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key) else { return };
        let alarm_ms = instance.next_alarm_ms();
        if alarm_ms != instance.alarm_ms {
            if let Some(old_ms) = instance.alarm_ms {
                self.alarms.remove(&(old_ms, key));
            }
            self.alarms.extend(alarm_ms.map(|at_ms| (at_ms, key)));
            instance.alarm_ms = alarm_ms;
        }
        if !instance.only_waits(self.horizon_ms) {
            self.idle.pop(&key);
        } else if instance.is_small() {
            self.idle.put(key, ());
        } else {
            self.idle.pop(&key);
            return self.unload(key, effects);
        }
        while self.idle.len() > self.idle_max
            && let Some((oldest, ())) = self.idle.pop_lru()
        {
            let horizon_ms = self.horizon_ms;
            if self.instances.get(&oldest).is_some_and(|instance| instance.only_waits(horizon_ms)) {
                self.unload(oldest, effects);
            }
        }
    }

    /// Drops an instance from memory that only waits: all of it is in the store.
    fn unload(&mut self, key: ExecutionKey, effects: &mut Vec<Effect>) {
        self.forget(key);
        effects.push(Effect::Evict(key));
    }

    /// Has the shell come when the next alarm is due, if it does not come before that anyway.
    fn arm(&mut self, effects: &mut Vec<Effect>) {
        let alarm = self.alarms.first().map(|(at_ms, _)| *at_ms);
        let search = self.searches.first().map(|(at_ms, _)| *at_ms);
        let Some(at_ms) = [alarm, search].into_iter().flatten().min() else { return };
        if self.armed_ms.is_none_or(|armed_ms| at_ms < armed_ms) {
            self.armed_ms = Some(at_ms);
            effects.push(Effect::Arm(at_ms));
        }
    }
}

/// Who wants an instance to start.
#[derive(Debug)]
pub(super) enum Starter {
    /// Somebody who waits for the answer.
    Caller(Token),
    /// Another instance, by this message, which stays in the store until it is settled.
    Message(Box<Message>),
}

impl Starter {
    /// What it came with.
    fn input(self, start: Start) -> Input {
        match self {
            Self::Caller(token) => Input::Start(token, Box::new(start)),
            Self::Message(message) => Input::StartChild(message, Ok(Box::new(start))),
        }
    }

    /// It is durable that it has started.
    fn started(self, effects: &mut Vec<Effect>) {
        if let Self::Caller(token) = self {
            effects.push(Effect::Reply(token, Answer::Started));
        }
    }

    /// A live instance has the ID.
    pub(super) fn refused(self, id: &InstanceId, status: RuntimeStatus, effects: &mut Vec<Effect>) {
        match self {
            Self::Caller(token) => effects.push(Effect::Reply(token, Answer::Exists(status))),
            Self::Message(message) => {
                let why = format!("an instance with the ID {:?} is {status} already; choose another ID, or none", id.as_str());
                refuse_start(*message, Failure::new("InstanceExists", why), effects);
            }
        }
    }

    /// It could not be recorded, or nobody knows whether it was. Returns what may have to be tried again.
    fn failed(self, start: Start, error: Arc<StoreError>, effects: &mut Vec<Effect>) -> Option<Input> {
        match self {
            Self::Caller(token) => {
                effects.push(Effect::Reply(token, Answer::Failed(error)));
                None
            }
            Self::Message(mut message) => {
                // The sender has ended, or it would have kept its code from being deleted. What is current will do.
                if let (StoreError::NoModule(_), Body::Start { module, .. }) = (&*error, &mut message.body) {
                    *module = None;
                }
                Some(Input::StartChild(message, Ok(Box::new(start))))
            }
        }
    }
}

/// Tells who waits for a child that there will be none, under the number of the message that asked for it: it leaves the store with the step
/// that records this.
fn refuse_start(message: Message, failure: Failure, effects: &mut Vec<Effect>) {
    let Message { key, to, body } = message;
    match body {
        Body::Start { parent: Some(parent), .. } => {
            let body = Body::Answer { execution: parent.execution, task: parent.task, outcome: Outcome::Failed(failure) };
            effects.push(Effect::Send(Box::new(Message { key, to: parent.instance, body })));
        }
        // Nobody waits, so there is nobody to tell but people.
        _ => {
            let line = LogLine {
                level: crate::model::LogLevel::Warn,
                target: "dacapo".into(),
                message: format!("instance {:?} was not started: {}", to.as_str(), failure.message),
            };
            effects.push(Effect::Log(to, [LogRecord { at_ms: 0, task: None, line }].into()));
            effects.push(Effect::Discard(key));
        }
    }
}

fn unreadable(id: &InstanceId) -> Arc<StoreError> {
    Arc::new(StoreError::Other(format!("what is stored of instance {id} cannot be read")))
}
