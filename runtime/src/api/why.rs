//! Why does an instance not go on? What it waits for, as JSON and in one sentence. Ours, beside the wire contract.

use std::borrow::Cow;

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::description::{Answer, Body, Family, Operation};
use super::error::ApiError;
use super::reply::Reply;
use crate::clock::Clock;
use crate::engine::{Bound, Child, Hub, Open, OpenTask, Stage, Unread, What, Why, Work};
use crate::model::{InstanceId, Payload, RuntimeStatus, TaskId, time};

/// What an instance waits for.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WhyPayload<'a> {
    name: &'a str,
    #[schemars(with = "String")]
    instance_id: &'a InstanceId,
    runtime_status: &'static str,
    /// For people.
    summary: String,
    turn: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    /// Answers and events that no turn has taken yet.
    new_inputs: usize,
    open: OpenPayload,
    /// The first hundred by their numbers.
    tasks: Vec<TaskPayload<'a>>,
    /// What has come and was not read.
    unread_events: Vec<UnreadPayload<'a>>,
    /// The failed ones first.
    children: Vec<ChildPayload<'a>>,
}

/// How many tasks are open.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OpenPayload {
    activities: usize,
    http_requests: usize,
    timers: usize,
    events: usize,
    sub_orchestrations: usize,
}

/// An open task.
#[derive(Debug, Serialize, JsonSchema)]
struct TaskPayload<'a> {
    #[schemars(with = "u32")]
    task: TaskId,
    since: String,
    #[serde(flatten)]
    what: WhatPayload<'a>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum WhatPayload<'a> {
    Activity {
        name: &'a str,
        attempt: u32,
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        behind: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Value")]
        progress: Option<&'a Payload>,
    },
    HttpRequest {
        method: &'a str,
        uri: &'a str,
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        behind: Option<&'static str>,
    },
    Timer {
        due: String,
    },
    Event {
        name: &'a str,
    },
    SubOrchestration {
        name: &'a str,
        #[schemars(with = "String")]
        instance_id: &'a InstanceId,
        attempt: u32,
    },
}

/// Events of one name.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UnreadPayload<'a> {
    name: &'a str,
    count: usize,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ChildPayload<'a> {
    #[schemars(with = "u32")]
    task: TaskId,
    name: &'a str,
    #[schemars(with = "String")]
    instance_id: &'a InstanceId,
    since: String,
    /// `null` if it is not there yet, or not any more.
    runtime_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a str>,
}

pub(super) static WHY: Operation = Operation {
    summary: "What an instance waits for",
    family: Family::Contract,
    takes: &[],
    body: Body::None,
    answers: &[
        Answer::json::<WhyPayload<'static>>(200, "What it waits for at the moment."),
        Answer::empty(404, "There is no such instance."),
    ],
};

/// `GET {prefix}/instances/{instance}/why`: what an instance waits for at the moment.
///
/// 200 with a summary for people; what is in flight; how many tasks are open, and each of the first hundred with its number, since when, when it is
/// due, how far its work is and behind which bound it stands in line; the events that have come and that it has not read, with the name that may have
/// been meant; and its sub-orchestrations that have failed or that it waits for. 404 if there is no such instance, hub or possible ID.
pub(super) async fn why(hub: Option<&Hub>, instance: &str) -> Result<Reply, ApiError> {
    let unknown = || ApiError::empty(StatusCode::NOT_FOUND);
    let hub = hub.ok_or_else(unknown)?;
    let id = instance.parse().map_err(|_| unknown())?;
    let why = hub.why(&id).await.map_err(ApiError::internal)?.ok_or_else(unknown)?;
    Ok(Reply::json(StatusCode::OK, &WhyPayload::of(&why, Clock.now_ms())))
}

impl<'a> WhyPayload<'a> {
    fn of(why: &'a Why, now_ms: u64) -> Self {
        let Open { activities, requests, timers, events, children } = why.open;
        Self {
            name: &why.row.function,
            instance_id: &why.row.id,
            runtime_status: why.row.status.name(),
            summary: summary(why, now_ms),
            turn: turn(why.stage),
            not_before: why.not_before_ms.map(time::exact),
            new_inputs: why.inputs,
            open: OpenPayload { activities, http_requests: requests, timers, events, sub_orchestrations: children },
            tasks: why.tasks.iter().map(TaskPayload::of).collect(),
            unread_events: why.mailbox.iter().map(UnreadPayload::of).collect(),
            children: why.children.iter().map(ChildPayload::of).collect(),
        }
    }
}

