//! How soon is a server there again that was killed, with much that is open? Instances that sleep, that have come due meanwhile, and whose
//! activities were under way; and then the same in the middle of a load.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::metrics::{Metrics, until, until_turns_are_done};
use super::waiting::{configure, start, start_resting, start_sleepers};
use super::{Place, mib, now_ms, start_many};
use crate::http::{self, Connection};
use crate::server::Server;
use crate::tell;

/// How many starts a server takes in a second at least; until those that are due have been started, they must not be due.
const STARTS_PER_S: u64 = 500;

/// How many open instances may cost a second.
const OPEN_PER_S: f64 = 100_000.0;

/// Start instances, kill the server, start it again, and see how soon it answers and goes on with all of them
#[derive(Debug, clap::Args)]
pub(super) struct Startup {
    /// How many instances are open
    #[arg(long, value_name = "N", default_value = "100000")]
    instances: NonZeroU64,

    /// How many of them come due while there is no server
    #[arg(long, value_name = "N", default_value = "10000")]
    due: u64,

    /// How many of them wait for an activity
    #[arg(long, value_name = "N", default_value = "10000")]
    working: u64,

    /// How long others are started before the second kill, in seconds
    #[arg(long, value_name = "S", default_value = "10")]
    load: u64,

    /// How many clients start them, each with a connection of its own
    #[arg(long, value_name = "C", default_value = "64")]
    clients: NonZeroUsize,

    /// How long a start may take however little is open, in milliseconds
    #[arg(long, value_name = "MS", default_value = "1000")]
    at_least: u64,
}

/// A start of a server.
struct Start {
    listening: Duration,
    first_answer: Duration,
    ready: Duration,
    resident_bytes: u64,
}

impl Startup {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        configure(place)?;
        let server = start(place)?;
        server.upload(&place.module).await?;
        let clients = self.clients.get();
        let sleeping = self.instances.get().saturating_sub(self.due + self.working);
        tell(format_args!("starting {} instances", self.instances));
        start_sleepers(server.address, clients, sleeping).await?;
        start_resting(server.address, clients, self.working).await?;
        let due_ms = now_ms() + 2_000 + self.due * 1_000 / STARTS_PER_S;
        start_many(server.address, clients, "Sleep", "due", self.due, |_| due_ms).await?;
        until_turns_are_done(server.address).await?;
        let early = ended(&Metrics::ask(server.address).await?);
        drop(server); // Killed.
        sleep(Duration::from_millis(due_ms.saturating_sub(now_ms()))).await;

        let (server, after_rest, began) = self.start(place).await?;
        until(server.address, "what was due has ended", |metrics| Ok(early + ended(metrics) >= self.due as f64)).await?;
        let due_done = began.elapsed();

        tell(format_args!("starting others for {} s", self.load));
        tokio::select! {
            loaded = start_many(server.address, clients, "Sequence", "load", u64::MAX, |_| 3) => loaded?,
            () = sleep(Duration::from_secs(self.load)) => (),
        }
        let metrics = Metrics::ask(server.address).await?;
        let in_memory = metrics.get("dacapo_instances_open")?;
        let open =
            self.instances.get() as f64 + metrics.get("dacapo_instances_started_total").unwrap_or(0.0) - early - ended(&metrics);
        drop(server); // Killed once more.
        let (server, after_load, began) = self.start(place).await?;
        until_turns_are_done(server.address).await?;
        let load_done = began.elapsed();
        drop(server);

        let shown = format!(
            "{} instances open, of which {} come due while there is no server and {} wait for an activity\n\
             killed at rest: {after_rest}; all that was due has ended after {:.1} s\n\
             killed in the middle of a load, with {open:.0} open, of which {in_memory:.0} are in memory: {after_load}; no turn waits any more after \
             {:.1} s",
            self.instances,
            self.due,
            self.working,
            due_done.as_secs_f64(),
            load_done.as_secs_f64(),
        );
        let at_least = Duration::from_millis(self.at_least);
        for (start, open) in [(&after_rest, self.instances.get() as f64), (&after_load, open)] {
            let allowed = Duration::from_secs_f64(open / OPEN_PER_S).max(at_least);
            ensure!(
                start.ready <= allowed,
                "{shown}\nbroken: a start with {open:.0} open instances may take {:.1} s",
                allowed.as_secs_f64()
            );
        }
        Ok(shown)
    }

    /// Starts the server, and says how it went and when that began.
    async fn start(&self, place: &Place<'_>) -> Result<(Server, Start, Instant)> {
        let began = Instant::now();
        let server = start(place)?;
        let listening = began.elapsed();
        let path = "/runtime/webhooks/durabletask/instances?top=1";
        let mut connection = Connection::open(server.address).await?;
        let answer = connection.ask(&http::request("GET", path, server.address, "application/json", b"")).await?;
        ensure!(answer.status == 200, "the first request was answered with {answer}");
        let first_answer = began.elapsed();
        server.ready().await?;
        let ready = began.elapsed();
        let resident_bytes = server.usage()?.resident_bytes;
        Ok((server, Start { listening, first_answer, ready, resident_bytes }, began))
    }
}

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let Self { listening, first_answer, ready, resident_bytes } = self;
        write!(
            f,
            "listens after {:.0} ms, answers after {:.0} ms, ready after {:.0} ms with {:.0} MiB resident",
            ms(*listening),
            ms(*first_answer),
            ms(*ready),
            mib(*resident_bytes)
        )
    }
}

/// How many instances have ended since the server was started. Before the first one has, there is no such line.
fn ended(metrics: &Metrics) -> f64 {
    metrics.get("dacapo_instances_ended_total{status=\"Completed\"}").unwrap_or(0.0)
}
