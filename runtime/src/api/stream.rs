//! How does a client follow an instance over one request? By server-sent events, which it can take up again where it was cut off.
//!
//! The events come out of [`Follower`] as fast as the client takes them; between two that it takes, a stream holds a page of them at
//! most. The ID of each says how far the client is with it: the generation of the execution, the number of the stored event that comes
//! next, and what the client knows of the status. So a stream goes on anywhere, on another connection or after a restart.

use std::fmt::{self, Display, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use hyper::{HeaderMap, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use super::Draining;
use super::connections::AtWork;
use super::error::{self, ApiError};
use super::history_view::{self, Show};
use super::reply::Reply;
use super::status::StatusPayload;
use crate::engine::{Asked, Fingerprint, Followed, FollowedEvent, Follower, Hub, Place};
use crate::metrics::{Held, Metrics};
use crate::model::{Action, Event, Started};

/// The type of the body.
const EVENT_STREAM: &str = "text/event-stream";

/// How long a stream may say nothing, in seconds. What lies between server and client may cut connections on which nothing is said
/// for half a minute.
const KEEP_ALIVE_S: u64 = 15;

/// How long a client should wait before it comes back after a stream was cut off, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Who asks for a stream.
#[derive(Clone, Copy)]
pub(super) struct Listener<'a> {
    /// What is shown of a history.
    pub(super) show: Show,
    /// The request's.
    pub(super) headers: &'a HeaderMap,
    /// For how long it may be told anything, if not for ever.
    pub(super) longest: Option<Duration>,
}

/// Places for the streams of a server.
pub(super) struct Streams {
    places: Arc<Semaphore>,
    most: u32,
}

impl Streams {
    /// So many at once.
    pub(super) fn at_most(most: u32) -> Self {
        Self { places: Arc::new(Semaphore::new(most as usize)), most }
    }

    /// `GET {prefix}/instances/{instance}` with `Accept: text/event-stream`: follows an instance to its end.
    ///
    /// 200 with a stream. Its events are `status`, with the status object, whenever runtime status, custom status or output are others than
    /// before; and `history`, with an element of `historyEvents`, for each stored event in its order: what was asked for when it was asked for,
    /// and its answer, which carries name, time and input again, when that has come. How the instance stands comes first unless the client knows, and
    /// an end comes last; then the stream ends. With `Last-Event-ID` it goes on behind that event, or, if the instance has continued as new,
    /// with the beginning of its present execution. 204 if there is nothing behind it, so that clients do not come again. 404 if there is no such
    /// instance, hub or possible ID; 503 if the server has as many streams as it may.
    pub(super) async fn open(
        &self,
        hub: Option<&Hub>,
        instance: &str,
        listener: Listener<'_>,
        draining: &Draining,
        metrics: &Metrics,
    ) -> Result<Reply, ApiError> {
        let Listener { show, headers, longest } = listener;
        let unknown = || ApiError::empty(StatusCode::NOT_FOUND);
        let hub = hub.ok_or_else(unknown)?;
        let id = instance.parse().map_err(|_| unknown())?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let most = self.most;
            ApiError::unavailable(format!("the server has {most} event streams open, which is the limit event_streams_max"))
        })?;
        let cursor = headers.get("last-event-id").and_then(|id| Cursor::parse(id.to_str().ok()?));
        let follower =
            hub.follow(&id, cursor.map(|cursor| cursor.place)).await.map_err(ApiError::internal)?.ok_or_else(unknown)?;
        if follower.has_nothing_to_tell() {
            return Ok(Reply::empty(StatusCode::NO_CONTENT));
        }
        // Of the event that it goes on with, the client may have a part.
        let known = cursor.filter(|cursor| cursor.place == follower.place()).map_or((0, 0), |it| (it.place.event, it.parts));
        let draining = draining.clone();
        Ok(Reply::stream(
            EVENT_STREAM,
            EventBody {
                preface: Some(format!("retry: {RETRY_MS}\n\n").into()),
                next: Some(Box::pin(Source { follower, show, known }.next())),
                keep_alive: Box::pin(sleep(Duration::from_secs(KEEP_ALIVE_S))),
                over: Box::pin(async move {
                    let expired = longest.map(sleep);
                    tokio::select! {
                        () = draining.begun() => (),
                        () = async { expired.expect("it is only polled then").await }, if longest.is_some() => (),
                    }
                }),
                _at_work: None,
                _place: place,
                _held: metrics.stream_is_open(),
            },
        ))
    }
}

