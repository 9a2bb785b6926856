//! When is something tried again? As a [`RetryPolicy`] says, with durable waits between the attempts.

use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use crate::{Context, Error, Result};

/// How often and at which intervals something that fails is tried again.
///
/// ```
/// # use std::time::Duration;
/// # use dacapo_guest::prelude::*;
/// # #[activity] async fn charge(cents: u32) -> Result<String> { Ok(String::new()) }
/// # async fn order(ctx: Context) -> Result<String> {
/// let policy = RetryPolicy::new(Duration::from_secs(5), 4) // Four attempts, …
///     .backoff_coefficient(2.0)                            // … 5, 10 and 20 seconds apart, …
///     .retry_if(|error| error.kind() != "CardExpired");    // … unless nothing will help.
/// let receipt = ctx.call_with(charge, 250_u32, policy).await?;
/// # Ok(receipt) }
/// ```
///
/// Each attempt is an action of its own and each wait a durable timer, so all of it stands in the history and outlives the
/// server. The wait after failed attempt n, counted from 0, is `first_interval · backoff_coefficientⁿ`, and at most
/// [`max_interval`](Self::max_interval). The error of the last attempt is the one that the orchestrator sees. An error
/// [that trying again cannot help](Error::non_retriable) comes through at once.
#[derive(Clone)]
#[must_use = "a policy does nothing until it is handed over"]
pub struct RetryPolicy {
    first_interval: Duration,
    max_attempts: u32,
    backoff_coefficient: f64,
    max_interval: Duration,
    total_timeout: Duration,
    retry_if: Option<Rc<Predicate>>,
}

type Predicate = dyn Fn(&Error) -> bool;

impl RetryPolicy {
    /// At most `max_attempts` attempts, the first one included, `first_interval` apart. Neither may be zero.
    pub const fn new(first_interval: Duration, max_attempts: u32) -> Self {
        Self {
            first_interval,
            max_attempts,
            backoff_coefficient: 1.0,
            max_interval: Duration::MAX,
            total_timeout: Duration::MAX,
            retry_if: None,
        }
    }

    /// Each wait is so many times the one before; at least 1, which it is if nothing is said.
    pub const fn backoff_coefficient(mut self, coefficient: f64) -> Self {
        self.backoff_coefficient = coefficient;
        self
    }

    /// No wait is longer than this; if nothing is said, there is no bound. May not be zero.
    pub const fn max_interval(mut self, interval: Duration) -> Self {
        self.max_interval = interval;
        self
    }

    /// After so much time since the first attempt was asked for, a failure is the last one; if nothing is said, there is no
    /// bound. What is under way is not cut short: that is what [`Context::timeout`] does.
    pub const fn total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = timeout;
        self
    }

    /// Tries again only after errors for which `predicate` is true. It is asked anew in every replay, so it should look at
    /// nothing else than the error.
    pub fn retry_if(mut self, predicate: impl Fn(&Error) -> bool + 'static) -> Self {
        self.retry_if = Some(Rc::new(predicate));
        self
    }

    /// # Errors
    /// If the policy makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        let fault = if self.max_attempts == 0 {
            "0 attempts: 1 is the first and only one"
        } else if self.first_interval.is_zero() || self.max_interval.is_zero() {
            "an interval of zero: it has to be longer, if only a millisecond"
        } else if !(self.backoff_coefficient >= 1.0 && self.backoff_coefficient.is_finite()) {
            // Without its value: to print a float takes 12 KB of every guest.
            "a back-off coefficient that is below 1 or no number: 1 keeps the waits equal, and more makes them grow"
        } else {
            return Ok(());
        };
        Err(Error::new("InvalidRetryPolicy", format!("a retry policy says {fault}")).non_retriable())
    }

    /// How long to wait after failed attempt `attempt`, counted from 1, so long after the first one began; `None` if it was
    /// the last.
    fn wait_after(&self, attempt: u32, error: &Error, elapsed: Duration) -> Option<Duration> {
        let is_last = attempt >= self.max_attempts || elapsed >= self.total_timeout || error.is_non_retriable();
        if is_last || self.retry_if.as_ref().is_some_and(|retry| !retry(error)) {
            return None;
        }
        let growth = self.backoff_coefficient.powi(i32::try_from(attempt - 1).unwrap_or(i32::MAX));
        // In seconds, since nanoseconds would lose the last digits of long intervals.
        let wait = Duration::try_from_secs_f64(self.first_interval.as_secs_f64() * growth).unwrap_or(Duration::MAX);
        Some(wait.min(self.max_interval))
    }
}

