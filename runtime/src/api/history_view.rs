//! What does a client see of a history? The events of the wire contract, projected from those that are stored.
//!
//! A scheduled task is shown on its own only while it is open; its answer takes its place and carries its name, time and input.
//! What the guest dropped is not shown at all. Pure; called by `status`.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::model::time;
use crate::model::{Action, ActivityCall, Cause, End, Event, Failure, Outcome, Payload, TaskId};

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
    /// Somebody from outside ended it; the reason stands where others have their input.
    ExecutionTerminated {
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<&'a str>,
        timestamp: String,
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
            _ => (),
        }
    }
    let mut view = Vec::new();
    let mut function = "";
    let mut turn_at_ms = 0;
    let mut scheduled: HashMap<TaskId, Scheduled<'_>> = HashMap::new();
    let mut timers: HashMap<TaskId, String> = HashMap::new();
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
            Event::Scheduled { task, .. } if cancelled.contains(task) => (),
            Event::Scheduled { task, action: Action::Activity(ActivityCall { name, input, .. }) } => {
                let asked = Scheduled { name, input: show.input.then(|| input.text()), time: time::exact(turn_at_ms) };
                if answered.contains(task) {
                    scheduled.insert(*task, asked);
                } else {
                    view.push(HistoryEvent::TaskScheduled { name, input: asked.input, timestamp: asked.time });
                }
            }
            Event::Scheduled { task, action: Action::Timer { due_ms } } => {
                let fire_at = time::exact(*due_ms);
                timers.insert(*task, fire_at.clone());
                view.push(HistoryEvent::TimerCreated { fire_at, timestamp: time::exact(turn_at_ms) });
            }
            // Only what was dropped is missing in `timers` and `scheduled`.
            Event::Resolved { task, at_ms, outcome: Outcome::Fired, .. } => {
                let timestamp = time::exact(*at_ms);
                view.extend(timers.remove(task).map(|fire_at| HistoryEvent::TimerFired { fire_at, timestamp }));
            }
            Event::Resolved { task, at_ms, outcome, .. } => {
                view.extend(scheduled.remove(task).and_then(|asked| answer(asked, *at_ms, outcome, show)));
            }
            Event::Raised { at_ms, name, payload } => view.push(HistoryEvent::EventRaised {
                name,
                input: show.input.then(|| payload.text()),
                timestamp: time::exact(*at_ms),
            }),
            Event::Ended { at_ms, end } => {
                if let End::Terminated { reason } = end {
                    let input = reason.as_deref().filter(|_| show.input);
                    view.push(HistoryEvent::ExecutionTerminated { input, timestamp: time::exact(*at_ms) });
                }
                view.push(ended(function, *at_ms, end, show));
            }
            // A wait is no event of the contract; what it waits for is.
            Event::Scheduled { .. } | Event::Cancelled { .. } => (),
        }
    }
    view
}

/// The output of a failed instance.
pub(super) fn failure_text(function: &str, failure: &Failure) -> String {
    format!("Orchestrator function '{function}' failed: {}", failure.message)
}

/// The output of a terminated instance: the reason as the JSON that it is, or else as a text.
pub(super) fn termination_output(reason: Option<&str>) -> Payload {
    reason.map_or_else(Payload::null, |reason| Payload::parse(reason.to_owned()).unwrap_or_else(|_| Payload::of(reason)))
}

fn answer<'a>(asked: Scheduled<'a>, at_ms: u64, outcome: &'a Outcome, show: Show) -> Option<HistoryEvent<'a>> {
    let Scheduled { name: function_name, input, time: scheduled_time } = asked;
    let timestamp = time::exact(at_ms);
    match outcome {
        Outcome::Completed(result) => {
            let result = show.output.then_some(result);
            Some(HistoryEvent::TaskCompleted { result, timestamp, scheduled_time, function_name, input })
        }
        Outcome::Failed(failure) => Some(HistoryEvent::TaskFailed {
            reason: &failure.message,
            details: failure.details.as_ref().map(Payload::text),
            failure_details: failure.into(),
            timestamp,
            scheduled_time,
            function_name,
            input,
        }),
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
            result: show.output.then(|| termination_output(reason.as_deref())),
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
        check(None, "", "null");
    }

    #[test]
    fn a_guest_cannot_make_the_json_deep() {
        let cause = Cause { kind: "Turtle".into(), message: "below".into(), details: None };
        let failure = Failure { causes: vec![cause; 100_000], ..Failure::new("Turtle", "on top") };
        let shown = serde_json::to_string(&FailureDetails::from(&failure)).unwrap();
        assert_eq!(shown.matches("below").count(), CAUSES_SHOWN_MAX);
    }
}
