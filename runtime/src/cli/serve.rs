//! `dacapo serve`: how does a server start and stop?

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::server::Server;
use super::{data, start_logging, tell};
use crate::api::ApiSettings;
use crate::api::auth::Access;
use crate::api::capability::CapabilityLinks;
use crate::api::keys::{self, Keys};
use crate::config::Config;
use crate::descriptors;
use crate::host::SurroundingsByHub;
use crate::memory;

/// Run a server until it gets SIGTERM or SIGINT (Ctrl-C)
///
/// It then stops accepting, answers the requests in hand, lets the activities that run come to
/// their end for some seconds (limit stop_grace_ms), and exits; a second signal exits at once,
/// which loses nothing that was acknowledged.
///
/// The first line on standard output is `listening on http://ADDR:PORT`.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Example:\n  dacapo serve --data ./dacapo-data --listen 127.0.0.1:7071")]
pub(super) struct Serve {
    /// The data directory
    ///
    /// Modules, histories and keys are kept there; it is made if it is not there.
    ///
    /// Further stores, each in a directory of its own, stand in the configuration.
    #[arg(long, value_name = "DIR", env = "DACAPO_DATA", hide_env_values = true, default_value = "./dacapo-data")]
    data: PathBuf,

    /// Where to listen
    ///
    /// An IP address and a port; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", env = "DACAPO_LISTEN", hide_env_values = true, default_value = "127.0.0.1:7071")]
    listen: SocketAddr,

    /// Serve this machine without keys; only with a loopback address
    #[arg(long)]
    no_auth: bool,

    /// Serve local workers without keys
    ///
    /// A loopback address, such as 127.0.0.1:17071, with nothing but the prefix /durabletask.
    ///
    /// Whoever reaches it can steer all instances.
    #[arg(long, value_name = "ADDR:PORT", env = "DACAPO_RPC_LISTEN", hide_env_values = true)]
    rpc_listen: Option<SocketAddr>,

    /// Hand out links that need no key
    ///
    /// Each URL in the answer to a start then carries a signature for one operation on that one
    /// instance in place of the system key, and opens it for so many seconds. 0: none does.
    /// Without this the configuration decides.
    #[arg(long, value_name = "SECS", env = "DACAPO_CAPABILITY_LINKS", hide_env_values = true, verbatim_doc_comment)]
    capability_links: Option<u32>,

    /// Settings and limits in TOML; all have defaults
    #[arg(long, value_name = "FILE", env = "DACAPO_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

impl Serve {
    /// What is wrong with the arguments taken together.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.no_auth && !self.listen.ip().is_loopback() {
            return Err(format!(
                "--no-auth works only with a loopback address: on {} everybody who reaches this machine could upload and run code",
                self.listen
            ));
        }
        if self.no_auth && self.capability_links.is_some_and(|seconds| seconds > 0) {
            return Err("--capability-links needs keys: with --no-auth every URL opens everything".to_owned());
        }
        match self.rpc_listen {
            Some(address) if !address.ip().is_loopback() => Err(format!(
                "--rpc-listen works only with a loopback address: on {address} everybody who reaches this machine could steer instances"
            )),
            Some(_) if self.no_auth => {
                Err("--rpc-listen is for a server with keys; with --no-auth /durabletask is served anyway".into())
            }
            _ => Ok(()),
        }
    }

    /// Serves until it is asked to stop.
    pub(super) fn run(self) -> Result<()> {
        start_logging("warn,dacapo=info")?;
        memory::use_small_pages();
        let config = self.config.as_deref().map(Config::load).transpose().context("load the settings")?.unwrap_or_default();
        let surroundings =
            SurroundingsByHub::read(&config.hubs, config.retention).context("read what the task hubs give their activities")?;
        let shown = self.data.display();
        data::prepare(&self.data)?;
        config.stores.iter().try_for_each(|(_, store)| data::prepare(&store.data))?;
        let (access, keys) = if self.no_auth {
            (Access::Open { hosts: config.hosts }, "open to this machine without keys".to_owned())
        } else {
            let keys = Keys::load_or_create(&self.data).context("load the keys")?;
            let links = match self.capability_links.unwrap_or(config.capability_links_s) {
                0 => None,
                seconds => {
                    Some(CapabilityLinks::load_or_create(&self.data, seconds).context("load the key of capability links")?)
                }
            };
            (Access::Keys { keys, links }, format!("keys in {}", self.data.join(keys::FILE).display()))
        };
        let workers = self.rpc_listen.map(|address| TcpListener::bind(address).with_context(|| format!("listen on {address}")));
        let workers = workers.transpose()?;
        let settings = ApiSettings {
            access,
            workers: workers.as_ref().map(TcpListener::local_addr).transpose().context("ask for the port")?,
            edition: config.edition,
            default_hub: config.default_hub,
            existing: config.overridable_existing_instance_states.into(),
            use_forwarded_host: config.use_forwarded_host,
            connections_max: descriptors::for_clients(config.limits.connections_max),
        };
        let workers_at = settings.workers;
        let listener = TcpListener::bind(self.listen).with_context(|| format!("listen on {}", self.listen))?;
        let server = Server::start(listener, workers, &self.data, &config.stores, config.limits, surroundings, settings)?;
        let stop = server.stop_signal()?; // Before anybody knows where we are, so that nobody's signal comes too early.

        // For programs, which may have closed the other end.
        let _ = writeln!(io::stdout(), "listening on {}", server.url());
        tell(format_args!("dacapo {} listens on {}, data in {shown}, {keys}", env!("CARGO_PKG_VERSION"), server.url()));
        if let Some(address) = workers_at {
            tell(format_args!("workers are served without keys on http://{address}/durabletask"));
        }
        server.run_until(stop)
    }
}
