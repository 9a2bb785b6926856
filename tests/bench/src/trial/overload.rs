//! What does a server do when far more comes than it can bear? Idle and slow clients first, then a minute of starts as fast as hundreds of
//! connections can send them, without waiting for anything: is what is let in done, is the rest told to come again, and how soon is all well?

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::metrics::Metrics;
use super::{Place, mib};
use crate::http::{self, Connection};
use crate::load::{Amount, Clients};
use crate::server::Server;
use crate::tell;
use crate::workload;

/// How many clients feel what the others do, each with one orchestration at a time.
const PROBES: usize = 4;

/// How many clients find out what the machine can do.
const CAPACITY_CLIENTS: usize = 64;

/// How many requests a client that never reads sends, of the largest answer that needs no instance.
const UNREAD: usize = 50;

/// How much slower than in quiet the slowest hundredth may be, beside `--slower-ms`.
const SLOWER_TIMES: f64 = 2.0;

/// How long to wait until the server has answered those who do not read, as far as it gets, in seconds.
const SETTLE_S: u64 = 3;

/// How many seconds of a run are looked at together, and which part of the median the slowest of these slices may do.
const SLICE_S: usize = 5;
const STEADY: f64 = 1.0 / 3.0;

/// How many statuses are asked for in one write.
const STATUSES: usize = 32;

/// Offer far more starts than the machine can do, beside clients that are idle or slow, and see what becomes of them
#[derive(Debug, clap::Args)]
pub(super) struct Overload {
    /// How long starts are offered
    #[arg(long, value_name = "S", default_value = "60")]
    seconds: u64,

    /// How many connections offer them
    #[arg(long, value_name = "C", default_value = "512")]
    connections: NonZeroUsize,

    /// How many starts each of them sends at once
    #[arg(long, value_name = "N", default_value = "16")]
    depth: NonZeroUsize,

    /// How many connections do nothing meanwhile
    #[arg(long, value_name = "N", default_value = "10000")]
    idle: usize,

    /// How many send a body at a byte per second, and how many never read an answer
    #[arg(long, value_name = "N", default_value = "200")]
    slow: usize,

    /// How long it is measured before, in seconds, each time
    #[arg(long, value_name = "S", default_value = "5")]
    quiet: u64,

    /// How much slower the slowest hundredth of small orchestrations may be, in milliseconds, than twice what it was in quiet
    #[arg(long, value_name = "MS", default_value = "20")]
    slower_ms: f64,

    /// How much memory the server may take, in MiB
    #[arg(long, value_name = "MIB", default_value = "1024")]
    resident_mib: u64,

    /// Within how many seconds after the load all has to be well again
    #[arg(long, value_name = "S", default_value = "15")]
    recovery: u64,
}

/// A second of the load.
struct Slice {
    ended_per_s: f64,
    accepted_per_s: f64,
    turns: f64,
    activities: f64,
    commits: f64,
    resident_bytes: u64,
}

/// What has come back of the starts.
#[derive(Default)]
struct Answers {
    sent: u64,
    accepted: Vec<u64>,
    refused: u64,
}

impl Overload {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        raise_descriptors()?;
        let mut shown = String::new();
        let mut broken = Vec::new();
        let mut server = place.start()?;
        server.upload(&place.module).await?;
        let address = server.address;

        let quiet = self.probe(address, self.quiet).await?;
        let quiet_ms = p99_ms(&quiet);
        let mut clients = clients(address, CAPACITY_CLIENTS).await?;
        clients.run(Amount::Seconds(1)).await.context("warm up")?;
        let capacity = clients.run(Amount::Seconds(self.quiet)).await?.len() as f64 / self.quiet as f64;
        drop(clients);
        let bound_ms = SLOWER_TIMES * quiet_ms + self.slower_ms;
        writeln!(
            shown,
            "quiet: sequence-3 by {PROBES} clients p50 {:.1} ms, p99 {quiet_ms:.1} ms; {CAPACITY_CLIENTS} clients {capacity:.0}/s",
            p50_ms(&quiet)
        )?;

