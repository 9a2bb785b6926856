//! What does a client see of a history? The events of the wire contract, projected from those that are stored.
//!
//! A scheduled task is shown on its own only while it is open; its answer takes its place and carries its name, time and input.
//! A task that the guest dropped is not shown at all. What nothing answers, a detached start or an event for another instance, is shown
//! as it was asked for. Each attempt of a retry, and each timer between two, stands there by itself. Pure; called by `status`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::model::time;
use crate::model::{
    Action, ActivityCall, Cause, ChildCall, ChildStart, End, Event, Failure, HttpCall, InstanceId, Outcome, Payload, SentEvent,
    Started, TaskId, rewind,
};

/// The activity as which clients see an HTTP request of the host.
const HTTP_ACTIVITY: &str = "BuiltIn::HttpActivity";

/// How many causes behind a failure are shown: a guest names them, and each is one level deeper in the JSON.
const CAUSES_SHOWN_MAX: usize = 32;

/// What to show of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Show {
    /// The inputs of the instance and of its tasks.
    pub(super) input: bool,
    /// The results.
    pub(super) output: bool,
}

/// One event as clients see it, its keys in the order of the contract's example. Besides those of the contract there is `Attempt`, where
/// a retry policy has come to its second attempt or a later one.
///
/// An input is a string that holds JSON; a result is the JSON value itself. An input that was never given is stored as `null`
/// like one that says so, and shown as its text: the contract lets it be null, but asks for nobody to tell the two apart.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "EventType", rename_all_fields = "PascalCase")]
pub(super) enum HistoryEvent<'a> {
    /// The start was asked for.
    ExecutionStarted {
        timestamp: String,
        function_name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<&'a str>,
    },
    /// An activity that has not answered yet.
    TaskScheduled {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<Cow<'a, str>>,
        #[serde(skip_serializing_if = "is_first")]
        attempt: u32,
        timestamp: String,
    },
    /// An activity gave a result.
    TaskCompleted {
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Value")]
        result: Option<&'a Payload>,
        timestamp: String,
        #[serde(flatten)]
        asked: Asked<'a>,
    },
    /// An activity failed.
    TaskFailed {
        #[serde(flatten)]
        why: Why<'a>,
        timestamp: String,
        #[serde(flatten)]
        asked: Asked<'a>,
    },
    /// A child that has not ended yet, or an instance that was started for itself.
    SubOrchestrationInstanceCreated {
        name: &'a str,
        #[schemars(with = "String")]
        instance_id: Cow<'a, InstanceId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<&'a str>,
        #[serde(skip_serializing_if = "is_first")]
        attempt: u32,
        timestamp: String,
    },
    /// A child has completed.
    SubOrchestrationInstanceCompleted {
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Value")]
        result: Option<&'a Payload>,
        timestamp: String,
        #[serde(flatten)]
        asked: Asked<'a>,
    },
    /// A child has failed, was terminated, or could not be started.
    SubOrchestrationInstanceFailed {
        #[serde(flatten)]
        why: Why<'a>,
        timestamp: String,
        #[serde(flatten)]
        asked: Asked<'a>,
    },
    /// An event was raised to another instance.
    EventSent {
        #[schemars(with = "String")]
        instance_id: &'a InstanceId,
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<&'a str>,
        timestamp: String,
    },
    /// A timer was set.
    TimerCreated { fire_at: String, timestamp: String },
    /// It was due.
    TimerFired { fire_at: String, timestamp: String },
    /// An event came from outside.
    EventRaised {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<&'a str>,
        timestamp: String,
    },
    /// Somebody from outside has it pause.
    ExecutionSuspended { reason: Option<&'a str>, timestamp: String },
    /// It goes on after a pause.
    ExecutionResumed { reason: Option<&'a str>, timestamp: String },
    /// It goes on although it had failed. Parents and children are told apart by their IDs here, which a rewind leaves as they are, so that no
    /// execution's ID is named.
    ExecutionRewound {
        reason: Option<&'a str>,
        parent_execution_id: Option<&'a str>,
        #[schemars(with = "Option<String>")]
        instance_id: Option<&'a InstanceId>,
        timestamp: String,
    },
    /// Somebody from outside ended it; the reason stands where others have their input.
    ExecutionTerminated {
        /// `null` without a reason; not there where inputs are not shown.
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<Option<&'a str>>,
        timestamp: String,
    },
    /// The orchestrator has come to its end.
    ExecutionCompleted {
        orchestration_status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Value")]
        result: Option<Payload>,
        failure_details: Option<FailureDetails<'a>>,
        timestamp: String,
    },
}

/// A failure in the form that programs read.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FailureDetails<'a> {
    error_type: &'a str,
    error_message: &'a str,
    stack_trace: Option<&'a str>,
    inner_failure: Option<Box<FailureDetails<'a>>>,
    is_non_retriable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Properties<'a>>,
}

