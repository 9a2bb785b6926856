//! A context belongs to one execution: it cannot be kept for others.

#![allow(unused)]

use std::sync::{Mutex, OnceLock};

use dacapo_guest::prelude::*;

static LAST: Mutex<Option<Context>> = Mutex::new(None);

static ONCE: OnceLock<Context> = OnceLock::new();

#[orchestrator]
async fn keeps(ctx: Context) -> Result<()> {
    *LAST.lock()? = Some(ctx);
    Ok(())
}

fn main() {}