        tell("idle and slow clients");
        let before = server.usage()?;
        let crowd = self.crowd(address).await?;
        trickle(&crowd.slow, SETTLE_S).await;
        let (probed, ()) = tokio::join!(self.probe(address, self.quiet), trickle(&crowd.slow, self.quiet));
        let (crowded_ms, newcomer) = (p99_ms(&probed?), newcomer(address).await?);
        let (crowded, metrics) = (server.usage()?, Metrics::ask(address).await?);
        writeln!(
            shown,
            "beside {} idle connections, {} with a byte per second and {} that never read: p99 {crowded_ms:.1} ms, a new connection is answered \
             within {:.1} ms, resident {:.0} MiB after {:.0}; {} connections were closed to make room",
            self.idle,
            self.slow,
            self.slow,
            newcomer.as_secs_f64() * 1e3,
            mib(crowded.resident_bytes),
            mib(before.resident_bytes),
            metrics.get("dacapo_http_connections_dismissed_total")?,
        )?;
        if crowded_ms > bound_ms {
            broken.push(format!("idle and slow clients bring p99 to {crowded_ms:.1} ms, above {bound_ms:.1} ms"));
        }

        tell(format_args!("{} s of starts", self.seconds));
        let answers = RefCell::new(Answers::default());
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let starters = (0..self.connections.get()).map(|number| self.offer(address, number, end, &answers));
        let (offered, slices) = tokio::join!(try_join_all(starters), self.watch(&server, end, &answers));
        offered?;
        let slices = slices?;
        let stopped = Instant::now();
        let Answers { sent, accepted, refused } = answers.into_inner();
        self.describe(&mut shown, &mut broken, (sent, accepted.len() as u64, refused), &slices)?;