/// What a failure carries besides, for programs.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
struct Properties<'a> {
    #[schemars(with = "Value")]
    details: &'a Payload,
}

/// What an answer tells of the task that it answers.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Asked<'a> {
    scheduled_time: String,
    function_name: &'a str,
    /// Of a child.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    instance_id: Option<Cow<'a, InstanceId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "is_first")]
    attempt: u32,
}

/// Why a task has failed.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Why<'a> {
    reason: &'a str,
    details: Option<&'a str>,
    failure_details: FailureDetails<'a>,
}

fn is_first(attempt: &u32) -> bool {
    *attempt == 1
}

/// An HTTP request as the input of the activity that it is to clients.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    method: &'a str,
    uri: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    headers: &'a [(String, String)],
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
}

/// Projects the history of one execution. What a rewind has taken back is left out.
pub(super) fn view(history: &[Event], show: Show) -> Vec<HistoryEvent<'_>> {
    let is_shown = rewind::is_shown(history);
    let shown = || history.iter().zip(&is_shown).filter(|(_, is_shown)| **is_shown).map(|(event, _)| event);
    let (mut answered, mut cancelled) = (HashSet::new(), HashSet::new());
    for event in shown() {
        match event {
            Event::Resolved { task, .. } => _ = answered.insert(*task),
            Event::Cancelled { task } => _ = cancelled.insert(*task),
            _ => (),
        }
    }
    let mut view = Vec::new();
    let mut first = None;
    let mut turn_at_ms = 0;
    let mut asked: HashMap<TaskId, Asked<'_>> = HashMap::new();
    let mut timers: HashMap<TaskId, String> = HashMap::new();
    for event in shown() {
        match event {
            Event::Started(started) => {
                first = Some(started);
                turn_at_ms = started.at_ms;
                view.push(HistoryEvent::ExecutionStarted {
                    timestamp: time::exact(started.at_ms),
                    function_name: &started.function,
                    input: show.input.then(|| started.input.text()),
                });
            }
            Event::TurnStarted { at_ms, .. } => turn_at_ms = *at_ms,
            Event::Scheduled { task, action } if action.is_answered() && cancelled.contains(task) => (),
            Event::Scheduled { task, action } => {
                let timestamp = time::exact(turn_at_ms);
                if let Action::Timer { due_ms } = action {
                    timers.insert(*task, time::exact(*due_ms));
                } else if answered.contains(task) {
                    asked.extend(Asked::of(first, *task, action, timestamp, show).map(|asked| (*task, asked)));
                    continue;
                }
                view.extend(scheduled(first, *task, action, timestamp, show));
            }
            // Only what was dropped is missing in `timers` and `asked`.
            Event::Resolved { task, at_ms, outcome: Outcome::Fired, .. } => {
                let timestamp = time::exact(*at_ms);
                view.extend(timers.remove(task).map(|fire_at| HistoryEvent::TimerFired { fire_at, timestamp }));
            }
            Event::Resolved { task, at_ms, outcome, .. } => {
                view.extend(asked.remove(task).and_then(|asked| answer(asked, *at_ms, outcome, show)));
            }
            Event::Raised { at_ms, name, payload } => view.push(HistoryEvent::EventRaised {
                name,
                input: show.input.then(|| payload.text()),
                timestamp: time::exact(*at_ms),
            }),
            Event::Ended { at_ms, end } => {
                if let End::Terminated { reason } = end {
                    let input = show.input.then_some(reason.as_deref());
                    view.push(HistoryEvent::ExecutionTerminated { input, timestamp: time::exact(*at_ms) });
                }
                let function = first.map_or("", |started| &started.function);
                view.push(ended(function, *at_ms, end, show));
            }
            Event::Suspended { at_ms, reason } => {
                view.push(HistoryEvent::ExecutionSuspended { reason: reason.as_deref(), timestamp: time::exact(*at_ms) });
            }
            Event::Resumed { at_ms, reason } => {
                view.push(HistoryEvent::ExecutionResumed { reason: reason.as_deref(), timestamp: time::exact(*at_ms) });
            }
            Event::Rewound { at_ms, reason, .. } => view.push(HistoryEvent::ExecutionRewound {
                reason: reason.as_deref(),
                parent_execution_id: None,
                instance_id: first.map(|started| &started.instance),
                timestamp: time::exact(*at_ms),
            }),
            Event::Cancelled { .. } => (),
        }
    }
    view
}

