//! No request and no history brings a handler down: queries, paths, headers, bodies, and what is stored of an instance.

use std::str;

use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request};
use serde_json::Value;

use super::auth::{Access, Caller, Need};
use super::capability::Verb;
use super::capability::tests::LINKS;
use super::control::is_json;
use super::error::ApiError;
use super::history_view::{self, Show};
use super::keys::Keys;
use super::links::{Links, Origin, Pass};
use super::list::ListCall;
use super::query::Query;
use super::restart::RestartCall;
use super::route::{Door, Endpoint, Miss, route};
use super::start::{self, StartCall};
use super::status::{Edition, Wanted};
use super::stream::{self, Cursor};
use crate::engine::Existing;
use crate::fuzz::{Shape, fuzz};
use crate::model::{Body, Event, Execution, HubName, InstanceId, StoreName, rewind, waits};

fn stores() -> [StoreName; 2] {
    [StoreName::default_store(), "Archive".parse().unwrap()]
}

/// What is said of an error, which must be the client's.
fn told(error: ApiError) -> String {
    let shown = error.into_reply().shown();
    assert!(shown.starts_with('4'), "{shown}");
    let body: Value = shown.find('{').map_or(Value::Null, |at| serde_json::from_str(&shown[at..]).unwrap());
    let words = [&body["ExceptionMessage"], &body["Message"], &body["error"]["message"]].into_iter().find_map(Value::as_str);
    words.unwrap_or("refused").to_owned()
}

#[test]
fn fuzzed_queries_are_read_or_refused() {
    fuzz("query", Shape::Bytes, |bytes| {
        let Ok(text) = str::from_utf8(bytes) else { return "no text".into() };
        let (query, headers) = (Query::parse(text), HeaderMap::new());
        let target = query.target(&HubName::default_hub(), stores().iter());
        if let Ok(target) = &target {
            assert!(stores().contains(&target.connection));
        }
        let list = ListCall::of(&query, &headers).map_or_else(told, |_| "list".into());
        let start = StartCall::of("F".into(), query.text("instance").map(str::to_owned), &query, &headers, Existing::Keep);
        let start = start.map_or_else(told, |_| "start".into());
        let restart = RestartCall::of("a", &query, &headers).map_or_else(told, |_| "restart".into());
        let wanted = Wanted::of(&query, Edition::default(), Door::Webhooks);
        let times = ["createdTimeFrom", "createdTimeTo"].map(|name| query.time(name).is_some());
        let statuses = query.statuses("runtimeStatus").map(|statuses| statuses.len());
        let flags = (
            wanted.show,
            wanted.history,
            query.flag("recursive"),
            query.integer("top").is_some(),
            query.seconds("wait").is_some(),
        );
        // Whatever was read says the same when it is written down again.
        for (name, value) in query.pieces() {
            let printed: String = form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
            let again = Query::parse(&printed);
            assert_eq!(again.pieces().collect::<Vec<_>>(), [(name, value)], "{printed}");
        }
        format!(
            "{} {list} {start} {restart} {times:?} {statuses:?} {flags:?}",
            target.map_or_else(|refused| refused, |_| "target".into())
        )
    });
}

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH];

#[test]
fn fuzzed_paths_lead_somewhere_or_nowhere() {
    fuzz("path", Shape::Bytes, |bytes| {
        let Ok(path) = str::from_utf8(bytes) else { return "no text".into() };
        let mut seen = String::new();
        for (method, doors) in
            METHODS.iter().flat_map(|method| [&[Door::Webhooks][..], &[Door::Rpc]].map(|doors| (method, doors)))
        {
            seen.push_str(match route(method, path, doors) {
                Ok((endpoint, _)) => {
                    let _ = endpoint.need();
                    endpoint.name()
                }
                Err(Miss::NotFound) => "-",
                Err(Miss::Method { .. }) => "405",
                Err(Miss::NoText) => "400",
            });
            seen.push(' ');
        }
        // An ID that can be one comes back from the URL that is made of it.
        if let Ok(id) = path.parse::<InstanceId>() {
            let parts = Request::builder().uri("/").header("host", "oven").body(()).unwrap().into_parts().0;
            let origin = Origin::of(&parts, ([127, 0, 0, 1], 1).into()).unwrap();
            let target = Query::default().target(&HubName::default_hub(), stores().iter()).unwrap();
            let url = Links::new(&origin, &target, Pass::Nothing).status(&id);
            let path = url.strip_prefix("http://oven").and_then(|url| url.split('?').next()).unwrap();
            let found = route(&Method::GET, path, &[Door::Webhooks]).map(|(endpoint, _)| endpoint);

            assert_eq!(found, Ok(Endpoint::Status { instance: id.to_string(), door: Door::Webhooks }), "{url}");
        }
        seen
    });
}

