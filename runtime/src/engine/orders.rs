//! What does a partition take, and what does it give? Its inputs, its effects, and the orders that these carry.
//!
//! Plain data, between the pure `partition.rs` and the shell.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::in_flight::Flight;
use crate::model::{
    ActivityCall, Again, Digest, End, Event, Execution, ExecutionKey, Failure, Generation, HttpCall, HubKey, Input as Given,
    InstanceId, InstanceKey, LimitsInForce, LogLine, LogRecord, Message, MessageKey, Outcome, Parent, Payload, Progress,
    RuntimeStatus, Started, TaskId, Versions,
};
use crate::replay::TurnError;
use crate::store::{
    Change, Commit, CommitOutcome, EncodedEvents, EncodedLines, EncodedMessage, InstanceRow, Replaces, StoreError,
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
        /// How much may be recorded before it that no turn has taken, in bytes.
        unread_bytes_max: usize,
    },
    /// Somebody wants an instance to end, to pause or to go on.
    Control {
        /// Who.
        caller: Token,
        /// Which one.
        instance: InstanceId,
        /// What is wanted.
        wish: Wish,
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
    /// What [`Effect::PlanRewind`] asked for.
    Planned(Box<RewindOrder>, Result<Box<RewindPlan>, NoRewind>),
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

impl Input {
    /// Who waits for an answer to it.
    pub(super) fn caller(&self) -> Option<Token> {
        match self {
            Self::Start(caller, _) | Self::Wait(caller, _) | Self::Raise { caller, .. } | Self::Control { caller, .. } => {
                Some(*caller)
            }
            _ => None,
        }
    }
}

/// What an operator can want of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It ends, and none of its code runs any more.
    Terminate {
        /// The children that it waits for end too, and theirs.
        recursive: bool,
    },
    /// None of its code runs until it is resumed.
    Suspend,
    /// It goes on after that.
    Resume,
    /// It has failed, and goes on from before its failure.
    Rewind,
}

/// A failed instance to bring to go on.
#[derive(Debug)]
pub struct RewindOrder {
    /// Which one.
    pub instance: InstanceId,
    /// Who wants it.
    pub by: Rewinder,
    /// Why.
    pub reason: Option<String>,
}

/// Who wants a failed instance to go on.
#[derive(Debug)]
pub enum Rewinder {
    /// Somebody who waits for the answer.
    Caller(Token),
    /// Its parent, by this message, which stays in the store until it is settled.
    Parent(Box<Message>, Parent),
}

/// How a failed instance goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewindPlan {
    /// Its row, as it stands.
    pub row: InstanceRow,
    /// What is to be appended.
    pub rewound: Event,
    /// The fold of its history with that.
    pub execution: Execution,
    /// What its last turn had asked for. None of it was begun, as it was the last one, but for what nobody waits for.
    pub unstarted: BTreeSet<TaskId>,
}

/// Why an instance is not rewound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRewind {
    /// There is no such instance, or it is not the child of who asks.
    NotFound,
    /// It has ended in another way.
    Ended(End),
    /// It cannot go on, for this reason.
    Refused(String),
    /// It cannot be read.
    Unreadable(LoadError),
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
    /// What it may take the place of.
    pub replaces: Replaces,
    /// Its first turn may run before it is recorded, so that one commit has both.
    pub runs_at_once: bool,
}

impl Start {
    /// The one who waited has gone.
    pub(super) fn forget(&mut self, token: Token) {
        self.waiter = self.waiter.filter(|waiter| *waiter != token);
    }
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

impl Next {
    /// How many bytes the events have that it takes over.
    pub(super) fn bytes(&self) -> usize {
        self.kept.iter().map(|(name, payload)| name.len() + payload.text().len()).sum()
    }
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
    /// Find out how this instance, which is not open, can go on; answer with [`Input::Planned`].
    PlanRewind(Box<RewindOrder>),
    /// Run an activity, which is scheduled durably; answer with [`Input::TaskDone`].
    Dispatch(Box<ActivityOrder>),
    /// Make a request, which is scheduled durably; answer with [`Input::TaskDone`].
    Request(Box<HttpOrder>),
    /// Tell this activity or request to stop, if it runs.
    Cancel(ExecutionKey, TaskId),
    /// Answer with [`Input::Alarm`] at this time, in milliseconds since 1970, or earlier.
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
    /// The start, if there is nothing else; then nobody needs to read the history.
    pub started: Option<Started>,
    /// Whether anything is recorded. Until the start is, the module may be deleted at any moment.
    pub is_recorded: bool,
    /// The guest's time in this turn, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it gets.
    pub inputs: Vec<Given>,
    /// The number of the next task that it asks for.
    pub next_task: TaskId,
    /// What it has to ask for first, if it is played again after a rewind.
    pub again: Option<Again>,
}

impl TurnOrder {
    /// How it is noted while it runs.
    pub(super) fn flight(&self) -> Flight {
        Flight { execution: self.execution, turns: self.turns }
    }
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
    /// An instance has that ID, in this status, and stays: nothing has changed. One that has ended only if the start may replace nothing.
    Exists(RuntimeStatus),
    /// What was raised or asked for is durable.
    Recorded,
    /// It could not be recorded, or nobody knows whether it was.
    Failed(Arc<StoreError>),
    /// The instance has ended; it is durable.
    Ended(End),
    /// No such instance is open here: it has ended, or never was.
    NotOpen,
    /// The instance is in this status, in which that cannot be done. Nothing has changed.
    Unfit(RuntimeStatus),
    /// It cannot be done, for this reason. Nothing has changed.
    Refused(String),
    /// So many bytes of events are recorded that no turn has taken: there is no room for another one. Nothing has changed.
    Crowded(usize),
}
