//! How does an instance stand? The status payload of the wire contract, and the codes that go with it.

use std::str::FromStr;
use std::time::Duration;

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Draining;
use super::description::{Answer, Body, Family, Header, Kind, Operation, Parameter};
use super::error::ApiError;
use super::history_view::{self, HistoryEvent, Show};
use super::query::{Query, STATUSES};
use super::reply::Reply;
use super::route::Door;
use super::waits::Waits;
use crate::engine::{Hub, InstanceView};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::model::time;
use crate::model::{End, InstanceId, Payload, RuntimeStatus};

/// How long a client should wait before it asks again, in seconds.
const RETRY_AFTER_S: u32 = 5;

/// Which published edition of the API decides the status codes of an ended instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Edition {
    /// As documented in 2018: 400 for a failed instance, 500 where its guest was at fault.
    #[default]
    #[serde(rename = "2018")]
    Y2018,
    /// As the newest servers do: 200.
    #[serde(rename = "current")]
    Current,
}

impl FromStr for Edition {
    type Err = UnknownEdition;

    fn from_str(text: &str) -> Result<Self, UnknownEdition> {
        match text {
            "2018" => Ok(Self::Y2018),
            "current" => Ok(Self::Current),
            _ => Err(UnknownEdition(text.into())),
        }
    }
}

/// A text that names no [`Edition`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("edition {0:?} must be \"2018\" or \"current\"")]
pub struct UnknownEdition(String);

/// What a client wants to see of an instance. All of it comes from the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Which parts of it.
    pub(super) show: Show,
    /// With its history.
    pub(super) history: bool,
    /// 500 for any failed instance.
    fail_as_500: bool,
    edition: Edition,
}

impl Wanted {
    /// Reads it. `edition` is the server's own; the prefix for workers always has the current one.
    pub(super) fn of(query: &Query, edition: Edition, door: Door) -> Self {
        let asked = query.text("edition").and_then(|text| text.parse().ok());
        Self {
            show: Show {
                input: query.flag("showInput").unwrap_or(true),
                output: query.flag("showHistoryOutput").unwrap_or(false),
            },
            history: query.flag("showHistory").unwrap_or(false),
            fail_as_500: query.flag("returnInternalServerErrorOnFailure").unwrap_or(false),
            edition: if door == Door::Rpc { Edition::Current } else { asked.unwrap_or(edition) },
        }
    }
}

/// An instance as clients see it. The order of the keys is part of the contract.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusPayload<'a> {
    /// The orchestrator, as the start spelled it.
    name: &'a str,
    #[schemars(with = "String")]
    instance_id: &'a InstanceId,
    #[schemars(extend("enum" = STATUSES))]
    runtime_status: &'static str,
    /// `null` too if it is not to be shown.
    #[schemars(with = "Value")]
    input: Option<&'a Payload>,
    #[schemars(with = "Value")]
    custom_status: Option<&'a Payload>,
    /// The return value, why it failed, or the reason for which it was ended.
    #[schemars(with = "Value")]
    output: Option<Payload>,
    #[schemars(extend("format" = "date-time"))]
    created_time: String,
    #[schemars(extend("format" = "date-time"))]
    last_updated_time: String,
    /// If it is asked for, and some of the code has run.
    #[serde(skip_serializing_if = "Option::is_none")]
    history_events: Option<Vec<HistoryEvent<'a>>>,
}

impl<'a> StatusPayload<'a> {
    /// Shows `show` of an instance, and its history if the view has it and there is one yet.
    pub(super) fn of(view: &'a InstanceView, show: Show) -> Self {
        let InstanceView { row, input, end, history } = view;
        let history = history.as_ref().filter(|_| row.status != RuntimeStatus::Pending);
        Self {
            name: &row.function,
            instance_id: &row.id,
            runtime_status: row.status.name(),
            input: show.input.then_some(input),
            custom_status: row.custom_status.as_ref(),
            output: match end {
                Some(End::Completed(output)) => Some(output.clone()),
                Some(End::Failed(failure) | End::Faulted(failure)) => {
                    Some(Payload::of(&history_view::failure_text(&row.function, failure)))
                }
                Some(End::Terminated { reason }) => Some(history_view::reason_output(reason.as_deref())),
                None => row.reason.as_deref().map(|reason| history_view::reason_output(Some(reason))),
            },
            created_time: time::whole_seconds(row.created_ms),
            last_updated_time: time::whole_seconds(row.updated_ms),
            history_events: history.map(|history| history_view::view(history, show)),
        }
    }
}

