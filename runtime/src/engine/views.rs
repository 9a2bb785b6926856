//! What do callers ask of the engine, and what do they get to see?

use std::sync::Arc;

use crate::model::{Digest, End, Event, Failure, Idempotency, InstanceId, Payload, RuntimeStatus, Tags};
use crate::store::{InstanceRow, Position, StoreError};

/// A request to start an instance.
#[derive(Debug, Clone)]
pub struct StartRequest {
    /// The orchestrator's name; found without regard to case, kept as it is.
    pub function: String,
    /// The instance's ID; drawn if absent.
    pub instance: Option<InstanceId>,
    /// The input; `null` if there is none.
    pub input: Payload,
    /// Labels.
    pub tags: Tags,
    /// What the start is to be known again by.
    pub idempotency: Option<Idempotency>,
    /// What becomes of an instance that has the ID already.
    pub existing: Existing,
}

/// What a start makes of an instance that has its ID already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Replaces it if it has ended, and is refused otherwise.
    #[default]
    ReplaceEnded,
    /// Replaces it, and terminates it before if it has not ended: whoever waits for it hears of that.
    Replace,
    /// Leaves it as it is. It is what this start gives if it was started with the same key for the same, and otherwise the start is refused.
    /// Without an ID, the key leads to one.
    Keep,
}

/// Why an instance was not started. Nothing has changed then, with one exception: after [`StartError::Store`] with
/// [`StoreError::Poisoned`] nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No module of the hub has such an orchestrator.
    #[error("no module in this task hub has an orchestrator named {0:?}; upload one that has, or check the name")]
    UnknownOrchestrator(String),
    /// A live instance has this ID.
    #[error("instance {id} exists already and is {status}; wait for its end, or choose another ID")]
    InstanceExists {
        /// The ID in question.
        id: InstanceId,
        /// How that instance stands.
        status: RuntimeStatus,
    },
    /// The ID or the key stands for an instance that was not started by the same request.
    #[error("instance {id} exists already and was started with {why}")]
    StartedOtherwise {
        /// The ID in question.
        id: InstanceId,
        /// With what it was started, and what to do.
        why: &'static str,
    },
    /// The server has as much work queued as it can hold. Try again a little later.
    #[error("the server has too much work queued; try again in a moment")]
    Overloaded,
    /// The server is about to stop.
    #[error("the server is shutting down; try again in a moment")]
    ShuttingDown,
    /// The start could not be recorded.
    #[error("the start could not be recorded: {0}")]
    Store(Arc<StoreError>),
}

/// Why nothing was done to an instance. Nothing has changed then, with one exception: after [`ControlError::Store`] with
/// [`StoreError::Poisoned`] nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is none with this ID.
    #[error("there is no such instance")]
    NotFound,
    /// It has ended, in this status.
    #[error("the instance is {0}, and has ended with that")]
    Ended(RuntimeStatus),
    /// It is in this status, in which that cannot be done.
    #[error("the instance is {0}, and in that status this cannot be done")]
    Unfit(RuntimeStatus),
    /// It cannot be done, for this reason.
    #[error("{0}")]
    Refused(String),
    /// Its code does not get to the events that are raised to it.
    #[error(
        "instance {id} has {bytes} bytes of events that its code has not taken, and gets no more beyond {max} (limit \
         unread_event_bytes_max): resume it if it is suspended, or wait until its code gets to them"
    )]
    Crowded {
        /// Which one.
        id: InstanceId,
        /// How much they take in memory.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The server has as much work queued as it can hold. Try again a little later.
    #[error("the server has too much work queued; try again in a moment")]
    Overloaded,
    /// The server is about to stop.
    #[error("the server is shutting down; try again in a moment")]
    ShuttingDown,
    /// The store cannot be read.
    #[error("the instance cannot be read: {0}")]
    Unreadable(StoreError),
    /// It could not be recorded.
    #[error("it could not be recorded: {0}")]
    Store(Arc<StoreError>),
}

/// Why an instance was not purged.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// There is none with this ID.
    #[error("there is no such instance")]
    NotFound,
    /// It has not ended.
    #[error("instance {id} is {status}; wait for its end, or terminate it, before you purge it")]
    Open {
        /// Which one.
        id: InstanceId,
        /// How it stands.
        status: RuntimeStatus,
    },
    /// The store cannot be read or written.
    #[error("it could not be purged: {0}")]
    Store(#[from] StoreError),
}

/// How far a purge of many instances has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// How many instances are gone.
    pub count: usize,
    /// Whether these are all that were meant.
    pub is_all: bool,
}

