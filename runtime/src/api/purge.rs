//! How do instances go that nobody needs any more? One by its ID, or all that a filter lets through.

use hyper::StatusCode;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::Draining;
use super::description::{Answer, Body, Family, Header, Kind, Operation, Parameter};
use super::error::ApiError;
use super::query::{Query, STATUSES};
use super::reply::Reply;
use crate::engine::{Hub, PurgeError, Purged};
use crate::store::Filter;

/// How many instances went.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PurgeResult {
    instances_deleted: usize,
}

pub(super) static PURGE: Operation = Operation {
    summary: "Delete an instance that has ended",
    family: Family::Contract,
    takes: &[],
    body: Body::None,
    answers: &[
        Answer::json::<PurgeResult>(200, "It is gone, with all that it has left."),
        Answer::empty(404, "There is no such instance."),
        Answer::json::<String>(412, "It has not ended."),
        Answer::long(503, "It could not be recorded now.").with(&[Header::RetryAfter]),
    ],
};

pub(super) static PURGE_MANY: Operation = Operation {
    summary: "Delete all ended instances that a filter lets through",
    family: Family::Contract,
    takes: &[
        Parameter { is_required: true, ..Parameter::query("createdTimeFrom", Kind::Time, "Created at this time or later.") },
        Parameter::query("createdTimeTo", Kind::Time, "Created at this time or earlier."),
        Parameter::query("runtimeStatus", Kind::SomeOf(&STATUSES), "In one of these states."),
        Parameter::query("instanceIdPrefix", Kind::Text, "With an ID that begins so."),
        Parameter::query("tags", Kind::Labels, "With all of these labels, `tag.NAME=VALUE` each."),
    ],
    body: Body::None,
    answers: &[
        Answer::json::<PurgeResult>(200, "So many are gone."),
        Answer::json::<String>(400, "`createdTimeFrom` is missing or no time."),
        Answer::long(400, "A label can be none."),
        Answer::empty(404, "None had to go."),
        Answer::long(503, "Not all of it could be recorded now.").with(&[Header::RetryAfter]),
    ],
};

/// `DELETE {prefix}/instances/{instance}`: an instance that has ended is there no longer, nor is anything that it has left. Instances that it
/// has started stay.
///
/// 200 with `{"instancesDeleted":1}` once that is durable. 404 if there is no such instance, hub or possible ID; 412 with a JSON string if it
/// has not ended; 503 if it could not be recorded now. An ID with `@` in front is an entity's, of which there are none: 200 with 0.
pub(super) async fn one(hub: Option<&Hub>, instance: &str) -> Result<Reply, ApiError> {
    if instance.starts_with('@') {
        return Ok(deleted(0));
    }
    let hub = hub.ok_or(PurgeError::NotFound)?;
    let id = instance.parse().map_err(|_| PurgeError::NotFound)?;
    match hub.purge(&id).await {
        Ok(()) => Ok(deleted(1)),
        Err(error @ PurgeError::Open { .. }) => Ok(Reply::json(StatusCode::PRECONDITION_FAILED, &error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// `DELETE {prefix}/instances?createdTimeFrom=…`: all ended instances go that the filter lets through, slice by slice; a client that hangs up
/// stops it after the slice in hand. The parameters are those of a list.
///
/// 200 with `{"instancesDeleted":N}` when they are gone. 400 with a JSON string without a readable `createdTimeFrom`; 400 for a label that
/// can be none, an ill-formed hub name or an unknown connection; 404 if nothing was deleted; 503 if it could not be recorded now, or
/// if the server stops before all are gone.
pub(super) async fn many(hub: Option<&Hub>, query: &Query, draining: &Draining) -> Result<Reply, ApiError> {
    let Some(created_from) = query.time("createdTimeFrom") else {
        let message = "createdTimeFrom is missing or no time; write one such as 2026-03-01T08:00:00Z: all that was created then or \
                       later is purged";
        return Ok(Reply::json(StatusCode::BAD_REQUEST, message));
    };
    let filter = Filter {
        created_from_ms: Some(created_from.as_millisecond()),
        created_to_ms: query.time("createdTimeTo").map(Timestamp::as_millisecond),
        statuses: query.statuses("runtimeStatus"),
        tags: query.tags().map_err(ApiError::bad_argument)?,
        id_prefix: query.text("instanceIdPrefix").unwrap_or_default().to_owned(),
    };
    let hub = hub.ok_or(PurgeError::NotFound)?;
    match hub.purge_all(filter, || !draining.has_begun()).await? {
        Purged { count: 0, is_all: true } => Err(PurgeError::NotFound.into()),
        Purged { count, is_all: true } => Ok(deleted(count)),
        Purged { count, is_all: false } => {
            Err(ApiError::unavailable(format_args!("the server stops; {count} instances were purged, ask again for the rest")))
        }
    }
}

fn deleted(instances_deleted: usize) -> Reply {
    Reply::json(StatusCode::OK, &PurgeResult { instances_deleted })
}

impl From<PurgeError> for ApiError {
    fn from(error: PurgeError) -> Self {
        match &error {
            PurgeError::NotFound => Self::empty(StatusCode::NOT_FOUND),
            PurgeError::Open { .. } => Self::conflict(error),
            PurgeError::Store(cause) => {
                Self::unconfirmed(cause, "the store did not confirm it, so some may be purged; ask again")
            }
        }
    }
}
