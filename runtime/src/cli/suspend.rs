//! `dacapo suspend`: an instance is to wait until somebody says go on.

use anyhow::Result;

use super::client::Client;
use super::operated::Operated;

const ABOUT: &str = "\
Activities and timers that it has asked for go on; what they give, and events that are raised,
waits until it is resumed.

Example:
  dacapo suspend loaf-17 --reason lunch";

/// Have an instance pause: none of its code runs until it is resumed
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Suspend {
    #[command(flatten)]
    instance: Operated,
}

impl Suspend {
    pub(super) fn run(self) -> Result<()> {
        self.instance.ask(Client::suspend, "is suspended")
    }
}
