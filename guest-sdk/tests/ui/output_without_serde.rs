//! Outputs that have no form in JSON.

#![allow(unused)]

use dacapo_guest::prelude::*;

struct Bread {
    grams: u32,
}

#[orchestrator]
async fn order(ctx: Context) -> Result<Bread> {
    Ok(Bread { grams: 500 })
}

#[activity]
async fn bake() -> Result<Option<Bread>> {
    Ok(Some(Bread { grams: 500 }))
}

fn main() {}
