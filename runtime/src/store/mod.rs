//! What has to be kept, and what is durable when? The one door between the engine and a database.
//!
//! [`Store`] has a method per need of the engine. SQLite (`sqlite.rs`) is the store of a single machine, `memory.rs` that of tests,
//! which can fail at any write; one suite holds both to the same behaviour. Group commit lives above the trait, once
//! (`group.rs`). Only this folder knows SQL.

pub mod group;
#[cfg(test)]
pub mod memory;
pub mod schema;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

use crate::model::{
    Digest, Event, ExecutionKey, HubKey, HubName, InstanceId, InstanceKey, LogRecord, Message, MessageKey, ModuleName, Payload,
    RuntimeStatus, Tags, TaskId, Wake,
};

/// Events that are printed already, so that the writer only copies bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedEvents {
    /// A JSON array of [`Event`]s.
    pub json: String,
    /// How many there are; at least one.
    pub count: u32,
}

impl EncodedEvents {
    /// Prints `events`.
    pub fn of(events: &[Event]) -> Self {
        let count = u32::try_from(events.len()).expect("the limit on history is far below");
        let json = serde_json::to_string(events).expect("events have string keys and print without errors");
        Self { json, count }
    }
}

/// Lines of a guest that are printed already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedLines {
    /// A JSON array of [`LogRecord`]s.
    pub json: String,
    /// How many there are; at least one.
    pub count: u32,
    /// How many stood before them and were too many already; they have had their numbers.
    pub skipped: u32,
    /// How many bytes of lines the instance may have with these; older ones go. At least as long as `json`.
    pub kept_bytes_max: usize,
}

impl EncodedLines {
    /// Prints as many of the newest `lines` as there is room for. `None` if there is no line, or no room for one.
    pub fn of(lines: &[LogRecord], kept_bytes_max: usize) -> Option<Self> {
        let mut room = kept_bytes_max.saturating_sub(1); // For the first bracket; each line needs a byte behind it.
        let printed = lines.iter().rev().map(|line| serde_json::to_string(line).expect("lines are numbers and texts"));
        let mut kept: Vec<String> = printed
            .take_while(|json| {
                let left = room.checked_sub(json.len() + 1);
                room = left.unwrap_or(0);
                left.is_some()
            })
            .collect();
        kept.reverse();
        let number = |lines: usize| u32::try_from(lines).expect("the host bounds what a guest says in one call");
        let (count, skipped) = (number(kept.len()), number(lines.len() - kept.len()));
        (count > 0).then(|| Self { json: format!("[{}]", kept.join(",")), count, skipped, kept_bytes_max })
    }
}

/// Lines that an instance and its activities wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPage {
    /// Those that are still kept, with their numbers, which count from 0.
    pub lines: Vec<(u64, LogRecord)>,
    /// The number that the next line will get.
    pub next: u64,
}

/// What one step of one instance adds to the store: all of it or nothing.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Which instance.
    pub instance: InstanceKey,
    /// Which execution of it.
    pub execution: ExecutionKey,
    /// Appended behind what the execution has.
    pub events: EncodedEvents,
    /// What guests said in this step.
    pub lines: Option<EncodedLines>,
    /// What becomes of the instance's row.
    pub change: Change,
    /// What it has for other instances of the hub; kept until a commit takes it.
    pub sends: Vec<EncodedMessage>,
    /// What others had for it, which is recorded with this step; not kept any longer. One that is not there any more is no error.
    pub takes: Vec<MessageKey>,
}

impl Commit {
    /// How many bytes of events, lines and messages it adds.
    pub fn bytes(&self) -> usize {
        let messages: usize = self.sends.iter().map(|message| message.json.len()).sum();
        self.events.json.len() + self.lines.as_ref().map_or(0, |lines| lines.json.len()) + messages
    }
}

