//! How does somebody follow an instance? Event by event from any place in its history, page by page as fast as it is taken, and then
//! step by step as it goes on.
//!
//! All of it comes from the store; the subscription of `changes.rs` says only when to look again. What a [`Follower`] holds is a page
//! at most, and for each open task where in the history it was asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::changes::Subscription;
use super::hub::{Hub, blocking, view};
use super::shell::Shell;
use super::views::InstanceView;
use crate::model::{Action, Digest, Event, ExecutionKey, Generation, InstanceId, InstanceKey, Outcome, Payload, Started, TaskId};
use crate::store::{InstanceRow, StoreError};

/// How many bytes of events are read at once. One event may have more.
const PAGE_BYTES_MAX: usize = 64 << 10;

/// How many bytes of what open tasks were asked with are kept for their answers; the others are read again.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// What a kept task takes beside its values, in bytes; about.
const KEPT_TASK_BYTES: usize = 256;

/// After which time to look for a change that nobody has told: another instance may have taken the ID.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// How often in a row a history may turn out to be going away while it is read.
const TRIES_MAX: u8 = 3;

/// What callers see of how an instance stands, in a few bytes: status, custom status and output. It stays the same for as long as
/// these do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub u32);

impl Fingerprint {
    fn of(row: &InstanceRow) -> Self {
        // What ends twice, after it was set back, has a longer history the second time.
        let end = if row.status.is_ended() { row.length } else { 0 };
        let custom_status = row.custom_status.as_ref().map_or("", Payload::text);
        let reason = row.reason.as_deref().unwrap_or_default();
        let Digest(hash) = Digest::of(format!("{} {end} {custom_status} {reason}", row.status as u8).as_bytes());
        Self(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]))
    }
}

/// How far somebody has come with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// With which of its executions.
    pub generation: Generation,
    /// Which of that one's events comes next, counted from 0.
    pub event: u32,
    /// How it stood as they last heard, if they did.
    pub seen: Option<Fingerprint>,
}

/// What there is to tell of an instance.
#[derive(Debug)]
pub enum Followed {
    /// The events that come next, in their order.
    Events(Vec<FollowedEvent>),
    /// How it stands, if that is not what was told last.
    Status(Box<InstanceView>),
    /// It has ended, and all was told; or it is not there any more.
    Ended,
}

/// An event with what it takes to show it without those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedEvent {
    /// Its number, counted from 0 in each execution.
    pub number: u32,
    /// What happened.
    pub event: Event,
    /// The guest's time in the last turn before it, or in its own; milliseconds since 1970.
    pub turn_at_ms: u64,
    /// For an answer: what it answers.
    pub asked: Option<Asked>,
}

/// What a task is, and when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The guest's time, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it asked for.
    pub action: Action,
}

/// Somebody who follows an instance.
pub struct Follower {
    hub: Hub,
    id: InstanceId,
    subscription: Subscription,
    /// `None` while it reads.
    reader: Option<Reader>,
}

impl Hub {
    /// Follows an instance from `from` on if that is a place in its current execution, else from the beginning of that one. `None` if
    /// there is no such instance.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn follow(&self, id: &InstanceId, from: Option<Place>) -> Result<Option<Follower>, StoreError> {
        let (shell, of) = (self.shell.clone(), id.clone());
        let begun = blocking(move || Reader::begin(&shell, &of, from)).await?;
        Ok(begun.map(|(instance, reader)| {
            let subscription = self.shell.machinery.changes.of(instance);
            Follower { hub: self.clone(), id: id.clone(), subscription, reader: Some(reader) }
        }))
    }

    /// An instance as [`Hub::instance`] shows it, once it stands otherwise than at the call (another status, custom status or output, or
    /// another execution), has ended or is gone; and at the latest after `longest`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn instance_changed(
        &self,
        id: &InstanceId,
        with_history: bool,
        longest: Duration,
    ) -> Result<Option<InstanceView>, StoreError> {
        let deadline = Instant::now() + longest;
        let stands = |row: &InstanceRow| (row.execution, Fingerprint::of(row));
        let Some(before) = self.row(id).await? else { return Ok(None) };
        let mut subscription = self.shell.machinery.changes.of(before.key);
        // It is looked at once more behind the subscription: there may have been a step between.
        while let Some(row) = self.row(id).await? {
            let left = deadline.saturating_duration_since(Instant::now());
            if stands(&row) != stands(&before) || row.status.is_ended() || left.is_zero() {
                break;
            }
            let _ = timeout(left.min(LOOK_AGAIN), subscription.changed()).await;
        }
        self.instance(id, with_history).await
    }

    async fn row(&self, id: &InstanceId) -> Result<Option<InstanceRow>, StoreError> {
        let (shell, id) = (self.shell.clone(), id.clone());
        blocking(move || shell.row_of(&id)).await
    }
}