/// How long a client waits for a change, and what ends that early.
pub(super) struct LongPoll<'a> {
    longest: Duration,
    draining: &'a Draining,
    waits: &'a Waits,
    metrics: &'a Metrics,
}

/// Whether the query asks to wait for a change: `wait`, in seconds, of which it gets `status_wait_s_max` at most.
pub(super) fn long_poll<'a>(
    query: &Query,
    limits: &Limits,
    draining: &'a Draining,
    waits: &'a Waits,
    metrics: &'a Metrics,
) -> Option<LongPoll<'a>> {
    let longest = query.seconds("wait")?.clamp(0.0, limits.status_wait_s_max as f64);
    Some(LongPoll { longest: Duration::from_secs_f64(longest), draining, waits, metrics })
}

pub(super) const SHOW_INPUT: Parameter =
    Parameter::query("showInput", Kind::Flag, "Whether inputs are shown; they are by default.");
pub(super) const SHOW_HISTORY: Parameter = Parameter::query("showHistory", Kind::Flag, "Whether the history comes along.");
pub(super) const SHOW_HISTORY_OUTPUT: Parameter =
    Parameter::query("showHistoryOutput", Kind::Flag, "Whether the events of the history show results.");

pub(super) static STATUS: Operation = Operation {
    summary: "How an instance stands",
    family: Family::Contract,
    takes: &[
        SHOW_HISTORY,
        SHOW_HISTORY_OUTPUT,
        SHOW_INPUT,
        Parameter::query("returnInternalServerErrorOnFailure", Kind::Flag, "Whether a Failed instance is answered with 500."),
        Parameter::query("edition", Kind::OneOf(&["2018", "current"]), "Whose status codes ended instances have."),
        Parameter::query(
            "wait",
            Kind::Seconds,
            "How long to wait for a change of what is shown; without it the answer comes at once.",
        ),
        Parameter::header("Last-Event-ID", Kind::Text, "Of a stream: the ID of the event that it goes on behind."),
    ],
    body: Body::None,
    answers: &[
        Answer::json::<StatusPayload<'static>>(200, "It is Completed; in the edition `current` it has ended in whatever way."),
        Answer::other(200, "text/event-stream", "Asked for with `Accept`: what happens, as it happens, until it has ended."),
        Answer::empty(204, "Of a stream: nothing comes behind the event with that ID."),
        Answer::json::<StatusPayload<'static>>(202, "It has not ended.").with(&[Header::Location, Header::RetryAfter]),
        Answer::json::<StatusPayload<'static>>(400, "Edition `2018`: it is Terminated, or Failed with an error of its code."),
        Answer::json::<StatusPayload<'static>>(
            500,
            "It is Failed, and that is to be a 500; in the edition `2018`, its guest was at fault.",
        ),
        Answer::empty(404, "There is no such instance."),
        Answer::long(503, "As many streams are open as may be.").with(&[Header::RetryAfter]),
    ],
};

/// `GET {prefix}/instances/{instance}`: how an instance stands. `url` is the absolute one of this request.
///
/// 202 with `Location` and `Retry-After` while it has not ended; 200 once it is Completed. For a Terminated or Failed one the edition
/// decides: 200 in `current`, in `2018` 400, or 500 if its guest was at fault; with `returnInternalServerErrorOnFailure` 500 in both. 404
/// if there is no such instance, hub or possible ID. 400 for an ill-formed hub name or an unknown connection.
///
/// With `wait={seconds}` the same answers come later: once runtime status, custom status or output are others than at the request, the
/// instance has continued as new, the time is up or the server stops. At once for an instance that has ended. `lastUpdatedTime` and the history
/// are no reason to answer, but what is answered has them as they are then.
pub(super) async fn status(
    hub: Option<&Hub>,
    instance: &str,
    wanted: Wanted,
    url: &str,
    long_poll: Option<LongPoll<'_>>,
) -> Result<Reply, ApiError> {
    let unknown = || ApiError::empty(StatusCode::NOT_FOUND);
    let hub = hub.ok_or_else(unknown)?;
    let id = instance.parse().map_err(|_| unknown())?;
    let changed = match long_poll {
        None => None,
        Some(LongPoll { longest, draining, waits, metrics }) => {
            let place = waits.place(metrics);
            let longest = if place.is_some() { longest } else { Duration::ZERO };
            tokio::select! {
                changed = hub.instance_changed(&id, wanted.history, longest) => Some(changed),
                () = draining.begun() => None,
            }
        }
    };
    let view = match changed {
        Some(changed) => changed,
        None => hub.instance(&id, wanted.history).await,
    };
    let view = view.map_err(ApiError::internal)?.ok_or_else(unknown)?;
    let url = url.to_owned();
    Ok(print(view, move |view| reply(view, wanted, &url)).await)
}

