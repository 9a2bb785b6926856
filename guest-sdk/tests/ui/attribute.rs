//! Attributes that say what they cannot mean.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[orchestrator(nam = "Bake")]
async fn mistyped(ctx: Context) -> Result<()> {
    Ok(())
}

#[activity("Bake")]
async fn without_key() -> Result<()> {
    Ok(())
}

#[activity(name)]
async fn without_value() -> Result<()> {
    Ok(())
}

#[activity(name = Bake)]
async fn without_quotes() -> Result<()> {
    Ok(())
}

#[activity(name = "Bake", retries = 3)]
async fn too_much() -> Result<()> {
    Ok(())
}

#[activity(name = "")]
async fn no_name() -> Result<()> {
    Ok(())
}

#[activity(name = "bread/bake")]
async fn slash() -> Result<()> {
    Ok(())
}

#[activity(name = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789")]
async fn too_long() -> Result<()> {
    Ok(())
}

fn main() {}
