//! How does a client act on an instance that it has started? Raise an event to it, end it, have it pause, go on, or go back.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};

use super::body::{Received, Share};
use super::description::{Answer, Body, Family, Header, Kind, Operation, Parameter};
use super::error::ApiError;
use super::query::Query;
use super::reply::Reply;
use crate::engine::{ControlError, Hub};
use crate::model::{InstanceId, Payload};

/// An event that may be raised: the instance is open, and the body is announced as JSON.
pub(super) struct RaiseCall {
    hub: Arc<Hub>,
    id: InstanceId,
    name: String,
}

impl RaiseCall {
    /// Checks all that the contract wants checked before the body is looked at.
    ///
    /// # Errors
    /// 404 if there is no such instance, 410 if it has ended, 400 if the content type is not `application/json`; in this order.
    pub(super) async fn of(hub: Option<Arc<Hub>>, instance: &str, name: String, headers: &HeaderMap) -> Result<Self, ApiError> {
        let (hub, id) = open(hub, instance)?;
        hub.check_open(&id).await?;
        if !is_json(headers) {
            return Err(ApiError::bad_content_type("an event's body is JSON: send it with Content-Type: application/json"));
        }
        Ok(Self { hub, id, name })
    }
}

pub(super) static RAISE: Operation = Operation {
    summary: "Raise an event to an instance",
    family: Family::Contract,
    takes: &[],
    body: Body::Event,
    answers: &[
        Answer::empty(202, "The event is recorded."),
        Answer::short(400, "The content type is not `application/json`."),
        Answer::long(400, "The body is no JSON."),
        Answer::empty(404, "There is no such instance."),
        Answer::empty(410, "It has ended."),
        Answer::long(503, "It could not be taken or recorded now.").with(&[Header::RetryAfter]),
    ],
};

