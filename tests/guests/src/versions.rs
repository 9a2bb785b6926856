//! Functions that tell which build of this module they come from. Tests make another build by putting other words of the same length
//! in the place of [`EDITION`].

use std::hint::black_box;

use dacapo_guest::ContinueOptions;
use dacapo_guest::prelude::*;
use serde_json::Value;

/// Long and odd enough to be found once in the module.
const EDITION: &str = "this is the edition of the test guests that was built first of all";

/// The edition of the code that runs.
pub(crate) fn edition_here() -> String {
    black_box(EDITION).to_owned()
}

/// Tells its edition.
#[activity(name = "TellEdition")]
pub(crate) async fn tell_edition() -> Result<String> {
    Ok(edition_here())
}

/// Tells its edition, as a child.
#[orchestrator(name = "ChildEdition")]
pub(crate) async fn child_edition(_ctx: Context) -> Result<String> {
    Ok(edition_here())
}

/// Waits for `go`, and then returns its own edition, that of an activity and that of a child.
#[orchestrator(name = "Editions")]
pub(crate) async fn editions(ctx: Context) -> Result<Vec<String>> {
    ctx.event::<()>("go").await?;
    Ok(vec![edition_here(), ctx.call(tell_edition, ()).await?, ctx.call(child_edition, ()).await?])
}

/// Waits for `go` in its first execution, and returns the edition of the second.
#[orchestrator(name = "NextEdition")]
pub(crate) async fn next_edition(ctx: Context, (is_new, keeps): (bool, bool)) -> Result<String> {
    if !is_new {
        return Ok(edition_here());
    }
    ctx.event::<()>("go").await?;
    let options = ContinueOptions::new();
    ctx.continue_as_new_with(next_edition, (false, keeps), if keeps { options.keep_version() } else { options })
}

/// Waits for `go`, and then calls a function of another module, an activity and an orchestrator.
#[orchestrator(name = "CallOthers")]
pub(crate) async fn call_others(ctx: Context) -> Result<(Value, Value)> {
    ctx.event::<()>("go").await?;
    let said = ctx.call_named("E1_SayHello", &"Oslo").await?;
    Ok((said, ctx.call_orchestrator_named("E1_HelloSequence", &()).await?))
}
