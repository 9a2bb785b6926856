//! How long does what happens for the first time take? A start of the server, the first orchestration after it, the first one of
//! a module that was uploaded just now; and a start on a store with a million instances of which many are open. Each server was stopped
//! in order before; after a kill, a start also takes over what is in the log still, and the trial of start-up shows that.
//!
//! Cold is the server, not the disk: what it reads was written not long ago, and the kernel still has most of it in memory.

use std::fs;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};
use futures::future::try_join;

use super::metrics::{Metrics, until, until_turns_are_done};
use super::waiting::{self, start_resting, start_sleepers};
use super::{Place, mib};
use crate::client::Client;
use crate::copies::{self, Copies};
use crate::report::Range;
use crate::server::Server;
use crate::{tell, workload};

/// How many clients start the open instances.
const CLIENTS: usize = 64;

/// One open instance in so many waits for an activity, the others sleep.
const WORKING_EVERY: u64 = 10;

/// Which orchestration after the first one is far from a start.
const LATER: usize = 100;

/// Measure the first of everything: starts of the server, an orchestration after that, a module, and a start with much in the
/// store
#[derive(Debug, clap::Args)]
pub(super) struct Cold {
    /// How many instances the filled store has
    #[arg(long, value_name = "N", default_value = "1000000")]
    fill: NonZeroU64,

    /// How many of them are open, of which a tenth waits for an activity and the others sleep
    #[arg(long, value_name = "N", default_value = "100000")]
    open: NonZeroU64,

    /// How often to measure
    #[arg(long, value_name = "R", default_value = "5")]
    rounds: NonZeroUsize,
}

