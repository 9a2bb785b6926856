//! A small HTTP client that shows what came back, whatever the status.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use ureq::Agent;
use ureq::http::{HeaderMap, Request};

use super::{DEADLINE_S, Events, eventually};

/// The prefix that generated URLs have.
pub(crate) const P3: &str = "/runtime/webhooks/durabletask";

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    /// `http://127.0.0.1:PORT`.
    pub(crate) origin: String,
    headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn new(origin: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(2 * DEADLINE_S)));
        Self { agent: config.build().into(), origin: origin.to_owned(), headers: Vec::new() }
    }

    /// The same, sending one more header with each request.
    pub(crate) fn with_header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    /// One request; an error if no answer comes back. `url` is absolute, or a path on the server.
    pub(crate) fn try_send(&self, method: &str, url: &str, body: &[u8]) -> Result<Reply, ureq::Error> {
        let url = if url.starts_with('/') { format!("{}{url}", self.origin) } else { url.to_owned() };
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut response = if matches!(method, "POST" | "PUT" | "PATCH") {
            self.agent.run(request.body(body)?)?
        } else {
            self.agent.run(request.body(())?)?
        };
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec()?;
        Ok(Reply { status: response.status().as_u16(), headers: response.headers().clone(), body })
    }

    /// A GET request whose answer is a stream of events.
    #[track_caller]
    pub(crate) fn stream(&self, path: &str) -> Events {
        let mut request = Request::builder().uri(format!("{}{path}", self.origin));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let answer = self.agent.run(request.body(()).expect("a request")).expect("an answer");
        let (parts, body) = answer.into_parts();
        assert_eq!(parts.status.as_u16(), 200, "{path}");
        Events::of(parts.headers, Box::new(body.into_reader()))
    }

    pub(crate) fn send(&self, method: &str, url: &str, body: &[u8]) -> Reply {
        self.try_send(method, url, body).unwrap_or_else(|error| panic!("{method} {url}: {error}"))
    }

    pub(crate) fn get(&self, url: &str) -> Reply {
        self.send("GET", url, b"")
    }

    pub(crate) fn post(&self, url: &str, body: impl AsRef<[u8]>) -> Reply {
        self.send("POST", url, body.as_ref())
    }

    pub(crate) fn put(&self, url: &str, body: impl AsRef<[u8]>) -> Reply {
        self.send("PUT", url, body.as_ref())
    }

    /// One request written by hand, on a connection of its own: for what no HTTP library sends.
    pub(crate) fn raw(&self, request: &str) -> Reply {
        self.raw_bytes(request.as_bytes())
    }

    /// The same with a body that is no text.
    pub(crate) fn raw_bytes(&self, request: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.authority()).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(DEADLINE_S))).expect("set a timeout");
        stream.write_all(request).expect("write the request");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("read the answer");
        let split = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8(bytes[..split].to_vec()).expect("a head is text");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("an answer has a status");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").expect("a header has a value");
            (name.parse().expect("a header's name"), value.parse().expect("a header's value"))
        });
        Reply { status, headers: headers.collect::<HeaderMap>(), body: bytes[split + 4..].to_vec() }
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> &str {
        self.origin.strip_prefix("http://").expect("an origin is http")
    }

    /// Starts an instance and returns its ID.
    pub(crate) fn start(&self, function: &str, input: &str) -> String {
        let reply = self.post(&format!("{P3}/orchestrators/{function}"), input);
        assert_eq!(reply.status, 202, "start {function}: {reply}");
        reply.json()["id"].as_str().expect("an ID is text").to_owned()
    }

    /// Starts an instance with this ID.
    pub(crate) fn start_as(&self, id: &str, function: &str, input: &str) {
        let reply = self.post(&format!("{P3}/orchestrators/{function}/{id}"), input);
        assert_eq!(reply.status, 202, "start {function} as {id}: {reply}");
    }

    /// Starts an instance and waits for its end in the same request.
    pub(crate) fn run(&self, function: &str, input: &str) -> Reply {
        self.post(&format!("{P3}/orchestrators/{function}?timeout={DEADLINE_S}"), input)
    }

    /// Starts an instance, waits for its end, and returns its output.
    pub(crate) fn output(&self, function: &str, input: &str) -> Value {
        let reply = self.run(function, input);
        assert_eq!(reply.status, 200, "run {function}: {reply}");
        reply.json()
    }

    /// Raises an event with this JSON, which has to be taken.
    pub(crate) fn raise(&self, id: &str, event: &str, json: &str) {
        let client = self.with_header("content-type", "application/json");
        let reply = client.post(&format!("{P3}/instances/{id}/raiseEvent/{event}"), json);
        assert_eq!(reply.status, 202, "raise {event} to {id}: {reply}");
    }

    /// The lines that an instance and its activities have said.
    pub(crate) fn lines(&self, id: &str) -> Vec<String> {
        let reply = self.get(&format!("{P3}/instances/{id}/logs")).json();
        let lines = reply["lines"].as_array().expect("lines are a list").iter();
        lines.map(|line| line["message"].as_str().expect("a line is text").to_owned()).collect()
    }

    /// A figure of the server's metrics.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let reply = self.get("/metrics");
        let value = reply.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {reply}"))
    }

    /// How an instance stands. `query` such as `showHistory=true`, or nothing.
    pub(crate) fn status(&self, id: &str, query: &str) -> Reply {
        self.get(&format!("{P3}/instances/{id}?{query}"))
    }

    /// Waits for the end of an instance and returns its status with history, inputs and outputs.
    pub(crate) fn finished(&self, id: &str) -> Value {
        eventually(&format!("the end of instance {id}"), || {
            let reply = self.status(id, "edition=current&showHistory=true&showHistoryOutput=true");
            match reply.status {
                202 => None,
                200 => Some(reply.json()),
                _ => panic!("status of {id}: {reply}"),
            }
        })
    }
}

impl Reply {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header is text"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body is text")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self}"))
    }

    /// One member of the JSON object in the body, byte for byte.
    #[track_caller]
    pub(crate) fn member(&self, name: &str) -> String {
        let Members(members) = serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self}"));
        let found = members.into_iter().find(|(key, _)| key == name);
        found.unwrap_or_else(|| panic!("no {name} in {self}")).1.get().to_owned()
    }

    /// The keys of the JSON object in the body, in their order.
    #[track_caller]
    pub(crate) fn keys(&self) -> Vec<String> {
        let Members(members) = serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self}"));
        members.into_iter().map(|(key, _)| key).collect()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// A JSON object as it is written.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}
