//! How do the guest contract's types and ours turn into each other? Bindings of `guest-sdk/wit`, version 0.1.0.
//!
//! Everything that comes from a guest passes through here and is checked: text that is not JSON, and cases that this host does
//! not offer, become failures that name them. Texts for people are cut where they are too long.

use super::state::{GuestState, PanicNote};
use super::text::{CAUSES_MAX, FUNCTION_CHARACTERS_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX, cut};
use crate::model::{
    Action, ActivityCall, Ask, Cause, ChildCall, ChildStart, Continuation, End, Failure, HttpCall, Input, InstanceId, LogLevel,
    Outcome, Payload, Progress, SentEvent, Started, Tags, TaskId,
};

mod bindings {
    #![allow(unsafe_code, missing_docs, unreachable_pub, dead_code, unused_variables, clippy::all, reason = "generated")]

    wasmtime::component::bindgen!({
        path: "../guest-sdk/wit",
        world: "module",
        imports: { "dacapo:guest/heartbeat.report": trappable },
        exports: { "dacapo:guest/activity.invoke": async },
    });
}

pub(super) use bindings::dacapo::guest::{heartbeat, log, types};
pub(super) use bindings::exports::dacapo::guest::{activity, catalog, orchestrator, query};

/// The version of the contract that these bindings speak.
pub(super) const VERSION: &str = "0.1.0";

/// What a module exports to have a role, and what it may import beside WASI.
pub(super) const CATALOG: &str = "dacapo:guest/catalog@0.1.0";
pub(super) const ORCHESTRATOR: &str = "dacapo:guest/orchestrator@0.1.0";
pub(super) const ACTIVITY: &str = "dacapo:guest/activity@0.1.0";
pub(super) const QUERY: &str = "dacapo:guest/query@0.1.0";
pub(super) const LOG: &str = "dacapo:guest/log@0.1.0";
pub(super) const HEARTBEAT: &str = "dacapo:guest/heartbeat@0.1.0";
pub(super) const TYPES: &str = "dacapo:guest/types@0.1.0";

/// The largest custom status, in bytes of UTF-16: the figure of Durable Functions.
const CUSTOM_STATUS_BYTES_MAX: usize = 16 << 10;

/// What `begin` is told. `function` is spelled as the catalog spells it.
pub(super) fn start(started: &Started, function: &str) -> orchestrator::Start {
    orchestrator::Start {
        function: function.to_owned(),
        instance_id: started.instance.to_string(),
        generation: started.generation.to_string(),
        input: started.input.text().to_owned(),
        parent: started.parent.as_ref().map(|parent| parent.instance.to_string()),
        tags: started.tags.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        // So that an SDK can refuse what is too long, where the host can only end the execution.
        extensions: vec![("payload-bytes-max".into(), started.limits.payload_bytes_max.to_string())],
    }
}

/// One turn's events.
pub(super) fn events(at_ms: u64, inputs: &[Input]) -> Vec<orchestrator::Event> {
    let inputs = inputs.iter().map(|input| match input {
        Input::Resolved { task, outcome } => {
            let outcome = match outcome {
                Outcome::Completed(output) => orchestrator::Outcome::Completed(output.text().to_owned()),
                Outcome::Failed(failure) => orchestrator::Outcome::Failed(to_guest(failure)),
                Outcome::Fired => orchestrator::Outcome::Fired,
            };
            orchestrator::Event::Resolved(orchestrator::Answer { task: task.0, outcome })
        }
        Input::Raised { number, name, payload } => {
            let data = payload.text().to_owned();
            orchestrator::Event::Raised(orchestrator::RaisedEvent { number: *number, name: name.clone(), data })
        }
    });
    std::iter::once(orchestrator::Event::TurnStarted(at_ms)).chain(inputs).collect()
}

/// What a turn brought about.
///
/// # Errors
/// Says what in it is not as the contract wants it.
pub(super) fn progress(progress: orchestrator::Progress, payload_bytes_max: usize) -> Result<Progress, Failure> {
    let payload = |text: String, what: &str| payload(text, what, payload_bytes_max);
    let asks = progress.actions.into_iter().map(|action| ask(action, payload_bytes_max)).collect::<Result<_, _>>()?;
    let custom_status = progress.custom_status.map(|text| payload(text, "the custom status")).transpose()?;
    if let Some(status) = &custom_status {
        let bytes = 2 * status.text().encode_utf16().count();
        if bytes > CUSTOM_STATUS_BYTES_MAX {
            let message = format!("the custom status has {bytes} bytes in UTF-16, and may have {CUSTOM_STATUS_BYTES_MAX}");
            return Err(Failure::new("LimitExceeded", message));
        }
    }
    let (mut end, mut continuation) = (None, None);
    match progress.outcome {
        None => (),
        Some(orchestrator::End::Completed(output)) => end = Some(End::Completed(payload(output, "the orchestrator's result")?)),
        Some(orchestrator::End::Failed(failure)) => end = Some(End::Failed(from_guest(failure, payload_bytes_max)?)),
        Some(orchestrator::End::ContinuedAsNew(orchestrator::Continuation { input, mut keep, keep_version, .. })) => {
            keep.sort_unstable();
            keep.dedup();
            continuation = Some(Continuation { input: payload(input, "the input to continue with")?, keep, keep_version });
        }
        Some(orchestrator::End::Extension((name, _))) => return Err(not_offered(&format!("for the end {name:?}"))),
    }
    Ok(Progress { asks, custom_status, end, continuation })
}

