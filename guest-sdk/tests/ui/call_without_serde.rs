//! A call of an orchestrator whose input cannot be written, or whose output cannot be read.

#![allow(unused)]

use dacapo_guest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Loaf {
    grams: u32,
}

#[derive(Serialize)]
struct Bread {
    grams: u32,
}

#[orchestrator]
async fn bake(ctx: Context, loaf: Loaf) -> Result<u32> {
    Ok(loaf.grams)
}

#[orchestrator]
async fn buy(ctx: Context) -> Result<Bread> {
    Ok(Bread { grams: 500 })
}

#[orchestrator]
async fn open_shop(ctx: Context) -> Result<u32> {
    let grams = ctx.call(bake, Loaf { grams: 500 }).await?;
    Ok(grams + ctx.call(buy, ()).await?.grams)
}

fn main() {}
