//! The HTTP side of all commands but `serve`: what a client of a server does, with the public paths and nothing else.
//!
//! The key travels in a header, never in a URL, and URLs that the server hands out (they carry a key) are not followed: so no
//! error can show one.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use ureq::http::{Request, StatusCode};
use ureq::{Agent, Error};

use super::exit::Exit;
use super::wire::{Instance, Logs, Module, Started, Uploaded};

/// How long one request may take, in seconds. An upload is the longest: the module is compiled meanwhile.
const REQUEST_S_MAX: u64 = 300;

/// The largest answer that is read, in bytes. A history with all inputs and results is larger than any of them.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// How long the server is asked to wait for the end of an instance before it answers, in seconds. What lies between us and the
/// server may cut connections on which nothing is said for a minute.
const WAIT_S_MAX: f64 = 20.0;

/// How long to wait before a status is asked for again, in milliseconds: first so long, then twice as long each time.
const POLL_MS_MIN: u64 = 10;
const POLL_MS_MAX: u64 = 1_000;

/// Where the operations of the wire contract are.
const PREFIX: &str = "/runtime/webhooks/durabletask";

/// What stays as it is in a part of a path.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'!').remove(b'*');

/// A parameter of a query.
pub(super) type Parameter<'a> = (&'a str, &'a str);

/// A client of one task hub of one server.
pub(super) struct Client {
    agent: Agent,
    base: String,
    hub: Option<String>,
    key: Option<String>,
}

/// What is sent.
#[derive(Default)]
struct Call<'a> {
    path: String,
    query: Vec<Parameter<'a>>,
    header: Option<(&'a str, &'a str)>,
    body: Option<(&'a str, &'a [u8])>,
}

/// What came back, with a status code that was expected.
struct Answer {
    status: StatusCode,
    text: String,
    /// The end of a page that is not the last.
    continuation: Option<String>,
}

/// A page of a list of instances.
pub(super) struct Page {
    /// Each an [`Instance`], as the server wrote it.
    pub(super) instances: Vec<Box<RawValue>>,
    /// What to ask for to get the next page.
    pub(super) next: Option<String>,
}

