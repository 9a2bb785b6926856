//! How is an instance started over HTTP, and waited for by the same request?

use std::sync::Arc;
use std::time::Duration;

use hyper::{HeaderMap, StatusCode};
use serde_json::Value;

use super::body::{Received, Share};
use super::description::{Answer, Body, Family, Header, Kind, Operation, Parameter};
use super::error::{self, ApiError};
use super::links::{CheckStatus, Links};
use super::query::Query;
use super::reply::Reply;
use super::status::{self, StatusPayload, Wanted};
use super::waits::Waits;
use super::{Draining, control};
use crate::engine::{Existing, Hub, InstanceView, StartError, StartRequest, Watch};
use crate::metrics::Metrics;
use crate::model::{End, Idempotency, IdempotencyKey, InstanceId, Payload};

/// How long a client should wait before it first asks how an instance stands, in seconds.
const RETRY_AFTER_S: u32 = 10;

/// The longest that one request may wait for an end, in seconds; who asks for more gets this much.
const WAIT_S_MAX: f64 = 3_600.0;

/// Where clients put what makes a start that is sent twice happen once.
const KEY: &str = "idempotency-key";

/// A start as the request's path, query and body put it.
#[derive(Debug)]
pub(super) struct StartCall {
    request: StartRequest,
    key: Option<IdempotencyKey>,
    /// How long to wait for the end; without it the answer is sent at once.
    wait: Option<Duration>,
    /// The room that the input takes up until it is recorded.
    share: Option<Share>,
}

impl StartCall {
    /// Reads all but the body, of which the request has `null` so far. `existing` is what the server makes of an ID that is taken, if the
    /// request has no key.
    ///
    /// # Errors
    /// 400 if the ID, the key or a label is ill-formed, or `pollingInterval` is longer than `timeout`.
    pub(super) fn of(
        function: String,
        instance: Option<String>,
        query: &Query,
        headers: &HeaderMap,
        existing: Existing,
    ) -> Result<Self, ApiError> {
        let instance: Option<InstanceId> = instance.map(|id| id.parse()).transpose().map_err(ApiError::bad_argument)?;
        let tags = query.tags_of_start().map_err(ApiError::bad_argument)?;
        let (wait, key) = (wait(query)?, key(headers)?);
        let existing = if key.is_some() { Existing::Keep } else { existing };
        let request = StartRequest { function, instance, input: Payload::null(), tags, idempotency: None, existing };
        Ok(Self { request, key, wait, share: None })
    }

    /// The same with the body as the input.
    ///
    /// # Errors
    /// 400 if it is not JSON.
    pub(super) fn with_body(self, Received { bytes, share }: Received) -> Result<Self, ApiError> {
        let input = input(&bytes)?;
        let idempotency = self.key.clone().map(|key| Idempotency::of(key, &self.request.function, &input));
        let request = StartRequest { input, idempotency, ..self.request };
        Ok(Self { request, share: (!bytes.is_empty()).then_some(share), ..self })
    }
}

/// The key of a start, if it has one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::bad_argument("Idempotency-Key must be there once, or not at all"));
    }
    let text = String::from_utf8_lossy(value.as_bytes()); // What is no text breaks the rules too.
    text.parse().map(Some).map_err(ApiError::bad_argument)
}

/// What it takes to wait for the end of an instance, and to show it then.
#[derive(Clone, Copy)]
pub(super) struct Waiting<'a> {
    pub(super) wanted: Wanted,
    pub(super) draining: &'a Draining,
    pub(super) waits: &'a Waits,
    pub(super) metrics: &'a Metrics,
}

pub(super) const IDEMPOTENCY_KEY: Parameter = Parameter::header(
    "Idempotency-Key",
    Kind::Matching("^[\\u0020-\\u007e]{1,255}$", 255),
    "Who sends the same start again with the same key, and the same ID if it has one, is answered with the same instance.",
);

pub(super) static START: Operation = Operation {
    summary: "Start an instance, and perhaps wait for its end",
    family: Family::Contract,
    takes: &[
        Parameter::query("timeout", Kind::Seconds, "How long to wait for the end; without it the answer comes at once."),
        Parameter::query("pollingInterval", Kind::Seconds, "Is only checked: it must not be longer than `timeout`."),
        Parameter::query("version", Kind::Matching("^.{0,64}$", 64), "Kept as the label `version` of the instance."),
        Parameter::query("tags", Kind::Labels, "Labels of the instance, `tag.NAME=VALUE` each, by which lists can be filtered."),
        status::SHOW_HISTORY,
        status::SHOW_HISTORY_OUTPUT,
        status::SHOW_INPUT,
        IDEMPOTENCY_KEY,
    ],
    body: Body::Input,
    answers: &[
        Answer::json::<CheckStatus>(202, "The instance is recorded and has not ended.")
            .with(&[Header::Location, Header::RetryAfter]),
        Answer::json::<Value>(
            200,
            "It has ended while the request waited: its output if it is Completed, else its status object.",
        ),
        Answer::long(400, "The orchestrator is unknown, the body is no JSON, or an argument breaks its rules."),
        Answer::short(409, "An instance of this ID exists and has not ended, or the key was used for another start."),
        Answer::long(503, "It could not be taken or recorded now.").with(&[Header::RetryAfter]),
    ],
};

