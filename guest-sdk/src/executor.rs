//! How does an orchestrator run? As one future, polled between events.
//!
//! The [`Executor`] owns the future; the [`Ledger`], which it shares with the future's context and tasks, knows what was
//! asked for and what was answered. Called by `module.rs` with the host's events, and by tests with events of their own:
//! nothing here needs a host.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};

use crate::bindings::exports::dacapo::guest::orchestrator::{
    Action, Continuation, End, Event, Outcome, Progress, RaisedEvent, Start,
};
use crate::continuation::CONTINUED_AS_NEW;
use crate::function::Execution;
use crate::http::without_query;
use crate::query::{Handler, Queries, only_looks, query_asked};
use crate::{Context, Result, rules};

/// Runs one execution of an orchestrator.
pub(crate) struct Executor {
    ledger: Rc<Ledger>,
    /// `None` once it has ended.
    root: Option<Execution>,
    woken: Arc<Woken>,
}

/// Natively, how often one event may have the future polled: far more than any honest one takes, and over in about a second.
/// On a host there is no such bound, since the host bounds the time of a turn.
const POLLS_MAX: u32 = 1_000_000;

impl Executor {
    /// Prepares an execution. `run` makes its future and runs nothing yet.
    pub(crate) fn new(mut start: Start, run: impl FnOnce(Context, String) -> Execution) -> Self {
        let input = mem::take(&mut start.input);
        let ledger = Rc::new(Ledger {
            payload_bytes_max: rules::payload_bytes_max(&start.extensions),
            start,
            doing: Cell::new(Doing::Nothing),
            entries: RefCell::default(),
            queries: Queries::default(),
        });
        let root = run(Context::new(ledger.clone()), input);
        Self { ledger, root: Some(root), woken: Arc::new(Woken::yes()) }
    }

    /// Takes `events` one at a time: applies one, runs until everything waits, takes the next. So it makes no
    /// difference how events are spread over calls.
    pub(crate) fn advance(&mut self, events: Vec<Event>) -> Progress {
        let mut outcome = None;
        for event in events {
            if let (Some(End::ContinuedAsNew(next)), Event::Raised(late)) = (&mut outcome, &event) {
                // Handed on whatever was asked for, as it would be if it had missed this call.
                next.keep.push(late.number);
            }
            let asked_before = self.ledger.entries.borrow().actions.len();
            self.ledger.apply(event);
            if let Some(end) = self.run_until_blocked() {
                self.ledger.forget_cancels_since(asked_before);
                outcome = Some(end);
            }
        }
        let mut entries = self.ledger.entries.borrow_mut();
        Progress { actions: mem::take(&mut entries.actions), custom_status: entries.custom_status.take(), outcome }
    }

    /// Answers the question `name` from what the execution has come to. Changes nothing that the host gets to hear of.
    ///
    /// # Errors
    /// `UnknownQuery` if the orchestrator answers no such question, `InvalidInput`, and `QueryAsked` if its handler asks for
    /// something.
    pub(crate) fn ask(&self, name: &str, input: &str) -> Result<String> {
        let handler = self.ledger.queries.find(name)?;
        self.ledger.doing.set(Doing::Query);
        let answer = handler(input);
        self.ledger.doing.set(Doing::Nothing);
        match self.ledger.queries.refused.take() {
            Some(what) => Err(query_asked(name, &what)),
            None => answer,
        }
    }

    /// The tasks that have no answer and were not dropped, for [`testing`](crate::testing).
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn open_tasks(&self) -> Vec<u32> {
        let entries = self.ledger.entries.borrow();
        (0..).zip(&entries.tasks).filter(|(_, slot)| matches!(slot, Slot::Open(_))).map(|(task, _)| task).collect()
    }

