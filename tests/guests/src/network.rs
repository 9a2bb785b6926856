//! Activities that reach for the network and the environment, and an orchestrator that must not.

use std::time::Duration;

use dacapo_guest::ActivityContext;
use dacapo_guest::prelude::*;
use dacapo_guest::{ActivityOptions, HttpRequest, log};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One request by `wasi:http`.
fn get(url: &str) -> Result<String> {
    let response = match waki::Client::new().get(url).send() {
        Ok(response) => response,
        Err(error) => return Err(Error::new("Unreachable", format!("{error:?}"))),
    };
    match response.body() {
        Ok(body) => Ok(String::from_utf8_lossy(&body).into_owned()),
        Err(error) => Err(Error::new("Unreadable", format!("{error:?}"))),
    }
}

/// Fetches a page.
#[activity(name = "Fetch")]
pub(crate) async fn fetch(url: String) -> Result<String> {
    get(&url)
}

/// Fetches it too, under another name.
#[activity(name = "FetchSlowly")]
pub(crate) async fn fetch_slowly(url: String) -> Result<String> {
    get(&url)
}

/// Calls an activity that takes a text.
#[orchestrator(name = "CallWithText")]
pub(crate) async fn call_with_text(ctx: Context, (function, text): (String, String)) -> Result<Value> {
    ctx.call_named(&function, &text).await
}

/// Calls an activity that takes anything.
#[orchestrator(name = "CallWithValue")]
pub(crate) async fn call_with_value(ctx: Context, (function, input): (String, Value)) -> Result<Value> {
    ctx.call_named(&function, &input).await
}

/// Fetches a page itself.
#[orchestrator(name = "FetchItself")]
pub(crate) async fn fetch_itself(_ctx: Context, url: String) -> Result<String> {
    get(&url)
}

/// Lets the host fetch it.
#[orchestrator(name = "FetchByHost")]
pub(crate) async fn fetch_by_host(ctx: Context, url: String) -> Result<(u16, String)> {
    let response = ctx.http(HttpRequest::get(url).follow_accepted(false)).await?;
    Ok((response.status, response.body))
}

/// Lets the host fetch it, and whatever it is told to come back for.
#[orchestrator(name = "FollowByHost")]
pub(crate) async fn follow_by_host(ctx: Context, url: String) -> Result<(u16, String)> {
    let response = ctx.http(HttpRequest::get(url)).await?;
    Ok((response.status, response.body))
}

/// Fetches so many pages at once with one activity, and as many with another: `{url}/{number}`. Failures do not matter.
#[orchestrator(name = "FetchMany")]
pub(crate) async fn fetch_many(ctx: Context, (url, fast, slow): (String, u32, u32)) -> Result<usize> {
    let fast = (0..fast).map(|number| ctx.call(fetch, format!("{url}/fast/{number}")));
    let slow = (0..slow).map(|number| ctx.call(fetch_slowly, format!("{url}/slow/{number}")));
    let ended = join_all(fast.chain(slow)).await;
    Ok(ended.iter().filter(|end| end.is_ok()).count())
}

/// Calls `Fetch` with a bound on its time.
#[orchestrator(name = "FetchInTime")]
pub(crate) async fn fetch_in_time(ctx: Context, (url, ms): (String, u64)) -> Result<String> {
    ctx.call_with(fetch, url, ActivityOptions::new().timeout(Duration::from_millis(ms))).await
}

/// Looks at a variable, says it aloud in every way, and returns how long it is.
#[activity(name = "Mumble")]
pub(crate) async fn mumble(name: String) -> Result<usize> {
    let value = std::env::var(&name)?;
    println!("{name} is {value}");
    eprintln!("{name} is {value}");
    log::info!("{name} is {value}");
    Ok(value.len())
}

/// Says this in one line of the log, whatever it is.
#[activity(name = "Say")]
pub(crate) async fn say(text: String) -> Result<()> {
    log::info!("{text}");
    Ok(())
}

/// Returns a variable.
#[activity(name = "Tell")]
pub(crate) async fn tell(name: String) -> Result<String> {
    Ok(std::env::var(&name)?)
}

/// Fails with a variable in all parts of the failure.
#[activity(name = "Blurt")]
pub(crate) async fn blurt(name: String) -> Result<()> {
    let value = std::env::var(&name)?;
    let cause = Error::new("Cause", format!("because of {value}"));
    Err(Error::new("Blurted", format!("it is {value}")).with_details(&[&value]).caused_by(cause))
}

/// Panics with a variable.
#[activity(name = "Scream")]
pub(crate) async fn scream(name: String) -> Result<()> {
    panic!("it is {}", std::env::var(&name)?)
}

/// Reports a variable as its progress.
#[activity(name = "Boast")]
pub(crate) async fn boast(name: String, run: ActivityContext) -> Result<()> {
    run.heartbeat(&std::env::var(&name)?)
}

/// What `Stepwise` reports.
#[derive(Serialize, Deserialize)]
struct Steps {
    steps_done: u32,
}

/// Reports that it has done one step more than before, asks `url` what to do, and does it: `crash` is a panic, all else the result. It tells
/// `url` from where it goes on, and in which attempt.
#[activity(name = "Stepwise")]
pub(crate) async fn stepwise(url: String, run: ActivityContext) -> Result<String> {
    let step = run.progress::<Steps>().map_or(0, |steps| steps.steps_done);
    run.heartbeat(&Steps { steps_done: step + 1 })?;
    let answer = get(&format!("{url}/step/{step}/attempt/{}", run.attempt))?;
    if answer == "crash" {
        panic!("told to crash");
    }
    Ok(format!("{answer} at step {step} in attempt {}", run.attempt))
}

/// Calls `Stepwise`, three times if need be.
#[orchestrator(name = "CallStepwise")]
pub(crate) async fn call_stepwise(ctx: Context, url: String) -> Result<String> {
    ctx.call_with(stepwise, url, RetryPolicy::new(Duration::from_millis(1), 3)).await
}

/// Sends so many bytes to `url`, and returns how many come back.
#[activity(name = "Post")]
pub(crate) async fn post((url, bytes): (String, usize), run: ActivityContext) -> Result<usize> {
    let unreachable = |error| Error::new("Unreachable", format!("{error:?}"));
    let request = waki::Client::new().post(&url).header("idempotency-key", run.idempotency_key);
    let response = request.body(vec![b'z'; bytes]).send().map_err(unreachable)?;
    Ok(response.body().map_err(unreachable)?.len())
}

/// Lets the host send a secret of the hub as a key, and returns the answer's status and body.
#[orchestrator(name = "CallWithSecret")]
pub(crate) async fn call_with_secret(ctx: Context, (url, name): (String, String)) -> Result<(u16, String)> {
    let response = ctx.http(HttpRequest::get(url).header("x-api-key", format!("Bearer {{{{secret {name}}}}}"))).await?;
    Ok((response.status, response.body))
}
