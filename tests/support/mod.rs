//! What all tests need: guests, servers, a client, golden files.

pub(crate) mod client;
pub(crate) mod events;
pub(crate) mod golden;
pub(crate) mod guests;
pub(crate) mod server;
pub(crate) mod service;
pub(crate) mod shell;
pub(crate) mod wasm;

pub(crate) use client::{Client, P3, Reply};
pub(crate) use events::{Events, SentEvent};
pub(crate) use server::{Server, Setup};
pub(crate) use service::Service;
pub(crate) use shell::Shell;

use std::time::{Duration, Instant};

/// How long a test waits for what has to come, in seconds. Only a failing test takes that long.
pub(crate) const DEADLINE_S: u64 = 60;

/// Asks again and again until there is an answer.
///
/// # Panics
/// With `what` if there is none in time.
pub(crate) fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE_S, ask).unwrap_or_else(|| panic!("{what}: not within {DEADLINE_S} s"))
}

/// The same with a deadline of its own, after which it gives up.
pub(crate) fn eventually_within<T>(deadline_s: u64, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(deadline_s);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
