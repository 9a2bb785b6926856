//! The server under load: a process of its own, with an empty data directory, and what it uses.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, kill_process};

use crate::http::{self, Connection};

/// How long the server may take to stop, in seconds.
const STOP_S_MAX: u64 = 30;

/// How long it may take until it is ready after its start, in seconds.
const READY_S_MAX: u64 = 120;

/// A running server. Killed when it is dropped, unless it was stopped before.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
    /// Open as long as the server may write to it.
    _stdout: BufReader<ChildStdout>,
    data: PathBuf,
    log: PathBuf,
}

/// What the server has used up to some moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    /// What of it is in memory.
    pub(crate) resident_bytes: u64,
    /// What it has had written to the disk, over and over to the same place too.
    pub(crate) written_bytes: u64,
    /// All that is in its data directory.
    pub(crate) disk_bytes: u64,
}

/// What of the server is in memory at some moment, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// RSS, which everybody sees. It has pages of files too, which are there once for all who map them, and a page of a module's
    /// initial memory as often as there are guests that have read it, though it is there once.
    pub(crate) resident: u64,
    /// `Anonymous` of `smaps_rollup`: what this process alone has, and what would not be there without it.
    pub(crate) private: u64,
    /// The kernel's page tables, which are in neither of them: the memory of each guest has an address range of its own.
    pub(crate) tables: u64,
}