impl<'a> TaskPayload<'a> {
    fn of(OpenTask { number, since_ms, what }: &'a OpenTask) -> Self {
        let what = match what {
            What::Activity { name, attempt, work, progress, .. } => {
                let (state, behind) = state(*work);
                WhatPayload::Activity { name, attempt: *attempt, state, behind, progress: progress.as_ref() }
            }
            What::Request { method, uri, work } => {
                let (state, behind) = state(*work);
                WhatPayload::HttpRequest { method, uri, state, behind }
            }
            What::Timer { due_ms } => WhatPayload::Timer { due: time::exact(*due_ms) },
            What::Event { name } => WhatPayload::Event { name },
            What::Child { name, instance, attempt } => {
                WhatPayload::SubOrchestration { name, instance_id: instance, attempt: *attempt }
            }
        };
        Self { task: *number, since: time::exact(*since_ms), what }
    }
}

impl<'a> UnreadPayload<'a> {
    fn of(unread: &'a Unread) -> Self {
        let Unread { name, count, since_ms, .. } = unread;
        Self { name, count: *count, since: time::exact(*since_ms), hint: hint(unread) }
    }
}

impl<'a> ChildPayload<'a> {
    fn of(Child { task, name, instance, since_ms, failure, status }: &'a Child) -> Self {
        Self {
            task: *task,
            name,
            instance_id: instance,
            since: time::exact(*since_ms),
            runtime_status: status.map(RuntimeStatus::name),
            failure: failure.as_deref(),
        }
    }
}

fn turn(stage: Stage) -> &'static str {
    match stage {
        Stage::Nothing => "none",
        Stage::TurnQueued => "queued",
        Stage::TurnRunning => "running",
        Stage::Recording => "recording",
        Stage::Retrying => "retrying",
        Stage::Halted => "halted",
    }
}

/// How far work is, and the bound that it stands behind.
fn state(work: Work) -> (&'static str, Option<&'static str>) {
    match work {
        Work::Running => ("running", None),
        Work::Queued(bound) => ("queued", bound.map(behind)),
        Work::Between => ("handedOver", None),
    }
}

fn behind(bound: Bound) -> &'static str {
    match bound {
        Bound::Function => "function",
        Bound::Hub => "hub",
        Bound::Server => "server",
    }
}

fn hint(unread: &Unread) -> Option<String> {
    let meant = unread.meant.as_ref()?;
    Some(format!("nobody waits for {:?}; did you mean {meant:?}?", unread.name))
}

/// What there is to say to people, in a sentence or two.
fn summary(why: &Why, now_ms: u64) -> String {
    let is_early = why.not_before_ms.is_some_and(|not_before_ms| not_before_ms > now_ms);
    match (why.row.status, why.stage) {
        (status @ (RuntimeStatus::Completed | RuntimeStatus::Failed | RuntimeStatus::Terminated), _) => {
            return format!("It has ended as {status}.");
        }
        (RuntimeStatus::Pending | RuntimeStatus::Running | RuntimeStatus::Suspended, Stage::Halted) => {
            return "It stands still until the server is restarted: the server's log says why.".into();
        }
        (RuntimeStatus::Pending, _) if is_early => {
            return format!("It is to begin at {}.", time::exact(why.not_before_ms.unwrap_or_default()));
        }
        (RuntimeStatus::Suspended, _) => {
            let reason = why.row.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
            return format!("It is suspended{reason}, and goes on when somebody resumes it.");
        }
        (RuntimeStatus::Pending | RuntimeStatus::Running, _) => (),
    }
    let waits = waits_for(why);
    let now = match why.stage {
        Stage::TurnRunning => Some("Its code runs right now"),
        Stage::TurnQueued => Some("Its next turn stands in line for a thread"),
        Stage::Recording => Some("Its last step is being written"),
        Stage::Retrying => Some("Its last step could not be made, for a reason that the server's log tells, and is tried again"),
        Stage::Nothing | Stage::Halted => None,
    };
    let mut text = match (now, waits.is_empty()) {
        (Some(now), true) => format!("{now}."),
        (Some(now), false) => format!("{now}; besides, it waits for {}.", and(&waits)),
        (None, false) => format!("It waits for {}.", and(&waits)),
        (None, true) if why.row.status == RuntimeStatus::Pending || why.inputs > 0 => "It is about to run its next turn.".into(),
        (None, true) => {
            "It waits for nothing that the server knows of: its code awaits something that nobody has been asked for.".into()
        }
    };
    if let Some(unread) = why.mailbox.iter().find(|unread| unread.meant.is_some()) {
        let meant = unread.meant.as_deref().unwrap_or_default();
        text.push_str(&format!(" Event {:?} has come, which nobody waits for; did you mean {meant:?}?", unread.name));
    }
    text
}

