//! How do clients reach the engine? Over HTTP: the wire contract of Durable Functions, and some paths of ours beside it.
//!
//! [`serve`] takes connections; for each request `route` chooses the endpoint, `auth` checks that the client may, `body` reads
//! what is sent, and one handler (`start`, `status`, `list`, `control`, `question`, `modules` and so on) answers. The wire types live here,
//! spelled as clients expect them. The only folder that names hyper; calls `engine`.

pub mod auth;
mod body;
pub mod capability;
mod connections;
mod control;
mod description;
mod error;
mod export;
#[cfg(test)]
mod fuzz;
mod history_view;
pub mod keys;
mod links;
mod list;
mod logs;
mod modules;
mod openapi;
mod operations;
mod patience;
mod purge;
mod query;
mod question;
mod reply;
mod restart;
mod route;
mod start;
mod status;
mod stream;
mod waits;
mod why;

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::auth::{Access, Caller, Grounds, Need};
use self::body::Room;
use self::capability::Verb;
use self::connections::{Connection, Connections, FromClient};
use self::control::RaiseCall;
use self::description::Operation;
use self::error::ApiError;
use self::links::{Links, Origin, Target};
use self::list::ListCall;
use self::patience::Patience;
use self::query::Query;
use self::reply::{Reply, ReplyBody};
use self::restart::RestartCall;
use self::route::{Door, Endpoint, Miss, route};
use self::start::{StartCall, Waiting};
use self::status::Wanted;
pub use self::status::{Edition, UnknownEdition};
use self::stream::{Listener, Streams};
use self::waits::Waits;
use crate::clock::Clock;
use crate::engine::{Engine, Existing, Hub, Stores};
use crate::model::HubName;

/// How long the head of a request may take, and how long a connection may idle before it, in seconds. Longer than clients keep
/// idle connections in their pools as a rule, so that we rarely close one that is just being used.
const HEAD_S_MAX: u64 = 60;

/// The largest head of a request, in bytes. Instance IDs, keys and queries are far below.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How long a client may take nothing of an answer that is there for it, in seconds; then the connection ends. As long as a client
/// may say nothing.
const WRITE_S_MAX: u64 = 60;

/// How long requests in hand may take to end once the server is asked to stop, in seconds.
const DRAIN_S_MAX: u64 = 5;

/// How long to wait before the next connection is accepted when the system had no means left for one, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 100;

/// What the HTTP surface of a server needs.
#[derive(Clone)]
pub struct Api {
    stores: Arc<Stores>,
    settings: ApiSettings,
    room: Room,
    streams: Arc<Streams>,
    waits: Arc<Waits>,
    connections: Connections,
    /// What it does, for programs; made when somebody first asks.
    document: OnceLock<Bytes>,
}

/// How a server presents itself over HTTP.
#[derive(Clone)]
pub struct ApiSettings {
    /// Whom it serves.
    pub access: Access,
    /// The edition whose status codes hold for requests that ask for none.
    pub edition: Edition,
    /// The hub that is meant when a request names none.
    pub default_hub: HubName,
    /// What a start makes of an ID that is taken, if it has no key.
    pub existing: Existing,
    /// Where workers are served that need no key, if that is not here.
    pub workers: Option<SocketAddr>,
    /// Whether generated URLs follow `X-Forwarded-Host` and `X-Forwarded-Proto`. Only behind a proxy that sets both.
    pub use_forwarded_host: bool,
    /// How many clients are connected at once, on all listeners together.
    pub connections_max: usize,
}

impl Api {
    /// The HTTP surface of these stores.
    pub fn new(stores: Arc<Stores>, settings: ApiSettings) -> Self {
        let room = Room::with(stores.limits().module_bytes_max.max(stores.limits().payload_bytes_max));
        let streams = Arc::new(Streams::at_most(stores.limits().event_streams_max));
        let waits = Arc::new(Waits::at_most(stores.limits().requests_waiting_max as usize));
        let connections = Connections::at_most(settings.connections_max);
        Self { stores, settings, room, streams, waits, connections, document: OnceLock::new() }
    }

    /// The same for workers of this machine, by their prefix alone and without a key: for a loopback listener beside this one.
    pub fn for_workers(&self) -> Self {
        let settings = ApiSettings { access: Access::Workers, use_forwarded_host: false, workers: None, ..self.settings.clone() };
        Self { settings, document: OnceLock::new(), ..self.clone() }
    }
}

