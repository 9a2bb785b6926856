//! What can an orchestrator do? Everything it may ask of the host goes through its [`Context`].
//!
//! Here are time, events and what it knows of itself; calls and starts are in `call.rs`, HTTP in `http.rs`, going on as a new
//! execution in `continuation.rs`, queries in `query.rs`.

use std::fmt;
use std::future::{self, Future};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::bindings::exports::dacapo::guest::orchestrator::Action;
use crate::executor::Ledger;
use crate::task::What;
use crate::{Error, Result, Task, Timeout, rules};

/// An orchestrator's side of its execution. Clones are cheap and all the same.
#[derive(Clone)]
pub struct Context {
    pub(crate) ledger: Rc<Ledger>,
}

impl Context {
    pub(crate) fn new(ledger: Rc<Ledger>) -> Self {
        Self { ledger }
    }

    /// Waits for `duration` from [`now`](Self::now) on, rounded up to a millisecond. It may be years: the wait outlives the
    /// server and costs nothing.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dacapo_guest::prelude::*;
    /// # async fn remind(ctx: Context) -> Result<()> {
    /// ctx.sleep(Duration::from_hours(24)).await?;
    /// # Ok(()) }
    /// ```
    pub fn sleep(&self, duration: Duration) -> Task<()> {
        let due_ms = self.ledger.now_ms().saturating_add(ceil_to_ms(duration));
        Task::ask(&self.ledger, Action::Timer(due_ms), What::Timer)
    }

    /// Waits until `time`, rounded up to a millisecond. One that has passed is over at once.
    pub fn sleep_until(&self, time: SystemTime) -> Task<()> {
        Task::ask(&self.ledger, Action::Timer(since_epoch_ms(time)), What::Timer)
    }

    /// Waits for an event from outside that is called `name`, in whatever case.
    ///
    /// Each event goes to one wait. If none is open, the event is kept, and the next wait gets the oldest one at once. If
    /// several are open, the newest gets it. A wait that is dropped leaves its event to the others, even if it had come and
    /// was not looked at: the loser of a race takes none with it. An event that cannot be read as `T` is an error of the wait
    /// that got it.
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # async fn approve(ctx: Context) -> Result<()> {
    /// let approved: bool = ctx.event("approve").await?;
    /// # Ok(()) }
    /// ```
    pub fn event<T: DeserializeOwned>(&self, name: &str) -> Task<T> {
        Task::event(self.ledger.clone(), name)
    }

    /// Gives `future` only so long: a race against a durable timer that starts now. Whichever loses is dropped, and with it
    /// every task it holds is cancelled.
    ///
    /// What comes out is the future's own output, or [`Timeout`], which `?` turns into an error of kind `Timeout`. So tasks,
    /// which have results themselves, need two `?`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dacapo_guest::prelude::*;
    /// # #[activity] async fn charge(cents: u32) -> Result<String> { Ok(String::new()) }
    /// # async fn order(ctx: Context) -> Result<()> {
    /// let day = Duration::from_hours(24);
    /// let approved = match ctx.timeout(day, ctx.event::<bool>("approve")).await {
    ///     Ok(answer) => answer?,
    ///     Err(_timeout) => false,
    /// };
    /// let receipt = ctx.timeout(day, ctx.call(charge, 250_u32)).await??;
    /// # Ok(()) }
    /// ```
    pub fn timeout<F: Future>(
        &self,
        after: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Timeout>> + Unpin + use<F> {
        let timer = self.sleep(after); // Starts here, not at the first poll.
        // Boxed to be `Unpin` as tasks are, which `select` asks of what it takes.
        Box::pin(async move {
            let (mut future, mut timer) = (pin!(future), pin!(timer));
            future::poll_fn(|cx| {
                // First, so that a future that is ready when the time is up has come in time.
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    return Poll::Ready(Ok(output));
                }
                timer.as_mut().poll(cx).map(|fired| match fired {
                    Ok(()) => Err(Timeout { after }),
                    Err(error) => panic!("the timer of a timeout failed: {error}"),
                })
            })
            .await
        })
    }

    /// The time of this turn. It moves only when the orchestrator gets to hear something, and is the same in replays.
    pub fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.ledger.now_ms())
    }

    /// As [`now`](Self::now), in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        self.ledger.now_ms()
    }

    /// A new UUID (version 5) that is unique to this execution and the same in replays.
    pub fn new_uuid(&self) -> Uuid {
        let generation = Uuid::new_v5(&UUIDS, self.ledger.start.generation.as_bytes());
        Uuid::new_v5(&generation, &self.ledger.next_uuid_number().to_be_bytes())
    }

    /// Shows `status` to whoever asks for this instance; `&()` takes it away. The last one of a turn is seen.
    ///
    /// # Errors
    /// If `status` has no form in JSON, or one of more than 8,192 characters (16 KiB of UTF-16).
    pub fn set_custom_status(&self, status: &(impl Serialize + ?Sized)) -> Result<()> {
        let json = serde_json::to_string(status)
            .map_err(|error| Error::new("InvalidStatus", format!("a custom status has no form in JSON: {error}")))?;
        rules::check_status(&json)?;
        self.ledger.set_custom_status(json)
    }

    /// The ID by which callers know this instance.
    pub fn instance_id(&self) -> &str {
        &self.ledger.start.instance_id
    }

    /// The instance that waits for this one, if any does.
    pub fn parent(&self) -> Option<&str> {
        self.ledger.start.parent.as_deref()
    }

    /// The labels this instance was started with, as names and values, sorted by name.
    pub fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.ledger.start.tags.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// At least `duration`, in milliseconds.
pub(crate) fn ceil_to_ms(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000).saturating_add(duration.subsec_nanos().div_ceil(1_000_000).into())
}

/// Milliseconds since 1970, rounded up; 0 for what was before.
pub(crate) fn since_epoch_ms(time: SystemTime) -> u64 {
    ceil_to_ms(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// The namespace of all UUIDs made here. Changing it would make replays of recorded executions diverge.
const UUIDS: Uuid = Uuid::from_u128(0xdaca_9000_6755_4573_8e1d_0b51_d1b2_77a4);

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({:?})", self.instance_id())
    }
}
