//! Which instance does an operator mean, and why? What suspending, resuming and rewinding take alike.

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::client::Client;
use super::connection::Connection;
use super::output::hint;

/// An instance that something is to be done to.
#[derive(Debug, clap::Args)]
pub(super) struct Operated {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// Why; it stands in the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    #[command(flatten)]
    connection: Connection,
}

impl Operated {
    /// Asks for it by `ask`, and says what holds then.
    pub(super) fn ask(self, ask: impl FnOnce(&Client, &str, Option<&str>) -> Result<()>, done: &str) -> Result<()> {
        ask(&self.connection.client()?, &self.id, self.reason.as_deref())?;
        hint(format_args!("Instance {} {done}", self.id));
        Ok(())
    }
}
