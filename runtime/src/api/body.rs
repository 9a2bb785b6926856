//! How is a request's body read, when it may be endless, slow or broken, and one of ten thousand?

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::{HeaderMap, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::ApiError;

/// How many bytes of bodies the server holds at once, over all requests: four of the largest modules, or 64 of the largest
/// payloads. Without this 10,000 connections could make it hold 40 GB.
const HELD_BYTES_MAX: usize = 256 << 20;

/// How long any body may take, in seconds: enough for a payload over a bad line.
const READ_S_MIN: u64 = 30;

/// The slowest that a large body may arrive, in bytes per second; a slower client only holds memory.
const READ_BYTES_PER_S_MIN: u64 = 128 << 10;

/// How long what nobody will read is taken in before the answer is sent, in milliseconds.
const DISCARD_MS_MAX: u64 = 2_000;

/// What is set aside for a body on the word of its `Content-Length` alone, in bytes.
const RESERVED_BYTES_MAX: u64 = 64 << 10;

/// Room for the bodies of all requests. It is given out as bytes arrive: who only announces a body takes none.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

/// A body that was read whole. Its room is free again once this is dropped, and the [`Share`] or [`Bytes`] made of it.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) share: Share,
}

/// A part of the [`Room`], for as long as it lives.
#[derive(Debug)]
pub(super) struct Share(OwnedSemaphorePermit);

impl Room {
    /// Room for [`HELD_BYTES_MAX`], or for a single body of `bytes_max` if that is more.
    pub(super) fn with(bytes_max: usize) -> Self {
        Self::of(HELD_BYTES_MAX.max(bytes_max))
    }

    fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// No part of it yet.
    fn share(&self) -> Share {
        Share(self.0.clone().try_acquire_many_owned(0).expect("nothing is always there, and the semaphore is never closed"))
    }

