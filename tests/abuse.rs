//! Can anybody who reaches the port harm the server with bytes alone? Ten thousand connections of random abuse, from fixed seeds.
//!
//! What is sent is nearly HTTP, so that it comes far: methods, escapes, headers, framing, pipelines and endings are drawn apart from
//! each other. What is wrong with a request is the client's fault, so the log must have nothing to say about it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::{DEADLINE_S, P3, Server, eventually};

/// How many connections there are, over all threads.
const CONNECTIONS: u64 = 10_000;

/// How many threads send. Each has a seed of its own, its number, so what it sends does not depend on the others.
const THREADS: u64 = 8;

/// Of how many connections one stays open in the middle of a request until all is over.
const HELD_IN: u64 = 50;

/// How much more memory than before the server may ever hold meanwhile, in KiB. A head may have 64 KiB and there are hundreds of them
/// at once; the rest is what an allocator keeps.
const GROWTH_KIB_MAX: u64 = 96 << 10;

/// SplitMix64: each seed is another sequence, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// So many random bytes, of any value.
    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// A few characters that parsers trip over, and some that they do not.
    fn junk(&mut self) -> String {
        const PARTS: [&str; 24] = [
            "a", "7", "%", "%zz", "%00", "%2F", "%2e%2e", "%C3", "%FF", "+", "&", "=", "?", "#", "..", "//", "\\", "\t",
            "\u{7f}", "ü", ":", ";", ",", "\"",
        ];
        (0..1 + self.below(12)).map(|_| self.pick(&PARTS)).collect()
    }
}

/// How a request says where its body ends, and the body.
fn framed_body(random: &mut Random) -> (String, String) {
    let hidden = format!("POST {P3}/orchestrators/Race/smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let text = |it: &str| it.to_owned();
    match random.below(24) {
        20.. | 0..4 => (String::new(), String::new()),
        4 => (text("Content-Length: 2\r\n"), text("{}")),
        5 => (text("Content-Length: 50\r\n"), text("breaks off")),
        6 => (text("Content-Length: 99999999999\r\n"), text("not that much")),
        7 => {
            let length = random.pick(&["-1", "+5", "0x10", "5,5", "5 5", "", "1e3", "18446744073709551616", "\u{665}"]);
            (format!("Content-Length: {length}\r\n"), hidden)
        }
        8 => (text("Content-Length: 2\r\nContent-Length: 3\r\n"), hidden),
        9 => (chunked.to_owned(), text("2\r\n{}\r\n0\r\n\r\n")),
        10 => {
            let size = random.pick(&["zz", "-1", "ffffffffffffffffff", "0x2", "", " 2", "2;", "7fffffffffffffff", "2\n"]);
            (chunked.to_owned(), format!("{size}\r\n{{}}\r\n0\r\n\r\n"))
        }
        11 => (chunked.to_owned(), text("2\r\n{}garbage where a line should end")),
        12 => (chunked.to_owned(), format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x=y;".repeat(random.below(8_000) as usize))),
        13 => (chunked.to_owned(), format!("0\r\n{}\r\n", "Trailer: x\r\n".repeat(random.below(3_000) as usize))),
        14 => (chunked.to_owned(), "1\r\n1\r\n".repeat(random.below(2_000) as usize)), // Without an end.
        // The next ones hide a request in what a server may or may not take for a body.
        15 => (format!("Content-Length: {}\r\n{chunked}", hidden.len()), format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len())),
        16 => (format!("{chunked}Content-Length: 4\r\n"), format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len())),
        17 => {
            let coding = random.pick(&["xchunked", "chunked, identity", "identity", "gzip", "\u{b}chunked", "chunked\u{0}", ""]);
            (format!("Transfer-Encoding: {coding}\r\nContent-Length: {}\r\n", hidden.len()), hidden)
        }
        18 => (format!("Transfer-Encoding : chunked\r\nContent-Length: {}\r\n", hidden.len()), hidden),
        _ => (text("Expect: 100-continue\r\nContent-Length: 5\r\n"), String::new()),
    }
}