    /// Polls until nothing has woken the future since its last poll.
    fn run_until_blocked(&mut self) -> Option<End> {
        let waker = Waker::from(self.woken.clone());
        let mut polls = 0_u32;
        while let Some(root) = &mut self.root
            && self.woken.take()
        {
            polls = polls.saturating_add(1);
            assert!(
                cfg!(target_family = "wasm") || polls <= POLLS_MAX,
                "orchestrator {} has not come to wait after {POLLS_MAX} polls: something in it wakes itself again and again, such \
                 as `loop {{ yield_now().await }}`. Await something that was asked of its context, such as `ctx.sleep(…)`",
                self.ledger.start.function
            );
            self.ledger.doing.set(Doing::Orchestration);
            let poll = root.as_mut().poll(&mut std::task::Context::from_waker(&waker));
            self.ledger.doing.set(Doing::Nothing);
            if let Poll::Ready(result) = poll {
                self.root = None; // Its tasks give back the events that they hold.
                return Some(match (result, self.ledger.continuation()) {
                    (Ok(_), Some(next)) => End::ContinuedAsNew(next),
                    (Err(error), Some(next)) if error.kind() == CONTINUED_AS_NEW => End::ContinuedAsNew(next),
                    (Ok(output), None) => End::Completed(output),
                    (Err(error), _) => End::Failed(error.into_failure()),
                });
            }
        }
        None
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // A handler may hold a context, which holds the handlers.
        self.ledger.queries.forget();
    }
}

/// What an execution has asked for and been told, shared by the executor, the context and the tasks.
///
/// No waker is called or dropped while `entries` is borrowed: both may run code that comes back here.
pub(crate) struct Ledger {
    /// What the execution started with, but for the input, which the orchestrator has taken.
    pub(crate) start: Start,
    /// How long what is handed over may be, in bytes.
    pub(crate) payload_bytes_max: usize,
    /// Whose code runs at this moment.
    doing: Cell<Doing>,
    entries: RefCell<Entries>,
    pub(crate) queries: Queries,
}

/// Whose code may use a context.
#[derive(Clone, Copy, PartialEq)]
enum Doing {
    Nothing,
    /// Its own orchestrator, which may ask for anything.
    Orchestration,
    /// A handler of a query, which may only look.
    Query,
}

#[derive(Default)]
struct Entries {
    now_ms: u64,
    uuids: u64,
    /// By task number. Never shrinks: a number is never used again.
    tasks: Vec<Slot>,
    /// By the events' name in lower case.
    mailboxes: BTreeMap<String, Mailbox>,
    /// Since the last call of `advance`.
    actions: Vec<Action>,
    /// If set since the last call of `advance`.
    custom_status: Option<String>,
    /// What shall follow this execution, if anything. Its `keep` is not filled in yet.
    continuation: Option<(Continuation, Unread)>,
}

/// What becomes of the events that nobody has read when an execution is followed by another.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Unread {
    Keep,
    Drop,
}

/// What is known of one task.
enum Slot {
    /// Not answered. The waker of whoever polled last.
    Open(Option<Waker>),
    /// Answered, and nobody has taken the answer yet. Boxed, since most slots have no answer any more.
    Answered(Box<Outcome>),
    /// Answered by an event from outside, which nobody has taken yet.
    Raised(Box<RaisedEvent>),
    /// The answer was taken, or the task dropped.
    Closed,
}

/// The events of one name and those who wait for them.
#[derive(Default)]
struct Mailbox {
    /// The events that no wait has, the oldest first.
    unread: VecDeque<RaisedEvent>,
    /// The tasks that wait, the newest last. Those that were dropped stay until an event passes over them.
    waits: Vec<u32>,
}

impl Ledger {
    /// Asks for `action`, which has to be one that takes a number, and returns the number.
    ///
    /// # Errors
    /// If a query asks: it may only look. If more is handed over than the host takes.
    pub(crate) fn ask(&self, action: Action) -> Result<u32> {
        self.check_may_ask(|| what_is_asked(&action))?;
        rules::check_payload(payload_bytes(&action), self.payload_bytes_max, || what_is_asked(&action))?;
        let mut entries = self.entries.borrow_mut();
        // What is not answered takes a number all the same.
        let slot = match action {
            Action::StartDetached(_) | Action::SendEvent(_) => Slot::Closed,
            _ => Slot::Open(None),
        };
        let task = u32::try_from(entries.tasks.len()).expect("memory ends before the task numbers do");
        entries.tasks.push(slot);
        entries.actions.push(action);
        Ok(task)
    }