        tell("recovery");
        let recovered = self.recovery(address, stopped, bound_ms).await?;
        match &recovered {
            Some((p99, drained)) => writeln!(
                shown,
                "after the load: nothing waits any more after {:.1} s, p99 below {bound_ms:.0} ms after {:.1} s",
                drained.as_secs_f64(),
                p99.as_secs_f64()
            )?,
            None => broken.push(format!("{} s after the load not all is well again", self.recovery)),
        }
        tell(format_args!("looking for {} instances", accepted.len()));
        let lost = lost(address, &accepted).await?;
        match lost.first() {
            None => write!(shown, "each of the {} starts that were accepted has come to its end", accepted.len())?,
            Some(first) => broken.push(format!("{} accepted starts are lost or not Completed, such as {first}", lost.len())),
        }
        drop(crowd);
        server.stop()?;
        ensure!(broken.is_empty(), "{shown}\nbroken: {}", broken.join("; "));
        Ok(shown)
    }

    /// Small orchestrations, one after the other: how long each takes, in microseconds.
    async fn probe(&self, server: SocketAddr, seconds: u64) -> Result<Histogram<u64>> {
        clients(server, PROBES).await?.run(Amount::Seconds(seconds)).await
    }

    /// Opens connections that do nothing, or next to nothing.
    async fn crowd(&self, server: SocketAddr) -> Result<Crowd> {
        let mut idle = Vec::with_capacity(self.idle);
        for _ in 0..self.idle {
            idle.push(TcpStream::connect(server).await.context("open an idle connection")?);
        }
        let head = format!("POST /api/orchestrators/Sequence HTTP/1.1\r\nhost: {server}\r\ncontent-length: 1000000\r\n\r\n1");
        let document = http::request("GET", "/openapi.json", server, "application/json", b"").repeat(UNREAD);
        let (mut slow, mut deaf) = (Vec::new(), Vec::new());
        for _ in 0..self.slow {
            let stream = TcpStream::connect(server).await.context("open a slow connection")?;
            stream.writable().await?;
            stream.try_write(head.as_bytes()).context("send a head")?;
            slow.push(stream);
            let stream = TcpStream::connect(server).await.context("open a connection that never reads")?;
            stream.writable().await?;
            stream.try_write(&document).context("send requests")?;
            deaf.push(stream);
        }
        Ok(Crowd { _idle: idle, slow, _deaf: deaf })
    }

    /// Sends starts over one connection until `end`, whatever comes back.
    async fn offer(&self, server: SocketAddr, number: usize, end: Instant, answers: &RefCell<Answers>) -> Result<()> {
        let mut connection = Connection::open(server).await?;
        let (step, mut next) = (self.connections.get() as u64, number as u64);
        while Instant::now() < end {
            let first = next;
            let mut requests = Vec::new();
            for _ in 0..self.depth.get() {
                let (function, input) = what(next);
                let path = format!("/api/orchestrators/{function}/{}", id(next));
                requests.extend(http::request("POST", &path, server, "application/json", input.as_bytes()));
                next += step;
            }
            connection.send(&requests).await.context("send starts")?;
            for number in (first..next).step_by(usize::try_from(step)?) {
                let answer = connection.receive().await.context("read the answer to a start")?;
                let mut answers = answers.borrow_mut();
                answers.sent += 1;
                match answer.status {
                    202 => answers.accepted.push(number),
                    503 if answer.has_retry_after => answers.refused += 1,
                    _ => anyhow::bail!("a start was answered with {answer}"),
                }
            }
        }
        Ok(())
    }

    /// Looks at the server every second until `end`.
    async fn watch(&self, server: &Server, end: Instant, answers: &RefCell<Answers>) -> Result<Vec<Slice>> {
        let (mut slices, mut then, mut ended, mut accepted) = (Vec::new(), Instant::now(), None, 0);
        while Instant::now() < end {
            sleep(Duration::from_secs(1)).await;
            let metrics = Metrics::ask(server.address).await?;
            let ended_now = metrics.get("dacapo_instances_ended_total{status=\"Completed\"}").unwrap_or(0.0);
            let (accepted_now, seconds) = (answers.borrow().accepted.len(), then.elapsed().as_secs_f64());
            slices.push(Slice {
                ended_per_s: ended.map_or(0.0, |ended| (ended_now - ended) / seconds),
                accepted_per_s: (accepted_now - accepted) as f64 / seconds,
                turns: metrics.get("dacapo_turns_queued")?,
                activities: metrics.get("dacapo_activities_waiting")?,
                commits: metrics.get("dacapo_commits_queued")?,
                resident_bytes: server.usage()?.resident_bytes,
            });
            (then, ended, accepted) = (Instant::now(), Some(ended_now), accepted_now);
        }
        Ok(slices)
    }

    fn describe(
        &self,
        shown: &mut String,
        broken: &mut Vec<String>,
        (sent, accepted, refused): (u64, u64, u64),
        slices: &[Slice],
    ) -> Result<()> {
        let seconds = self.seconds.max(1) as f64;
        // What is let in at once fills the queues; from then on it is a matter of what ends.
        let steady = slices.get(2..).unwrap_or_default();
        let spread = |figure: fn(&Slice) -> f64| {
            let mean = |slice: &[Slice]| slice.iter().map(figure).sum::<f64>() / slice.len() as f64;
            let mut figures: Vec<f64> = steady.chunks_exact(SLICE_S).map(mean).collect();
            figures.sort_by(f64::total_cmp);
            [figures.first(), figures.get(figures.len() / 2), figures.last()].map(|figure| figure.copied().unwrap_or(0.0))
        };
        let [ended_min, ended, ended_max] = spread(|slice| slice.ended_per_s);
        let [accepted_min, accepted_median, accepted_max] = spread(|slice| slice.accepted_per_s);
        let most = |figure: fn(&Slice) -> f64| slices.iter().map(figure).fold(0.0, f64::max);
        let resident_mib = most(|slice| mib(slice.resident_bytes));
        writeln!(
            shown,
            "{sent} starts in {} s over {} connections, {:.0}/s, {:.1} times what ends; {accepted} accepted, {refused} refused with 503 and \
             Retry-After\n\
             accepted per second, in slices of {SLICE_S} s: {accepted_min:.0} to {accepted_max:.0}, median {accepted_median:.0}; ended: {ended_min:.0} to \
             {ended_max:.0}, median {ended:.0}\n\
             at most {:.0} turns, {:.0} activities and {:.0} commits waited; resident at most {resident_mib:.0} MiB",
            self.seconds,
            self.connections,
            sent as f64 / seconds,
            sent as f64 / seconds / ended.max(1.0),
            most(|slice| slice.turns),
            most(|slice| slice.activities),
            most(|slice| slice.commits),
        )?;
        if resident_mib > self.resident_mib as f64 {
            broken.push(format!("the server took {resident_mib:.0} MiB, above {} MiB", self.resident_mib));
        }
        if ended_min < STEADY * ended {
            broken.push(format!("in one slice only {ended_min:.0} ended per second, where the median is {ended:.0}"));
        }
        Ok(())
    }

    /// How long after `stopped` small orchestrations take as long as before, and nothing waits any more. `None` if that does not come in time.
    async fn recovery(&self, server: SocketAddr, stopped: Instant, bound_ms: f64) -> Result<Option<(Duration, Duration)>> {
        let (mut quick, mut drained) = (None, None);
        while quick.is_none() || drained.is_none() {
            if stopped.elapsed() > Duration::from_secs(self.recovery) {
                return Ok(None);
            }
            let began = stopped.elapsed();
            // As long as starts are refused, it is not well.
            if let Ok(probed) = self.probe(server, 1).await
                && quick.is_none()
                && p99_ms(&probed) <= bound_ms
            {
                quick = Some(began);
            }
            let metrics = Metrics::ask(server).await?;
            if drained.is_none() && metrics.get("dacapo_beginnings_queued")? + metrics.get("dacapo_activities_waiting")? <= 1.0 {
                drained = Some(stopped.elapsed());
            }
        }
        Ok(quick.zip(drained))
    }
}

