//! What happens when an activity makes an HTTP request? `wasi:http` hands it over here; the client sends it if the hub's policy allows.

use std::io;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::{Request, Response};
use tokio::sync::Semaphore;
use tokio_rustls::rustls;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, HostOutgoingRequest as _, Method};
use wasmtime_wasi_http::p2::types::HostOutgoingRequest;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, WasiHttpView};

use super::client::{Client, Patience, Phase, SendError};
use super::network::Denial;
use super::state::SharedLines;
use super::surroundings::Surroundings;
use crate::limits::{REQUEST_BODY_CHUNK_BYTES, REQUEST_HEAD_BYTES_MAX};
use crate::model::LogLevel;

/// How many requests one call of an activity may have under way, answers that are being read included. Each holds a connection, of
/// which the server's process may have some thousand.
const REQUESTS_MAX: usize = 64;

/// The interface of which [`bound`] replaces two functions, by the name under which wasmtime links it.
const HTTP_TYPES: &str = "wasi:http/types@0.2.12";

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

/// Bounds what `wasi:http` leaves unbounded: an activity may hold many requests, and the host keeps the method and the authority of each.
///
/// # Errors
/// If the linker does not have `wasi:http`.
pub(super) fn bound<T: WasiHttpView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    type Asked = Resource<HostOutgoingRequest>;
    let fits = |text: &str| text.len() <= REQUEST_HEAD_BYTES_MAX;
    linker.allow_shadowing(true);
    let mut types = linker.instance(HTTP_TYPES)?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        move |mut cx: StoreContextMut<'_, T>, (request, method): (Asked, Method)| {
            if matches!(&method, Method::Other(name) if !fits(name)) {
                return Ok((Err(()),));
            }
            Ok((cx.data_mut().http().set_method(request, method)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        move |mut cx: StoreContextMut<'_, T>, (request, authority): (Asked, Option<String>)| {
            if authority.as_deref().is_some_and(|authority| !fits(authority)) {
                return Ok((Err(()),));
            }
            Ok((cx.data_mut().http().set_authority(request, authority)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
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

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        REQUEST_BODY_CHUNK_BYTES
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
        SendError::Crowded { .. } => Error::ConnectionLimitReached,
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Empty;

    use super::super::client::tests::{client, server};
    use super::super::network::tests::policy;
    use super::*;

    /// An activity that may reach `allow` asks for `uri`: what it sees, and the lines that it leaves.
    async fn ask(allow: &[&str], uri: &str, options: RequestOptions, room: usize) -> (String, Vec<String>) {
        let surroundings = Surroundings { network: policy(allow), ..Surroundings::default() };
        let lines = SharedLines::default();
        let mut outgoing = Outgoing::new(client(), Arc::new(surroundings), lines.clone());
        outgoing.room = Arc::new(Semaphore::new(room));
        let request = Request::get(uri).body(Empty::<Bytes>::new().map_err(Into::into).boxed_unsync()).unwrap();
        let answer = outgoing.send_request(request, Some(options), Box::new(async { Ok(()) }));
        let seen = match Box::into_pin(answer).await {
            Ok((answer, _)) => {
                assert_eq!(outgoing.room.available_permits(), room - 1, "it counts until it is read");
                String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
            }
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(outgoing.room.available_permits(), room);
        let said = lines.lock().take();
        (seen, said.iter().map(ToString::to_string).collect())
    }

    #[tokio::test]
    async fn what_comes_of_a_request_is_what_the_guest_sees_and_a_line_says_why() {
        let (default, allow) = (RequestOptions::default(), ["*", "127.0.0.1"]);
        let port = server("HTTP/1.1 200 OK\r\n\r\nfresh", true).await;
        assert_eq!(ask(&allow, &format!("http://127.0.0.1:{port}/"), default, 1).await, ("fresh".into(), Vec::new()));

        let short = RequestOptions { first_byte_timeout: Some(std::time::Duration::from_millis(50)), ..default };
        let silent = format!("http://127.0.0.1:{}/", server("", false).await);
        let (seen, said) = ask(&allow, &silent, short, 1).await;
        assert_eq!(seen, "ConnectionReadTimeout");
        assert!(said[0].contains("did not answer in time"), "{said:?}");

        let broken = format!("http://127.0.0.1:{}/", server("HTTP/1.1 200", true).await);
        for (uri, room, error, line) in [
            ("http://169.254.169.254/latest", 1, "HttpRequestDenied", "into `allow` in section [hubs.Bakery.network]"),
            ("http://rye@127.0.0.1/", 1, "HttpRequestUriInvalid", "user name"),
            (&broken, 1, "HttpResponseIncomplete", "broke off"),
            ("http://127.0.0.1:1/", 1, "ConnectionRefused", "cannot connect"), // Nobody listens there.
            (&broken, 0, "ConnectionLimitReached", "HTTP requests under way"),
        ] {
            let (seen, said) = ask(&allow, uri, default, room).await;
            assert_eq!(seen, error, "{said:?}");
            assert!(said.len() == 1 && said[0].starts_with("dacapo: ") && said[0].contains(line), "{said:?}");
        }
    }
}