/// A message that is printed already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedMessage {
    /// Its number, from the range of the sender's partition.
    pub key: MessageKey,
    /// For whom.
    pub to: InstanceId,
    /// Its [`crate::model::Body`] as JSON.
    pub json: String,
}

impl EncodedMessage {
    /// Prints `message`.
    pub fn of(message: &Message) -> Self {
        let json = serde_json::to_string(&message.body).expect("messages have string keys and print without errors");
        Self { key: message.key, to: message.to.clone(), json }
    }
}

/// What a [`Commit`] does to the row of its instance.
#[derive(Debug, Clone)]
pub enum Change {
    /// The instance comes into being, in the place of an ended one with the same ID if there is one and it may: then the
    /// old row goes at once and its history in slices.
    Create(NewInstance),
    /// The instance goes on.
    Advance {
        /// How many events the execution must have before this commit.
        expected_length: u32,
        /// Its status from now on.
        status: RuntimeStatus,
        /// When this step happened, in milliseconds since 1970.
        updated_ms: u64,
        /// The new custom status, if it changed.
        custom_status: Option<Payload>,
        /// When it has to be looked at from now on, if that changed.
        wake: Option<Wake>,
        /// Why it is suspended, if its status says that it is, and if it was said. Taken note of only when the status changes.
        reason: Option<String>,
    },
    /// The instance, which has failed, goes on where it stood.
    Reopen {
        /// How many events the execution must have before this commit.
        expected_length: u32,
        /// Its status from now on.
        status: RuntimeStatus,
        /// The code from now on.
        module: Digest,
        /// When this step happened, in milliseconds since 1970.
        updated_ms: u64,
        /// When it has to be looked at.
        wake: Wake,
    },
    /// The instance goes on as a new execution, the one of the commit, whose first events these are. That of the one before is given up with
    /// its history, which goes in slices; its lines stay, and its tags.
    Continue {
        /// The execution before.
        from: ExecutionKey,
        /// How many events that must have.
        expected_length: u32,
        /// The code from now on.
        module: Digest,
        /// When this step happened, in milliseconds since 1970: the new execution's time of creation.
        created_ms: u64,
        /// The new custom status, if it changed.
        custom_status: Option<Payload>,
        /// When it has to be looked at.
        wake: Wake,
    },
}

/// What is known about an instance when it comes into being: at its start, or after its first turn if one commit has both.
#[derive(Debug, Clone)]
pub struct NewInstance {
    /// Its hub.
    pub hub: HubKey,
    /// Its ID, unique in the hub.
    pub id: InstanceId,
    /// The orchestrator's name, as the caller spelled it.
    pub function: String,
    /// The code.
    pub module: Digest,
    /// When the start was asked for, in milliseconds since 1970.
    pub created_ms: u64,
    /// Where it stands.
    pub status: RuntimeStatus,
    /// When it last got on, in milliseconds since 1970.
    pub updated_ms: u64,
    /// What its code said of itself.
    pub custom_status: Option<Payload>,
    /// Its labels.
    pub tags: Tags,
    /// When it has to be looked at.
    pub wake: Wake,
    /// What it may take the place of.
    pub replaces: Replaces,
}

/// What a new instance may take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replaces {
    /// Of an instance with the same ID that has ended.
    #[default]
    Ended,
    /// Of none, even if it has ended.
    Nothing,
}

impl Replaces {
    /// Whether an instance in this status may give way.
    pub fn allows(self, status: RuntimeStatus) -> bool {
        self == Self::Ended && status.is_ended()
    }
}

/// What became of one [`Commit`] of a batch that went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is durable.
    Done,
    /// Nothing of it was written: an instance that is not to be replaced has this ID, in this status. Only for [`Change::Create`].
    Refused(RuntimeStatus),
}

/// Stands for the instance of a superseded execution of which nothing is left but its number. Messages may name it still, and it is the
/// highest of its hub, which must not give it out again.
const NOTHING_LEFT: InstanceKey = InstanceKey(0);

