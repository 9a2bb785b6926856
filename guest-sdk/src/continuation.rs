//! How does an orchestration go on for ever? By continuing as a new execution, whose history begins empty.

use serde::Serialize;

use crate::bindings::exports::dacapo::guest::orchestrator::Continuation;
use crate::executor::Unread;
use crate::{Context, Error, IntoInput, Orchestrator, Result, rules};

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

    /// Leaves behind the events that nobody has read. Those that come after the orchestrator has returned are handed on all
    /// the same.
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
    /// Lets this orchestration go on as a new execution of `orchestrator`, which is the one that runs, with a new input and an
    /// empty history. So it may run for ever.
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
    /// It takes effect when the orchestrator returns. What this gives is an error for that purpose: return it, by `return` or
    /// `?`. An orchestrator that returns another error has failed and does not go on; one that returns a value goes on
    /// nevertheless.
    ///
    /// The instance keeps its ID, its custom status, its tags and who waits for it. Events that nobody has read are handed on.
    /// Tasks that are open are forgotten; whatever runs for them is told to stop.
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
        let what = || "the execution to continue with".to_owned();
        if let Err(error) = rules::check_payload(input.len(), self.ledger.payload_bytes_max, what) {
            return error;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::tests::{check, describe, echo, event, start};
    use crate::orchestrator;

    /// The name under which tests start their executions.
    #[orchestrator]
    async fn bake(_ctx: Context, loaves: u32) -> Result<u32> {
        Ok(loaves)
    }

    #[orchestrator]
    async fn sell(_ctx: Context, loaves: u32) -> Result<u32> {
        Ok(loaves)
    }

    #[test]
    fn an_orchestrator_goes_on_by_returning_that() {
        async fn go_on(ctx: Context) -> Result<u32> {
            let loaves = ctx.call(echo, 1_u32).await?;
            let _held = ctx.call(echo, 2_u32); // Neither answered nor cancelled: the end ends it.
            ctx.continue_as_new(bake, loaves + 1)
        }
        check(go_on, &[("turn 0", "echo(1)"), ("0=7", "echo(2); continued 8 keep []")]);
    }

    #[test]
    fn it_may_come_from_deep_within() {
        async fn deep(ctx: &Context) -> Result<u32> {
            ctx.call(echo, 1_u32).await?;
            ctx.continue_as_new(bake, 5_u32)
        }
        async fn go_on(ctx: Context) -> Result<u32> {
            Ok(deep(&ctx).await? + 1)
        }
        check(go_on, &[("turn 0", "echo(1)"), ("0=7", "continued 5 keep []")]);
    }

    #[test]
    fn an_orchestrator_that_fails_afterwards_has_failed() {
        async fn fail(ctx: Context) -> Result<u32> {
            let _next = ctx.continue_as_new(bake, 1_u32);
            Err(Error::new("Cold", "the oven is cold"))
        }
        check(fail, &[("turn 0", "failed Cold: the oven is cold")]);
    }

    #[test]
    fn a_value_that_is_returned_afterwards_is_not_the_end_and_the_last_call_counts() {
        async fn return_value(ctx: Context) -> Result<u32> {
            let _next = ctx.continue_as_new(bake, 1_u32);
            ctx.call(echo, 1_u32).await?;
            let _next = ctx.continue_as_new_with(bake, 2_u32, ContinueOptions::new().keep_version());
            Ok(7)
        }
        check(return_value, &[("turn 0", "echo(1)"), ("0=1", "continued 2 keep [] and version")]);
    }

    /// Reads one event of each name and goes on after an activity.
    async fn read_some(ctx: Context, options: ContinueOptions) -> Result<u32> {
        ctx.call(echo, 1_u32).await?;
        let (left, _right): (u32, u32) = (ctx.event("left").await?, ctx.event("right").await?);
        let _held = ctx.event::<u32>("left"); // Has an event, and nobody has taken it.
        ctx.continue_as_new_with(bake, left, options)
    }

    #[test]
    fn unread_events_are_handed_on_unless_they_are_dropped() {
        let raises = "turn 0; raise left 0; raise Left 1; raise right 2; raise other 3; raise left 4";
        let waits = "wait left; wait right; wait left";
        let calls = |end: &str| format!("{waits}; continued 0 keep {end}");
        let keep = calls("[1, 3, 4]");
        check(|ctx| read_some(ctx, ContinueOptions::new()), &[(raises, "echo(1)"), ("0=1", &keep)]);
        let drop = calls("[]");
        check(|ctx| read_some(ctx, ContinueOptions::new().drop_events()), &[(raises, "echo(1)"), ("0=1", &drop)]);
    }

    #[test]
    fn events_behind_the_end_in_the_same_call_are_handed_on_in_any_case() {
        for (options, keep) in [(ContinueOptions::new(), "[1, 3, 4]"), (ContinueOptions::new().drop_events(), "[3, 4]")] {
            let mut executor = start(&|ctx| read_some(ctx, options));
            let events = ["turn 0", "raise left 0", "raise left 1", "raise right 2", "0=1", "raise left 3", "raise right 4"];
            let progress = executor.advance(events.map(event).into());
            let expected = format!("echo(1); wait left; wait right; wait left; continued 0 keep {keep}");
            assert_eq!(describe(&[progress]), expected);
        }
    }

    #[test]
    fn nobody_goes_on_as_somebody_else() {
        async fn change(ctx: Context) -> Result<u32> {
            ctx.continue_as_new(sell, 1_u32)
        }
        let failure = "failed ContinuedAsAnother: orchestrator bake cannot continue as sell: it continues as itself; \
                       to let another one follow, `ctx.start(…)` it";
        check(change, &[("turn 0", failure)]);
    }

    #[test]
    fn an_input_without_a_form_in_json_is_a_failure() {
        async fn go_on(ctx: Context) -> Result<u32> {
            Err(ctx.continue_with(&std::collections::HashMap::from([((), 1)]), ContinueOptions::new()))
        }
        let failure = "failed InvalidInput: the input to continue with has no form in JSON: key must be a string";
        check(go_on, &[("turn 0", failure)]);
    }
}
