//! What fails in the first edition of this module, and succeeds in the other one. See `versions.rs` for how tests make that.

use std::time::Duration;

use dacapo_guest::prelude::*;
use dacapo_guest::{ActivityOptions, RetryPolicy};
use futures::future::join_all;

use crate::behaved::echo;
use crate::versions::edition_here;

/// Whether this is the edition that works.
fn is_mended() -> bool {
    edition_here().contains("made out of")
}

/// Gives what it gets, once it is mended.
#[activity(name = "Mended")]
pub(crate) async fn mended(value: u32) -> Result<u32> {
    if is_mended() { Ok(value) } else { Err(Error::new("Broken", format!("activity {value} is not mended yet"))) }
}

/// Sleeps, tries an activity several times, and then again after a sleep.
#[orchestrator(name = "AfterMended")]
pub(crate) async fn after_mended(ctx: Context, attempts: u32) -> Result<Vec<u32>> {
    ctx.sleep(Duration::from_millis(1)).await?;
    let retry = RetryPolicy::new(Duration::from_millis(1), attempts);
    let first = ctx.call_with(mended, 1_u32, ActivityOptions::new().retry(retry)).await?;
    ctx.sleep(Duration::from_millis(1)).await?;
    Ok(vec![first, ctx.call(mended, 2_u32).await?])
}

/// Calls activities side by side, waits for all, and fails if one has.
#[orchestrator(name = "AllMended")]
pub(crate) async fn all_mended(ctx: Context, count: u32) -> Result<Vec<u32>> {
    join_all((0..count).map(|n| ctx.call(mended, n))).await.into_iter().collect()
}

/// Fails by itself after an activity, having asked for another one.
#[orchestrator(name = "MendedItself")]
pub(crate) async fn mended_itself(ctx: Context, panics: bool) -> Result<u32> {
    let said = ctx.call(echo, 1_u32).await?;
    let more = ctx.call(echo, 2_u32);
    if !is_mended() {
        assert!(!panics, "not mended yet");
        bail!("not mended yet");
    }
    Ok(said + more.await?)
}

/// Undoes what it did when an activity fails, and then fails.
#[orchestrator(name = "Compensates")]
pub(crate) async fn compensates(ctx: Context) -> Result<String> {
    match ctx.call(mended, 1_u32).await {
        Ok(_) => Ok("nothing to undo".into()),
        Err(error) => {
            ctx.call(echo, 1_u32).await?;
            if is_mended() { Ok("undone".into()) } else { Err(error) }
        }
    }
}

/// Undoes what it did when an activity fails, and then loops.
#[orchestrator(name = "CompensatesForEver")]
pub(crate) async fn compensates_for_ever(ctx: Context) -> Result<String> {
    if ctx.call(mended, 1_u32).await.is_err() {
        ctx.call(echo, 1_u32).await?;
        while !is_mended() {
            std::hint::spin_loop();
        }
    }
    Ok("undone".into())
}