/// Whether a client would rather have events than the status: if it names them, and asks for JSON by a lower weight, or only as anything else.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).into_iter().filter_map(|line| line.to_str().ok());
    let ranges: Vec<(String, f32)> = lines.flat_map(|line| line.split(',')).filter_map(range).collect();
    let weight = |name: &str| ranges.iter().find(|(range, _)| range == name).map(|(_, weight)| *weight);
    let Some(events) = weight(EVENT_STREAM).filter(|weight| *weight > 0.0) else { return false };
    match (weight("application/json"), weight("application/*").or_else(|| weight("*/*"))) {
        (Some(json), _) => json < events,
        (None, anything) => anything.is_none_or(|anything| anything <= events),
    }
}

/// A media range of an `Accept` header, in lower case, with its weight. `None` if the weight is none.
fn range(text: &str) -> Option<(String, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next()?.to_ascii_lowercase();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let weight = weight.map_or(Some(1.0), |weight| weight.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)));
    Some((name, weight?))
}

/// How far a client is: the ID of an event, which is the place behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    place: Place,
    /// How many events of the stream it has that show the stored event at this place.
    parts: usize,
}

impl Cursor {
    /// `None` if it is the ID of no event of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (generation, event, seen) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        let (event, shown) = event.split_once('.').unwrap_or((event, "0"));
        let seen = match seen {
            "" => None,
            seen => Some(Fingerprint(u32::from_str_radix(seen, 16).ok()?)),
        };
        let place = Place { generation, event: event.parse().ok()?, seen };
        parts.next().is_none().then_some(Self { place, parts: shown.parse().ok()? })
    }
}

impl Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place: Place { generation, event, seen }, parts } = self;
        write!(f, "{generation}-{event}")?;
        if *parts > 0 {
            write!(f, ".{parts}")?;
        }
        match seen {
            Some(Fingerprint(seen)) => write!(f, "-{seen:08x}"),
            None => write!(f, "-"),
        }
    }
}

/// Where the text of a stream comes from.
struct Source {
    follower: Follower,
    show: Show,
    /// Of this stored event the client has so many parts.
    known: (u32, usize),
}

impl Source {
    /// The next piece of text, and the source of the ones after it. `None` at the end.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        let mut text = String::new();
        while text.is_empty() {
            match self.follower.next().await {
                Ok(Followed::Events(events)) => self.print(events, &mut text),
                Ok(Followed::Status(view)) => {
                    let cursor = Cursor { place: self.follower.place(), parts: self.known_parts() };
                    print(&mut text, "status", &cursor, &StatusPayload::of(&view, self.show));
                }
                Ok(Followed::Ended) => return None,
                Err(error) => {
                    let _ = error::log_failure(format_args!("following an instance: {error}"));
                    return None;
                }
            }
        }
        Some((text.into(), self))
    }

    /// How many parts the client has of the event that comes next.
    fn known_parts(&self) -> usize {
        let (event, parts) = self.known;
        if event == self.follower.place().event { parts } else { 0 }
    }

    fn print(&mut self, events: Vec<FollowedEvent>, text: &mut String) {
        let place = self.follower.place();
        for followed in events {
            let number = followed.number;
            let (known, skipped) = std::mem::take(&mut self.known);
            let skipped = if known == number { skipped } else { 0 };
            let history = context(self.follower.started(), followed);
            let shown = history_view::view(&history, self.show);
            let shown = shown.get(shown_from(&history)..).unwrap_or_default();
            for (part, event) in (1..).zip(shown).skip(skipped) {
                let (event_next, parts) = if part == shown.len() { (number + 1, 0) } else { (number, part) };
                print(text, "history", &Cursor { place: Place { event: event_next, ..place }, parts }, event);
            }
        }
    }
}

/// A history in which the event stands last and is shown as in the whole one.
fn context(started: &Started, followed: FollowedEvent) -> Vec<Event> {
    let FollowedEvent { event, turn_at_ms, asked, .. } = followed;
    let start = Event::Started(started.clone());
    match (event, asked) {
        (event @ Event::Started(_), _) => vec![event],
        (event @ Event::Resolved { task, .. }, Some(Asked { at_ms, action })) => {
            vec![start, Event::TurnStarted { at_ms, consumes: 0 }, Event::Scheduled { task, action }, event]
        }
        (event, _) => vec![start, Event::TurnStarted { at_ms: turn_at_ms, consumes: 0 }, event],
    }
}