impl Follower {
    /// How far it has come.
    pub fn place(&self) -> Place {
        let reader = self.reader();
        let event = reader.next.max(reader.resumes_at);
        Place { generation: reader.started.generation, event, seen: reader.seen }
    }

    /// The start of the execution that it is at, without its input.
    pub fn started(&self) -> &Started {
        &self.reader().started
    }

    /// Whether the instance had ended at the beginning, and there was nothing to tell.
    pub fn has_nothing_to_tell(&self) -> bool {
        self.reader().is_over
    }

    /// Waits for what comes next. After [`Followed::Ended`], or an error, there is nothing more.
    ///
    /// Not to be dropped before it is done: what it was reading is lost then.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn next(&mut self) -> Result<Followed, StoreError> {
        loop {
            let mut reader = self.reader.take().expect("it comes back with every step");
            let (shell, id, known) = (self.hub.shell.clone(), self.id.clone(), self.subscription.instance());
            let (reader, step) = blocking(move || {
                let step = reader.step(&shell, &id, known)?;
                Ok((reader, step))
            })
            .await?;
            self.reader = Some(reader);
            match step {
                Step::Told(followed) => return Ok(followed),
                Step::Again => (),
                Step::Replaced(instance) => self.subscription = self.hub.shell.machinery.changes.of(instance),
                Step::Idle => _ = timeout(LOOK_AGAIN, self.subscription.changed()).await,
            }
        }
    }

    fn reader(&self) -> &Reader {
        self.reader.as_ref().expect("it comes back with every step")
    }
}

/// What one look at the store gave.
enum Step {
    Told(Followed),
    /// Nothing yet, but there is more to read.
    Again,
    /// Nothing new.
    Idle,
    /// Another instance has the ID.
    Replaced(InstanceKey),
}

/// How far the history is read, and what is needed of it to go on.
struct Reader {
    execution: ExecutionKey,
    started: Started,
    /// The number of the next event to read.
    next: u32,
    /// The number of the first event that is told.
    resumes_at: u32,
    turn_at_ms: u64,
    tasks: BTreeMap<TaskId, Noted>,
    kept_bytes: usize,
    seen: Option<Fingerprint>,
    /// It was looked at how the instance stands; from now on the history goes before that.
    has_begun: bool,
    is_over: bool,
    tries: u8,
}

/// A task that may be answered.
struct Noted {
    /// The number of the event that says what it is.
    number: u32,
    at_ms: u64,
    /// What it is, if there was room for it.
    action: Option<Action>,
}

impl Reader {
    /// One for the current execution of an instance. Blocks.
    fn begin(shell: &Shell, id: &InstanceId, from: Option<Place>) -> Result<Option<(InstanceKey, Self)>, StoreError> {
        for _ in 0..TRIES_MAX {
            let Some(row) = shell.row_of(id)? else { return Ok(None) };
            let Some(started) = start_of(shell, row.execution)? else { continue }; // Replaced since the row was read.
            let mut reader = Self::new(row.execution, started);
            if let Some(from) = from.filter(|from| from.generation == reader.started.generation && from.event <= row.length) {
                (reader.resumes_at, reader.seen) = (from.event, from.seen);
                let is_seen = from.seen == Some(Fingerprint::of(&row));
                reader.is_over = row.status.is_ended() && from.event == row.length && is_seen;
            }
            return Ok(Some((row.key, reader)));
        }
        Err(StoreError::Corrupt(format!("the history of instance {id} is not whole")))
    }

    fn new(execution: ExecutionKey, started: Started) -> Self {
        Self {
            execution,
            turn_at_ms: started.at_ms,
            started,
            next: 0,
            resumes_at: 0,
            tasks: BTreeMap::new(),
            kept_bytes: 0,
            seen: None,
            has_begun: false,
            is_over: false,
            tries: 0,
        }
    }

    /// Looks what there is to tell of the instance `id`, which was `known` by this key. Blocks.
    fn step(&mut self, shell: &Shell, id: &InstanceId, known: InstanceKey) -> Result<Step, StoreError> {
        let Some(row) = shell.row_of(id)? else { return Ok(Step::Told(Followed::Ended)) };
        if row.execution != self.execution {
            let Some(started) = start_of(shell, row.execution)? else { return self.try_again(id) };
            // How it stands is told again: it has another input by now.
            *self = Self { has_begun: true, ..Self::new(row.execution, started) };
        }
        if row.key != known {
            return Ok(Step::Replaced(row.key));
        }
        let (fingerprint, is_behind, is_ended) = (Fingerprint::of(&row), self.next < row.length, row.status.is_ended());
        // How it stands is told at once to who comes, and after that behind what has led there. An end is always told last.
        let may_tell = !is_behind || !(self.has_begun || is_ended);
        self.has_begun = true;
        if may_tell && self.seen != Some(fingerprint) {
            let Some(view) = view(&*shell.machinery.store, row, false)? else { return self.try_again(id) };
            self.seen = Some(fingerprint);
            return Ok(Step::Told(Followed::Status(Box::new(view))));
        }
        if is_behind {
            return self.read(shell, id);
        }
        Ok(if is_ended { Step::Told(Followed::Ended) } else { Step::Idle })
    }

