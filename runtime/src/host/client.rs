//! How is an HTTP request made for a guest? Look the name up, ask the policy, connect to the very address that it allowed, speak HTTP/1.1.
//!
//! A connection of its own for each request, and no redirect is followed: every hop is asked for, and judged, by itself. Called for the
//! requests of activities (`outgoing.rs`) and for durable ones (`http.rs`), on the runtime of activities.

use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, USER_AGENT};
use hyper::http::uri::Scheme;
use hyper::{Method, Request, Response, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::network::{Denial, Destination, Host, Policy};
use crate::limits::ANSWER_HEAD_BYTES_MAX;

/// How long a connection may take to be there, TLS and all, if nobody says.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// Of the addresses that a name leads to, so many are tried.
const ADDRESSES_MAX: usize = 8;

/// How many names are looked up at once: each takes a thread of those that read and load things for others, perhaps for long.
const LOOKUPS_MAX: usize = 64;

/// What a service hears about who calls, if the guest does not say.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("dacapo/", env!("CARGO_PKG_VERSION")));

/// Makes requests. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    tls: TlsConnector,
    /// A place for each connection that guests may have at once, in the whole process.
    connections: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    /// What tests say instead of the system's resolver.
    #[cfg(test)]
    names: std::collections::HashMap<String, Vec<IpAddr>>,
}

/// How long a request may keep its caller waiting. `None`: as long as the caller waits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Patience {
    /// Until the connection is there; `None` is [`CONNECT_MAX`].
    pub connect: Option<Duration>,
    /// From then until the answer's head is there.
    pub first_byte: Option<Duration>,
    /// From one piece of the answer's body to the next.
    pub between_bytes: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{0}")]
    Denied(Denial),
    #[error(
        "no connection to {to} could be opened in time: the server has as many for guests as its bound on open files allows (`ulimit -n`); \
         close those that are done with, or raise that bound"
    )]
    Crowded { to: Destination },
    #[error("the method {0} is not offered")]
    Method(Method),
    #[error("the URI {0}")]
    Uri(&'static str),
    #[error("{to} cannot be looked up: {error}")]
    Lookup { to: Destination, error: io::Error },
    #[error("cannot connect to {to}: {error}")]
    Connect { to: Destination, error: io::Error },
    #[error("cannot agree on TLS with {to}: {error}")]
    Tls { to: Destination, error: io::Error },
    #[error("{to} {}", .phase.late())]
    Timeout { to: Destination, phase: Phase },
    #[error("the exchange with {to} broke off: {}", chain(.error))]
    Exchange { to: Destination, error: hyper::Error },
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Answering,
    Reading,
}

impl Phase {
    fn late(self) -> &'static str {
        match self {
            Self::Connecting => "did not take the connection in time",
            Self::Answering => "did not answer in time",
            Self::Reading => "stopped in the middle of its answer",
        }
    }
}