/// How many elements of the view of a [`context`] show what comes before its last event.
fn shown_from(context: &[Event]) -> usize {
    match context {
        [_] => 0,
        // Any other answer takes the place of its task.
        [.., Event::Scheduled { action: Action::Timer { .. }, .. }, Event::Resolved { .. }] => 2,
        _ => 1, // The start; turns are not shown.
    }
}

/// Prints one event. A payload may have line breaks between its values, and a line break ends a line of data: whoever reads puts them
/// together again.
fn print(text: &mut String, name: &str, id: &Cursor, data: &impl serde::Serialize) {
    let json = serde_json::to_string(data).expect("our own types have string keys and print without errors");
    let _ = write!(text, "event: {name}\nid: {id}\n"); // A text takes everything.
    for line in json.split(['\n', '\r']) {
        text.extend(["data: ", line, "\n"]);
    }
    text.push('\n');
}

/// The next piece of a stream on its way.
type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Source)>> + Send>>;

/// The body of a stream. Dropped with its connection, and with it all that it holds.
pub(super) struct EventBody {
    preface: Option<Bytes>,
    /// What is to be sent next, and where it goes on from there; `None` at the end.
    next: Option<Next>,
    keep_alive: Pin<Box<Sleep>>,
    /// Done when the server is asked to stop, or the listener may be told no more.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Nobody keeps the server waiting by listening.
    _at_work: Option<AtWork>,
    _place: OwnedSemaphorePermit,
    _held: Held,
}

impl EventBody {
    /// The same as a part of this work, which goes on as long as the stream.
    pub(super) fn in_work(self, at_work: Option<AtWork>) -> Self {
        Self { _at_work: at_work, ..self }
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let frame = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if let Some(preface) = this.preface.take() {
            return frame(preface);
        }
        // A client comes back to another server, or to this one when it is there again.
        if this.over.as_mut().poll(context).is_ready() {
            this.next = None;
        }
        let Some(next) = &mut this.next else { return Poll::Ready(None) };
        let sent = match next.as_mut().poll(context) {
            Poll::Ready(Some((bytes, source))) => {
                this.next = Some(Box::pin(source.next()));
                bytes
            }
            Poll::Ready(None) => {
                this.next = None;
                return Poll::Ready(None);
            }
            Poll::Pending if this.keep_alive.as_mut().poll(context).is_ready() => Bytes::from_static(b":\n\n"),
            Poll::Pending => return Poll::Pending,
        };
        this.keep_alive.as_mut().reset(Instant::now() + Duration::from_secs(KEEP_ALIVE_S));
        frame(sent)
    }
}

