//! `dacapo status`: how does an instance stand, and what happened to it?

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::client;
use super::connection::Connection;
use super::moment::milliseconds;
use super::output::{Cell, Table, Tone, clean, columns, cut, duration, relative, say, say_data};
use super::wire::{HistoryEvent, Instance};
use crate::clock::Clock;

const EXAMPLES: &str = "\
Example:
  dacapo status loaf-17 --history";

/// What an input may take of a line that shows a result too, in columns.
const INPUT_COLUMNS_MAX: usize = 30;

/// Show how an instance stands, and with --history what happened to it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Status {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// Show the events of the current execution too, with inputs and results
    #[arg(long)]
    history: bool,

    /// Print the server's JSON as it is
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Status {
    pub(super) fn run(self) -> Result<()> {
        let query: &[_] = if self.history { &[("showHistory", "true"), ("showHistoryOutput", "true")] } else { &[] };
        let text = self.connection.client()?.spinning().status(&self.id, query)?;
        if self.json {
            return say_data(&text);
        }
        let instance: Instance = client::parse(&text)?;
        say(summary(&instance, Clock.now_ms(), columns()))?;
        if self.history && !instance.history_events.is_empty() {
            say(format_args!("\n{}", history(&instance.history_events).show()))?;
        }
        Ok(())
    }
}

