//! Orchestrators that go on as new executions.

use dacapo_guest::ContinueOptions;
use dacapo_guest::log;
use dacapo_guest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::behaved::echo;

/// Begins anew until nothing is left, and returns how often it did.
#[orchestrator(name = "CountDown")]
pub(crate) async fn count_down(ctx: Context, (left, done): (u32, u32)) -> Result<u32> {
    match left {
        0 => Ok(done),
        _ => ctx.continue_as_new(count_down, (left - 1, done + 1)),
    }
}

/// What a `Till` has taken so far.
#[derive(Serialize, Deserialize)]
pub(crate) struct Takings {
    /// How many are still to come.
    left: u32,
    /// What came.
    taken: Vec<Value>,
}

/// Takes one event called `coin` in each execution, until it has taken them all.
#[orchestrator(name = "Till")]
pub(crate) async fn till(ctx: Context, takings: Takings) -> Result<Vec<Value>> {
    let Takings { left, mut taken } = takings;
    if left == 0 {
        return Ok(taken);
    }
    taken.push(ctx.event("coin").await?);
    ctx.continue_as_new(till, Takings { left: left - 1, taken })
}

/// Waits for `go`, begins anew without the events that nobody has read, and then takes one called `coin`.
#[orchestrator(name = "Forget")]
pub(crate) async fn forget(ctx: Context, is_new: bool) -> Result<Value> {
    if is_new {
        ctx.event::<()>("go").await?;
        return ctx.continue_as_new_with(forget, false, ContinueOptions::new().drop_events());
    }
    ctx.event("coin").await
}

/// Says something, sets its custom status in the first execution only, and begins anew so many times; then waits for `done`.
#[orchestrator(name = "Rounds")]
pub(crate) async fn rounds(ctx: Context, (left, round): (u32, u32)) -> Result<Vec<(String, String)>> {
    println!("round {round}");
    if round == 0 {
        ctx.set_custom_status("kneading")?;
    }
    ctx.call(echo, round).await?;
    log::warn!("round {round} is over");
    if left > 0 {
        return ctx.continue_as_new(rounds, (left - 1, round + 1));
    }
    ctx.event::<()>("done").await?;
    Ok(ctx.tags().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Begins anew and then fails.
#[orchestrator(name = "ContinueAndFail")]
pub(crate) async fn continue_and_fail(ctx: Context, is_new: bool) -> Result<()> {
    if is_new {
        return ctx.continue_as_new(continue_and_fail, false);
    }
    bail!("the second dough did not rise")
}
