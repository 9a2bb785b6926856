//! How is a request's body read, when it may be endless, slow or broken?

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Body;
use tokio::time::timeout;

use super::error::ApiError;

/// How long any body may take, in seconds: enough for a payload over a bad line.
const READ_S_MIN: u64 = 30;

/// The slowest that a large body may arrive, in bytes per second; a slower client only holds memory.
const READ_BYTES_PER_S_MIN: u64 = 128 << 10;

/// How long what nobody will read is taken in before the answer is sent, in milliseconds.
const DISCARD_MS_MAX: u64 = 2_000;

/// What is set aside for a body on the word of its `Content-Length` alone, in bytes.
const RESERVED_BYTES_MAX: u64 = 1 << 20;

/// Reads a whole body of at most `bytes_max`, the bound that the configuration calls `bound`.
///
/// # Errors
/// 413 if it is larger, before anything is read if its length was announced; 408 if it takes too long; 400 if it breaks off.
pub(super) async fn read<B>(body: &mut B, bytes_max: usize, bound: &str) -> Result<Bytes, ApiError>
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
        let mut bytes = Vec::with_capacity(announced.min(RESERVED_BYTES_MAX) as usize);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ApiError::ours_bad_request(format!("the body broke off: {error}")))?;
            let Ok(data) = frame.into_data() else { continue }; // Trailers say nothing to us.
            if bytes.len() + data.len() > bytes_max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Bytes::from(bytes))
    };
    let seconds = READ_S_MIN + bytes_max as u64 / READ_BYTES_PER_S_MIN;
    timeout(Duration::from_secs(seconds), reading).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {seconds} seconds");
        Err(ApiError::ours(StatusCode::REQUEST_TIMEOUT, "too_slow", message))
    })
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

    #[tokio::test]
    async fn a_body_up_to_its_bound_is_read_whole() {
        let mut body = Full::new(Bytes::from_static(b"12345678"));
        assert_eq!(read(&mut body, 8, "b").await.unwrap(), "12345678");
    }

    #[tokio::test]
    async fn a_body_past_its_bound_is_refused_with_the_name_of_the_bound() {
        let refused = r#"413  {"error":{"code":"too_large","message":"the body has more than 8 bytes, which is the limit b"}}"#;
        let mut announced = Full::new(Bytes::from_static(b"123456789"));
        assert_eq!(read(&mut announced, 8, "b").await.unwrap_err().into_reply().shown(), refused);
        assert!(!announced.is_end_stream(), "nothing was read");
        let mut endless = Pieces(u32::MAX);
        assert_eq!(read(&mut endless, 8, "b").await.unwrap_err().into_reply().shown(), refused);
        assert_eq!(endless.0, u32::MAX - 3);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_a_bad_request() {
        let shown = read(&mut Pieces(1), 8, "b").await.unwrap_err().into_reply().shown();
        assert!(shown.starts_with("400 ") && shown.contains("broke off: gone"), "{shown}");
    }
}
