//! Orchestrators that wait, for one thing or another, or for all.

use std::time::{Duration, SystemTime};

use dacapo_guest::prelude::*;
use futures::future::{Either, join3, select, select_all, try_join_all};

use crate::behaved::echo;

/// Waits for the event `go` against a timer, drops what came second, and then waits for `done`. Returns which came first.
#[orchestrator(name = "RaceTimer")]
pub(crate) async fn race_timer(ctx: Context, ms: u64) -> Result<&'static str> {
    let first = match select(ctx.sleep(Duration::from_millis(ms)), ctx.event::<()>("go")).await {
        Either::Left(_) => "timer",
        Either::Right(_) => "event",
    };
    ctx.event::<()>("done").await?;
    Ok(first)
}

/// Waits for the event `go` against an activity that never ends, and then for `done`.
#[orchestrator(name = "RaceActivity")]
pub(crate) async fn race_activity(ctx: Context, (function, input): (String, String)) -> Result<&'static str> {
    let first = match select(ctx.call_named::<String>(&function, &input), ctx.event::<()>("go")).await {
        Either::Left(_) => "activity",
        Either::Right(_) => "event",
    };
    ctx.event::<()>("done").await?;
    Ok(first)
}

/// Waits for an activity, a timer and an event together, whatever their order.
#[orchestrator(name = "WaitForAll")]
pub(crate) async fn wait_for_all(ctx: Context) -> Result<(u32, String)> {
    let (answer, slept, word) = join3(ctx.call(echo, 7_u32), ctx.sleep(Duration::from_millis(5)), ctx.event("word")).await;
    slept?;
    Ok((answer?, word?))
}

/// Waits for the first of three events, and drops the other waits; then says which came, and what came to it.
#[orchestrator(name = "WaitForAny")]
pub(crate) async fn wait_for_any(ctx: Context) -> Result<(usize, u32)> {
    let (first, index, _others) = select_all(["red", "green", "blue"].map(|name| ctx.event(name))).await;
    Ok((index, first?))
}

/// Waits twice for the same event at once; then says what the older and what the newer wait got.
#[orchestrator(name = "WaitTwice")]
pub(crate) async fn wait_twice(ctx: Context) -> Result<(u32, u32)> {
    let (older, newer) = (ctx.event("item"), ctx.event("ITEM"));
    Ok((older.await?, newer.await?))
}

/// Makes what the event `say` brings its custom status, and then waits for `done`.
#[orchestrator(name = "Announce")]
pub(crate) async fn announce(ctx: Context) -> Result<()> {
    let word: String = ctx.event("say").await?;
    ctx.set_custom_status(&word)?;
    ctx.event::<()>("done").await
}

/// Calls `Echo` with texts of 100 bytes, all at once, and returns how many answers came back.
#[orchestrator(name = "FanOutTexts")]
pub(crate) async fn fan_out_texts(ctx: Context, width: u32) -> Result<usize> {
    let texts = (0..width).map(|number| format!("{number:0100}"));
    Ok(try_join_all(texts.map(|text| ctx.call(echo_text, text))).await?.len())
}

/// Gives back what it is given.
#[activity(name = "EchoText")]
pub(crate) async fn echo_text(text: String) -> Result<String> {
    Ok(text)
}

/// Sleeps until a time, given in milliseconds since 1970.
#[orchestrator(name = "SleepUntil")]
pub(crate) async fn sleep_until(ctx: Context, at_ms: u64) -> Result<bool> {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms);
    ctx.sleep_until(at).await?;
    Ok(ctx.now() >= at)
}

/// Waits for so many texts, one after the other, and returns how long they are together.
#[orchestrator(name = "Count")]
pub(crate) async fn count(ctx: Context, count: u32) -> Result<usize> {
    let mut bytes = 0;
    for _ in 0..count {
        bytes += ctx.event::<String>("item").await?.len();
    }
    Ok(bytes)
}
