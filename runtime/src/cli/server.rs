//! A server in this process: engine, HTTP and the threads for both. Used by `serve`, `dev` and `demo`.

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::output::shell_word;
use crate::api::auth::Access;
use crate::api::{self, Api, ApiSettings};
use crate::config::Config;
use crate::descriptors;
use crate::engine::{EngineSettings, StoreSettings, Stores};
use crate::host::{Compiler, SurroundingsByHub};
use crate::limits::Limits;
use crate::model::StoreName;

/// Where a server listens that was told nothing.
pub(super) const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7071);

/// How long activities may go on when somebody stops a server that is only there for them, in milliseconds: they sit in front of it.
const STOP_GRACE_MS: u64 = 1_000;

/// How long what clients have asked for and nobody waits for any more, such as compiling, may hold up the end of the process.
const BLOCKING_MAX: Duration = Duration::from_secs(1);

/// A server that runs on threads of its own.
pub(super) struct Server {
    runtime: Runtime,
    stores: Arc<Stores>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
    /// The listener beside it, for workers.
    serving_workers: Option<Serving>,
}

/// A listener that is served until it is told to stop.
type Serving = (oneshot::Sender<()>, JoinHandle<std::io::Result<()>>);

impl Server {
    /// Opens the store in the folder `data`, and `others`, and serves `listener`, and `workers` without keys, which is to be on a loopback address.
    /// Activities get `surroundings`.
    pub(super) fn start(
        listener: TcpListener,
        workers: Option<TcpListener>,
        data: &Path,
        others: &[(StoreName, StoreSettings)],
        limits: Limits,
        surroundings: SurroundingsByHub,
        settings: ApiSettings,
    ) -> Result<Self> {
        let compiler = Compiler::child().context("find this program, which is the compiler too")?;
        let (data, metrics) = (data.to_owned(), Arc::default());
        let stores = Stores::open(EngineSettings { data, limits, compiler, surroundings, metrics, share: 1 }, others)?;
        let stores = Arc::new(stores);
        let address = listener.local_addr().context("ask for the port")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start threads")?;
        let api = Api::new(stores.clone(), settings);
        let serving_workers = workers.map(|listener| serving(&runtime, listener, api.for_workers())).transpose()?;
        let (stop, serving) = serving(&runtime, listener, api)?;
        Ok(Self { runtime, stores, address, stop, serving, serving_workers })
    }

    /// The same without keys and with all settings as they are if nobody says otherwise. Only for a loopback address.
    pub(super) fn start_open(listener: TcpListener, data: &Path) -> Result<Self> {
        let Config { hosts, edition, default_hub, overridable_existing_instance_states, use_forwarded_host, limits, .. } =
            Config::default();
        let limits = Limits { stop_grace_ms: STOP_GRACE_MS, ..limits };
        let (access, existing) = (Access::Open { hosts }, overridable_existing_instance_states.into());
        let connections_max = descriptors::for_clients(limits.connections_max);
        let settings = ApiSettings { access, edition, default_hub, existing, use_forwarded_host, connections_max, workers: None };
        Self::start(listener, None, data, &[], limits, SurroundingsByHub::default(), settings)
    }

    /// The server's URL, without a slash at the end.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From here on SIGTERM and SIGINT no longer end this process: the first one makes the result ready, a second one exits.
    pub(super) fn stop_signal(&self) -> Result<impl Future<Output = ()> + use<>> {
        let _runtime = self.runtime.enter();
        let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
        Ok(async move {
            either(&mut terminate, &mut interrupt).await;
            tracing::info!("stopping; a second signal stops at once");
            tokio::spawn(async move {
                either(&mut terminate, &mut interrupt).await;
                process::exit(1);
            });
        })
    }

    /// Runs until `asked` is done, then stops in order.
    pub(super) fn run_until(mut self, asked: impl Future<Output = ()>) -> Result<()> {
        self.runtime.block_on(async {
            tokio::select! {
                () = asked => (),
                () = self.stop.closed() => (), // It no longer serves; why is about to be known.
            }
        });
        self.stop()
    }

    /// Stops accepting, answers what is in hand, lets activities come to their end for a while, and closes the stores.
    pub(super) fn stop(self) -> Result<()> {
        self.stores.drain();
        let _ = self.stop.send(());
        let workers = self.serving_workers.map(|(stop, serving)| {
            let _ = stop.send(());
            serving
        });
        let served = self.runtime.block_on(self.serving);
        let workers_served = workers.map(|serving| self.runtime.block_on(serving));
        self.stores.close();
        self.runtime.shutdown_timeout(BLOCKING_MAX);
        workers_served.transpose().context("serve workers")?.transpose().context("serve workers")?;
        served.context("serve")?.context("serve")
    }
}

/// Serves `listener` on the threads of `runtime`.
fn serving(runtime: &Runtime, listener: TcpListener, api: Api) -> Result<Serving> {
    listener.set_nonblocking(true).context("prepare the listener")?;
    let (stop, stopped) = oneshot::channel();
    let listener = {
        let _runtime = runtime.enter();
        tokio::net::TcpListener::from_std(listener).context("prepare the listener")?
    };
    let serving = runtime.spawn(api::serve(listener, Arc::new(api), async {
        let _ = stopped.await; // An error says that the server has gone, which comes to the same.
    }));
    Ok((stop, serving))
}

/// Listens on [`ADDRESS`], or on any free port there if another program does.
pub(super) fn listen_nearby() -> Result<TcpListener> {
    let listener = TcpListener::bind(ADDRESS).or_else(|_| TcpListener::bind((ADDRESS.ip(), 0)));
    listener.with_context(|| format!("listen on {}", ADDRESS.ip()))
}

/// How a shell at hand would call this program again.
pub(super) fn program() -> String {
    env::args_os().next().map_or_else(|| "dacapo".to_owned(), |program| shell_path(Path::new(&program)))
}

/// `path` as one word of a command line; a slash needs no quotes.
pub(super) fn shell_path(path: &Path) -> String {
    let path = path.to_string_lossy();
    path.split('/').map(shell_word).collect::<Vec<_>>().join("/")
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_the_shell() {
        for (path, expected) in
            [("/usr/bin/dacapo", "/usr/bin/dacapo"), ("./a b/dacapo", "./'a b'/dacapo"), ("it's/", "'it'\\''s'/"), ("a", "a")]
        {
            assert_eq!(shell_path(Path::new(path)), expected);
        }
    }
}
