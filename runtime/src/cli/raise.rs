//! `dacapo raise`: something happened out there that an instance waits for, or will.

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::connection::Connection;
use super::input;
use super::output::hint;

const EXAMPLES: &str = "\
Example:
  dacapo raise loaf-17 DoughReady --data '{\"tempC\": 24}'";

/// Raise an event for an instance; it is kept until the instance waits for it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Raise {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// The name that the instance waits for, in any case
    #[arg(value_parser = event_name)]
    event: String,

    /// What it gets: JSON, or @FILE, or @- for standard input
    #[arg(long, value_name = "JSON", default_value = "null")]
    data: String,

    #[command(flatten)]
    connection: Connection,
}

/// A name that a path can carry.
fn event_name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("an event has a name".into()),
        _ if text.contains('/') => Err("a URL cannot carry the name of an event that has a slash".into()),
        _ => Ok(text.to_owned()),
    }
}

impl Raise {
    pub(super) fn run(self) -> Result<()> {
        let data = input::json("--data", &self.data)?;
        self.connection.client()?.raise(&self.id, &self.event, &data)?;
        hint(format_args!("Event {} is stored for instance {}", self.event, self.id));
        Ok(())
    }
}
