//! The HTTP side of all commands but `serve`: what a client of a server does, with the public paths and nothing else.
//!
//! The key travels in a header, never in a URL, and URLs that the server hands out (they carry a key) are not followed: so no
//! error can show one.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use ureq::http::{Request, Response, StatusCode};
use ureq::{Agent, Body, Error};

use super::events::Events;
use super::exit::Exit;
use super::output::{Spinner, brief};
use super::wire::{Instance, Logs, Module, Started, Uploaded};

/// How long one request may take, in seconds. An upload is the longest: the module is compiled meanwhile.
const REQUEST_S_MAX: u64 = 300;

/// How long a server may take to accept a connection, in seconds. Nobody answers where a firewall drops what is sent.
const CONNECT_S_MAX: u64 = 5;

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

/// What is for operators, and where the modules are.
const ADMIN: &str = "/admin";
const MODULES: &str = "/admin/modules";

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
    spins: bool,
}

/// What is sent.
#[derive(Default)]
struct Call<'a> {
    path: String,
    /// What is not there if the answer is 404; `None` if every server has it.
    subject: Option<String>,
    query: Vec<Parameter<'a>>,
    header: Option<(&'a str, &'a str)>,
    /// The type of answer that is wanted, if not any.
    accept: Option<&'a str>,
    body: Option<(&'a str, &'a [u8])>,
}

/// What came back, with a status code that was expected.
struct Answer {
    status: StatusCode,
    text: String,
    /// The end of a page that is not the last.
    continuation: Option<String>,
}

/// An upload was refused, since another module of the hub has one of its functions; in the server's words.
#[derive(Debug, thiserror::Error)]
#[error("the server refused: {0}")]
pub(super) struct FunctionTaken(String);

/// A page of a list of instances.
pub(super) struct Page {
    /// Each an [`Instance`], as the server wrote it.
    pub(super) instances: Vec<Box<RawValue>>,
    /// What to ask for to get the next page.
    pub(super) next: Option<String>,
}

impl Call<'_> {
    /// One to what is below an instance's path.
    fn of_instance(id: &str, below: &str) -> Self {
        Self { path: instance_path(id) + below, subject: Some(format!("instance {id:?}")), ..Self::default() }
    }

    /// One to what is below a module's path.
    fn of_module(name: &str, below: &str) -> Self {
        let path = format!("{MODULES}/{}{below}", encode(name));
        Self { path, subject: Some(format!("module {name:?}")), ..Self::default() }
    }
}

