//! `dacapo keys`: with which keys does a server let people in? For its operator, on its machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::output::say;
use crate::api::keys::{self, Keys as ServerKeys};

const ABOUT: &str = "\
The master key opens everything; the system key opens everything but /admin/modules and
/admin/instances, and is part of the URLs that the server hands out.

Examples:
  dacapo keys --data ./dacapo-data
  export DACAPO_KEY=$(dacapo keys --json | jq -r .master)";

/// Print the keys of the server whose data directory this is
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Keys {
    /// The server's data directory
    #[arg(long, value_name = "DIR", env = "DACAPO_DATA", hide_env_values = true, default_value = "./dacapo-data")]
    data: PathBuf,

    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

impl Keys {
    pub(super) fn run(self) -> Result<()> {
        let path = self.data.join(keys::FILE);
        // To be asked before it is read: a server that has none yet makes them, we do not.
        let found = fs::metadata(&path).with_context(|| {
            format!("look for {}; a server makes it when it first starts with --data and without --no-auth", path.display())
        })?;
        ensure!(
            found.permissions().mode() & 0o077 == 0,
            "others can read {0}, so that the keys may be known; if that is no harm, run `chmod 600 {0}`, else delete it, and the \
             server makes new ones when it starts",
            path.display()
        );
        let keys = ServerKeys::load_or_create(&self.data)?;
        if self.json {
            return say(serde_json::to_string(&keys).context("write the keys as JSON")?);
        }
        say(format_args!("master  {}\nsystem  {}", keys.master, keys.system))
    }
}