    /// Asks for an event called `name` and returns the task's number. The oldest one that nobody has read answers it at once.
    pub(crate) fn ask_for_event(&self, name: &str) -> Result<u32> {
        let task = self.ask(Action::WaitEvent(name.to_owned()))?;
        let mut entries = self.entries.borrow_mut();
        let mailbox = entries.mailboxes.entry(name.to_lowercase()).or_default();
        match mailbox.unread.pop_front() {
            Some(event) => entries.tasks[task as usize] = Slot::Raised(Box::new(event)),
            None => mailbox.waits.push(task),
        }
        Ok(task)
    }

    /// Takes the answer to `task`, or remembers whom to wake when it comes.
    pub(crate) fn poll_answer(&self, task: u32, waker: &Waker) -> Poll<Outcome> {
        if self.refuses_query(|| "the answer to a task".to_owned()) {
            return Poll::Pending;
        }
        let slot = self.replace(task, Slot::Closed);
        let waker = match slot {
            Slot::Answered(outcome) => return Poll::Ready(*outcome),
            Slot::Raised(event) => return Poll::Ready(Outcome::Completed(event.data)),
            Slot::Open(Some(known)) if known.will_wake(waker) => known,
            Slot::Open(_) => waker.clone(),
            Slot::Closed => panic!("task {task} was polled after it gave its answer"),
        };
        self.replace(task, Slot::Open(Some(waker)));
        Poll::Pending
    }

    /// Nobody waits for `task` any more. Asks for its cancellation, unless it was answered. An event that it had and that
    /// nobody has taken goes to another wait: events say what happened, and are not lost with the loser of a race.
    pub(crate) fn drop_task(&self, task: u32) {
        let is_closed = matches!(self.entries.borrow().tasks[task as usize], Slot::Closed);
        if is_closed || self.refuses_query(|| "the end of a task".to_owned()) {
            return;
        }
        match self.replace(task, Slot::Closed) {
            Slot::Open(_) => self.entries.borrow_mut().actions.push(Action::Cancel(task)),
            Slot::Raised(event) => self.raise(*event),
            Slot::Answered(_) | Slot::Closed => {}
        }
    }

    /// The time of this turn.
    pub(crate) fn now_ms(&self) -> u64 {
        self.entries.borrow().now_ms
    }

    /// 0, 1, 2 and so on.
    pub(crate) fn next_uuid_number(&self) -> u64 {
        // A query gets one too, and is refused when it is over.
        let _ = self.check_may_ask(|| "a new UUID".to_owned());
        let uuids = &mut self.entries.borrow_mut().uuids;
        *uuids += 1;
        *uuids - 1
    }

    pub(crate) fn set_custom_status(&self, json: String) -> Result<()> {
        if self.refuses_query(|| "a custom status".to_owned()) {
            return Err(only_looks());
        }
        self.entries.borrow_mut().custom_status = Some(json);
        Ok(())
    }

    /// What shall follow this execution when its orchestrator returns.
    pub(crate) fn continue_as_new(&self, next: Continuation, unread: Unread) -> Result<()> {
        self.check_may_ask(|| "a new execution".to_owned())?;
        self.entries.borrow_mut().continuation = Some((next, unread));
        Ok(())
    }

    /// Answers the question `name` by `handler` from now on.
    pub(crate) fn answer_query(&self, name: &str, handler: Handler) {
        if self.check_may_ask(|| "another query".to_owned()).is_ok() {
            self.queries.add(name, handler);
        }
    }

    /// What shall follow, with the numbers of the events that it gets.
    fn continuation(&self) -> Option<Continuation> {
        let mut entries = self.entries.borrow_mut();
        let (mut next, unread) = entries.continuation.take()?;
        if unread == Unread::Keep {
            next.keep.extend(entries.mailboxes.values().flat_map(|mailbox| &mailbox.unread).map(|event| event.number));
            // Whoever has leaked a task has not read its event.
            next.keep.extend(entries.tasks.iter().filter_map(|slot| match slot {
                Slot::Raised(event) => Some(event.number),
                _ => None,
            }));
            // A sort would take 4 KB of every guest, and this does as well.
            next.keep = BinaryHeap::from(mem::take(&mut next.keep)).into_sorted_vec();
        }
        Some(next)
    }