/// What a question brought: an answer, or why there is none.
///
/// # Errors
/// Says what in it is not as the contract wants it.
pub(super) fn answer(
    answer: Result<String, query::Failure>,
    payload_bytes_max: usize,
) -> Result<Result<Payload, Failure>, Failure> {
    match answer {
        Ok(text) => payload(text, "the answer to a query", payload_bytes_max).map(Ok),
        Err(failure) => from_guest(failure, payload_bytes_max).map(Err),
    }
}

fn ask(action: orchestrator::Action, payload_bytes_max: usize) -> Result<Ask, Failure> {
    use orchestrator::Action as Asked;
    let action = match action {
        Asked::Cancel(task) => return Ok(Ask::Cancel(TaskId(task))),
        Asked::Activity(call) => Action::Activity(ActivityCall {
            input: payload(call.input, &format!("the input of activity {:?}", cut_name(&call.name)), payload_bytes_max)?,
            name: function_name(call.name, "an activity")?,
            attempt: call.attempt,
            first_attempt: call.first_attempt.map(TaskId),
            timeout_ms: call.timeout_ms,
        }),
        Asked::Timer(due_ms) => Action::Timer { due_ms },
        Asked::WaitEvent(name) => Action::WaitEvent { name: event_name(name)? },
        Asked::SubOrchestration(call) => Action::SubOrchestration(ChildCall {
            input: payload(call.input, &format!("the input of orchestrator {:?}", cut_name(&call.name)), payload_bytes_max)?,
            name: function_name(call.name, "an orchestrator")?,
            instance: call.instance_id.map(instance_id).transpose()?,
            attempt: call.attempt,
            first_attempt: call.first_attempt.map(TaskId),
            tags: tags(call.tags)?,
        }),
        Asked::StartDetached(start) => Action::StartDetached(ChildStart {
            input: payload(start.input, &format!("the input of orchestrator {:?}", cut_name(&start.name)), payload_bytes_max)?,
            name: function_name(start.name, "an orchestrator")?,
            instance: start.instance_id.map(instance_id).transpose()?,
            at_ms: start.at_ms,
            tags: tags(start.tags)?,
        }),
        Asked::SendEvent(event) => Action::SendEvent(SentEvent {
            instance: instance_id(event.instance_id)?,
            payload: payload(event.data, "the value of an event", payload_bytes_max)?,
            name: event_name(event.name)?,
        }),
        Asked::Http(call) => {
            let headers = call.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            let bytes = call.method.len() + call.uri.len() + headers + call.body.as_ref().map_or(0, String::len);
            if bytes > payload_bytes_max {
                let message =
                    format!("an HTTP request has {bytes} bytes, and may have {payload_bytes_max} (limit payload_bytes_max)");
                return Err(Failure::new("LimitExceeded", message));
            }
            let orchestrator::HttpCall { method, uri, headers, body, timeout_ms, .. } = call;
            Action::Http(HttpCall { method, uri, headers, body, timeout_ms })
        }
        Asked::EntityCall(_) | Asked::EntitySignal(_) => return Err(not_offered("for an entity")),
        Asked::Lock(_) | Asked::Unlock(_) => return Err(not_offered("for a lock")),
        Asked::Extension((name, _)) => return Err(not_offered(&format!("for {name:?}"))),
    };
    Ok(Ask::Schedule(action))
}

/// A name for a message, which may be endless.
fn cut_name(name: &str) -> String {
    cut(name.to_owned(), NAME_BYTES_MAX)
}

fn function_name(name: String, of: &str) -> Result<String, Failure> {
    let characters = name.chars().count();
    if characters > FUNCTION_CHARACTERS_MAX {
        let message = format!("the name of {of} has {characters} characters, and may have {FUNCTION_CHARACTERS_MAX}");
        return Err(Failure::new("LimitExceeded", message));
    }
    Ok(name)
}

fn event_name(name: String) -> Result<String, Failure> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let message = format!("the name of an event has {} bytes, and may have 1 to {NAME_BYTES_MAX}", name.len());
        return Err(Failure::new("LimitExceeded", message));
    }
    Ok(name)
}

fn instance_id(text: String) -> Result<InstanceId, Failure> {
    text.parse().map_err(|error| Failure::new("InvalidInstanceId", cut(format!("{error}"), TEXT_BYTES_MAX)))
}

fn tags(tags: Vec<(String, String)>) -> Result<Tags, Failure> {
    Tags::new(tags).map_err(|error| Failure::new("InvalidTags", cut(error.to_string(), TEXT_BYTES_MAX)))
}