/// What the program says of itself.
///
/// # Errors
/// If it is not there, with how to get it.
pub(crate) fn version(program: &Path) -> Result<String> {
    ensure!(
        program.is_file(),
        "there is no server {}: build it with `cargo build --release -p dacapo`, or name one with --server-binary",
        program.display()
    );
    let output = command(program)?.arg("--version").output().with_context(|| format!("run {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What `dacapo verify` says of a data directory, as JSON.
///
/// # Errors
/// If it finds anything.
pub(crate) fn verify(program: &Path, data: &Path) -> Result<String> {
    let output = command(program)?.args(["verify", "--json"]).arg(data).output().context("run dacapo verify")?;
    let report = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(output.status.success(), "{}{report}", String::from_utf8_lossy(&output.stderr));
    Ok(report)
}

/// Runs the file, whatever the search path has under its name.
fn command(program: &Path) -> Result<Command> {
    Ok(Command::new(program.canonicalize().with_context(|| format!("find {}", program.display()))?))
}

impl Server {
    /// Starts one on a free port, with its data directory and log in `folder`.
    pub(crate) fn start(program: &Path, folder: &Path) -> Result<Self> {
        Self::start_on(program, folder, |_| ())
    }

    /// The same with what `prepare` does to its command.
    pub(crate) fn start_on(program: &Path, folder: &Path, prepare: impl FnOnce(&mut Command)) -> Result<Self> {
        let (data, log) = (folder.join("data"), folder.join("server.log"));
        let mut command = command(program)?;
        command.args(["serve", "--no-auth", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        prepare(&mut command);
        command.stderr(File::create(&log).with_context(|| format!("make {}", log.display()))?);
        let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let mut stdout = BufReader::new(child.stdout.take().context("take hold of what the server says")?);
        let mut line = String::new();
        let read = stdout.read_line(&mut line);
        match line.trim_end().strip_prefix("listening on http://").and_then(|address| address.parse().ok()) {
            Some(address) => Ok(Self { address, child, _stdout: stdout, data, log }),
            None => {
                // Best effort: that it does not say where it listens is what there is to report.
                let _ = (read, child.kill(), child.wait());
                bail!("the server does not say where it listens: {line}{}", fs::read_to_string(log).unwrap_or_default());
            }
        }
    }

    /// Uploads the guests of all workloads.
    pub(crate) async fn upload(&self, module: &[u8]) -> Result<()> {
        let upload = http::request("PUT", "/admin/modules/bench", self.address, "application/wasm", module);
        let uploaded = Connection::open(self.address).await?.ask(&upload).await.context("upload the guests")?;
        ensure!(uploaded.status == 201, "the guests were not taken: {uploaded}");
        Ok(())
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&self) -> Result<()> {
        let request = http::request("GET", "/readyz", self.address, "application/json", b"");
        let (mut connection, began) = (Connection::open(self.address).await?, Instant::now());
        while connection.ask(&request).await?.status != 200 {
            ensure!(began.elapsed().as_secs() < READY_S_MAX, "the server is not ready after {READY_S_MAX} s");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// What it has used up to now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let ticks = cpu_ticks(&self.process("stat")?).context("find the CPU time of the server")?;
        let kib = number(&self.process("status")?, "VmRSS:").context("find the memory of the server")?;
        let written_bytes = number(&self.process("io")?, "write_bytes:").context("find what the server has written")?;
        let disk_bytes = bytes_in(&self.data).with_context(|| format!("measure {}", self.data.display()))?;
        let cpu = Duration::from_millis(ticks * 1_000 / clock_ticks_per_second());
        Ok(Usage { cpu, resident_bytes: kib * 1_024, written_bytes, disk_bytes })
    }

    /// What of it is in memory now. The kernel looks at each of its mappings for that.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let (status, mappings) = (self.process("status")?, self.process("smaps_rollup")?);
        let bytes = |lines: &str, name: &str| {
            let kib = number(lines, name).with_context(|| format!("find {name} of the server"))?;
            anyhow::Ok(kib * 1_024)
        };
        Ok(Memory {
            resident: bytes(&mappings, "Rss:")?,
            private: bytes(&mappings, "Anonymous:")?,
            tables: bytes(&status, "VmPTE:")?,
        })
    }

    /// What the kernel says of its process.
    fn process(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        format!("the server's log:\n{log}")
    }

    /// SIGKILL: no chance to tidy up.
    ///
    /// # Errors
    /// If it has ended by itself before.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("look for the server")? {
            bail!("the server has ended by itself with {status}; {}", self.log());
        }
        self.child.kill().context("kill the server")?;
        self.child.wait().map(drop).context("wait for the server")
    }

    /// SIGTERM, and waits for a clean end.
    pub(crate) fn stop(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("stop the server")?;
        let status = self.ended()?;
        ensure!(status.success(), "the server ended with {status}; {}", self.log());
        Ok(())
    }

    /// Waits until it has ended, however it does.
    pub(crate) fn ended(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(STOP_S_MAX);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("wait for the server")? {
                return Ok(status);
            }
            sleep(Duration::from_millis(10));
        }
        bail!("the server did not stop within {STOP_S_MAX} s")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both do nothing if it has ended.
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// User and system time, from `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name of the program stands in brackets and may hold anything. Of the fields 14 and 15, two stand before its end.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: Vec<u64> = fields.split(' ').skip(11).take(2).map_while(|ticks| ticks.parse().ok()).collect();
    (ticks.len() == 2).then(|| ticks.iter().sum())
}

/// The number behind `name`, without its unit, from `/proc/PID/status`, `io` or `smaps_rollup`.
fn number(lines: &str, name: &str) -> Option<u64> {
    lines.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The sizes of all files in a folder and below.
fn bytes_in(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { bytes_in(&entry.path())? } else { found.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_memory_and_writes_are_found_in_what_the_kernel_says() {
        let stat = "17 (a) (b c) S 1 17 17 0 -1 4194560 900 0 3 0 250 40 7 8 20 0 9 0 1234 5678 900\n";
        assert_eq!(cpu_ticks(stat), Some(290));
        assert_eq!(cpu_ticks("17 (dacapo) S 1"), None);
        let status = "Name:\tdacapo\nVmRSS:\t   20480 kB\nVmSwap:\t 0 kB\n";
        assert_eq!((number(status, "VmRSS:"), number(status, "VmPeak:")), (Some(20_480), None));
        assert_eq!(number("wchar: 900\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n", "write_bytes:"), Some(8_192));
    }

    #[test]
    fn all_files_of_a_data_directory_count() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("compiled")).unwrap();
        fs::write(folder.path().join("dacapo.db"), [0; 100]).unwrap();
        fs::write(folder.path().join("compiled/module"), [0; 20]).unwrap();
        assert_eq!(bytes_in(folder.path()).unwrap(), 120);
    }
}