/// What comes of `first`, which was asked for just now, or of `again(number)` for the attempts from number 2 on.
pub(crate) fn retried<T, F: Future<Output = Result<T>>>(
    ctx: Context,
    policy: Option<RetryPolicy>,
    first: F,
    again: impl Fn(u32) -> Result<F>,
) -> impl Future<Output = Result<T>> {
    let began_ms = ctx.now_ms(); // Not at the first poll, which may be much later.
    async move {
        let Some(policy) = policy else { return first.await };
        let (mut attempt, mut under_way) = (1, first);
        loop {
            let error = match under_way.await {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            let elapsed = Duration::from_millis(ctx.now_ms() - began_ms);
            let Some(wait) = policy.wait_after(attempt, &error, elapsed) else { return Err(error) };
            ctx.sleep(wait).await?;
            attempt += 1;
            under_way = again(attempt)?;
        }
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("first_interval", &self.first_interval)
            .field("max_attempts", &self.max_attempts)
            .field("backoff_coefficient", &self.backoff_coefficient)
            .field("max_interval", &self.max_interval)
            .field("total_timeout", &self.total_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::future::{Either, join_all, select};

    use super::*;
    use crate::executor::tests::{Counted, check, describe, echo, event, start};
    use crate::{ActivityOptions, ChildOptions, orchestrator};

    #[orchestrator]
    async fn bake(_ctx: Context, loaf: u32) -> Result<u32> {
        Ok(loaf)
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const THRICE: RetryPolicy = RetryPolicy::new(ms(100), 3).backoff_coefficient(2.0);

    async fn try_thrice(ctx: Context) -> Result<u32> {
        ctx.call_with(echo, 1_u32, THRICE).await
    }

    #[test]
    fn each_attempt_is_an_action_and_each_wait_a_timer() {
        let calls = [
            ("turn 0", "echo(1)"),
            ("turn 5; 0!Cold", "timer 105"),
            ("turn 105; 1 fired", "echo(1) again 2 of 0"),
            ("turn 110; 2!Cold", "timer 310"),
            ("turn 310; 3 fired", "echo(1) again 3 of 0"),
            ("turn 320; 4!Tired", "failed Tired: it went wrong"),
        ];
        check(try_thrice, &calls);
        check(try_thrice, &[("turn 0", "echo(1)"), ("0=7", "ended 7")]);
        check(
            try_thrice,
            &[("turn 0", "echo(1)"), ("0!Cold", "timer 100"), ("1 fired", "echo(1) again 2 of 0"), ("2=7", "ended 7")],
        );
    }

    #[test]
    fn a_child_is_tried_again_with_all_its_options() {
        async fn call(ctx: Context) -> Result<u32> {
            ctx.call_with(bake, 1_u32, ChildOptions::new().instance_id("loaf-1").tag("b", "2").tag("a", "1").retry(THRICE)).await
        }
        let again = "child bake(1) as loaf-1 a=1 b=2 again 2 of 0";
        check(
            call,
            &[("turn 0", "child bake(1) as loaf-1 a=1 b=2"), ("0!Cold", "timer 100"), ("1 fired", again), ("2=7", "ended 7")],
        );
        async fn named(ctx: Context) -> Result<u32> {
            ctx.call_orchestrator_named_with("Bake", &1, THRICE).await
        }
        let calls =
            [("turn 0", "child Bake(1)"), ("0!Cold", "timer 100"), ("1 fired", "child Bake(1) again 2 of 0"), ("2=7", "ended 7")];
        check(named, &calls);
    }

    #[test]
    fn each_attempt_has_the_timeout_of_its_activity() {
        async fn call(ctx: Context) -> Result<u32> {
            ctx.call_with(echo, 1_u32, ActivityOptions::new().timeout(Duration::from_micros(4500)).retry(THRICE)).await
        }
        let calls = [("turn 0", "echo(1) within 5"), ("0!Cold", "timer 100"), ("1 fired", "echo(1) again 2 of 0 within 5")];
        check(call, &calls);
    }

    #[test]
    fn an_error_that_nothing_can_help_is_the_last() {
        check(try_thrice, &[("turn 0", "echo(1)"), ("0!!Cold", "failed Cold: it went wrong")]);
    }

    #[test]
    fn the_predicate_says_which_errors_are_worth_a_retry() {
        async fn unless_cold(ctx: Context) -> Result<u32> {
            ctx.call_with(echo, 1_u32, THRICE.retry_if(|error| error.kind() != "Cold")).await
        }
        check(unless_cold, &[("turn 0", "echo(1)"), ("0!Cold", "failed Cold: it went wrong")]);
        check(unless_cold, &[("turn 0", "echo(1)"), ("0!Dark", "timer 100")]);
    }

    #[test]
    fn after_the_total_timeout_a_failure_is_the_last() {
        async fn for_a_second(ctx: Context) -> Result<u32> {
            let call = ctx.call_with(echo, 1_u32, THRICE.total_timeout(ms(1000)));
            ctx.sleep(ms(300)).await?; // It counts from the call on, not from the first poll.
            call.await
        }
        let asked = "echo(1); timer 305";
        let first = "1 fired; 0!Cold";
        check(for_a_second, &[("turn 5", asked), (&format!("turn 1004; {first}"), "timer 1104")]);
        check(for_a_second, &[("turn 5", asked), (&format!("turn 1005; {first}"), "failed Cold: it went wrong")]);
    }

    #[test]
    fn whoever_drops_the_task_cancels_what_is_under_way() {
        async fn race(ctx: Context) -> Result<u32> {
            let call = ctx.call_with(echo, 1_u32, THRICE);
            match select(call, ctx.event::<u32>("stop")).await {
                Either::Left((answer, _)) => answer,
                Either::Right((_, call)) => {
                    drop(call);
                    ctx.call(echo, 2_u32).await
                }
            }
        }
        check(race, &[("turn 0", "echo(1); wait stop"), ("raise stop 1", "cancel 0; echo(2)")]);
        check(race, &[("turn 0", "echo(1); wait stop"), ("0!Cold", "timer 100"), ("raise stop 1", "cancel 2; echo(2)")]);
        let second = [
            ("turn 0", "echo(1); wait stop"),
            ("0!Cold; 2 fired", "timer 100; echo(1) again 2 of 0"),
            ("raise stop 1", "cancel 3; echo(2)"),
        ];
        check(race, &second);
    }

    #[test]
    fn a_timeout_bounds_attempts_and_waits() {
        async fn bounded(ctx: Context) -> Result<u32> {
            ctx.timeout(ms(150), ctx.call_with(echo, 1_u32, THRICE)).await?
        }
        let calls = [
            ("turn 0", "echo(1); timer 150"),
            ("turn 5; 0!Cold", "timer 105"),
            ("turn 150; 1 fired", "failed Timeout: it was not done within 150ms"),
        ];
        check(bounded, &calls);
    }

    #[test]
    fn a_wide_join_over_calls_with_retries_polls_each_once_per_answer() {
        const WIDTH: u32 = 10_000;
        let polls = Rc::new(Cell::new(0));
        let counter = polls.clone();
        let mut executor = start(&move |ctx: Context| {
            let counter = counter.clone();
            async move {
                let tasks = (0..WIDTH).map(|number| Counted(ctx.call_with(echo, number, THRICE), counter.clone()));
                join_all(tasks).await.into_iter().sum::<Result<u32>>()
            }
        });
        executor.advance(vec![event("turn 0")]);
        executor.advance((0..WIDTH).map(|task| event(&format!("{task}!Cold"))).collect());
        executor.advance((WIDTH..2 * WIDTH).map(|task| event(&format!("{task} fired"))).collect());
        let answers = (2 * WIDTH..3 * WIDTH).map(|task| event(&format!("{task}=1"))).collect();
        assert_eq!(describe(&[executor.advance(answers)]), "ended 10000");
        assert_eq!(polls.get(), 40_000);
    }

    #[test]
    fn the_wait_grows_up_to_the_longest_one() {
        let check = |policy: &RetryPolicy, expected: &[(u32, Duration)]| {
            for (attempt, wait) in expected {
                let actual = policy.wait_after(*attempt, &Error::new("Cold", "it is cold"), Duration::ZERO);
                assert_eq!(actual, Some(*wait), "after attempt {attempt} of {policy:?}");
            }
        };
        let equal = RetryPolicy::new(ms(100), u32::MAX);
        check(&equal, &[(1, ms(100)), (2, ms(100)), (u32::MAX - 1, ms(100))]);
        let growing = equal.clone().backoff_coefficient(3.0);
        check(&growing, &[(1, ms(100)), (2, ms(300)), (3, ms(900)), (4, ms(2700)), (u32::MAX - 1, Duration::MAX)]);
        check(&growing.max_interval(ms(1000)), &[(1, ms(100)), (3, ms(900)), (4, ms(1000)), (u32::MAX - 1, ms(1000))]);
        check(&equal.backoff_coefficient(1.5), &[(2, ms(150)), (3, ms(225))]);
        check(&RetryPolicy::new(Duration::MAX, 2), &[(1, Duration::MAX)]);
    }

    #[test]
    fn a_policy_that_makes_no_sense_is_refused_before_anything_runs() {
        let check_refused = |policy: RetryPolicy, expected: &str| {
            let run = move |ctx: Context| {
                let policy = policy.clone();
                async move { ctx.call_with(echo, 1_u32, policy).await }
            };
            check(run, &[("turn 0", &format!("failed InvalidRetryPolicy: a retry policy says {expected}"))]);
        };
        let zero = "an interval of zero: it has to be longer, if only a millisecond";
        check_refused(RetryPolicy::new(ms(1), 0), "0 attempts: 1 is the first and only one");
        check_refused(RetryPolicy::new(ms(0), 2), zero);
        check_refused(THRICE.max_interval(ms(0)), zero);
        let shrinks = "a back-off coefficient that is below 1 or no number: 1 keeps the waits equal, and more makes them grow";
        for coefficient in [0.99, -1.0, f64::NAN, f64::INFINITY] {
            check_refused(THRICE.backoff_coefficient(coefficient), shrinks);
        }
    }
}