/// The lines about an instance, none wider than `columns`.
fn summary(instance: &Instance, now_ms: u64, columns: u16) -> String {
    let time = |text: &str| match milliseconds(text) {
        Some(then_ms) => format!("{text} ({})", relative(now_ms, then_ms)),
        None => text.to_owned(),
    };
    let json = |value: &str| Some(value.to_owned()).filter(|value| value != "null");
    let status = &instance.runtime_status;
    let lines = [
        ("Instance", Some(instance.instance_id.clone())),
        ("Status", Some(status.clone())),
        ("Function", Some(instance.name.clone())),
        ("Created", Some(time(&instance.created_time))),
        ("Updated", Some(time(&instance.last_updated_time))),
        ("Input", json(instance.input.get())),
        ("Custom status", json(instance.custom_status.get())),
        ("Output", json(instance.output.get())),
    ];
    let lines = lines.into_iter().filter_map(|(name, value)| {
        let value = cut(&clean(&value?), usize::from(columns) - LABEL_COLUMNS);
        let value = if name == "Status" { Tone::of_status(status).paint(&value) } else { value };
        Some(format!("{}{value}", Tone::Dim.paint(&format!("{name:LABEL_COLUMNS$}"))))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The widest label with the blanks behind it.
const LABEL_COLUMNS: usize = "Custom status  ".len();

/// A line for each event.
fn history(events: &[HistoryEvent]) -> Table {
    let mut table = Table::new(&["AT", "EVENT", "NAME", "TOOK", "DETAILS"]);
    let start_ms = events.first().and_then(|event| milliseconds(&event.timestamp)).unwrap_or_default();
    for event in events {
        let at_ms = milliseconds(&event.timestamp).unwrap_or_default();
        let name = event.function_name.as_ref().or(event.name.as_ref());
        let asked_ms = event.scheduled_time.as_deref().and_then(milliseconds);
        let took = asked_ms.map(|asked_ms| duration(at_ms.saturating_sub(asked_ms)));
        let (what, tone) = what(event);
        table.row([
            format!("+{}", duration(at_ms.saturating_sub(start_ms))).into(),
            Cell::toned(&what, tone),
            name.cloned().unwrap_or_default().into(),
            took.unwrap_or_default().into(),
            details(event, start_ms).into(),
        ]);
    }
    table
}

/// What happened, in words.
fn what(event: &HistoryEvent) -> (String, Tone) {
    let (what, tone) = match event.event_type.as_str() {
        "ExecutionStarted" => ("started", Tone::Busy),
        "TaskScheduled" => ("activity scheduled", Tone::Busy),
        "TaskCompleted" => ("activity completed", Tone::Good),
        "TaskFailed" => ("activity failed", Tone::Bad),
        "SubOrchestrationInstanceCreated" => ("sub-orchestration started", Tone::Busy),
        "SubOrchestrationInstanceCompleted" => ("sub-orchestration completed", Tone::Good),
        "SubOrchestrationInstanceFailed" => ("sub-orchestration failed", Tone::Bad),
        "TimerCreated" => ("timer set", Tone::Busy),
        "TimerFired" => ("timer fired", Tone::Good),
        "EventRaised" => ("event raised", Tone::Good),
        "EventSent" => ("event sent", Tone::Busy),
        "ExecutionSuspended" => ("suspended", Tone::Busy),
        "ExecutionResumed" => ("resumed", Tone::Busy),
        "ExecutionRewound" => ("rewound", Tone::Busy),
        "ExecutionTerminated" => ("terminate requested", Tone::Bad),
        "ExecutionCompleted" => {
            let status = event.orchestration_status.as_ref().map_or("ended", |status| status.get().trim_matches('"'));
            return (status.to_lowercase(), Tone::of_status(status));
        }
        other => (other, Tone::Dim),
    };
    (what.to_owned(), tone)
}

/// What went in and came out, or why.
fn details(event: &HistoryEvent, start_ms: u64) -> String {
    let due = event.fire_at.as_deref().filter(|_| event.event_type == "TimerCreated").and_then(milliseconds);
    let due = due.map(|due_ms| format!("due at +{}", duration(due_ms.saturating_sub(start_ms))));
    let input = event.input.clone().filter(|input| input != "null");
    let result = event.result.as_ref().map(|result| result.get().to_owned());
    let outcome = event.reason.clone().or(result);
    let data = match (input, outcome) {
        (Some(input), Some(outcome)) => Some(format!("{} → {outcome}", cut(&clean(&input), INPUT_COLUMNS_MAX))),
        (input, outcome) => input.or(outcome),
    };
    // Whom it was sent to, or which instance is the sub-orchestration.
    let other = event.instance_id.clone();
    [due, other, data].into_iter().flatten().collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_772_355_610_000; // 2026-03-01T09:00:10Z

    fn instance(json: &str) -> Instance {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_status_is_a_few_aligned_lines_without_what_is_null() {
        let long = "x".repeat(200);
        let instance = instance(&format!(
            r#"{{"name":"BakeBread","instanceId":"loaf-17","runtimeStatus":"Running","input":{{"flour": "rye","note":"{long}"}},
            "customStatus":"rising","output":null,"createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T09:00:00Z"}}"#
        ));
        let expected = format!(
            "\
Instance       loaf-17
Status         Running
Function       BakeBread
Created        2026-03-01T08:00:00Z (1h ago)
Updated        2026-03-01T09:00:00Z (10s ago)
Input          {{\"flour\": \"rye\",\"note\":\"{}…
Custom status  \"rising\"",
            "x".repeat(40)
        );
        assert_eq!(summary(&instance, NOW_MS, 80), expected);
    }

    #[test]
    fn a_history_is_a_table_with_what_went_in_and_came_out() {
        let events: Vec<HistoryEvent> = serde_json::from_str(
            r#"[
 {"EventType":"ExecutionStarted","Timestamp":"2026-03-01T08:00:00.1203Z","FunctionName":"BakeBread","Input":"{\"flour\":\"rye\"}"},
 {"EventType":"TaskCompleted","Result":{"ok":true},"Timestamp":"2026-03-01T08:00:02.5Z","ScheduledTime":"2026-03-01T08:00:00.4Z","FunctionName":"MixDough","Input":"\"a text that is far too long for a table\""},
 {"EventType":"TimerCreated","FireAt":"2026-03-01T09:00:00.1203Z","Timestamp":"2026-03-01T08:00:02.7Z"},
 {"EventType":"EventRaised","Name":"DoughReady","Timestamp":"2026-03-01T08:40:00Z","Input":"null"},
 {"EventType":"TaskFailed","Reason":"oven is cold","Details":"…","FailureDetails":null,"Timestamp":"2026-03-01T08:41:00Z","ScheduledTime":"2026-03-01T08:40:01Z","FunctionName":"Bake"},
 {"EventType":"Novelty","Timestamp":"2026-03-01T08:41:00Z"},
 {"EventType":"EventSent","Timestamp":"2026-03-01T08:41:00.1203Z","InstanceId":"@counter@loaves","Name":"op","Input":"3"},
 {"EventType":"ExecutionCompleted","OrchestrationStatus":"Failed","Result":"failed: oven is cold","FailureDetails":null,"Timestamp":"2026-03-01T08:41:00.2Z"}
]"#,
        )
        .unwrap();
        let expected = "\
AT        EVENT               NAME        TOOK    DETAILS
+0ms      started             BakeBread           {\"flour\":\"rye\"}
+2.38s    activity completed  MixDough    2.10s   \"a text that is far too long … → {\"ok\":true}
+2.58s    timer set                               due at +1h 0m
+39m 59s  event raised        DoughReady
+40m 59s  activity failed     Bake        59.00s  oven is cold
+40m 59s  Novelty
+41m 0s   event sent          op                  @counter@loaves: 3
+41m 0s   failed                                  \"failed: oven is cold\"";
        assert_eq!(history(&events).fitted(100), expected);
    }
}
