//! How does an orchestrator run? As one future, polled between events.
//!
//! The [`Executor`] owns the future; the [`Ledger`], which it shares with the future's context and tasks, knows what was
//! asked for and what was answered. Called by `module.rs` with the host's events, and by tests with events of their own:
//! nothing here needs a host.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};

use crate::Context;
use crate::bindings::exports::dacapo::guest::orchestrator::{Action, End, Event, Outcome, Progress, RaisedEvent, Start};
use crate::function::Execution;

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
        let ledger = Rc::new(Ledger { start, at_work: Cell::new(false), entries: RefCell::default() });
        let root = run(Context::new(ledger.clone()), input);
        Self { ledger, root: Some(root), woken: Arc::new(Woken::yes()) }
    }

    /// Takes `events` one at a time: applies one, runs until everything waits, takes the next. So it makes no
    /// difference how events are spread over calls.
    pub(crate) fn advance(&mut self, events: Vec<Event>) -> Progress {
        let mut outcome = None;
        for event in events {
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
            self.ledger.at_work.set(true);
            let poll = root.as_mut().poll(&mut std::task::Context::from_waker(&waker));
            self.ledger.at_work.set(false);
            if let Poll::Ready(result) = poll {
                self.root = None;
                return Some(match result {
                    Ok(output) => End::Completed(output),
                    Err(error) => End::Failed(error.into_failure()),
                });
            }
        }
        None
    }
}

/// What an execution has asked for and been told, shared by the executor, the context and the tasks.
///
/// No waker is called or dropped while `entries` is borrowed: both may run code that comes back here.
pub(crate) struct Ledger {
    /// What the execution started with, but for the input, which the orchestrator has taken.
    pub(crate) start: Start,
    /// Whether its own orchestrator runs at this moment.
    at_work: Cell<bool>,
    entries: RefCell<Entries>,
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
    pub(crate) fn ask(&self, action: Action) -> u32 {
        self.check_at_work();
        let mut entries = self.entries.borrow_mut();
        let task = u32::try_from(entries.tasks.len()).expect("memory ends before the task numbers do");
        entries.tasks.push(Slot::Open(None));
        entries.actions.push(action);
        task
    }

    /// Asks for an event called `name` and returns the task's number. The oldest one that nobody has read answers it at once.
    pub(crate) fn ask_for_event(&self, name: &str) -> u32 {
        let task = self.ask(Action::WaitEvent(name.to_owned()));
        let mut entries = self.entries.borrow_mut();
        let mailbox = entries.mailboxes.entry(name.to_lowercase()).or_default();
        match mailbox.unread.pop_front() {
            Some(event) => entries.tasks[task as usize] = Slot::Raised(Box::new(event)),
            None => mailbox.waits.push(task),
        }
        task
    }

    /// Takes the answer to `task`, or remembers whom to wake when it comes.
    pub(crate) fn poll_answer(&self, task: u32, waker: &Waker) -> Poll<Outcome> {
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
        self.check_at_work();
        let uuids = &mut self.entries.borrow_mut().uuids;
        *uuids += 1;
        *uuids - 1
    }

    pub(crate) fn set_custom_status(&self, json: String) {
        self.entries.borrow_mut().custom_status = Some(json);
    }

    /// Whoever keeps a context in a thread-local can use it in another execution, or after its own has ended, and would wait for
    /// ever. The compiler sees to all other ways.
    fn check_at_work(&self) {
        assert!(
            self.at_work.get(),
            "this `Context` of instance {:?} is used while its orchestrator does not run: use the `ctx` that an orchestrator is \
             given only within that orchestrator, and keep it in no thread-local",
            self.start.instance_id
        );
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
mod tests;