/// Header lines that should not be there.
fn headers(random: &mut Random) -> String {
    let mut lines = String::new();
    let count = random.pick(&[0, 0, 0, 1, 1, 3]);
    for _ in 0..count {
        match random.below(13) {
            0 => write!(lines, "X-Long: {}\r\n", "x".repeat(random.below(100_000) as usize)).expect("a String takes all"),
            1 => lines.push_str(&"X-Many: 1\r\n".repeat(random.below(300) as usize)),
            2 => lines.push_str("Host: localhost\r\n"),
            3 => lines.push_str("Host: evil.example\r\n"),
            4 => lines.push_str("X-Folded: a\r\n b\r\n\tc\r\n"),
            5 => lines.push_str(": nameless\r\n"),
            6 => lines.push_str("X-Nul: a\u{0}b\r\n"),
            7 => lines.push_str("X-Lone: a\rb\nc\r\n"),
            8 => lines.push_str("Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
            9 => write!(lines, "x-ms-continuation-token: {}\r\n", random.junk()).expect("a String takes all"),
            10 => {
                write!(lines, "X-Forwarded-Host: {}\r\nX-Forwarded-Proto: gopher\r\n", random.junk()).expect("a String takes all")
            }
            11 => write!(lines, "Content-Type: {}\r\n", random.pick(&["application/json", "text/plain", ";", "\""]))
                .expect("a String takes all"),
            _ => write!(lines, "{}\r\n", random.junk()).expect("a String takes all"),
        }
    }
    lines
}

/// One request, or what may pass for one. Nearly all name a path that there is.
fn request(random: &mut Random) -> Vec<u8> {
    const KNOWN: [&str; 3] = ["GET", "POST", "DELETE"];
    const METHODS: [&str; 10] = ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "G\u{0}T", "B@D", ""];
    const PREFIXES: [&str; 5] =
        [P3, "/durabletask", "/admin/extensions/DurableTaskExtension", "/webhookextensions/handler/DurableTaskExtension", ""];
    const PATHS: [&str; 10] = [
        "/instances",
        "/instances/nobody",
        "/instances/nobody/raiseEvent/item",
        "/instances/nobody/terminate",
        "/instances/nobody/logs",
        "/orchestrators/NobodyHasThis",
        "/orchestrators/Race/abused",
        "/admin/modules",
        "/healthz",
        "",
    ];
    const VERSIONS: [&str; 5] = ["HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "http/1.1", ""];
    let method = match random.below(40) {
        0 => "X".repeat(random.below(80_000) as usize),
        1..8 => random.pick(&METHODS).to_owned(),
        _ => random.pick(&KNOWN).to_owned(),
    };
    let mut target = match random.below(24) {
        0 => random.junk(),
        1 => format!("/{}", "x".repeat(random.below(80_000) as usize)),
        2 => format!("http://localhost{}{}", P3, random.pick(&PATHS)),
        3 => random.pick(&["*", "/", "localhost:80", "http://", "//", "/\u{0}"]).to_owned(),
        _ => format!("{}{}", random.pick(&PREFIXES), random.pick(&PATHS)),
    };
    if random.one_in(3) {
        let (name, value) =
            (random.pick(&["taskHub", "top", "createdTimeFrom", "runtimeStatus", "tag.x", "code"]), random.junk());
        write!(target, "?{name}={value}&{}", random.junk()).expect("a String takes all");
    }
    if random.one_in(12) {
        target.push_str(&random.junk());
    }
    let version = if random.one_in(10) { random.pick(&VERSIONS) } else { "HTTP/1.1" };
    let host = if random.one_in(10) { "" } else { "Host: localhost\r\n" };
    let (framing, body) = framed_body(random);
    let head = format!("{method} {target} {version}\r\n{host}{}{framing}\r\n", headers(random));
    [head.into_bytes(), body.into_bytes()].concat()
}

/// All that one connection sends.
fn bytes(random: &mut Random) -> Vec<u8> {
    match random.below(30) {
        0 => {
            let count = random.below(2_000);
            random.bytes(count)
        }
        1 => b"GET /healthz\r\n".to_vec(), // HTTP/0.9
        2 => {
            let count = random.below(200);
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".as_slice(), &random.bytes(count)].concat()
        }
        3 => [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".as_slice(), &random.bytes(300)].concat(), // The greeting of TLS.
        4 => vec![0; random.below(70_000) as usize],
        5 => b"\r\n".repeat(random.below(40_000) as usize),
        6..9 => {
            // A pipeline, whose end is as random as any other.
            let known = format!("GET {P3}/instances/nobody HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
            let count = random.below(30) as usize;
            [known.repeat(count), request(random)].concat()
        }
        9 => (0..3).flat_map(|_| request(random)).collect(),
        10 => {
            // Some byte of a request is another.
            let mut bytes = request(random);
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.next() as u8;
            bytes
        }
        _ => request(random),
    }
}

/// Opens one connection and does something with it. Returns it if it is to stay open, and counts what the server answers.
fn abuse(authority: &str, random: &mut Random, answers: &mut BTreeMap<u16, u64>) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(authority).expect("the server takes connections");
    stream.set_read_timeout(Some(Duration::from_secs(DEADLINE_S))).expect("set a timeout");
    let mut bytes = bytes(random);
    let held = random.one_in(HELD_IN);
    if held {
        bytes.truncate(random.below(200) as usize);
    }
    // The server may hang up before it has all of it, so no write has to succeed.
    let pieces = if random.one_in(4) { 1 + bytes.len() / 3 } else { bytes.len().max(1) };
    let _ = bytes.chunks(pieces).try_for_each(|piece| stream.write_all(piece));
    if held {
        return Some(stream);
    }
    if random.one_in(5) {
        return None; // Gone without having read anything.
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if random.one_in(8) {
        let _ = stream.read(&mut [0; 16]); // Gone in the middle of the answer.
        return None;
    }
    let read = stream.read_to_end(&mut answer);
    let timed_out =
        |error: &std::io::Error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
    assert!(!read.is_err_and(|error| timed_out(&error)), "no end of {}", String::from_utf8_lossy(&bytes).escape_debug());
    if !answer.is_empty() {
        let status = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "));
        let status = status.and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok());
        *answers.entry(status.expect("an answer begins as one")).or_default() += 1;
    }
    None
}

/// A figure of the server's process, in KiB.
fn memory_kib(server: &Server, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process_id())).expect("read about the server");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it has memory");
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().expect("a number")
}

