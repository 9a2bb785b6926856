//! Orchestrators that do what they should, one per thing that an orchestrator can do.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dacapo_guest::log;
use dacapo_guest::prelude::*;
use futures::future::{Either, select, try_join_all};
use serde::{Deserialize, Serialize};

/// Gives back what it is given.
#[activity(name = "Echo")]
pub(crate) async fn echo(number: u32) -> Result<u32> {
    Ok(number)
}

/// Fails with everything a failure can carry.
#[activity(name = "Fail")]
pub(crate) async fn fail() -> Result<()> {
    Err(Error::new("OvenCold", "the oven is cold").with_details(&20).caused_by(Error::new("NoGas", "the bottle is empty")))
}

/// The input of `Sequence`.
#[derive(Deserialize)]
pub(crate) struct Length {
    count: u32,
}

/// Calls `Echo` with 0, 1, 2 and so on, one after the other, and returns the answers.
#[orchestrator(name = "Sequence")]
pub(crate) async fn sequence(ctx: Context, length: Length) -> Result<Vec<u32>> {
    let mut answers = Vec::new();
    for number in 0..length.count {
        answers.push(ctx.call(echo, number).await?);
    }
    Ok(answers)
}

/// Calls `Echo` with 0, 1, 2 and so on, all at once, and returns the sum of the answers.
#[orchestrator(name = "FanOut")]
pub(crate) async fn fan_out(ctx: Context, width: u32) -> Result<u32> {
    let answers = try_join_all((0..width).map(|number| ctx.call(echo, number))).await?;
    Ok(answers.into_iter().sum())
}

/// Fails because its activity does.
#[orchestrator(name = "FailActivity")]
pub(crate) async fn fail_activity(ctx: Context) -> Result<()> {
    ctx.call(fail, ()).await?;
    Ok(())
}

/// Returns kind and message of its activity's failure.
#[orchestrator(name = "CatchFailure")]
pub(crate) async fn catch_failure(ctx: Context) -> Result<(String, String)> {
    match ctx.call(fail, ()).await {
        Ok(()) => bail!("the activity did not fail"),
        Err(error) => Ok((error.kind().to_owned(), error.message().to_owned())),
    }
}

/// Calls `Echo` with 1 and 2 at once, drops the slower call, and returns the faster one's answer.
#[orchestrator(name = "Race")]
pub(crate) async fn race(ctx: Context) -> Result<u32> {
    match select(ctx.call(echo, 1_u32), ctx.call(echo, 2_u32)).await {
        Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
    }
}

/// Calls an activity that nobody has.
#[orchestrator(name = "UnknownActivity")]
pub(crate) async fn unknown_activity(ctx: Context) -> Result<()> {
    ctx.call_named("NobodyHasThis", &()).await
}

/// What `Clocks` has read, before and after an activity. Times are in milliseconds since 1970.
#[derive(Default, Serialize)]
pub(crate) struct Readings {
    system_ms: Vec<u128>,
    context_ms: Vec<u128>,
    uuids: Vec<String>,
    /// Keys of a hash map of random seed, in its order.
    keys: Vec<Vec<u32>>,
}

impl Readings {
    fn read(&mut self, ctx: &Context) -> Result<()> {
        self.system_ms.push(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis());
        self.context_ms.push(ctx.now().duration_since(UNIX_EPOCH)?.as_millis());
        self.uuids.push(ctx.new_uuid().to_string());
        let map: HashMap<u32, ()> = (0..8).map(|key| (key, ())).collect();
        self.keys.push(map.into_keys().collect());
        Ok(())
    }
}

/// Returns all that would differ from run to run outside a host.
#[orchestrator(name = "Clocks")]
pub(crate) async fn clocks(ctx: Context) -> Result<Readings> {
    let mut readings = Readings::default();
    readings.read(&ctx)?;
    ctx.call(echo, 0_u32).await?;
    readings.read(&ctx)?;
    Ok(readings)
}

/// Sets the custom status to `"mixing"`, and after an activity to an object.
#[orchestrator(name = "Status")]
pub(crate) async fn status(ctx: Context) -> Result<()> {
    ctx.set_custom_status("mixing")?;
    ctx.call(echo, 0_u32).await?;
    ctx.set_custom_status(&HashMap::from([("baked", 3)]))
}

/// Returns a text of so many bytes.
#[orchestrator(name = "BigResult")]
pub(crate) async fn big_result(_ctx: Context, bytes: usize) -> Result<String> {
    Ok("x".repeat(bytes))
}

/// Asks for so many activities and drops them at once; then waits for one more, so that the cancellations are seen.
#[orchestrator(name = "ManyActions")]
pub(crate) async fn many_actions(ctx: Context, count: u32) -> Result<u32> {
    let tasks: Vec<_> = (0..count).map(|number| ctx.call(echo, number)).collect();
    drop(tasks);
    ctx.call(echo, count).await
}

/// Sleeps so many milliseconds and returns whether it slept that long.
#[orchestrator(name = "Sleeper")]
pub(crate) async fn sleeper(ctx: Context, ms: u64) -> Result<bool> {
    let duration = Duration::from_millis(ms);
    let before = ctx.now();
    ctx.sleep(duration).await?;
    Ok(ctx.now().duration_since(before)? >= duration)
}

/// Waits so many milliseconds for the event `approve`, which is true or false, and returns what became of it.
#[orchestrator(name = "Approval")]
pub(crate) async fn approval(ctx: Context, ms: u64) -> Result<&'static str> {
    match ctx.timeout(Duration::from_millis(ms), ctx.event("approve")).await {
        Ok(approved) => Ok(if approved? { "approved" } else { "denied" }),
        Err(_timeout) => Ok("timed out"),
    }
}

/// Waits for so many events called `item`, one after the other, and returns them.
#[orchestrator(name = "Collect")]
pub(crate) async fn collect(ctx: Context, count: u32) -> Result<Vec<serde_json::Value>> {
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(ctx.event("item").await?);
    }
    Ok(items)
}

/// Waits for the event `go` and returns it behind its own input; both may be any JSON, since client libraries send what they like.
#[orchestrator(name = "Listen")]
pub(crate) async fn listen(ctx: Context, input: serde_json::Value) -> Result<[serde_json::Value; 2]> {
    ctx.set_custom_status("listening")?;
    let event = ctx.event("go").await?;
    Ok([input, event])
}

/// Says something before and after the call of an activity that says something too.
#[orchestrator(name = "Talks")]
pub(crate) async fn talks(ctx: Context) -> Result<()> {
    println!("first the mixing");
    ctx.call(murmur, "the dough".to_owned()).await?;
    log::warn!("the oven is at {} °C", 250);
    ctx.event::<()>("done").await
}

/// Says what it is told.
#[activity(name = "Murmur")]
pub(crate) async fn murmur(text: String) -> Result<()> {
    log::info!("{text}");
    Ok(())
}

/// Says so many lines, one in each turn.
#[orchestrator(name = "Chatter")]
pub(crate) async fn chatter(ctx: Context, count: u32) -> Result<()> {
    for number in 0..count {
        println!("line {number}");
        ctx.call(echo, number).await?;
    }
    Ok(())
}

/// Uses what an activity has of the world, and returns how many things these are.
#[activity(name = "Worldly")]
pub(crate) async fn worldly() -> Result<usize> {
    println!("the oven is hot");
    let mut seen: HashMap<&str, u128> = HashMap::new(); // Takes a random seed.
    seen.insert("clock", SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis());
    seen.insert("stopwatch", std::time::Instant::now().elapsed().as_millis());
    Ok(seen.len())
}
