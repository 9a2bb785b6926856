//! `dacapo start`: an instance begins, and whoever wants to waits for its end.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::builder::NonEmptyStringValueParser;

use super::client::{self, Client};
use super::connection::Connection;
use super::exit::Exit;
use super::output::{Spinner, brief, hint, say_data, shell_word};
use super::tag::{self, Tag};
use super::wire::{Instance, Started};
use super::{input, moment};
use crate::clock::Clock;
use crate::model::InstanceId;

const ABOUT: &str = "\
With --wait, the output is printed instead, as JSON, once the instance has completed.

Examples:
  dacapo start BakeBread --input '{\"flour\": \"rye\"}' --id loaf-17 --tag shop=north
  dacapo start WordCount --input @book.json --wait=60";

/// Start an instance of an orchestrator and print its ID
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Start {
    /// The orchestrator, by the name that its module gives it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,

    /// The input: JSON, or @FILE, or @- for standard input
    #[arg(long, value_name = "JSON")]
    input: Option<String>,

    /// The ID, which no live instance may have; without it, a new one
    #[arg(long, value_parser = |id: &str| id.parse::<InstanceId>().map(|_| id.to_owned()))]
    id: Option<String>,

    /// A tag, by which `dacapo list` finds it; may be given several times
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag::tag)]
    tags: Vec<Tag>,

    /// Wait until the instance has ended, or until the time is up
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, value_parser = moment::seconds)]
    wait: Option<Option<Duration>>,

    /// Print the server's JSON: its URLs, or, with --wait, its status
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Start {
    pub(super) fn run(self) -> Result<()> {
        let input = self.input.as_deref().map(|argument| input::json("--input", argument)).transpose()?.unwrap_or_default();
        let client = self.connection.client()?;
        if let Some(at_most) = self.wait {
            return self.wait(&client, &input, at_most);
        }
        let answer = client.start(&self.name, self.id.as_deref(), &input, &tag::parameters(&self.tags))?;
        if self.json {
            return say_data(&answer);
        }
        let started: Started = client::parse(&answer)?;
        say_data(&started.id)?;
        hint(format_args!("To see how it stands: dacapo status {}", shell_word(&started.id)));
        Ok(())
    }

    /// Starts it and prints its output, or else says how it ended.
    fn wait(self, client: &Client, input: &str, at_most: Option<Duration>) -> Result<()> {
        let deadline = at_most.and_then(moment::deadline);
        // Ours, since the server's answer to a start with a wait may be the output alone, without an ID.
        let id = self.id.map_or_else(draw_id, Ok)?;
        hint(format_args!("Instance {id}"));
        let spinner = Spinner::start(format!("Waiting for {} ({id})", self.name));
        let text = client.run(&self.name, &id, input, &tag::parameters(&self.tags), deadline)?;
        drop(spinner);
        tell_end(&id, &text, self.json)
    }
}

/// Prints the output of an instance that was waited for, or its status as the server wrote it for `json`; or says how it ended.
pub(super) fn tell_end(id: &str, text: &str, json: bool) -> Result<()> {
    let instance: Instance = client::parse(text)?;
    if json {
        say_data(text)?;
    }
    match instance.runtime_status.as_str() {
        "Completed" if json => Ok(()),
        "Completed" => say_data(instance.output.get()),
        _ if instance.has_ended() => Err(ended_badly(&instance, id)),
        status => Err(Exit::TimeUp
            .because(format_args!("the time is up and instance {id} is {status}; it goes on: dacapo status {}", shell_word(id)))),
    }
}

/// The instance has ended, and not by completing.
pub(super) fn ended_badly(instance: &Instance, id: &str) -> anyhow::Error {
    let output = instance.plain_output();
    let why = if output == "null" { String::new() } else { format!(": {}", brief(&output)) };
    Exit::EndedBadly.because(format_args!("instance {id} has ended as {}{why}", instance.runtime_status))
}

/// An ID such as the server draws.
fn draw_id() -> Result<String> {
    let mut random = [0; 10];
    getrandom::fill(&mut random).context("ask for random bytes")?;
    Ok(InstanceId::draw(Clock.now_ms(), random).to_string())
}
