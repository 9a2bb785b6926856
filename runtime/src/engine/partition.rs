//! What happens next to an instance? One partition of a hub: a pure state machine that owns its instances.
//!
//! Inputs in, effects out; the shell moves both. It names no tokio, no wasm, no SQL, reads no clock, and never waits: at most one
//! turn or commit of an instance counts at a time, and all other instances go on. The order of the effects is the
//! durability argument: **turn, commit, act**. What an instance is in memory is the fold of what is stored
//! ([`Execution`]), plus what has arrived and is not recorded yet; so it can be dropped and loaded again at any moment.

use std::collections::HashMap;
use std::sync::Arc;

use super::instance::{Instance, Phase};
use crate::model::{
    ActivityCall, Digest, End, Event, Execution, ExecutionKey, Generation, HubKey, Input as Given, InstanceId, InstanceKey,
    LogLine, LogRecord, Outcome, Payload, Progress, RuntimeStatus, Started, TaskId, Wake,
};
use crate::replay::{Fault, TurnError};
use crate::store::{Change, Commit, CommitOutcome, EncodedEvents, EncodedLines, InstanceRow, NewInstance, StoreError};

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
    /// The store has this open instance: found when the server starts.
    Found(Box<InstanceRow>),
    /// What [`Effect::Load`] asked for.
    Loaded(ExecutionKey, Result<Box<Execution>, LoadError>),
    /// What [`Effect::RunTurn`] asked for: the turn's number there, and what came of it.
    TurnDone(ExecutionKey, u64, Result<TurnResult, TurnFailure>),
    /// The commit is durable, or refused.
    Committed(ExecutionKey, CommitOutcome),
    /// The commit did not go through.
    CommitFailed(ExecutionKey, Arc<StoreError>),
    /// An activity has come to its end, or a timer is due.
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
    /// The time of an [`Effect::Rest`] has come.
    RestOver(ExecutionKey),
}

/// An instance to start. Whoever asks draws what has to be random and looks up what has to be known.
#[derive(Debug, Clone)]
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
    /// Read an execution from the store; answer with [`Input::Loaded`].
    Load(ExecutionKey),
    /// Run an activity, which is scheduled durably; answer with [`Input::TaskDone`].
    Dispatch(Box<ActivityOrder>),
    /// Answer this timer, which is scheduled durably, with [`Input::TaskDone`] at this time, in milliseconds since 1970, or at once if it
    /// has passed.
    Sleep(ExecutionKey, TaskId, u64),
    /// Tell this activity or timer to stop, if it runs.
    Cancel(ExecutionKey, TaskId),
    /// Answer with [`Input::RestOver`] at this time, in milliseconds since 1970.
    Rest(ExecutionKey, u64),
    /// Answer a caller.
    Reply(Token, Answer),
    /// Drop the guest of this execution, if one is alive.
    Evict(ExecutionKey),
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
}