/// Serves `listener` until `shutdown` is done, and then until the requests in hand are answered, for a few seconds at most.
///
/// # Errors
/// If the listener has no address, that is, before anything was served.
pub async fn serve(listener: TcpListener, api: Arc<Api>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let local = listener.local_addr()?;
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            // What ended is taken out, so that the set holds no more than what is open.
            Some(_) = tasks.join_next() => (),
            accepted = accept(&listener, &api) => match accepted {
                Ok((stream, connection)) => {
                    _ = tasks.spawn(serve_one(api.clone(), stream, connection, local, Draining(stopping.clone())));
                }
                Err(error) => {
                    tracing::warn!("a connection could not be accepted: {error}");
                    sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    let drained = async { while tasks.join_next().await.is_some() {} };
    if timeout(Duration::from_secs(DRAIN_S_MAX), drained).await.is_err() {
        tracing::warn!("{} connections were cut off at shutdown", tasks.len());
    }
    Ok(())
}

/// Accepts a connection when there is room for it, which another one may have to make.
async fn accept(listener: &TcpListener, api: &Api) -> io::Result<(TcpStream, Arc<Connection>)> {
    api.connections.room().await;
    let (stream, _) = listener.accept().await?;
    let (connection, one_goes) = api.connections.enter();
    if one_goes {
        api.stores.metrics().connection_dismissed();
    }
    Ok((stream, connection))
}

/// Knows when the server is asked to stop.
#[derive(Debug, Clone)]
struct Draining(watch::Receiver<bool>);

impl Draining {
    /// Whether it is.
    fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it is.
    async fn begun(&self) {
        // An error says that the server itself is gone, which comes to the same.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
    }
}

/// Serves one connection to its end.
async fn serve_one(api: Arc<Api>, stream: TcpStream, standing: Arc<Connection>, listener: SocketAddr, draining: Draining) {
    let _open = api.stores.metrics().connection_is_open();
    // Without this the system may hold an answer back until the client acknowledges the one before, for 40 ms.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().unwrap_or(listener);
    // Apart, or every idle connection would keep the room that the work for a request takes.
    let service = service_fn(|request| Box::pin(respond(&api, request, &standing, local, &draining)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_S_MAX))
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX) // Or a head without an end is read up to 400 KB.
        .serve_connection(TokioIo::new(Patience::with(stream, Duration::from_secs(WRITE_S_MAX))), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = standing.told_to_go() => return tracing::debug!("a connection made room for another one"),
        () = draining.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}

/// Answers one request, whatever happens on the way.
async fn respond(
    api: &Api,
    request: Request<Incoming>,
    connection: &Arc<Connection>,
    local: SocketAddr,
    draining: &Draining,
) -> Result<Response<ReplyBody>, Infallible> {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let mut body = FromClient::new(body, connection.clone());
    let mut found = None;
    let answered = unpanicked(api.answer(&parts, &mut body, local, draining, &mut found)).await;
    let reply = answered.unwrap_or_else(|panic| Err(ApiError::internal(panic))).unwrap_or_else(ApiError::into_reply);
    // Who asks before sending will not send what we do not want.
    if !body.is_end_stream() && !parts.headers.contains_key(header::EXPECT) {
        body::discard(&mut body).await;
    }
    let status = reply.status().as_u16();
    let reply = if found.is_some_and(|(.., grounds)| grounds.is_link()) { reply.for_pages() } else { reply };
    let endpoint = found.map_or("none", |(name, operation, _)| {
        debug_assert!(operation.gives(status), "{name} answers {status}: add it to the answers in its description");
        name
    });
    api.stores.metrics().request(endpoint, status, began.elapsed());
    // Not the query: it may hold a key.
    tracing::debug!(method = %parts.method, path = parts.uri.path(), status, "answered");
    Ok(reply.into_response(body.into_work()))
}

/// Runs `future`; a panic inside ends it, and its message is the error.
async fn unpanicked<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(format!("a request handler panicked: {}", message(&*panic)))),
    })
    .await
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

