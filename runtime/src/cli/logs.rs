//! `dacapo logs`: what has an instance said?

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::client::{self, Client};
use super::connection::Connection;
use super::output::{Tone, clean, say, say_data};
use super::wire::{Instance, LogLine};

/// How long to wait before new lines are asked for, in milliseconds: so long after one has come, then twice as long each time.
const POLL_MS_MIN: u64 = 250;
const POLL_MS_MAX: u64 = 1_000;

const EXAMPLES: &str = "\
Example:
  dacapo logs loaf-17 --follow";

/// Show what an instance and its activities have logged
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Logs {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// Go on showing lines as they come, until the instance has ended
    #[arg(long, short)]
    follow: bool,

    /// Print each line as the server's JSON, one object a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Logs {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client()?.spinning();
        let (mut next, mut pause_ms) = (0, POLL_MS_MIN);
        loop {
            // Asked first: when the lines are read after the end, none is missing.
            let goes_on = self.follow && goes_on(&client, &self.id)?;
            let seen = next;
            next = self.show_from(&client, next)?;
            if !goes_on {
                return Ok(());
            }
            pause_ms = if next > seen { POLL_MS_MIN } else { (2 * pause_ms).min(POLL_MS_MAX) };
            sleep(Duration::from_millis(pause_ms));
        }
    }

    /// Shows all lines from number `next` on, and returns the number behind the last.
    fn show_from(&self, client: &Client, mut next: u64) -> Result<u64> {
        loop {
            let logs = client.logs(&self.id, next)?;
            for line in &logs.lines {
                if self.json {
                    say_data(line.get())?;
                } else {
                    say(shown(&client::parse(line.get())?))?;
                }
            }
            // A new instance under the same ID counts its lines from 0 again.
            let is_new = logs.next < next;
            next = if is_new { 0 } else { logs.next };
            if logs.lines.is_empty() && !is_new {
                return Ok(next);
            }
        }
    }
}

fn goes_on(client: &Client, id: &str) -> Result<bool> {
    let instance: Instance = client::parse(&client.status(id, &[("showInput", "false")])?)?;
    Ok(!instance.has_ended())
}

/// A line for people. Further lines of its message are indented, so that they pass for no lines of their own.
fn shown(line: &LogLine) -> String {
    let level = line.level.to_ascii_uppercase();
    let tone = match level.as_str() {
        "ERROR" => Tone::Bad,
        "WARN" => Tone::Warning,
        "INFO" => Tone::Good,
        _ => Tone::Dim,
    };
    let from = match line.task {
        Some(task) => format!("{}, task {task}", line.target),
        None => line.target.clone(),
    };
    let message: Vec<_> = line.message.lines().map(clean).collect();
    format!(
        "{} {} {} {}",
        Tone::Dim.paint(&clean(&line.time)),
        tone.paint(&format!("{:5}", clean(&level))),
        Tone::Dim.paint(&format!("{}:", clean(&from))),
        message.join("\n    ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_and_who_and_nothing_in_it_passes_for_another_line() {
        let line = |json: &str| shown(&serde_json::from_str(json).unwrap());
        assert_eq!(
            line(r#"{"number":0,"time":"2026-03-01T08:00:00.123Z","level":"info","target":"greeter","task":3,"message":"hi"}"#),
            "2026-03-01T08:00:00.123Z INFO  greeter, task 3: hi"
        );
        assert_eq!(
            line(r#"{"number":1,"time":"T","level":"error","target":"greeter","task":null,"message":"a\r\nT ERROR b\u001b[2J"}"#),
            "T ERROR greeter: a\n    T ERROR b\u{fffd}[2J"
        );
    }
}