impl CommitOrder {
    /// Prints the events and lines, of which the store keeps `log_bytes_max` for the execution.
    pub fn encoded(self, log_bytes_max: usize) -> Commit {
        let Self { instance, execution, events, lines, change } = self;
        let lines = EncodedLines::of(&lines, log_bytes_max);
        Commit { instance, execution, events: EncodedEvents::of(&events), lines, change, sends: Vec::new(), takes: Vec::new() }
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
const RETRY_MS: u64 = 1_000;

/// The owner of a part of a hub's instances.
pub struct Partition {
    /// What has a lower number is from an earlier life of the server.
    first: ExecutionKey,
    next: ExecutionKey,
    instances: HashMap<ExecutionKey, Instance>,
    by_id: HashMap<InstanceId, ExecutionKey>,
}

impl Partition {
    /// A partition whose executions so far all have numbers below `next`.
    pub fn new(next: ExecutionKey) -> Self {
        Self { first: next, next, instances: HashMap::new(), by_id: HashMap::new() }
    }

    /// How many instances are open.
    pub fn open_instances(&self) -> usize {
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
        match input {
            Input::Start(token, start) => self.start(token, *start, &mut effects),
            Input::Wait(token, id) => match self.open(&id) {
                Some(instance) => instance.waiters.push(token),
                None => effects.push(Effect::Reply(token, Answer::NotOpen)),
            },
            Input::Raise { caller, instance, name, payload } => match self.open(&instance) {
                Some(instance) => instance.raise(now_ms, caller, name, payload, &mut effects),
                None => effects.push(Effect::Reply(caller, Answer::NotOpen)),
            },
            Input::Terminate { caller, instance, reason } => match self.open(&instance) {
                Some(instance) => instance.terminate(now_ms, caller, reason, &mut effects),
                None => effects.push(Effect::Reply(caller, Answer::NotOpen)),
            },
            Input::Forget(token, id) => {
                if let Some(instance) = self.open(&id) {
                    instance.waiters.retain(|waiter| *waiter != token);
                }
            }
            Input::Found(row) => self.found(*row, &mut effects),
            Input::Loaded(key, Ok(execution)) => self.loaded(now_ms, key, *execution, &mut effects),
            Input::Loaded(key, Err(error)) => self.not_loaded(now_ms, key, error, &mut effects),
            Input::TurnDone(key, number, result) => self.turn_done(now_ms, key, number, result, &mut effects),
            Input::Committed(key, outcome) => self.committed(now_ms, key, outcome, &mut effects),
            Input::CommitFailed(key, error) => self.commit_failed(now_ms, key, error, &mut effects),
            Input::TaskDone { execution, task, outcome, ran, lines } => {
                if let Some(instance) = self.instances.get_mut(&execution) {
                    instance.answer(now_ms, task, outcome, ran, lines);
                    instance.go_on(now_ms, &mut effects);
                }
            }
            Input::RestOver(key) => {
                if let Some(instance) = self.instances.get_mut(&key)
                    && matches!(instance.phase, Phase::Resting { .. })
                {
                    instance.phase = Phase::Loading;
                    effects.push(Effect::Load(key));
                }
            }
        }
        effects
    }

    /// The open instance with this ID.
    fn open(&mut self, id: &InstanceId) -> Option<&mut Instance> {
        self.by_id.get(id).and_then(|key| self.instances.get_mut(key))
    }

    /// Only the store knows whether the ID is free: the commit finds out, and creates the instance in the same step.
    fn start(&mut self, token: Token, start: Start, effects: &mut Vec<Effect>) {
        let id = start.started.instance.clone();
        if let Some(instance) = self.open(&id) {
            return instance.contend(token, start, effects);
        }
        let key = self.next;
        self.next = key.next();
        let Start { hub, started, waiter } = start;
        effects.push(Effect::Commit(Box::new(CommitOrder {
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
                wake: Wake::AT_ONCE,
            }),
        })));
        let phase = Phase::Starting { token, started: Box::new(started) };
        self.by_id.insert(id.clone(), key);
        let mut instance = Instance::new(key.instance(), key, id, phase);
        instance.waiters.extend(waiter);
        self.instances.insert(key, instance);
    }

    fn found(&mut self, row: InstanceRow, effects: &mut Vec<Effect>) {
        // Started in this life of the server, before the recovery came to it; it may have ended since, and its ID be taken.
        if row.execution >= self.first || self.instances.contains_key(&row.execution) {
            return;
        }
        // If a start under this ID is on its way, it will be refused; the ID belongs to what is stored.
        self.by_id.insert(row.id.clone(), row.execution);
        self.instances.insert(row.execution, Instance::new(row.key, row.execution, row.id, Phase::Loading));
        effects.push(Effect::Load(row.execution));
    }

