//! Functions that misbehave. The server has to survive each of them and say what it did.

use std::hint::black_box;

use dacapo_guest::prelude::*;

/// Never gives its thread back.
#[orchestrator(name = "Loop")]
pub(crate) async fn loop_for_ever(_ctx: Context) -> Result<()> {
    spin()
}

/// Panics in its first turn.
#[orchestrator(name = "Panic")]
pub(crate) async fn panic(_ctx: Context) -> Result<()> {
    panic!("the oven is cold")
}

/// Takes memory without end and keeps it.
#[orchestrator(name = "Grow")]
pub(crate) async fn grow(_ctx: Context) -> Result<()> {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(vec![1_u8; 1 << 20]));
        black_box(&kept);
    }
}

/// Runs out of stack.
#[orchestrator(name = "Recurse")]
pub(crate) async fn recurse(_ctx: Context) -> Result<u64> {
    Ok(descend(0))
}

#[allow(unconditional_recursion, reason = "that is what it is for")]
fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    black_box(descend(depth + 1)) + frame[0]
}

/// Looks for a file, which no orchestrator has, and returns what it is told.
#[orchestrator(name = "ReadFile")]
pub(crate) async fn read_file(_ctx: Context) -> Result<String> {
    match std::fs::read("/etc/hostname") {
        Ok(_) => bail!("an orchestrator has read a file"),
        Err(error) => Ok(error.to_string()),
    }
}

/// Waits for what never comes, and asks the host for nothing.
#[orchestrator(name = "Forever")]
pub(crate) async fn forever(_ctx: Context) -> Result<()> {
    std::future::pending().await
}

/// Calls `PanicActivity`.
#[orchestrator(name = "CallPanicActivity")]
pub(crate) async fn call_panic(ctx: Context) -> Result<()> {
    ctx.call(panic_activity, ()).await
}

/// Calls `LoopActivity`.
#[orchestrator(name = "CallLoopActivity")]
pub(crate) async fn call_loop(ctx: Context) -> Result<()> {
    ctx.call(loop_activity, ()).await
}

/// Panics.
#[activity(name = "PanicActivity")]
pub(crate) async fn panic_activity() -> Result<()> {
    panic!("the oven is on fire")
}

/// Never comes back.
#[activity(name = "LoopActivity")]
pub(crate) async fn loop_activity() -> Result<()> {
    spin()
}

fn spin() -> ! {
    loop {
        black_box(());
    }
}
