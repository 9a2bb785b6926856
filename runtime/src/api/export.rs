//! How does an instance leave the server? As a file (`engine/archive.rs`) that is sent while it is made, piece by piece, as fast as the client
//! takes it.

use std::io::{self, Write};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Body, Frame};
use tokio::sync::{Semaphore, mpsc};

use super::description::{Answer, Body as Takes, Family, Header, Operation};
use super::error::ApiError;
use super::reply::Reply;
use crate::engine::Hub;

/// The type of the file.
const TAR: &str = "application/x-tar";

/// How many files are made at once. Each keeps a thread busy and holds a module, and megabytes of events.
const AT_ONCE_MAX: usize = 4;

/// How much is sent at once, in bytes, and how many such pieces wait for a client that is slow.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_MAX: usize = 4;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE_MAX);

pub(super) static EXPORT: Operation = Operation {
    summary: "An instance with its history and its code, as one file",
    family: Family::Ours,
    takes: &[],
    body: Takes::None,
    answers: &[
        Answer::other(
            200,
            TAR,
            "A tar archive with `manifest.json`, `history.jsonl` and `module.wasm`, as `dacapo replay` reads it.",
        ),
        Answer::ours(404, "There is no such instance."),
        Answer::ours(503, "The server makes as many of these files as it may.").with(&[Header::RetryAfter]),
    ],
};

/// `GET /admin/instances/{instance}/export`: an instance with all that a replay needs.
///
/// 200 with the file, as it is made: if the instance is taken away meanwhile, or the store fails, the connection breaks before the file ends.
/// 404 if there is no such instance, hub or possible ID; 503 if the server makes as many files as it may.
pub(super) async fn export(hub: Option<&Hub>, instance: &str) -> Result<Reply, ApiError> {
    let unknown =
        || ApiError::ours(StatusCode::NOT_FOUND, "not_found", format!("there is no instance {instance:?} in this task hub"));
    let hub = hub.ok_or_else(unknown)?;
    let id = instance.parse().map_err(|_| unknown())?;
    let place = PLACES
        .try_acquire()
        .map_err(|_| ApiError::ours_unavailable("the server writes as many exports as it may; try again in a moment"))?;
    let export = hub.export(&id).await.map_err(ApiError::ours_internal)?.ok_or_else(unknown)?;
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { sender, piece: Vec::with_capacity(PIECE_BYTES) };
        if let Err(error) = export.write(&mut out) {
            tracing::warn!("the export of instance {id} was given up: {error}");
            // The client must not take what it has for the whole file. If it has gone, it does not.
            let _ = out.sender.blocking_send(Err(error));
        }
        drop(place);
    });
    Ok(Reply::file(TAR, ExportBody(pieces)))
}

/// A file on its way. An error in it breaks the connection.
#[derive(Debug)]
pub(super) struct ExportBody(mpsc::Receiver<io::Result<Bytes>>);

impl Body for ExportBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Sends what is written to it, and waits when the client does not take it.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone");
        self.sender.blocking_send(Ok(piece.into())).map_err(gone)
    }
}
