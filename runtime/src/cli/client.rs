//! The HTTP side of the other commands: what a client of a server does, with the public paths and nothing else.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use ureq::http::{Response, header};
use ureq::{Agent, Body};

/// How long one request may take, in seconds. An upload is the longest: the module is compiled meanwhile.
const REQUEST_S_MAX: u64 = 300;

/// The largest answer that is read, in bytes. A history with all inputs and results is larger than any of them.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// How long to wait before a status is asked for again, in milliseconds: first so long, then twice as long each time.
const POLL_MS_MIN: u64 = 10;
const POLL_MS_MAX: u64 = 1_000;

/// A client of the server at one URL.
pub(super) struct Client {
    agent: Agent,
    base: String,
}

/// An instance that was started.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Started {
    /// Its ID.
    pub(super) id: String,
    /// Where to ask how it stands; the `Location` of the answer too.
    pub(super) status_query_get_uri: String,
}

/// How an instance stands, as far as commands ask.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// `Completed` if all went well.
    pub(super) runtime_status: String,
    /// Its output as the server wrote it.
    pub(super) output: Box<RawValue>,
}

impl Client {
    /// A client of the server at `base`, an URL without a slash at the end.
    pub(super) fn new(base: String) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false) // The status of a failed instance is 400 with a body that we want.
            .proxy(None) // The environment's proxy is for other machines.
            .timeout_global(Some(Duration::from_secs(REQUEST_S_MAX)))
            .user_agent(concat!("dacapo/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), base }
    }

    /// Where `function` is started.
    pub(super) fn start_url(&self, function: &str) -> String {
        format!("{}/api/orchestrators/{function}", self.base)
    }

    /// Uploads a module to the default hub.
    pub(super) fn upload(&self, module: &str, wasm: &[u8]) -> Result<()> {
        let url = format!("{}/admin/modules/{module}", self.base);
        let answer = self.agent.put(&url).content_type("application/wasm").send(wasm).with_context(|| format!("PUT {url}"))?;
        read(answer, &[200, 201]).with_context(|| format!("PUT {url}")).map(drop)
    }

    /// Starts an instance with an input that is JSON, or empty.
    pub(super) fn start(&self, function: &str, input: &str) -> Result<Started> {
        let url = self.start_url(function);
        let answer = self.agent.post(&url).content_type("application/json").send(input).with_context(|| format!("POST {url}"))?;
        read(answer, &[202]).and_then(|text| parse(&text)).with_context(|| format!("POST {url}"))
    }

    /// Follows `Location` from a status URL until the instance has ended.
    pub(super) fn end(&self, status_url: &str) -> Result<Status> {
        let mut url = status_url.to_owned();
        let mut pause_ms = POLL_MS_MIN;
        loop {
            let answer = self.agent.get(&url).call().with_context(|| format!("GET {url}"))?;
            if answer.status() != 202 {
                return read(answer, &[200, 400, 500]).and_then(|text| parse(&text)).with_context(|| format!("GET {url}"));
            }
            // Retry-After is meant for instances that take minutes.
            sleep(Duration::from_millis(pause_ms));
            pause_ms = (2 * pause_ms).min(POLL_MS_MAX);
            if let Some(location) = answer.headers().get(header::LOCATION) {
                location.to_str().context("the Location is no text")?.clone_into(&mut url);
            }
        }
    }

    /// What `url` answers, as text.
    pub(super) fn text(&self, url: &str) -> Result<String> {
        let answer = self.agent.get(url).call().with_context(|| format!("GET {url}"))?;
        read(answer, &[200]).with_context(|| format!("GET {url}"))
    }
}

/// The body of an answer that has one of the status codes in `expected`.
fn read(mut answer: Response<Body>, expected: &[u16]) -> Result<String> {
    let status = answer.status();
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().context("read the answer")?;
    if !expected.contains(&status.as_u16()) {
        bail!("the server answered {status}: {text}");
    }
    Ok(text)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).with_context(|| format!("the server answered something else: {text}"))
}
