//! How does the simulation run an orchestrator of the real SDK? Natively, as the host runs a component: in the types of the
//! contract.

use dacapo_guest::driver::{self, Driver};

use super::random;
use crate::model::{
    Action, ActivityCall, Ask, Cause, ChildCall, ChildStart, Continuation, End, Failure, Input, Outcome, Payload, Progress,
    SentEvent, Started, Tags, TaskId,
};
use crate::replay::{Fault, Guest};

/// A guest without wasm that runs the program in its input.
#[derive(Default)]
pub(super) struct SdkGuest(Option<Driver>);

impl Guest for SdkGuest {
    fn begin(&mut self, started: &Started) -> Result<(), Fault> {
        let start = driver::Start {
            function: started.function.clone(),
            instance_id: started.instance.to_string(),
            generation: started.generation.to_string(),
            input: started.input.text().to_owned(),
            parent: started.parent.as_ref().map(|parent| parent.instance.to_string()),
            tags: started.tags.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            extensions: Vec::new(),
        };
        self.0 = Some(Driver::begin(start, random::run));
        Ok(())
    }

    fn advance(&mut self, at_ms: u64, inputs: &[Input]) -> Result<Progress, Fault> {
        let events = std::iter::once(driver::Event::TurnStarted(at_ms)).chain(inputs.iter().map(event)).collect();
        let driver::Progress { actions, custom_status, outcome } = self.0.as_mut().expect("it has begun").advance(events);
        let (mut end, mut continuation) = (None, None);
        match outcome {
            None => (),
            Some(driver::End::Completed(output)) => end = Some(End::Completed(payload(output))),
            Some(driver::End::Failed(failure)) => end = Some(End::Failed(from_guest(failure))),
            Some(driver::End::ContinuedAsNew(driver::Continuation { input, keep, keep_version, .. })) => {
                continuation = Some(Continuation { input: payload(input), keep, keep_version });
            }
            Some(other @ driver::End::Extension(_)) => panic!("the SDK has no such end: {other:?}"),
        }
        let asks = actions.into_iter().map(ask).collect();
        Ok(Progress { asks, custom_status: custom_status.map(payload), end, continuation })
    }
}

fn event(input: &Input) -> driver::Event {
    match input {
        Input::Resolved { task, outcome } => {
            let outcome = match outcome {
                Outcome::Completed(output) => driver::Outcome::Completed(output.text().to_owned()),
                Outcome::Failed(failure) => driver::Outcome::Failed(to_guest(failure)),
                Outcome::Fired => driver::Outcome::Fired,
            };
            driver::Event::Resolved(driver::Answer { task: task.0, outcome })
        }
        Input::Raised { number, name, payload } => {
            let data = payload.text().to_owned();
            driver::Event::Raised(driver::RaisedEvent { number: *number, name: name.clone(), data })
        }
    }
}

fn ask(action: driver::Action) -> Ask {
    use driver::Action as Asked;
    Ask::Schedule(match action {
        Asked::Cancel(task) => return Ask::Cancel(TaskId(task)),
        Asked::Activity(call) => Action::Activity(ActivityCall {
            name: call.name,
            input: payload(call.input),
            attempt: call.attempt,
            first_attempt: call.first_attempt.map(TaskId),
            timeout_ms: call.timeout_ms,
        }),
        Asked::Timer(due_ms) => Action::Timer { due_ms },
        Asked::WaitEvent(name) => Action::WaitEvent { name },
        Asked::SubOrchestration(call) => Action::SubOrchestration(ChildCall {
            name: call.name,
            instance: call.instance_id.map(|id| id.parse().unwrap()),
            input: payload(call.input),
            attempt: call.attempt,
            first_attempt: call.first_attempt.map(TaskId),
            tags: Tags::new(call.tags).unwrap(),
        }),
        Asked::StartDetached(start) => Action::StartDetached(ChildStart {
            name: start.name,
            instance: start.instance_id.map(|id| id.parse().unwrap()),
            input: payload(start.input),
            at_ms: start.at_ms,
            tags: Tags::new(start.tags).unwrap(),
        }),
        Asked::SendEvent(event) => Action::SendEvent(SentEvent {
            instance: event.instance_id.parse().unwrap(),
            name: event.name,
            payload: payload(event.data),
        }),
        other => panic!("no program asks for this: {other:?}"),
    })
}

fn payload(text: String) -> Payload {
    Payload::parse(text).expect("the SDK prints JSON")
}

fn from_guest(failure: driver::Failure) -> Failure {
    let driver::Failure { kind, message, details, stack_trace, non_retriable, causes } = failure;
    let cause = |cause: driver::Cause| Cause { kind: cause.kind, message: cause.message, details: cause.details.map(payload) };
    let (details, causes) = (details.map(payload), causes.into_iter().map(cause).collect());
    Failure { kind, message, details, stack_trace, non_retriable, causes }
}

fn to_guest(failure: &Failure) -> driver::Failure {
    let Failure { kind, message, details, stack_trace, non_retriable, causes } = failure.clone();
    let text = |details: Option<Payload>| details.map(|details| details.text().to_owned());
    let cause = |cause: Cause| driver::Cause { kind: cause.kind, message: cause.message, details: text(cause.details) };
    let causes = causes.into_iter().map(cause).collect();
    driver::Failure { kind, message, details: text(details), stack_trace, non_retriable, causes }
}