/// Why a question about an instance has no answer. Nothing has changed in any case.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There is no instance with this ID.
    #[error("there is no such instance")]
    NotFound,
    /// None of its code has run, so there is nothing to ask; it has this status.
    #[error("none of the instance's code has run: it is {0}")]
    NotRun(RuntimeStatus),
    /// It answers no question of this name; the failure says so in the words of its SDK.
    #[error("{}", .0.message)]
    Unknown(Failure),
    /// Its code has refused the question, or could not answer it.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// The guest was at fault while it was brought to where the instance stands, or while it was asked.
    #[error("the guest was at fault: {}", .0.message)]
    Faulted(Failure),
    /// The guest did not repeat its history, so it would answer for something else. The text shows both sides.
    #[error("the module does not repeat its history: {0}")]
    Diverged(String),
    /// The server answers as many questions as it can at once. Try again a little later.
    #[error("the server has too many queries to answer; try again in a moment")]
    Overloaded,
    /// The answer did not come in time: the instance's history is long, or its module is slow.
    #[error("the answer takes too long: the instance's history is long, or other work of its module is in the way")]
    TooSlow,
    /// The server is about to stop.
    #[error("the server is shutting down; try again in a moment")]
    ShuttingDown,
    /// The store cannot be read.
    #[error("the instance cannot be read: {0}")]
    Unreadable(StoreError),
    /// The server could not do its part.
    #[error("the query could not be run: {0}")]
    Host(String),
}

/// Why a module was not taken. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The bytes are not a module that can run here; the text says what is wrong with them.
    #[error("{0}")]
    Invalid(String),
    /// Another module of the hub has a function of this name.
    #[error("function {function:?} belongs to module {owner:?} of this task hub already; rename it, or upload under that name")]
    FunctionTaken {
        /// The name in question, as the new module spells it.
        function: String,
        /// The module that has it.
        owner: String,
    },
    /// So many are under way that this one has to come later.
    #[error("the server takes as many modules at once as it may; try again in a moment")]
    Crowded,
    /// The store could not do its part.
    #[error("the module could not be taken: {0}")]
    Store(#[from] StoreError),
    /// The server could not do its part: the compiler or the file system failed.
    #[error("the module could not be taken: {0}")]
    Internal(String),
}

/// Why a module, or a version of it, was not deleted. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// There is none.
    #[error("there is no such module or version")]
    Unknown,
    /// The version is the current one, and the module has others.
    #[error(
        "this is the current version, which new instances get; upload another version first, which makes that the current one, or \
         delete the whole module"
    )]
    Current,
    /// Instances need it.
    #[error("{}", in_use(*digest, *count, some))]
    InUse {
        /// Which version.
        digest: Digest,
        /// How many instances that have not ended run on it.
        count: u64,
        /// The first few of them.
        some: Vec<InstanceId>,
    },
    /// The store could not do its part.
    #[error("the module could not be deleted: {0}")]
    Store(#[from] StoreError),
    /// The server could not do its part.
    #[error("the module could not be deleted: {0}")]
    Internal(String),
}

fn in_use(digest: Digest, count: u64, some: &[InstanceId]) -> String {
    let names: Vec<String> = some.iter().map(|id| format!("{:?}", id.as_str())).collect();
    let (names, more) = (names.join(", "), if count > some.len() as u64 { " and others" } else { "" });
    let instances = if count == 1 { "1 instance that has not ended runs" } else { "instances that have not ended run" };
    let count = if count == 1 { String::new() } else { format!("{count} ") };
    format!("{count}{instances} on version {digest}: {names}{more}; wait for their end, or terminate them")
}

/// A module that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedModule {
    /// Whether this digest is new under this name.
    pub new: bool,
    /// It, as listings show it.
    pub version: ModuleVersion,
}

/// A module with all its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleView {
    /// Its name.
    pub name: String,
    /// What new instances run on.
    pub current: Digest,
    /// All versions, the newest upload first.
    pub versions: Vec<ModuleVersion>,
}

/// One version of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleVersion {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// When it was first uploaded, in milliseconds since 1970.
    pub uploaded_ms: u64,
    /// How large it is.
    pub bytes: u64,
    /// What made it, in its own words.
    pub generator: String,
    /// The orchestrators it has, as it spells them.
    pub orchestrators: Vec<String>,
    /// The activities it has, as it spells them.
    pub activities: Vec<String>,
    /// How many instances that have not ended run on it.
    pub live_instances: u64,
}

/// An instance with what is asked for most.
#[derive(Debug, Clone)]
pub struct InstanceView {
    /// As it is stored.
    pub row: InstanceRow,
    /// Its input.
    pub input: Payload,
    /// How its current execution ended, if it did.
    pub end: Option<End>,
    /// The events of the current execution, if they were asked for.
    pub history: Option<Vec<Event>>,
}

/// A part of a list of instances.
#[derive(Debug, Clone)]
pub struct InstancePage {
    /// In the order of the list, none with its history.
    pub instances: Vec<InstanceView>,
    /// Where more may follow.
    pub next: Option<Position>,
}