impl Api {
    /// Finds the endpoint, checks that the client may use it, reads the body if there is one to read, and calls the handler. `found` becomes
    /// the name of the endpoint and its description, once the client is let in.
    async fn answer(
        &self,
        request: &Parts,
        body: &mut FromClient<Incoming>,
        local: SocketAddr,
        draining: &Draining,
        found: &mut Option<(&'static str, &'static Operation, Grounds)>,
    ) -> Result<Reply, ApiError> {
        let Api { stores, settings, room, streams, waits, document, .. } = self;
        let (limits, metrics) = (stores.limits(), stores.metrics());
        let origin = Origin::of(request, local)
            .ok_or_else(|| ApiError::bad_argument("there must be one Host, and it must be a host, perhaps with a port"))?;
        let query = Query::parse(request.uri.query().unwrap_or_default());

        // Before anything is said about paths: who has no key learns nothing.
        let routed = route(&request.method, request.uri.path(), settings.access.doors());
        let need = routed.as_ref().map_or(Need::System, |(endpoint, _)| endpoint.need());
        let now_s = Clock.now_ms() / 1_000;
        let target = query.target(&settings.default_hub, stores.names());
        let caller = Caller { headers: &request.headers, query: &query, origin: &origin, target: target.as_ref().ok(), now_s };
        let grounds = settings.access.check(need, caller)?;
        let (endpoint, operation) = routed?;
        body::as_it_is(&request.headers)?;
        *found = Some((endpoint.name(), operation, grounds));

        let here = origin.authority().to_string();
        let origin = if settings.use_forwarded_host { origin.forwarded(&request.headers) } else { origin };
        let has_webhooks = settings.access.doors().contains(&Door::Webhooks);
        let origin = if has_webhooks { origin } else { origin.for_workers() };
        match endpoint {
            Endpoint::Start { function, instance } => {
                let target = target.map_err(ApiError::bad_argument)?;
                let call = StartCall::of(function, instance, &query, &request.headers, settings.existing)?;
                let read = room.read(body, limits.payload_bytes_max, "payload_bytes_max", ApiError::unavailable);
                let call = call.with_body(read.await.map_err(ApiError::in_long_form)?)?;
                let wanted = Wanted::of(&query, settings.edition, Door::Webhooks);
                let links = Links::new(&origin, &target, settings.access.instance_pass(now_s));
                start::start(self.hub(&target), call, &links, Waiting { wanted, draining, waits, metrics }).await
            }
            Endpoint::Status { instance, door } => {
                let target = target.map_err(ApiError::bad_argument)?;
                let (wanted, hub) = (Wanted::of(&query, settings.edition, door), self.hub(&target));
                if stream::is_asked_for(&request.headers) {
                    let longest = grounds.left_s(now_s).map(Duration::from_secs);
                    let listener = Listener { show: wanted.show, headers: &request.headers, longest };
                    return streams.open(hub.as_deref(), &instance, listener, draining, metrics).await;
                }
                let url = origin.url_of(&request.uri);
                let long_poll = status::long_poll(&query, limits, draining, waits, metrics);
                status::status(hub.as_deref(), &instance, wanted, &url, long_poll).await
            }
            Endpoint::List => {
                let target = target.map_err(ApiError::bad_argument)?;
                let call = ListCall::of(&query, &request.headers)?;
                list::list(self.hub(&target).as_deref(), call).await
            }
            Endpoint::Purge { instance } => {
                let target = target.map_err(ApiError::bad_argument)?;
                purge::one(self.hub(&target).as_deref(), &instance).await
            }
            Endpoint::PurgeMany => {
                let target = target.map_err(ApiError::bad_argument)?;
                purge::many(self.hub(&target).as_deref(), &query, draining).await
            }
            Endpoint::Restart { instance } => {
                let target = target.map_err(ApiError::bad_argument)?;
                let call = RestartCall::of(&instance, &query, &request.headers)?;
                let wanted = Wanted::of(&query, settings.edition, Door::Webhooks);
                let links = Links::new(&origin, &target, settings.access.pass_on(grounds, now_s));
                restart::restart(self.hub(&target), call, &links, Waiting { wanted, draining, waits, metrics }).await
            }
            Endpoint::Raise { instance, event } => {
                let target = target.map_err(ApiError::bad_argument)?;
                let call = RaiseCall::of(self.hub(&target), &instance, event, &request.headers).await?;
                let read = room.read(body, limits.payload_bytes_max, "payload_bytes_max", ApiError::unavailable);
                control::raise(call, read.await.map_err(ApiError::in_long_form)?).await
            }
            Endpoint::Terminate { instance } => {
                let target = target.map_err(ApiError::bad_argument)?;
                control::terminate(self.hub(&target), &instance, &query).await
            }
            Endpoint::Suspend { instance } => {
                let target = target.map_err(ApiError::bad_argument)?;
                control::suspend(self.hub(&target), &instance, &query).await
            }
            Endpoint::Resume { instance } => {
                let target = target.map_err(ApiError::bad_argument)?;
                control::resume(self.hub(&target), &instance, &query).await
            }
            Endpoint::Rewind { instance } => {
                let target = target.map_err(ApiError::bad_argument)?;
                control::rewind(self.hub(&target), &instance, &query).await
            }
            Endpoint::MakePrimary => target.map(|_| operations::make_primary()).map_err(ApiError::bad_argument),
            Endpoint::Logs { instance } => {
                let target = target.map_err(ApiError::bad_argument)?;
                logs::logs(self.hub(&target), &instance, &query).await
            }
            Endpoint::Why { instance } => {
                let target = target.map_err(ApiError::bad_argument)?;
                why::why(self.hub(&target).as_deref(), &instance).await
            }
            Endpoint::Query { instance, name } => {
                let target = target.map_err(ApiError::ours_bad_request)?;
                question::ask(self.hub(&target), &instance, name, &query).await
            }
            Endpoint::Upload { module } => {
                let target = target.map_err(ApiError::ours_bad_request)?;
                let module = module.parse().map_err(ApiError::ours_bad_request)?;
                let read = room.read(body, limits.module_bytes_max, "module_bytes_max", ApiError::ours_unavailable);
                modules::upload(self.engine(&target), &target.hub, &module, read.await?.into()).await
            }
            Endpoint::Modules => {
                let target = target.map_err(ApiError::ours_bad_request)?;
                modules::list(self.hub(&target).as_deref()).await
            }
            Endpoint::Module { module } => {
                let target = target.map_err(ApiError::ours_bad_request)?;
                modules::one(self.hub(&target).as_deref(), &module).await
            }
            Endpoint::ModuleBytes { module, digest } => {
                let target = target.map_err(ApiError::ours_bad_request)?;
                modules::bytes(self.hub(&target).as_deref(), &module, &digest).await
            }
            Endpoint::DeleteModule { module, digest } => {
                let target = target.map_err(ApiError::ours_bad_request)?;
                modules::delete(self.engine(&target), &target.hub, &module, digest.as_deref()).await
            }
            Endpoint::Export { instance } => {
                let target = target.map_err(ApiError::ours_bad_request)?;
                export::export(self.hub(&target).as_deref(), &instance).await
            }
            Endpoint::Binding => {
                let target = target.map_err(ApiError::bad_argument)?;
                let links = Links::new(&origin, &target, settings.access.hub_pass());
                let elsewhere = settings.workers.map(|address| address.to_string());
                let workers = if settings.access.doors().contains(&Door::Rpc) { Some(here) } else { elsewhere };
                Ok(Reply::json(StatusCode::OK, &links.binding(workers.as_deref())))
            }
            Endpoint::Health => Ok(operations::health()),
            Endpoint::Ready => Ok(operations::ready(stores, draining.has_begun())),
            Endpoint::Metrics => operations::metrics(stores.clone()).await,
            Endpoint::Document => {
                let document = document.get_or_init(|| openapi::document(&settings.access, stores.names()));
                Ok(Reply::bytes("application/json; charset=utf-8", document.clone()))
            }
        }
    }

