//! How fast is the server? The built program, on a disk, under clients that start an orchestration, wait for its result, check it,
//! and start the next one.
//!
//! `trial` is a program of its own, for all that is not a workload in a loop. The rest in reading order: `workload` is what can be run; `server` starts the program and reads what it uses; `copies` fill its store
//! before; `load` drives the clients, of which `client` and `list` say what they do, on `http`; `report` makes figures of what was measured and never shows them without `machine` and settings, where they come from.
//! Each run has a server and a data directory of its own.

mod client;
mod copies;
mod http;
mod list;
mod load;
mod machine;
mod report;
mod server;
pub mod trial;
mod workload;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use copies::Copies;
use list::Lister;
use load::{Amount, Clients};
use machine::Machine;
use report::{Measured, Report, Settings};
use server::Server;
use workload::Workload;

/// Measure orchestrations per second, latency, CPU time and disk use of a dacapo server
///
/// To be run in the root of a checkout, after `cargo build --release -p dacapo`. The server is
/// started and stopped by this program and shares the machine with it, so nothing else should run.
///
/// Figures go to standard output, progress to standard error. Exit status: 0 if all answers were
/// right, 1 if one was not or nothing could be measured, 2 if the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "dacapo-bench", version, verbatim_doc_comment)]
struct Arguments {
    /// What to run
    #[arg(value_parser = workload::parser())]
    workload: &'static Workload,

    /// How many clients there are, each with a connection of its own and one request at a time
    #[arg(long, value_name = "C", default_value = "16")]
    clients: NonZeroUsize,

    /// End a run after so many orchestrations, or whatever the workload counts
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    count: Option<NonZeroU64>,

    /// End a run after so many seconds
    #[arg(long, value_name = "S", default_value = "10")]
    seconds: NonZeroU64,

    /// How many of them to run before each measurement [default: 1000, fewer of large ones]
    #[arg(long, value_name = "N")]
    warm_up: Option<u64>,

    /// How often to measure, each time with a new server and a new store
    #[arg(long, value_name = "R", default_value = "3")]
    runs: NonZeroUsize,

    /// Fill each store with so many ended instances first, a tenth of them failed; about 2 KB on disk for each
    #[arg(long, value_name = "N")]
    fill: Option<NonZeroU64>,

    /// Where to put the data directories, which should be a disk
    #[arg(long, value_name = "DIR", default_value = "target")]
    data: PathBuf,

    /// The server to measure
    #[arg(long, value_name = "PATH", default_value = "target/release/dacapo")]
    server_binary: PathBuf,

