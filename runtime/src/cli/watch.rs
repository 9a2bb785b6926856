//! `dacapo watch`: what does an instance do, as it does it?

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::client::{self, Client};
use super::connection::Connection;
use super::events::Event;
use super::exit::Exit;
use super::moment::milliseconds;
use super::output::{Tone, clean, columns, cut, hint, say, say_data};
use super::start::ended_badly;
use super::status::{details, name, what};
use super::wire::{HistoryEvent, Instance};

/// How long to wait before a stream that has broken off is taken up again, in milliseconds.
const PAUSE_MS: u64 = 500;

/// How long a server that was there may be away, in seconds: a restart, or an upgrade.
const AWAY_S_MAX: u64 = 120;

const ABOUT: &str = "\
When the connection breaks off, as it does when the server is restarted, it goes on where it was.
It ends with the instance; when that has not completed, the exit status is 5.

Example:
  dacapo watch loaf-17";

/// Show what has happened to an instance and what happens, until it has ended
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Watch {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// Print each event of the server's as JSON, one object a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Watch {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client()?;
        let mut shown = Shown { json: self.json, ..Shown::default() };
        let mut away_since: Option<Instant> = None;
        loop {
            let before = shown.last.clone();
            match self.follow(&client, &mut shown) {
                Ok(Some(instance)) => return verdict(&instance, &self.id),
                Ok(None) => (),
                // Only who was there once is waited for.
                Err(error) if Exit::of(&error) != Exit::Unreachable || shown.last.is_none() => return Err(error),
                Err(error) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > Duration::from_secs(AWAY_S_MAX) {
                        return Err(error);
                    }
                }
            }
            if shown.last != before {
                away_since = None;
            }
            sleep(Duration::from_millis(PAUSE_MS));
        }
    }

    /// Shows what comes until the stream breaks off, or until the instance has ended, which is returned.
    fn follow(&self, client: &Client, shown: &mut Shown) -> Result<Option<Instance>> {
        let query = [("showHistoryOutput", "true")];
        let Some(events) = client.follow(&self.id, &query, shown.last.as_deref())? else {
            // It had ended, and the connection broke off behind the last event.
            return client::parse(&client.status(&self.id, &[])?).map(Some);
        };
        for event in events {
            let Ok(event) = event else {
                hint("The connection has broken off");
                return Ok(None);
            };
            if let Some(instance) = shown.show(&event)?.filter(Instance::has_ended) {
                return Ok(Some(instance));
            }
            shown.last = Some(event.id);
        }
        Ok(None)
    }
}

fn verdict(instance: &Instance, id: &str) -> Result<()> {
    if instance.runtime_status == "Completed" { Ok(()) } else { Err(ended_badly(instance, id)) }
}

/// What was shown so far.
#[derive(Default)]
struct Shown {
    json: bool,
    /// The ID of the last event.
    last: Option<String>,
    /// When the execution has started, in milliseconds since 1970.
    start_ms: u64,
}

impl Shown {
    /// Shows an event; returns how the instance stands, if that is what it says.
    fn show(&mut self, event: &Event) -> Result<Option<Instance>> {
        if self.json {
            let name = serde_json::to_string(&event.name)?;
            let id = serde_json::to_string(&event.id)?;
            say_data(&format!(r#"{{"event":{name},"id":{id},"data":{}}}"#, event.data))?;
        }
        match event.name.as_str() {
            "status" => {
                let instance: Instance = client::parse(&event.data)?;
                if !self.json {
                    say(status_line(&instance, columns()))?;
                }
                Ok(Some(instance))
            }
            "history" if !self.json => {
                let event: HistoryEvent = client::parse(&event.data)?;
                if event.event_type == "ExecutionStarted" {
                    self.start_ms = milliseconds(&event.timestamp).unwrap_or_default();
                }
                say(history_line(&event, self.start_ms, columns()))?;
                Ok(None)
            }
            _ => Ok(None), // Of a newer server.
        }
    }
}

fn history_line(event: &HistoryEvent, start_ms: u64, columns: u16) -> String {
    let (what, tone) = what(event);
    let rest: Vec<String> = [name(event), details(event, start_ms)].into_iter().filter(|text| !text.is_empty()).collect();
    line(&event.timestamp, &what, tone, &rest.join(": "), columns)
}

fn status_line(instance: &Instance, columns: u16) -> String {
    let status = &instance.runtime_status;
    let custom = instance.custom_status.get();
    let custom = if custom == "null" { String::new() } else { format!("custom status {custom}") };
    line(&instance.last_updated_time, &format!("is {status}"), Tone::of_status(status), &custom, columns)
}

/// A time, what happened, and what there is to tell of it; no wider than `columns`.
fn line(time: &str, what: &str, tone: Tone, rest: &str, columns: u16) -> String {
    let (time, what) = (format!("{:24}", clean(time)), clean(what));
    let used = time.chars().count() + what.chars().count() + 4;
    let rest = cut(&clean(rest), usize::from(columns).saturating_sub(used).max(10));
    format!("{}  {}  {rest}", Tone::Dim.paint(&time), tone.paint(&what)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_that_fits() {
        let check = |json: &str, expected: &str| {
            let line = history_line(&serde_json::from_str(json).unwrap(), 1_772_352_000_000, 80);
            assert_eq!(line, expected);
        };
        check(
            r#"{"EventType":"TaskCompleted","Result":[2],"Timestamp":"2026-03-01T08:00:00.123Z","ScheduledTime":"2026-03-01T08:00:00Z","FunctionName":"Mix","Input":"7"}"#,
            "2026-03-01T08:00:00.123Z  activity completed  Mix: 7 → [2]",
        );
        check(
            r#"{"EventType":"TimerCreated","FireAt":"2026-03-01T08:01:00Z","Timestamp":"2026-03-01T08:00:00Z"}"#,
            "2026-03-01T08:00:00Z      timer set  due at +1m 0s",
        );
        let long = format!(
            r#"{{"EventType":"EventRaised","Name":"go","Input":"{}","Timestamp":"2026-03-01T08:00:00Z"}}"#,
            "x".repeat(200)
        );
        let line = history_line(&serde_json::from_str(&long).unwrap(), 0, 80);
        assert_eq!((line.chars().count(), line.ends_with("xx…")), (80, true), "{line}");
    }

    #[test]
    fn a_status_is_a_line_too() {
        let instance = |custom: &str| {
            let json = format!(
                r#"{{"name":"Bake","instanceId":"a","runtimeStatus":"Running","input":null,"customStatus":{custom},"output":null,"createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T08:00:05Z"}}"#
            );
            serde_json::from_str::<Instance>(&json).unwrap()
        };
        assert_eq!(status_line(&instance("null"), 80), "2026-03-01T08:00:05Z      is Running");
        assert_eq!(status_line(&instance(r#""hot""#), 80), "2026-03-01T08:00:05Z      is Running  custom status \"hot\"");
    }
}