    fn engine(&self, target: &Target) -> &Arc<Engine> {
        self.stores.engine(&target.connection).expect("a target names one of our stores")
    }

    fn hub(&self, target: &Target) -> Option<Arc<Hub>> {
        self.engine(target).hub(&target.hub)
    }
}

impl Endpoint {
    /// What a request has to show to be let in. What the URLs of a check-status object are for says so here, with its verb.
    fn need(&self) -> Need<'_> {
        match self {
            Self::Health | Self::Ready => Need::Nothing,
            Self::Start { .. } | Self::List | Self::Binding | Self::Metrics | Self::Document => Need::System,
            Self::Logs { .. } | Self::Query { .. } | Self::Why { .. } | Self::PurgeMany | Self::MakePrimary => Need::System,
            Self::Status { instance, .. } => Need::Instance { verb: Verb::Status, instance },
            Self::Raise { instance, .. } => Need::Instance { verb: Verb::Raise, instance },
            Self::Terminate { instance } => Need::Instance { verb: Verb::Terminate, instance },
            Self::Suspend { instance } => Need::Instance { verb: Verb::Suspend, instance },
            Self::Resume { instance } => Need::Instance { verb: Verb::Resume, instance },
            Self::Rewind { instance } => Need::Instance { verb: Verb::Rewind, instance },
            Self::Restart { instance } => Need::Instance { verb: Verb::Restart, instance },
            Self::Purge { instance } => Need::Instance { verb: Verb::Purge, instance },
            Self::Upload { .. } | Self::Modules | Self::Module { .. } | Self::ModuleBytes { .. } => Need::Master,
            Self::DeleteModule { .. } | Self::Export { .. } => Need::Master,
        }
    }
}

impl From<Miss> for ApiError {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::NotFound => Self::empty(StatusCode::NOT_FOUND),
            Miss::Method { allow } => Self::method_not_allowed(allow),
            Miss::NoText => Self::bad_argument("the path must be UTF-8, with other bytes as %XX"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_with_its_message() {
        let fine = unpanicked(async { 1 }).await;
        assert_eq!(fine, Ok(1));
        let broken: Result<(), String> = unpanicked(async { panic!("no {}", "bread") }).await;
        assert_eq!(broken, Err("a request handler panicked: no bread".into()));
    }
}