    /// Leave the data directories where they are, with the log of each server
    #[arg(long)]
    keep: bool,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// The whole program.
pub fn main() -> ExitCode {
    print(Arguments::parse().report())
}

/// Ends a program with its report on standard output, or with what went wrong.
fn print(report: Result<String>) -> ExitCode {
    match report {
        Ok(report) => {
            // If nobody reads it, that is no reason to fail.
            let _ = writeln!(io::stdout(), "{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tell(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What the program prints to standard output with these arguments, of which the first is its own name.
///
/// # Errors
/// If there is nothing to measure, or if an answer was not what it should be.
pub fn report(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<String> {
    Arguments::try_parse_from(arguments)?.report()
}

impl Arguments {
    fn report(&self) -> Result<String> {
        let version = server::version(&self.server_binary)?;
        fs::create_dir_all(&self.data).with_context(|| format!("make {}", self.data.display()))?;
        let file_system = machine::file_system(&self.data)?;
        if file_system == "tmpfs" {
            tell(format_args!(
                "warning: {} is in memory, where commits cost next to nothing; name a folder on a disk with --data",
                self.data.display()
            ));
        }
        if cfg!(debug_assertions) {
            tell("warning: the clients are not optimised and take more of the machine than they need; use `cargo run --release`");
        }
        let module = workload::build_module()?;

        let settings = Settings {
            clients: self.clients.get(),
            amount: self.amount(),
            warm_up: self.warm_up(),
            fill: self.fill.map_or(0, NonZeroU64::get),
            server: self.server_binary.clone(),
            version,
            checkout: machine::checkout(),
            data: self.data.clone(),
            file_system,
        };
        let runs = (1..=self.runs.get()).map(|run| {
            tell(format_args!("{}, run {run} of {}", self.workload.name, self.runs));
            self.run(&module)
        });
        let report = Report::new(self.workload, Machine::this(), settings, runs.collect::<Result<_>>()?);
        Ok(if self.json { report.json() } else { report.table() })
    }

    fn amount(&self) -> Amount {
        self.count.map_or(Amount::Seconds(self.seconds.get()), |count| Amount::Count(count.get()))
    }

    fn warm_up(&self) -> u64 {
        self.warm_up.unwrap_or(self.workload.warm_up)
    }

    /// One run, with a folder of its own.
    fn run(&self, module: &[u8]) -> Result<Measured> {
        let folder = tempfile::Builder::new().prefix("dacapo-bench-").disable_cleanup(self.keep).tempdir_in(&self.data);
        let folder = folder.with_context(|| format!("make a folder in {}", self.data.display()))?;
        if self.keep {
            tell(format_args!("its data stays in {}", folder.path().display()));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the clients")?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
            // The server and its data must not outlive an interrupted bench.
            tokio::select! {
                measured = self.run_in(folder.path(), module) => measured,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                _ = terminate.recv() => bail!("told to stop"),
            }
        })
    }

    /// From an empty folder to the end of the server that was measured.
    async fn run_in(&self, folder: &Path, module: &[u8]) -> Result<Measured> {
        let copies = self.fill.map(|count| Copies::of(count.get()));
        // In a life of its own: what an upload leaves in memory must not look like what an idle server takes.
        match copies {
            Some(copies) => copies::fill(&self.server_binary, folder, module, copies).await.context("fill the store")?,
            None => {
                let mut server = Server::start(&self.server_binary, folder)?;
                server.upload(module).await?;
                server.stop()?;
            }
        }
        let mut server = Server::start(&self.server_binary, folder)?;
        let since_ms = copies.map_or_else(now_ms, |copies| copies.begin_ms);
        let measured = self.measure(&server, since_ms).await.map_err(|error| anyhow!("{error:#}; {}", server.log()));
        let stopped = server.stop();
        measured.and_then(|measured| stopped.map(|()| measured))
    }

    /// Measures a server that has the guests, and no instance that was made before this time, in milliseconds since 1970.
    async fn measure(&self, server: &Server, since_ms: u64) -> Result<Measured> {
        server.ready().await?;
        let idle_bytes = server.usage()?.resident_bytes;
        let mut clients = Clients::connect(server.address, self.clients.get(), self.workload).await?;
        clients.run(Amount::Count(self.warm_up())).await.context("warm up")?;
        let lister = if self.workload.is_listed { Some(Lister::connect(server.address, since_ms).await?) } else { None };

        let (before, client_cpu) = (server.usage()?, machine::own_cpu());
        let begin = Instant::now();
        let load = clients.run(self.amount());
        let (latencies_us, pages) = match lister {
            Some(lister) => lister.beside(load).await.map(|(latencies_us, pages)| (latencies_us, Some(pages)))?,
            None => (load.await?, None),
        };
        let took = begin.elapsed();
        let (after, client_cpu) = (server.usage()?, machine::own_cpu().saturating_sub(client_cpu));
        Ok(Measured { latencies_us, pages, took, idle_bytes, before, after, client_cpu })
    }
}

/// Writes a line for people to standard error. If nobody reads there, that is no reason to stop.
fn tell(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Now, in milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_server_is_said_with_the_command_that_builds_it() {
        let error = report(["dacapo-bench", "sequence-3", "--server-binary", "no/such/server"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no server no/such/server: build it with `cargo build --release -p dacapo`, or name one with --server-binary"
        );
    }

    #[test]
    fn a_run_ends_by_count_or_by_time() {
        let amount = |line: &str| Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.amount());
        assert!(matches!(amount("dacapo-bench sequence-5"), Ok(Amount::Seconds(10))));
        assert!(matches!(amount("dacapo-bench sequence-5 --seconds 3"), Ok(Amount::Seconds(3))));
        assert!(matches!(amount("dacapo-bench sequence-5 --count 20"), Ok(Amount::Count(20))));
        assert!(amount("dacapo-bench sequence-5 --count 20 --seconds 3").is_err());
        assert!(amount("dacapo-bench sequence-4").is_err());
    }
}
