//! How much memory does an instance take that is open? One whose guest is alive between its turns, and one that is only in the
//! store.
//!
//! What an instance takes is the difference to the same server without any, over their number. It is told as RSS, and as what is
//! private together with page tables: that is what an instance costs the machine, see [`Memory`](server::Memory) for why RSS is
//! not.

use std::fs;
use std::num::NonZeroU64;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};

use super::metrics::{Metrics, until};
use super::waiting::start_sleepers;
use super::{Place, mib};
use crate::load::{Amount, Clients};
use crate::server::{self, Server};
use crate::{tell, workload};

/// How many clients start them.
const CLIENTS: usize = 64;

/// How many small orchestrations a server has run before anything counts: its threads, caches and allocator have what they need
/// then. Few at a time, so that they do not leave room behind in which instances would find place for nothing.
const WARM_UP: u64 = 200;
const WARM_UP_CLIENTS: usize = 2;

/// Start instances that wait, look how much memory they take, and how much when the server has been started again
#[derive(Debug, clap::Args)]
pub(super) struct Memory {
    /// How many instances are open, each number with a server of its own
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1000,10000,100000")]
    instances: Vec<NonZeroU64>,
}

/// So many open instances in one server.
struct Row {
    server: &'static str,
    open: u64,
    /// How many guests are alive.
    alive: u64,
    /// How many instances are in memory, with a guest or without.
    loaded: u64,
    without: server::Memory,
    with: server::Memory,
    /// Over how many the difference is divided.
    counted: u64,
}

impl Memory {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        let mut rows = Vec::new();
        for (at, count) in self.instances.iter().enumerate() {
            let folder = place.folder.join(format!("store-{at}"));
            fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
            rows.extend(measure(place, &folder, count.get()).await?);
            fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        Ok(format!("{}\neach: of guests that are alive, or of open instances if there are none", table(&rows)))
    }
}

/// Measures with so many instances, first as they have been started and then in a server that was started again.
async fn measure(place: &Place<'_>, folder: &Path, open: u64) -> Result<[Row; 2]> {
    // In a life of its own: what an upload leaves in memory is no instance's.
    let mut server = Server::start(place.program, folder)?;
    server.upload(&place.module).await?;
    server.stop()?;

    let mut server = Server::start(place.program, folder)?;
    server.ready().await?;
    let idle = server.memory()?;
    let workload = workload::named("sequence-3").context("find the workload")?;
    let mut clients = Clients::connect(server.address, WARM_UP_CLIENTS, workload).await?;
    clients.run(Amount::Count(WARM_UP)).await.context("warm up")?;
    let warm = server.memory()?;
    let turns = |metrics: &Metrics| metrics.get("dacapo_turn_seconds_count");
    let before = turns(&Metrics::ask(server.address).await?)?;

    tell(format_args!("starting {open} instances"));
    start_sleepers(server.address, CLIENTS, open).await?;
    // Each has one turn, in which it begins to wait, and one commit of that.
    let all_wait = |metrics: &Metrics| {
        Ok(turns(metrics)? >= before + open as f64
            && metrics.get("dacapo_commits_queued")? + metrics.get("dacapo_turns_queued")? <= 0.0)
    };
    until(server.address, "all instances wait", all_wait).await?;
    let started = Row::of("started them", open, &server, warm).await?;
    ensure!(started.alive > 0, "no guest is alive of {open} instances that wait");
    server.stop()?;

    let mut server = Server::start(place.program, folder)?;
    server.ready().await?;
    let again = Row::of("started again", open, &server, idle).await?;
    ensure!(again.alive == 0, "{} guests are alive though nothing has happened to them", again.alive);
    server.stop()?;
    Ok([started, again])
}

impl Row {
    async fn of(what: &'static str, open: u64, server: &Server, without: server::Memory) -> Result<Self> {
        let with = server.memory()?; // Before anything else is asked for.
        let metrics = Metrics::ask(server.address).await?;
        let (alive, loaded) = (metrics.get("dacapo_residents")? as u64, metrics.get("dacapo_instances_open")? as u64);
        let counted = if alive > 0 { alive } else { open };
        Ok(Self { server: what, open, alive, loaded, without, with, counted })
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "instances open",
        "in a server that",
        "guests alive",
        "instances in memory",
        "RSS without and with them, MiB",
        "private",
        "page tables",
        "RSS each, bytes",
        "private and tables each, bytes",
    ]);
    for Row { server, open, alive, loaded, without, with, counted } in rows {
        let pair = |of: fn(&server::Memory) -> u64| format!("{:.1}, {:.1}", mib(of(without)), mib(of(with)));
        let each = |of: fn(&server::Memory) -> u64| format!("{:.0}", (of(with) as f64 - of(without) as f64) / *counted as f64);
        table.add_row([
            open.to_string(),
            (*server).to_owned(),
            alive.to_string(),
            loaded.to_string(),
            pair(|memory| memory.resident),
            pair(|memory| memory.private),
            pair(|memory| memory.tables),
            each(|memory| memory.resident),
            each(|memory| memory.private + memory.tables),
        ]);
    }
    table.column_iter_mut().enumerate().filter(|(at, _)| *at != 1).for_each(|(_, column)| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table
}
