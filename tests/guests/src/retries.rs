//! What fails at first, and those who try it again.

use std::time::Duration;

use dacapo_guest::prelude::*;
use dacapo_guest::{ActivityContext, ActivityOptions, ChildOptions};
use serde::Deserialize;

/// Fails until so many attempts were made. Result and failures tell the idempotency key.
#[activity(name = "Flaky")]
pub(crate) async fn flaky(needed: u32, run: ActivityContext) -> Result<String> {
    if run.attempt < needed {
        let message = format!("attempt {} is not enough", run.attempt);
        return Err(Error::new("TooEarly", message).with_details(&run.idempotency_key));
    }
    Ok(run.idempotency_key)
}

/// Fails with a kind that says it is of no use to try again, or flagged so.
#[activity(name = "Hopeless")]
pub(crate) async fn hopeless(is_flagged: bool) -> Result<()> {
    let error = Error::new("CardExpired", "the card has expired");
    Err(if is_flagged { error.non_retriable() } else { error })
}

/// How to try again.
#[derive(Deserialize)]
pub(crate) struct Policy {
    interval_ms: u64,
    attempts: u32,
    #[serde(default = "one")]
    coefficient: f64,
    #[serde(default)]
    max_interval_ms: Option<u64>,
    #[serde(default)]
    total_ms: Option<u64>,
}

fn one() -> f64 {
    1.0
}

impl From<Policy> for RetryPolicy {
    fn from(policy: Policy) -> Self {
        let mut retry = Self::new(Duration::from_millis(policy.interval_ms), policy.attempts)
            .backoff_coefficient(policy.coefficient)
            .retry_if(|error| error.kind() != "CardExpired");
        if let Some(ms) = policy.max_interval_ms {
            retry = retry.max_interval(Duration::from_millis(ms));
        }
        if let Some(ms) = policy.total_ms {
            retry = retry.total_timeout(Duration::from_millis(ms));
        }
        retry
    }
}

/// Calls `Flaky` under a policy.
#[orchestrator(name = "RetryFlaky")]
pub(crate) async fn retry_flaky(ctx: Context, (needed, policy): (u32, Policy)) -> Result<String> {
    ctx.call_with(flaky, needed, RetryPolicy::from(policy)).await
}

/// Calls `Hopeless` under a policy that allows many attempts.
#[orchestrator(name = "RetryHopeless")]
pub(crate) async fn retry_hopeless(ctx: Context, is_flagged: bool) -> Result<()> {
    let patient = RetryPolicy::new(Duration::from_millis(1), 5);
    let choosy = patient.clone().retry_if(|error| error.kind() != "CardExpired");
    ctx.call_with(hopeless, is_flagged, if is_flagged { patient } else { choosy }).await
}

/// Fails, as a child that is tried again.
#[orchestrator(name = "FlakyChild")]
pub(crate) async fn flaky_child(ctx: Context) -> Result<()> {
    Err(Error::new("TooEarly", format!("{} is not enough", ctx.instance_id())))
}

/// Calls `FlakyChild` three times, with an ID or without.
#[orchestrator(name = "RetryChild")]
pub(crate) async fn retry_child(ctx: Context, id: Option<String>) -> Result<()> {
    let mut options = ChildOptions::new().retry(RetryPolicy::new(Duration::from_millis(1), 3));
    if let Some(id) = id {
        options = options.instance_id(id);
    }
    ctx.call_with(flaky_child, (), options).await
}

/// Calls an activity that takes too long under a bound of its own, twice.
#[orchestrator(name = "RetryTimeout")]
pub(crate) async fn retry_timeout(ctx: Context, ms: u64) -> Result<()> {
    let options = ActivityOptions::new().timeout(Duration::from_millis(ms)).retry(RetryPolicy::new(Duration::from_millis(1), 2));
    ctx.call_named_with("LoopActivity", &(), options).await
}
