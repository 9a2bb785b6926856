//! What does a server do under load when the disk is full, or fails to sync? How soon does it refuse, do reads go on, how soon does it go on, and
//! is all there that it has acknowledged?

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dacapo_disk::Layer;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::time::sleep;

use super::{PATIENCE, Place, until};
use crate::http::{self, Connection};
use crate::server::Server;

/// What is started: three activities, one after the other.
const FUNCTION: &str = "Sequence";

/// Fill the disk under load, make room again, then let a sync fail, and look what the server refuses, answers and keeps
#[derive(Debug, clap::Args)]
pub(super) struct FullDisk {
    /// How long the disk is full, and how long the load runs before and after
    #[arg(long, value_name = "S", default_value = "5")]
    seconds: NonZeroU64,

    /// How many clients start orchestrations all the time, each with a connection of its own
    #[arg(long, value_name = "C", default_value = "16")]
    clients: NonZeroUsize,
}

/// Clients that start one instance after the other.
#[derive(Default)]
struct Load {
    /// The IDs of those that were acknowledged.
    acknowledged: RefCell<Vec<String>>,
    refused: Cell<u64>,
    begun: Cell<u64>,
    stop: Cell<bool>,
}

/// What an outage looked like.
struct Outage {
    /// Until a start was refused, and until the server said that it is not ready.
    refused_after: Duration,
    unready_after: Duration,
    /// How long reads took meanwhile.
    reads_us: Histogram<u64>,
    refused: u64,
}

impl FullDisk {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        let layer = Layer::new(&place.folder.join("data"), place.folder)?;
        let start = || Server::start_on(place.program, place.folder, |command| layer.put_under(command));
        let mut server = start()?;
        server.upload(&place.module).await?;
        let load = Load::default();

        let (full, ready_after) = load
            .beside(server.address, self.clients, async {
                self.pause().await;
                let outage = self.outage(&load, server.address, || layer.set_room(Some(0))).await?;
                layer.set_room(None)?;
                let ready_after = ready(server.address, true).await?;
                let before = load.acknowledged.borrow().len();
                until("a start that is taken", || Ok(load.acknowledged.borrow().len() > before)).await?;
                self.pause().await;
                Ok((outage, ready_after))
            })
            .await?;
        let kept = load.all_end(server.address).await.context("after the disk was full")?;

        let failed = load
            .beside(server.address, self.clients, async {
                self.pause().await;
                self.outage(&load, server.address, || layer.fail_syncs(1)).await
            })
            .await?;
        server.stop()?;
        let begun = Instant::now();
        server = start()?;
        ready(server.address, true).await?;
        let restarted = begun.elapsed();
        let all = load.all_end(server.address).await.context("after a sync has failed")?;
        server.stop()?;
        Ok(format!(
            "disk full under {} clients: {full}; ready {:.0} ms after there was room, in the same process; all {kept} acknowledged instances ended as they should\n\
             sync failed: {failed}; ready {:.0} ms after a restart; all {all} acknowledged instances ended as they should",
            self.clients,
            ms(ready_after),
            ms(restarted),
        ))
    }

    async fn pause(&self) {
        sleep(Duration::from_secs(self.seconds.get())).await;
    }

    /// Has the disk fail by `fail`, waits until that is seen, and reads for as long as it is to last.
    async fn outage(&self, load: &Load, server: SocketAddr, fail: impl FnOnce() -> Result<()>) -> Result<Outage> {
        let (begun, before) = (Instant::now(), load.refused.get());
        fail()?;
        let refused = async {
            until("a start that is refused", || Ok(load.refused.get() > before)).await?;
            anyhow::Ok(begun.elapsed())
        };
        let (refused_after, unready_after) = futures::try_join!(refused, ready(server, false))?;
        let mut reads_us = Histogram::new(3).context("make a histogram")?;
        let mut connection = Connection::open(server).await?;
        let end = Instant::now() + Duration::from_secs(self.seconds.get());
        while Instant::now() < end {
            for path in ["/runtime/webhooks/durabletask/instances?top=10", "/metrics", "/healthz"] {
                let began = Instant::now();
                let answer = connection.ask(&http::request("GET", path, server, "application/json", b"")).await?;
                reads_us += u64::try_from(began.elapsed().as_micros())?;
                ensure!(answer.status == 200, "{path}: {answer}");
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(Outage { refused_after, unready_after, reads_us, refused: load.refused.get() - before })
    }
}

impl Load {
    /// Runs while `work` does.
    async fn beside<T>(&self, server: SocketAddr, clients: NonZeroUsize, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.stop.set(false);
        let work = async {
            let done = work.await;
            self.stop.set(true);
            done
        };
        let clients = try_join_all((0..clients.get()).map(|_| self.start(server)));
        futures::try_join!(work, clients).map(|(done, _)| done)
    }

    async fn start(&self, server: SocketAddr) -> Result<()> {
        let mut connection = Connection::open(server).await?;
        while !self.stop.get() {
            let id = format!("started-{}", self.begun.get());
            self.begun.set(self.begun.get() + 1);
            let path = format!("/api/orchestrators/{FUNCTION}/{id}");
            let answer = connection.ask(&http::request("POST", &path, server, "application/json", b"3")).await?;
            match answer.status {
                202 => self.acknowledged.borrow_mut().push(id),
                503 => {
                    self.refused.set(self.refused.get() + 1);
                    sleep(Duration::from_millis(20)).await; // A client that has some manners.
                }
                _ => bail!("start {id}: {answer}"),
            }
        }
        Ok(())
    }

    /// Waits until all that were acknowledged have ended as they should; how many.
    async fn all_end(&self, server: SocketAddr) -> Result<usize> {
        let acknowledged = self.acknowledged.borrow().clone();
        let mut connection = Connection::open(server).await?;
        for id in &acknowledged {
            let path = format!("/runtime/webhooks/durabletask/instances/{id}");
            let request = http::request("GET", &path, server, "application/json", b"");
            let begun = Instant::now();
            loop {
                let answer = connection.ask(&request).await?;
                match answer.status {
                    200 => break,
                    202 => ensure!(begun.elapsed() < PATIENCE, "instance {id} does not end: {answer}"),
                    _ => bail!("instance {id} was acknowledged: {answer}"),
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(acknowledged.len())
    }
}

impl std::fmt::Display for Outage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { refused_after, unready_after, reads_us, refused } = self;
        write!(
            f,
            "first 503 after {:.0} ms, not ready after {:.0} ms, {refused} starts refused; {} reads meanwhile, p50 {:.1} ms, p99 {:.1} ms",
            ms(*refused_after),
            ms(*unready_after),
            reads_us.len(),
            reads_us.value_at_quantile(0.5) as f64 / 1e3,
            reads_us.value_at_quantile(0.99) as f64 / 1e3,
        )
    }
}

/// Waits until the server says that it is ready, or that it is not, and returns how long that took.
async fn ready(server: SocketAddr, ready: bool) -> Result<Duration> {
    let begun = Instant::now();
    let request = http::request("GET", "/readyz", server, "application/json", b"");
    let mut connection = Connection::open(server).await?;
    loop {
        let answer = connection.ask(&request).await?;
        ensure!(ready || answer.status == 200 || answer.body.starts_with(br#"{"status":"read_only""#), "{answer}");
        if (answer.status == 200) == ready {
            return Ok(begun.elapsed());
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "the server does not say within {PATIENCE:?} that it is ready, or that it is not: {answer}"
        );
        sleep(Duration::from_millis(1)).await;
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