/// `POST {prefix}/orchestrators/{function}[/{instance}]` and `POST /api/orchestrators/…`: starts an instance.
///
/// Each `tag.NAME=VALUE` in the query is a label of it, and `version=VALUE` is the label `version`. With the header `Idempotency-Key`, a start that is sent again answers with the
/// instance that the first one made, as long as that is stored; without an ID in the path, the key decides on it.
///
/// 202 with the check-status object once the start is durable; the code runs later. With `timeout`, 200 and the bare output if
/// the instance is Completed by then, 200 and the status object if it ended otherwise, else 202 as without. 400 if the
/// orchestrator is unknown, the body not JSON, the ID, the key, a label or the hub name ill-formed, the connection unknown or
/// `pollingInterval` past `timeout`; 409 if a live instance has that ID, or the key was used for another function or input; 413 if the body is too large; 503 if it could not be
/// taken or recorded now. Whatever refuses a start with 400 carries `ExceptionMessage`, which clients read unasked.
pub(super) async fn start(
    hub: Option<Arc<Hub>>,
    call: StartCall,
    links: &Links<'_>,
    waiting: Waiting<'_>,
) -> Result<Reply, ApiError> {
    let StartCall { request, wait, share, .. } = call;
    let hub = hub.ok_or_else(|| StartError::UnknownOrchestrator(request.function.clone()))?;
    begin(hub, request, wait, share, links, waiting).await
}

/// Starts an instance, waits for its end if `wait` says so, and answers as [`start`].
pub(super) async fn begin(
    hub: Arc<Hub>,
    request: StartRequest,
    wait: Option<Duration>,
    share: Option<Share>,
    links: &Links<'_>,
    waiting: Waiting<'_>,
) -> Result<Reply, ApiError> {
    let starting = hub.clone();
    let id = match wait {
        None => control::recorded(share, async move { starting.start(request).await }).await??,
        Some(wait) => {
            let place = waiting.waits.place(waiting.metrics);
            let wait = if place.is_some() { wait } else { Duration::ZERO };
            let watch = control::recorded(share, async move { starting.start_and_watch(request).await }).await??;
            let id = watch.id().clone();
            // The start stands, so what goes wrong from here on must not keep the client from its ID.
            match ended(&hub, watch, wait, waiting.wanted, waiting.draining).await {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => (),
                Err(cause) => _ = error::log_failure(format_args!("waiting for instance {id}: {cause}")),
            }
            id
        }
    };
    let accepted = Reply::json(StatusCode::ACCEPTED, &links.check_status(&id));
    Ok(accepted.location(&links.status(&id)).retry_after_s(RETRY_AFTER_S))
}

/// The answer to who waited, if the instance ends in time and the server is not asked to stop before.
async fn ended(
    hub: &Hub,
    watch: Watch,
    wait: Duration,
    wanted: Wanted,
    draining: &Draining,
) -> Result<Option<Reply>, crate::store::StoreError> {
    let id = watch.id().clone();
    let end = tokio::select! {
        end = watch.end(wait) => end?,
        () = draining.begun() => None,
    };
    match end {
        None => Ok(None),
        Some(End::Completed(output)) => Ok(Some(Reply::json(StatusCode::OK, &output))),
        Some(End::Failed(_) | End::Faulted(_) | End::Terminated { .. }) => {
            // Its ID may be another instance's by now, or nobody's.
            let view = hub.instance(&id, wanted.history).await?.filter(|view| view.end.is_some());
            let Some(view) = view else { return Ok(None) };
            let reply = move |view: &InstanceView| Reply::json(StatusCode::OK, &StatusPayload::of(view, wanted.show));
            Ok(Some(status::print(view, reply).await))
        }
    }
}

/// The bytes of a body as JSON. None, or only blanks, is `null`; a byte order mark in front is no part of it.
pub(super) fn input(body: &[u8]) -> Result<Payload, ApiError> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let text = std::str::from_utf8(body).map_err(ApiError::bad_json)?;
    if text.trim().is_empty() { Ok(Payload::null()) } else { Payload::parse(text.to_owned()).map_err(ApiError::bad_json) }
}