impl fmt::Debug for EventBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("events")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::execution::tests::{ended, scheduled, started};
    use crate::model::{Generation, Outcome, Payload, TaskId};

    #[test]
    fn events_are_for_those_who_name_them_and_do_not_rather_have_json() {
        let check = |accept: &[&'static str], expected: bool| {
            let mut headers = HeaderMap::new();
            for line in accept {
                headers.append(header::ACCEPT, header::HeaderValue::from_static(line));
            }
            assert_eq!(is_asked_for(&headers), expected, "{accept:?}");
        };
        check(&[], false);
        for no in
            ["*/*", "text/*", "application/json", "text/event-stream;q=0", "text/event-stream;q=2", "text/event-streams", ""]
        {
            check(&[no], false);
        }
        for yes in ["text/event-stream", " TEXT/event-stream ; charset=utf-8;q=0.001", "text/event-stream;q=1, */*;q=0.9"] {
            check(&[yes], true);
        }
        check(&["application/json, text/event-stream"], false);
        check(&["application/json;q=0.9", "text/event-stream"], true);
        check(&["application/json", "text/event-stream;q=0.5"], false);
        check(&["text/event-stream, */*"], true);
        check(&["text/event-stream;q=0.5, */*"], false);
        check(&["text/event-stream;q=0.5, application/*;q=0.6, */*;q=0.1"], false);
    }

    #[test]
    fn an_id_is_the_place_behind_its_event() {
        let generation = Generation([0xab; 16]);
        let check = |event: u32, parts: usize, seen: Option<u32>, expected: &str| {
            let place = Place { generation, event, seen: seen.map(Fingerprint) };
            let (cursor, text) = (Cursor { place, parts }, format!("{}{expected}", "ab".repeat(16)));
            assert_eq!((cursor.to_string(), Cursor::parse(&text)), (text, Some(cursor)));
        };
        check(0, 0, None, "-0-");
        check(17, 0, Some(0x1a2b), "-17-00001a2b");
        check(u32::MAX, 1, Some(u32::MAX), "-4294967295.1-ffffffff");
        for other in ["", "-", "ab-1-", "x", &format!("{}-1", "ab".repeat(16)), &format!("{}-1--", "ab".repeat(16))] {
            assert_eq!(Cursor::parse(other), None, "{other}");
        }
    }

    #[test]
    fn data_is_on_as_many_lines_as_its_payload() {
        let cursor = Cursor { place: Place { generation: Generation([0; 16]), event: 1, seen: None }, parts: 0 };
        let mut text = String::new();
        print(&mut text, "history", &cursor, &Payload::parse("[1,\r\n 2]".into()).unwrap());
        let zeros = "0".repeat(32);
        assert_eq!(text, format!("event: history\nid: {zeros}-1-\ndata: [1,\ndata: \ndata:  2]\n\n"));
    }

    /// What is shown of an event that stands alone.
    fn check(event: Event, asked: Option<Action>, expected: &[&str]) {
        let asked = asked.map(|action| Asked { at_ms: 1_500, action });
        let history = context(&started(), FollowedEvent { number: 7, event, turn_at_ms: 1_600, asked });
        let shown = history_view::view(&history, Show { input: false, output: true });
        let shown = shown.get(shown_from(&history)..).unwrap_or_default();
        let seen: Vec<_> = shown.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn each_stored_event_is_shown_once_as_in_the_whole_history() {
        let answer = |outcome| Event::Resolved { task: TaskId(0), at_ms: 1_700, outcome, ran: None };
        let timer = || Action::Timer { due_ms: 60_000 };
        let Event::Scheduled { action: mix, .. } = scheduled(0, "Mix") else { unreachable!() };
        let start = r#"{"EventType":"ExecutionStarted","Timestamp":"1970-01-01T00:00:01Z","FunctionName":"BakeBread"}"#;
        check(Event::Started(started()), None, &[start]);
        check(Event::TurnStarted { at_ms: 1_600, consumes: 0 }, None, &[]);
        check(scheduled(0, "Mix"), None, &[r#"{"EventType":"TaskScheduled","Name":"Mix","Timestamp":"1970-01-01T00:00:01.6Z"}"#]);
        let mixed = r#"{"EventType":"TaskCompleted","Result":5,"Timestamp":"1970-01-01T00:00:01.7Z","ScheduledTime":"1970-01-01T00:00:01.5Z","FunctionName":"Mix"}"#;
        check(answer(Outcome::Completed(Payload::of(&5))), Some(mix), &[mixed]);
        check(answer(Outcome::Completed(Payload::of(&5))), None, &[]);
        let created = r#"{"EventType":"TimerCreated","FireAt":"1970-01-01T00:01:00Z","Timestamp":"1970-01-01T00:00:01.6Z"}"#;
        check(Event::Scheduled { task: TaskId(0), action: timer() }, None, &[created]);
        let fired = r#"{"EventType":"TimerFired","FireAt":"1970-01-01T00:01:00Z","Timestamp":"1970-01-01T00:00:01.7Z"}"#;
        check(answer(Outcome::Fired), Some(timer()), &[fired]);
        check(Event::Scheduled { task: TaskId(0), action: Action::WaitEvent { name: "go".into() } }, None, &[]);
        check(Event::Cancelled { task: TaskId(0) }, None, &[]);
        let raised = r#"{"EventType":"EventRaised","Name":"go","Timestamp":"1970-01-01T00:00:01.7Z"}"#;
        check(Event::Raised { at_ms: 1_700, name: "go".into(), payload: Payload::null() }, None, &[raised]);
        let end = r#"{"EventType":"ExecutionCompleted","OrchestrationStatus":"Completed","Result":null,"FailureDetails":null,"Timestamp":"1970-01-01T00:00:02Z"}"#;
        check(ended(), None, &[end]);
    }
}
