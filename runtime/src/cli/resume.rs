//! `dacapo resume`: an instance goes on after a pause.

use anyhow::Result;

use super::client::Client;
use super::operated::Operated;

const ABOUT: &str = "\
All that has come meanwhile reaches it in the order in which it came.

Example:
  dacapo resume loaf-17 --reason back";

/// Have an instance go on that was suspended
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Resume {
    #[command(flatten)]
    instance: Operated,
}

impl Resume {
    pub(super) fn run(self) -> Result<()> {
        self.instance.ask(Client::resume, "is resumed")
    }
}
