//! A context, or a task, that another thread would use.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[activity]
async fn bake() -> Result<()> {
    Ok(())
}

#[orchestrator]
async fn spawns(ctx: Context) -> Result<()> {
    std::thread::spawn(move || ctx.new_uuid());
    Ok(())
}

#[orchestrator]
async fn sends_a_task(ctx: Context) -> Result<()> {
    let task = ctx.call(bake, ());
    std::thread::spawn(move || drop(task));
    Ok(())
}

fn main() {}
