//! How long does an answer wait for a client that does not read it? So long, and then its connection ends.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream whose writes fail once the other side has taken nothing for a while. Each write that gets on starts the time anew.
#[derive(Debug)]
pub(super) struct Patience<S> {
    stream: S,
    longest: Duration,
    /// There while a write waits; ends when it has waited for too long.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S: Unpin> Patience<S> {
    /// `stream`, on which a write may wait for `longest`.
    pub(super) fn with(stream: S, longest: Duration) -> Self {
        Self { stream, longest, waiting: None }
    }

    fn write(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = write(Pin::new(&mut self.stream), context);
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(self.longest)));
        waiting.as_mut().poll(context).map(|()| Err(io::Error::new(ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patience<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// Only writes wait: to flush a socket does nothing, and to shut it down leaves the rest to the system.
impl<S: AsyncWrite + Unpin> AsyncWrite for Patience<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |stream, context| stream.poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Instant;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const LONGEST: Duration = Duration::from_millis(400);

    /// Writes until the system takes nothing more, and returns the error and when it came.
    async fn fill(stream: &mut Patience<TcpStream>) -> (io::Error, Instant) {
        loop {
            match poll_fn(|context| Pin::new(&mut *stream).poll_write(context, &[0; 64 << 10])).await {
                Ok(_) => (),
                Err(error) => return (error, Instant::now()),
            }
        }
    }

    async fn pair() -> (Patience<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Patience::with(listener.accept().await.unwrap().0, LONGEST), client)
    }

    #[tokio::test]
    async fn a_client_that_never_reads_loses_its_connection() {
        let (mut server, _client) = pair().await;
        let began = Instant::now();
        let (error, at) = fill(&mut server).await;
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(at - began >= LONGEST);
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_keeps_it_for_as_long_as_it_reads() {
        let (mut server, client) = pair().await;
        let reading = async {
            // For longer than a write may wait, with pauses that are far shorter.
            let (began, mut buffer) = (Instant::now(), vec![0; 16 << 20]);
            while began.elapsed() < 3 * LONGEST {
                client.readable().await.unwrap();
                let _ = client.try_read(&mut buffer);
                sleep(LONGEST / 40).await;
            }
            Instant::now()
        };
        let ((error, failed), stopped) = tokio::join!(fill(&mut server), reading);
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(failed > stopped, "not while it still read");
    }
}