/// The output of a failed instance.
pub(super) fn failure_text(function: &str, failure: &Failure) -> String {
    format!("Orchestrator function '{function}' failed: {}", failure.message)
}

/// The output of a terminated instance: the reason as the JSON that it is, or else as a text.
pub(super) fn reason_output(reason: Option<&str>) -> Payload {
    reason.map_or_else(Payload::null, |reason| Payload::parse(reason.to_owned()).unwrap_or_else(|_| Payload::of(reason)))
}

/// A task on its own, as it was asked for.
fn scheduled<'a>(
    first: Option<&Started>,
    task: TaskId,
    action: &'a Action,
    timestamp: String,
    show: Show,
) -> Option<HistoryEvent<'a>> {
    let text = |payload: &'a Payload| show.input.then(|| payload.text());
    Some(match action {
        Action::Activity(ActivityCall { name, input, attempt, .. }) => {
            HistoryEvent::TaskScheduled { name, input: text(input).map(Cow::Borrowed), attempt: *attempt, timestamp }
        }
        Action::Http(call) => {
            HistoryEvent::TaskScheduled { name: HTTP_ACTIVITY, input: show.input.then(|| request(call)), attempt: 1, timestamp }
        }
        Action::Timer { due_ms } => HistoryEvent::TimerCreated { fire_at: time::exact(*due_ms), timestamp },
        Action::SubOrchestration(ChildCall { name, instance, input, attempt, .. }) => {
            let (instance_id, input) = (child_id(first, task, instance.as_ref())?, text(input));
            HistoryEvent::SubOrchestrationInstanceCreated { name, instance_id, input, attempt: *attempt, timestamp }
        }
        Action::StartDetached(ChildStart { name, instance, input, .. }) => {
            let (instance_id, input) = (child_id(first, task, instance.as_ref())?, text(input));
            HistoryEvent::SubOrchestrationInstanceCreated { name, instance_id, input, attempt: 1, timestamp }
        }
        Action::SendEvent(SentEvent { instance, name, payload }) => {
            HistoryEvent::EventSent { instance_id: instance, name, input: text(payload), timestamp }
        }
        // A wait is no event of the contract; what it waits for is.
        Action::WaitEvent { .. } => return None,
    })
}

impl<'a> Asked<'a> {
    /// What the answer to `task` tells of it; `None` if it is none that has an answer with a value.
    fn of(first: Option<&Started>, task: TaskId, action: &'a Action, scheduled_time: String, show: Show) -> Option<Self> {
        let text = |payload: &'a Payload| show.input.then(|| Cow::Borrowed(payload.text()));
        let (function_name, instance_id, input, attempt) = match action {
            Action::Activity(ActivityCall { name, input, attempt, .. }) => (name.as_str(), None, text(input), *attempt),
            Action::SubOrchestration(ChildCall { name, instance, input, attempt, .. }) => {
                (name.as_str(), child_id(first, task, instance.as_ref()), text(input), *attempt)
            }
            Action::Http(call) => (HTTP_ACTIVITY, None, show.input.then(|| request(call)), 1),
            Action::Timer { .. } | Action::WaitEvent { .. } | Action::StartDetached(_) | Action::SendEvent(_) => return None,
        };
        Some(Self { scheduled_time, function_name, instance_id, input, attempt })
    }
}

/// The ID of an instance that `task` has started.
fn child_id<'a>(first: Option<&Started>, task: TaskId, given: Option<&'a InstanceId>) -> Option<Cow<'a, InstanceId>> {
    given.map(Cow::Borrowed).or_else(|| Some(Cow::Owned(first?.child_id(task))))
}

fn request<'a>(call: &HttpCall) -> Cow<'a, str> {
    let HttpCall { method, uri, headers, body, timeout_ms } = call;
    let request = Request { method, uri, headers, body: body.as_deref(), timeout_ms: *timeout_ms };
    serde_json::to_string(&request).expect("texts and numbers print without errors").into()
}

