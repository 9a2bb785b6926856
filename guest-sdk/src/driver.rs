//! How does the host's own simulation run orchestrators that are no wasm? By this driver. No part of the API.
//!
//! It speaks the types of the contract, as the host does with a component, and runs natively.

use std::future::Future;

pub use crate::bindings::dacapo::guest::types::{Cause, Failure};
pub use crate::bindings::exports::dacapo::guest::orchestrator::{
    Action, ActivityCall, Answer, ChildCall, ChildStart, Continuation, End, Event, HttpCall, Outcome, Progress, RaisedEvent,
    SentEvent, Start,
};
use crate::executor::Executor;
use crate::{Context, ContinueOptions, Error, Result};

/// One execution.
pub struct Driver(Executor);

impl Driver {
    /// As `begin` of the contract. `run` takes the input and gives the output as JSON; it goes on as a new execution by
    /// returning the error of [`continue_as_new`].
    pub fn begin<F: Future<Output = Result<String>> + 'static>(start: Start, run: impl FnOnce(Context, String) -> F) -> Self {
        Self(Executor::new(start, |context, input| Box::pin(run(context, input))))
    }

    /// As `advance` of the contract.
    pub fn advance(&mut self, events: Vec<Event>) -> Progress {
        self.0.advance(events)
    }

    /// The tasks that have no answer and were not dropped.
    #[cfg(not(target_family = "wasm"))]
    pub fn open_tasks(&self) -> Vec<u32> {
        self.0.open_tasks()
    }

    /// As `ask` of the contract.
    ///
    /// # Errors
    /// As there.
    pub fn ask(&self, name: &str, input: &str) -> Result<String, Failure> {
        self.0.ask(name, input).map_err(Error::into_failure)
    }
}

/// The error by whose return an orchestrator goes on with `input`.
pub fn continue_as_new(ctx: &Context, input: &serde_json::Value, options: ContinueOptions) -> Error {
    ctx.continue_with(input, options)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_closure_runs_as_a_component_does() {
        let start = Start {
            function: "bake".to_owned(),
            instance_id: "loaf".to_owned(),
            generation: "0123456789abcdef0123456789abcdef".to_owned(),
            input: "3".to_owned(),
            parent: None,
            tags: vec![],
            extensions: vec![],
        };
        let mut driver = Driver::begin(start, |ctx, input| async move {
            ctx.on_query("input", move |_: ()| input.clone());
            let heat: serde_json::Value = ctx.call_named("heat", &180).await?;
            Err(continue_as_new(&ctx, &heat, ContinueOptions::new()))
        });
        let progress = driver.advance(vec![Event::TurnStarted(0)]);
        assert!(matches!(&progress.actions[..], [Action::Activity(call)] if call.name == "heat"), "{progress:?}");
        assert_eq!(driver.open_tasks(), [0]);
        assert_eq!(driver.ask("input", "null"), Ok("\"3\"".to_owned()));
        assert_eq!(driver.ask("output", "null").unwrap_err().kind, "UnknownQuery");
        let outcome = Outcome::Completed(json!({ "degrees": 180 }).to_string());
        let progress = driver.advance(vec![Event::Resolved(Answer { task: 0, outcome })]);
        let Some(End::ContinuedAsNew(next)) = progress.outcome else { panic!("{progress:?}") };
        assert_eq!(next.input, "{\"degrees\":180}");
    }
}
