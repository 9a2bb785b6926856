//! Guests that do next to nothing, so that what is measured is the server.

mod crash;

use std::time::{Duration, SystemTime};

use dacapo_guest::prelude::*;
use futures::future::join_all;

use crash::{chance, collect, errand, family, gamble, repeat, rounds};

const CITIES: [&str; 5] = ["Tokyo", "Seattle", "London", "Amsterdam", "Mumbai"];

#[activity(name = "SayHello")]
async fn say_hello(city: String) -> Result<String> {
    Ok(format!("Hello {city}!"))
}

/// Does nothing for so many milliseconds.
#[activity(name = "Nap")]
async fn nap(ms: u64) -> Result<()> {
    std::thread::sleep(Duration::from_millis(ms));
    Ok(())
}

/// Greets as many cities as it is told, one after the other, from the first again when they are used up.
#[orchestrator(name = "Sequence")]
async fn sequence(ctx: Context, length: usize) -> Result<Vec<String>> {
    let mut greetings = Vec::with_capacity(length);
    for city in CITIES.into_iter().cycle().take(length) {
        greetings.push(ctx.call(say_hello, city).await?);
    }
    Ok(greetings)
}

/// Greets so many cities one after the other, and says how many greetings came back.
#[orchestrator(name = "Chain")]
async fn chain(ctx: Context, length: usize) -> Result<usize> {
    for city in CITIES.into_iter().cycle().take(length) {
        ctx.call(say_hello, city).await?;
    }
    Ok(length)
}

/// Greets so many cities side by side, and says how many greetings came back.
#[orchestrator(name = "FanOut")]
async fn fan_out(ctx: Context, width: usize) -> Result<usize> {
    let cities = CITIES.into_iter().cycle().take(width);
    let greetings = join_all(cities.map(|city| ctx.call(say_hello, city))).await;
    Ok(greetings.iter().flatten().count())
}

/// Has so many children, and says how many have come to a good end.
#[orchestrator(name = "Parent")]
async fn parent(ctx: Context, width: usize) -> Result<usize> {
    let children = join_all((0..width).map(|_| ctx.call(sequence, 1_usize))).await;
    Ok(children.iter().flatten().count())
}

/// Sleeps until a time, in milliseconds since 1970.
#[orchestrator(name = "Sleep")]
async fn sleep(ctx: Context, until_ms: u64) -> Result<()> {
    ctx.sleep_until(SystemTime::UNIX_EPOCH + Duration::from_millis(until_ms)).await
}

/// Waits for an activity that does nothing for so many milliseconds.
#[orchestrator(name = "Rest")]
async fn rest(ctx: Context, ms: u64) -> Result<()> {
    ctx.call(nap, ms).await
}

/// Waits for so many numbers, which are raised to it as `Number` one after the other, and returns them.
#[orchestrator(name = "Numbers")]
async fn numbers(ctx: Context, count: usize) -> Result<Vec<u64>> {
    let mut numbers = Vec::with_capacity(count);
    for _ in 0..count {
        numbers.push(ctx.event("Number").await?);
    }
    Ok(numbers)
}

/// Sleeps so often, for a millisecond each time, and says how often.
#[orchestrator(name = "Timers")]
async fn timers(ctx: Context, count: usize) -> Result<usize> {
    for _ in 0..count {
        ctx.sleep(Duration::from_millis(1)).await?;
    }
    Ok(count)
}

/// Takes numbers, which are raised to it as `Number`, and shows the last one as its custom status, for ever.
#[orchestrator(name = "Echo")]
async fn echo(ctx: Context) -> Result<()> {
    // So that no history gets long.
    for _ in 0..1_000 {
        let number: u64 = ctx.event("Number").await?;
        ctx.set_custom_status(&number)?;
    }
    ctx.continue_as_new(echo, ())
}

/// Never waits, until it is stopped.
#[orchestrator(name = "Spin")]
async fn spin(_ctx: Context) -> Result<()> {
    compute_for_ever()
}

/// Waits for what never comes back.
#[orchestrator(name = "SpinElsewhere")]
async fn spin_elsewhere(ctx: Context) -> Result<()> {
    ctx.call(spin_activity, ()).await
}

#[activity(name = "SpinActivity")]
async fn spin_activity() -> Result<()> {
    compute_for_ever()
}

fn compute_for_ever() -> ! {
    loop {
        std::hint::black_box(());
    }
}

dacapo_guest::module!(
    sequence,
    chain,
    fan_out,
    parent,
    sleep,
    timers,
    echo,
    numbers,
    rest,
    say_hello,
    nap,
    collect,
    errand,
    rounds,
    gamble,
    family,
    repeat,
    chance,
    spin,
    spin_elsewhere,
    spin_activity
);