fn answer<'a>(asked: Asked<'a>, at_ms: u64, outcome: &'a Outcome, show: Show) -> Option<HistoryEvent<'a>> {
    let timestamp = time::exact(at_ms);
    let is_child = asked.instance_id.is_some();
    match outcome {
        Outcome::Completed(result) => {
            let result = show.output.then_some(result);
            Some(if is_child {
                HistoryEvent::SubOrchestrationInstanceCompleted { result, timestamp, asked }
            } else {
                HistoryEvent::TaskCompleted { result, timestamp, asked }
            })
        }
        Outcome::Failed(failure) => {
            let details = failure.details.as_ref().map(Payload::text);
            let why = Why { reason: &failure.message, details, failure_details: failure.into() };
            Some(if is_child {
                HistoryEvent::SubOrchestrationInstanceFailed { why, timestamp, asked }
            } else {
                HistoryEvent::TaskFailed { why, timestamp, asked }
            })
        }
        Outcome::Fired => None, // Timers are not tasks to clients.
    }
}

fn ended<'a>(function: &str, at_ms: u64, end: &'a End, show: Show) -> HistoryEvent<'a> {
    let timestamp = time::exact(at_ms);
    match end {
        End::Completed(result) => HistoryEvent::ExecutionCompleted {
            orchestration_status: "Completed",
            result: show.output.then(|| result.clone()),
            failure_details: None,
            timestamp,
        },
        End::Failed(failure) | End::Faulted(failure) => HistoryEvent::ExecutionCompleted {
            orchestration_status: "Failed",
            result: show.output.then(|| Payload::of(&failure_text(function, failure))),
            failure_details: Some(failure.into()),
            timestamp,
        },
        End::Terminated { reason } => HistoryEvent::ExecutionCompleted {
            orchestration_status: "Terminated",
            result: show.output.then(|| reason_output(reason.as_deref())),
            failure_details: None,
            timestamp,
        },
    }
}

impl<'a> From<&'a Failure> for FailureDetails<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self {
            error_type: &failure.kind,
            error_message: &failure.message,
            stack_trace: failure.stack_trace.as_deref(),
            inner_failure: chain(&failure.causes),
            is_non_retriable: failure.non_retriable,
            properties: failure.details.as_ref().map(|details| Properties { details }),
        }
    }
}

