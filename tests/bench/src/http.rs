//! HTTP/1.1 with as little work as possible: requests are bytes that were prepared once, and of an answer only the status, its length
//! and its body are looked at. A client library would take CPU time that is then missing on the other side.

mod stream;

use std::fmt::{self, Display};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) use stream::Stream;

/// How long to wait for an answer, in seconds: longer than a server lets wait by itself, and than it compiles a module.
const ANSWER_S_MAX: u64 = 60;

/// The longest head of an answer, in bytes. Those of the server have a few hundred.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Where the operations on instances are.
pub(crate) const INSTANCES: &str = "/runtime/webhooks/durabletask/instances";

/// A request with a body, ready to be sent as often as wanted.
pub(crate) fn request(method: &str, path: &str, server: SocketAddr, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: {server}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A connection that is kept alive.
pub(crate) struct Connection {
    stream: TcpStream,
    incoming: Incoming,
}

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// Whether it says when to come again.
    pub(crate) has_retry_after: bool,
}

impl Connection {
    pub(crate) async fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(server).await.context("connect to the server")?;
        // Or the kernel would hold back what is written until the server has acknowledged what was written before.
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        Ok(Self { stream, incoming: Incoming::default() })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// If there is none, or none that can be read. The connection cannot be used any more.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.ask_patiently(request, ANSWER_S_MAX).await
    }

    /// The same with so many seconds for the answer.
    pub(crate) async fn ask_patiently(&mut self, request: &[u8], seconds: u64) -> Result<Answer> {
        let answer = timeout(Duration::from_secs(seconds), async {
            self.send(request).await.context("send a request")?;
            self.receive().await.context("read an answer")
        });
        answer.await.with_context(|| format!("no answer within {seconds} s"))?
    }

    /// Sends a request, or several in one write, without waiting for an answer.
    pub(crate) async fn send(&self, mut rest: &[u8]) -> Result<()> {
        while !rest.is_empty() {
            match self.stream.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for the next answer.
    pub(crate) async fn receive(&mut self) -> Result<Answer> {
        loop {
            if let Some(answer) = self.incoming.take()? {
                return Ok(answer);
            }
            self.hear().await?;
        }
    }

    /// Waits until something comes, which is then among the incoming.
    async fn hear(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        self.stream.readable().await?;
        match self.stream.try_read(&mut bytes) {
            Ok(0) => bail!("the server has closed the connection"),
            Ok(count) => self.incoming.bytes.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (), // There was nothing after all.
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// What has come from the server and was not yet taken, cut wherever the network cut it.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
}

impl Incoming {
    /// Takes the first answer if all of it is here.
    fn take(&mut self) -> Result<Option<Answer>> {
        let Some(head) = self.head()? else { return Ok(None) };
        let Head { status, length, has_retry_after } = parse(&self.bytes[..head])?;
        let body = head + 4;
        let Some(end) = body.checked_add(length).filter(|&end| end <= self.bytes.len()) else { return Ok(None) };
        let answer = Answer { status, body: self.bytes[body..end].to_vec(), has_retry_after };
        self.bytes.drain(..end);
        Ok(Some(answer))
    }

    /// Where the head of the first answer ends, without the blank line behind it.
    fn head(&self) -> Result<Option<usize>> {
        let end = find(&self.bytes, b"\r\n\r\n");
        ensure!(end.is_some() || self.bytes.len() <= HEAD_BYTES_MAX, "the head of the answer does not end");
        Ok(end)
    }
}

/// What is looked at of the head of an answer that comes as a whole.
struct Head {
    status: u16,
    /// Of the body.
    length: usize,
    has_retry_after: bool,
}

/// Where `part` is in `bytes` first.
fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

fn parse(head: &[u8]) -> Result<Head> {
    let head = str::from_utf8(head).context("the head of the answer is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.with_context(|| format!("the answer has no status: {head}"))?;
    let (mut length, mut has_retry_after) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        }
        has_retry_after |= name.eq_ignore_ascii_case("retry-after");
    }
    let length = length.with_context(|| format!("the answer has no Content-Length: {head}"))?;
    Ok(Head { status, length, has_retry_after })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n[1]\
        HTTP/1.1 404 Not Found\r\nContent-Length:0\r\nx: y\r\n\r\n";

    fn answer(status: u16, body: &[u8]) -> Answer {
        Answer { status, body: body.to_vec(), has_retry_after: false }
    }

    fn error(head: &[u8]) -> String {
        Incoming { bytes: head.to_vec() }.take().unwrap_err().to_string()
    }

    #[test]
    fn answers_are_whole_wherever_the_network_cuts_them() {
        for cut in 0..=TWO.len() {
            let (mut incoming, mut answers) = (Incoming::default(), Vec::new());
            for piece in [&TWO[..cut], &TWO[cut..]] {
                incoming.bytes.extend_from_slice(piece);
                while let Some(answer) = incoming.take().unwrap() {
                    answers.push(answer);
                }
            }
            assert_eq!(answers, [answer(200, b"[1]"), answer(404, b"")], "cut at {cut}");
            assert!(incoming.bytes.is_empty(), "cut at {cut}");
        }
    }

    #[test]
    fn what_follows_an_answer_stays_for_the_next() {
        let mut incoming = Incoming { bytes: [TWO, b"HTTP/1.1 2"].concat() };
        assert_eq!(incoming.take().unwrap(), Some(answer(200, b"[1]")));
        assert_eq!(incoming.take().unwrap(), Some(answer(404, b"")));
        assert_eq!(incoming.take().unwrap(), None);
        assert_eq!(incoming.bytes, b"HTTP/1.1 2");
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_is_shown() {
        assert_eq!(error(b"SSH-2.0\r\n\r\n"), "the answer has no status: SSH-2.0");
        assert_eq!(error(b"HTTP/1.1 200 OK\r\n\r\n"), "the answer has no Content-Length: HTTP/1.1 200 OK");
        assert!(error(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n").starts_with("the answer has no Content-Length"));
        assert_eq!(error(&[b'x'; HEAD_BYTES_MAX + 1]), "the head of the answer does not end");
    }
}