    /// Reads the next page. Blocks.
    fn read(&mut self, shell: &Shell, id: &InstanceId) -> Result<Step, StoreError> {
        let page = shell.machinery.store.history_from(self.execution, self.next, PAGE_BYTES_MAX)?;
        if page.is_empty() {
            return self.try_again(id); // It is being deleted, so there is another execution.
        }
        self.tries = 0;
        let mut again = Again::default();
        let mut told = Vec::new();
        for event in page {
            let number = self.next;
            let noted = self.note(number, &event);
            self.next += 1;
            if number < self.resumes_at {
                continue;
            }
            let asked = match noted {
                None => None,
                Some(Noted { at_ms, action: Some(action), .. }) => Some(Asked { at_ms, action }),
                Some(Noted { at_ms, action: None, number }) => {
                    again.action(shell, self.execution, number)?.map(|action| Asked { at_ms, action })
                }
            };
            told.push(FollowedEvent { number, event, turn_at_ms: self.turn_at_ms, asked });
        }
        Ok(if told.is_empty() { Step::Again } else { Step::Told(Followed::Events(told)) })
    }

    /// Takes in an event; returns the task that it answers, if it does.
    fn note(&mut self, number: u32, event: &Event) -> Option<Noted> {
        match event {
            Event::TurnStarted { at_ms, .. } => self.turn_at_ms = *at_ms,
            Event::Scheduled { task, action } if action.is_answered() => {
                let bytes = KEPT_TASK_BYTES + action.bytes();
                let action = (self.kept_bytes + bytes <= KEPT_BYTES_MAX).then(|| action.clone());
                self.kept_bytes += action.as_ref().map_or(0, |_| bytes);
                self.tasks.insert(*task, Noted { number, at_ms: self.turn_at_ms, action });
            }
            Event::Cancelled { task } => _ = self.take(*task),
            Event::Resolved { task, outcome, .. } => {
                let noted = self.take(*task);
                // What has failed may be asked for once more, and be answered again.
                if let (Some(Noted { number, at_ms, .. }), Outcome::Failed(_)) = (&noted, outcome) {
                    self.tasks.insert(*task, Noted { number: *number, at_ms: *at_ms, action: None });
                }
                return noted;
            }
            _ => (),
        }
        None
    }

    fn take(&mut self, task: TaskId) -> Option<Noted> {
        let noted = self.tasks.remove(&task)?;
        self.kept_bytes -= noted.action.as_ref().map_or(0, |action| KEPT_TASK_BYTES + action.bytes());
        Some(noted)
    }

    /// What was read did not fit together, as it does when the instance has gone on as another execution.
    fn try_again(&mut self, id: &InstanceId) -> Result<Step, StoreError> {
        self.tries += 1;
        if self.tries < TRIES_MAX {
            return Ok(Step::Again);
        }
        Err(StoreError::Corrupt(format!("the history of instance {id} is not whole")))
    }
}

/// A page of the history that is read a second time, since there was no room to keep it.
#[derive(Default)]
struct Again {
    first: u32,
    events: Vec<Event>,
}

impl Again {
    /// What the event `number` has asked for. Blocks.
    fn action(&mut self, shell: &Shell, execution: ExecutionKey, number: u32) -> Result<Option<Action>, StoreError> {
        let at = |again: &Self| number.checked_sub(again.first).map(|at| at as usize).filter(|at| *at < again.events.len());
        if at(self).is_none() {
            self.first = number;
            self.events = shell.machinery.store.history_from(execution, number, PAGE_BYTES_MAX)?;
        }
        Ok(at(self).and_then(|at| match &self.events[at] {
            Event::Scheduled { action, .. } => Some(action.clone()),
            _ => None,
        }))
    }
}

/// The start of an execution, without its input. `None` if it is not there any more.
fn start_of(shell: &Shell, execution: ExecutionKey) -> Result<Option<Started>, StoreError> {
    match shell.machinery.store.first_event(execution)? {
        Some(Event::Started(started)) => Ok(Some(Started { input: Payload::null(), ..started })),
        Some(_) => Err(StoreError::Corrupt(format!("the history of execution {} does not begin with its start", execution.0))),
        None => Ok(None),
    }
}
