//! A context inside of what an activity is given.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[orchestrator]
async fn hands_it_to_an_activity(ctx: Context) -> Result<()> {
    ctx.call_named("Bake", &ctx).await
}

fn main() {}
