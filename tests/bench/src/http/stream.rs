//! What does an instance do, without asking again and again? A stream of server-sent events says so, in the chunks of HTTP/1.1.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::timeout;

use super::{ANSWER_S_MAX, Connection, Incoming, find};

/// An answer that goes on and on.
pub(crate) struct Stream {
    connection: Connection,
    /// What came in chunks and was not yet taken.
    text: Vec<u8>,
}

impl Stream {
    /// Asks for the events at `path`.
    pub(crate) async fn open(server: SocketAddr, path: &str) -> Result<Self> {
        let mut connection = Connection::open(server).await?;
        connection.send(format!("GET {path} HTTP/1.1\r\nhost: {server}\r\naccept: text/event-stream\r\n\r\n").as_bytes()).await?;
        let end = loop {
            match connection.incoming.head()? {
                Some(end) => break end,
                None => connection.hear().await.context("read the head of a stream")?,
            }
        };
        let head: Vec<u8> = connection.incoming.bytes.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let is_stream = head.starts_with("http/1.1 200 ") && head.contains("\r\ntransfer-encoding: chunked\r\n");
        ensure!(is_stream, "the server does not answer with a stream: {head}");
        Ok(Self { connection, text: Vec::new() })
    }

    /// Waits for the next event called `name`, and returns its data.
    ///
    /// # Errors
    /// If the stream ends, or says nothing for too long.
    pub(crate) async fn next(&mut self, name: &str) -> Result<String> {
        let next = async {
            loop {
                match take_event(&mut self.text, name)? {
                    Some(data) => return Ok(data),
                    None => self.hear().await?,
                }
            }
        };
        timeout(Duration::from_secs(ANSWER_S_MAX), next).await.with_context(|| format!("no event within {ANSWER_S_MAX} s"))?
    }

    /// Waits until more text is here.
    async fn hear(&mut self) -> Result<()> {
        loop {
            match take_chunk(&mut self.connection.incoming)? {
                Some(chunk) if chunk.is_empty() => bail!("the stream has ended"),
                Some(chunk) => break self.text.extend(chunk),
                None => self.connection.hear().await.context("read a stream")?,
            }
        }
        Ok(())
    }
}

/// Takes the first chunk if all of it is here. The last one of a body is empty.
fn take_chunk(incoming: &mut Incoming) -> Result<Option<Vec<u8>>> {
    let Some(line) = find(&incoming.bytes, b"\r\n") else { return Ok(None) };
    let length = str::from_utf8(&incoming.bytes[..line]).ok().and_then(|text| u32::from_str_radix(text, 16).ok());
    let begin = line + 2;
    let end = begin + usize::try_from(length.context("a chunk of the stream has no length")?)?;
    if incoming.bytes.len() < end + 2 {
        return Ok(None);
    }
    let chunk = incoming.bytes[begin..end].to_vec();
    incoming.bytes.drain(..end + 2);
    Ok(Some(chunk))
}

/// Takes events up to the first whole one called `name`, and returns the data of that one. Those of others are lost.
fn take_event(text: &mut Vec<u8>, name: &str) -> Result<Option<String>> {
    while let Some(end) = find(text, b"\n\n") {
        let event: Vec<u8> = text.drain(..end + 2).collect();
        let event = String::from_utf8(event).context("an event of the stream is no text")?;
        let (mut is_wanted, mut data) = (false, String::new());
        for (field, value) in event.lines().filter_map(|line| line.split_once(": ")) {
            is_wanted |= field == "event" && value == name;
            if field == "data" {
                data.push_str(value);
            }
        }
        if is_wanted {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_taken_one_by_one_however_they_were_cut() {
        let sent = b"5\r\nab\r\nc\r\n1F\r\n0123456789012345678901234567890\r\n0\r\n\r\n";
        for cut in 0..sent.len() {
            let mut incoming = Incoming { bytes: sent[..cut].to_vec() };
            let mut seen = Vec::new();
            while let Some(chunk) = take_chunk(&mut incoming).unwrap() {
                seen.push(chunk);
            }
            incoming.bytes.extend(&sent[cut..]);
            while let Some(chunk) = take_chunk(&mut incoming).unwrap() {
                seen.push(chunk);
            }
            assert_eq!(seen, [&b"ab\r\nc"[..], b"0123456789012345678901234567890", b""], "cut at {cut}");
        }
        assert!(take_chunk(&mut Incoming { bytes: b"x\r\n".to_vec() }).is_err());
    }

    #[test]
    fn of_the_events_only_whole_ones_of_the_name_are_taken() {
        let mut text =
            b"retry: 1000\n\nevent: history\nid: 1\ndata: 0\n\nevent: status\nid: 2\ndata: {\ndata: }\n\nevent: sta".to_vec();
        assert_eq!(take_event(&mut text, "status").unwrap().as_deref(), Some("{}"));
        assert_eq!(take_event(&mut text, "status").unwrap(), None);
        text.extend(b"tus\ndata: 7\n\n");
        assert_eq!(take_event(&mut text, "status").unwrap().as_deref(), Some("7"));
        assert_eq!(text, b"");
    }
}