/// Prints a reply that shows `view`. One with a history may have a hundred megabytes and take a second, so that is done where no
/// other request waits for the thread.
pub(super) async fn print(view: InstanceView, reply: impl FnOnce(&InstanceView) -> Reply + Send + 'static) -> Reply {
    if view.history.is_none() {
        return reply(&view);
    }
    tokio::task::spawn_blocking(move || reply(&view)).await.expect("a panic goes on here, and the answer is 500")
}

fn reply(view: &InstanceView, wanted: Wanted, url: &str) -> Reply {
    let payload = StatusPayload::of(view, wanted.show);
    match view.row.status {
        RuntimeStatus::Pending | RuntimeStatus::Running | RuntimeStatus::Suspended => {
            Reply::json(StatusCode::ACCEPTED, &payload).location(url).retry_after_s(RETRY_AFTER_S)
        }
        RuntimeStatus::Completed => Reply::json(StatusCode::OK, &payload),
        RuntimeStatus::Failed => Reply::json(code_of_failure(view.end.as_ref(), wanted), &payload),
        RuntimeStatus::Terminated => match wanted.edition {
            Edition::Y2018 => Reply::json(StatusCode::BAD_REQUEST, &payload),
            Edition::Current => Reply::json(StatusCode::OK, &payload),
        },
    }
}

