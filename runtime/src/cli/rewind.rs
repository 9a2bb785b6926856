//! `dacapo rewind`: a failed instance goes on from before its failure.

use anyhow::Result;

use super::client::Client;
use super::operated::Operated;

const ABOUT: &str = "\
Its failed activities and sub-orchestrations are tried again, but for those whose failure its code
has dealt with. If the current version of its module repeats what it has done so far, it goes on
with that: mend the module, deploy it, and rewind.

Example:
  dacapo rewind loaf-17 --reason 'oven fixed'";

/// Have a failed instance go on from before its failure
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Rewind {
    #[command(flatten)]
    instance: Operated,
}

impl Rewind {
    pub(super) fn run(self) -> Result<()> {
        self.instance.ask(Client::rewind, "goes on")
    }
}
