//! What does a server with a million ended instances take to find some of them, and how do those feel that run while many are purged?

use std::cell::Cell;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde_json::Value;

use super::{Place, mib};
use crate::copies::{self, Copies, FAILED_EVERY, scattered};
use crate::http::{self, Connection, INSTANCES};
use crate::load::{Amount, Clients};
use crate::workload::{self, Workload};

/// How long a purge may take, in seconds.
const PURGE_S_MAX: u64 = 3_600;

/// Fill a store with ended instances, look for some of them, and purge the oldest while small orchestrations run
#[derive(Debug, clap::Args)]
pub(super) struct Crowd {
    /// How many ended instances there are
    #[arg(long, value_name = "N", default_value = "1000000")]
    fill: NonZeroU64,

    /// How many of them are purged
    #[arg(long, value_name = "N", default_value = "100000")]
    purge: u64,

    /// How many pages, and how many statuses, are asked for
    #[arg(long, value_name = "N", default_value = "1000")]
    reads: u64,

    /// How many clients run orchestrations, each with a connection of its own
    #[arg(long, value_name = "C", default_value = "16")]
    clients: NonZeroUsize,

    /// How long they run before the purge, and after it
    #[arg(long, value_name = "S", default_value = "10")]
    seconds: u64,
}

/// How long something took, many times.
pub(super) struct Row {
    what: String,
    took_us: Histogram<u64>,
    per_second: Option<f64>,
}

impl Crowd {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        let crowd = Copies::of(self.fill.get());
        copies::fill(place.program, place.folder, &place.module, crowd).await?;
        let mut server = place.start()?;
        let filled = server.usage()?;
        let mut rows = vec![
            Row::of("page of 100 by status and time", self.pages(server.address, crowd).await?),
            Row::of("status by ID", self.statuses(server.address, crowd).await?),
        ];
        let workload = workload::named("sequence-3").context("find the workload")?;
        let mut clients = Clients::connect(server.address, self.clients.get(), workload).await?;
        clients.run(Amount::Seconds(1)).await.context("warm up")?;
        rows.push(Row::load("before", workload, clients.run(Amount::Seconds(self.seconds)).await?, self.seconds as f64));

        let (done, began) = (Cell::new(None), Instant::now());
        let purge = async {
            let purged = self.purge(server.address, crowd).await;
            done.set(Some(began.elapsed()));
            purged
        };
        let load = async {
            let mut all = Histogram::new(3).context("make a histogram")?;
            while done.get().is_none() {
                all += &clients.run(Amount::Seconds(1)).await?;
            }
            anyhow::Ok((all, began.elapsed()))
        };
        let (purged, during) = tokio::join!(purge, load);
        let (purged, (during, load_took)) = (purged?, during?);
        let took = done.get().context("the purge has not ended")?;
        rows.push(Row::load("during the purge", workload, during, load_took.as_secs_f64()));
        let after = clients.run(Amount::Seconds(self.seconds)).await?;
        rows.push(Row::load("afterwards, as histories are deleted", workload, after, self.seconds as f64));
        let end = server.usage()?;
        server.stop()?;

        Ok(format!(
            "{} ended instances, {} clients; {:.2} KiB each on disk; server memory {:.0} MiB after the start, {:.0} MiB at the end\n\
             {purged} purged in {:.1} s, {:.0}/s\n{}",
            crowd.count,
            self.clients,
            filled.disk_bytes as f64 / 1_024.0 / crowd.count as f64,
            mib(filled.resident_bytes),
            mib(end.resident_bytes),
            took.as_secs_f64(),
            purged as f64 / took.as_secs_f64(),
            table(&rows),
        ))
    }

    /// Asks for pages of failed instances from some time on.
    async fn pages(&self, server: SocketAddr, crowd: Copies) -> Result<Histogram<u64>> {
        // From the last tenth on, a page may have fewer rows than it should.
        let pages = (0..self.reads).map(|read| {
            let from = time(crowd.created_ms(scattered(read) % (crowd.count * 9 / 10).max(1)))?;
            Ok(format!("{INSTANCES}?runtimeStatus=Failed&createdTimeFrom={from}&top=100"))
        });
        let expected = usize::try_from((crowd.count / FAILED_EVERY / 10).min(100))?;
        measure(server, pages, |page| page.as_array().is_some_and(|rows| rows.len() >= expected)).await
    }

    /// Asks for the statuses of some.
    async fn statuses(&self, server: SocketAddr, crowd: Copies) -> Result<Histogram<u64>> {
        let ids =
            (0..self.reads).map(|read| Ok(format!("{INSTANCES}/{}?edition=current", crowd.id(scattered(read) % crowd.count))));
        measure(server, ids, |status| status["name"] == "Sequence").await
    }

    /// Purges the oldest; how many went.
    async fn purge(&self, server: SocketAddr, crowd: Copies) -> Result<u64> {
        let (from, to) = (time(crowd.begin_ms)?, time(crowd.created_ms(self.purge.min(crowd.count)) - 1)?);
        let path = format!("{INSTANCES}?createdTimeFrom={from}&createdTimeTo={to}");
        let request = http::request("DELETE", &path, server, "application/json", b"");
        let answer = Connection::open(server).await?.ask_patiently(&request, PURGE_S_MAX).await?;
        ensure!(answer.status == 200, "nothing was purged: {answer}");
        let body: Value = serde_json::from_slice(&answer.body).context("read how many were purged")?;
        body["instancesDeleted"].as_u64().context("find how many were purged")
    }
}

/// How long each of these paths takes to be answered with what is right.
async fn measure(
    server: SocketAddr,
    paths: impl Iterator<Item = Result<String>>,
    is_right: impl Fn(&Value) -> bool,
) -> Result<Histogram<u64>> {
    let mut took_us = Histogram::new(3).context("make a histogram")?;
    let mut connection = Connection::open(server).await?;
    for path in paths {
        let path = path?;
        let request = http::request("GET", &path, server, "application/json", b"");
        let began = Instant::now();
        let answer = connection.ask(&request).await?;
        took_us += u64::try_from(began.elapsed().as_micros())?;
        ensure!(answer.status == 200, "{path}: {answer}");
        ensure!(is_right(&serde_json::from_slice(&answer.body)?), "{path}: {answer}");
    }
    Ok(took_us)
}

impl Row {
    fn of(what: &str, took_us: Histogram<u64>) -> Self {
        Self { what: what.to_owned(), took_us, per_second: None }
    }

    pub(super) fn load(when: &str, workload: &Workload, took_us: Histogram<u64>, seconds: f64) -> Self {
        let per_second = Some(took_us.len() as f64 / seconds);
        Self { what: format!("{} {when}", workload.name), took_us, per_second }
    }
}

pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["", "count", "per second", "p50, ms", "p99, ms", "most, ms"]);
    for Row { what, took_us, per_second } in rows {
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|at| format!("{:.2}", took_us.value_at_quantile(at) as f64 / 1e3));
        let per_second = per_second.map_or_else(String::new, |rate| format!("{rate:.0}"));
        table.add_row([what.clone(), took_us.len().to_string(), per_second, p50, p99, most]);
    }
    table.column_iter_mut().skip(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table
}

fn time(ms: u64) -> Result<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms)?).context("print a time")
}