/// What both stores say of a message whose number is used already.
fn message_is_there(key: MessageKey) -> StoreError {
    StoreError::Other(format!("message {} is there already", key.0))
}

/// Why the store did not do what it was asked. In every case nothing of the request is visible, with one exception that
/// its variant names.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another owner has taken over. This one must not write any more.
    #[error("another server has taken over this store (its epoch is past {epoch})")]
    Fenced {
        /// The epoch of the owner that was refused.
        epoch: i64,
    },
    /// An execution does not have the length that the commit was made for, or is not the one that its instance is at.
    #[error("execution {} is not at {expected} events", execution.0)]
    Conflict {
        /// Which one; for a [`Change::Continue`] the one before, unless the new one has events already.
        execution: ExecutionKey,
        /// What the commit expected.
        expected: u32,
    },
    /// The hub does not have the module that a new instance or execution was to run on: it was deleted meanwhile.
    #[error("no module of this task hub has the version {0}")]
    NoModule(Digest),
    /// A sync failed, now or earlier. What the disk holds is unknown; nothing is written until the server is restarted.
    #[error("a sync of the store has failed; nothing is written until the server is restarted: {0}")]
    Poisoned(String),
    /// The files are not where they were opened: they have been moved or deleted. Writing works again when they are back.
    #[error("the files of the store have been moved or deleted")]
    Gone,
    /// There is no space left. Writing may work again later.
    #[error("the disk of the store is full")]
    Full,
    /// The file was written by a newer version of this program.
    #[error("the store has schema version {found}, and this program knows versions up to {known}; run a newer version of it")]
    Newer {
        /// What the file says.
        found: i64,
        /// What this program reads.
        known: i64,
    },
    /// The file was written by an older version of this program, and was to stay as it is.
    #[error(
        "the store has schema version {found}, and this program reads version {known}: a server of this version brings it there when it \
         starts; or use the program that wrote it"
    )]
    Older {
        /// What the file says.
        found: i64,
        /// What this program reads.
        known: i64,
    },
    /// Another process has the store open.
    #[error("another process has {0} open; stop it first, or choose another data directory")]
    Locked(String),
    /// Something stored cannot be read.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Anything else that the database or the file system says.
    #[error("{0}")]
    Other(String),
}

/// A hub as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRow {
    /// Its number.
    pub key: HubKey,
    /// Its name, as it was first written.
    pub name: HubName,
    /// How many partitions it has, fixed when it came into being.
    pub partitions: u32,
}

/// An instance as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    /// Its number.
    pub key: InstanceKey,
    /// The number of its current execution.
    pub execution: ExecutionKey,
    /// How many events that has.
    pub length: u32,
    /// Its ID.
    pub id: InstanceId,
    /// The orchestrator's name, as the caller spelled it.
    pub function: String,
    /// The code of the current execution.
    pub module: Digest,
    /// Where it stands.
    pub status: RuntimeStatus,
    /// When its current execution was started, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it last got on, in milliseconds since 1970.
    pub updated_ms: u64,
    /// What its code last said of itself.
    pub custom_status: Option<Payload>,
    /// Its labels.
    pub tags: Tags,
    /// When it has to be looked at. Says nothing once it has ended.
    pub wake: Wake,
    /// Why it is suspended, if it is and if it was said.
    pub reason: Option<String>,
}

/// An open instance that has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRow {
    /// When, in milliseconds since 1970.
    pub wake_ms: u64,
    /// Its number.
    pub key: InstanceKey,
    /// Its ID.
    pub id: InstanceId,
}

/// What an activity said of its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Whose activity it is.
    pub execution: ExecutionKey,
    /// The task of its first attempt.
    pub task: TaskId,
    /// What it said last.
    pub payload: Payload,
}