fn code_of_failure(end: Option<&End>, wanted: Wanted) -> StatusCode {
    match (wanted.edition, end) {
        _ if wanted.fail_as_500 => StatusCode::INTERNAL_SERVER_ERROR,
        (Edition::Current, _) => StatusCode::OK,
        (Edition::Y2018, Some(End::Faulted(_))) => StatusCode::INTERNAL_SERVER_ERROR,
        (Edition::Y2018, _) => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::execution::tests::{ended, scheduled, started, turn};
    use crate::model::{Digest, Event, ExecutionKey, Failure, InstanceKey, Tags, Wake};
    use crate::store::InstanceRow;

    fn view(status: RuntimeStatus, end: Option<End>) -> InstanceView {
        let row = InstanceRow {
            key: InstanceKey(1),
            execution: ExecutionKey(1),
            length: 1,
            id: "loaf-17".parse().unwrap(),
            function: "BakeBread".into(),
            module: Digest([1; 32]),
            status,
            created_ms: 1_772_352_000_999,
            updated_ms: 1_772_352_250_001,
            custom_status: (status != RuntimeStatus::Pending).then(|| Payload::of("rising")),
            tags: Tags::default(),
            wake: Wake::NEVER,
            reason: (status == RuntimeStatus::Suspended).then(|| "lunch".into()),
        };
        let input = Payload::parse(r#"{"grams":  7.50, "flour":"rye"}"#.into()).unwrap();
        let history = vec![Event::Started(started()), turn(1_500, 0), scheduled(0, "Mix"), ended()];
        InstanceView { row, input, end, history: Some(history) }
    }

    fn check(view: &InstanceView, query: &str, expected: &str) {
        let wanted = Wanted::of(&Query::parse(query), Edition::Y2018, Door::Webhooks);
        let view = InstanceView { history: view.history.clone().filter(|_| wanted.history), ..view.clone() };
        assert_eq!(reply(&view, wanted, "http://h/p?q").shown(), expected, "{query}");
    }

    fn check_code(view: &InstanceView, door: Door, query: &str, expected: u16) {
        let wanted = Wanted::of(&Query::parse(query), Edition::Y2018, door);
        assert_eq!(reply(view, wanted, "http://h/p").status(), expected, "{query}");
    }

    #[test]
    fn the_payload_has_its_eight_keys_in_order_and_the_user_s_text_untouched() {
        check(
            &view(RuntimeStatus::Running, None),
            "",
            r#"202 http://h/p?q {"name":"BakeBread","instanceId":"loaf-17","runtimeStatus":"Running","input":{"grams":  7.50, "flour":"rye"},"customStatus":"rising","output":null,"createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T08:04:10Z"}"#,
        );
        check(
            &view(RuntimeStatus::Completed, Some(End::Completed(Payload::parse("1.0e+2".into()).unwrap()))),
            "showInput=False",
            r#"200  {"name":"BakeBread","instanceId":"loaf-17","runtimeStatus":"Completed","input":null,"customStatus":"rising","output":1.0e+2,"createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T08:04:10Z"}"#,
        );
        check(
            &view(RuntimeStatus::Failed, Some(End::Failed(Failure::new("Oven", "oven is cold")))),
            "showInput=false",
            r#"400  {"name":"BakeBread","instanceId":"loaf-17","runtimeStatus":"Failed","input":null,"customStatus":"rising","output":"Orchestrator function 'BakeBread' failed: oven is cold","createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T08:04:10Z"}"#,
        );
    }

    #[test]
    fn a_suspended_instance_shows_why_as_its_output() {
        check(
            &view(RuntimeStatus::Suspended, None),
            "showInput=false",
            r#"202 http://h/p?q {"name":"BakeBread","instanceId":"loaf-17","runtimeStatus":"Suspended","input":null,"customStatus":"rising","output":"lunch","createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T08:04:10Z"}"#,
        );
    }

    #[test]
    fn the_history_is_there_when_asked_for_but_never_while_pending() {
        check(
            &view(RuntimeStatus::Running, None),
            "showHistory=True&showInput=false",
            r#"202 http://h/p?q {"name":"BakeBread","instanceId":"loaf-17","runtimeStatus":"Running","input":null,"customStatus":"rising","output":null,"createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T08:04:10Z","historyEvents":[{"EventType":"ExecutionStarted","Timestamp":"1970-01-01T00:00:01Z","FunctionName":"BakeBread"},{"EventType":"TaskScheduled","Name":"Mix","Timestamp":"1970-01-01T00:00:01.5Z"},{"EventType":"ExecutionCompleted","OrchestrationStatus":"Completed","FailureDetails":null,"Timestamp":"1970-01-01T00:00:02Z"}]}"#,
        );
        check(
            &view(RuntimeStatus::Pending, None),
            "showHistory=true&showInput=false",
            r#"202 http://h/p?q {"name":"BakeBread","instanceId":"loaf-17","runtimeStatus":"Pending","input":null,"customStatus":null,"output":null,"createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T08:04:10Z"}"#,
        );
    }

    #[test]
    fn the_edition_decides_the_code_of_a_failure() {
        let failed = view(RuntimeStatus::Failed, Some(End::Failed(Failure::new("Oven", "cold"))));
        let faulted = view(RuntimeStatus::Failed, Some(End::Faulted(Failure::new("Trap", "unreachable"))));
        for (query, code_failed, code_faulted) in [
            ("", 400, 500),
            ("edition=2018", 400, 500),
            ("edition=current", 200, 200),
            ("edition=1999", 400, 500),
            ("returnInternalServerErrorOnFailure=TRUE", 500, 500),
            ("edition=current&returnInternalServerErrorOnFailure=true", 500, 500),
        ] {
            check_code(&failed, Door::Webhooks, query, code_failed);
            check_code(&faulted, Door::Webhooks, query, code_faulted);
        }
        check_code(&failed, Door::Rpc, "edition=2018", 200);
        check_code(&faulted, Door::Rpc, "", 200);
        check_code(&faulted, Door::Rpc, "returnInternalServerErrorOnFailure=true", 500);
        check_code(&view(RuntimeStatus::Completed, None), Door::Webhooks, "returnInternalServerErrorOnFailure=true", 200);
    }
}
