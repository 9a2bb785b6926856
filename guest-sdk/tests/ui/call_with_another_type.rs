//! Calls that do not fit what they call.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[activity]
async fn bake(loaf: String) -> Result<u32> {
    Ok(loaf.len() as u32)
}

#[activity]
async fn square(number: u64) -> Result<u64> {
    Ok(number * number)
}

#[orchestrator]
async fn other_input(ctx: Context) -> Result<u32> {
    ctx.call(bake, 7_u32).await
}

#[orchestrator]
async fn number_without_type(ctx: Context) -> Result<u64> {
    ctx.call(square, 7).await
}

#[orchestrator]
async fn other_output(ctx: Context) -> Result<String> {
    let loaf: String = ctx.call(bake, "rye").await?;
    Ok(loaf)
}

fn main() {}