impl Client {
    /// A client of the default hub of the server at `base`, a URL without a slash at the end, which asks for no key.
    pub(super) fn to(base: String) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false) // A status has a body that we want to show.
            .max_redirects(0) // The key is for this server and no other.
            .proxy(None) // The environment's proxy is for other machines.
            .timeout_global(Some(Duration::from_secs(REQUEST_S_MAX)))
            .user_agent(concat!("dacapo/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), base, hub: None, key: None }
    }

    /// The same for this hub, and with this key, if there are any.
    pub(super) fn with(self, hub: Option<String>, key: Option<String>) -> Self {
        Self { hub, key, ..self }
    }

    /// The URL of the server.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// What it was told: server, hub and key.
    #[cfg(test)]
    pub(super) fn target(&self) -> (String, Option<String>, Option<String>) {
        (self.base.clone(), self.hub.clone(), self.key.clone())
    }

    /// Where `function` is started.
    pub(super) fn start_url(&self, function: &str) -> String {
        format!("{}/api/orchestrators/{}", self.base, encode(function))
    }

    /// Uploads a module, which is then the current version of this name.
    pub(super) fn upload(&self, module: &str, wasm: &[u8]) -> Result<Uploaded> {
        let body = Some(("application/wasm", wasm));
        let call = Call { path: format!("/admin/modules/{}", encode(module)), body, ..Call::default() };
        let answer = self.call("PUT", call, &[200, 201], module)?;
        Ok(Uploaded { new: answer.status == StatusCode::CREATED, version: parse(&answer.text)?, text: answer.text })
    }

    /// All modules of the hub, as the server writes them; see [`Module`].
    pub(super) fn modules(&self) -> Result<String> {
        let call = Call { path: "/admin/modules".into(), ..Call::default() };
        Ok(self.call("GET", call, &[200], "admin/modules")?.text)
    }

    /// One module.
    pub(super) fn module(&self, name: &str) -> Result<Module> {
        let call = Call { path: format!("/admin/modules/{}", encode(name)), ..Call::default() };
        let answer = self.call("GET", call, &[200], format_args!("module {name:?}"))?;
        parse(&answer.text)
    }

    /// Deletes a module, or one version of it.
    pub(super) fn delete_module(&self, name: &str, digest: Option<&str>) -> Result<()> {
        let version = digest.map(|digest| format!("/versions/{}", encode(digest))).unwrap_or_default();
        let call = Call { path: format!("/admin/modules/{}{version}", encode(name)), ..Call::default() };
        self.call("DELETE", call, &[200, 202, 204], format_args!("module {name:?}")).map(drop)
    }

    /// Starts an instance, with this ID or one that the server draws. `input` is JSON, or empty. Returns the server's answer as it
    /// is; see [`Started`].
    pub(super) fn start(&self, function: &str, id: Option<&str>, input: &str) -> Result<String> {
        Ok(self.post_start(function, id, input, None)?.text)
    }

    /// The same, and returns what commands know of the answer.
    pub(super) fn started(&self, function: &str, input: &str) -> Result<Started> {
        parse(&self.start(function, None, input)?)
    }

    /// Starts an instance with this ID and waits for its end, for ever or until `deadline`. Returns as [`Client::end`].
    pub(super) fn run(&self, function: &str, id: &str, input: &str, deadline: Option<Instant>) -> Result<String> {
        let left_s = deadline.map_or(WAIT_S_MAX, |deadline| left(deadline).as_secs_f64());
        // A wait that is over in time answers with the output of a completed instance or with the status of a failed one, and
        // the former may look like the latter. So how it stands is asked for in any case.
        self.post_start(function, Some(id), input, Some(left_s.min(WAIT_S_MAX)))?;
        self.end(id, deadline)
    }

    fn post_start(&self, function: &str, id: Option<&str>, input: &str, wait_s: Option<f64>) -> Result<Answer> {
        let id = id.map(|id| format!("/{}", encode(id))).unwrap_or_default();
        let timeout = wait_s.map(|wait_s| format!("{wait_s:.3}"));
        let call = Call {
            path: format!("/api/orchestrators/{}{id}", encode(function)),
            query: timeout.iter().map(|timeout| ("timeout", timeout.as_str())).collect(),
            body: Some(("application/json", input.as_bytes())),
            ..Call::default()
        };
        self.call("POST", call, &[200, 202], format_args!("orchestrator {function:?}"))
    }

    /// How an instance stands, as the server writes it; see [`Instance`].
    pub(super) fn status(&self, id: &str, query: &[Parameter<'_>]) -> Result<String> {
        // In this edition the status code of the answer says whether the question was answered, not how the instance ended.
        let query = [&[("edition", "current")], query].concat();
        let call = Call { path: instance_path(id), query, ..Call::default() };
        Ok(self.call("GET", call, &[200, 202], format_args!("instance {id:?}"))?.text)
    }

    /// Waits for the end of an instance, for ever or until `deadline`, and returns how it stands then, as the server writes it.
    pub(super) fn end(&self, id: &str, deadline: Option<Instant>) -> Result<String> {
        let mut pause_ms = POLL_MS_MIN;
        loop {
            let text = self.status(id, &[])?;
            let instance: Instance = parse(&text)?;
            let left = deadline.map_or(Duration::MAX, left);
            if instance.has_ended() || left.is_zero() {
                return Ok(text);
            }
            sleep(Duration::from_millis(pause_ms).min(left));
            pause_ms = (2 * pause_ms).min(POLL_MS_MAX);
        }
    }

    /// A page of the instances that `query` selects: the first, or that at `token`.
    pub(super) fn instances(&self, query: &[Parameter<'_>], token: Option<&str>) -> Result<Page> {
        let header = token.map(|token| ("x-ms-continuation-token", token));
        let call = Call { path: format!("{PREFIX}/instances"), query: query.to_vec(), header, body: None };
        let answer = self.call("GET", call, &[200], "instances")?;
        Ok(Page { instances: parse(&answer.text)?, next: answer.continuation })
    }

    /// Raises an event for an instance; `data` is JSON.
    pub(super) fn raise(&self, id: &str, event: &str, data: &str) -> Result<()> {
        let path = format!("{}/raiseEvent/{}", instance_path(id), encode(event));
        let call = Call { path, body: Some(("application/json", data.as_bytes())), ..Call::default() };
        self.call("POST", call, &[202], format_args!("instance {id:?}")).map(drop)
    }

    /// Asks for an instance to be terminated.
    pub(super) fn terminate(&self, id: &str, reason: Option<&str>) -> Result<()> {
        let query = reason.map(|reason| ("reason", reason)).into_iter().collect();
        let call = Call { path: format!("{}/terminate", instance_path(id)), query, body: Some(("", b"")), header: None };
        self.call("POST", call, &[202], format_args!("instance {id:?}")).map(drop)
    }

    /// What an instance has logged, from line number `after` on.
    pub(super) fn logs(&self, id: &str, after: u64) -> Result<Logs> {
        let after = after.to_string();
        let call = Call { path: format!("{}/logs", instance_path(id)), query: vec![("after", &after)], ..Call::default() };
        parse(&self.call("GET", call, &[200], format_args!("instance {id:?}"))?.text)
    }

    /// Sends a request, whose answer has to have one of the status codes in `expected`. `subject` is what is not there if the
    /// answer is 404.
    fn call(&self, method: &str, call: Call<'_>, expected: &[u16], subject: impl Display) -> Result<Answer> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.hub.iter().map(|hub| ("taskHub", hub.as_str())).chain(call.query));
        let query = query.finish();
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{}{}{mark}{query}", self.base, call.path);

        let mut request = Request::builder().method(method).uri(&url);
        let key = self.key.as_deref().map(|key| ("x-functions-key", key));
        let content_type = call.body.map(|(kind, _)| ("content-type", kind)).filter(|(_, kind)| !kind.is_empty());
        for (name, value) in [key, content_type, call.header].into_iter().flatten() {
            request = request.header(name, value);
        }
        let answer = match call.body {
            Some((_, bytes)) => self.agent.run(request.body(bytes).with_context(|| format!("ask {url}"))?),
            None => self.agent.run(request.body(()).with_context(|| format!("ask {url}"))?),
        };
        let mut answer = answer.map_err(|error| self.failed(error))?;
        let text =
            answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(|error| self.failed(error))?;
        let status = answer.status();
        if expected.contains(&status.as_u16()) {
            let continuation = answer.headers().get("x-ms-continuation-token").and_then(|token| token.to_str().ok());
            let continuation = continuation.filter(|token| !token.is_empty()).map(str::to_owned);
            return Ok(Answer { status, text, continuation });
        }
        let said = message(&text);
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        Err(match status {
            StatusCode::UNAUTHORIZED => Exit::Failed.because(self.about_keys()),
            StatusCode::NOT_FOUND => {
                let hub = self.hub.as_ref().map(|hub| format!(" in task hub {hub}")).unwrap_or_default();
                Exit::NotFound.because(format_args!("{} has no {subject}{hub}", self.base))
            }
            StatusCode::GONE => Exit::Failed.because(format_args!("{subject} has already ended{said}")),
            _ if status.is_client_error() && !said.is_empty() => Exit::Failed.because(format_args!("the server refused{said}")),
            _ => Exit::Failed.because(format_args!("{} answered {status}{said}", self.base)),
        })
    }

    /// What to do about a 401.
    fn about_keys(&self) -> String {
        match &self.key {
            Some(_) => format!("{} does not take this key; `dacapo keys` on its machine shows those that it takes", self.base),
            None => format!(
                "{} wants a key: put it into the environment variable DACAPO_KEY, or name a file that holds it with --key-file",
                self.base
            ),
        }
    }

    /// What went wrong on the way.
    fn failed(&self, error: Error) -> anyhow::Error {
        match error {
            Error::Io(_) | Error::Timeout(_) | Error::HostNotFound | Error::ConnectionFailed => Exit::Unreachable.because(
                format_args!("cannot reach {}: {error}; is a server running there? `dacapo serve` starts one", self.base),
            ),
            _ => Exit::Failed.because(format_args!("{} does not speak as a server of Dacapo: {error}", self.base)),
        }
    }
}

fn instance_path(id: &str) -> String {
    format!("{PREFIX}/instances/{}", encode(id))
}

fn encode(part: &str) -> impl Display {
    utf8_percent_encode(part, &PLAIN)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Reads an answer.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).with_context(|| format!("the server answered something else: {text}"))
}

/// What an error's body says, in any of the forms that errors have.
fn message(body: &str) -> String {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Long {
            #[serde(rename = "ExceptionMessage")]
            message: String,
        },
        Short {
            #[serde(rename = "Message")]
            message: String,
        },
        Ours {
            error: Inner,
        },
        Text(String),
    }

    #[derive(Deserialize)]
    struct Inner {
        message: String,
    }

    match serde_json::from_str(body) {
        Ok(Said::Long { message } | Said::Short { message } | Said::Text(message)) => message,
        Ok(Said::Ours { error }) => error.message,
        Err(_) => body.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_an_error_is_found_in_each_of_its_forms() {
        for (body, expected) in [
            ("", ""),
            (r#"{"Message":"Bad","ExceptionMessage":"no orchestrator"}"#, "no orchestrator"),
            (r#"{"Message":"taken","ExceptionMessage":null}"#, "taken"),
            (r#"{"error":{"code":"x","message":"not wasm"}}"#, "not wasm"),
            (r#""it is Running""#, "it is Running"),
            ("gateway down\n", "gateway down"),
        ] {
            assert_eq!(message(body), expected);
        }
    }

    #[test]
    fn an_id_becomes_one_part_of_a_path() {
        assert_eq!(instance_path("a b/c:d+é?"), format!("{PREFIX}/instances/a%20b%2Fc%3Ad%2B%C3%A9%3F"));
    }
}