/// An error and what led to it: hyper says little by itself.
fn chain(error: &dyn StdError) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Client {
    /// A client that has so many connections at once, and trusts the certificates that Mozilla's browsers trust, whatever the machine says.
    pub(super) fn new(connections_max: usize) -> Self {
        Self::trusting(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(), connections_max)
    }

    fn trusting(roots: RootCertStore, connections_max: usize) -> Self {
        let mut config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has ciphers for TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            tls: Arc::new(config).into(),
            connections: Arc::new(Semaphore::new(connections_max)),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            #[cfg(test)]
            names: std::collections::HashMap::new(),
        }
    }

    /// Sends `request`, which has an absolute URI, as far as `policy` allows it, and returns when the head of the answer is there.
    ///
    /// Whatever the answer says, it is one. Dropping the future, or the answer's body, closes the connection. If guests have all the
    /// connections that they may have, it waits for one, as long as a connection may take.
    ///
    /// # Errors
    /// If there is no answer. What was sent may have arrived all the same.
    pub(super) async fn send<B>(
        &self,
        policy: &Policy,
        mut request: Request<B>,
        patience: Patience,
    ) -> Result<Response<AnswerBody>, SendError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        if request.method() == Method::CONNECT {
            return Err(SendError::Method(Method::CONNECT)); // A tunnel is a raw socket.
        }
        let (to, is_tls) = destination(request.uri())?;
        direct(&mut request)?;
        let deadline = Instant::now() + patience.connect.unwrap_or(CONNECT_MAX).min(CONNECT_MAX);
        let late = || SendError::Timeout { to: to.clone(), phase: Phase::Connecting };
        policy.check(&to).map_err(SendError::Denied)?; // Nobody waits for what will be refused.
        let place = timeout_at(deadline, self.connections.clone().acquire_owned()).await;
        let place = place.map_err(|_| SendError::Crowded { to: to.clone() })?.expect("it is never closed");
        let stream = timeout_at(deadline, self.connect(policy, &to, deadline)).await.map_err(|_| late())??;
        if !is_tls {
            return exchange(stream, place, request, to, patience).await;
        }
        let name = match &to.host {
            Host::Address(address) => ServerName::from(*address),
            Host::Name(name) => {
                ServerName::try_from(name.clone()).map_err(|_| SendError::Uri("has no name for a certificate"))?
            }
        };
        let stream = timeout_at(deadline, self.tls.connect(name, stream)).await.map_err(|_| late())?;
        let stream = stream.map_err(|error| SendError::Tls { to: to.clone(), error })?;
        exchange(stream, place, request, to, patience).await
    }

    async fn connect(&self, policy: &Policy, to: &Destination, deadline: Instant) -> Result<TcpStream, SendError> {
        let addresses = match to.known_addresses() {
            Some(addresses) => addresses,
            None => self.look_up(to).await.map_err(|error| SendError::Lookup { to: to.clone(), error })?,
        };
        let mut reachable = policy.reachable(to, &addresses).map_err(SendError::Denied)?;
        reachable.truncate(ADDRESSES_MAX);
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for (tried, address) in reachable.iter().enumerate() {
            // One that does not answer leaves the others their share of the time.
            let left = u32::try_from(reachable.len() - tried).expect("few addresses");
            let until = Instant::now() + deadline.saturating_duration_since(Instant::now()) / left;
            match timeout_at(until, connect_to(*address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        if failed.kind() == io::ErrorKind::TimedOut {
            return Err(SendError::Timeout { to: to.clone(), phase: Phase::Connecting });
        }
        Err(SendError::Connect { to: to.clone(), error: failed })
    }

    /// The addresses that the name leads to, at least one.
    async fn look_up(&self, to: &Destination) -> io::Result<Vec<IpAddr>> {
        let Host::Name(name) = &to.host else { unreachable!("an address is not looked up") };
        #[cfg(test)]
        if let Some(addresses) = self.names.get(name) {
            return Ok(addresses.clone());
        }
        let place = self.lookups.clone().acquire_owned().await.expect("it is never closed");
        let (name, port) = (name.clone(), to.port);
        let found = spawn_blocking(move || {
            let _until_found = place; // Also if nobody waits any more: the thread is still busy.
            (name.as_str(), port).to_socket_addrs()
        });
        let addresses: Vec<IpAddr> = found.await.map_err(io::Error::other)??.map(|address| address.ip()).collect();
        if addresses.is_empty() { Err(io::Error::other("it has no address")) } else { Ok(addresses) }
    }
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Where `uri` leads, and whether by TLS.
fn destination(uri: &Uri) -> Result<(Destination, bool), SendError> {
    let is_tls = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        _ => return Err(SendError::Uri("must start with http:// or https://")),
    };
    let authority = uri.authority().ok_or(SendError::Uri("has no host"))?;
    if authority.as_str().contains('@') {
        return Err(SendError::Uri("has a user name in it, which belongs into a header field"));
    }
    if authority.host().is_empty() {
        return Err(SendError::Uri("has no host"));
    }
    let port = match authority.port() {
        None if authority.as_str().len() > authority.host().len() => return Err(SendError::Uri("has no number as its port")),
        None => 80 + 363 * u16::from(is_tls),
        Some(port) => port.as_u16(),
    };
    Ok((Destination::new(authority.host(), port), is_tls))
}

/// Makes the request one to the server itself, not to a proxy.
fn direct<B>(request: &mut Request<B>) -> Result<(), SendError> {
    let invalid = |_| SendError::Uri("has a host that cannot be named");
    let authority = request.uri().authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(authority).map_err(invalid)?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| SendError::Uri("has a path that cannot be asked for"))?;
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().entry(USER_AGENT).or_insert(AGENT);
    Ok(())
}

async fn exchange<S, B>(
    stream: S,
    place: OwnedSemaphorePermit,
    request: Request<B>,
    to: Destination,
    patience: Patience,
) -> Result<Response<AnswerBody>, SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let broke = |error| SendError::Exchange { to: to.clone(), error };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(ANSWER_HEAD_BYTES_MAX) // Else some 400 KiB for each connection, and a head as large.
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broke)?;
    let connection = spawn(async move {
        let _until_closed = place;
        let _ = connection.await; // What goes wrong in it, request and body say too.
    });
    let answer = async {
        match patience.first_byte {
            None => Ok(sender.send_request(request).await),
            Some(first_byte) => tokio::time::timeout(first_byte, sender.send_request(request)).await,
        }
    };
    let answer = answer.await.map_err(|_| SendError::Timeout { to: to.clone(), phase: Phase::Answering })?.map_err(broke)?;
    let between_bytes = patience.between_bytes;
    Ok(answer.map(|incoming| AnswerBody { incoming, to, between_bytes, wait: None, _connection: connection }))
}

