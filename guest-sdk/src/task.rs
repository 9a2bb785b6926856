//! What an orchestrator awaits: one answer from the host, or what comes of several.

use std::any::type_name;
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
use crate::{Error, Result, rules};

/// The answer to something that was asked for, as a future.
///
/// The work was asked for when the task was made, not when it is first polled: two tasks made one after the other run
/// side by side. Dropping a task that has no answer yet cancels it. Each task has a waker of its own, so a join over
/// ten thousand of them polls each once per answer, not once per event.
///
/// A call with a [`RetryPolicy`](crate::RetryPolicy) is a task too: its first attempt starts at once, the waits and attempts
/// behind it as the task is polled.
#[must_use = "a task that is dropped is cancelled; `.await` it"]
pub struct Task<T> {
    state: State<T>,
    output: PhantomData<fn() -> T>,
}

enum State<T> {
    /// One question.
    Asked(Asked),
    /// Several, one after the other.
    Composed(What, Composed<T>),
    /// Never asked for, because of this error.
    Refused(Error),
    /// The answer was given.
    Done,
}

type Composed<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

/// What a task was asked to do. Decides which answers it may get, and what is said of others.
#[derive(Clone)]
pub(crate) enum What {
    Activity(Cow<'static, str>),
    Orchestrator(Cow<'static, str>),
    Timer,
    Event(String),
    /// The URI without its query, which may have keys in it.
    Http(String),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Activity(name) => write!(f, "activity {name}"),
            Self::Orchestrator(name) => write!(f, "orchestrator {name}"),
            Self::Timer => f.write_str("a timer"),
            Self::Event(name) => write!(f, "event {name}"),
            Self::Http(uri) => write!(f, "the request to {uri}"),
        }
    }
}

/// One question to the host and its answer, as JSON.
pub(crate) struct Asked {
    ledger: Rc<Ledger>,
    /// The number of the task.
    pub(crate) number: u32,
    what: What,
}

impl Asked {
    /// Asks for `action`.
    ///
    /// # Errors
    /// If a query asks.
    pub(crate) fn ask(ledger: &Rc<Ledger>, action: Action, what: What) -> Result<Self> {
        Ok(Self { number: ledger.ask(action)?, ledger: ledger.clone(), what })
    }
}

impl Future for Asked {
    type Output = Result<String>;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Result<String>> {
        self.ledger.poll_answer(self.number, cx.waker()).map(|outcome| match (&self.what, outcome) {
            (_, Outcome::Failed(failure)) => Err(Error::from_failure(failure)),
            (What::Timer, Outcome::Fired) => Ok("null".to_owned()),
            (what, Outcome::Fired) => Err(unexpected(what, "fired")),
            (what @ What::Timer, Outcome::Completed(_)) => Err(unexpected(what, "completed")),
            (_, Outcome::Completed(json)) => Ok(json),
            (what, Outcome::Extension((name, _))) => Err(unexpected(what, &name)),
        })
    }
}

impl Drop for Asked {
    /// Cancels what is not answered. What is answered is closed, and nothing happens.
    fn drop(&mut self) {
        self.ledger.drop_task(self.number);
    }
}

impl<T> Task<T> {
    /// Asks for `action`.
    pub(crate) fn ask(ledger: &Rc<Ledger>, action: Action, what: What) -> Self {
        Asked::ask(ledger, action, what).into()
    }

    /// Waits for an event from outside.
    pub(crate) fn event(ledger: Rc<Ledger>, name: &str) -> Self {
        let asked = rules::check_event(name).and_then(|()| ledger.ask_for_event(name));
        let asked = asked.map(|number| Asked { ledger, number, what: What::Event(name.to_owned()) });
        asked.into()
    }

    /// Several questions, one after the other; `future` has asked the first one already.
    pub(crate) fn composed(what: What, future: impl Future<Output = Result<T>> + 'static) -> Self {
        Self { state: State::Composed(what, Box::pin(future)), output: PhantomData }
    }

    /// A task that fails at once and that the host never hears of.
    pub(crate) fn refused(error: Error) -> Self {
        Self { state: State::Refused(error), output: PhantomData }
    }
}

impl<T> From<Result<Asked>> for Task<T> {
    fn from(asked: Result<Asked>) -> Self {
        Self { state: asked.map_or_else(State::Refused, State::Asked), output: PhantomData }
    }
}

impl<T: DeserializeOwned> Future for Task<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Result<T>> {
        let answer = match &mut self.state {
            State::Asked(asked) => match Pin::new(&mut *asked).poll(cx) {
                Poll::Ready(json) => json.and_then(|json| read(&asked.what, &json)),
                Poll::Pending => return Poll::Pending,
            },
            State::Composed(_, future) => match future.as_mut().poll(cx) {
                Poll::Ready(answer) => answer,
                Poll::Pending => return Poll::Pending,
            },
            State::Refused(error) => Err(error.clone()),
            State::Done => panic!("a task was polled after it gave its answer"),
        };
        self.state = State::Done;
        Poll::Ready(answer)
    }
}

/// The value that `what` gave.
pub(crate) fn read<T: DeserializeOwned>(what: &What, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| match what {
        What::Event(_) => Error::new("InvalidEvent", format!("{what} cannot be read as {}: {error}", type_name::<T>())),
        _ => Error::new("InvalidOutput", format!("{what} gave something else than expected: {error}")),
    })
}

fn unexpected(what: &What, answer: &str) -> Error {
    let message = format!("{what} was answered with `{answer}`, which this module's SDK does not know");
    Error::new("UnknownOutcome", message).non_retriable()
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            State::Asked(Asked { number, what, .. }) => write!(f, "Task({number}, {what})"),
            State::Composed(what, _) => write!(f, "Task({what})"),
            State::Refused(error) => write!(f, "Task({error})"),
            State::Done => f.write_str("Task(done)"),
        }
    }
}
