//! How is an instance started over HTTP, and waited for by the same request?

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;

use super::body::{Received, Share};
use super::description::{Answer, Body, Family, Header, Kind, Operation, Parameter};
use super::error::{self, ApiError};
use super::links::{CheckStatus, Links};
use super::query::Query;
use super::reply::Reply;
use super::status::{self, StatusPayload, Wanted};
use super::{Draining, control};
use crate::engine::{Hub, InstanceView, StartError, StartRequest, Watch};
use crate::model::{End, InstanceId, Payload};

/// How long a client should wait before it first asks how an instance stands, in seconds.
const RETRY_AFTER_S: u32 = 10;

/// The longest that one request may wait for an end, in seconds; who asks for more gets this much.
const WAIT_S_MAX: f64 = 3_600.0;

/// A start as the request's path, query and body put it.
#[derive(Debug)]
pub(super) struct StartCall {
    request: StartRequest,
    /// How long to wait for the end; without it the answer is sent at once.
    wait: Option<Duration>,
    /// The room that the input takes up until it is recorded.
    share: Option<Share>,
}

impl StartCall {
    /// Reads all but the body, of which the request has `null` so far.
    ///
    /// # Errors
    /// 400 if the ID or a label is ill-formed, or `pollingInterval` is longer than `timeout`.
    pub(super) fn of(function: String, instance: Option<String>, query: &Query) -> Result<Self, ApiError> {
        let instance: Option<InstanceId> = instance.map(|id| id.parse()).transpose().map_err(ApiError::bad_argument)?;
        let tags = query.tags().map_err(ApiError::bad_argument)?;
        let wait = wait(query)?;
        Ok(Self { request: StartRequest { function, instance, input: Payload::null(), tags }, wait, share: None })
    }

    /// The same with the body as the input.
    ///
    /// # Errors
    /// 400 if it is not JSON.
    pub(super) fn with_body(self, Received { bytes, share }: Received) -> Result<Self, ApiError> {
        let request = StartRequest { input: input(&bytes)?, ..self.request };
        Ok(Self { request, share: (!bytes.is_empty()).then_some(share), ..self })
    }
}

pub(super) static START: Operation = Operation {
    summary: "Start an instance, and perhaps wait for its end",
    family: Family::Contract,
    takes: &[
        Parameter::query("timeout", Kind::Seconds, "How long to wait for the end; without it the answer comes at once."),
        Parameter::query("pollingInterval", Kind::Seconds, "Is only checked: it must not be longer than `timeout`."),
        Parameter::query("tags", Kind::Labels, "Labels of the instance, `tag.NAME=VALUE` each, by which lists can be filtered."),
        status::SHOW_HISTORY,
        status::SHOW_HISTORY_OUTPUT,
        status::SHOW_INPUT,
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
        Answer::short(409, "An instance of this ID exists and has not ended."),
        Answer::long(503, "It could not be taken or recorded now.").with(&[Header::RetryAfter]),
    ],
};

/// `POST {prefix}/orchestrators/{function}[/{instance}]` and `POST /api/orchestrators/…`: starts an instance.
///
/// Each `tag.NAME=VALUE` in the query is a label of it.
///
/// 202 with the check-status object once the start is durable; the code runs later. With `timeout`, 200 and the bare output if
/// the instance is Completed by then, 200 and the status object if it ended otherwise, else 202 as without. 400 if the
/// orchestrator is unknown, the body not JSON, the ID, a label or the hub name ill-formed, the connection unknown or
/// `pollingInterval` past `timeout`; 409 if a live instance has that ID; 413 if the body is too large; 503 if it could not be
/// taken or recorded now. Whatever refuses a start with 400 carries `ExceptionMessage`, which clients read unasked.
pub(super) async fn start(
    hub: Option<Arc<Hub>>,
    call: StartCall,
    wanted: Wanted,
    links: &Links<'_>,
    draining: &Draining,
) -> Result<Reply, ApiError> {
    let StartCall { request, wait, share } = call;
    let hub = hub.ok_or_else(|| StartError::UnknownOrchestrator(request.function.clone()))?;
    let starting = hub.clone();
    let id = match wait {
        None => control::recorded(share, async move { starting.start(request).await }).await??,
        Some(wait) => {
            let watch = control::recorded(share, async move { starting.start_and_watch(request).await }).await??;
            let id = watch.id().clone();
            // The start stands, so what goes wrong from here on must not keep the client from its ID.
            match ended(&hub, watch, wait, wanted, draining).await {
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
            let Some(view) = hub.instance(&id, wanted.history).await? else { return Ok(None) };
            let reply = move |view: &InstanceView| Reply::json(StatusCode::OK, &StatusPayload::of(view, wanted.show));
            Ok(Some(status::print(view, reply).await))
        }
    }
}

/// The bytes of a body as JSON. None, or only blanks, is `null`; a byte order mark in front is no part of it.
fn input(body: &[u8]) -> Result<Payload, ApiError> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let text = std::str::from_utf8(body).map_err(ApiError::bad_json)?;
    if text.trim().is_empty() { Ok(Payload::null()) } else { Payload::parse(text.to_owned()).map_err(ApiError::bad_json) }
}

/// How long the query says to wait. Our waiting polls nothing, so `pollingInterval` is only checked.
fn wait(query: &Query) -> Result<Option<Duration>, ApiError> {
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
            StartError::InstanceExists { .. } => Self::conflict(error),
            StartError::Overloaded | StartError::ShuttingDown => Self::unavailable(error),
            StartError::Store(_) => {
                let number = error::log_failure(&error);
                Self::unavailable(format!(
                    "the store did not confirm the start, so look whether the instance exists before you try again; \
                     the server's log has the cause as request {number}"
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
            check(StartCall::of("Bake".into(), Some(id.to_owned()), &Query::default()).map(|_| ""), long);
        }
        for tags in ["tag.=1", "tag.a%2Fb=1", "tag.a=1&tag.a=2"] {
            check(StartCall::of("Bake".into(), None, &Query::parse(tags)).map(|_| ""), long);
        }
        check::<&str>(Err(StartError::UnknownOrchestrator("Bake".into()).into()), long);
    }

    #[test]
    fn labels_come_from_the_query() {
        let call = StartCall::of("Bake".into(), None, &Query::parse("tag.shop=north&TAG.Kind=rye&taskHub=Bakery")).unwrap();
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
