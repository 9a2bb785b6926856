//! Orchestrators that can be asked about their state.

use std::cell::RefCell;
use std::rc::Rc;

use dacapo_guest::log;
use dacapo_guest::prelude::*;

/// Takes so many events called `loaf`, each a number, and returns their sum. Can be asked about those that it has, before and
/// after its end, and badly.
#[orchestrator(name = "Shelf")]
pub(crate) async fn shelf(ctx: Context, room: usize) -> Result<u32> {
    let loaves = Rc::new(RefCell::new(Vec::<u32>::new()));
    let of = |loaves: &Rc<RefCell<Vec<u32>>>| loaves.clone();
    ctx.on_query("count", {
        let loaves = of(&loaves);
        move |(): ()| loaves.borrow().len()
    });
    ctx.on_query("heavier than", {
        let loaves = of(&loaves);
        move |grams: u32| loaves.borrow().iter().filter(|&&loaf| loaf > grams).copied().collect::<Vec<u32>>()
    });
    ctx.on_query("take", {
        let loaves = of(&loaves);
        move |(): ()| {
            println!("somebody takes one");
            log::warn!("somebody takes one");
            loaves.borrow_mut().pop()
        }
    });
    ctx.on_query("panic", |(): ()| -> u32 { panic!("the shelf has come down") });
    ctx.on_query("loop", |(): ()| -> u32 {
        loop {
            std::hint::black_box(());
        }
    });
    ctx.on_query("ask", {
        let ctx = ctx.clone();
        move |(): ()| drop(ctx.call_named::<u32>("Echo", &1))
    });
    ctx.on_query("say", {
        let ctx = ctx.clone();
        move |(): ()| ctx.set_custom_status("asked").is_ok()
    });
    println!("the shelf is up");
    ctx.set_custom_status("empty")?;
    while loaves.borrow().len() < room {
        let loaf = ctx.event("loaf").await?;
        loaves.borrow_mut().push(loaf);
    }
    Ok(loaves.borrow().iter().sum())
}