/// Which instances a list shows: those that meet all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Created at this time or later, in milliseconds since 1970.
    pub created_from_ms: Option<i64>,
    /// Created at this time or earlier, in milliseconds since 1970.
    pub created_to_ms: Option<i64>,
    /// In one of these; `None` for any.
    pub statuses: Option<Vec<RuntimeStatus>>,
    /// That have all of these labels.
    pub tags: Tags,
    /// Whose ID begins with this text; case counts. With a text that is not empty, the list ascends by ID, else by time of creation
    /// and then ID.
    pub id_prefix: String,
}

impl Filter {
    /// Whether the list shows `row`.
    pub fn matches(&self, row: &InstanceRow) -> bool {
        let created_ms = row.created_ms.cast_signed();
        self.created_from_ms.is_none_or(|from| from <= created_ms)
            && self.created_to_ms.is_none_or(|to| created_ms <= to)
            && self.statuses.as_ref().is_none_or(|statuses| statuses.contains(&row.status))
            && row.id.as_str().starts_with(&self.id_prefix)
            && row.tags.contain(&self.tags)
    }
}

/// A place in a list: behind the instance with this ID, which need not be there any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When that was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its ID.
    pub id: InstanceId,
}

impl Position {
    /// Behind `row`.
    pub fn behind(row: &InstanceRow) -> Self {
        Self { created_ms: row.created_ms, id: row.id.clone() }
    }
}

/// A part of a list. It may have fewer rows than were asked for, even none, and yet go on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// In the order of the list.
    pub rows: Vec<InstanceRow>,
    /// Where more may follow.
    pub next: Option<Position>,
}

/// A module to keep, with what its catalog says.
#[derive(Debug, Clone)]
pub struct Upload<'a> {
    /// The hub, which comes into being with its first module.
    pub hub: &'a HubName,
    /// The module's name.
    pub name: &'a ModuleName,
    /// The digest of `bytes`.
    pub digest: Digest,
    /// As they were uploaded.
    pub bytes: &'a [u8],
    /// The catalog, as JSON that only the engine reads.
    pub catalog: &'a str,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What an upload changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// The module has not had this digest before.
    New,
    /// It has; this is its current version now.
    Known,
}

/// What came of deleting versions of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// The module has these no longer, and if it has no other, it is gone.
    Done(Vec<Digest>),
    /// There is no such module, or no such version of it. Nothing has changed; likewise below.
    Unknown,
    /// It is the current version, and the module has others.
    Current,
    /// Instances of the hub that have not ended run on it.
    InUse {
        /// Which version.
        digest: Digest,
        /// How many they are.
        count: u64,
        /// The first of them, at most three.
        some: Vec<InstanceId>,
    },
}

/// How many instances [`Deletion::InUse`] names.
const NAMED_MAX: usize = 3;

/// Which of a module's `versions` go with `digest`, or with all if that is `None`; or what speaks against it. Both stores decide so.
fn to_delete(versions: &[ModuleRow], digest: Option<Digest>) -> Result<Vec<Digest>, Deletion> {
    let meant: Vec<_> = versions.iter().filter(|row| digest.is_none_or(|digest| row.digest == digest)).collect();
    if meant.is_empty() {
        return Err(Deletion::Unknown);
    }
    if meant.len() < versions.len() && meant.iter().any(|row| row.current) {
        return Err(Deletion::Current);
    }
    Ok(meant.iter().map(|row| row.digest).collect())
}

/// One version of a module as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleRow {
    /// The module's name.
    pub name: ModuleName,
    /// This version.
    pub digest: Digest,
    /// Whether new instances get it.
    pub current: bool,
    /// When it was first uploaded, in milliseconds since 1970.
    pub uploaded_ms: u64,
    /// How large it is.
    pub bytes: u64,
    /// Its catalog, as it was given.
    pub catalog: String,
}

