//! Arguments that an orchestrator or an activity cannot have.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[orchestrator]
async fn without_context() -> Result<()> {
    Ok(())
}

#[orchestrator]
async fn input_alone(order: String) -> Result<()> {
    Ok(())
}

#[orchestrator]
async fn context_last(order: String, ctx: Context) -> Result<()> {
    Ok(())
}

#[orchestrator]
async fn context_borrowed(ctx: &Context) -> Result<()> {
    Ok(())
}

#[orchestrator]
async fn three_arguments(ctx: Context, order: String, cents: u32) -> Result<()> {
    Ok(())
}

#[orchestrator]
async fn context_of_an_activity(ctx: ActivityContext) -> Result<()> {
    Ok(())
}

#[activity]
async fn two_inputs(order: String, cents: u32) -> Result<()> {
    Ok(())
}

#[activity]
async fn two_contexts(one: ActivityContext, two: ActivityContext) -> Result<()> {
    Ok(())
}

#[activity]
async fn context_of_an_orchestrator(ctx: Context, order: String) -> Result<()> {
    Ok(())
}

#[activity]
async fn borrowed_text(order: &str) -> Result<()> {
    Ok(())
}

#[activity]
async fn borrowed_list(orders: &[String]) -> Result<()> {
    Ok(())
}

#[activity]
async fn open_type(order: impl Into<String>) -> Result<()> {
    Ok(())
}

fn main() {}
