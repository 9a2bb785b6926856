//! `dacapo dev`: how does one write a module and see every change run? With a server, a builder and the lines of both in one
//! process.
//!
//! The main thread serves, from before the first build on. One more builds, uploads and waits for the next change, so that no two
//! builds run at once; another one asks for what came out of executions that have ended. Both are clients of the server as anybody
//! can be, and nobody waits for them when it is over.

mod lines;
mod sources;

use std::env;
use std::fs::{self, DirBuilder};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use self::lines::{Ended, Lines, Listener};
use self::sources::{News, Sources};
use super::client::{Client, parse};
use super::connection::Connection;
use super::deploy::functions;
use super::guests::{Guest, Shown, TARGET};
use super::output::{Tone, duration, say, shell_word};
use super::server::{ADDRESS, Server, listen_nearby, program};
use super::wire::{Instance, Version};
use super::{log_filter, tell};
use crate::model::Digest;

/// How much of a digest is shown: enough to tell the versions of a day apart.
const DIGEST_CHARS: usize = 8;

/// Serve a crate's module on this machine; build and upload it anew with each change
///
/// The server asks for no key. Its data stay when it stops, so that a restart goes on where it stood.
/// What the functions log and every run that ends are shown as they come, until Ctrl-C. DACAPO_LOG
/// is only about what the server says of itself.
///
/// If port 7071 is taken, another one is used.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Example:\n  dacapo dev ./bakery")]
pub(super) struct Dev {
    /// The crate's folder
    #[arg(value_name = "CRATE-DIR", default_value = ".")]
    dir: PathBuf,

    /// Where to listen [default: 127.0.0.1:7071]
    ///
    /// An IP address of this machine only and a port; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", env = "DACAPO_LISTEN", hide_env_values = true, value_parser = loopback)]
    listen: Option<SocketAddr>,

    /// Where modules and histories are kept [default: TARGET-DIR/dacapo/NAME]
    ///
    /// NAME is the crate's. TARGET-DIR is cargo's: `cargo clean` deletes it with all data.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Dev {
    /// Serves until it is asked to stop.
    pub(super) fn run(self) -> Result<()> {
        let guest = Guest::find(&self.dir)?;
        let data = self.data.unwrap_or_else(|| guest.target().join("dacapo").join(guest.name()));
        make_private(&data).with_context(|| format!("make {}", data.display()))?;
        let listener = match self.listen {
            Some(address) => TcpListener::bind(address).with_context(|| format!("listen on {address}"))?,
            None => listen_nearby()?,
        };
        let (lines, (ended, ends)) = (Arc::new(Lines::default()), mpsc::channel());
        let shown = log_filter("warn")?.or(lines::always_shown());
        tracing_subscriber::registry().with(Listener::new(lines.clone(), ended).with_filter(shown)).init();

        // From before the first build on, so that no change is missed.
        let (mut sources, news) = Sources::new(vec![guest.target().to_owned(), data.clone()])?;
        sources.follow(vec![guest.dir().to_owned()])?;
        let server = Server::start_open(listener, &data)?;
        let stop = server.stop_signal()?;
        let url = server.url();
        let taken = if self.listen.is_none() && url != default_url() { ", since port 7071 is taken" } else { "" };
        let here = env::current_dir().unwrap_or_default();
        let shown = data.strip_prefix(here).unwrap_or(&data).display();
        say(format_args!("Serving {url} without keys{taken}; data in {shown}"))?;

        let stopping = Arc::new(AtomicBool::new(false));
        let builder = Builder { guest, client: Client::to(url.clone()), lines: lines.clone(), stopping, current: None };
        let stopping = builder.stopping.clone();
        let thread = thread::Builder::new().name("dacapo-builder".into());
        thread.spawn(move || builder.work(&mut sources)).context("start a thread")?;
        let shower = thread::Builder::new().name("dacapo-ends".into());
        shower.spawn(move || show_ends(&ends, &Client::to(url), &lines)).context("start a thread")?;

        // A cargo at work is not waited for. Ctrl-C reaches it too; after another signal it gives up as soon as it finds that nobody
        // reads what it has built.
        server.run_until(async {
            stop.await;
            stopping.store(true, Ordering::Relaxed);
            let _ = news.send(News::Stop); // Nobody listens if the builder has failed.
        })
    }
}

/// What a build has made.
struct Built {
    /// The module's bytes.
    wasm: Result<Vec<u8>>,
    took: Duration,
}

impl Built {
    fn now(guest: &Guest, shown: Shown) -> Self {
        let begin = Instant::now();
        let file = guest.build(shown);
        let wasm = file.and_then(|file| fs::read(&file).with_context(|| format!("read {}", file.display())));
        Self { wasm, took: begin.elapsed() }
    }
}

/// Builds and uploads.
struct Builder {
    guest: Guest,
    client: Client,
    lines: Arc<Lines>,
    /// Set when there is no server to upload to any more.
    stopping: Arc<AtomicBool>,
    /// What the server took last from here.
    current: Option<Version>,
}