/// `POST {prefix}/instances/{instance}/raiseEvent/{event}`: raises an event to an instance, which may wait for it now or later.
///
/// 202 once the event is durable. 404, 410 and 400 as [`RaiseCall::of`] says; 400 if the body is empty or not JSON; 413 if it is
/// too large; 503 if it could not be taken or recorded now, or if the instance has too many events that its code has not taken.
pub(super) async fn raise(call: RaiseCall, Received { bytes, share }: Received) -> Result<Reply, ApiError> {
    let RaiseCall { hub, id, name } = call;
    let body = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let text = std::str::from_utf8(body).map_err(ApiError::bad_json)?;
    let payload = Payload::parse(text.to_owned()).map_err(ApiError::bad_json)?;
    recorded(Some(share), async move { hub.raise(&id, name, payload).await }).await??;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

pub(super) static TERMINATE: Operation = Operation {
    summary: "End an instance",
    family: Family::Contract,
    takes: &[
        Parameter::query("reason", Kind::Text, "What it leaves as its output."),
        Parameter::query("recursive", Kind::Flag, "Whether the sub-orchestrations that it waits for end too, and theirs."),
    ],
    body: Body::None,
    answers: &[
        Answer::empty(202, "The end is recorded."),
        Answer::empty(404, "There is no such instance."),
        Answer::empty(410, "It has ended already."),
        Answer::long(503, "It could not be recorded now.").with(&[Header::RetryAfter]),
    ],
};

/// `POST {prefix}/instances/{instance}/terminate`, or `DELETE`: ends an instance, `reason` being what it leaves as its output; with
/// `recursive=true` also the sub-orchestrations that it waits for.
///
/// 202 once the end is durable. 404 if there is no such instance, 410 if it has ended, 503 if it could not be recorded now.
pub(super) async fn terminate(hub: Option<Arc<Hub>>, instance: &str, query: &Query) -> Result<Reply, ApiError> {
    let (hub, id) = open(hub, instance)?;
    hub.terminate(&id, reason(query), query.flag("recursive").unwrap_or(false)).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

const REASON: Parameter = Parameter::query("reason", Kind::Text, "Stands in the history.");

pub(super) static SUSPEND: Operation = Operation {
    summary: "Have an instance pause",
    family: Family::Contract,
    takes: &[REASON],
    body: Body::None,
    answers: &[
        Answer::empty(202, "None of its code runs until it is resumed."),
        Answer::empty(404, "There is no such instance."),
        Answer::empty(410, "It has ended."),
        Answer::long(500, "It is suspended already."),
        Answer::long(503, "It could not be recorded now.").with(&[Header::RetryAfter]),
    ],
};

/// `POST {prefix}/instances/{instance}/suspend`: has an instance pause, `reason` being shown as its output meanwhile.
///
/// 202 once that is durable. 404 if there is no such instance, 410 if it has ended, 500 if it pauses already, 503 if it could not be
/// recorded now.
pub(super) async fn suspend(hub: Option<Arc<Hub>>, instance: &str, query: &Query) -> Result<Reply, ApiError> {
    let (hub, id) = open(hub, instance)?;
    hub.suspend(&id, reason(query)).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

pub(super) static RESUME: Operation = Operation {
    summary: "Have an instance go on after a pause",
    family: Family::Contract,
    takes: &[REASON],
    body: Body::None,
    answers: &[
        Answer::empty(202, "It goes on."),
        Answer::empty(404, "There is no such instance."),
        Answer::empty(410, "It has ended."),
        Answer::long(500, "It is not suspended."),
        Answer::long(503, "It could not be recorded now.").with(&[Header::RetryAfter]),
    ],
};

/// `POST {prefix}/instances/{instance}/resume`: has an instance go on after a pause.
///
/// 202 once that is durable. 404 if there is no such instance, 410 if it has ended, 500 if it does not pause, 503 if it could not be
/// recorded now.
pub(super) async fn resume(hub: Option<Arc<Hub>>, instance: &str, query: &Query) -> Result<Reply, ApiError> {
    let (hub, id) = open(hub, instance)?;
    hub.resume(&id, reason(query)).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

pub(super) static REWIND: Operation = Operation {
    summary: "Have a failed instance go on from before its failure",
    family: Family::Contract,
    takes: &[REASON],
    body: Body::None,
    answers: &[
        Answer::empty(202, "It goes on; its failed sub-orchestrations will."),
        Answer::empty(404, "There is no such instance."),
        Answer::empty(410, "It is Completed or Terminated."),
        Answer::json::<String>(412, "It has not ended, or its code is gone."),
        Answer::long(503, "It could not be recorded now.").with(&[Header::RetryAfter]),
    ],
};

/// `POST {prefix}/instances/{instance}/rewind`: has a failed instance go on from before its failure.
///
/// 202 once that is durable. 404 if there is no such instance, 410 if it has ended in another way, 412 with a text if it has not ended or its
/// code is gone, 503 if it could not be recorded now.
pub(super) async fn rewind(hub: Option<Arc<Hub>>, instance: &str, query: &Query) -> Result<Reply, ApiError> {
    let (hub, id) = open(hub, instance)?;
    match hub.rewind(&id, reason(query)).await {
        Ok(()) => Ok(Reply::empty(StatusCode::ACCEPTED)),
        Err(ControlError::Ended(_)) => Err(ApiError::empty(ENDED_OTHERWISE)),
        Err(ControlError::Unfit(status)) => Err(ApiError::text(
            StatusCode::PRECONDITION_FAILED,
            format!("instance {id} is {status}; only one that is Failed can be rewound"),
        )),
        Err(ControlError::Refused(why)) => Err(ApiError::text(StatusCode::PRECONDITION_FAILED, why)),
        Err(error) => Err(error.into()),
    }
}

/// What a rewind answers if the instance is Completed or Terminated. Every published edition says 410; the newest servers say 412.
const ENDED_OTHERWISE: StatusCode = StatusCode::GONE;

fn reason(query: &Query) -> Option<String> {
    query.text("reason").map(str::to_owned)
}

/// Does `work`, to its end even if the client goes away, when the body has room that it must not give back before.
///
/// # Errors
/// 500 if it panics.
pub(super) async fn recorded<T: Send + 'static>(
    share: Option<Share>,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    if share.is_none() {
        return Ok(work.await);
    }
    let held = async move {
        let done = work.await;
        drop(share);
        done
    };
    tokio::spawn(held).await.map_err(ApiError::internal)
}

/// The hub and the ID, if they can be those of an instance.
fn open(hub: Option<Arc<Hub>>, instance: &str) -> Result<(Arc<Hub>, InstanceId), ApiError> {
    let id = instance.parse().map_err(|_| ControlError::NotFound)?;
    Ok((hub.ok_or(ControlError::NotFound)?, id))
}

/// Whether the media type is JSON; its case and parameters do not count.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        match &error {
            ControlError::NotFound => Self::empty(StatusCode::NOT_FOUND),
            ControlError::Ended(_) => Self::empty(StatusCode::GONE),
            ControlError::Unfit(_) | ControlError::Refused(_) => Self::invalid_operation(error),
            ControlError::Overloaded | ControlError::ShuttingDown | ControlError::Crowded { .. } => Self::unavailable(error),
            ControlError::Unreadable(_) => Self::internal(error),
            ControlError::Store(cause) => {
                Self::unconfirmed(cause, "the store did not confirm it, so look at the instance before you try again")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_known_by_its_media_type_alone() {
        let check = |value: Option<&str>, expected: bool| {
            let headers = value.map(|value| (header::CONTENT_TYPE, value.parse().unwrap())).into_iter().collect();
            assert_eq!(is_json(&headers), expected, "{value:?}");
        };
        check(Some("application/json"), true);
        check(Some("Application/JSON ; charset=utf-8"), true);
        check(Some("text/plain"), false);
        check(Some("application/jsonl"), false);
        check(None, false);
    }
}