/// How long things took, in milliseconds, each as often as it was measured.
#[derive(Default)]
struct Times(Vec<(&'static str, Vec<f64>)>);

impl Cold {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        let ended = self.fill.get().checked_sub(self.open.get()).context("--open must not be more than --fill")?;
        let mut times = Times::default();
        for round in 0..self.rounds.get() {
            tell(format_args!("an empty store, round {} of {}", round + 1, self.rounds));
            let folder = place.folder.join(format!("round-{round}"));
            fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
            on_empty_store(place, &folder, round, &mut times).await?;
            fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        let filled = self.on_filled_store(place, ended, &mut times).await?;
        Ok(format!("{}\n{filled}", times.table()))
    }

    /// Fills a store and starts and stops a server on it, again and again. Says what was in it, and what the server took in the end.
    async fn on_filled_store(&self, place: &Place<'_>, ended: u64, times: &mut Times) -> Result<String> {
        copies::fill(place.program, place.folder, &place.module, Copies::of(ended)).await?;
        waiting::configure(place)?;
        let working = self.open.get() / WORKING_EVERY;
        tell(format_args!("starting {} instances", self.open));
        let mut server = waiting::start(place)?;
        start_sleepers(server.address, CLIENTS, self.open.get() - working).await?;
        start_resting(server.address, CLIENTS, working).await?;
        until_turns_are_done(server.address).await?;
        server.stop()?;

        let mut memory = 0;
        for round in 0..self.rounds.get() {
            tell(format_args!("the filled store, round {} of {}", round + 1, self.rounds));
            memory = life(place, working, times).await?;
        }
        Ok(format!(
            "filled: {ended} instances have ended, {} are open, of which {working} wait for an activity and the others sleep; \
             {:.0} MiB are resident when all goes on",
            self.open,
            mib(memory),
        ))
    }
}

/// One life of a server on the filled store. Returns how many bytes are resident when it has recovered.
async fn life(place: &Place<'_>, working: u64, times: &mut Times) -> Result<u64> {
    let began = Instant::now();
    let mut server = waiting::start(place)?;
    times.add("start on the filled store: listens", began.elapsed());
    let first = async {
        client(&server).await?.work().await.context("the first orchestration")?;
        anyhow::Ok(began.elapsed())
    };
    let recovered = async {
        server.ready().await?;
        let ready = began.elapsed();
        // Who waits for an activity stays in memory; of those who sleep, none comes there.
        let is_whole = |metrics: &Metrics| {
            Ok(metrics.get("dacapo_turns_queued")? <= 0.0 && metrics.get("dacapo_instances_open")? >= working as f64)
        };
        until(server.address, "all goes on that was open", is_whole).await?;
        anyhow::Ok((ready, began.elapsed()))
    };
    let (first, (ready, recovered)) = try_join(first, recovered).await?;
    times.add("start on the filled store: an orchestration asked for at once has ended", first);
    times.add("start on the filled store: ready", ready);
    times.add("start on the filled store: all goes on that was open", recovered);
    let memory = server.usage()?.resident_bytes;
    server.stop()?;
    Ok(memory)
}

/// Three lives of a server in a new folder: without anything, with a module that it knows, and with a module that only its cache
/// of compiled code knows.
async fn on_empty_store(place: &Place<'_>, folder: &Path, round: usize, times: &mut Times) -> Result<()> {
    let module = unseen(&place.module, round);
    let began = Instant::now();
    let mut server = Server::start(place.program, folder)?;
    times.add("start on an empty store: listens", began.elapsed());
    let (taken, ran) = deploy(&server, &module, 1.0).await?;
    times.add("upload of a new module: taken", taken);
    times.add("upload of a new module: its first orchestration has ended", ran);
    server.stop()?;

    let began = Instant::now();
    let mut server = Server::start(place.program, folder)?;
    times.add("start on a store with one module: listens", began.elapsed());
    let mut client = client(&server).await?;
    for number in 1..=LATER {
        let began = Instant::now();
        client.work().await?;
        match number {
            1 => times.add("first orchestration after a start", began.elapsed()),
            LATER => times.add("hundredth orchestration after a start", began.elapsed()),
            _ => (),
        }
    }
    server.stop()?;

    forget_all_but_compiled_code(&folder.join("data"))?;
    let mut server = Server::start(place.program, folder)?;
    let (taken, ran) = deploy(&server, &module, 0.0).await?;
    times.add("upload of a module with compiled code in the cache: taken", taken);
    times.add("upload of a module with compiled code in the cache: its first orchestration has ended", ran);
    server.stop()
}

/// Uploads a module and runs its first orchestration. Since the beginning, how long it took until each was done; so many modules
/// must have been compiled for it.
async fn deploy(server: &Server, module: &[u8], compiled: f64) -> Result<(Duration, Duration)> {
    let began = Instant::now();
    server.upload(module).await?;
    let taken = began.elapsed();
    client(server).await?.work().await.context("the first orchestration of a module")?;
    let ran = began.elapsed();
    let found = Metrics::ask(server.address).await?.get("dacapo_compile_seconds_count")?;
    ensure!(found == compiled, "{found} modules were compiled for an upload that should take {compiled}");
    Ok((taken, ran))
}

/// A client of small orchestrations, already connected.
async fn client(server: &Server) -> Result<Client> {
    Client::connect(server.address, &workload::named("sequence-3").context("find the workload")?.task).await
}

/// The same module with other bytes: a section is added that only says in which round.
fn unseen(module: &[u8], round: usize) -> Vec<u8> {
    const NAME: &[u8] = b"round";
    let content = [&[NAME.len() as u8], NAME, &round.to_le_bytes()].concat();
    // A custom section has the number 0. Its length is below 128, and so a byte.
    [module, &[0, content.len() as u8], &content].concat()
}

/// Empties the data directory of a server that is stopped, but for its cache of compiled code.
fn forget_all_but_compiled_code(data: &Path) -> Result<()> {
    let mut is_there = false;
    for entry in fs::read_dir(data).with_context(|| format!("list {}", data.display()))? {
        let path = entry.context("read a name")?.path();
        match path.ends_with("compiled") {
            true => is_there = true,
            false if path.is_dir() => fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?,
            false => fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?,
        }
    }
    if !is_there {
        bail!("there is no compiled code in {}", data.display());
    }
    Ok(())
}

impl Times {
    fn add(&mut self, what: &'static str, took: Duration) {
        let ms = took.as_secs_f64() * 1e3;
        match self.0.iter_mut().find(|(known, _)| *known == what) {
            Some((_, times)) => times.push(ms),
            None => self.0.push((what, vec![ms])),
        }
    }

    fn table(self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["", "n", "median, ms", "min..max"]);
        for (what, times) in self.0 {
            let (count, Range { median, min, max }) = (times.len(), Range::of(times));
            table.add_row([what.to_owned(), count.to_string(), format!("{median:.1}"), format!("{min:.1}..{max:.1}")]);
        }
        table.column_iter_mut().skip(1).for_each(|column| {
            column.set_cell_alignment(CellAlignment::Right);
        });
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_gets_a_section_of_its_own_in_each_round() {
        let module = unseen(b"module", 258);
        assert_eq!(module, [&b"module"[..], &[0, 14, 5], b"round", &[2, 1, 0, 0, 0, 0, 0, 0]].concat());
        assert_ne!(module, unseen(b"module", 1));
    }

    #[test]
    fn times_of_the_same_thing_come_into_one_row() {
        let mut times = Times::default();
        for (what, ms) in [("start", 3), ("stop", 9), ("start", 1), ("start", 8)] {
            times.add(what, Duration::from_millis(ms));
        }
        let table = times.table().to_string();
        assert!(table.contains("| start | 3 |        3.0 | 1.0..8.0 |"), "{table}");
        assert!(table.contains("| stop  | 1 |        9.0 | 9.0..9.0 |"), "{table}");
    }
}