/// The head of a request as the server gets it: a line with method and URI, and one for each header.
fn head(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut first = str::from_utf8(lines.next()?).ok()?.split(' ');
    let mut parts = Request::builder().method(first.next()?).uri(first.next()?).body(()).ok()?.into_parts().0;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        parts.headers.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some(parts)
}

#[test]
fn fuzzed_headers_are_read_or_refused() {
    let keys = Access::Keys { keys: Keys { master: "mmm".into(), system: "sss".into() }, links: Some(LINKS) };
    let open = Access::Open { hosts: vec!["dev.example".into()] };
    fuzz("headers", Shape::Bytes, |bytes| {
        let Some(parts) = head(bytes) else { return "no head".into() };
        let Some(origin) = Origin::of(&parts, ([127, 0, 0, 1], 7071).into()) else { return "no host".into() };
        let (headers, query) = (&parts.headers, Query::parse(parts.uri.query().unwrap_or_default()));
        let target = query.target(&HubName::default_hub(), stores().iter());
        let caller = Caller { headers, query: &query, origin: &origin, target: target.as_ref().ok(), now_s: 1_000 };
        let need = Need::Instance { verb: Verb::Status, instance: "a" };
        let access = [&keys, &open].map(|access| access.check(need, caller).map_or_else(told, |_| "ok".into()));
        let url = origin.url_of(&parts.uri);
        let forwarded = origin.forwarded(headers);
        if let Ok(target) = &target {
            let links = Links::new(&forwarded, target, Pass::Link { links: &LINKS, now_s: 1_000 });
            let made = links.status(&"a b".parse().unwrap());
            assert!(made.parse::<hyper::Uri>().is_ok(), "{made}");
        }
        let start = StartCall::of("F".into(), None, &query, headers, Existing::Keep).map_or_else(told, |_| "start".into());
        let list = ListCall::of(&query, headers).map_or_else(told, |_| "list".into());
        let cursor = headers.get("last-event-id").and_then(|id| Cursor::parse(id.to_str().ok()?));
        if let Some(cursor) = &cursor {
            assert_eq!(Cursor::parse(&cursor.to_string()).as_ref(), Some(cursor));
        }
        let wants = (stream::is_asked_for(headers), is_json(headers), cursor.is_some(), url.len() > 100);
        format!("{} {start} {list} {wants:?}", access.join(" "))
    });
}

#[test]
fn fuzzed_bodies_are_json_or_refused() {
    fuzz("json", Shape::Json, |bytes| match start::input(bytes) {
        Ok(payload) => {
            // It passes through as it is, into what is stored and out of it.
            let event = Event::Raised { at_ms: 1, name: "go".into(), payload: payload.clone() };
            let stored = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&stored).unwrap(), event);
            let given = str::from_utf8(bytes).unwrap().trim_start_matches('\u{feff}').trim();
            assert!(given == payload.text() || given.is_empty(), "{given:?} became {:?}", payload.text());
            payload.text().chars().filter(|c| "{}[]\",:".contains(*c)).take(4).collect()
        }
        Err(error) => told(error),
    });
}

#[test]
fn fuzzed_histories_are_folded_and_shown_or_refused() {
    fuzz("history", Shape::Json, |bytes| {
        if let Ok(body) = serde_json::from_slice::<Body>(bytes) {
            let printed = serde_json::to_string(&body).unwrap();
            assert_eq!(serde_json::from_str::<Body>(&printed).unwrap(), body);
            return "a message".into();
        }
        let history: Vec<Event> = match serde_json::from_slice(bytes) {
            Ok(history) => history,
            Err(error) => return error.to_string(),
        };
        let printed = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Event>>(&printed).unwrap(), history);
        for (input, output) in [(false, false), (true, true)] {
            serde_json::to_string(&history_view::view(&history, Show { input, output })).unwrap();
        }
        let shown = rewind::is_shown(&history).into_iter().filter(|shown| *shown).count();
        let rewinds = (rewind::to_reopen(&history).len(), rewind::refused(&history).len(), rewind::asked_last(&history).len());
        match Execution::fold(&history) {
            Ok(execution) => {
                let waits = waits::Waits::fold(&*rewind::standing(&history));
                let (wake, end) = (execution.wake(), execution.end.map(|end| end.status()));
                let counts = [execution.open.len(), execution.unread.len(), execution.timers.len(), waits.open().len(), shown];
                let some = counts.map(|count| count > 0);
                format!("{} {end:?} {some:?} {}", wake.ms().is_some(), rewinds.0 > 0)
            }
            Err(corrupt) => corrupt.to_string(),
        }
    });
}
