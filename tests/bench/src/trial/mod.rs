//! What does the server bear? Each trial asks one question of that kind of the built program, and answers with figures.

mod backup;
mod cold;
mod crash;
mod crowd;
mod full_disk;
mod memory;
mod metrics;
mod neighbours;
mod overload;
mod power_loss;
mod sleepers;
mod startup;
mod waiting;

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use futures::future::try_join_all;

use crate::http::{self, Connection};
use crate::machine::{self, Machine};
use crate::server::{self, Server};
use crate::{now_ms, print, workload};

/// Put a dacapo server on trial
///
/// To be run in the root of a checkout, after `cargo build --release -p dacapo`. The server is
/// started and stopped by this program and shares the machine with it, so nothing else should run.
///
/// Figures go to standard output, progress to standard error. Exit status: 0 if the server did
/// all that it promises, 1 if it did not or nothing could be measured, 2 if the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "dacapo-trial", version, verbatim_doc_comment)]
struct Arguments {
    #[command(subcommand)]
    trial: Trial,

    /// Where to put the data directory, which should be a disk
    #[arg(long, value_name = "DIR", default_value = "target", global = true)]
    data: PathBuf,

    /// The server to put on trial
    #[arg(long, value_name = "PATH", default_value = "target/release/dacapo", global = true)]
    server_binary: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Trial {
    Backup(backup::Backup),
    Cold(cold::Cold),
    Crash(crash::Crash),
    Crowd(crowd::Crowd),
    FullDisk(full_disk::FullDisk),
    Memory(memory::Memory),
    Neighbours(neighbours::Neighbours),
    Overload(overload::Overload),
    PowerLoss(power_loss::PowerLoss),
    Sleepers(sleepers::Sleepers),
    Startup(startup::Startup),
}

/// Where a trial takes place.
pub(crate) struct Place<'a> {
    /// The program.
    program: &'a Path,
    /// A folder that goes with the trial.
    folder: &'a Path,
    /// The guests of all workloads.
    module: Vec<u8>,
}

/// The whole program.
pub fn main() -> ExitCode {
    print(Arguments::parse().report())
}

/// What the program prints to standard output with these arguments, of which the first is its own name.
///
/// # Errors
/// If the server did not do what it promises.
pub fn report(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<String> {
    Arguments::try_parse_from(arguments)?.report()
}

impl Arguments {
    fn report(&self) -> Result<String> {
        let version = server::version(&self.server_binary)?;
        fs::create_dir_all(&self.data).with_context(|| format!("make {}", self.data.display()))?;
        let folder = tempfile::Builder::new().prefix("dacapo-trial-").tempdir_in(&self.data).context("make a folder")?;
        let place = Place { program: &self.server_binary, folder: folder.path(), module: workload::build_module()? };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the clients")?;
        let shown = runtime.block_on(async {
            match &self.trial {
                Trial::Backup(trial) => trial.run(&place).await,
                Trial::Cold(trial) => trial.run(&place).await,
                Trial::Crash(trial) => trial.run(&place).await,
                Trial::Crowd(trial) => trial.run(&place).await,
                Trial::FullDisk(trial) => trial.run(&place).await,
                Trial::Memory(trial) => trial.run(&place).await,
                Trial::Neighbours(trial) => trial.run(&place).await,
                Trial::Overload(trial) => trial.run(&place).await,
                Trial::PowerLoss(trial) => trial.run(&place).await,
                Trial::Sleepers(trial) => trial.run(&place).await,
                Trial::Startup(trial) => trial.run(&place).await,
            }
        })?;
        let (file_system, checkout) = (machine::file_system(&self.data)?, machine::checkout());
        let Machine { cores, cpu, kernel } = Machine::this();
        Ok(format!(
            "{shown}\n{version}, checkout {checkout}; {cores} cores of {cpu}, Linux {kernel}; data on {file_system}, clients on the same machine"
        ))
    }
}

impl Place<'_> {
    /// Starts the server, on the data that the last one left.
    fn start(&self) -> Result<Server> {
        Server::start(self.program, self.folder)
    }
}

/// How long to wait for what has to come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts `count` instances of `function` by so many clients, each with one request at a time, which come again when they
/// are told to. Their IDs are `prefix` and a number; `input` is
/// asked just before each start.
async fn start_many(
    server: SocketAddr,
    clients: usize,
    function: &str,
    prefix: &str,
    count: u64,
    input: impl Fn(u64) -> u64,
) -> Result<()> {
    let input = &input;
    let client = |first: u64| async move {
        let mut connection = Connection::open(server).await?;
        for number in (first..count).step_by(clients) {
            let path = format!("/api/orchestrators/{function}/{prefix}-{number}");
            let input = input(number).to_string();
            let request = http::request("POST", &path, server, "application/json", input.as_bytes());
            while let answer = connection.ask(&request).await?
                && answer.status != 202
            {
                ensure!(answer.status == 503 && answer.has_retry_after, "a start was not taken: {answer}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Ok(())
    };
    try_join_all((0..clients as u64).map(client)).await.map(drop)
}

/// Waits for what has to come.
async fn until(what: &str, is_there: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_there()? {
        ensure!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// So many bytes in MiB.
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
