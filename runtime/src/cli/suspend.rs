//! `dacapo suspend`: an instance is to wait until somebody says go on.

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::connection::Connection;
use super::output::hint;

const ABOUT: &str = "\
Activities and timers that it has asked for go on; what they give, and events that are raised,
waits until it is resumed.

Example:
  dacapo suspend loaf-17 --reason lunch";

/// Have an instance pause: none of its code runs until it is resumed
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Suspend {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// Why; it stands in the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    #[command(flatten)]
    connection: Connection,
}

impl Suspend {
    pub(super) fn run(self) -> Result<()> {
        self.connection.client()?.suspend(&self.id, self.reason.as_deref())?;
        hint(format_args!("Instance {} is suspended", self.id));
        Ok(())
    }
}
