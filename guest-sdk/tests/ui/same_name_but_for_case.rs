//! Two functions of a module whose names differ only in case: callers write them as they like.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[activity]
async fn bake() -> Result<()> {
    Ok(())
}

#[orchestrator(name = "Bake")]
async fn bake_in_order(ctx: Context) -> Result<()> {
    ctx.call(bake, ()).await
}

dacapo_guest::module!(bake, bake_in_order);

fn main() {}
