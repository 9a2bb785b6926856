//! What happened to an execution? The stored history, event by event.

use serde::{Deserialize, Serialize};

use super::{Action, Digest, Failure, Generation, Idempotency, InstanceId, Parent, Payload, RuntimeStatus, Seed, Tags, TaskId};

/// One fact about an execution, in the order the facts became durable.
///
/// Written once, never edited. Tags and field names are the stored format: a new variant or an optional field is fine, a
/// rename is a migration. What clients see as history is a projection (`api::history_view`), so the two can change
/// apart. The tag stands outside (`{"resolved":{…}}`), because serde cannot hand a payload's text through untouched
/// where the tag stands inside. All times are milliseconds since 1970, UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// First in every execution.
    Started(Started),
    /// A turn begins: it takes the next `consumes` inputs that no turn has taken yet, and until the next turn the guest's
    /// clock reads `at_ms`. Never goes back.
    TurnStarted {
        /// The guest's time in this turn.
        at_ms: u64,
        /// How many inputs it takes.
        consumes: u32,
    },
    /// The guest asked for its `task`-th task, counted from 0. Never removed.
    Scheduled {
        /// Its number.
        task: TaskId,
        /// What it asked for.
        action: Action,
    },
    /// The guest has dropped this task: no answer to it counts from here on.
    Cancelled {
        /// Which one.
        task: TaskId,
    },
    /// Input: the one answer to `task`.
    Resolved {
        /// Which one.
        task: TaskId,
        /// When the answer arrived.
        at_ms: u64,
        /// What it is.
        outcome: Outcome,
        /// The module that ran, if that was another than the execution's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ran: Option<Digest>,
    },
    /// Input: an event from outside, perhaps before the guest waits for it. Whoever raised it was told so only when this was
    /// durable.
    Raised {
        /// When it arrived.
        at_ms: u64,
        /// Its name as it was raised. Waits match it without regard to case.
        name: String,
        /// Its value.
        payload: Payload,
    },
    /// Somebody from outside has the execution pause: none of its code runs until it is resumed, and inputs are recorded without a turn.
    Suspended {
        /// When it was asked for.
        at_ms: u64,
        /// Why, if it was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// It goes on after a pause.
    Resumed {
        /// When it was asked for.
        at_ms: u64,
        /// Why, if it was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Somebody has a failed execution go on: its end, its last turn and the failed answers of some tasks do not count any more. What is left is
    /// [`super::rewind::standing`].
    Rewound {
        /// When it was asked for.
        at_ms: u64,
        /// Why, if it was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The tasks whose failed answers do not count any more: they are open again.
        reopened: Vec<TaskId>,
        /// What the last turn asked for still counts, so that it is played again at its own time, in milliseconds since 1970. `None` if it asked for
        /// nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        turn_at_ms: Option<u64>,
        /// The code from here on, if that is another.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        module: Option<Digest>,
    },
    /// Last in every ended execution, unless that is rewound.
    Ended {
        /// When it ended.
        at_ms: u64,
        /// How.
        end: End,
    },
}

impl Event {
    /// How many bytes of values it holds, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Started(Started { input, .. }) => input.text().len(),
            Self::Scheduled { action, .. } => action.bytes(),
            Self::Resolved { outcome, .. } => outcome.bytes(),
            Self::Raised { payload, .. } => payload.text().len(),
            Self::Ended { end: End::Completed(payload), .. } => payload.text().len(),
            _ => 0,
        }
    }

    /// When it happened; 0 for what happens in a turn, which has the turn's time.
    pub fn at_ms(&self) -> u64 {
        match self {
            Self::Started(Started { at_ms, .. })
            | Self::TurnStarted { at_ms, .. }
            | Self::Resolved { at_ms, .. }
            | Self::Raised { at_ms, .. }
            | Self::Suspended { at_ms, .. }
            | Self::Resumed { at_ms, .. }
            | Self::Rewound { at_ms, .. }
            | Self::Ended { at_ms, .. } => *at_ms,
            Self::Scheduled { .. } | Self::Cancelled { .. } => 0,
        }
    }
}

