//! How does an orchestration go on for ever? By continuing as a new execution, whose history begins empty.

use serde::Serialize;

use crate::bindings::exports::dacapo::guest::orchestrator::Continuation;
use crate::executor::Unread;
use crate::{Context, Error, IntoInput, Orchestrator, Result};

/// What becomes of events and version when an orchestration continues as new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "options say nothing until they are handed over"]
pub struct ContinueOptions {
    drop_events: bool,
    keep_version: bool,
}

impl ContinueOptions {
    /// Unread events are handed on, and the new execution runs in the version that new instances get.
    pub const fn new() -> Self {
        Self { drop_events: false, keep_version: false }
    }

    /// Leaves behind the events that nobody has read. Those that come after the orchestrator has returned are handed on all the same.
    pub const fn drop_events(mut self) -> Self {
        self.drop_events = true;
        self
    }

    /// Stays on the version of the module that this execution runs in, whatever was uploaded since.
    pub const fn keep_version(mut self) -> Self {
        self.keep_version = true;
        self
    }
}

impl Context {
    /// Lets this orchestration go on as a new execution of `orchestrator`, which is the one that runs, with a new input and an empty
    /// history. So it may run for ever.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dacapo_guest::{prelude::*, testing};
    /// # #[activity] async fn sweep() -> Result<()> { Ok(()) }
    /// #[orchestrator]
    /// async fn sweep_daily(ctx: Context, day: u32) -> Result<()> {
    ///     ctx.call(sweep, ()).await?;
    ///     ctx.sleep(Duration::from_hours(24)).await?;
    ///     return ctx.continue_as_new(sweep_daily, day + 1);
    /// }
    /// # let week = Duration::from_hours(7 * 24 - 1);
    /// # let run = testing::scenario(sweep_daily, 0_u32).real(sweep).until(week).run();
    /// # assert_eq!((run.calls().len(), run.continued().len()), (7, 6));
    /// ```
    ///
    /// It takes effect when the orchestrator returns. What this gives is an error for that purpose: return it, by `return` or `?`. An
    /// orchestrator that returns another error has failed and does not go on; one that returns a value goes on nevertheless.
    ///
    /// The instance keeps its ID, its custom status, its tags and who waits for it. Events that nobody has read are handed on. Tasks
    /// that are open are forgotten; whatever runs for them is told to stop.
    pub fn continue_as_new<O: Orchestrator>(&self, orchestrator: fn() -> O, input: impl IntoInput<O::Input>) -> Result<O::Output>
    where
        O::Input: Serialize,
    {
        self.continue_as_new_with(orchestrator, input, ContinueOptions::new())
    }

    /// As [`continue_as_new`](Self::continue_as_new), and says what becomes of unread events and of the version.
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # use dacapo_guest::ContinueOptions;
    /// # #[orchestrator] async fn count(ctx: Context, number: u32) -> Result<u32> {
    /// ctx.continue_as_new_with(count, number + 1, ContinueOptions::new().drop_events().keep_version())
    /// # }
    /// ```
    pub fn continue_as_new_with<O: Orchestrator>(
        &self,
        orchestrator: fn() -> O,
        input: impl IntoInput<O::Input>,
        options: ContinueOptions,
    ) -> Result<O::Output>
    where
        O::Input: Serialize,
    {
        let _ = orchestrator; // Said all it has to say by its type.
        let here = &self.ledger.start.function;
        if O::NAME != here {
            let message = format!(
                "orchestrator {here} cannot continue as {}: it continues as itself; to let another one follow, `ctx.start(…)` it",
                O::NAME
            );
            return Err(Error::new("ContinuedAsAnother", message).non_retriable());
        }
        Err(self.continue_with(&input.into_input(), options))
    }

    /// Notes what shall follow, and makes the error that says so.
    pub(crate) fn continue_with(&self, input: &impl Serialize, options: ContinueOptions) -> Error {
        let input = match serde_json::to_string(input) {
            Ok(json) => json,
            Err(error) => {
                let message = format!("the input to continue with has no form in JSON: {error}");
                return Error::new("InvalidInput", message).non_retriable();
            }
        };
        let next = Continuation { input, keep: Vec::new(), keep_version: options.keep_version, options: Vec::new() };
        let unread = if options.drop_events { Unread::Drop } else { Unread::Keep };
        match self.ledger.continue_as_new(next, unread) {
            Ok(()) => {
                Error::new(CONTINUED_AS_NEW, "this orchestration goes on as a new execution as soon as its code returns this")
            }
            Err(error) => error,
        }
    }
}

/// The kind of the error that an orchestrator returns to go on.
pub(crate) const CONTINUED_AS_NEW: &str = "ContinuedAsNew";
