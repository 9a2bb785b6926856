//! Options of one kind of function in a call of the other.

#![allow(unused)]

use std::time::Duration;

use dacapo_guest::prelude::*;
use dacapo_guest::{ActivityOptions, ChildOptions};

#[activity]
async fn bake(loaf: String) -> Result<u32> {
    Ok(loaf.len() as u32)
}

#[orchestrator]
async fn deliver(ctx: Context) -> Result<()> {
    Ok(())
}

#[orchestrator]
async fn activity_with_an_id(ctx: Context) -> Result<u32> {
    ctx.call_with(bake, "rye", ChildOptions::new().instance_id("loaf")).await
}

#[orchestrator]
async fn child_with_a_timeout(ctx: Context) -> Result<()> {
    ctx.call_with(deliver, (), ActivityOptions::new().timeout(Duration::from_secs(1))).await
}

fn main() {}
