//! Who is connected, and who has to go when too many are? Who keeps the server waiting, and of those the one that has done so for longest.
//!
//! A connection waits for its client from the end of one request to the last byte of the next one: while it is idle, while a head or a body
//! comes in slowly, and while an answer is not read. So ten thousand connections that do nothing cost some memory and keep nobody out.
//! While the server is at work for a request, and while a stream runs, nothing happens to its connection.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// For how long a client may keep the server waiting in any case, in milliseconds: most requests come in less.
const SPARED_MS: u64 = 1_000;

/// How long to wait before looking again whether there is room for another connection, in milliseconds.
const LOOK_AGAIN_MS: u64 = 20;

/// The connections of a server.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    most: usize,
    spared: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many there are, without those that have been told to go.
    open: usize,
    /// Those that wait for their clients, in the order in which they began to; since when, and how to tell them to go.
    waiting: BTreeMap<u64, (Instant, Arc<Notify>)>,
    next_ticket: u64,
}

/// A connection, for as long as this lives.
pub(super) struct Connection {
    connections: Connections,
    standing: Mutex<Standing>,
    told_to_go: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// With its place among those that wait, which somebody may have taken it out of.
    WaitsForClient {
        ticket: u64,
    },
    AtWork,
    Gone,
}

/// The server is at work for a connection until this is dropped.
pub(super) struct AtWork(Arc<Connection>);

impl fmt::Debug for AtWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtWork").finish_non_exhaustive()
    }
}

impl Connections {
    /// At most so many at once.
    pub(super) fn at_most(most: usize) -> Self {
        Self::sparing(most, Duration::from_millis(SPARED_MS))
    }

    fn sparing(most: usize, spared: Duration) -> Self {
        Self(Arc::new(Shared { most: most.max(1), spared, state: Mutex::default() }))
    }

    /// Returns when one more may come, perhaps in the place of another one.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            sleep(Duration::from_millis(LOOK_AGAIN_MS)).await;
        }
    }

    fn has_room(&self) -> bool {
        let state = self.lock();
        let may_go = state.waiting.first_key_value().is_some_and(|(_, (since, _))| since.elapsed() >= self.0.spared);
        state.open < self.0.most || may_go
    }

    /// One more, which waits for its client. If there are too many now, one that waits is told to go; whether that was so.
    pub(super) fn enter(&self) -> (Arc<Connection>, bool) {
        let told_to_go = Arc::new(Notify::new());
        let mut state = self.lock();
        let one_goes = if state.open >= self.0.most { state.waiting.pop_first() } else { None };
        if let Some((_, (_, told_to_go))) = &one_goes {
            told_to_go.notify_one();
        } else {
            state.open += 1;
        }
        let standing = Mutex::new(state.wait(told_to_go.clone()));
        drop(state);
        (Arc::new(Connection { connections: self.clone(), standing, told_to_go }), one_goes.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, told_to_go: Arc<Notify>) -> Standing {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.insert(ticket, (Instant::now(), told_to_go));
        Standing::WaitsForClient { ticket }
    }
}

impl Connection {
    /// Returns when the connection has to go.
    pub(super) async fn told_to_go(&self) {
        self.told_to_go.notified().await;
    }

    /// All of a request is here: the server is at work for it until the result is dropped.
    fn begin_work(self: &Arc<Self>) -> AtWork {
        self.change(|state, standing| match standing {
            Standing::WaitsForClient { ticket } if state.waiting.remove(&ticket).is_none() => Standing::Gone,
            Standing::WaitsForClient { .. } => Standing::AtWork,
            other => other,
        });
        AtWork(self.clone())
    }

    fn change(&self, change: impl FnOnce(&mut State, Standing) -> Standing) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        *standing = change(&mut self.connections.lock(), *standing);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.change(|state, standing| {
            let was_told = match standing {
                Standing::WaitsForClient { ticket } => state.waiting.remove(&ticket).is_none(),
                Standing::AtWork => false,
                Standing::Gone => true,
            };
            state.open -= usize::from(!was_told);
            Standing::Gone
        });
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.change(|state, standing| match standing {
            Standing::AtWork => state.wait(self.0.told_to_go.clone()),
            other => other,
        });
    }
}

/// The body of a request, as its client sends it. The server is at work for the request from its end on.
pub(super) struct FromClient<B> {
    body: B,
    connection: Arc<Connection>,
    at_work: Option<AtWork>,
}

impl<B: Body> FromClient<B> {
    pub(super) fn new(body: B, connection: Arc<Connection>) -> Self {
        let at_work = body.is_end_stream().then(|| connection.begin_work());
        Self { body, connection, at_work }
    }

    /// The work for the request, if it has begun.
    pub(super) fn into_work(self) -> Option<AtWork> {
        self.at_work
    }
}

impl<B: Body + Unpin> Body for FromClient<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if self.at_work.is_none() && (matches!(frame, Poll::Ready(None)) || self.body.is_end_stream()) {
            self.at_work = Some(self.connection.begin_work());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};

    use super::*;

    fn connections(most: usize) -> Connections {
        Connections::sparing(most, Duration::ZERO)
    }

    async fn is_told(connection: &Connection) -> bool {
        tokio::time::timeout(Duration::ZERO, connection.told_to_go()).await.is_ok()
    }

    #[tokio::test]
    async fn whoever_has_waited_for_its_client_for_longest_makes_room() {
        let connections = connections(3);
        let [first, second, third] = [(); 3].map(|()| connections.enter().0);
        // The first one was idle for longest, until it had a request.
        drop(first.begin_work());
        connections.room().await;
        let (fourth, one_went) = connections.enter();
        assert!(one_went && is_told(&second).await);
        assert!(!is_told(&first).await && !is_told(&third).await && !is_told(&fourth).await);
        // One that has gone takes no place with it that it has given up.
        drop(second);
        let (_fifth, one_went) = connections.enter();
        assert!(one_went && is_told(&third).await);
    }

    #[tokio::test]
    async fn nobody_has_to_go_for_whom_the_server_is_at_work() {
        let connections = connections(2);
        let [busy, other] = [(); 2].map(|()| connections.enter().0);
        let work = [busy.begin_work(), other.begin_work()];
        assert!(!connections.has_room());
        drop(other);
        assert!(!connections.has_room(), "its work holds it");
        drop(work);
        connections.room().await;
        assert!(!is_told(&busy).await);
    }

    #[tokio::test]
    async fn a_client_is_spared_for_a_moment() {
        let connections = Connections::sparing(1, Duration::from_secs(600));
        let first = connections.enter().0;
        assert!(!connections.has_room());
        drop(first);
        assert!(connections.has_room());
    }

    #[tokio::test]
    async fn work_for_a_request_begins_with_the_end_of_its_body() {
        let connections = connections(1);
        let connection = connections.enter().0;
        let mut body = FromClient::new(Full::new(Bytes::from_static(b"{}")), connection.clone());
        assert!(connections.has_room(), "its body has not come yet");
        let read: Result<_, Infallible> = (&mut body).collect().await;
        assert_eq!(read.map(|read| read.to_bytes()), Ok(Bytes::from_static(b"{}")));
        assert!(!connections.has_room());
        drop(body.into_work());
        assert!(connections.has_room());
        drop(FromClient::new(Full::new(Bytes::new()), connection).into_work());
        assert!(connections.has_room());
    }
}
