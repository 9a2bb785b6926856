//! Guests of the crash trial: what they return tells whether anything was lost, or came twice.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use dacapo_guest::ChildOptions;
use dacapo_guest::prelude::*;
use futures::future::join_all;

/// Gives back what it is given.
#[activity(name = "Repeat")]
pub(crate) async fn repeat(number: u64) -> Result<u64> {
    Ok(number)
}

/// Gives back what it is given, or fails: that is left to chance.
#[activity(name = "Chance")]
pub(crate) async fn chance(number: u64) -> Result<u64> {
    if RandomState::new().build_hasher().finish().is_multiple_of(2) { Ok(number) } else { bail!("no luck") }
}

/// Collects what the event `item` brings, in order, until that is nothing; begins anew with every fourth.
#[orchestrator(name = "Collect")]
pub(crate) async fn collect(ctx: Context, mut taken: Vec<u64>) -> Result<Vec<u64>> {
    while let Some(number) = ctx.event::<Option<u64>>("item").await? {
        taken.push(ctx.call(repeat, number).await?);
        if taken.len().is_multiple_of(4) {
            return ctx.continue_as_new(collect, taken);
        }
    }
    Ok(taken)
}

/// Two activities with a sleep between them, and two children of the same kind if it is `depth` deep; returns the sum of it all.
#[orchestrator(name = "Errand")]
pub(crate) async fn errand(ctx: Context, (number, depth): (u64, u32)) -> Result<u64> {
    let first = ctx.call(repeat, number).await?;
    ctx.sleep(Duration::from_millis(20)).await?;
    let mut sum = ctx.call(repeat, first).await?;
    if depth > 0 {
        for child in join_all((0..2).map(|more| ctx.call(errand, (number + more, depth - 1)))).await {
            sum += child?;
        }
    }
    Ok(sum)
}

/// Begins anew so many times, and returns the sum of what its activities gave.
#[orchestrator(name = "Rounds")]
pub(crate) async fn rounds(ctx: Context, (left, sum): (u64, u64)) -> Result<u64> {
    if left == 0 {
        return Ok(sum);
    }
    let more = ctx.call(repeat, left).await?;
    ctx.continue_as_new(rounds, (left - 1, sum + more))
}

/// Fails if its activity does, and has to be rewound then.
#[orchestrator(name = "Gamble")]
pub(crate) async fn gamble(ctx: Context, number: u64) -> Result<u64> {
    ctx.call(chance, number).await
}

/// Waits for a child that waits for events, and has its ID with `-child` behind it.
#[orchestrator(name = "Family")]
pub(crate) async fn family(ctx: Context) -> Result<Vec<u64>> {
    let id = format!("{}-child", ctx.instance_id());
    ctx.call_with(collect, Vec::<u64>::new(), ChildOptions::new().instance_id(id)).await
}