fn not_offered(what: &str) -> Failure {
    let what = cut(what.to_owned(), TEXT_BYTES_MAX);
    Failure::new("NotOffered", format!("the module asks {what}, which this version of Dacapo does not offer"))
}

/// Text from a guest as a payload.
///
/// # Errors
/// If it is not JSON, or too large; `what` says in the message which text it is.
pub(super) fn payload(text: String, what: &str, bytes_max: usize) -> Result<Payload, Failure> {
    bounded(text, what, bytes_max, "payload_bytes_max")
}

/// As [`payload`], with a bound of another name.
pub(super) fn bounded(text: String, what: &str, bytes_max: usize, limit: &str) -> Result<Payload, Failure> {
    if text.len() > bytes_max {
        let message = format!("{what} has {} bytes, and may have {bytes_max} (limit {limit})", text.len());
        return Err(Failure::new("LimitExceeded", message));
    }
    Payload::parse(text).map_err(|error| Failure::new("InvalidJson", format!("{what} is not JSON: {error}")))
}

/// A guest's failure as ours.
///
/// # Errors
/// If its details are not JSON, or too large.
pub(super) fn from_guest(failure: types::Failure, payload_bytes_max: usize) -> Result<Failure, Failure> {
    let details = |text: Option<String>| text.map(|text| payload(text, "a failure's details", payload_bytes_max)).transpose();
    let (kind, message) = (|text| cut(text, NAME_BYTES_MAX), |text| cut(text, TEXT_BYTES_MAX));
    let causes = failure
        .causes
        .into_iter()
        .take(CAUSES_MAX)
        .map(|cause| Ok(Cause { kind: kind(cause.kind), message: message(cause.message), details: details(cause.details)? }));
    Ok(Failure {
        causes: causes.collect::<Result<_, Failure>>()?,
        kind: kind(failure.kind),
        message: message(failure.message),
        details: details(failure.details)?,
        stack_trace: failure.stack_trace.map(message),
        non_retriable: failure.non_retriable,
    })
}

fn to_guest(failure: &Failure) -> types::Failure {
    let text = |details: &Option<Payload>| details.as_ref().map(|payload| payload.text().to_owned());
    types::Failure {
        kind: failure.kind.clone(),
        message: failure.message.clone(),
        details: text(&failure.details),
        stack_trace: failure.stack_trace.clone(),
        non_retriable: failure.non_retriable,
        causes: failure
            .causes
            .iter()
            .map(|cause| types::Cause { kind: cause.kind.clone(), message: cause.message.clone(), details: text(&cause.details) })
            .collect(),
    }
}

/// A line's level as ours.
pub(super) fn level(level: log::Level) -> LogLevel {
    match level {
        log::Level::Trace => LogLevel::Trace,
        log::Level::Debug => LogLevel::Debug,
        log::Level::Info => LogLevel::Info,
        log::Level::Warn => LogLevel::Warn,
        log::Level::Error => LogLevel::Error,
    }
}

impl log::Host for GuestState {
    fn write(&mut self, at: log::Level, target: String, message: String) {
        self.lines.push(level(at), target, message);
    }

    fn panicked(&mut self, message: String, location: String) {
        self.panic = Some(PanicNote::new(message, location));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn a_failure_without_end_is_cut() {
        let long = || "x".repeat(1 << 20);
        let cause = types::Cause { kind: long(), message: long(), details: None };
        let failure = types::Failure {
            kind: long(),
            message: long(),
            details: Some("[1]".into()),
            stack_trace: Some(long()),
            non_retriable: true,
            causes: vec![cause; 100],
        };
        let failure = from_guest(failure, 3).unwrap();
        let (name, text) = (cut(long(), NAME_BYTES_MAX), cut(long(), TEXT_BYTES_MAX));
        assert_eq!((&failure.kind, &failure.message, failure.stack_trace.as_ref()), (&name, &text, Some(&text)));
        assert_eq!(failure.causes, vec![Cause { kind: name, message: text, details: None }; CAUSES_MAX]);
    }

    fn call(name: String, input: String) -> orchestrator::Action {
        let (first_attempt, timeout_ms, options) = (None, None, Vec::new());
        orchestrator::Action::Activity(orchestrator::ActivityCall { name, input, attempt: 1, first_attempt, timeout_ms, options })
    }

    #[test]
    fn an_activity_with_an_endless_name_is_refused() {
        assert!(ask(call("ø".repeat(256), "1".into()), 1).is_ok());
        let failure = ask(call("ø".repeat(257), "1".into()), 1).unwrap_err();
        assert_eq!(failure.message, "the name of an activity has 257 characters, and may have 256");
    }

    #[test]
    fn a_fan_out_to_10_000_with_2_kb_each_fits_into_one_call() {
        let each = size_of::<orchestrator::Action>() + 2_048 + FUNCTION_CHARACTERS_MAX;
        assert!(10_000 * each < super::super::state::hostcall_bytes_max(&Limits::default()));
    }
}
