//! An HTTP service that a test's activities call. It notes who asks, and can let them wait.

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What comes back for a path.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// This text.
    Text(String),
    /// What was sent.
    Echo,
    /// The value of this header field, in lower case, or nothing.
    Header(&'static str),
    /// This status, and this as the `Location` to go to.
    Elsewhere(u16, String),
    /// Nothing, until the test says [`Service::release`]; then `released`.
    Hold,
}

/// A running service; it takes requests until the test process ends.
pub(crate) struct Service {
    /// `127.0.0.1:PORT`, as a network policy names it.
    pub(crate) authority: String,
    notes: Arc<Mutex<Notes>>,
}

/// What it knows.
#[derive(Debug, Default)]
struct Notes {
    /// The paths that were asked for, in their order.
    seen: Vec<String>,
    /// Those that wait.
    waiting: Vec<String>,
    /// The most that ever waited at once.
    waiting_max: usize,
    /// Those whose caller has gone before there was an answer.
    gone: Vec<String>,
    is_released: bool,
}

impl Service {
    /// One that answers as `answer` says.
    pub(crate) fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let authority = listener.local_addr().expect("it listens").to_string();
        let notes: Arc<Mutex<Notes>> = Arc::default();
        let (answer, shared) = (Arc::new(answer), notes.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, notes) = (answer.clone(), shared.clone());
                // A caller that goes away while it is written to is noted nowhere.
                thread::spawn(move || serve(stream, &*answer, &notes));
            }
        });
        Self { authority, notes }
    }

    /// One that lets everybody wait.
    pub(crate) fn holding() -> Self {
        Self::start(|_| Answer::Hold)
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
    }

    /// A section of the configuration that lets the default hub reach it.
    pub(crate) fn allowed(&self) -> String {
        format!("[hubs.DurableFunctionsHub.network]\nallow = [\"{}\"]\n", self.authority)
    }

    /// The paths that were asked for, in their order.
    pub(crate) fn seen(&self) -> Vec<String> {
        lock(&self.notes).seen.clone()
    }

    /// The paths that wait.
    pub(crate) fn waiting(&self) -> Vec<String> {
        lock(&self.notes).waiting.clone()
    }

    /// The most that ever waited at once.
    pub(crate) fn waiting_max(&self) -> usize {
        lock(&self.notes).waiting_max
    }

    /// The paths whose caller has gone before there was an answer.
    pub(crate) fn gone(&self) -> Vec<String> {
        lock(&self.notes).gone.clone()
    }

    /// Answers all that wait, and lets nobody wait from now on.
    pub(crate) fn release(&self) {
        lock(&self.notes).is_released = true;
    }
}

/// A test that fails while it holds the lock is not the failure to report.
fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one request; `None` if the caller has gone.
fn serve(mut stream: TcpStream, answer: &dyn Fn(&str) -> Answer, notes: &Mutex<Notes>) -> Option<()> {
    let mut head = Vec::new();
    let mut bytes = [0; 4096];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let count = stream.read(&mut bytes).ok().filter(|&count| count > 0)?;
        head.extend_from_slice(&bytes[..count]);
    }
    let end = head.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let sent = head.split_off(end);
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1)?.to_owned();
    lock(notes).seen.push(path.clone());
    let (mut status, mut location) = (200, String::new());
    let text = match answer(&path) {
        Answer::Elsewhere(code, url) => {
            (status, location) = (code, format!("location: {url}\r\nretry-after: 0\r\n"));
            String::new()
        }
        Answer::Text(text) => text,
        Answer::Echo => String::from_utf8_lossy(&body(&mut sent.chain(&mut stream), &head)?).into_owned(),
        Answer::Header(name) => field(&head, name).unwrap_or_default().to_owned(),
        Answer::Hold => hold(&mut stream, &path, notes)?,
    };
    let length = text.len();
    let reply = format!("HTTP/1.1 {status} It\r\n{location}content-length: {length}\r\nconnection: close\r\n\r\n{text}");
    stream.write_all(reply.as_bytes()).ok()
}

/// The value of a header field, whose name is given in lower case.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().filter_map(|line| line.split_once(": ")).find(|(known, _)| known.to_lowercase() == name).map(|(_, value)| value)
}

/// The body of a request: as long as it says, or in pieces that say how long they are.
fn body(stream: &mut impl Read, head: &str) -> Option<Vec<u8>> {
    if let Some(length) = field(head, "content-length") {
        let mut body = vec![0; length.parse().ok()?];
        stream.read_exact(&mut body).ok()?;
        return Some(body);
    }
    let mut stream = BufReader::new(stream);
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let length = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let mut piece = vec![0; length + 2]; // With the line break behind it.
        stream.read_exact(&mut piece).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(&piece[..length]);
    }
}

/// Waits until the test lets go of the caller; `None` if that goes first.
fn hold(stream: &mut TcpStream, path: &str, notes: &Mutex<Notes>) -> Option<String> {
    {
        let mut notes = lock(notes);
        notes.waiting.push(path.to_owned());
        notes.waiting_max = notes.waiting_max.max(notes.waiting.len());
    }
    stream.set_read_timeout(Some(Duration::from_millis(5))).expect("set a timeout");
    let is_there = loop {
        if lock(notes).is_released {
            break true;
        }
        match stream.read(&mut [0; 64]) {
            Ok(1..) => (),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => (),
            Ok(0) | Err(_) => break false,
        }
    };
    let mut notes = lock(notes);
    let at = notes.waiting.iter().position(|other| other == path).expect("it waits");
    notes.waiting.swap_remove(at);
    if !is_there {
        notes.gone.push(path.to_owned());
        return None;
    }
    Some("released".to_owned())
}
