//! How does an orchestrator speak HTTP? By [`Context::http`]: the host makes each request as durably as it runs an activity.
//!
//! A service that takes its time answers 202 with the place where its answer will be. That place is asked again and again, with
//! durable timers in between, so an exchange may last for months and outlive the server. The longer it lasts, the longer the timers:
//! a thousand looks for the first quarter of an hour at most, ten thousand for a year.

mod location;
mod retry_after;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bindings::exports::dacapo::guest::orchestrator::{Action, HttpCall};
use crate::context::ceil_to_ms;
use crate::retry::retried;
use crate::task::{Asked, What, read};
use crate::{Context, Error, Result, RetryPolicy, Task};

/// An HTTP request, for [`Context::http`].
#[derive(Clone)]
#[must_use = "nothing is sent before `ctx.http(request)`"]
pub struct HttpRequest {
    /// `GET`, `POST` and so on.
    pub method: String,
    /// Where to, with scheme and host.
    pub uri: String,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body, if there is one.
    pub body: Option<String>,
    /// Why this cannot be sent, if a body had no form in JSON.
    fault: Option<Error>,
    timeout: Option<Duration>,
    retry: Option<RetryPolicy>,
    follow_accepted: bool,
    expect_success: bool,
}

impl HttpRequest {
    /// A request of any method, without headers and body.
    pub fn new(method: impl Into<String>, uri: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            uri: uri.into(),
            headers: Vec::new(),
            body: None,
            fault: None,
            timeout: None,
            retry: None,
            follow_accepted: true,
            expect_success: false,
        }
    }

    /// Asks for what is at `uri`.
    pub fn get(uri: impl Into<String>) -> Self {
        Self::new("GET", uri)
    }

    /// Hands something to `uri`; [`json`](Self::json) or [`body`](Self::body) says what.
    pub fn post(uri: impl Into<String>) -> Self {
        Self::new("POST", uri)
    }

    /// Adds a header field. `{{secret NAME}}` in its value stands for that secret of the task hub, which the host puts in when it sends
    /// the request: it is in no history.
    ///
    /// ```
    /// # use dacapo_guest::HttpRequest;
    /// let request = HttpRequest::get("https://ship.example/parcels").header("authorization", "Bearer {{secret SHIP_KEY}}");
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body; its type is said by a header `Content-Type`.
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets the body to `value` as JSON, and adds the header `Content-Type` that says so. If it has no form in JSON, the task
    /// fails.
    pub fn json(mut self, value: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_string(value) {
            Ok(json) => self.body = Some(json),
            Err(error) => {
                let message = format!("the body for {} has no form in JSON: {error}", without_query(&self.uri));
                self.fault = Some(Error::new("InvalidRequest", message).non_retriable());
            }
        }
        self.header("content-type", "application/json")
    }

    /// How long each single request may take, rounded up to a millisecond; the server's default, ten minutes as a rule, if nothing is said. It bounds
    /// no waits between requests: that is what [`Context::timeout`] does.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Makes each single request again if it fails: if nobody answers, or the answer is none that is
    /// [expected](Self::expect_success). Without that any answer is a success, also a 503.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Whether a 202 with a `Location` is followed to its end, as it is if nothing is said; otherwise the 202 is the answer.
    pub const fn follow_accepted(mut self, follow: bool) -> Self {
        self.follow_accepted = follow;
        self
    }

    /// Makes every answer whose status is none of 200 to 299 an error of kind `HttpStatus`, with the [`HttpResponse`] as its
    /// details.
    pub const fn expect_success(mut self) -> Self {
        self.expect_success = true;
        self
    }

    /// The next request after a 202 that pointed to `location`.
    fn follow(&mut self, location: &str) {
        let uri = location::resolve(&self.uri, location);
        let leaves_origin = location::origin(&uri) != location::origin(&self.uri);
        self.headers.retain(|(name, _)| !is_about_body(name) && (!leaves_origin || is_for_any_origin(name)));
        (self.method, self.uri, self.body) = ("GET".to_owned(), uri, None);
    }

    fn call(&self) -> Action {
        Action::Http(HttpCall {
            method: self.method.clone(),
            uri: self.uri.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            timeout_ms: self.timeout.map(ceil_to_ms),
            options: Vec::new(),
        })
    }

    /// Sends it once. Asks at once; the future reads the answer.
    fn send(&self, ctx: &Context) -> Result<Pin<Box<dyn Future<Output = Result<HttpResponse>>>>> {
        let what = What::Http(without_query(&self.uri).to_owned());
        let asked = Asked::ask(&ctx.ledger, self.call(), what.clone())?;
        let expect_success = self.expect_success;
        Ok(Box::pin(async move {
            let response: HttpResponse = read(&what, &asked.await?)?;
            if expect_success && !response.is_success() {
                return Err(Error::new("HttpStatus", format!("{what} was answered with status {}", response.status))
                    .with_details(&response));
            }
            Ok(response)
        }))
    }

    /// Sends it as often as its policy says. The first time at once.
    fn send_with_retries(&self, ctx: &Context) -> Result<impl Future<Output = Result<HttpResponse>> + use<>> {
        let (request, again) = (self.clone(), ctx.clone());
        Ok(retried(ctx.clone(), self.retry.clone(), self.send(ctx)?, move |_| request.send(&again)))
    }
}

