//! Inputs that have no form in JSON.

#![allow(unused)]

use dacapo_guest::prelude::*;

struct Loaf {
    grams: u32,
}

#[orchestrator]
async fn order(ctx: Context, loaf: Loaf) -> Result<u32> {
    Ok(loaf.grams)
}

#[activity]
async fn bake(loaf: Loaf) -> Result<u32> {
    Ok(loaf.grams)
}

fn main() {}
