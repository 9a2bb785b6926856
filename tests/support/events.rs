//! A client of event streams.

use std::io::{BufRead as _, BufReader, Read};

use serde_json::Value;
use ureq::http::HeaderMap;

use super::{Client, P3};

/// A stream of server-sent events, read as it comes.
pub(crate) struct Events {
    pub(crate) headers: HeaderMap,
    lines: BufReader<Box<dyn Read + Send>>,
    /// The lines that were no part of an event: comments, and how long to wait before coming back.
    pub(crate) others: Vec<String>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SentEvent {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

impl SentEvent {
    /// What it is, in a word or two: `status Running`, or the type of an event of a history.
    pub(crate) fn what(&self) -> String {
        match self.name.as_str() {
            "status" => format!("status {}", self.data["runtimeStatus"].as_str().expect("a status is text")),
            _ => self.data["EventType"].as_str().expect("a type is text").to_owned(),
        }
    }
}

impl Events {
    /// Of an answer whose status is 200.
    pub(crate) fn of(headers: HeaderMap, body: Box<dyn Read + Send>) -> Self {
        Self { headers, lines: BufReader::new(body), others: Vec::new() }
    }

    /// The next events, up to the first of which `is_it` holds.
    #[track_caller]
    pub(crate) fn until(&mut self, mut is_it: impl FnMut(&SentEvent) -> bool) -> Vec<SentEvent> {
        let mut seen = Vec::new();
        loop {
            let Some(event) = self.next() else { panic!("the stream ended after {seen:?}") };
            seen.push(event);
            if is_it(&seen[seen.len() - 1]) {
                return seen;
            }
        }
    }

    /// The same up to one that is `what`, in the words of [`SentEvent::what`].
    #[track_caller]
    pub(crate) fn until_it_is(&mut self, what: &str) -> Vec<SentEvent> {
        self.until(|event| event.what() == what)
    }
}

impl Iterator for Events {
    type Item = SentEvent;

    /// `None` at the end of the stream, also where it was cut off.
    fn next(&mut self) -> Option<SentEvent> {
        let (mut name, mut id, mut data) = (String::new(), String::new(), Vec::new());
        loop {
            let mut line = String::new();
            if !matches!(self.lines.read_line(&mut line), Ok(1..)) {
                return None;
            }
            match line.strip_suffix('\n').expect("a line has an end").split_once(": ") {
                Some(("event", text)) => text.clone_into(&mut name),
                Some(("id", text)) => text.clone_into(&mut id),
                Some(("data", text)) => data.push(text.to_owned()),
                None if line == "\n" && !data.is_empty() => {
                    let data = data.join("\n");
                    let data = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error} in {data}"));
                    return Some(SentEvent { name, id, data });
                }
                _ => self.others.push(line),
            }
        }
    }
}

impl Client {
    /// Follows an instance, behind the event with the ID `last` if there is one. `query` such as `showInput=false`, or nothing.
    #[track_caller]
    pub(crate) fn follow(&self, id: &str, query: &str, last: Option<&str>) -> Events {
        let path = format!("{P3}/instances/{id}?{query}");
        let client = self.with_header("accept", "text/event-stream");
        match last {
            Some(last) => client.with_header("last-event-id", last).stream(&path),
            None => client.stream(&path),
        }
    }
}