/// The causes behind a failure, each inside the one that it led to.
fn chain(causes: &[Cause]) -> Option<Box<FailureDetails<'_>>> {
    causes.iter().take(CAUSES_SHOWN_MAX).rev().fold(None, |inner_failure, cause| {
        Some(Box::new(FailureDetails {
            error_type: &cause.kind,
            error_message: &cause.message,
            stack_trace: None,
            inner_failure,
            is_non_retriable: false,
            properties: cause.details.as_ref().map(|details| Properties { details }),
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tags;
    use crate::model::execution::tests::{ended as completed, scheduled, started, turn};

    const ALL: Show = Show { input: true, output: true };
    const NOTHING: Show = Show { input: false, output: false };

    fn resolved(task: u32, at_ms: u64, outcome: Outcome) -> Event {
        Event::Resolved { task: TaskId(task), at_ms, outcome, ran: None }
    }

    fn gave(task: u32, at_ms: u64, result: &str) -> Event {
        resolved(task, at_ms, Outcome::Completed(Payload::parse(result.into()).unwrap()))
    }

    fn cold() -> Failure {
        let details = Some(Payload::parse(r#"{"degrees": 12}"#.into()).unwrap());
        let cause = |kind: &str, details| Cause { kind: kind.into(), message: "why".into(), details };
        let far = Payload::parse("[1.0]".into()).unwrap();
        let causes = vec![cause("Near", None), cause("Far", Some(far))];
        Failure { details, causes, stack_trace: Some("at bake".into()), ..Failure::new("Oven", "oven is cold") }
    }

    /// Prints what is shown of an execution with these events, one event a line.
    fn check(events: &[Event], show: Show, expected: &[&str]) {
        let history: Vec<Event> = std::iter::once(Event::Started(started())).chain(events.iter().cloned()).collect();
        let seen: Vec<String> = view(&history, show).iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn three_activities_in_sequence_are_five_events() {
        let events = [
            turn(2_000, 0),
            scheduled(0, "Mix"),
            gave(0, 2_500, r#"{"b":1, "a":1.0}"#),
            turn(2_600, 1),
            scheduled(1, "Rise"),
            gave(1, 3_120, "null"),
            turn(3_120, 1),
            scheduled(2, "Bake"),
            gave(2, 4_000, "[2]"),
            turn(4_001, 1),
            Event::Ended { at_ms: 4_001, end: End::Completed(Payload::parse("12345678901234567890".into()).unwrap()) },
        ];
        check(
            &events,
            ALL,
            &[
                r#"{"EventType":"ExecutionStarted","Timestamp":"1970-01-01T00:00:01Z","FunctionName":"BakeBread","Input":"null"}"#,
                r#"{"EventType":"TaskCompleted","Result":{"b":1, "a":1.0},"Timestamp":"1970-01-01T00:00:02.5Z","ScheduledTime":"1970-01-01T00:00:02Z","FunctionName":"Mix","Input":"null"}"#,
                r#"{"EventType":"TaskCompleted","Result":null,"Timestamp":"1970-01-01T00:00:03.12Z","ScheduledTime":"1970-01-01T00:00:02.6Z","FunctionName":"Rise","Input":"null"}"#,
                r#"{"EventType":"TaskCompleted","Result":[2],"Timestamp":"1970-01-01T00:00:04Z","ScheduledTime":"1970-01-01T00:00:03.12Z","FunctionName":"Bake","Input":"null"}"#,
                r#"{"EventType":"ExecutionCompleted","OrchestrationStatus":"Completed","Result":12345678901234567890,"FailureDetails":null,"Timestamp":"1970-01-01T00:00:04.001Z"}"#,
            ],
        );
        check(
            &events[..3],
            NOTHING,
            &[
                r#"{"EventType":"ExecutionStarted","Timestamp":"1970-01-01T00:00:01Z","FunctionName":"BakeBread"}"#,
                r#"{"EventType":"TaskCompleted","Timestamp":"1970-01-01T00:00:02.5Z","ScheduledTime":"1970-01-01T00:00:02Z","FunctionName":"Mix"}"#,
            ],
        );
    }

    const STARTED: &str = r#"{"EventType":"ExecutionStarted","Timestamp":"1970-01-01T00:00:01Z","FunctionName":"BakeBread"}"#;
    const ENDED: &str = r#"{"EventType":"ExecutionCompleted","OrchestrationStatus":"Completed","FailureDetails":null,"Timestamp":"1970-01-01T00:00:02Z"}"#;

    #[test]
    fn a_task_is_shown_at_its_answer_and_on_its_own_while_it_is_open() {
        check(
            &[turn(1_500, 0), scheduled(0, "Mix"), scheduled(1, "Heat"), gave(1, 1_700, "1")],
            NOTHING,
            &[
                STARTED,
                r#"{"EventType":"TaskScheduled","Name":"Mix","Timestamp":"1970-01-01T00:00:01.5Z"}"#,
                r#"{"EventType":"TaskCompleted","Timestamp":"1970-01-01T00:00:01.7Z","ScheduledTime":"1970-01-01T00:00:01.5Z","FunctionName":"Heat"}"#,
            ],
        );
        check(
            &[turn(1_500, 0), scheduled(0, "Mix")],
            Show { input: true, output: false },
            &[
                r#"{"EventType":"ExecutionStarted","Timestamp":"1970-01-01T00:00:01Z","FunctionName":"BakeBread","Input":"null"}"#,
                r#"{"EventType":"TaskScheduled","Name":"Mix","Input":"null","Timestamp":"1970-01-01T00:00:01.5Z"}"#,
            ],
        );
    }

    #[test]
    fn neither_a_dropped_task_nor_an_answer_to_it_is_shown() {
        let dropped = Event::Cancelled { task: TaskId(0) };
        check(&[turn(1_500, 0), scheduled(0, "Mix"), dropped.clone(), completed()], NOTHING, &[STARTED, ENDED]);
        let raced = [turn(1_500, 0), scheduled(0, "Mix"), gave(0, 1_600, "1"), dropped, completed()];
        check(&raced, NOTHING, &[STARTED, ENDED]);
    }

    #[test]
    fn a_failure_keeps_its_reason_and_details_whatever_is_asked_for() {
        let failed = [turn(1_500, 0), scheduled(0, "Bake"), resolved(0, 1_600, Outcome::Failed(cold()))];
        let details = r#"{"ErrorType":"Oven","ErrorMessage":"oven is cold","StackTrace":"at bake","InnerFailure":{"ErrorType":"Near","ErrorMessage":"why","StackTrace":null,"InnerFailure":{"ErrorType":"Far","ErrorMessage":"why","StackTrace":null,"InnerFailure":null,"IsNonRetriable":false,"Properties":{"Details":[1.0]}},"IsNonRetriable":false},"IsNonRetriable":false,"Properties":{"Details":{"degrees": 12}}}"#;
        let task = format!(
            r#"{{"EventType":"TaskFailed","Reason":"oven is cold","Details":"{{\"degrees\": 12}}","FailureDetails":{details},"Timestamp":"1970-01-01T00:00:01.6Z","ScheduledTime":"1970-01-01T00:00:01.5Z","FunctionName":"Bake"}}"#
        );
        check(&failed, NOTHING, &[STARTED, &task]);
        for end in [End::Failed(cold()), End::Faulted(cold())] {
            let ended = Event::Ended { at_ms: 2_000, end };
            let shown = format!(
                r#"{{"EventType":"ExecutionCompleted","OrchestrationStatus":"Failed","Result":"Orchestrator function 'BakeBread' failed: oven is cold","FailureDetails":{details},"Timestamp":"1970-01-01T00:00:02Z"}}"#
            );
            check(&[ended], Show { input: false, output: true }, &[STARTED, &shown]);
        }
    }

    #[test]
    fn timers_and_events_are_shown_as_they_come() {
        let timer = |task| Event::Scheduled { task: TaskId(task), action: Action::Timer { due_ms: 60_000 } };
        let raised = Event::Raised { at_ms: 1_700, name: "Risen".into(), payload: Payload::of(&[1]) };
        let events = [
            turn(1_500, 0),
            timer(0),
            timer(1),
            Event::Scheduled { task: TaskId(2), action: Action::WaitEvent { name: "risen".into() } },
            raised,
            turn(1_700, 1),
            Event::Cancelled { task: TaskId(1) },
            resolved(0, 60_000, Outcome::Fired),
        ];
        let created = r#"{"EventType":"TimerCreated","FireAt":"1970-01-01T00:01:00Z","Timestamp":"1970-01-01T00:00:01.5Z"}"#;
        let fired = r#"{"EventType":"TimerFired","FireAt":"1970-01-01T00:01:00Z","Timestamp":"1970-01-01T00:01:00Z"}"#;
        let event = r#"{"EventType":"EventRaised","Name":"Risen","Timestamp":"1970-01-01T00:00:01.7Z"}"#;
        check(&events, NOTHING, &[STARTED, created, event, fired]);
    }

    fn child(task: u32, instance: Option<&str>, attempt: u32) -> Event {
        let action = Action::SubOrchestration(ChildCall {
            name: "Knead".into(),
            instance: instance.map(|id| id.parse().unwrap()),
            input: Payload::of(&7),
            attempt,
            first_attempt: (attempt > 1).then_some(TaskId(0)),
            tags: Tags::default(),
        });
        Event::Scheduled { task: TaskId(task), action }
    }

    /// The ID of the child of a task, if the guest has given none.
    const ID_0: &str = "02020202020202020202020202020202:0000";
    const ID_3: &str = "02020202020202020202020202020202:0003";

    #[test]
    fn a_child_is_shown_as_a_task_is_and_with_its_id() {
        check(
            &[turn(1_500, 0), child(0, None, 1), child(1, Some("dough"), 1), gave(1, 1_600, r#"{"b":1, "a":1.0}"#)],
            ALL,
            &[
                &STARTED.replace('}', r#","Input":"null"}"#),
                &format!(
                    r#"{{"EventType":"SubOrchestrationInstanceCreated","Name":"Knead","InstanceId":"{ID_0}","Input":"7","Timestamp":"1970-01-01T00:00:01.5Z"}}"#
                ),
                r#"{"EventType":"SubOrchestrationInstanceCompleted","Result":{"b":1, "a":1.0},"Timestamp":"1970-01-01T00:00:01.6Z","ScheduledTime":"1970-01-01T00:00:01.5Z","FunctionName":"Knead","InstanceId":"dough","Input":"7"}"#,
            ],
        );
        check(
            &[turn(1_500, 0), child(0, None, 1), resolved(0, 1_600, Outcome::Failed(Failure::new("Oven", "it is cold")))],
            NOTHING,
            &[
                STARTED,
                &format!(
                    r#"{{"EventType":"SubOrchestrationInstanceFailed","Reason":"it is cold","Details":null,"FailureDetails":{{"ErrorType":"Oven","ErrorMessage":"it is cold","StackTrace":null,"InnerFailure":null,"IsNonRetriable":false}},"Timestamp":"1970-01-01T00:00:01.6Z","ScheduledTime":"1970-01-01T00:00:01.5Z","FunctionName":"Knead","InstanceId":"{ID_0}"}}"#
                ),
            ],
        );
        check(
            &[turn(1_500, 0), child(0, None, 1), Event::Cancelled { task: TaskId(0) }, completed()],
            NOTHING,
            &[STARTED, ENDED],
        );
    }

    #[test]
    fn every_attempt_and_every_wait_of_a_retry_is_shown() {
        let failed = |task, at_ms| resolved(task, at_ms, Outcome::Failed(Failure::new("Oven", "it is cold").non_retriable()));
        let again = Event::Scheduled {
            task: TaskId(2),
            action: Action::Activity(ActivityCall {
                name: "Bake".into(),
                input: Payload::null(),
                attempt: 2,
                first_attempt: Some(TaskId(0)),
                timeout_ms: None,
            }),
        };
        let events = [
            turn(1_500, 0),
            scheduled(0, "Bake"),
            failed(0, 1_600),
            turn(1_600, 1),
            Event::Scheduled { task: TaskId(1), action: Action::Timer { due_ms: 2_600 } },
            resolved(1, 2_600, Outcome::Fired),
            turn(2_600, 1),
            again.clone(),
            child(3, None, 2),
            failed(2, 2_700),
        ];
        let first = r#"{"EventType":"TaskFailed","Reason":"it is cold","Details":null,"FailureDetails":{"ErrorType":"Oven","ErrorMessage":"it is cold","StackTrace":null,"InnerFailure":null,"IsNonRetriable":true},"Timestamp":"1970-01-01T00:00:01.6Z","ScheduledTime":"1970-01-01T00:00:01.5Z","FunctionName":"Bake"}"#;
        let second = first
            .replace("01.6Z", "02.7Z")
            .replace("01.5Z", "02.6Z")
            .replace(r#""FunctionName":"Bake""#, r#""FunctionName":"Bake","Attempt":2"#);
        let expected = [
            STARTED,
            first,
            r#"{"EventType":"TimerCreated","FireAt":"1970-01-01T00:00:02.6Z","Timestamp":"1970-01-01T00:00:01.6Z"}"#,
            r#"{"EventType":"TimerFired","FireAt":"1970-01-01T00:00:02.6Z","Timestamp":"1970-01-01T00:00:02.6Z"}"#,
            &format!(
                r#"{{"EventType":"SubOrchestrationInstanceCreated","Name":"Knead","InstanceId":"{ID_3}","Attempt":2,"Timestamp":"1970-01-01T00:00:02.6Z"}}"#
            ),
            &second,
        ];
        check(&events, NOTHING, &expected);
        let open = r#"{"EventType":"TaskScheduled","Name":"Bake","Attempt":2,"Timestamp":"1970-01-01T00:00:02.6Z"}"#;
        check(&events[..8], NOTHING, &[&expected[..4], &[open]].concat());
    }

    #[test]
    fn what_nothing_answers_is_shown_where_it_was_asked_for() {
        let detached = Action::StartDetached(ChildStart {
            name: "Clean".into(),
            instance: None,
            input: Payload::of("oven"),
            at_ms: Some(9_000),
            tags: Tags::default(),
        });
        let sent = Action::SendEvent(SentEvent {
            instance: "shop".parse().unwrap(),
            name: "Ready".into(),
            payload: Payload::parse("[1.0]".into()).unwrap(),
        });
        let events = [
            turn(1_500, 0),
            Event::Scheduled { task: TaskId(0), action: detached },
            Event::Scheduled { task: TaskId(1), action: sent },
            completed(),
        ];
        let started = format!(
            r#"{{"EventType":"SubOrchestrationInstanceCreated","Name":"Clean","InstanceId":"{ID_0}","Timestamp":"1970-01-01T00:00:01.5Z"}}"#
        );
        let raised = r#"{"EventType":"EventSent","InstanceId":"shop","Name":"Ready","Timestamp":"1970-01-01T00:00:01.5Z"}"#;
        check(&events, NOTHING, &[STARTED, &started, raised, ENDED]);
        let with_input = |event: &str, input: &str| event.replace(r#","Timestamp""#, &format!(r#","Input":{input},"Timestamp""#));
        let expected = [
            &STARTED.replace('}', r#","Input":"null"}"#),
            &with_input(&started, r#""\"oven\"""#),
            &with_input(raised, r#""[1.0]""#),
        ];
        check(&events[..3], Show { input: true, output: false }, &expected.map(String::as_str));
    }

    #[test]
    fn an_http_request_is_an_activity_of_the_host() {
        let plain = HttpCall { method: "GET".into(), uri: "http://oven/".into(), headers: vec![], body: None, timeout_ms: None };
        let full = HttpCall {
            method: "POST".into(),
            headers: vec![("accept".into(), "*/*".into())],
            body: Some("{}".into()),
            timeout_ms: Some(500),
            ..plain.clone()
        };
        let asked = |task, call| Event::Scheduled { task: TaskId(task), action: Action::Http(call) };
        let answer = r#"{"status":202,"headers":[],"body":""}"#;
        let events = [turn(1_500, 0), asked(0, plain), asked(1, full), gave(0, 1_600, answer)];
        check(
            &events,
            ALL,
            &[
                &STARTED.replace('}', r#","Input":"null"}"#),
                r#"{"EventType":"TaskScheduled","Name":"BuiltIn::HttpActivity","Input":"{\"method\":\"POST\",\"uri\":\"http://oven/\",\"headers\":[[\"accept\",\"*/*\"]],\"body\":\"{}\",\"timeoutMs\":500}","Timestamp":"1970-01-01T00:00:01.5Z"}"#,
                &format!(
                    r#"{{"EventType":"TaskCompleted","Result":{answer},"Timestamp":"1970-01-01T00:00:01.6Z","ScheduledTime":"1970-01-01T00:00:01.5Z","FunctionName":"BuiltIn::HttpActivity","Input":"{{\"method\":\"GET\",\"uri\":\"http://oven/\"}}"}}"#
                ),
            ],
        );
        let failed = [&events[..3], &[resolved(0, 1_600, Outcome::Failed(Failure::new("Refused", "no such host")))]].concat();
        let history: Vec<Event> = std::iter::once(Event::Started(started())).chain(failed).collect();
        let shown = serde_json::to_string(&view(&history, NOTHING)[2]).unwrap();
        assert!(shown.starts_with(r#"{"EventType":"TaskFailed","Reason":"no such host""#), "{shown}");
        assert!(shown.ends_with(r#""FunctionName":"BuiltIn::HttpActivity"}"#), "{shown}");
    }

    #[test]
    fn a_termination_shows_its_reason_and_then_the_end() {
        let check = |reason: Option<&str>, input: &str, result: &str| {
            let end = End::Terminated { reason: reason.map(str::to_owned) };
            let started = STARTED.replace('}', r#","Input":"null"}"#);
            let terminated = format!(r#"{{"EventType":"ExecutionTerminated",{input}"Timestamp":"1970-01-01T00:00:02Z"}}"#);
            let completed = format!(
                r#"{{"EventType":"ExecutionCompleted","OrchestrationStatus":"Terminated","Result":{result},"FailureDetails":null,"Timestamp":"1970-01-01T00:00:02Z"}}"#
            );
            check(&[Event::Ended { at_ms: 2_000, end }], ALL, &[&started, &terminated, &completed]);
        };
        check(Some("power cut"), r#""Input":"power cut","#, r#""power cut""#);
        check(Some("42"), r#""Input":"42","#, "42");
        check(Some(""), r#""Input":"","#, r#""""#);
        check(None, r#""Input":null,"#, "null");
    }

    #[test]
    fn a_guest_cannot_make_the_json_deep() {
        let cause = Cause { kind: "Turtle".into(), message: "below".into(), details: None };
        let failure = Failure { causes: vec![cause; 100_000], ..Failure::new("Turtle", "on top") };
        let shown = serde_json::to_string(&FailureDetails::from(&failure)).unwrap();
        assert_eq!(shown.matches("below").count(), CAUSES_SHOWN_MAX);
    }
}