/// How long the query says to wait. Our waiting polls nothing, so `pollingInterval` is only checked.
pub(super) fn wait(query: &Query) -> Result<Option<Duration>, ApiError> {
    match (query.seconds("timeout"), query.seconds("pollingInterval")) {
        (Some(timeout), Some(interval)) if interval > timeout => {
            Err(ApiError::bad_argument(format!("pollingInterval {interval} s is longer than timeout {timeout} s")))
        }
        (timeout, _) => Ok(timeout.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, WAIT_S_MAX)))),
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        match &error {
            StartError::UnknownOrchestrator(_) => Self::bad_argument(error),
            StartError::InstanceExists { .. } | StartError::StartedOtherwise { .. } => Self::conflict(error),
            StartError::Overloaded | StartError::ShuttingDown => Self::unavailable(error),
            StartError::Store(cause) => {
                let advice = "the store did not confirm the start, so look whether the instance exists before you try again";
                Self::unconfirmed(cause, advice)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::model::RuntimeStatus;
    use crate::store::StoreError;

    fn check<T: std::fmt::Display>(seen: Result<T, ApiError>, expected: &str) {
        let seen = match seen {
            Ok(value) => value.to_string(),
            Err(error) => error.into_reply().shown(),
        };
        assert!(seen.starts_with(expected), "{seen} is not {expected}");
    }

    fn call(id: Option<&str>, query: &str, keys: &[&str]) -> Result<StartCall, ApiError> {
        let key = |key: &&str| (HeaderName::from_static(KEY), HeaderValue::from_bytes(key.as_bytes()).unwrap());
        let headers = keys.iter().map(key).collect();
        StartCall::of("Bake".into(), id.map(str::to_owned), &Query::parse(query), &headers, Existing::ReplaceEnded)
    }

    #[test]
    fn a_key_makes_a_start_leave_what_is_there() {
        let existing = |keys: &[&str]| call(None, "", keys).unwrap().request.existing;
        assert_eq!((existing(&[]), existing(&["order 17"])), (Existing::ReplaceEnded, Existing::Keep));
    }

    #[test]
    fn a_body_is_json_or_nothing() {
        check(input(b""), "null");
        check(input(b" \r\n\t "), "null");
        check(input(b"\xef\xbb\xbf"), "null");
        check(input(b"\xef\xbb\xbf{\"a\":1}"), "{\"a\":1}");
        check(input(br#" [1.0, "x"] "#), r#"[1.0, "x"]"#);
        check(input(b"\"\""), "\"\"");
        let refused = r#"400  {"Message":"Invalid JSON content","ExceptionMessage":""#;
        for body in [&b"{"[..], b"{} x", b"{'a':1}", b"\xff", b"\xef\xbb\xbf\xef\xbb\xbf1", b"// c\n1", b"NaN"] {
            check(input(body), refused);
        }
    }

    #[test]
    fn timeout_alone_switches_waiting_on() {
        let check = |query: &str, expected: Option<Duration>| {
            assert_eq!(wait(&Query::parse(query)).unwrap(), expected, "{query}");
        };
        check("", None);
        check("pollingInterval=1", None);
        check("timeout=x", None);
        check("timeout=5", Some(Duration::from_secs(5)));
        check("timeout=0.5&pollingInterval=0.5", Some(Duration::from_millis(500)));
        check("timeout=-3", Some(Duration::ZERO));
        check("timeout=99999999999999999999", Some(Duration::from_secs(3_600)));
    }

    #[test]
    fn what_is_refused_before_the_start_tells_clients_why_in_the_long_form() {
        let long = r#"400  {"Message":"One or more of the arguments submitted is incorrect","ExceptionMessage":""#;
        check(wait(&Query::parse("timeout=1&pollingInterval=2")).map(|_| ""), long);
        for id in ["@x", &"x".repeat(257), "a#b"] {
            check(call(Some(id), "", &[]).map(|_| ""), long);
        }
        for tags in ["tag.=1", "tag.a%2Fb=1", "tag.a=1&tag.a=2"] {
            check(call(None, tags, &[]).map(|_| ""), long);
        }
        for keys in [&[""][..], &["é"], &["a", "a"], &["a\tb"], &[&"x".repeat(256)]] {
            check(call(None, "", keys).map(|_| ""), long);
        }
        check::<&str>(Err(StartError::UnknownOrchestrator("Bake".into()).into()), long);
    }

    #[test]
    fn labels_come_from_the_query() {
        let call = call(None, "tag.shop=north&TAG.Kind=rye&taskHub=Bakery", &[]).unwrap();
        assert_eq!(call.request.tags.iter().collect::<Vec<_>>(), [("Kind", "rye"), ("shop", "north")]);
    }

    #[test]
    fn every_reason_against_a_start_has_its_code() {
        let id = "loaf-17".parse().unwrap();
        let exists = StartError::InstanceExists { id, status: RuntimeStatus::Running };
        check::<&str>(Err(exists.into()), r#"409  {"Message":"instance loaf-17 exists already and is Running"#);
        check::<&str>(Err(StartError::Overloaded.into()), r#"503  {"Message":"#);
        check::<&str>(Err(StartError::ShuttingDown.into()), r#"503  {"Message":"#);
        let store = ApiError::from(StartError::Store(Arc::new(StoreError::Other("/secret/path".into())))).into_reply().shown();
        assert!(store.starts_with(r#"503  {"Message":"#) && !store.contains("secret"), "{store}");
    }
}
