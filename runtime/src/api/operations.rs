//! How does the server itself stand? What a load balancer, an orchestrator of containers and Prometheus ask for. Ours, outside the wire
//! contract but for one answer.

use std::sync::Arc;

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::description::{Answer, Body, Family, Operation};
use super::error::ApiError;
use super::reply::Reply;
use crate::engine::{Stores, Unready};
use crate::metrics::CONTENT_TYPE;
use crate::model::StoreName;

/// Whether a server does its work.
#[derive(Debug, Serialize, JsonSchema)]
struct Readiness {
    /// `ok` or `ready`; else what it waits for: `stopping`, `read_only` or `recovering`.
    status: &'static str,
    /// A sentence on each thing that it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

pub(super) static HEALTH: Operation = Operation {
    summary: "Whether the server is alive",
    family: Family::Server,
    takes: &[],
    body: Body::None,
    answers: &[Answer::json::<Readiness>(200, "It answers.")],
};

/// `GET /healthz`: 200 while the server answers at all. Asks for no key.
pub(super) fn health() -> Reply {
    Reply::json(StatusCode::OK, &Readiness { status: "ok", reasons: Vec::new() })
}

pub(super) static MAKE_PRIMARY: Operation = Operation {
    summary: "Does nothing: there is no lease that could move",
    family: Family::Contract,
    takes: &[],
    body: Body::None,
    answers: &[Answer::empty(200, "It is done.")],
};

/// `{prefix}/makeprimary`: 200 with an empty body. There is no lease that could move.
pub(super) fn make_primary() -> Reply {
    Reply::empty(StatusCode::OK)
}
pub(super) static READY: Operation = Operation {
    summary: "Whether the server does all of its work, and why not",
    family: Family::Server,
    takes: &[],
    body: Body::None,
    answers: &[Answer::json::<Readiness>(200, "It does."), Answer::json::<Readiness>(503, "It does not, or not yet.")],
};

/// `GET /readyz`: 200 when the server goes on with everything that is open, and its store takes writes; else 503 with what it waits for:
/// `stopping`, `read_only` or `recovering`, and a sentence on each. Asks for no key, and costs nothing.
pub(super) fn ready(stores: &Stores, is_stopping: bool) -> Reply {
    let mut unready = stores.unready();
    let is_known = unready.iter().any(|(_, unready)| *unready == Unready::Stopping);
    if is_stopping && !is_known {
        unready.insert(0, (None, Unready::Stopping));
    }
    readiness(&unready)
}

fn readiness(unready: &[(Option<&StoreName>, Unready)]) -> Reply {
    match unready.first() {
        None => Reply::json(StatusCode::OK, &Readiness { status: "ready", reasons: Vec::new() }),
        Some((_, first)) => {
            let reason = |(store, unready): &(Option<&StoreName>, Unready)| match store {
                None => unready.to_string(),
                Some(store) => format!("store {store:?}: {unready}"),
            };
            let reasons = unready.iter().map(reason).collect();
            Reply::json(StatusCode::SERVICE_UNAVAILABLE, &Readiness { status: first.word(), reasons })
        }
    }
}

pub(super) static METRICS: Operation = Operation {
    summary: "Counters and gauges for Prometheus",
    family: Family::Server,
    takes: &[],
    body: Body::None,
    answers: &[
        Answer::other(200, CONTENT_TYPE, "All of them, as OpenMetrics text."),
        Answer::ours(500, "They could not be read; the message has the number under which the server logged the cause."),
    ],
};

/// `GET /metrics`: 200 with counters and gauges, all stores together, in the text format that Prometheus reads.
pub(super) async fn metrics(stores: Arc<Stores>) -> Result<Reply, ApiError> {
    // It asks the file system, and takes locks.
    let text = tokio::task::spawn_blocking(move || stores.metrics().text(&stores.sample())).await;
    Ok(Reply::bytes(CONTENT_TYPE, text.map_err(ApiError::ours_internal)?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::group::Refusal;

    #[test]
    fn a_server_is_ready_or_says_why_it_is_not() {
        let check_all = |unready: &[_], expected: &str| assert_eq!(readiness(unready).shown(), expected);
        let check = |unready: &[Unready], expected: &str| {
            check_all(&unready.iter().map(|it| (None, *it)).collect::<Vec<_>>(), expected);
        };
        check(&[], r#"200  {"status":"ready"}"#);
        check(
            &[Unready::Recovering],
            r#"503  {"status":"recovering","reasons":["the server has been started and still reads which instances are open"]}"#,
        );
        check(
            &[Unready::Refused(Refusal::Full), Unready::Recovering],
            r#"503  {"status":"read_only","reasons":["the disk of the store is full: make room, and writing goes on by itself","the server has been started and still reads which instances are open"]}"#,
        );
        check(
            &[Unready::Refused(Refusal::Poisoned)],
            r#"503  {"status":"read_only","reasons":["a sync of the store has failed: nothing is written until the disk is in order and the server is restarted"]}"#,
        );
        let archive = "Archive".parse().unwrap();
        check_all(
            &[(Some(&archive), Unready::Refused(Refusal::Fenced))],
            r#"503  {"status":"read_only","reasons":["store \"Archive\": another server has taken over the store: stop this one"]}"#,
        );
        check(
            &[Unready::Stopping, Unready::Refused(Refusal::Fenced)],
            r#"503  {"status":"stopping","reasons":["the server is shutting down","another server has taken over the store: stop this one"]}"#,
        );
    }
}