    /// Takes the store's word for where the execution stands, and acts on what follows from it.
    fn loaded(&mut self, now_ms: u64, key: ExecutionKey, execution: Execution, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key) else { return };
        instance.execution = Some(execution);
        instance.phase = Phase::Idle;
        instance.reconcile(effects);
        if !self.finish(key, effects) {
            self.still_open(now_ms, key, effects);
        }
    }

    fn not_loaded(&mut self, now_ms: u64, key: ExecutionKey, error: LoadError, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key) else { return };
        let why = Arc::new(StoreError::Other(format!("what is stored of instance {} cannot be read", instance.id)));
        instance.answer_contenders(&Answer::Failed(why.clone()), effects);
        instance.refuse_callers(&Answer::Failed(why.clone()), effects);
        match error {
            LoadError::Passing => {
                instance.phase = Phase::Resting { unknown: Some(why) };
                effects.push(Effect::Rest(key, now_ms + RETRY_MS));
            }
            // Nothing that we could do would be right. The instance stays as it is, for people to look at.
            LoadError::Damaged => instance.phase = Phase::Halted { why },
        }
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
        let Some(instance) = self.instances.get_mut(&key).filter(|instance| instance.is_in_turn(number)) else {
            return effects.push(Effect::Evict(key));
        };
        match result {
            Ok(TurnResult { progress, lines }) => instance.record(now_ms, progress, lines, effects),
            Err(TurnFailure::Host(_)) => {
                instance.take_back();
                instance.phase = Phase::Resting { unknown: None };
                effects.push(Effect::Rest(key, now_ms + RETRY_MS));
                instance.append_while_resting(effects);
            }
            Err(TurnFailure::Guest { error, lines }) => {
                instance.tries += 1;
                let again = matches!(error, TurnError::Fault(Fault::Exhausted(_))) && instance.tries < TRIES_MAX;
                if again {
                    instance.try_again(now_ms, effects);
                } else {
                    instance.record_fault(now_ms, error, lines, effects);
                }
            }
        }
    }

    fn committed(&mut self, now_ms: u64, key: ExecutionKey, outcome: CommitOutcome, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key) else { return };
        match (std::mem::replace(&mut instance.phase, Phase::Idle), outcome) {
            (Phase::Starting { token, started }, CommitOutcome::Done) => {
                instance.execution = Some(Execution::new(*started));
                effects.push(Effect::Reply(token, Answer::Started));
                self.still_open(now_ms, key, effects);
            }
            (Phase::Starting { token, .. }, CommitOutcome::Refused(status)) => {
                effects.push(Effect::Reply(token, Answer::Exists(status)));
                instance.answer_contenders(&Answer::Exists(status), effects);
                self.drop_instance(key, &Answer::NotOpen, effects);
            }
            (Phase::Committing { events, taken, lines }, CommitOutcome::Done) => {
                instance.commit_done(&events, taken, lines, effects);
                if !self.finish(key, effects) {
                    self.still_open(now_ms, key, effects);
                }
            }
            (phase, outcome) => panic!("instance {key:?} got {outcome:?} in {phase:?}: no commit of that kind is in flight"),
        }
    }

    fn commit_failed(&mut self, now_ms: u64, key: ExecutionKey, error: Arc<StoreError>, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key) else { return };
        let may_pass = !matches!(*error, StoreError::Fenced { .. } | StoreError::Poisoned(_));
        if let Phase::Starting { token, .. } = &instance.phase {
            effects.push(Effect::Reply(*token, Answer::Failed(error)));
            self.drop_instance(key, &Answer::NotOpen, effects);
            return;
        }
        // The guest is ahead of the store. Whether the commit went through after all, only the store can tell.
        instance.take_back();
        effects.push(Effect::Evict(key));
        instance.answer_contenders(&Answer::Failed(error.clone()), effects);
        instance.refuse_callers(&Answer::Failed(error.clone()), effects);
        if may_pass {
            instance.phase = Phase::Resting { unknown: Some(error) };
            effects.push(Effect::Rest(key, now_ms + RETRY_MS));
        } else {
            instance.phase = Phase::Halted { why: error };
        }
    }

    /// It is durable that the instance is open: goes on with it.
    fn still_open(&mut self, now_ms: u64, key: ExecutionKey, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key) else { return };
        instance.answer_contenders(&Answer::Exists(instance.status()), effects);
        instance.go_on(now_ms, effects);
    }

    /// If the execution has ended: tells who waits for it, and forgets it.
    fn finish(&mut self, key: ExecutionKey, effects: &mut Vec<Effect>) -> bool {
        let Some(execution) = self.instances.get(&key).and_then(|instance| instance.execution.as_ref()) else { return false };
        let Some(end) = execution.end.clone() else { return false };
        effects.push(Effect::Evict(key));
        effects.push(Effect::Ended(Box::new(Ended {
            instance: execution.started.instance.clone(),
            function: execution.started.function.clone(),
            status: end.status(),
            took_ms: execution.latest_ms - execution.started.at_ms,
        })));
        self.drop_instance(key, &Answer::Ended(end), effects);
        true
    }

    /// Forgets an instance; its ID is free for who waits for it.
    fn drop_instance(&mut self, key: ExecutionKey, answer: &Answer, effects: &mut Vec<Effect>) {
        let instance = self.instances.remove(&key).expect("the caller has just found it");
        if self.by_id.get(&instance.id) == Some(&key) {
            self.by_id.remove(&instance.id);
        }
        for (token, start) in instance.dismiss(answer, effects) {
            self.start(token, start, effects);
        }
    }
}