/// What it waits for, each kind as a few words.
fn waits_for(why: &Why) -> Vec<String> {
    let Open { activities, requests, timers, events, children } = why.open;
    let one = |of: fn(&What) -> Option<Cow<'_, str>>| why.tasks.iter().find_map(|task| of(&task.what)).map(Cow::into_owned);
    let activity = || {
        one(|what| match what {
            What::Activity { name, work, .. } => Some(format!("activity {name:?}{}", in_line(*work)).into()),
            _ => None,
        })
    };
    let request = || {
        one(|what| match what {
            What::Request { method, uri, work } => Some(format!("the answer to {method} {uri}{}", in_line(*work)).into()),
            _ => None,
        })
    };
    let event = || {
        one(|what| match what {
            What::Event { name } => Some(format!("event {name:?}").into()),
            _ => None,
        })
    };
    let child = || {
        one(|what| match what {
            What::Child { name, instance, .. } => Some(format!("sub-orchestration {name:?} ({instance})").into()),
            _ => None,
        })
    };
    let due = why.first_due_ms.map(time::exact).unwrap_or_default();
    let parts = [
        some(activities, activity, "activities"),
        some(requests, request, "HTTP requests"),
        some(events, event, "events"),
        some(children, child, "sub-orchestrations"),
        some(timers, || Some(format!("a timer that is due at {due}")), "timers").map(|text| match timers {
            1 => text,
            _ => format!("{text}, the first due at {due}"),
        }),
    ];
    parts.into_iter().flatten().collect()
}

/// The one thing that there is, or how many.
fn some(count: usize, one: impl FnOnce() -> Option<String>, many: &str) -> Option<String> {
    match count {
        0 => None,
        1 => one().or_else(|| Some(format!("one of its {many}"))),
        _ => Some(format!("{count} {many}")),
    }
}

fn in_line(work: Work) -> String {
    match work {
        Work::Running | Work::Between => String::new(),
        Work::Queued(None) => ", which stands in line".into(),
        Work::Queued(Some(Bound::Server)) => ", which stands in line behind the limit of the server".into(),
        Work::Queued(Some(bound)) => format!(", which stands in line behind the limit of its {}", behind(bound)),
    }
}

