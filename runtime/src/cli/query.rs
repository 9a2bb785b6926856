//! `dacapo query`: what does an instance itself say about how it stands?

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::connection::Connection;
use super::input;
use super::output::say_data;

const ABOUT: &str = "\
The answer is computed from the instance's history, and changes nothing. An instance that has ended
answers too. Which queries there are is up to the orchestrator; who asks for another one is told
which it knows.

Example:
  dacapo query loaf-17 progress --input '{\"unit\": \"percent\"}'";

/// Ask an instance a question of its orchestrator's own, and print the answer as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Query {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// The query, by the name that the orchestrator gives it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,

    /// What to ask with: JSON, or @FILE, or @- for standard input
    #[arg(long, value_name = "JSON")]
    input: Option<String>,

    #[command(flatten)]
    connection: Connection,
}

impl Query {
    pub(super) fn run(self) -> Result<()> {
        let input = self.input.as_deref().map(|argument| input::json("--input", argument)).transpose()?;
        say_data(&self.connection.client()?.spinning().query(&self.id, &self.name, input.as_deref())?)
    }
}
