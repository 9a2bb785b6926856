//! Orchestrators that start others, and those others.

use std::time::Duration;

use dacapo_guest::prelude::*;
use dacapo_guest::{ChildOptions, HttpRequest, StartOptions};
use futures::future::{join_all, try_join_all};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::behaved::{collect, echo};
use crate::retries::flaky;

/// Whom to call, and with what.
#[derive(Deserialize)]
pub(crate) struct Call {
    function: String,
    #[serde(default)]
    input: Value,
    /// The ID of the child, or nothing.
    #[serde(default)]
    id: Option<String>,
}

impl Call {
    fn options(&self) -> ChildOptions {
        match &self.id {
            Some(id) => ChildOptions::new().instance_id(id.as_str()),
            None => ChildOptions::new(),
        }
    }
}

/// Calls an orchestrator and returns its result, or fails as that does.
#[orchestrator(name = "CallChild")]
pub(crate) async fn call_child(ctx: Context, call: Call) -> Result<Value> {
    ctx.call_orchestrator_named_with(&call.function, &call.input, call.options()).await
}

/// All that is known of a failure.
#[derive(Serialize)]
pub(crate) struct Caught {
    kind: String,
    message: String,
    details: Option<Value>,
    causes: Vec<(String, String)>,
    non_retriable: bool,
}

/// Calls an orchestrator that must fail, and returns how.
#[orchestrator(name = "CatchChild")]
pub(crate) async fn catch_child(ctx: Context, call: Call) -> Result<Caught> {
    match ctx.call_orchestrator_named_with::<Value>(&call.function, &call.input, call.options()).await {
        Ok(result) => bail!("the child gave {result}"),
        Err(error) => Ok(Caught {
            kind: error.kind().to_owned(),
            message: error.message().to_owned(),
            details: error.details(),
            causes: error.causes().map(|(kind, message)| (kind.to_owned(), message.to_owned())).collect(),
            non_retriable: error.is_non_retriable(),
        }),
    }
}

/// Fails with everything a failure can carry, and more than one cause.
#[orchestrator(name = "FailWithAll")]
pub(crate) async fn fail_with_all(_ctx: Context) -> Result<()> {
    let cause = Error::new("BottleEmpty", "the bottle is empty").caused_by(Error::new("ShopClosed", "it is Sunday"));
    Err(Error::new("OvenCold", "the oven is cold").with_details(&[20, 18]).caused_by(cause).non_retriable())
}

/// Returns its own ID and that of its parent.
#[orchestrator(name = "Lineage")]
pub(crate) async fn lineage(ctx: Context) -> Result<(String, Option<String>)> {
    Ok((ctx.instance_id().to_owned(), ctx.parent().map(str::to_owned)))
}

/// Calls a child that waits for an event, and returns at once without it if `leave` says so.
#[orchestrator(name = "Leave")]
pub(crate) async fn leave(ctx: Context, child: String) -> Result<&'static str> {
    let call = ctx.call_with(collect, 1_u32, ChildOptions::new().instance_id(child));
    ctx.event::<()>("leave").await?;
    drop(call);
    Ok("left")
}

/// One loaf, in two steps with a wait between them, so that a parent waits for a while.
#[orchestrator(name = "Loaf")]
pub(crate) async fn loaf(ctx: Context, number: u32) -> Result<u32> {
    let grams = ctx.call(echo, number).await?;
    ctx.sleep(Duration::from_millis(300)).await?;
    Ok(ctx.call(echo, grams).await? * 2)
}

/// Calls `Loaf` with 0, 1, 2 and so on, all at once, and returns what they give.
#[orchestrator(name = "Batch")]
pub(crate) async fn batch(ctx: Context, loaves: u32) -> Result<Vec<u32>> {
    try_join_all((0..loaves).map(|number| ctx.call(loaf, number))).await
}

/// Whom to start, and how many events to send to it.
#[derive(Deserialize)]
pub(crate) struct Parcel {
    to: String,
    count: u32,
}

