//! `dacapo terminate`: an instance is to stop where it stands.

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::connection::Connection;
use super::output::hint;

const ABOUT: &str = "\
Activities that run now run on, and their results are dropped; sub-orchestrations go on, unless
--recursive is given.

Example:
  dacapo terminate loaf-17 --reason 'power cut'";

/// Terminate an instance: its code does not run again, nothing that it did is undone
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Terminate {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// Why; it becomes the output of the instance
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// Terminate also the sub-orchestrations that it waits for, and theirs
    #[arg(long)]
    recursive: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Terminate {
    pub(super) fn run(self) -> Result<()> {
        self.connection.client()?.terminate(&self.id, self.reason.as_deref(), self.recursive)?;
        hint(format_args!("Instance {} is being terminated", self.id));
        Ok(())
    }
}
