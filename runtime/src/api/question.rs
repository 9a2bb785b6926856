//! How does a client ask an instance something? A query of the orchestration's own, by name.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::Value;

use super::description::{Answer, Body, Family, Header, Kind, Operation, Parameter};
use super::error::ApiError;
use super::query::Query;
use super::reply::Reply;
use crate::engine::{Hub, QueryError};
use crate::model::Payload;

pub(super) static QUERY: Operation = Operation {
    summary: "Ask an orchestration a question",
    family: Family::Ours,
    takes: &[Parameter::query("input", Kind::Json, "What the question is about; `null` without it.")],
    body: Body::None,
    answers: &[
        Answer::json::<Value>(200, "The answer."),
        Answer::ours(404, "`not_found`: there is no such instance. `unknown_query`: it knows no question of this name."),
        Answer::ours(409, "`not_run`: none of its code has run yet."),
        Answer::ours(422, "`query_failed`: its code refuses the question, for the reason given."),
        Answer::ours(500, "`query_faulted`: its guest is at fault. `diverged`: it does not repeat its history."),
        Answer::ours(503, "Too many ask at once.").with(&[Header::RetryAfter]),
    ],
};

/// `GET {prefix}/instances/{instance}/query/{name}?input={JSON}`: asks an orchestration a question, which changes nothing. One that has
/// ended answers too, about how it stood.
///
/// 200 with the answer as bare JSON. 400 if the input is not JSON, the hub name ill-formed or the connection unknown. 404 with
/// `not_found` if there is no such instance, and with `unknown_query` if it answers no question of this name. 409 if none of its code has run
/// yet. 422 with kind and message if its code refuses the question. 500 with `query_faulted` if its guest is at fault on the way, and
/// with `diverged` if it does not repeat its history. 503 if too many ask.
pub(super) async fn ask(hub: Option<Arc<Hub>>, instance: &str, name: String, query: &Query) -> Result<Reply, ApiError> {
    let input = input(query)?;
    let id = instance.parse().map_err(|_| QueryError::NotFound)?;
    let answer = hub.ok_or(QueryError::NotFound)?.query(&id, name, input).await?;
    Ok(Reply::json(StatusCode::OK, &answer))
}

/// What is asked with; `null` if nothing is given.
fn input(query: &Query) -> Result<Payload, ApiError> {
    let Some(text) = query.text("input").filter(|text| !text.is_empty()) else { return Ok(Payload::null()) };
    Payload::parse(text.to_owned()).map_err(|error| ApiError::ours_bad_request(format_args!("input is not JSON: {error}")))
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let message = error.to_string();
        match error {
            QueryError::NotFound => Self::ours(StatusCode::NOT_FOUND, "not_found", message),
            QueryError::Unknown(failure) => Self::ours_of_guest(StatusCode::NOT_FOUND, "unknown_query", message, failure),
            QueryError::NotRun(_) => Self::ours(StatusCode::CONFLICT, "not_run", message),
            QueryError::Failed(failure) => {
                Self::ours_of_guest(StatusCode::UNPROCESSABLE_ENTITY, "query_failed", message, failure)
            }
            QueryError::Faulted(failure) => {
                Self::ours_of_guest(StatusCode::INTERNAL_SERVER_ERROR, "query_faulted", message, failure)
            }
            QueryError::Diverged(_) => Self::ours(StatusCode::INTERNAL_SERVER_ERROR, "diverged", message),
            QueryError::Overloaded | QueryError::TooSlow | QueryError::ShuttingDown => Self::ours_unavailable(message),
            QueryError::Unreadable(_) | QueryError::Host(_) => Self::ours_internal(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Failure, RuntimeStatus};
    use crate::store::StoreError;

    #[test]
    fn an_input_is_json_or_nothing() {
        let check = |query: &str, expected: &str| {
            let seen = match input(&Query::parse(query)) {
                Ok(input) => input.text().to_owned(),
                Err(error) => error.into_reply().shown(),
            };
            assert!(seen.starts_with(expected), "{query}: {seen}");
        };
        check("", "null");
        check("input=", "null");
        check("input=+", "null");
        check("INPUT=%7B%22a%22%3A+1.50%7D", r#"{"a": 1.50}"#);
        check("input=%22a+b%22", r#""a b""#);
        check("input=hot", r#"400  {"error":{"code":"bad_request","message":"input is not JSON: "#);
        check("input=1&input=2", "400  ");
    }

    #[test]
    fn every_reason_against_an_answer_has_its_code() {
        let check = |error: QueryError, expected: &str| {
            let seen = ApiError::from(error).into_reply().shown();
            assert!(seen.starts_with(expected), "{seen}");
        };
        let failure = |kind: &str, message: &str| Failure::new(kind, message);
        check(QueryError::NotFound, r#"404  {"error":{"code":"not_found""#);
        check(
            QueryError::Unknown(failure("UnknownQuery", "there are \"far\" and \"near\"")),
            r#"404  {"error":{"code":"unknown_query","message":"there are \"far\" and \"near\"","kind":"UnknownQuery"}}"#,
        );
        check(QueryError::NotRun(RuntimeStatus::Pending), r#"409  {"error":{"code":"not_run","message":"none of the instance's"#);
        check(
            QueryError::Failed(failure("OvenCold", "it is cold")),
            r#"422  {"error":{"code":"query_failed","message":"it is cold","kind":"OvenCold"}}"#,
        );
        check(
            QueryError::Faulted(failure("Panic", "at oven.rs:1")),
            r#"500  {"error":{"code":"query_faulted","message":"the guest was at fault: at oven.rs:1","kind":"Panic"}}"#,
        );
        check(
            QueryError::Diverged("task 0".into()),
            r#"500  {"error":{"code":"diverged","message":"the module does not repeat its history: task 0"}}"#,
        );
        check(QueryError::Overloaded, r#"503  {"error":{"code":"unavailable""#);
        check(QueryError::ShuttingDown, "503  ");
        let ours = ApiError::from(QueryError::Unreadable(StoreError::Other("/secret".into()))).into_reply().shown();
        assert!(ours.starts_with(r#"500  {"error":{"code":"internal""#) && !ours.contains("secret"), "{ours}");
        let ours = ApiError::from(QueryError::Host("/secret".into())).into_reply().shown();
        assert!(ours.starts_with("500  ") && !ours.contains("secret"), "{ours}");
    }
}
