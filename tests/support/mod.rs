//! What all tests need: guests, servers, a client, golden files.

pub(crate) mod client;
pub(crate) mod golden;
pub(crate) mod guests;
pub(crate) mod server;
pub(crate) mod wasm;

pub(crate) use client::{Client, P3, Reply};
pub(crate) use server::{Server, Setup};

use std::time::{Duration, Instant};

/// How long a test waits for what has to come, in seconds. Only a failing test takes that long.
pub(crate) const DEADLINE_S: u64 = 60;

/// Asks again and again until there is an answer.
///
/// # Panics
/// With `what` if there is none in time.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(DEADLINE_S);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE_S} s");
        std::thread::sleep(Duration::from_millis(2));
    }
}