/// Fixes the code, the input and the randomness of all replays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// When the start was asked for.
    pub at_ms: u64,
    /// The instance's ID.
    pub instance: InstanceId,
    /// The code.
    pub module: Digest,
    /// The orchestrator's name, as the caller spelled it.
    pub function: String,
    /// `null` if none was given.
    pub input: Payload,
    /// Names this execution to the world: idempotency keys and UUIDs derive from it.
    pub generation: Generation,
    /// All randomness that the guest sees derives from it.
    pub seed: Seed,
    /// The bounds that this execution keeps, whatever the server's become: where it hits one is part of what it does.
    pub limits: LimitsInForce,
    /// What wrote this history.
    pub made_by: Versions,
    /// Who waits for its end, if an orchestration does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Labels that were given at the start.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Its first turn may not begin before this time, if one is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// What its caller gave for the start to be known again by, if it was to be done once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// How often the instance has continued as new before this execution.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub continued: u64,
}

impl Started {
    /// Whether an instance begins with it that nobody waits for inside: it was not started by another, and has not continued as new.
    pub fn begins_instance(&self) -> bool {
        self.parent.is_none() && self.continued == 0
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The bounds that decide what an execution does. `limits.rs` says what each is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsInForce {
    /// As `guest_memory_bytes_max`; a server whose own bound is lower by now gives no more than that.
    pub memory_bytes_max: u64,
    /// As `payload_bytes_max`.
    pub payload_bytes_max: u64,
    /// As `tasks_max`.
    pub tasks_max: u32,
    /// As `history_events_max`.
    pub history_events_max: u32,
}

/// Who had a hand in a history: what to look at if it cannot be read or replayed one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of the guest contract that the module speaks.
    pub contract: String,
    /// Of the server.
    pub host: String,
    /// Of what generated the module, in its own words.
    pub generator: String,
}

/// The answer to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It gave this value.
    Completed(Payload),
    /// It failed.
    Failed(Failure),
    /// The timer is due.
    Fired,
}

