//! What is returned is no `Result`, or one whose error says nothing.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[activity]
async fn plain_value(loaf: String) -> String {
    loaf
}

#[orchestrator]
async fn nothing(ctx: Context) -> () {}

#[orchestrator]
async fn context(ctx: Context) -> Result<Context> {
    Ok(ctx)
}

fn main() {}