fn and(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Digest, ExecutionKey, InstanceKey, Tags, Wake};
    use crate::store::InstanceRow;

    fn nothing(status: RuntimeStatus) -> Why {
        let row = InstanceRow {
            key: InstanceKey(1),
            execution: ExecutionKey(1),
            length: 1,
            id: "loaf-17".parse().unwrap(),
            function: "BakeBread".into(),
            module: Digest([1; 32]),
            status,
            created_ms: 1_000,
            updated_ms: 1_000,
            custom_status: None,
            tags: Tags::default(),
            wake: Wake::NEVER,
            reason: None,
        };
        Why {
            row,
            stage: Stage::Nothing,
            not_before_ms: None,
            inputs: 0,
            open: Open::default(),
            first_due_ms: None,
            tasks: Vec::new(),
            mailbox: Vec::new(),
            children: Vec::new(),
        }
    }

    fn mix(work: Work) -> What {
        What::Activity { name: "Mix".into(), attempt: 1, first_attempt: TaskId(0), work, progress: None }
    }

    /// An instance that waits for these, among `open` others.
    fn waiting(open: Open, what: Vec<What>) -> Why {
        let task = |(number, what)| OpenTask { number: TaskId(number), since_ms: 1_500, what };
        let first_due_ms = (open.timers > 0).then_some(60_000);
        Why { open, first_due_ms, tasks: (0..).zip(what).map(task).collect(), ..nothing(RuntimeStatus::Running) }
    }

    fn check(why: &Why, expected: &str) {
        assert_eq!(summary(why, 5_000), expected);
    }

    #[test]
    fn a_sentence_says_what_is_waited_for() {
        let child = What::Child { name: "Knead".into(), instance: "dough".parse().unwrap(), attempt: 1 };
        let get = What::Request { method: "GET".into(), uri: "http://oven/".into(), work: Work::Running };
        let go = || What::Event { name: "go".into() };
        let check = |open: Open, what: Vec<What>, expected: &str| check(&waiting(open, what), expected);
        let one = |activities| Open { activities, ..Open::default() };
        check(one(1), vec![mix(Work::Running)], r#"It waits for activity "Mix"."#);
        let line = r#"It waits for activity "Mix", which stands in line"#;
        check(one(1), vec![mix(Work::Queued(None))], &format!("{line}."));
        for (bound, of) in [(Bound::Function, "its function"), (Bound::Hub, "its hub"), (Bound::Server, "the server")] {
            check(one(1), vec![mix(Work::Queued(Some(bound)))], &format!("{line} behind the limit of {of}."));
        }
        check(one(10_000), vec![mix(Work::Running)], "It waits for 10000 activities.");
        let all = Open { activities: 2, requests: 1, timers: 1, events: 1, children: 1 };
        check(
            all,
            vec![mix(Work::Running), get, go(), child],
            r#"It waits for 2 activities, the answer to GET http://oven/, event "go", sub-orchestration "Knead" (dough) and a timer that is due at 1970-01-01T00:01:00Z."#,
        );
        check(Open { timers: 3, ..Open::default() }, vec![], "It waits for 3 timers, the first due at 1970-01-01T00:01:00Z.");
        check(Open { events: 1, ..Open::default() }, vec![], "It waits for one of its events.");
    }

    #[test]
    fn a_sentence_says_how_the_instance_itself_stands() {
        let with = |status, stage| Why { stage, ..nothing(status) };
        let running = |stage| Why { stage, ..waiting(Open { activities: 1, ..Open::default() }, vec![mix(Work::Running)]) };
        check(&nothing(RuntimeStatus::Failed), "It has ended as Failed.");
        check(&with(RuntimeStatus::Pending, Stage::TurnQueued), "Its next turn stands in line for a thread.");
        check(&with(RuntimeStatus::Pending, Stage::Nothing), "It is about to run its next turn.");
        let early = Why { not_before_ms: Some(9_000), ..nothing(RuntimeStatus::Pending) };
        check(&early, "It is to begin at 1970-01-01T00:00:09Z.");
        check(&Why { not_before_ms: Some(4_000), ..early }, "It is about to run its next turn.");
        check(&running(Stage::TurnRunning), r#"Its code runs right now; besides, it waits for activity "Mix"."#);
        check(&running(Stage::Halted), "It stands still until the server is restarted: the server's log says why.");
        check(
            &nothing(RuntimeStatus::Running),
            "It waits for nothing that the server knows of: its code awaits something that nobody has been asked for.",
        );
        check(&Why { inputs: 1, ..nothing(RuntimeStatus::Running) }, "It is about to run its next turn.");
        let unread = |meant: Option<&str>| Unread { name: "Gooo".into(), count: 1, since_ms: 1, meant: meant.map(str::to_owned) };
        let mailbox = vec![unread(None), unread(Some("go"))];
        let why = Why { mailbox, ..waiting(Open { events: 1, ..Open::default() }, vec![What::Event { name: "go".into() }]) };
        check(&why, r#"It waits for event "go". Event "Gooo" has come, which nobody waits for; did you mean "go"?"#);
    }
}