/// Connections that are open for as long as this lives.
struct Crowd {
    _idle: Vec<TcpStream>,
    /// In the middle of a body.
    slow: Vec<TcpStream>,
    _deaf: Vec<TcpStream>,
}

/// Sends a byte of each body per second. Whose connection the server has closed has been dealt with.
async fn trickle(slow: &[TcpStream], seconds: u64) {
    for _ in 0..seconds {
        for stream in slow {
            let _ = stream.try_write(b"1");
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// How long somebody waits for the first answer who was not connected before.
async fn newcomer(server: SocketAddr) -> Result<Duration> {
    let began = Instant::now();
    let answer = Connection::open(server).await?.ask(&http::request("GET", "/healthz", server, "application/json", b"")).await?;
    ensure!(answer.status == 200, "the server is not well: {answer}");
    Ok(began.elapsed())
}

/// What start `number` is for: small orchestrations, and some that want much at once, so that a start takes 28 activities on average.
fn what(number: u64) -> (&'static str, &'static str) {
    match number % 100 {
        7 | 57 => ("FanOut", "1000"),
        at if at % 20 == 10 => ("FanOut", "100"),
        20 => ("Parent", "10"),
        _ => ("Sequence", "3"),
    }
}

fn id(number: u64) -> String {
    format!("offered-{number}")
}

/// Those of these instances that are not there, or have not come to a good end.
async fn lost(server: SocketAddr, accepted: &[u64]) -> Result<Vec<String>> {
    let mut connection = Connection::open(server).await?;
    let mut lost = Vec::new();
    for numbers in accepted.chunks(STATUSES) {
        let request = |number: &u64| {
            let path = format!("/runtime/webhooks/durabletask/instances/{}?showInput=false&edition=current", id(*number));
            http::request("GET", &path, server, "application/json", b"")
        };
        connection.send(&numbers.iter().flat_map(request).collect::<Vec<u8>>()).await.context("ask for statuses")?;
        for number in numbers {
            let answer = connection.receive().await.context("read a status")?;
            if answer.status != 200 || !String::from_utf8_lossy(&answer.body).contains("\"runtimeStatus\":\"Completed\"") {
                lost.push(format!("{}: {answer}", id(*number)));
            }
        }
    }
    Ok(lost)
}

async fn clients(server: SocketAddr, count: usize) -> Result<Clients> {
    Clients::connect(server, count, workload::named("sequence-3").context("find the workload")?).await
}

fn p50_ms(took_us: &Histogram<u64>) -> f64 {
    took_us.value_at_quantile(0.5) as f64 / 1e3
}

fn p99_ms(took_us: &Histogram<u64>) -> f64 {
    took_us.value_at_quantile(0.99) as f64 / 1e3
}

/// As many file descriptors as this program may have.
fn raise_descriptors() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("raise the bound on file descriptors")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_start_in_twelve_or_so_wants_much_at_once() {
        let count = |function: &str| (0..1_000).filter(|number| what(*number).0 == function).count();
        assert_eq!((count("Sequence"), count("FanOut"), count("Parent")), (920, 70, 10));
    }
}