impl Outcome {
    /// How many bytes of values it holds, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Completed(payload) => payload.text().len(),
            Self::Failed(failure) => failure.details.as_ref().map_or(0, |details| details.text().len()),
            Self::Fired => 0,
        }
    }
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The orchestrator returned this value.
    Completed(Payload),
    /// The orchestrator returned an error.
    Failed(Failure),
    /// The guest was at fault: it trapped or panicked, passed a limit, or diverged from its history. No replay repeats
    /// the turn in which that happened.
    Faulted(Failure),
    /// Somebody from outside has ended it. No code ran for that, and inputs before it may never have been read.
    Terminated {
        /// Why, if it was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

impl End {
    /// The status of an instance that has ended so.
    pub fn status(&self) -> RuntimeStatus {
        match self {
            Self::Completed(_) => RuntimeStatus::Completed,
            Self::Failed(_) | Self::Faulted(_) => RuntimeStatus::Failed,
            Self::Terminated { .. } => RuntimeStatus::Terminated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ActivityCall, Cause, execution::tests as make};

    #[test]
    fn an_instance_begins_once_and_not_as_a_child() {
        let parent = Parent { instance: "shop".parse().unwrap(), execution: crate::model::ExecutionKey(7), task: TaskId(2) };
        assert!(make::started().begins_instance());
        assert!(!Started { continued: 1, ..make::started() }.begins_instance());
        assert!(!Started { parent: Some(parent), ..make::started() }.begins_instance());
    }

    /// Every stored history is written so. A text that changes here needs a migration.
    #[test]
    fn the_stored_format_stays_as_it_is() {
        let check = |event: &Event, expected: &str| {
            assert_eq!(serde_json::to_string(event).unwrap(), expected);
            assert_eq!(serde_json::from_str::<Event>(expected).unwrap(), *event);
        };
        check(
            &Event::Started(make::started()),
            &format!(
                r#"{{"started":{{"at_ms":1000,"instance":"loaf-17","module":"{}","function":"BakeBread","input":null,"generation":"{}","seed":"{}","limits":{{"memory_bytes_max":67108864,"payload_bytes_max":4194304,"tasks_max":100000,"history_events_max":1000000}},"made_by":{{"contract":"0.1.0","host":"0.1.0","generator":"by hand"}}}}}}"#,
                "01".repeat(32),
                "02".repeat(16),
                "03".repeat(16)
            ),
        );
        check(&make::turn(1_000, 2), r#"{"turn_started":{"at_ms":1000,"consumes":2}}"#);
        check(&make::scheduled(3, "Mix"), r#"{"scheduled":{"task":3,"action":{"activity":{"name":"Mix","input":null}}}}"#);
        let action = Action::Activity(ActivityCall {
            name: "Mix".into(),
            input: Payload::parse(r#"{"grams": 750}"#.into()).unwrap(),
            attempt: 2,
            first_attempt: Some(TaskId(1)),
            timeout_ms: Some(500),
        });
        check(
            &Event::Scheduled { task: TaskId(3), action },
            r#"{"scheduled":{"task":3,"action":{"activity":{"name":"Mix","input":{"grams": 750},"attempt":2,"first_attempt":1,"timeout_ms":500}}}}"#,
        );
        check(
            &Event::Scheduled { task: TaskId(3), action: Action::Timer { due_ms: 9 } },
            r#"{"scheduled":{"task":3,"action":{"timer":{"due_ms":9}}}}"#,
        );
        check(
            &Event::Scheduled { task: TaskId(3), action: Action::WaitEvent { name: "Risen".into() } },
            r#"{"scheduled":{"task":3,"action":{"wait_event":{"name":"Risen"}}}}"#,
        );
        check(
            &Event::Resolved { task: TaskId(3), at_ms: 9, outcome: Outcome::Fired, ran: None },
            r#"{"resolved":{"task":3,"at_ms":9,"outcome":"fired"}}"#,
        );
        check(
            &Event::Raised { at_ms: 9, name: "Risen".into(), payload: Payload::of(&true) },
            r#"{"raised":{"at_ms":9,"name":"Risen","payload":true}}"#,
        );
        check(
            &Event::Ended { at_ms: 9, end: End::Terminated { reason: Some("power cut".into()) } },
            r#"{"ended":{"at_ms":9,"end":{"terminated":{"reason":"power cut"}}}}"#,
        );
        check(
            &Event::Ended { at_ms: 9, end: End::Terminated { reason: None } },
            r#"{"ended":{"at_ms":9,"end":{"terminated":{}}}}"#,
        );
        check(&Event::Cancelled { task: TaskId(3) }, r#"{"cancelled":{"task":3}}"#);
        check(&Event::Suspended { at_ms: 9, reason: None }, r#"{"suspended":{"at_ms":9}}"#);
        let reason = Some("lunch".into());
        check(&Event::Suspended { at_ms: 9, reason }, r#"{"suspended":{"at_ms":9,"reason":"lunch"}}"#);
        check(&Event::Resumed { at_ms: 9, reason: Some("back".into()) }, r#"{"resumed":{"at_ms":9,"reason":"back"}}"#);
        let nothing = Event::Rewound { at_ms: 9, reason: None, reopened: Vec::new(), turn_at_ms: None, module: None };
        check(&nothing, r#"{"rewound":{"at_ms":9,"reopened":[]}}"#);
        check(
            &Event::Rewound {
                at_ms: 9,
                reason: Some("oven fixed".into()),
                reopened: vec![TaskId(3), TaskId(5)],
                turn_at_ms: Some(7),
                module: Some(Digest([9; 32])),
            },
            &format!(
                r#"{{"rewound":{{"at_ms":9,"reason":"oven fixed","reopened":[3,5],"turn_at_ms":7,"module":"{}"}}}}"#,
                "09".repeat(32)
            ),
        );
        check(&make::resolved(3), r#"{"resolved":{"task":3,"at_ms":1500,"outcome":{"completed":3}}}"#);
        let failure = Failure {
            details: Some(Payload::of(&20)),
            stack_trace: Some("here".into()),
            causes: vec![Cause { kind: "NoGas".into(), message: "no gas".into(), details: None }],
            ..Failure::new("OvenCold", "the oven is cold").non_retriable()
        };
        let failed = r#"{"kind":"OvenCold","message":"the oven is cold","details":20,"stack_trace":"here","non_retriable":true,"causes":[{"kind":"NoGas","message":"no gas"}]}"#;
        let outcome = Outcome::Failed(failure.clone());
        check(
            &Event::Resolved { task: TaskId(3), at_ms: 1, outcome, ran: Some(Digest([9; 32])) },
            &format!(r#"{{"resolved":{{"task":3,"at_ms":1,"outcome":{{"failed":{failed}}},"ran":"{}"}}}}"#, "09".repeat(32)),
        );
        check(&make::ended(), r#"{"ended":{"at_ms":2000,"end":{"completed":null}}}"#);
        check(
            &Event::Ended { at_ms: 2, end: End::Failed(failure.clone()) },
            &format!(r#"{{"ended":{{"at_ms":2,"end":{{"failed":{failed}}}}}}}"#),
        );
        check(
            &Event::Ended { at_ms: 2, end: End::Faulted(failure) },
            &format!(r#"{{"ended":{{"at_ms":2,"end":{{"faulted":{failed}}}}}}}"#),
        );
    }
}