impl Client {
    /// A client of the default hub of the server at `base`, a URL without a slash at the end, which asks for no key.
    pub(super) fn to(base: String) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false) // A status has a body that we want to show.
            .max_redirects(0) // The key is for this server and no other.
            .proxy(None) // The environment's proxy is for other machines.
            .timeout_connect(Some(Duration::from_secs(CONNECT_S_MAX)))
            .timeout_global(Some(Duration::from_secs(REQUEST_S_MAX)))
            .user_agent(concat!("dacapo/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), base, hub: None, key: None, spins: false }
    }

    /// The same for this hub, and with this key, if there are any.
    pub(super) fn with(self, hub: Option<String>, key: Option<String>) -> Self {
        Self { hub, key, ..self }
    }

    /// The same with a spinner for each answer that takes long.
    pub(super) fn spinning(self) -> Self {
        Self { spins: true, ..self }
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

    /// Uploads a module, which is then the current version of this name. Fails with [`FunctionTaken`] among others.
    pub(super) fn upload(&self, module: &str, wasm: &[u8]) -> Result<Uploaded> {
        let body = Some(("application/wasm", wasm));
        let call = Call { path: format!("{MODULES}/{}", encode(module)), body, ..Call::default() };
        let answer = self.call("PUT", call, &[200, 201, 409])?;
        if answer.status == StatusCode::CONFLICT {
            return Err(FunctionTaken(brief(&message(&answer.text))).into());
        }
        Ok(Uploaded { new: answer.status == StatusCode::CREATED, version: parse(&answer.text)?, text: answer.text })
    }

    /// All modules of the hub, as the server writes them; see [`Module`].
    pub(super) fn modules(&self) -> Result<String> {
        let call = Call { path: MODULES.into(), ..Call::default() };
        Ok(self.call("GET", call, &[200])?.text)
    }

    /// One module.
    pub(super) fn module(&self, name: &str) -> Result<Module> {
        parse(&self.call("GET", Call::of_module(name, ""), &[200])?.text)
    }

    /// Deletes a module, or one version of it.
    pub(super) fn delete_module(&self, name: &str, digest: Option<&str>) -> Result<()> {
        let version = digest.map(|digest| format!("/versions/{}", encode(digest))).unwrap_or_default();
        self.call("DELETE", Call::of_module(name, &version), &[200, 202, 204]).map(drop)
    }

    /// Starts an instance, with this ID or one that the server draws, and with what `query` says of it besides. `input` is JSON, or
    /// empty. Returns the server's answer as it is; see [`Started`].
    pub(super) fn start(&self, function: &str, id: Option<&str>, input: &str, query: &[Parameter<'_>]) -> Result<String> {
        Ok(self.post_start(function, id, input, query.to_vec())?.text)
    }

    /// The same, and returns what commands know of the answer.
    pub(super) fn started(&self, function: &str, input: &str) -> Result<Started> {
        parse(&self.start(function, None, input, &[])?)
    }

    /// Starts an instance with this ID, as [`Client::start`], and waits for its end, for ever or until `deadline`. Returns as
    /// [`Client::end`].
    pub(super) fn run(
        &self,
        function: &str,
        id: &str,
        input: &str,
        query: &[Parameter<'_>],
        deadline: Option<Instant>,
    ) -> Result<String> {
        let left_s = deadline.map_or(WAIT_S_MAX, |deadline| left(deadline).as_secs_f64());
        // A wait that is over in time answers with the output of a completed instance or with the status of a failed one, and
        // the former may look like the latter. So how it stands is asked for in any case.
        let timeout = format!("{:.3}", left_s.min(WAIT_S_MAX));
        let started = self.post_start(function, Some(id), input, [query, &[("timeout", &timeout)]].concat());
        let ended = started.and_then(|_| self.end(id, deadline));
        ended.map_err(|error| match Exit::of(&error) {
            // Where the connection breaks, nobody knows how far the start has come.
            Exit::Unreachable => error.context(format!("instance {id} may have been started")),
            _ => error,
        })
    }

    fn post_start(&self, function: &str, id: Option<&str>, input: &str, query: Vec<Parameter<'_>>) -> Result<Answer> {
        let id = id.map(|id| format!("/{}", encode(id))).unwrap_or_default();
        let call = Call {
            path: format!("/api/orchestrators/{}{id}", encode(function)),
            query,
            body: Some(("application/json", input.as_bytes())),
            ..Call::default()
        };
        self.call("POST", call, &[200, 202])
    }

    /// How an instance stands, as the server writes it; see [`Instance`].
    pub(super) fn status(&self, id: &str, query: &[Parameter<'_>]) -> Result<String> {
        // In this edition the status code of the answer says whether the question was answered, not how the instance ended.
        let query = [&[("edition", "current")], query].concat();
        Ok(self.call("GET", Call { query, ..Call::of_instance(id, "") }, &[200, 202])?.text)
    }

    /// Waits for the end of an instance, for ever or until `deadline`, and returns how it stands then, as the server writes it.
    pub(super) fn end(&self, id: &str, deadline: Option<Instant>) -> Result<String> {
        let mut pause_ms = POLL_MS_MIN;
        loop {
            // An input may be large: it is read once, at the end.
            let instance: Instance = parse(&self.status(id, &[("showInput", "false")])?)?;
            let left = deadline.map_or(Duration::MAX, left);
            if instance.has_ended() || left.is_zero() {
                return self.status(id, &[]);
            }
            sleep(Duration::from_millis(pause_ms).min(left));
            pause_ms = (2 * pause_ms).min(POLL_MS_MAX);
        }
    }

    /// A page of the instances that `query` selects: the first, or that at `token`.
    pub(super) fn instances(&self, query: &[Parameter<'_>], token: Option<&str>) -> Result<Page> {
        let header = token.map(|token| ("x-ms-continuation-token", token));
        let call = Call { path: format!("{PREFIX}/instances"), query: query.to_vec(), header, ..Call::default() };
        let answer = self.call("GET", call, &[200])?;
        Ok(Page { instances: parse(&answer.text)?, next: answer.continuation })
    }

    /// Raises an event for an instance; `data` is JSON.
    pub(super) fn raise(&self, id: &str, event: &str, data: &str) -> Result<()> {
        let body = Some(("application/json", data.as_bytes()));
        let call = Call { body, ..Call::of_instance(id, &format!("/raiseEvent/{}", encode(event))) };
        self.call("POST", call, &[202]).map(drop)
    }

    /// Asks for an instance to be terminated, with `recursive` also the sub-orchestrations that it waits for.
    pub(super) fn terminate(&self, id: &str, reason: Option<&str>, recursive: bool) -> Result<()> {
        self.control(id, "/terminate", reason, recursive.then_some(("recursive", "true")))
    }

    /// Asks for an instance to pause.
    pub(super) fn suspend(&self, id: &str, reason: Option<&str>) -> Result<()> {
        self.control(id, "/suspend", reason, None)
    }

    /// Asks for an instance to go on after a pause.
    pub(super) fn resume(&self, id: &str, reason: Option<&str>) -> Result<()> {
        self.control(id, "/resume", reason, None)
    }

    /// Asks for a failed instance to go on from before its failure.
    pub(super) fn rewind(&self, id: &str, reason: Option<&str>) -> Result<()> {
        self.control(id, "/rewind", reason, None)
    }

    fn control(&self, id: &str, verb: &str, reason: Option<&str>, more: Option<Parameter<'_>>) -> Result<()> {
        let query = reason.map(|reason| ("reason", reason)).into_iter().chain(more).collect();
        let call = Call { query, body: Some(("", b"")), ..Call::of_instance(id, verb) };
        self.call("POST", call, &[202]).map(drop)
    }

    /// Starts what an instance has run once more, with an ID of its own or in its place. Returns as [`Client::start`].
    pub(super) fn restart(&self, id: &str, with_new_id: bool) -> Result<String> {
        let query = vec![("restartWithNewInstanceId", if with_new_id { "true" } else { "false" })];
        let call = Call { query, body: Some(("", b"")), ..Call::of_instance(id, "/restart") };
        let subject = call.subject.clone().unwrap_or_default();
        let answer = self.call("POST", call, &[202, 400])?;
        match answer.status {
            StatusCode::BAD_REQUEST if is_unknown_instance(&answer.text) => Err(self.absent(&subject)),
            StatusCode::BAD_REQUEST => {
                Err(Exit::Failed.because(format_args!("the server refused: {}", brief(&message(&answer.text)))))
            }
            _ => Ok(answer.text),
        }
    }

    /// Purges an instance that has ended.
    pub(super) fn purge(&self, id: &str) -> Result<()> {
        self.call("DELETE", Call::of_instance(id, ""), &[200]).map(drop)
    }

    /// Purges all instances that `query` selects and that have ended; how many these were.
    pub(super) fn purge_all(&self, query: &[Parameter<'_>]) -> Result<u64> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Purged {
            instances_deleted: u64,
        }

        let call = Call { path: format!("{PREFIX}/instances"), query: query.to_vec(), ..Call::default() };
        let answer = self.call("DELETE", call, &[200, 404])?;
        match answer.status {
            StatusCode::NOT_FOUND if answer.text.is_empty() => Ok(0),
            StatusCode::NOT_FOUND => Err(self.no_dacapo("it has no instances")),
            _ => parse(&answer.text).map(|Purged { instances_deleted }| instances_deleted),
        }
    }

    /// What an instance has logged, from line number `after` on.
    pub(super) fn logs(&self, id: &str, after: u64) -> Result<Logs> {
        let after = after.to_string();
        let call = Call { query: vec![("after", &after)], ..Call::of_instance(id, "/logs") };
        parse(&self.call("GET", call, &[200])?.text)
    }

    /// What an instance answers to the query `name`, as JSON.
    pub(super) fn query(&self, id: &str, name: &str, input: Option<&str>) -> Result<String> {
        let query = input.map(|input| ("input", input)).into_iter().collect();
        let call = Call { query, ..Call::of_instance(id, &format!("/query/{}", encode(name))) };
        let subject = call.subject.clone().unwrap_or_default();
        let answer = self.call("GET", call, &[200, 404])?;
        match (answer.status, unknown_query(&answer.text)) {
            (StatusCode::NOT_FOUND, Some(why)) => Err(Exit::NotFound.because(brief(&why))),
            (StatusCode::NOT_FOUND, None) => Err(self.absent(&subject)),
            _ => Ok(answer.text),
        }
    }

    /// What an instance waits for, as the server writes it.
    pub(super) fn why(&self, id: &str) -> Result<String> {
        Ok(self.call("GET", Call::of_instance(id, "/why"), &[200])?.text)
    }

    /// Writes an export of an instance to `out`.
    pub(super) fn export(&self, id: &str, out: &mut dyn Write) -> Result<()> {
        let path = format!("{ADMIN}/instances/{}/export", encode(id));
        let call = Call { path, subject: Some(format!("instance {id:?}")), ..Call::default() };
        let _spinner = self.spins.then(|| Spinner::start(format!("Waiting for {}", self.base)));
        let mut answer = self.send("GET", &call)?;
        if answer.status() != StatusCode::OK {
            let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
            return Err(self.refusal(answer.status(), &text.unwrap_or_default(), call));
        }
        io::copy(&mut answer.into_body().into_reader(), out).context("the export broke off before its end")?;
        Ok(())
    }

    /// Follows an instance, behind the event `last` if one is given. `None` if it has ended and nothing came behind that event.
    pub(super) fn follow(&self, id: &str, query: &[Parameter<'_>], last: Option<&str>) -> Result<Option<Events>> {
        let header = last.map(|last| ("last-event-id", last));
        let call = Call { query: query.to_vec(), header, accept: Some(Events::TYPE), ..Call::of_instance(id, "") };
        let mut answer = self.send("GET", &call)?;
        match answer.status().as_u16() {
            200 => Ok(Some(Events::of(answer.into_body().into_reader()))),
            204 => Ok(None),
            _ => {
                let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
                Err(self.refusal(answer.status(), &text.unwrap_or_default(), call))
            }
        }
    }

    /// Sends a request, whose answer has to have one of the status codes in `expected`.
    fn call(&self, method: &str, call: Call<'_>, expected: &[u16]) -> Result<Answer> {
        let _spinner = self.spins.then(|| Spinner::start(format!("Waiting for {}", self.base)));
        let mut answer = self.send(method, &call)?;
        let text =
            answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(|error| self.failed(error))?;
        let status = answer.status();
        if expected.contains(&status.as_u16()) {
            let continuation = answer.headers().get("x-ms-continuation-token").and_then(|token| token.to_str().ok());
            let continuation = continuation.filter(|token| !token.is_empty()).map(str::to_owned);
            return Ok(Answer { status, text, continuation });
        }
        Err(self.refusal(status, &text, call))
    }

    /// Sends a request, and returns what came back before its body is read.
    fn send(&self, method: &str, call: &Call<'_>) -> Result<Response<Body>> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.hub.iter().map(|hub| ("taskHub", hub.as_str())).chain(call.query.iter().copied()));
        let query = query.finish();
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{}{}{mark}{query}", self.base, call.path);

        let mut request = Request::builder().method(method).uri(&url);
        let key = self.key.as_deref().map(|key| ("x-functions-key", key));
        let content_type = call.body.map(|(kind, _)| ("content-type", kind)).filter(|(_, kind)| !kind.is_empty());
        let accept = call.accept.map(|kind| ("accept", kind));
        for (name, value) in [key, content_type, accept, call.header].into_iter().flatten() {
            request = request.header(name, value);
        }
        // Without the query: a reason to terminate may be as long as it likes.
        let asked = || brief(&format!("ask {}{}", self.base, call.path));
        let answer = match call.body {
            Some((_, bytes)) => self.agent.run(request.body(bytes).with_context(asked)?),
            None => self.agent.run(request.body(()).with_context(asked)?),
        };
        answer.map_err(|error| self.failed(error))
    }

    /// What to tell about an answer with a status that was not expected.
    fn refusal(&self, status: StatusCode, text: &str, call: Call<'_>) -> anyhow::Error {
        let said = brief(&message(text));
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        match status {
            StatusCode::UNAUTHORIZED => Exit::Failed.because(self.about_keys(&call.path)),
            StatusCode::NOT_FOUND => match call.subject {
                Some(subject) => self.absent(&subject),
                None => self.no_dacapo(format_args!("it has no {}", brief(&call.path))),
            },
            StatusCode::GONE => {
                let subject = call.subject.unwrap_or(call.path);
                Exit::Failed.because(format_args!("{subject} has already ended{said}"))
            }
            _ if status.is_client_error() && !said.is_empty() => Exit::Failed.because(format_args!("the server refused{said}")),
            _ => Exit::Failed.because(format_args!("{} answered {status}{said}", self.base)),
        }
    }

    /// What was asked for is not there.
    fn absent(&self, subject: &str) -> anyhow::Error {
        let hub = self.hub.as_ref().map(|hub| format!(" in task hub {hub}")).unwrap_or_default();
        Exit::NotFound.because(format_args!("{} has no {subject}{hub}", self.base))
    }

    /// What to do about a 401.
    fn about_keys(&self, path: &str) -> String {
        match &self.key {
            Some(_) if path.starts_with(ADMIN) => {
                let what = if path.starts_with(MODULES) { MODULES } else { "an export" };
                format!(
                    "{} does not take this key for {what}, which wants the master key; `dacapo keys` on its machine shows it",
                    self.base
                )
            }
            Some(_) => format!("{} does not take this key; `dacapo keys` on its machine shows those that it takes", self.base),
            None => format!(
                "{} wants a key: put it into the environment variable DACAPO_KEY, or name a file that holds it with --key-file",
                self.base
            ),
        }
    }

    /// What went wrong on the way.
    fn failed(&self, error: Error) -> anyhow::Error {
        let said = brief(&error.to_string());
        match error {
            Error::Io(error) if error.kind() == ErrorKind::InvalidData => self.no_dacapo(said), // Its answer is no UTF-8.
            Error::Io(_) | Error::Timeout(_) | Error::HostNotFound | Error::ConnectionFailed => Exit::Unreachable.because(
                format_args!("cannot reach {}: {said}; is a server running there? `dacapo serve` starts one", self.base),
            ),
            _ => self.no_dacapo(said),
        }
    }

    /// Something else listens there.
    fn no_dacapo(&self, why: impl Display) -> anyhow::Error {
        Exit::Failed.because(format_args!("{} does not speak as a server of Dacapo: {why}", self.base))
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
///
/// An error says what is wrong with it and shows nothing of it: its URLs carry a key.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let said = error.to_string();
        // A text where none should be is shown in quotation marks.
        let said = match (said.split_once('"'), said.rsplit_once('"')) {
            (Some((before, _)), Some((_, after))) => format!("{before}…{after}"),
            _ => said,
        };
        Exit::Failed.because(format_args!("the server's answer is not the one that was expected: {said}"))
    })
}

/// What the body of a 404 says, if the instance is there and has no such query.
fn unknown_query(body: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        error: Inner,
    }

    #[derive(Deserialize)]
    struct Inner {
        code: String,
        message: String,
    }

    let Said { error } = serde_json::from_str(body).ok()?;
    (error.code == "unknown_query").then_some(error.message)
}

/// Whether the body of a 400 says that there is no such instance.
fn is_unknown_instance(body: &str) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Said {
        message: String,
    }

    serde_json::from_str(body).is_ok_and(|Said { message }| message.starts_with("InstanceId does not match"))
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
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::thread;

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

    /// A client of a server that gives this answer to one request.
    fn client_of(answer: impl Into<Vec<u8>>) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::to(format!("http://{}", listener.local_addr().unwrap()));
        let answer = answer.into();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The head of a request without a body is read whole, lest the connection is reset.
            let mut head = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            head.by_ref().find(String::is_empty);
            stream.write_all(&answer).unwrap();
        });
        client
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    #[test]
    fn an_answer_that_lacks_something_is_not_shown_since_it_may_carry_a_key() {
        for body in [
            r#"{"statusQueryGetUri":"http://h/x?code=s3cret"}"#,
            r#"{"id":["http://h/x?code=s3cret"]}"#,
            r#""http://h/\"x\"?code=s3cret""#,
            "s3cret",
        ] {
            let error = client_of(http("202 Accepted", body)).started("Bake", "").unwrap_err();
            let shown = format!("{error:#} {error:?}");
            assert!(shown.contains("not the one that was expected") && !shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn what_a_server_says_of_an_error_is_short_and_does_not_steer_the_terminal() {
        let body = format!(r#"{{"ExceptionMessage":"\u001b]0;title\u0007{}"}}"#, "x".repeat(100_000));
        let error = client_of(http("400 Bad Request", &body)).status("a", &[]).unwrap_err().to_string();
        assert!(error.starts_with("the server refused: \u{fffd}]0;title\u{fffd}xxx"), "{error}");
        assert!(error.chars().count() < 1_000 && error.ends_with('…'), "{error}");
    }

    #[test]
    fn a_start_whose_answer_is_lost_names_the_instance() {
        let error = client_of("").run("Bake", "loaf-17", "", &[], None).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unreachable);
        assert_eq!(error.to_string(), "instance loaf-17 may have been started");
        let error = client_of(http("400 Bad Request", "no")).run("Bake", "loaf-17", "", &[], None).unwrap_err();
        assert_eq!(error.to_string(), "the server refused: no");
    }

    #[test]
    fn a_server_of_something_else_is_told_from_an_instance_that_is_not_there() {
        let not_found = || client_of(http("404 Not Found", "<h1>nginx</h1>"));
        let check = |error: anyhow::Error, exit, expected: &str| {
            assert_eq!(Exit::of(&error), exit, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        };
        let stranger = "does not speak as a server of Dacapo";
        check(not_found().instances(&[], None).err().unwrap(), Exit::Failed, stranger);
        check(not_found().modules().unwrap_err(), Exit::Failed, stranger);
        check(not_found().start("Bake", None, "", &[]).unwrap_err(), Exit::Failed, stranger);
        check(not_found().status("a", &[]).unwrap_err(), Exit::NotFound, "has no instance \"a\"");
        check(not_found().query("a", "far", None).unwrap_err(), Exit::NotFound, "has no instance \"a\"");
        let unknown = r#"{"error":{"code":"unknown_query","message":"there is \"near\"","kind":"UnknownQuery"}}"#;
        check(
            client_of(http("404 Not Found", unknown)).query("a", "far", None).unwrap_err(),
            Exit::NotFound,
            "there is \"near\"",
        );
        check(not_found().module("m").err().unwrap(), Exit::NotFound, "has no module \"m\"");
        let garbled = client_of(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n\xff\xfe".to_vec());
        check(garbled.modules().unwrap_err(), Exit::Failed, stranger);
    }

    #[test]
    fn an_error_shows_where_it_went_and_not_what_was_sent() {
        let error = Client::to("http://oven".into()).terminate("a", Some(&"why".repeat(40_000)), false).unwrap_err();
        let shown = format!("{error:#}");
        assert!(shown.contains("/instances/a/terminate") && !shown.contains("why"), "{shown}");
    }

    #[test]
    fn an_id_becomes_one_part_of_a_path() {
        assert_eq!(instance_path("a b/c:d+é?"), format!("{PREFIX}/instances/a%20b%2Fc%3Ad%2B%C3%A9%3F"));
    }
}
