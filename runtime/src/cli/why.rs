//! `dacapo why`: what does an instance wait for?

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::client;
use super::connection::Connection;
use super::moment::milliseconds;
use super::output::{Cell, Table, Tone, columns, relative, say, say_data, wrapped};
use super::wire::{Child, OpenTask, Waiting};
use crate::clock::Clock;

const EXAMPLES: &str = "\
Example:
  dacapo why loaf-17";

/// Show what an instance waits for right now
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Why {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// Print the server's JSON as it is
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Why {
    pub(super) fn run(self) -> Result<()> {
        let text = self.connection.client()?.spinning().why(&self.id)?;
        if self.json {
            return say_data(&text);
        }
        let waiting: Waiting = client::parse(&text)?;
        say(wrapped(&waiting.summary, columns().into()).join("\n"))?;
        let now_ms = Clock.now_ms();
        for table in tables(&waiting, now_ms) {
            say(format_args!("\n{}", table.show()))?;
        }
        let more = waiting.open.all().saturating_sub(waiting.tasks.len() as u64);
        if more > 0 {
            say(format_args!("… and {more} more open tasks"))?;
        }
        Ok(())
    }
}

/// What it waits for, what has come, and its sub-orchestrations; each if there is something.
fn tables(waiting: &Waiting, now_ms: u64) -> Vec<Table> {
    let ago = |time: &str| milliseconds(time).map_or_else(|| time.to_owned(), |then_ms| relative(now_ms, then_ms));
    let mut tables = Vec::new();
    if !waiting.tasks.is_empty() {
        let mut table = Table::new(&["TASK", "WAITS FOR", "NAME", "SINCE", "DETAILS"]);
        for task in &waiting.tasks {
            let (kind, details) = (words(&task.kind), details(task, now_ms));
            let name = task.name.clone().or_else(|| task.uri.clone()).unwrap_or_default();
            table.row([
                task.task.to_string().into(),
                Cell::toned(kind, Tone::Busy),
                name.into(),
                ago(&task.since).into(),
                details.into(),
            ]);
        }
        tables.push(table);
    }
    if !waiting.unread_events.is_empty() {
        let mut table = Table::new(&["UNREAD EVENT", "COUNT", "SINCE", "HINT"]);
        for unread in &waiting.unread_events {
            let hint = unread.hint.clone().unwrap_or_default();
            let count = unread.count.to_string().into();
            let hint = if hint.is_empty() { hint.into() } else { Cell::toned(&hint, Tone::Warning) };
            table.row([unread.name.clone().into(), count, ago(&unread.since).into(), hint]);
        }
        tables.push(table);
    }
    if !waiting.children.is_empty() {
        let mut table = Table::new(&["SUB-ORCHESTRATION", "FUNCTION", "STATUS", "SINCE", "FAILURE"]);
        for Child { instance_id, name, runtime_status, since, failure } in &waiting.children {
            let status = runtime_status.as_deref().unwrap_or("not there");
            let (since, failure) = (ago(since), failure.clone().unwrap_or_default());
            let status = Cell::toned(status, Tone::of_status(status));
            table.row([instance_id.clone().into(), name.clone().into(), status, since.into(), failure.into()]);
        }
        tables.push(table);
    }
    tables
}

/// What a kind of task is called here.
fn words(kind: &str) -> &str {
    match kind {
        "httpRequest" => "http request",
        "subOrchestration" => "sub-orchestration",
        kind => kind,
    }
}

/// When it is due, how far it is, and what it says of itself.
fn details(task: &OpenTask, now_ms: u64) -> String {
    let due = task.due.as_deref().map(|due| match milliseconds(due) {
        Some(due_ms) => format!("due {}", relative(now_ms, due_ms)),
        None => format!("due {due}"),
    });
    let state = task.state.as_deref().map(|state| match (state, task.behind.as_deref()) {
        ("queued", None) => "in line".to_owned(),
        ("queued", Some("server")) => "in line behind the limit of the server".to_owned(),
        ("queued", Some(bound)) => format!("in line behind the limit of its {bound}"),
        ("handedOver", _) => "handed over".to_owned(),
        (state, _) => state.to_owned(),
    });
    let attempt = task.attempt.filter(|attempt| *attempt > 1).map(|attempt| format!("attempt {attempt}"));
    let progress = task.progress.as_ref().map(|progress| format!("progress {}", progress.get()));
    [task.instance_id.clone(), due, state, attempt, progress].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_shown_in_tables() {
        let json = r#"{"summary":"It waits.","open":{"activities":1,"httpRequests":0,"timers":1,"events":1,"subOrchestrations":1},
            "tasks":[{"task":0,"kind":"activity","name":"Mix","attempt":2,"state":"queued","behind":"hub","progress":{"done": 3},"since":"1970-01-01T00:00:01Z"},
                {"task":1,"kind":"timer","due":"1970-01-01T00:01:05Z","since":"1970-01-01T00:00:02Z"},
                {"task":2,"kind":"event","name":"go","since":"1970-01-01T00:00:02Z"},
                {"task":3,"kind":"subOrchestration","name":"Knead","instanceId":"dough","attempt":1,"since":"1970-01-01T00:00:02Z"}],
            "unreadEvents":[{"name":"Goo","count":2,"since":"1970-01-01T00:00:04Z","hint":"did you mean \"go\"?"}],
            "children":[{"instanceId":"dough","name":"Knead","runtimeStatus":"Running","since":"1970-01-01T00:00:02Z"},
                {"instanceId":"d2","name":"Knead","runtimeStatus":null,"since":"1970-01-01T00:00:02Z","failure":"cold"}]}"#;
        let shown: Vec<String> =
            tables(&serde_json::from_str(json).unwrap(), 5_000).into_iter().map(|table| table.fitted(120)).collect();
        assert_eq!(
            shown[0],
            "\
TASK  WAITS FOR          NAME   SINCE   DETAILS
0     activity           Mix    4s ago  in line behind the limit of its hub, attempt 2, progress {\"done\": 3}
1     timer                     3s ago  due in 1m
2     event              go     3s ago
3     sub-orchestration  Knead  3s ago  dough"
        );
        assert_eq!(
            shown[1..],
            [
                "UNREAD EVENT  COUNT  SINCE   HINT\nGoo           2      1s ago  did you mean \"go\"?",
                "\
SUB-ORCHESTRATION  FUNCTION  STATUS     SINCE   FAILURE
dough              Knead     Running    3s ago
d2                 Knead     not there  3s ago  cold"
            ]
        );
    }
}
