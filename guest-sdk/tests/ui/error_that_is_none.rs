//! A `Result` whose error has nothing to say why it is one.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[orchestrator]
async fn order(ctx: Context) -> Result<(), String> {
    Err("no flour".to_owned())
}

fn main() {}
