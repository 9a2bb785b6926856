//! `dacapo rewind`: a failed instance goes on from before its failure.

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::connection::Connection;
use super::output::hint;

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
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// Why; it stands in the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    #[command(flatten)]
    connection: Connection,
}

impl Rewind {
    pub(super) fn run(self) -> Result<()> {
        self.connection.client()?.rewind(&self.id, self.reason.as_deref())?;
        hint(format_args!("Instance {} goes on", self.id));
        Ok(())
    }
}
