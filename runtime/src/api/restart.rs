//! How does the same orchestration run again? As a fresh instance, with what it was started with.

use std::sync::Arc;
use std::time::Duration;

use hyper::HeaderMap;
use serde_json::Value;

use super::description::{Answer, Body, Family, Header, Kind, Operation, Parameter};
use super::error::ApiError;
use super::links::{CheckStatus, Links};
use super::query::Query;
use super::reply::Reply;
use super::start::{self, Waiting, begin};
use super::status;
use crate::engine::{Existing, Hub, StartRequest};
use crate::model::{Idempotency, IdempotencyKey, InstanceId};

/// A restart as the request's path and query put it.
#[derive(Debug)]
pub(super) struct RestartCall {
    id: InstanceId,
    id_of_new: IdOfNew,
    key: Option<IdempotencyKey>,
    wait: Option<Duration>,
}

/// What the new instance is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IdOfNew {
    Drawn,
    Same,
}

impl RestartCall {
    /// Reads it.
    ///
    /// # Errors
    /// 400 if there can be no instance with this ID, the key is ill-formed or for a restart in place, or `pollingInterval` is longer than `timeout`.
    pub(super) fn of(instance: &str, query: &Query, headers: &HeaderMap) -> Result<Self, ApiError> {
        let (wait, key) = (start::wait(query)?, start::key(headers)?);
        let id = instance.parse().map_err(ApiError::unknown_instance)?;
        let is_drawn = query.flag("restartWithNewInstanceId").unwrap_or(true);
        if key.is_some() && !is_drawn {
            return Err(ApiError::bad_argument(
                "Idempotency-Key needs a new instance, so restartWithNewInstanceId must not be false",
            ));
        }
        Ok(Self { id, id_of_new: if is_drawn { IdOfNew::Drawn } else { IdOfNew::Same }, key, wait })
    }
}

pub(super) static RESTART: Operation = Operation {
    summary: "Start the same again, and perhaps wait for its end",
    family: Family::Contract,
    takes: &[
        Parameter::query(
            "restartWithNewInstanceId",
            Kind::Flag,
            "Whether the new instance gets an ID of its own; it does by default.",
        ),
        Parameter::query("timeout", Kind::Seconds, "How long to wait for the end; without it the answer comes at once."),
        Parameter::query("pollingInterval", Kind::Seconds, "Is only checked: it must not be longer than `timeout`."),
        status::SHOW_HISTORY,
        status::SHOW_HISTORY_OUTPUT,
        status::SHOW_INPUT,
        start::IDEMPOTENCY_KEY,
    ],
    body: Body::None,
    answers: &[
        Answer::json::<CheckStatus>(202, "The new instance is recorded and has not ended.")
            .with(&[Header::Location, Header::RetryAfter]),
        Answer::json::<Value>(
            200,
            "It has ended while the request waited: its output if it is Completed, else its status object.",
        ),
        Answer::long(400, "There is no such instance, its orchestrator is not there any more, or an argument breaks its rules."),
        Answer::long(409, "The instance is to be replaced and has not ended, or the key was used for another start."),
        Answer::long(503, "It could not be taken or recorded now.").with(&[Header::RetryAfter]),
    ],
};

/// `POST {prefix}/instances/{instance}/restart`: starts the same orchestrator with the same input and tags, on its current code, as an
/// instance with an ID of its own; with `restartWithNewInstanceId=false`, in the place of this one, which must have ended.
///
/// 202 or 200 as [`start::start`], `timeout` included, of the new instance. 400 in the long form if there is no such instance, hub or possible
/// ID, the orchestrator is not there any more, `pollingInterval` is past `timeout`, or hub name or connection are no good; 409 in the long form
/// if the instance is to be replaced and has not ended; 503 if it could not be taken or recorded now.
pub(super) async fn restart(
    hub: Option<Arc<Hub>>,
    call: RestartCall,
    links: &Links<'_>,
    waiting: Waiting<'_>,
) -> Result<Reply, ApiError> {
    let RestartCall { id, id_of_new, key, wait } = call;
    let unknown = || ApiError::unknown_instance(format_args!("there is no instance {id} in this task hub"));
    let hub = hub.ok_or_else(unknown)?;
    let request = hub.again(&id).await.map_err(ApiError::internal)?.ok_or_else(unknown)?;
    let request = match id_of_new {
        IdOfNew::Same => request,
        // Whoever repeats the start of the old one means the old one, and a key of this request is for this restart alone.
        IdOfNew::Drawn => {
            let idempotency = key.map(|key| Idempotency::of(key, &format!("restart {id}"), &request.input));
            let existing = if idempotency.is_some() { Existing::Keep } else { request.existing };
            StartRequest { instance: None, idempotency, existing, ..request }
        }
    };
    begin(hub, request, wait, None, links, waiting).await.map_err(ApiError::in_long_form)
}
