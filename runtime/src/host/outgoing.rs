//! What happens when an activity makes an HTTP request? `wasi:http` hands it over here; the client sends it if the hub's policy allows.

use std::io;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::{Request, Response};
use tokio::sync::Semaphore;
use tokio_rustls::rustls;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::client::{Client, Patience, Phase, SendError};
use super::network::Denial;
use super::state::SharedLines;
use super::surroundings::Surroundings;
use crate::model::LogLevel;

/// How many requests one call of an activity may have under way, answers that are being read included. Each holds a connection, of
/// which the server's process may have some thousand.
const REQUESTS_MAX: usize = 64;

/// The requests of one call of an activity.
pub(super) struct Outgoing {
    client: Client,
    surroundings: Arc<Surroundings>,
    lines: SharedLines,
    room: Arc<Semaphore>,
}

impl Outgoing {
    /// Why a request came to nothing goes to `lines` too: of what `wasi:http` can say, most libraries show a number.
    pub(super) fn new(client: Client, surroundings: Arc<Surroundings>, lines: SharedLines) -> Self {
        Self { client, surroundings, lines, room: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Box<dyn Future<Output = Result<(Response<WasiBody>, Io), Error>> + Send>;

impl WasiHttpHooks for Outgoing {
    fn set_host_header(&mut self) -> bool {
        false // The client does.
    }

    fn send_request(&mut self, request: Request<WasiBody>, options: Option<RequestOptions>, _read: Io) -> Answer {
        let options = options.unwrap_or_default();
        let patience = Patience {
            connect: options.connect_timeout,
            first_byte: options.first_byte_timeout,
            between_bytes: options.between_bytes_timeout,
        };
        let (client, surroundings, lines) = (self.client.clone(), self.surroundings.clone(), self.lines.clone());
        let room = self.room.clone().try_acquire_owned();
        Box::new(async move {
            let say = |message: String| lines.lock().push(LogLevel::Warn, "dacapo".into(), message);
            let Ok(room) = room else {
                say(format!("the activity has {REQUESTS_MAX} HTTP requests under way, and may not have more at once"));
                return Err(Error::ConnectionLimitReached);
            };
            let answer = client.send(&surroundings.network, request, patience).await.map_err(|error| {
                say(format!("no answer to an HTTP request: {error}"));
                code(error)
            })?;
            let body = |body: super::client::AnswerBody| {
                body.map_err(move |error| {
                    let _until_read = &room;
                    code(error)
                })
                .boxed_unsync()
            };
            Ok((answer.map(body), Box::new(async { Ok(()) }) as Io))
        })
    }

    // The activity is told; the server's own log is no place for what guests do.
    fn p2_error_from_hyper(&mut self, _: &hyper::Error) -> ErrorCode {
        ErrorCode::HttpProtocolError
    }
}

/// What the guest sees.
fn code(error: SendError) -> Error {
    match error {
        SendError::Denied(Denial::Host(_)) => Error::HttpRequestDenied,
        SendError::Denied(Denial::Address(_)) => Error::DestinationIpProhibited,
        SendError::Method(_) => Error::HttpRequestMethodInvalid,
        SendError::Uri(_) => Error::HttpRequestUriInvalid,
        SendError::Lookup { error, .. } => Error::DnsError { rcode: Some(error.to_string()), info_code: None },
        SendError::Connect { error, .. } if error.kind() == io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        SendError::Connect { .. } => Error::DestinationUnavailable,
        SendError::Tls { error, .. } => {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            let is_certificate = matches!(cause, Some(rustls::Error::InvalidCertificate(_)));
            if is_certificate { Error::TlsCertificateError } else { Error::TlsProtocolError }
        }
        SendError::Timeout { phase: Phase::Connecting, .. } => Error::ConnectionTimeout,
        SendError::Timeout { phase: Phase::Answering | Phase::Reading, .. } => Error::ConnectionReadTimeout,
        SendError::Exchange { error, .. } if error.is_incomplete_message() => Error::HttpResponseIncomplete,
        SendError::Exchange { error, .. } if error.is_closed() || error.is_canceled() => Error::ConnectionTerminated,
        SendError::Exchange { .. } => Error::HttpProtocolError,
    }
}
