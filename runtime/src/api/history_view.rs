//! What does a client see of a history? The events of the wire contract, projected from those that are stored.
//!
//! A scheduled task is shown on its own only while it is open; its answer takes its place and carries its name, time and input.
//! What the guest dropped is not shown at all. Pure; called by `status`.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::time;
use crate::model::{Action, Cause, End, Event, Failure, Outcome, Payload, TaskId};

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

/// One event as clients see it, its keys in the order of the contract's example.
///
/// An input is a string that holds JSON; a result is the JSON value itself. An input that was never given is stored as `null`
/// like one that says so, and shown as its text: the contract lets it be null, but asks for nobody to tell the two apart.
#[derive(Debug, Serialize)]
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
        input: Option<&'a str>,
        timestamp: String,
    },
    /// An activity gave a result.
    TaskCompleted {
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a Payload>,
        timestamp: String,
        scheduled_time: String,
        function_name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<&'a str>,
    },
    /// An activity failed.
    TaskFailed {
        reason: &'a str,
        details: Option<&'a str>,
        failure_details: FailureDetails<'a>,
        timestamp: String,
        scheduled_time: String,
        function_name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<&'a str>,
    },
    /// The orchestrator has come to its end.
    ExecutionCompleted {
        orchestration_status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Payload>,
        failure_details: Option<FailureDetails<'a>>,
        timestamp: String,
    },
}

/// A failure in the form that programs read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FailureDetails<'a> {
    error_type: &'a str,
    error_message: &'a str,
    stack_trace: Option<&'a str>,
    inner_failure: Option<Box<FailureDetails<'a>>>,
    is_non_retriable: bool,
}

/// A task as it was asked for, and when.
struct Scheduled<'a> {
    name: &'a str,
    input: Option<&'a str>,
    time: String,
}

/// Projects the history of one execution.
pub(super) fn view(history: &[Event], show: Show) -> Vec<HistoryEvent<'_>> {
    let (mut answered, mut cancelled) = (HashSet::new(), HashSet::new());
    for event in history {
        match event {
            Event::Resolved { task, .. } => _ = answered.insert(*task),
            Event::Cancelled { task } => _ = cancelled.insert(*task),
            Event::Started(_) | Event::TurnStarted { .. } | Event::Scheduled { .. } | Event::Ended { .. } => (),
        }
    }
    let mut view = Vec::new();
    let mut function = "";
    let mut turn_at_ms = 0;
    let mut scheduled: HashMap<TaskId, Scheduled<'_>> = HashMap::new();
    for event in history {
        match event {
            Event::Started(started) => {
                function = &started.function;
                turn_at_ms = started.at_ms;
                view.push(HistoryEvent::ExecutionStarted {
                    timestamp: time::exact(started.at_ms),
                    function_name: function,
                    input: show.input.then(|| started.input.text()),
                });
            }
            Event::TurnStarted { at_ms, .. } => turn_at_ms = *at_ms,
            Event::Scheduled { task, action: Action::Activity { name, input, .. } } if !cancelled.contains(task) => {
                let asked = Scheduled { name, input: show.input.then(|| input.text()), time: time::exact(turn_at_ms) };
                if answered.contains(task) {
                    scheduled.insert(*task, asked);
                } else {
                    view.push(HistoryEvent::TaskScheduled { name, input: asked.input, timestamp: asked.time });
                }
            }
            Event::Resolved { task, at_ms, outcome, .. } => {
                // Only what was dropped is missing here.
                if let Some(asked) = scheduled.remove(task) {
                    view.push(answer(asked, *at_ms, outcome, show));
                }
            }
            Event::Ended { at_ms, end } => view.push(ended(function, *at_ms, end, show)),
            Event::Scheduled { .. } | Event::Cancelled { .. } => (),
        }
    }
    view
}

/// The output of a failed instance.
pub(super) fn failure_text(function: &str, failure: &Failure) -> String {
    format!("Orchestrator function '{function}' failed: {}", failure.message)
}

fn answer<'a>(asked: Scheduled<'a>, at_ms: u64, outcome: &'a Outcome, show: Show) -> HistoryEvent<'a> {
    let Scheduled { name: function_name, input, time: scheduled_time } = asked;
    let timestamp = time::exact(at_ms);
    match outcome {
        Outcome::Completed(result) => {
            let result = show.output.then_some(result);
            HistoryEvent::TaskCompleted { result, timestamp, scheduled_time, function_name, input }
        }
        Outcome::Failed(failure) => HistoryEvent::TaskFailed {
            reason: &failure.message,
            details: failure.details.as_ref().map(Payload::text),
            failure_details: failure.into(),
            timestamp,
            scheduled_time,
            function_name,
            input,
        },
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
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let cause = |kind: &str| Cause { kind: kind.into(), message: "why".into(), details: None };
        let causes = vec![cause("Near"), cause("Far")];
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
        let details = r#"{"ErrorType":"Oven","ErrorMessage":"oven is cold","StackTrace":"at bake","InnerFailure":{"ErrorType":"Near","ErrorMessage":"why","StackTrace":null,"InnerFailure":{"ErrorType":"Far","ErrorMessage":"why","StackTrace":null,"InnerFailure":null,"IsNonRetriable":false},"IsNonRetriable":false},"IsNonRetriable":false}"#;
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
    fn a_guest_cannot_make_the_json_deep() {
        let cause = Cause { kind: "Turtle".into(), message: "below".into(), details: None };
        let failure = Failure { causes: vec![cause; 100_000], ..Failure::new("Turtle", "on top") };
        let shown = serde_json::to_string(&FailureDetails::from(&failure)).unwrap();
        assert_eq!(shown.matches("below").count(), CAUSES_SHOWN_MAX);
    }
}