/// The store of a server. All methods block until they have an answer.
pub trait Store: Send + Sync + 'static {
    /// Writes a batch: all commits that are not refused, or none. Outcomes are in the order of the batch. On return they are
    /// durable: they survive a kill and a power loss.
    ///
    /// A batch must not hold two commits of one instance. The keys of new instances, executions and messages must lie in the range of their
    /// hub ([`ExecutionKey::range`]), and must not have been used before.
    ///
    /// # Errors
    /// [`StoreError::NoModule`] if the hub does not have the module of a new instance or execution, or has it no more.
    /// Nothing of the batch is written, unless the error is [`StoreError::Poisoned`]: then nobody knows.
    /// [`StoreError::Conflict`] also for a [`Change::Create`] whose instance is there already.
    fn commit(&self, batch: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError>;

    /// Keeps a module and makes it the current version under its name. Durable on return.
    ///
    /// # Errors
    /// Nothing has changed then, but for [`StoreError::Poisoned`].
    fn upload(&self, upload: &Upload<'_>) -> Result<Uploaded, StoreError>;

    /// Takes a version of a module away, or the whole module. From then on no instance of the hub can be created on it. Its bytes stay,
    /// see [`Store::discard_modules`]. Durable on return. Keeps other writes waiting while it counts the hub's open instances: for a
    /// second, if they are a million.
    ///
    /// # Errors
    /// As [`Store::upload`].
    fn delete_module(&self, hub: HubKey, name: &ModuleName, digest: Option<Digest>) -> Result<Deletion, StoreError>;

    /// Deletes the bytes of all modules that no hub has any more and no instance, ended or not, refers to; which they were. Nobody may upload
    /// meanwhile. Looks at all instances if there is such a module, without keeping writes waiting.
    ///
    /// # Errors
    /// As [`Store::upload`]; some bytes may be gone then.
    fn discard_modules(&self) -> Result<Vec<Digest>, StoreError>;

    /// All hubs, by number.
    fn hubs(&self) -> Result<Vec<HubRow>, StoreError>;

    /// All versions of all modules of a hub, by name, the newest upload first.
    fn modules(&self, hub: HubKey) -> Result<Vec<ModuleRow>, StoreError>;

    /// The bytes of a module, as they were uploaded to any hub.
    fn module_bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError>;

    /// How many instances that have not ended run on each digest.
    fn live_instances(&self, hub: HubKey) -> Result<Vec<(Digest, u64)>, StoreError>;

    /// One instance by its ID.
    fn instance(&self, hub: HubKey, id: &InstanceId) -> Result<Option<InstanceRow>, StoreError>;

    /// Instances of a hub that have not ended and have to be looked at later than `from_ms` and not later than `until_ms`, both in milliseconds since
    /// 1970; `None` for all that are due up to then, also those at once. Ascending by time and key from behind `after`, at most `max`; an empty
    /// page says that there is no more. A row that is damaged is left out, and told to the log: the others must go on.
    fn due(
        &self,
        hub: HubKey,
        from_ms: Option<u64>,
        until_ms: u64,
        after: Option<&DueRow>,
        max: usize,
    ) -> Result<Vec<DueRow>, StoreError>;

    /// Messages that instances of a hub have for each other, ascending by key from behind `after`, at most `max`, however large they are; an
    /// empty page says that there is no more. One that cannot be read is left out and told to the log, as above.
    fn inbox(&self, hub: HubKey, after: Option<MessageKey>, max: usize) -> Result<Vec<Message>, StoreError>;

    /// Gives up messages that nobody takes any more. Durable on return.
    ///
    /// # Errors
    /// As [`Store::commit`]; to be called again later.
    fn discard_messages(&self, keys: &[MessageKey]) -> Result<(), StoreError>;

    /// The highest message number below `end` and not below `first` that is stored.
    fn last_message(&self, first: MessageKey, end: MessageKey) -> Result<Option<MessageKey>, StoreError>;

    /// Keeps what activities said of their progress, in the place of what is kept for the same execution and task. Durable on return.
    ///
    /// # Errors
    /// As [`Store::commit`].
    fn save_progress(&self, progress: &[Progress]) -> Result<(), StoreError>;

    /// What an activity of this execution, whose first attempt was this task, said last and was kept.
    fn progress(&self, execution: ExecutionKey, task: TaskId) -> Result<Option<Payload>, StoreError>;

    /// Deletes up to `rows_max` rows of progress of executions that have ended, or that no instance points at; how many it were. Looks at
    /// all rows of progress, without keeping writes waiting.
    ///
    /// # Errors
    /// As [`Store::commit`]; to be called again later.
    fn sweep_progress(&self, rows_max: usize) -> Result<usize, StoreError>;

    /// All instances of a hub, ascending by key from behind `after`, at most `max`.
    fn instances(&self, hub: HubKey, after: Option<InstanceKey>, max: usize) -> Result<Vec<InstanceRow>, StoreError>;

    /// Instances of a hub that `filter` lets through, from behind `after`, at most `max`: see [`Filter`] for their order. Reads a bounded
    /// number of rows and bytes. A row that is damaged is left out, and told to the log.
    fn list(&self, hub: HubKey, filter: &Filter, after: Option<&Position>, max: usize) -> Result<Listed, StoreError>;

    /// The whole history of an execution; empty if there is none.
    fn history(&self, execution: ExecutionKey) -> Result<Vec<Event>, StoreError>;

    /// The events of an execution from number `from` on, which count from 0: as many as have `bytes_max` bytes together, about, but one
    /// at least if there is one.
    fn history_from(&self, execution: ExecutionKey, from: u32, bytes_max: usize) -> Result<Vec<Event>, StoreError>;

    /// The first event of an execution, which holds its input.
    fn first_event(&self, execution: ExecutionKey) -> Result<Option<Event>, StoreError>;

    /// The last event of an execution, which holds its end if it has ended. Reads all that the last commit appended, which may be
    /// megabytes: not for an execution that is known to go on.
    fn last_event(&self, execution: ExecutionKey) -> Result<Option<Event>, StoreError>;

    /// The lines of an instance, through all its executions, from number `from` on, as far as they are kept.
    fn log(&self, instance: InstanceKey, from: u64) -> Result<LogPage, StoreError>;

    /// The highest execution number below `end` and not below `first` that was ever used and is still stored anywhere but in a message.
    fn last_execution(&self, first: ExecutionKey, end: ExecutionKey) -> Result<Option<ExecutionKey>, StoreError>;

    /// Takes away instances that have ended, as far as they are still as `rows` say: who has got on since stays. How many went. Their IDs are
    /// free from then on; histories and lines go in slices, see [`Store::sweep`]. Durable on return. Other writes wait meanwhile, so
    /// `rows` should be some hundreds at most.
    ///
    /// # Errors
    /// As [`Store::commit`].
    fn purge(&self, rows: &[InstanceRow]) -> Result<usize, StoreError>;

    /// Deletes up to `rows_max` rows of executions that no instance points at any more: their histories, each from its end, lines of
    /// instances that are gone, and the note that says so. How many it were; fewer than `rows_max` if there is no more. Short, so that live work
    /// never waits for it. Of the highest number of a hub a note stays: numbers are not used twice.
    ///
    /// # Errors
    /// As [`Store::commit`]; to be called again later.
    fn sweep(&self, rows_max: usize) -> Result<usize, StoreError>;

    /// Writes next to nothing, to find out whether writing works.
    ///
    /// # Errors
    /// If it does not.
    fn probe(&self) -> Result<(), StoreError>;

    /// Leaves what is kept as it is best found by the next server, such as in one file. For the end; what is written later counts all the same.
    fn close(&self);

    /// How large the write-ahead log is, in bytes; 0 without one.
    fn wal_bytes(&self) -> u64;
}
