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
    retry_if: Option<Rc<dyn Fn(&Error) -> bool>>,
}

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

    /// After so much time since the first attempt was asked for, a failure is the last one; if nothing is said, there is no bound. What
    /// is under way is not cut short: that is what [`Context::timeout`] does.
    pub const fn total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = timeout;
        self
    }

    /// Tries again only after errors for which `predicate` is true. It is asked anew in every replay, so it should look at nothing else
    /// than the error.
    pub fn retry_if(mut self, predicate: impl Fn(&Error) -> bool + 'static) -> Self {
        self.retry_if = Some(Rc::new(predicate));
        self
    }

    /// # Errors
    /// If the policy makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        let fault = if self.max_attempts == 0 {
            "0 attempts: 1 is the first and only one".to_owned()
        } else if self.first_interval.is_zero() || self.max_interval.is_zero() {
            "an interval of zero: it has to be longer, if only a millisecond".to_owned()
        } else if !(self.backoff_coefficient >= 1.0 && self.backoff_coefficient.is_finite()) {
            format!("a back-off coefficient of {}: 1 keeps the waits equal, and more makes them grow", self.backoff_coefficient)
        } else {
            return Ok(());
        };
        Err(Error::new("InvalidRetryPolicy", format!("a retry policy says {fault}")).non_retriable())
    }

    /// How long to wait after failed attempt `attempt`, counted from 1, so long after the first one began; `None` if it was the last.
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
