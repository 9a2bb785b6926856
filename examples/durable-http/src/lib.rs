//! HTTP that outlives the server: a document is sent to a printing service, which accepts it with 202 and says where to ask for the
//! result. Asking again and again is not written here: `ctx.http` does it, and sleeps durably in between.
//!
//! The input is such as `{"service":"https://print.example","pages":12}`. The server lets nobody reach the network unless its
//! configuration says so:
//!
//! ```toml
//! [hubs.DurableFunctionsHub.network]
//! allow = ["print.example"]
//! ```

use std::time::Duration;

use dacapo_guest::prelude::*;
use dacapo_guest::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

/// What to print, and where.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    service: String,
    pages: u32,
}

/// What the service sends, and the result of the orchestration.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Printed {
    sheets: u32,
    tray: String,
}

/// Has a document printed, which may take days.
#[orchestrator(name = "Print")]
async fn print(ctx: Context, order: Order) -> Result<Printed> {
    let request = HttpRequest::post(format!("{}/jobs", order.service))
        .header("idempotency-key", ctx.new_uuid().to_string()) // A request that is repeated prints nothing twice.
        .json(&order.pages)
        .timeout(Duration::from_secs(10)) // For each single request, not for the printing.
        .expect_success()
        .retry(RetryPolicy::new(Duration::from_millis(200), 5).backoff_coefficient(3.0).retry_if(may_pass));
    ctx.http(request).await?.json()
}

/// Whether it is worth to ask once more: if nobody answered, or the fault was the service's own.
fn may_pass(error: &Error) -> bool {
    error.details::<HttpResponse>().is_none_or(|answer| answer.status >= 500)
}

dacapo_guest::module!(print);

#[cfg(test)]
mod tests {
    use dacapo_guest::testing;

    use super::*;

    fn order() -> Order {
        Order { service: "http://print.example".to_owned(), pages: 12 }
    }

    #[test]
    fn a_job_is_asked_for_until_it_is_done() {
        let mut asked = 0;
        let run = testing::scenario(print, order())
            .http(move |request| {
                asked += 1;
                Ok(match (&*request.method, asked) {
                    ("POST", _) => HttpResponse::new(202).with_header("location", "/jobs/7").with_header("retry-after", "3600"),
                    ("GET", ..4) => HttpResponse::new(202).with_header("retry-after", "3600"),
                    _ => HttpResponse::new(200).with_body(r#"{"sheets":6,"tray":"B"}"#),
                })
            })
            .run();
        assert_eq!(run.output().unwrap(), &Printed { sheets: 6, tray: "B".to_owned() });
        assert_eq!(run.requests()[0], "POST http://print.example/jobs");
        assert_eq!(run.requests()[1..], ["GET http://print.example/jobs/7"; 3]);
        assert_eq!(run.elapsed(), Duration::from_hours(3));
    }

    #[test]
    fn a_service_that_is_down_is_asked_five_times() {
        let run = testing::scenario(print, order()).http(|_| Ok(HttpResponse::new(503))).run();
        assert_eq!(run.output().unwrap_err().kind(), "HttpStatus");
        assert_eq!((run.requests().len(), run.elapsed()), (5, Duration::from_millis(200 + 600 + 1_800 + 5_400)));
    }

    #[test]
    fn a_refusal_is_final() {
        let run = testing::scenario(print, order()).http(|_| Ok(HttpResponse::new(422).with_body("too long"))).run();
        let answer: HttpResponse = run.output().unwrap_err().details().unwrap();
        assert_eq!((answer.status, &*answer.body, run.requests().len()), (422, "too long", 1));
    }
}
