//! Which instances are open for longer than a trial takes? Those that sleep, and those that wait for an activity which takes
//! long.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{Place, now_ms, start_many};
use crate::server::Server;

/// How long they sleep, in milliseconds: far longer than any trial runs.
const SLEEP_MS: u64 = 24 * 3_600_000;

/// How long activities take, in milliseconds: longer than one life of a server, and less than an activity may take.
const NAP_MS: u64 = 590_000;

/// The server's configuration: those who wait for an activity leave room for the activities of others, and a stop does not wait
/// for theirs.
const CONFIG: &str = "waiting.toml";
const NAPS: &str = "[limits]\nstop_grace_ms = 100\n[hubs.DurableFunctionsHub.limits.functions.nap]\nrunning_max = 128\n";

/// Starts so many that sleep, as [`start_many`].
pub(super) async fn start_sleepers(server: SocketAddr, clients: usize, count: u64) -> Result<()> {
    start_many(server, clients, "Sleep", "sleeper", count, |_| now_ms() + SLEEP_MS).await
}

/// Starts so many that wait for an activity, as [`start_many`]. The server should have been started by [`start`].
pub(super) async fn start_resting(server: SocketAddr, clients: usize, count: u64) -> Result<()> {
    start_many(server, clients, "Rest", "resting", count, |_| NAP_MS).await
}

/// Writes down the configuration that [`start`] takes.
pub(super) fn configure(place: &Place<'_>) -> Result<()> {
    fs::write(place.folder.join(CONFIG), NAPS).context("write the server's configuration")
}

/// Starts the server so that some who wait for an activity keep out no activities of others and do not hold up its end.
pub(super) fn start(place: &Place<'_>) -> Result<Server> {
    Server::start_on(place.program, place.folder, |command| _ = command.arg("--config").arg(place.folder.join(CONFIG)))
}
