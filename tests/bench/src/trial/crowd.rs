//! What does a server with a million ended instances take to find some of them, and how do those feel that run while many are purged?
//!
//! A few instances are run to their end; then, with the server stopped, copies of what they left are written into its file.

use std::cell::Cell;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use jiff::Timestamp;
use rusqlite::Connection as File;
use serde_json::Value;

use super::{Place, mib, now_ms};
use crate::http::{self, Connection};
use crate::load::{Amount, Clients};
use crate::tell;
use crate::workload::{self, Workload};

/// Where the operations of the wire contract are.
const INSTANCES: &str = "/runtime/webhooks/durabletask/instances";

/// Over how much time the copies have begun, in milliseconds: a month.
const SPAN_MS: u64 = 30 * 24 * 3_600_000;

/// One copy in so many is of an instance that has failed.
const FAILED_EVERY: u64 = 10;

/// How many copies are written in one transaction.
const SLICE: u64 = 50_000;

/// How many numbers the real instances may have taken in each partition.
const NUMBERS_TAKEN: u64 = 1_000_000;

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

/// When the copies have begun.
#[derive(Clone, Copy)]
pub(super) struct Copies {
    count: u64,
    begin_ms: u64,
}

impl Copies {
    pub(super) fn of(count: u64) -> Self {
        Self { count, begin_ms: now_ms() - SPAN_MS }
    }

    /// When copy `number` was made, in milliseconds since 1970.
    fn created_ms(self, number: u64) -> u64 {
        self.begin_ms + u64::try_from(u128::from(number) * u128::from(SPAN_MS) / u128::from(self.count)).unwrap_or(SPAN_MS)
    }
}

/// An instance that has run, to be copied.
struct Model {
    key: i64,
    execution: i64,
    id: String,
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
        let mut server = place.start()?;
        place.upload(&server).await?;
        run_models(server.address).await?;
        server.stop()?;
        let began = Instant::now();
        fill(&place.folder.join("data/dacapo.db"), crowd)?;
        tell(format_args!("{} instances written in {:.1} s", crowd.count, began.elapsed().as_secs_f64()));

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
        let ids = (0..self.reads).map(|read| Ok(format!("{INSTANCES}/{}?edition=current", id(scattered(read) % crowd.count))));
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

/// Runs the instances that are copied: one that completes, one that fails.
pub(super) async fn run_models(server: SocketAddr) -> Result<()> {
    let mut connection = Connection::open(server).await?;
    for (id, input) in [("model-of-completed", "3"), ("model-of-failed", r#""three""#)] {
        let path = format!("/api/orchestrators/Sequence/{id}?timeout=30");
        let answer = connection.ask(&http::request("POST", &path, server, "application/json", input.as_bytes())).await?;
        ensure!(answer.status == 200, "a model has not ended: {answer}");
    }
    Ok(())
}

/// Writes copies of the models into the file of a stopped server.
pub(super) fn fill(path: &Path, crowd: Copies) -> Result<()> {
    let mut file = File::open(path).context("open the store")?;
    // If this does not come to its end, nobody uses the file.
    file.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -500000")?;
    let model = |id: &str| {
        let sql = "SELECT key, execution FROM instance WHERE id = ?1";
        file.query_row(sql, [id], |row| Ok(Model { key: row.get(0)?, execution: row.get(1)?, id: id.to_owned() }))
    };
    let models = [model("model-of-completed")?, model("model-of-failed")?];
    // A row each that becomes one copy after the other, whatever columns there are.
    file.execute_batch(
        "CREATE TEMP TABLE copy_0 AS SELECT * FROM instance LIMIT 0; CREATE TEMP TABLE copy_1 AS SELECT * FROM instance LIMIT 0",
    )?;
    for (at, model) in models.iter().enumerate() {
        file.execute(&format!("INSERT INTO copy_{at} SELECT * FROM instance WHERE key = ?1"), [model.key])?;
    }
    for first in (0..crowd.count).step_by(usize::try_from(SLICE)?) {
        let transaction = file.transaction()?;
        for number in first..(first + SLICE).min(crowd.count) {
            let at = usize::from(number % FAILED_EVERY == 0);
            copy(&transaction, &models[at], at, number, crowd.created_ms(number))?;
        }
        transaction.commit()?;
    }
    file.close().map_err(|(_, error)| error).context("close the store")
}

/// Writes copy `number` of a model.
fn copy(file: &File, model: &Model, at: usize, number: u64, created_ms: u64) -> Result<()> {
    // Hub and partition lie in the high bits of a number; the copies take turns in all 64 partitions.
    let hub = model.key >> 46 << 46;
    let key = hub | i64::try_from((number % 64) << 40 | (NUMBERS_TAKEN + number / 64))?;
    let (id, created_ms) = (id(number), i64::try_from(created_ms)?);
    let change = format!("UPDATE copy_{at} SET key = ?1, execution = ?1, id = ?2, created = ?3, updated = ?3 + 20");
    file.prepare_cached(&change)?.execute(rusqlite::params![key, id, created_ms])?;
    file.prepare_cached(&format!("INSERT INTO instance SELECT * FROM copy_{at}"))?.execute([])?;
    let history = "INSERT INTO history (execution, seq, events)
        SELECT ?1, seq, replace(events, ?2, ?3) FROM history WHERE execution = ?4 ORDER BY seq";
    let quoted = |id: &str| format!("\"{id}\"");
    file.prepare_cached(history)?.execute(rusqlite::params![key, quoted(&model.id), quoted(&id), model.execution])?;
    Ok(())
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

/// The ID of copy `number`, as the server would have drawn it.
fn id(number: u64) -> String {
    format!("{:016x}{:016x}", scattered(number), scattered(!number))
}

/// Another number for each, all over the place: the finalizer of SplitMix64.
fn scattered(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

fn time(ms: u64) -> Result<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms)?).context("print a time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_begin_one_after_the_other_over_the_whole_span() {
        let crowd = Copies { count: 1_000_000, begin_ms: 7 };
        assert_eq!([0, 1, 999_999].map(|number| crowd.created_ms(number)), [7, 7 + 2_592, 7 + SPAN_MS - 2_592]);
    }

    #[test]
    fn every_copy_has_an_id_of_its_own() {
        let ids: std::collections::BTreeSet<String> = (0..10_000).map(id).collect();
        assert!(ids.len() == 10_000 && ids.iter().all(|id| id.len() == 32));
    }
}