/// How many sockets the server has open. What it has of files may grow: it opens another reader of its store when it needs one.
fn sockets(server: &Server) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", server.process_id())).expect("list what the server has open");
    let targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok()); // It may be closed by now.
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn ten_thousand_abusive_connections_leave_the_server_as_it_was() {
    let mut server = Server::start();
    assert_eq!(server.output("Sequence", r#"{"count":3}"#), json!([0, 1, 2]));
    let (memory_before, sockets_before) = (memory_kib(&server, "VmRSS"), sockets(&server));

    let authority = server.authority();
    let run = |seed: u64| {
        let (mut random, mut answers, mut held) = (Random(seed), BTreeMap::new(), Vec::new());
        for _ in 0..CONNECTIONS / THREADS {
            held.extend(abuse(authority, &mut random, &mut answers));
        }
        (answers, held)
    };
    let (answers, held): (Vec<_>, Vec<_>) = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|seed| scope.spawn(move || run(seed))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it comes to its end")).unzip()
    });
    let mut all = BTreeMap::new();
    answers.into_iter().flatten().for_each(|(status, count)| *all.entry(status).or_insert(0) += count);
    let held: Vec<TcpStream> = held.into_iter().flatten().collect();

    // With all those half requests still open.
    assert!(held.len() > 100, "{} are held", held.len());
    assert!(server.is_alive());
    assert_eq!(server.output("Sequence", r#"{"count":3}"#), json!([0, 1, 2]));
    for status in [200, 400, 404, 405, 431] {
        assert!(all.contains_key(&status), "no request came so far as to be answered with {status}: {all:?}");
    }
    assert_eq!(all.keys().find(|status| **status >= 500), None, "{all:?}");
    assert_eq!(server.get(&format!("{P3}/instances/smuggled")).status, 404, "what is in a body is no request");
    let growth = memory_kib(&server, "VmHWM").saturating_sub(memory_before);
    assert!(growth <= GROWTH_KIB_MAX, "it has held {growth} KiB more than before");
    drop(held);
    eventually("the end of all connections", || (sockets(&server) <= sockets_before).then_some(()));
    let log = server.log();
    for word in ["ERROR", "WARN", "panicked"] {
        assert!(!log.contains(word), "the log speaks of what is the client's fault: {log}");
    }
    println!("{all:?}, {growth} KiB more");
}
