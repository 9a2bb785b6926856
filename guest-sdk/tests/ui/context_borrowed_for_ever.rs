//! A reference to a context that outlives its orchestrator.

#![allow(unused)]

use std::cell::RefCell;

use dacapo_guest::prelude::*;

thread_local! {
    static ID: RefCell<Option<&'static str>> = const { RefCell::new(None) };
    static LATER: RefCell<Vec<Box<dyn Fn() -> Uuid>>> = const { RefCell::new(Vec::new()) };
}

use dacapo_guest::Uuid;

#[orchestrator]
async fn keeps_its_id(ctx: Context) -> Result<()> {
    ID.set(Some(ctx.instance_id()));
    Ok(())
}

#[orchestrator]
async fn keeps_a_closure(ctx: Context) -> Result<()> {
    LATER.with_borrow_mut(|later| later.push(Box::new(|| ctx.new_uuid())));
    Ok(())
}

fn main() {}
