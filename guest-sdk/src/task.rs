//! What an orchestrator awaits: one answer from the host.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use serde::de::DeserializeOwned;

use crate::bindings::exports::dacapo::guest::orchestrator::{Action, Outcome};
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
    /// Asked for as task `number`, which is the activity `name`.
    Asked { ledger: Rc<Ledger>, number: u32, name: Cow<'static, str> },
    /// Never asked for, because of this error.
    Refused(Error),
    /// The answer was given.
    Done,
}

impl<T> Task<T> {
    /// Asks for `action`, which is the activity `name`.
    pub(crate) fn ask(ledger: Rc<Ledger>, name: Cow<'static, str>, action: Action) -> Self {
        let number = ledger.ask(action);
        Self { state: State::Asked { ledger, number, name }, output: PhantomData }
    }

    /// A task that fails at once and that the host never hears of.
    pub(crate) fn refused(error: Error) -> Self {
        Self { state: State::Refused(error), output: PhantomData }
    }
}

impl<T: DeserializeOwned> Future for Task<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Result<T>> {
        if let State::Asked { ledger, number, .. } = &self.state {
            let Poll::Ready(outcome) = ledger.poll_answer(*number, cx.waker()) else { return Poll::Pending };
            let State::Asked { name, .. } = std::mem::replace(&mut self.state, State::Done) else { unreachable!() };
            return Poll::Ready(read(&name, outcome));
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::Refused(error) => Poll::Ready(Err(error)),
            _ => panic!("a task was polled after it gave its answer"),
        }
    }
}

fn read<T: DeserializeOwned>(name: &str, outcome: Outcome) -> Result<T> {
    match outcome {
        Outcome::Completed(json) => serde_json::from_str(&json)
            .map_err(|error| Error::new("InvalidOutput", format!("activity {name} gave something else than expected: {error}"))),
        Outcome::Failed(failure) => Err(Error::from_failure(failure)),
        Outcome::Fired => Err(unexpected(name, "fired")),
        Outcome::Extension((what, _)) => Err(unexpected(name, &what)),
    }
}

fn unexpected(name: &str, what: &str) -> Error {
    let message = format!("activity {name} was answered with `{what}`, which this module's SDK does not know");
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
            State::Asked { number, name, .. } => write!(f, "Task({number}, {name:?})"),
            State::Refused(error) => write!(f, "Task({error})"),
            State::Done => f.write_str("Task(done)"),
        }
    }
}
