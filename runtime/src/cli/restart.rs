//! `dacapo restart`: what was run once is run again.

use std::time::Duration;

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::client;
use super::connection::Connection;
use super::moment;
use super::output::{Spinner, hint, say_data, shell_word};
use super::start::tell_end;
use super::wire::Started;

const ABOUT: &str = "\
It starts from the beginning, with the same input and tags, on the current version of its code.
With --wait, the output is printed instead of the ID, as JSON, once the instance has completed.

Examples:
  dacapo restart loaf-17
  dacapo restart loaf-17 --same-id --wait=60";

/// Run an instance once more, as a new one, and print the ID of that
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Restart {
    /// The instance to run again
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// Put the new one in the place of this one, which must have ended
    #[arg(long)]
    same_id: bool,

    /// Wait until the new instance has ended, or until the time is up
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, value_parser = moment::seconds)]
    wait: Option<Option<Duration>>,

    /// Print the server's JSON: its URLs, or, with --wait, its status
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Restart {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client()?;
        let answer = client.restart(&self.id, !self.same_id)?;
        let Started { id, .. } = client::parse(&answer)?;
        if let Some(at_most) = self.wait {
            hint(format_args!("Instance {id}"));
            let spinner = Spinner::start(format!("Waiting for {id}"));
            let text = client.end(&id, at_most.and_then(moment::deadline))?;
            drop(spinner);
            return tell_end(&id, &text, self.json);
        }
        if self.json {
            return say_data(&answer);
        }
        say_data(&id)?;
        hint(format_args!("To see how it stands: dacapo status {}", shell_word(&id)));
        Ok(())
    }
}
