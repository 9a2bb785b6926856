//! Functions of a form that nobody could call by name.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[activity]
fn activity_not_async(loaf: String) -> Result<String> {
    Ok(loaf)
}

#[orchestrator]
fn orchestrator_not_async(ctx: Context) -> Result<()> {
    Ok(())
}

#[activity]
async fn generic<T: ToString>(loaf: T) -> Result<String> {
    Ok(loaf.to_string())
}

#[activity]
async fn returns_nothing(loaf: String) {}

#[orchestrator]
async extern "C" fn of_another_language(ctx: Context) -> Result<()> {
    Ok(())
}

#[activity]
struct NoFunction;

struct Bakery;

impl Bakery {
    #[activity]
    async fn method(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {}