/// The body of an answer, as it comes in.
pub(super) struct AnswerBody {
    incoming: Incoming,
    to: Destination,
    between_bytes: Option<Duration>,
    /// Runs while somebody waits for the next piece.
    wait: Option<Pin<Box<Sleep>>>,
    _connection: AbortOnDropJoinHandle<()>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = SendError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.wait = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| SendError::Exchange { to: this.to.clone(), error })));
        }
        let Some(between_bytes) = this.between_bytes else { return Poll::Pending };
        let wait = this.wait.get_or_insert_with(|| Box::pin(sleep(between_bytes)));
        let late = || SendError::Timeout { to: this.to.clone(), phase: Phase::Reading };
        wait.as_mut().poll(cx).map(|()| Some(Err(late())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use http_body_util::{BodyExt, Empty};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

    use super::super::network::tests::policy;
    use super::*;

    /// A certificate of `oven.example`, by itself, from 2020 to 2120, and its key.
    const CERTIFICATE: &str = "\
        308201673082010da003020102020101300a06082a8648ce3d04030230173115301306035504030c0c6f76656e2e6578616d706c65302017\
        0d3230303130313030303030305a180f32313230303130313030303030305a30173115301306035504030c0c6f76656e2e6578616d706c65\
        3059301306072a8648ce3d020106082a8648ce3d030107034200047acd4291ed7cd4b526b3ab4ecf593c51b0b8367b7ac564e98a356d4ba1\
        64f17575a5a5a5e5b8688b6e91e9014d1364dea7212ea8fa0a6ae110807ec31b42055aa348304630170603551d110410300e820c6f76656e\
        2e6578616d706c65300c0603551d130101ff04023000301d0603551d0e041604142e860aaeac4b91cd8ea3b49bbe990108150e72e9300a06\
        082a8648ce3d040302034800304502202d3a42ffde343ca065ff6efac4099cba0ad54be2e49e2f04dfc559e8f8562393022100ed774f6cd1\
        8d8646f04dfb554e55e41cd5e77e491988d55b8e7dedc0ef6990cb";
    const KEY: &str = "\
        308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b02010104207170ad9b4cbb2aef60838a7504f626e8be3978c4\
        d1c647f8b09a65e89e05a161a144034200047acd4291ed7cd4b526b3ab4ecf593c51b0b8367b7ac564e98a356d4ba164f17575a5a5a5e5b8\
        688b6e91e9014d1364dea7212ea8fa0a6ae110807ec31b42055a";

    impl Client {
        /// As if a name server knew `name`.
        fn knowing(mut self, name: &str, addresses: &[IpAddr]) -> Self {
            self.names.insert(name.into(), addresses.to_vec());
            self
        }
    }

    /// A client with one connection at a time.
    pub(in crate::host) fn client() -> Client {
        Client::new(1)
    }

    /// Listens on a free port of this machine, and gives whoever connects first to `serve`.
    async fn listen<S: Future<Output = ()> + Send>(serve: impl FnOnce(TcpStream) -> S + Send + 'static) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
        port
    }

    /// Answers the first request with `answer`, and then goes, or never does.
    pub(in crate::host) async fn server(answer: &str, goes: bool) -> u16 {
        let answer = answer.as_bytes().to_vec();
        listen(move |stream| speak(stream, answer, goes)).await
    }

    async fn speak(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: Vec<u8>, goes: bool) {
        let request = read_head(&mut stream).await;
        let answer = String::from_utf8_lossy(&answer).replace("{request}", &request.replace("\r\n", "|"));
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        if !goes {
            std::future::pending::<()>().await;
        }
        stream.shutdown().await.unwrap();
    }

    async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// The certificate, and a server that has it and hears `GET`.
    async fn tls_server() -> (RootCertStore, u16) {
        let certificate = CertificateDer::from(hex::decode(CERTIFICATE).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let key = PrivatePkcs8KeyDer::from(hex::decode(KEY).unwrap());
        let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let port = listen(move |stream| async move {
            // A client that does not trust us hangs up.
            if let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
                speak(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwarm".to_vec(), true).await;
            }
        });
        (roots, port.await)
    }

    /// Asks for `uri`, and says what came of it in one line.
    async fn ask(client: &Client, allow: &[&str], uri: &str, patience: Patience) -> String {
        let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        let answer = match client.send(&policy(allow), request, patience).await {
            Ok(answer) => answer,
            Err(error) => return error.to_string(),
        };
        let status = answer.status().as_u16();
        match answer.into_body().collect().await {
            Ok(body) => format!("{status} {}", String::from_utf8_lossy(&body.to_bytes())),
            Err(error) => format!("{status}, then {error}"),
        }
    }

    const HELLO: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{request}";

    #[tokio::test]
    async fn an_address_is_asked_if_it_is_listed_and_never_otherwise() {
        let port = server(HELLO, true).await;
        let uri = format!("http://127.0.0.1:{port}/bread?kind=rye");
        let refused = ask(&client(), &["*"], &uri, Patience::default()).await;
        assert!(refused.contains("is not among what may be reached"), "{refused}");
        // The server has heard nothing: it is still there for its first caller.
        let answer = ask(&client(), &["127.0.0.1"], &uri, Patience::default()).await;
        assert_eq!(answer, format!("200 GET /bread?kind=rye HTTP/1.1|host: 127.0.0.1:{port}|user-agent: dacapo/0.1.0||"));
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_asked_only_if_both_are_listed() {
        let port = server(HELLO, true).await;
        let uri = format!("http://oven.example:{port}/");
        let client = client().knowing("oven.example", &[Ipv4Addr::LOCALHOST.into()]);
        let refused = ask(&client, &["oven.example"], &uri, Patience::default()).await;
        assert!(refused.contains("leads to 127.0.0.1, which is not a public address"), "{refused}");
        let refused = ask(&client, &["127.0.0.1"], &uri, Patience::default()).await;
        assert!(refused.contains("is not among what may be reached"), "{refused}");
        let answer = ask(&client, &["oven.example", "127.0.0.1"], &uri, Patience::default()).await;
        assert!(answer.contains(&format!("|host: oven.example:{port}|")), "{answer}");
    }

    #[tokio::test]
    async fn an_address_that_refuses_leaves_the_others() {
        let port = server(HELLO, true).await;
        // Nobody listens on the other addresses of this machine.
        let addresses = [Ipv4Addr::new(127, 0, 0, 9).into(), Ipv4Addr::LOCALHOST.into()];
        let client = client().knowing("oven.example", &addresses);
        let allow = ["oven.example", "127.0.0.0/8"];
        let answer = ask(&client, &allow, &format!("http://oven.example:{port}/"), Patience::default()).await;
        assert!(answer.starts_with("200 "), "{answer}");
        let uri = format!("http://127.0.0.9:{port}/");
        assert!(
            ask(&client, &allow, &uri, Patience::default()).await.starts_with(&format!("cannot connect to 127.0.0.9:{port}: "))
        );
    }

    #[tokio::test]
    async fn by_tls_a_server_proves_its_name() {
        let allow = ["oven.example", "bakery.example", "127.0.0.1"];
        let here = [Ipv4Addr::LOCALHOST.into()];
        for (name, trusted, expected) in [
            ("oven.example", true, "200 warm"),
            ("oven.example", false, "UnknownIssuer"),
            ("bakery.example", true, "certificate not valid for name"),
        ] {
            let (roots, port) = tls_server().await;
            let client = if trusted { Client::trusting(roots, 1) } else { client() };
            let client = client.knowing(name, &here);
            let answer = ask(&client, &allow, &format!("https://{name}:{port}/"), Patience::default()).await;
            assert!(answer.contains(expected), "{answer}");
        }
        let port = server("no TLS here", true).await;
        let client = client();
        let answer = ask(&client, &allow, &format!("https://127.0.0.1:{port}/"), PATIENCE_CONNECT).await;
        assert!(answer.starts_with(&format!("127.0.0.1:{port} did not take the connection in time")), "{answer}");
    }

    const SHORT: Option<Duration> = Some(Duration::from_millis(50));
    const PATIENCE_CONNECT: Patience = Patience { connect: SHORT, first_byte: None, between_bytes: None };

    #[tokio::test]
    async fn whoever_is_late_is_not_waited_for() {
        let allow = ["127.0.0.1"];
        let ask_late = async |answer: &str, patience| {
            let port = server(answer, false).await;
            let said = ask(&client(), &allow, &format!("http://127.0.0.1:{port}/"), patience).await;
            said.replace(&format!("127.0.0.1:{port}"), "it")
        };
        let first_byte = Patience { first_byte: SHORT, ..Patience::default() };
        assert_eq!(ask_late("", first_byte).await, "it did not answer in time");
        let between_bytes = Patience { between_bytes: SHORT, ..Patience::default() };
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
        assert_eq!(ask_late(half, between_bytes).await, "200, then it stopped in the middle of its answer");
    }

    #[tokio::test]
    async fn who_finds_no_place_for_a_connection_waits_until_another_ends() {
        let (client, allow) = (client(), policy(&["127.0.0.1"]));
        let send = async |port, patience| {
            let request = Request::get(format!("http://127.0.0.1:{port}/")).body(Empty::<Bytes>::new()).unwrap();
            client.send(&allow, request, patience).await
        };
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
        let first = send(server(half, false).await, Patience::default()).await.unwrap();
        let port = server("HTTP/1.1 200 OK\r\n\r\nwarm", true).await;
        let crowded = send(port, PATIENCE_CONNECT).await.err().unwrap().to_string();
        assert!(crowded.contains("ulimit -n"), "{crowded}");
        let denied = ask(&client, &[], "http://127.0.0.1/", Patience::default()).await;
        assert!(denied.contains("is not among what may be reached"), "{denied}");
        drop(first);
        assert_eq!(send(port, Patience::default()).await.unwrap().status(), 200);
    }

    #[tokio::test]
    async fn an_endless_head_of_an_answer_is_a_failed_exchange() {
        let head = |bytes: usize| format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(bytes));
        for (bytes, expected) in [(ANSWER_HEAD_BYTES_MAX - 100, "200 "), (4 * ANSWER_HEAD_BYTES_MAX, "broke off")] {
            let port = server(&head(bytes), true).await;
            let said = ask(&client(), &["127.0.0.1"], &format!("http://127.0.0.1:{port}/"), Patience::default()).await;
            assert!(said.contains(expected), "{bytes}: {said}");
        }
    }

    #[tokio::test]
    async fn a_server_that_breaks_off_or_speaks_something_else_is_a_failed_exchange() {
        for answer in ["", "220 smtp.example\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"] {
            let port = server(answer, true).await;
            let said = ask(&client(), &["127.0.0.1"], &format!("http://127.0.0.1:{port}/"), Patience::default()).await;
            assert!(said.contains(&format!("the exchange with 127.0.0.1:{port} broke off: ")), "{said}");
        }
    }

    #[tokio::test]
    async fn no_uri_leads_past_the_policy() {
        for (uri, expected) in [
            ("/bread", "the URI must start with http:// or https://"),
            ("ftp://127.0.0.1/", "the URI must start with http:// or https://"),
            ("http://rye@127.0.0.1/", "the URI has a user name"),
            ("http://127.0.0.1:/", "the URI has no number as its port"),
            ("http://[::ffff:169.254.169.254]/", "169.254.169.254:80 is not among"),
            ("https://[::1]/", "[::1]:443 is not among"),
            ("http://LOCALHOST./", "localhost:80 is not among"),
        ] {
            let said = ask(&client(), &["*", "127.0.0.1:1"], uri, Patience::default()).await;
            assert!(said.starts_with(expected), "{uri}: {said}");
        }
        let tunnel = Request::connect("http://127.0.0.1/").body(Empty::<Bytes>::new()).unwrap();
        let refused = client().send(&policy(&["127.0.0.1"]), tunnel, Patience::default()).await;
        assert!(matches!(refused, Err(SendError::Method(_))));
    }
}