    /// Whoever keeps a context in a thread-local can use it in another execution, or after its own has ended, and would wait for
    /// ever. The compiler sees to all other ways.
    fn check_may_ask(&self, what: impl FnOnce() -> String) -> Result<()> {
        if self.refuses_query(what) {
            return Err(only_looks());
        }
        assert!(
            self.doing.get() == Doing::Orchestration,
            "this `Context` of instance {:?} is used while its orchestrator does not run: use the `ctx` that an orchestrator is \
             given only within that orchestrator, and keep it in no thread-local",
            self.start.instance_id
        );
        Ok(())
    }

    /// Whether a query asks for `what`. It fails when its handler returns.
    fn refuses_query(&self, what: impl FnOnce() -> String) -> bool {
        let refuses = self.doing.get() == Doing::Query;
        if refuses {
            self.queries.refused.borrow_mut().get_or_insert_with(what);
        }
        refuses
    }

    fn apply(&self, event: Event) {
        match event {
            Event::TurnStarted(now_ms) => self.entries.borrow_mut().now_ms = now_ms,
            Event::Resolved(answer) => self.answer(answer.task, Slot::Answered(Box::new(answer.outcome))),
            Event::Raised(event) => self.raise(event),
            // Nothing in this version of the SDK can wait for it.
            Event::Extension(_) => {}
        }
    }

    /// Answers the newest open wait for this event, or keeps it for the next one.
    fn raise(&self, event: RaisedEvent) {
        let mut entries = self.entries.borrow_mut();
        let Entries { tasks, mailboxes, .. } = &mut *entries;
        let mailbox = mailboxes.entry(event.name.to_lowercase()).or_default();
        while let Some(task) = mailbox.waits.pop() {
            if let Slot::Open(_) = tasks[task as usize] {
                drop(entries);
                return self.answer(task, Slot::Raised(Box::new(event)));
            }
        }
        // Last, unless a dropped wait gave it back.
        let index = mailbox.unread.partition_point(|other| other.number <= event.number);
        mailbox.unread.insert(index, event);
    }

    /// Passes over a task that was dropped, or was never asked for: the host tells the latter as a divergence, with
    /// more knowledge than the guest has.
    fn answer(&self, task: u32, answer: Slot) {
        let mut entries = self.entries.borrow_mut();
        let Some(slot @ Slot::Open(_)) = entries.tasks.get_mut(task as usize) else { return };
        let slot = mem::replace(slot, answer);
        drop(entries);
        if let Slot::Open(Some(waker)) = slot {
            waker.wake();
        }
    }

    /// An end ends all tasks, so the cancels of those that the orchestrator still held when it returned say nothing.
    fn forget_cancels_since(&self, index: usize) {
        let actions = &mut self.entries.borrow_mut().actions;
        let tail = actions.split_off(index);
        actions.extend(tail.into_iter().filter(|action| !matches!(action, Action::Cancel(_))));
    }

    fn replace(&self, task: u32, slot: Slot) -> Slot {
        mem::replace(&mut self.entries.borrow_mut().tasks[task as usize], slot)
    }
}

/// For the message of a query's failure.
fn what_is_asked(action: &Action) -> String {
    match action {
        Action::Activity(call) => format!("activity {}", call.name),
        Action::SubOrchestration(call) => format!("orchestrator {}", call.name),
        Action::StartDetached(start) => format!("a start of {}", start.name),
        Action::SendEvent(sent) => format!("event {} for instance {:?}", sent.name, sent.instance_id),
        Action::WaitEvent(name) => format!("event {name}"),
        Action::Timer(_) => "a timer".to_owned(),
        Action::Http(call) => format!("{} {}", call.method, without_query(&call.uri)),
        _ => "something".to_owned(),
    }
}

/// How long that is which is handed over with it, in bytes, as the host counts it.
fn payload_bytes(action: &Action) -> usize {
    match action {
        Action::Activity(call) => call.input.len(),
        Action::SubOrchestration(call) => call.input.len(),
        Action::StartDetached(start) => start.input.len(),
        Action::SendEvent(sent) => sent.data.len(),
        Action::Http(call) => {
            let headers: usize = call.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            call.method.len() + call.uri.len() + headers + call.body.as_ref().map_or(0, String::len)
        }
        _ => 0,
    }
}

/// A waker that sets a flag.
#[derive(Default)]
pub(crate) struct Woken(AtomicBool);

impl Woken {
    fn yes() -> Self {
        Self(AtomicBool::new(true))
    }

    /// Whether it was woken since the last time somebody asked.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests;
