//! What an orchestrator awaits: one answer from the host.

use std::any::type_name;
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use serde::de::DeserializeOwned;

use crate::bindings::exports::dacapo::guest::orchestrator::{Action, ActivityCall, Outcome};
use crate::executor::Ledger;
use crate::{Error, Result};

/// The answer to something that was asked for, as a future.
///
/// The work was asked for when the task was made, not when it is first polled: two tasks made one after the other run
/// side by side. Dropping a task that has no answer yet cancels it. Each task has a waker of its own, so a join over
/// ten thousand of them polls each once per answer, not once per event.
#[must_use = "a task that is dropped is cancelled; `.await` it"]
pub struct Task<T> {
    state: State,
    output: PhantomData<fn() -> T>,
}

enum State {
    /// Asked for as task `number`.
    Asked { ledger: Rc<Ledger>, number: u32, what: Asked },
    /// Never asked for, because of this error.
    Refused(Error),
    /// The answer was given.
    Done,
}

/// What a task was asked to do. Decides which answers it may get, and what is said of others.
enum Asked {
    Activity(Cow<'static, str>),
    Timer,
    Event(String),
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Activity(name) => write!(f, "activity {name}"),
            Self::Timer => f.write_str("a timer"),
            Self::Event(name) => write!(f, "event {name}"),
        }
    }
}

impl<T> Task<T> {
    /// Asks for a run of an activity.
    pub(crate) fn activity(ledger: Rc<Ledger>, name: Cow<'static, str>, call: ActivityCall) -> Self {
        let number = ledger.ask(Action::Activity(call));
        Self::asked(ledger, number, Asked::Activity(name))
    }

    /// Waits for an event from outside.
    pub(crate) fn event(ledger: Rc<Ledger>, name: &str) -> Self {
        let number = ledger.ask_for_event(name);
        Self::asked(ledger, number, Asked::Event(name.to_owned()))
    }

    /// A task that fails at once and that the host never hears of.
    pub(crate) fn refused(error: Error) -> Self {
        Self { state: State::Refused(error), output: PhantomData }
    }

    fn asked(ledger: Rc<Ledger>, number: u32, what: Asked) -> Self {
        Self { state: State::Asked { ledger, number, what }, output: PhantomData }
    }
}

impl Task<()> {
    /// Waits until `due_ms`.
    pub(crate) fn timer(ledger: Rc<Ledger>, due_ms: u64) -> Self {
        let number = ledger.ask(Action::Timer(due_ms));
        Self::asked(ledger, number, Asked::Timer)
    }
}

impl<T: DeserializeOwned> Future for Task<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Result<T>> {
        if let State::Asked { ledger, number, .. } = &self.state {
            let Poll::Ready(outcome) = ledger.poll_answer(*number, cx.waker()) else { return Poll::Pending };
            let State::Asked { what, .. } = std::mem::replace(&mut self.state, State::Done) else { unreachable!() };
            return Poll::Ready(read(&what, outcome));
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::Refused(error) => Poll::Ready(Err(error)),
            _ => panic!("a task was polled after it gave its answer"),
        }
    }
}

fn read<T: DeserializeOwned>(what: &Asked, outcome: Outcome) -> Result<T> {
    let json = match (what, outcome) {
        (_, Outcome::Failed(failure)) => return Err(Error::from_failure(failure)),
        (Asked::Timer, Outcome::Fired) => "null".to_owned(),
        (Asked::Activity(_) | Asked::Event(_), Outcome::Completed(json)) => json,
        (_, Outcome::Completed(_)) => return Err(unexpected(what, "completed")),
        (_, Outcome::Fired) => return Err(unexpected(what, "fired")),
        (_, Outcome::Extension((name, _))) => return Err(unexpected(what, &name)),
    };
    serde_json::from_str(&json).map_err(|error| match what {
        Asked::Event(_) => Error::new("InvalidEvent", format!("{what} cannot be read as {}: {error}", type_name::<T>())),
        _ => Error::new("InvalidOutput", format!("{what} gave something else than expected: {error}")),
    })
}

fn unexpected(what: &Asked, answer: &str) -> Error {
    let message = format!("{what} was answered with `{answer}`, which this module's SDK does not know");
    Error::new("UnknownOutcome", message).non_retriable()
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let State::Asked { ledger, number, .. } = &self.state {
            ledger.drop_task(*number);
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            State::Asked { number, what, .. } => write!(f, "Task({number}, {what})"),
            State::Refused(error) => write!(f, "Task({error})"),
            State::Done => f.write_str("Task(done)"),
        }
    }
}