    /// Reads a whole body of at most `bytes_max`, the bound that the configuration calls `bound`.
    ///
    /// # Errors
    /// 413 if it is larger, before anything is read if its length was announced; 408 if it takes too long; 400 if it breaks off.
    /// `full`, which says so in the caller's form, if there is no room for it now.
    pub(super) async fn read<B>(
        &self,
        body: &mut B,
        bytes_max: usize,
        bound: &str,
        full: fn(&'static str) -> ApiError,
    ) -> Result<Received, ApiError>
    where
        B: Body<Data = Bytes, Error: Display> + Unpin,
    {
        let longest = Duration::from_secs(READ_S_MIN + bytes_max as u64 / READ_BYTES_PER_S_MIN);
        self.read_within(longest, body, bytes_max, bound, full).await
    }

    /// The same for a body that may take `longest`, however it comes: byte by byte, or not at all.
    async fn read_within<B>(
        &self,
        longest: Duration,
        body: &mut B,
        bytes_max: usize,
        bound: &str,
        full: fn(&'static str) -> ApiError,
    ) -> Result<Received, ApiError>
    where
        B: Body<Data = Bytes, Error: Display> + Unpin,
    {
        let too_large = || {
            let message = format!("the body has more than {bytes_max} bytes, which is the limit {bound}");
            ApiError::ours(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        };
        let announced = body.size_hint().lower();
        if announced > bytes_max as u64 {
            return Err(too_large());
        }
        let reading = async {
            let mut share = self.share();
            let mut bytes = Vec::with_capacity(announced.min(RESERVED_BYTES_MAX) as usize);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| ApiError::ours_bad_request(format!("the body broke off: {error}")))?;
                let Ok(data) = frame.into_data() else { continue }; // Trailers say nothing to us.
                if bytes.len() + data.len() > bytes_max {
                    return Err(too_large());
                }
                if !self.give(&mut share, data.len()) {
                    return Err(full("the server holds as many bytes of requests as it can; try again in a moment"));
                }
                bytes.extend_from_slice(&data);
            }
            Ok(Received { bytes, share })
        };
        timeout(longest, reading).await.unwrap_or_else(|_| {
            let message = format!("the body did not arrive within {} seconds", longest.as_secs_f32());
            Err(ApiError::ours(StatusCode::REQUEST_TIMEOUT, "too_slow", message))
        })
    }

    /// Adds room for `bytes` to `share`; whether there was so much.
    fn give(&self, share: &mut Share, bytes: usize) -> bool {
        let more = u32::try_from(bytes).ok().and_then(|bytes| self.0.clone().try_acquire_many_owned(bytes).ok());
        more.map(|more| share.0.merge(more)).is_some()
    }
}

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Received> for Bytes {
    /// The same bytes, which keep their room wherever they go, also when nobody waits for the answer any more.
    fn from(received: Received) -> Self {
        Self::from_owner(received)
    }
}

/// Whether the body comes as what it is. Nobody here takes apart what was compressed on the way.
///
/// # Errors
/// 501 or 415 if it does not.
pub(super) fn as_it_is(headers: &HeaderMap) -> Result<(), ApiError> {
    let is_other =
        |name, plain: &str| headers.get_all(name).iter().any(|it| !it.as_bytes().eq_ignore_ascii_case(plain.as_bytes()));
    if is_other(header::TRANSFER_ENCODING, "chunked") {
        let message = "send the body with a Content-Length, or with Transfer-Encoding: chunked and nothing else";
        return Err(ApiError::ours(StatusCode::NOT_IMPLEMENTED, "unknown_transfer_encoding", message));
    }
    if is_other(header::CONTENT_ENCODING, "identity") {
        let message = "send the body as it is, without a Content-Encoding";
        return Err(ApiError::ours(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown_content_encoding", message));
    }
    Ok(())
}

/// Takes in the rest of a body for a moment. A socket that closes with bytes unread resets the connection, and a client that is
/// still sending would get that reset in place of our answer.
pub(super) async fn discard<B: Body + Unpin>(body: &mut B) {
    let reading = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = timeout(Duration::from_millis(DISCARD_MS_MAX), reading).await;
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body_util::Full;
    use hyper::body::Frame;

    use super::*;

    /// A body of many pieces that never says how long it is.
    struct Pieces(u32);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            if self.0 == 0 {
                return Poll::Ready(Some(Err("gone")));
            }
            self.0 -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"four")))))
        }
    }

    /// A body that comes byte by byte and never ends.
    struct Trickle(Pin<Box<tokio::time::Sleep>>);

    impl Body for Trickle {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            std::task::ready!(self.0.as_mut().poll(context));
            self.0.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(1));
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
        }
    }

    #[tokio::test]
    async fn a_body_that_trickles_is_cut_off_and_its_room_is_free() {
        let room = Room::of(1 << 20);
        let mut trickle = Trickle(Box::pin(tokio::time::sleep(Duration::ZERO)));
        let longest = Duration::from_millis(100);
        let refused = room.read_within(longest, &mut trickle, 1 << 20, "b", ApiError::unavailable).await.unwrap_err();
        let expected = r#"408  {"error":{"code":"too_slow","message":"the body did not arrive within 0.1 seconds"}}"#;
        assert_eq!(refused.into_reply().shown(), expected);
        assert_eq!(room.0.available_permits(), 1 << 20);
    }

    /// Reads with a bound of 8 bytes; the error is the answer that refuses the body.
    async fn read(room: &Room, body: &mut (impl Body<Data = Bytes, Error: Display> + Unpin)) -> Result<Received, String> {
        let read = room.read(body, 8, "b", ApiError::unavailable).await;
        read.map_err(|error| error.into_reply().shown())
    }

    fn full(text: &'static str) -> Full<Bytes> {
        Full::new(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_body_up_to_its_bound_is_read_whole() {
        assert_eq!(read(&Room::with(8), &mut full("12345678")).await.unwrap().bytes, b"12345678");
    }

    #[tokio::test]
    async fn a_body_past_its_bound_is_refused_with_the_name_of_the_bound() {
        let room = Room::with(8);
        let refused = r#"413  {"error":{"code":"too_large","message":"the body has more than 8 bytes, which is the limit b"}}"#;
        let mut announced = full("123456789");
        assert_eq!(read(&room, &mut announced).await.unwrap_err(), refused);
        assert!(!announced.is_end_stream(), "nothing was read");
        let mut endless = Pieces(u32::MAX);
        assert_eq!(read(&room, &mut endless).await.unwrap_err(), refused);
        assert_eq!(endless.0, u32::MAX - 3);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_a_bad_request() {
        let shown = read(&Room::with(8), &mut Pieces(1)).await.unwrap_err();
        assert!(shown.starts_with("400 ") && shown.contains("broke off: gone"), "{shown}");
    }

    #[tokio::test]
    async fn bodies_are_refused_while_others_take_up_all_the_room() {
        let room = Room::of(10);
        let check = async |expected: usize| {
            let refused = read(&room, &mut full("12345678")).await.unwrap_err();
            assert!(
                refused.starts_with(r#"503  {"Message":"The server cannot take this now","ExceptionMessage":""#),
                "{refused}"
            );
            assert_eq!(room.0.available_permits(), expected, "what was refused takes none");
        };
        let Received { share, .. } = read(&room, &mut full("123")).await.unwrap();
        check(7).await;
        let bytes = Bytes::from(read(&room, &mut full("1234567")).await.unwrap());
        drop(share);
        check(3).await;
        let part = bytes.slice(1..2);
        drop(bytes);
        check(3).await;
        drop(part);
        assert!(read(&room, &mut full("12345678")).await.is_ok());
    }
}