/// Starts `Collect` for itself, sends it as many events as it waits for, in order, and returns its ID.
#[orchestrator(name = "StartAndSend")]
pub(crate) async fn start_and_send(ctx: Context, parcel: Parcel) -> Result<String> {
    let id = ctx.start_with(collect, parcel.count, StartOptions::new().instance_id(parcel.to).tag("kind", "parcel"))?;
    for number in 0..parcel.count {
        ctx.send_event(&id, "item", &number)?;
        if number % 5 == 4 {
            ctx.call(echo, number).await?; // Some in one turn, some in the next.
        }
    }
    Ok(id)
}

/// Starts `Lineage` for itself twice, without an ID, and returns the two IDs.
#[orchestrator(name = "StartTwo")]
pub(crate) async fn start_two(ctx: Context) -> Result<(String, String)> {
    Ok((ctx.start(lineage, ())?, ctx.start(lineage, ())?))
}

/// When to start what.
#[derive(Deserialize)]
pub(crate) struct Later {
    id: String,
    ms: u64,
}

/// Starts `Lineage` for itself at a later time.
#[orchestrator(name = "StartLater")]
pub(crate) async fn start_later(ctx: Context, later: Later) -> Result<String> {
    let at = ctx.now() + Duration::from_millis(later.ms);
    ctx.start_with(lineage, (), StartOptions::new().instance_id(later.id).at(at))
}

/// Has something of everything in its history, one after the other, and then waits.
#[orchestrator(name = "Household")]
pub(crate) async fn household(ctx: Context) -> Result<()> {
    let twice = RetryPolicy::new(Duration::from_millis(1), 3);
    ctx.call_with(flaky, 2_u32, twice).await?;
    ctx.call_with(lineage, (), ChildOptions::new().instance_id("done")).await?;
    let failed = ctx.call_with(fail_with_all, (), ChildOptions::new().instance_id("failed")).await;
    assert!(failed.is_err(), "it always fails");
    ctx.start_with(collect, 1_u32, StartOptions::new().instance_id("detached"))?;
    ctx.send_event("detached", "item", "salt")?;
    let open = ctx.call(collect, 1_u32);
    ctx.event::<()>("leave").await?;
    open.await.map(drop)
}

/// Calls a child under an ID twice at once, and returns how the two came out.
#[orchestrator(name = "Twins")]
pub(crate) async fn twins(ctx: Context, id: String) -> Result<Vec<String>> {
    let calls = (0..2).map(|_| ctx.call_with(loaf, 7_u32, ChildOptions::new().instance_id(id.as_str())));
    let ended = join_all(calls).await;
    Ok(ended.into_iter().map(|end| end.map_or_else(|error| error.kind().to_owned(), |grams| grams.to_string())).collect())
}

/// Calls a child by what is no instance ID, and goes on with what it is told.
#[orchestrator(name = "CallClumsily")]
pub(crate) async fn call_clumsy(ctx: Context, id: String) -> Result<String> {
    let called: Result<u32> = ctx.call_orchestrator_named_with("Loaf", &1, ChildOptions::new().instance_id(id)).await;
    Ok(called.map_or_else(|error| error.kind().to_owned(), |_| "fine".to_owned()))
}

/// Hands over so many bytes in every way, and returns what each of them is told.
#[orchestrator(name = "AskTooMuch")]
pub(crate) async fn ask_too_much(ctx: Context, bytes: usize) -> Result<Vec<String>> {
    let text = "x".repeat(bytes);
    let errors = [
        ctx.call_named::<()>("Nobody", &text).await.err(),
        ctx.call_orchestrator_named::<()>("Nobody", &text).await.err(),
        ctx.start_named("Nobody", &text).err(),
        ctx.send_event("nobody", "text", &text).err(),
        ctx.http(HttpRequest::post("http://nobody.example/").body(text.as_str())).await.err(),
    ];
    Ok(errors.into_iter().map(|error| error.map_or("fine".to_owned(), |error| error.kind().to_owned())).collect())
}
