//! What goes back to a client? A status, a few headers and one body: whole, so that it leaves in one write, or a stream.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use percent_encoding::{CONTROLS, utf8_percent_encode};
use serde::Serialize;

use super::connections::AtWork;
use super::export::ExportBody;
use super::stream::EventBody;

/// A body as hyper takes it. One that is whole costs nothing for the others.
pub(super) type ReplyBody = Either<Full<Bytes>, Either<EventBody, ExportBody>>;

/// An answer that is ready to be sent.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Content,
}

/// What the body is.
#[derive(Debug)]
enum Content {
    Whole(Bytes),
    Stream(Box<EventBody>),
    File(ExportBody),
}

impl Reply {
    /// A status with a body of length zero: some clients decode whatever is there as JSON.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Content::Whole(Bytes::new()) }
    }

    /// `value` as JSON, without indentation.
    pub(super) fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Self {
        let body = serde_json::to_vec(value).expect("our own types have string keys and print without errors");
        Self::empty(status).body("application/json; charset=utf-8", body.into())
    }

    /// Bytes of another type.
    pub(super) fn bytes(content_type: &'static str, body: Bytes) -> Self {
        Self::empty(StatusCode::OK).body(content_type, body)
    }

    /// A stream that nobody may keep, and no proxy gather.
    pub(super) fn stream(content_type: &'static str, body: EventBody) -> Self {
        Self { body: Content::Stream(Box::new(body)), ..Self::empty(StatusCode::OK) }
            .header(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
            .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
            .header(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))
    }

    /// A file that is made while it is sent.
    pub(super) fn file(content_type: &'static str, body: ExportBody) -> Self {
        Self { body: Content::File(body), ..Self::empty(StatusCode::OK) }
            .header(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
            .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }

    /// The same with a `Location`. What a URL may not hold as it is, if a client sent it to us, is escaped.
    pub(super) fn location(self, url: &str) -> Self {
        let printable = utf8_percent_encode(url, CONTROLS).to_string();
        self.header(header::LOCATION, HeaderValue::try_from(printable).expect("escaped, it is printable ASCII"))
    }

    /// The same with the time after which to ask again.
    pub(super) fn retry_after_s(self, seconds: u32) -> Self {
        self.header(header::RETRY_AFTER, seconds.into())
    }

    /// The same with the methods that would have been understood.
    pub(super) fn allow(self, methods: &str) -> Self {
        self.header(header::ALLOW, HeaderValue::try_from(methods).expect("methods are tokens"))
    }

    /// The same with what leads to the next page of a list; empty at the end of it.
    pub(super) fn continuation_token(self, token: &str) -> Self {
        let name = HeaderName::from_static("x-ms-continuation-token");
        self.header(name, HeaderValue::try_from(token).expect("tokens are hex digits"))
    }

    /// The same, after which the connection closes.
    pub(super) fn close(self) -> Self {
        self.header(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// The status, for the log.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// For pages of any origin too: the request was let in by what its URL carries, and by nothing that a browser adds unasked.
    pub(super) fn for_pages(self) -> Self {
        self.header(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))
            .header(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Location, Retry-After"))
    }

    /// As hyper wants it. The work for the request ends with that, unless a stream is a part of it.
    pub(super) fn into_response(self, at_work: Option<AtWork>) -> Response<ReplyBody> {
        let mut response = Response::new(match self.body {
            Content::Whole(bytes) => Either::Left(Full::new(bytes)),
            Content::Stream(body) => Either::Right(Either::Left(body.in_work(at_work))),
            Content::File(body) => Either::Right(Either::Right(body.in_work(at_work))),
        });
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    fn body(self, content_type: &'static str, body: Bytes) -> Self {
        Self { body: Content::Whole(body), ..self }.header(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

#[cfg(test)]
impl Reply {
    /// Status, `Location` and body, for tests.
    pub(super) fn shown(&self) -> String {
        let location = self.headers.get(header::LOCATION).map_or("", |value| value.to_str().unwrap());
        let Content::Whole(body) = &self.body else { panic!("a stream") };
        format!("{} {location} {}", self.status.as_u16(), std::str::from_utf8(body).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_always_printable_ascii() {
        let reply = Reply::empty(StatusCode::ACCEPTED).location("http://h/a b/\u{fc}?x=\u{1}");
        assert_eq!(reply.headers[header::LOCATION], "http://h/a b/%C3%BC?x=%01");
    }

    #[test]
    fn an_empty_reply_has_no_content_type() {
        let reply = Reply::empty(StatusCode::NOT_FOUND);
        assert!(reply.headers.is_empty() && matches!(reply.body, Content::Whole(body) if body.is_empty()));
    }
}
