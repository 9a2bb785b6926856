//! What do instances cost that sleep? Many are put to sleep, the server is killed and started again, and some of them are due in one second.

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde_json::Value;

use super::waiting::start_sleepers;
use super::{PATIENCE, Place, mib, now_ms, start_many};
use crate::http::{self, Connection};

/// Start instances that sleep, kill the server, start it again, and look how late those wake that are due in one second
#[derive(Debug, clap::Args)]
pub(super) struct Sleepers {
    /// How many instances sleep
    #[arg(long, value_name = "N", default_value = "100000")]
    instances: NonZeroU64,

    /// How many of them are due in the same second
    #[arg(long, value_name = "N", default_value = "1000")]
    due: u64,

    /// In how many seconds those are due: after the server has been started again
    #[arg(long, value_name = "S", default_value = "30")]
    after: u64,

    /// How many clients start them, each with a connection of its own
    #[arg(long, value_name = "C", default_value = "64")]
    clients: NonZeroUsize,
}

impl Sleepers {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        let server = place.start()?;
        server.upload(&place.module).await?;
        let empty = server.usage()?;

        // Those that are due are started last, so that it can be told by then when that may be.
        let clients = self.clients.get();
        let (begin, sleepers) = (Instant::now(), self.instances.get().saturating_sub(self.due));
        start_sleepers(server.address, clients, sleepers).await?;
        let took = begin.elapsed();
        let due_ms = (now_ms() / 1_000 + self.after) * 1_000;
        let spread = |number: u64| due_ms + number * 1_000 / self.due.max(1);
        start_many(server.address, clients, "Sleep", "due", self.due, spread).await?;
        let asleep = server.usage()?;
        drop(server); // Killed.

        let began = Instant::now();
        let server = place.start()?;
        let ready = server.ready().await.map(|()| began.elapsed())?;
        let started = server.usage()?;
        let lateness_ms = self.lateness_ms(server.address, spread).await?;
        let woken = server.usage()?;

        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| lateness_ms.value_at_quantile(quantile));
        Ok(format!(
            "{} instances asleep\n\
             started at {:.0}/s; resident {:.0} MiB with none, {:.0} MiB with all asleep; on disk {:.1} KiB each\n\
             killed and started again: ready after {:.0} ms, resident {:.0} MiB\n\
             {} due in one second: late by p50 {p50} ms, p99 {p99} ms, at most {max} ms; resident {:.0} MiB afterwards",
            self.instances,
            sleepers as f64 / took.as_secs_f64(),
            mib(empty.resident_bytes),
            mib(asleep.resident_bytes),
            (asleep.disk_bytes - empty.disk_bytes) as f64 / 1_024.0 / self.instances.get() as f64,
            ready.as_secs_f64() * 1_000.0,
            mib(started.resident_bytes),
            self.due,
            mib(woken.resident_bytes),
        ))
    }

    /// How much later than they were due those have ended that were due in one second, in milliseconds.
    async fn lateness_ms(&self, server: SocketAddr, due_ms: impl Fn(u64) -> u64) -> Result<Histogram<u64>> {
        let mut lateness_ms = Histogram::new(3).context("make a histogram")?;
        let (mut connection, began) = (Connection::open(server).await?, Instant::now());
        for number in 0..self.due {
            let path = format!("/runtime/webhooks/durabletask/instances/due-{number}?showHistory=true");
            let request = http::request("GET", &path, server, "application/json", b"");
            let history = loop {
                let answer = connection.ask(&request).await?;
                let status: Value = serde_json::from_slice(&answer.body).context("read a status")?;
                if status["runtimeStatus"] == "Completed" {
                    break status["historyEvents"].clone();
                }
                ensure!(began.elapsed() < PATIENCE, "instance due-{number} does not wake: {status}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            let ended = history.as_array().and_then(|events| events.last()).and_then(|event| event["Timestamp"].as_str());
            let ended_ms = ended.and_then(ms_of_hour).context("read when an instance has ended")?;
            // Times of day are enough, and a run is far shorter than an hour.
            let late_ms = (ended_ms + 3_600_000 - due_ms(number) % 3_600_000) % 3_600_000;
            lateness_ms += late_ms;
        }
        Ok(lateness_ms)
    }
}

/// Milliseconds since the full hour, of a time as the server prints it: `2026-11-22T03:52:50.954Z`.
fn ms_of_hour(time: &str) -> Option<u64> {
    let (_, clock) = time.trim_end_matches('Z').split_once(':')?;
    let (minutes, seconds) = clock.split_once(':')?;
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    Some((minutes.parse::<u64>().ok()? * 60 + seconds.parse::<u64>().ok()?) * 1_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_server_are_read() {
        assert_eq!(ms_of_hour("2026-11-22T03:52:50.954Z"), Some(52 * 60_000 + 50_954));
        assert_eq!(ms_of_hour("2026-11-22T03:00:01Z"), Some(1_000));
        assert_eq!(ms_of_hour("2026-11-22T03:00:01.5Z"), Some(1_500));
        assert_eq!(ms_of_hour("soon"), None);
    }
}
