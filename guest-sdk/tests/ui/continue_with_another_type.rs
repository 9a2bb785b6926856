//! Orchestrators that cannot go on as they want to.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[orchestrator]
async fn other_input(ctx: Context, day: u32) -> Result<()> {
    ctx.continue_as_new(other_input, "tomorrow")
}

#[orchestrator]
async fn text(ctx: Context) -> Result<String> {
    Ok(String::new())
}

#[orchestrator]
async fn other_output(ctx: Context) -> Result<u32> {
    ctx.continue_as_new(text, ())
}

fn main() {}
