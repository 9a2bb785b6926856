//! Calls of what is no function of a module, and activities that are called past the host.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[activity]
async fn bake(loaf: String) -> Result<u32> {
    Ok(loaf.len() as u32)
}

#[orchestrator]
async fn deliver(ctx: Context) -> Result<()> {
    Ok(())
}

async fn plain(loaf: String) -> Result<u32> {
    Ok(loaf.len() as u32)
}

fn number() -> u32 {
    7
}

#[orchestrator]
async fn calls_what_has_no_attribute(ctx: Context) -> Result<()> {
    ctx.call(number, ()).await
}

#[orchestrator]
async fn starts_an_activity(ctx: Context) -> Result<String> {
    ctx.start(bake, "rye")
}

#[orchestrator]
async fn calls_a_plain_function(ctx: Context) -> Result<u32> {
    ctx.call(plain, "rye").await
}

#[orchestrator]
async fn calls_past_the_host(ctx: Context) -> Result<u32> {
    bake("rye".to_owned()).await
}

#[orchestrator]
async fn forgets_the_input(ctx: Context) -> Result<u32> {
    ctx.call(bake).await
}

fn main() {}