impl fmt::Debug for HttpRequest {
    /// Without query, headers and body, which may hold what belongs into no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpRequest({} {})", self.method, without_query(&self.uri))
    }
}

/// The answer to an [`HttpRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpResponse {
    /// Such as 200.
    pub status: u16,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body; empty if there is none.
    #[serde(default)]
    pub body: String,
}

impl HttpResponse {
    /// An answer without headers and body, for mocks.
    pub const fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new() }
    }

    /// Adds a header field.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// Whether the status is one of 200 to 299.
    pub const fn is_success(&self) -> bool {
        self.status / 100 == 2
    }

    /// The value of the first header field called `name`, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// If it cannot be read as a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.body).map_err(|error| {
            Error::new(
                "InvalidResponse",
                format!("the body of a response with status {} is other JSON than expected: {error}", self.status),
            )
        })
    }
}

impl Context {
    /// Makes an HTTP request, durably: the host sends it once this turn is recorded, and again after a crash if it knows no
    /// answer. So it is sent at least once; a service that recognises a repeated request by a key should be given one, such as
    /// [`new_uuid`](Self::new_uuid).
    ///
    /// ```
    /// # use dacapo_guest::{HttpRequest, prelude::*};
    /// # async fn order(ctx: Context) -> Result<()> {
    /// let response = ctx.http(HttpRequest::post("https://ship.example/parcels").json(&["rye", "wheat"])).await?;
    /// let price: u32 = response.json()?;
    /// # Ok(()) }
    /// ```
    ///
    /// A service that needs time answers 202, with a `Location` where its answer will be. Then the answer is the one that is
    /// found there by GET as soon as it is no 202. Between two requests lies a durable timer over what `Retry-After` says, a
    /// number of seconds or a date, or over 30 seconds; never less than a second, nor than a thousandth of the time that the exchange
    /// has lasted, so that one may last for years within the tasks of one execution. The requests that follow have the headers of the
    /// first, but for those that are about its body. Once they go to another origin, only `Accept` and its like and `User-Agent` are
    /// left: the others may hold keys. A 202 without `Location` is an answer like any other. Redirects are answers too.
    ///
    /// The task fails if nobody answers. Any status is a success, unless the request [says
    /// otherwise](HttpRequest::expect_success).
    pub fn http(&self, request: HttpRequest) -> Task<HttpResponse> {
        match self.exchange(request.clone()) {
            Ok(exchange) => Task::composed(What::Http(without_query(&request.uri).to_owned()), exchange),
            Err(error) => Task::refused(error),
        }
    }

    /// Sends the request, and returns what follows.
    fn exchange(&self, mut request: HttpRequest) -> Result<impl Future<Output = Result<HttpResponse>> + use<>> {
        request.retry.as_ref().map_or(Ok(()), RetryPolicy::check)?;
        if let Some(fault) = request.fault.take() {
            return Err(fault);
        }
        let first = request.send_with_retries(self)?;
        let (ctx, began_ms) = (self.clone(), self.now_ms());
        Ok(async move {
            let mut response = first.await?;
            let follows = request.follow_accepted && response.header("location").is_some();
            while response.status == ACCEPTED && follows {
                if let Some(location) = response.header("location") {
                    request.follow(location);
                }
                let told = response.header("retry-after").and_then(|text| retry_after::wait(text, ctx.now()));
                ctx.sleep(pause(told, Duration::from_millis(ctx.now_ms() - began_ms))).await?;
                response = request.send_with_retries(&ctx)?.await?;
            }
            Ok(response)
        })
    }
}

const ACCEPTED: u16 = 202;

/// Between two looks at a `Location`, if the service does not say. What Durable Functions waits, too.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// However short a wait a service asks for, so many looks at a `Location` are too many.
const POLL_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// How long to wait before the next look, if the service has `told` a wait or not. In an exchange that has lasted for a day, a minute
/// more or less is nothing, and each look takes two tasks of an execution, and events of its history.
fn pause(told: Option<Duration>, lasted: Duration) -> Duration {
    told.unwrap_or(POLL_INTERVAL).max(POLL_INTERVAL_MIN).max(lasted / 1_000)
}

/// Header fields that say something of a body, or of how it is sent. A request without a body has none of them.
fn is_about_body(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("content-") || ["digest", "expect", "repr-digest", "trailer", "transfer-encoding"].contains(&name.as_str())
}

/// Header fields that another origin may see: any other may hold a key, whatever it is called.
fn is_for_any_origin(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "accept" || name.starts_with("accept-") || name == "user-agent"
}

/// What of `uri` may be shown: its query may have keys in it.
pub(crate) fn without_query(uri: &str) -> &str {
    uri.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
