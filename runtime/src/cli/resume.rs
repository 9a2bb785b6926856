//! `dacapo resume`: an instance goes on after a pause.

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::connection::Connection;
use super::output::hint;

const ABOUT: &str = "\
All that has come meanwhile reaches it in the order in which it came.

Example:
  dacapo resume loaf-17 --reason back";

/// Have an instance go on that was suspended
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Resume {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// Why; it stands in the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    #[command(flatten)]
    connection: Connection,
}

impl Resume {
    pub(super) fn run(self) -> Result<()> {
        self.connection.client()?.resume(&self.id, self.reason.as_deref())?;
        hint(format_args!("Instance {} is resumed", self.id));
        Ok(())
    }
}
