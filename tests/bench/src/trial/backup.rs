//! What do those feel that run while the store is copied, and is the copy good? And how long does it take to export an instance and to replay it?
//!
//! The store is filled as for `crowd`. The commands are those that people type.

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::crowd::{self, Row};
use super::{Place, mib};
use crate::copies::{self, Copies};
use crate::http::{self, Connection};
use crate::load::{Amount, Clients};
use crate::server::Server;
use crate::workload;

/// Back up a store while small orchestrations run, start a server on the copy, export an instance, and replay it
#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// How many ended instances there are
    #[arg(long, value_name = "N", default_value = "300000")]
    fill: NonZeroU64,

    /// How many clients run orchestrations, each with a connection of its own
    #[arg(long, value_name = "C", default_value = "16")]
    clients: NonZeroUsize,

    /// How long they run before the backup
    #[arg(long, value_name = "S", default_value = "10")]
    seconds: u64,
}

impl Backup {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        copies::fill(place.program, place.folder, &place.module, Copies::of(self.fill.get())).await?;
        let mut server = place.start()?;
        let workload = workload::named("sequence-3").context("find the workload")?;
        let mut clients = Clients::connect(server.address, self.clients.get(), workload).await?;
        clients.run(Amount::Seconds(1)).await.context("warm up")?;
        let before = clients.run(Amount::Seconds(self.seconds)).await?;
        let mut rows = vec![Row::load("before", workload, before, self.seconds as f64)];

        let copy = place.folder.join("restored");
        fs::create_dir(&copy).context("make a folder for the copy")?;
        let done = Cell::new(None);
        let backup = async {
            let data = [copy.join("data"), place.folder.join("data")];
            let (program, began) = (place.program.to_owned(), Instant::now());
            let backup =
                tokio::task::spawn_blocking(move || run(&program, &["backup".as_ref(), &data[0], "--data".as_ref(), &data[1]]));
            let said = backup.await.context("wait for the backup")?;
            done.set(Some(began.elapsed()));
            said
        };
        let load = async {
            let (mut all, mut log_bytes, began) = (Histogram::new(3).context("make a histogram")?, 0, Instant::now());
            while done.get().is_none() {
                all += &clients.run(Amount::Seconds(1)).await?;
                log_bytes = log_bytes.max(fs::metadata(place.folder.join("data/dacapo.db-wal")).map_or(0, |file| file.len()));
            }
            anyhow::Ok((all, log_bytes, began.elapsed()))
        };
        let (said, load) = tokio::join!(backup, load);
        let (said, (during, log_bytes, load_took)) = (said?, load?);
        rows.push(Row::load("during the backup", workload, during, load_took.as_secs_f64()));
        let took = done.get().context("the backup has not ended")?;
        let bytes = fs::metadata(copy.join("data/dacapo.db")).context("look at the copy")?.len();

        let exported = self.export_and_replay(place, server.address)?;
        server.stop()?;
        let began = Instant::now();
        let mut restored = Server::start(place.program, &copy)?;
        let ready = began.elapsed();
        is_there(restored.address, "model-of-completed").await?;
        restored.stop()?;
        Ok(format!(
            "{}; {:.0} MiB in {:.2} s, of which a part to look through it; the write-ahead log had {:.0} MiB at most meanwhile\n\
             a server on the copy is ready after {:.0} ms\n{exported}\n{}",
            said.trim_end(),
            mib(bytes),
            took.as_secs_f64(),
            mib(log_bytes),
            ready.as_secs_f64() * 1e3,
            crowd::table(&rows),
        ))
    }

    fn export_and_replay(&self, place: &Place<'_>, server: SocketAddr) -> Result<String> {
        let (file, url) = (place.folder.join("model.tar"), format!("http://{server}"));
        let began = Instant::now();
        run(
            place.program,
            &["export", "model-of-completed", "--server", &url, "--output"]
                .map(Path::new)
                .into_iter()
                .chain([&*file])
                .collect::<Vec<_>>(),
        )?;
        let exported = began.elapsed();
        let began = Instant::now();
        let shown = run(place.program, &["replay".as_ref(), &file])?;
        let replayed = began.elapsed();
        ensure!(shown.contains("replays to the same history"), "the replay said {shown}");
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        let bytes = fs::metadata(&file).context("look at the export")?.len();
        Ok(format!(
            "one instance exported in {:.0} ms, {:.1} MiB with its module; replayed in {:.0} ms, of which compiling takes the most",
            ms(exported),
            mib(bytes),
            ms(replayed)
        ))
    }
}

/// Runs a command of the program, which has to go well; what it printed.
fn run(program: &Path, arguments: &[&Path]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().context("run the program")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?} ended with {}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn is_there(server: SocketAddr, id: &str) -> Result<()> {
    let path = format!("/runtime/webhooks/durabletask/instances/{id}?edition=current");
    let answer = Connection::open(server).await?.ask(&http::request("GET", &path, server, "application/json", b"")).await?;
    ensure!(answer.status == 200, "an instance is not in the copy: {answer}");
    Ok(())
}
