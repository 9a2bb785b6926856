//! What does a stream of server-sent events say? Event by event, as it comes.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

/// The longest event that is read, in bytes. The largest input and result together are far shorter.
const EVENT_BYTES_MAX: usize = 256 << 20;

/// A stream of a server.
pub(super) struct Events<R = Box<dyn Read + Send>> {
    lines: BufReader<R>,
}

/// One event of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Event {
    /// `status` or `history`.
    pub(super) name: String,
    /// Behind what to go on when the stream breaks off.
    pub(super) id: String,
    /// JSON, on one line.
    pub(super) data: String,
}

impl Events {
    /// What a client has to accept.
    pub(super) const TYPE: &str = "text/event-stream";

    /// The stream in this body.
    pub(super) fn of(body: impl Read + Send + 'static) -> Self {
        Self { lines: BufReader::new(Box::new(body)) }
    }
}

impl<R: Read> Iterator for Events<R> {
    type Item = io::Result<Event>;

    /// `None` where the stream ends.
    fn next(&mut self) -> Option<io::Result<Event>> {
        self.read().transpose()
    }
}

impl<R: Read> Events<R> {
    fn read(&mut self) -> io::Result<Option<Event>> {
        let mut event = Event::default();
        loop {
            let mut line = String::new();
            let room = EVENT_BYTES_MAX.saturating_sub(event.data.len());
            if self.lines.by_ref().take(room as u64).read_line(&mut line)? == 0 || !line.ends_with('\n') {
                // What has no end is no event: it comes again when we go on behind the one before.
                return if room == 0 { Err(ErrorKind::InvalidData.into()) } else { Ok(None) };
            }
            match line
                .trim_end_matches(['\n', '\r'])
                .split_once(':')
                .map(|(field, text)| (field, text.strip_prefix(' ').unwrap_or(text)))
            {
                Some(("event", text)) => text.clone_into(&mut event.name),
                Some(("id", text)) => text.clone_into(&mut event.id),
                // A line break stands between two values, where a blank does as well.
                Some(("data", text)) if event.data.is_empty() => text.clone_into(&mut event.data),
                Some(("data", text)) => event.data.extend([" ", text]),
                None if event.data.is_empty() => event = Event::default(),
                None => return Ok(Some(event)),
                Some(_) => (), // A comment, or how long to wait before coming back.
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_and_comments_do_not() {
        let text = "retry: 1000\n\n:\n\nevent: status\nid: a-1-\ndata: {\"a\":\ndata: 1}\n\n:\n\nevent: history\r\nid:b\r\ndata:2\r\n\r\nevent: history\ndata: 3\n";
        let events: Vec<_> = Events { lines: BufReader::new(text.as_bytes()) }.map(Result::unwrap).collect();
        let event = |name: &str, id: &str, data: &str| Event { name: name.into(), id: id.into(), data: data.into() };
        assert_eq!(events, [event("status", "a-1-", "{\"a\": 1}"), event("history", "b", "2")], "what breaks off is none");
    }
}