impl Builder {
    /// Builds and uploads, at first and then after every change, until there is nothing more to wait for.
    fn work(mut self, sources: &mut Sources) {
        tell(format_args!("Building {} for {TARGET}; the first time, its dependencies too", self.guest.name()));
        let first = Built::now(&self.guest, Shown::Progress);
        self.offer(first);
        loop {
            // After a build, which may have brought new crates and told what is wrong with a manifest.
            if let Err(error) = self.guest.folders().and_then(|folders| sources.follow(folders)) {
                tracing::debug!("not all sources are watched: {error:#}");
            }
            let Some(changed) = sources.changed() else { return };
            let changed = changed.strip_prefix(self.guest.dir()).unwrap_or(&changed).display().to_string();
            self.lines.tell("build", Tone::Busy, &format!("{changed} has changed"));
            let built = Built::now(&self.guest, Shown::Diagnostics);
            self.offer(built);
        }
    }

    /// Uploads what was built, if it was built and is something new.
    fn offer(&mut self, Built { wasm, took }: Built) {
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        let name = self.guest.name();
        let is_current = |wasm: &Vec<u8>| self.current.as_ref().is_some_and(|now| now.digest == Digest::of(wasm).to_string());
        let uploaded = match wasm {
            Ok(wasm) if is_current(&wasm) => return self.lines.tell("ready", Tone::Good, "the module is the same as before"),
            Ok(wasm) => self.client.upload(name, &wasm).map_err(|error| anyhow!("{name} was not taken: {error:#}")),
            Err(error) => Err(error),
        };
        let version = match uploaded {
            Ok(uploaded) => uploaded.version,
            Err(error) => {
                let rest = match &self.current {
                    Some(current) => format!("version {} stays", short(&current.digest)),
                    None => "the next change is waited for".to_owned(),
                };
                return self.lines.tell("error", Tone::Bad, &format!("{error:#}; {rest}"));
            }
        };
        let took = duration(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.lines.tell("ready", Tone::Good, &format!("{name} is version {} now, built in {took}", short(&version.digest)));
        let before = self.current.replace(version);
        self.show_functions(before.as_ref());
    }

    /// Shows what the module offers if that has changed, and at first how to start it.
    fn show_functions(&self, before: Option<&Version>) {
        let Some(now) = &self.current else { return };
        let is_same = |before: &Version| before.orchestrators == now.orchestrators && before.activities == now.activities;
        if before.is_some_and(is_same) {
            return;
        }
        let _ = say(format_args!("\n{}\n", functions(now))); // Nobody reads it: no reason to stop.
        if let (None, Some(function)) = (before, now.orchestrators.first()) {
            let base = self.client.base();
            let server = if is_usual(base) { String::new() } else { format!(" --server {base}") };
            let _ = say(format_args!(
                "From another terminal:\n\n  \
                 {program} start {word} --wait{server}\n  \
                 curl -X POST '{start}?timeout=10'\n\n\
                 The next start after a change runs the changed code. Ctrl-C stops.\n",
                program = program(),
                word = shell_word(function),
                start = self.client.start_url(function),
            ));
        }
    }
}

/// Shows each run that has ended with what came out of it.
fn show_ends(ends: &Receiver<Ended>, client: &Client, lines: &Lines) {
    for ended in ends {
        let Ended { instance, function, status, took_ms, .. } = &ended;
        let text = format!("{function} {status} in {}", duration(*took_ms));
        // Gone already, started anew, or too large to be read: the line is worth showing without it.
        let now = client.status(instance, &[]).and_then(|text| parse::<Instance>(&text)).ok();
        let output = now.filter(|now| ended.is_of(now)).map(|now| now.output);
        let tone = Tone::of_status(status);
        match output.as_ref().map_or("null", |output| output.get()) {
            "null" => lines.tell_of(instance, "ended", tone, &text),
            output => lines.tell_two_of(instance, "ended", tone, &text, output),
        }
    }
}

/// Whether commands talk to the server at `base` that are told of none.
fn is_usual(base: &str) -> bool {
    match env::var("DACAPO_SERVER") {
        Ok(server) if !server.trim().is_empty() => server.trim().trim_end_matches('/') == base,
        _ => Connection::default().client().is_ok_and(|client| client.base() == base),
    }
}

/// Makes a folder that only its owner can enter, and those above it as usual.
fn make_private(folder: &Path) -> std::io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn default_url() -> String {
    format!("http://{ADDRESS}")
}

fn short(digest: &str) -> &str {
    digest.get(..DIGEST_CHARS).unwrap_or(digest)
}

/// An address that nobody else's machine can reach.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "an address and a port are wanted, such as 127.0.0.1:7071".to_owned())?;
    if !address.ip().is_loopback() {
        return Err("this server asks for no key, so it listens on a loopback address only, such as 127.0.0.1:7071".to_owned());
    }
    Ok(address)
}
