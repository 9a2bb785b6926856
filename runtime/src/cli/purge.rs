//! `dacapo purge`: instances that have ended go for good.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use clap::builder::NonEmptyStringValueParser;

use super::connection::Connection;
use super::exit::Exit;
use super::filter::{Filter, borrowed};
use super::output::{hint, say};
use super::{moment, tell};

/// The server wants to be told since when; this is before everything.
const BEGINNING: &str = "0001-01-01T00:00:00Z";

fn about() -> String {
    format!(
        "Purged are status, history, logs, input and output; instances that have not ended stay, as do\n\
         sub-orchestrations. With conditions, how many went is printed.\n\n{}\n\nExamples:\n  \
         dacapo purge loaf-17\n  dacapo purge --status Completed --created-before 30d --yes",
        moment::FORMS
    )
}

/// Purge an instance that has ended, or all that meet some conditions
#[derive(Debug, clap::Args)]
#[command(after_help = about())]
pub(super) struct Purge {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: Option<String>,

    #[command(flatten)]
    filter: Filter,

    /// Do not ask whether that is meant; needed where nobody can be asked
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Purge {
    /// What is wrong with the arguments together.
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.id, self.filter.is_empty()) {
            (None, true) => Err("name an instance, or say by conditions which ones: --created-before 30d, for example".into()),
            (Some(_), false) => Err("an ID names one instance, and needs no conditions".into()),
            _ => Ok(()),
        }
    }

    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client()?;
        if let Some(id) = &self.id {
            client.purge(id)?;
            hint(format_args!("Instance {id} is purged"));
            return Ok(());
        }
        let mut parameters = self.filter.parameters();
        if !self.yes && !is_meant(&parameters)? {
            tell("Nothing is purged");
            return Ok(());
        }
        if !self.filter.has_beginning() {
            parameters.push(("createdTimeFrom".into(), BEGINNING.into()));
        }
        say(client.spinning().purge_all(&borrowed(&parameters))?)
    }
}

/// Asks whoever sits there.
fn is_meant(parameters: &[(String, String)]) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Exit::Usage.because("nobody can be asked whether that is meant; --yes says that it is"));
    }
    let conditions: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    tell(format_args!("All instances that have ended go for good with {}. Is that meant? [y/N]", conditions.join(" ")));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
