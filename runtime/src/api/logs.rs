//! What did an instance and its activities say? The lines that the store keeps of them.

use std::sync::Arc;

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::description::{Answer, Body, Family, Kind, Operation, Parameter};
use super::error::ApiError;
use super::query::Query;
use super::reply::Reply;
use crate::engine::Hub;
use crate::model::{LogLevel, LogRecord, TaskId, time};

/// Lines of an instance.
#[derive(Debug, Serialize, JsonSchema)]
struct LogPayload<'a> {
    lines: Vec<Line<'a>>,
    /// What to ask for next with `after`.
    next: u64,
}

/// What was said at once.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LogLine")]
struct Line<'a> {
    number: u64,
    #[schemars(extend("format" = "date-time"))]
    time: String,
    #[schemars(with = "String")]
    level: LogLevel,
    target: &'a str,
    /// Of an activity: the number of its task.
    #[schemars(with = "Option<u32>")]
    task: Option<TaskId>,
    message: &'a str,
}

pub(super) static LOGS: Operation = Operation {
    summary: "What an instance and its activities have said",
    family: Family::Contract,
    takes: &[Parameter::query("after", Kind::Whole, "The number of the first line to show.")],
    body: Body::None,
    answers: &[
        Answer::json::<LogPayload<'static>>(200, "The lines, the oldest first."),
        Answer::empty(404, "There is no such instance."),
    ],
};

/// `GET {prefix}/instances/{instance}/logs`: what an instance and its activities have said, through all its executions, the oldest
/// line that is kept first.
///
/// 200 with the lines from number `after` on, or all, and with the number of the next line to come: who follows asks again with
/// that. 404 if there is no such instance.
pub(super) async fn logs(hub: Option<Arc<Hub>>, instance: &str, query: &Query) -> Result<Reply, ApiError> {
    let unknown = || ApiError::empty(StatusCode::NOT_FOUND);
    let hub = hub.ok_or_else(unknown)?;
    let id = instance.parse().map_err(|_| unknown())?;
    let after = query.text("after").and_then(|text| text.parse().ok()).unwrap_or(0);
    let page = hub.log(&id, after).await.map_err(ApiError::internal)?.ok_or_else(unknown)?;
    let lines = page.lines.iter().map(|(number, LogRecord { at_ms, task, line })| Line {
        number: *number,
        time: time::exact(*at_ms),
        level: line.level,
        target: &line.target,
        task: *task,
        message: &line.message,
    });
    Ok(Reply::json(StatusCode::OK, &LogPayload { lines: lines.collect(), next: page.next }))
}
