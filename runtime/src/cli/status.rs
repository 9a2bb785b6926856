//! `dacapo status`: how does an instance stand, and what happened to it?

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::client;
use super::connection::Connection;
use super::moment::milliseconds;
use super::output::{Cell, Table, Tone, clean, columns, cut, duration, relative, say, say_data, wrapped};
use super::wire::{HistoryEvent, HttpRequest, HttpResponse, Instance};
use crate::clock::Clock;

const EXAMPLES: &str = "\
Example:
  dacapo status loaf-17 --history";

/// The activity as which the host's own HTTP requests stand in a history.
const HTTP_ACTIVITY: &str = "BuiltIn::HttpActivity";

/// What an input may take of a line that shows a result too, in columns.
const INPUT_COLUMNS_MAX: usize = 30;

/// The most lines that a failure or a reason takes; the server's JSON has all of it.
const END_LINES_MAX: usize = 20;

/// The most lines of a stack trace that are shown: the first are of the code that failed.
const TRACE_LINES_MAX: usize = 8;

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
            for trace in traces(&instance.history_events, columns()) {
                say(format_args!("\n{trace}"))?;
            }
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
    ];
    let room = usize::from(columns) - LABEL_COLUMNS;
    let label = |name: &str| Tone::Dim.paint(&format!("{name:LABEL_COLUMNS$}"));
    let lines = lines.into_iter().filter_map(|(name, value)| {
        let value = cut(&clean(&value?), room);
        let value = if name == "Status" { Tone::of_status(status).paint(&value) } else { value };
        Some(format!("{}{value}", label(name)))
    });
    // Why it has failed or was terminated is what people have come for: they see all of it.
    let output = json(instance.output.get()).map(|output| match status.as_str() {
        "Failed" => ("Failure", bounded(wrapped(&instance.plain_output(), room), END_LINES_MAX)),
        "Terminated" => ("Output", bounded(wrapped(&output, room), END_LINES_MAX)),
        _ => ("Output", vec![cut(&clean(&output), room)]),
    });
    let output = output.map(|(name, lines)| format!("{}{}", label(name), lines.join(&format!("\n{:LABEL_COLUMNS$}", ""))));
    lines.chain(output).collect::<Vec<_>>().join("\n")
}

/// No more than `lines_max` of these lines; the last then says how many are missing.
fn bounded(mut lines: Vec<String>, lines_max: usize) -> Vec<String> {
    if lines.len() > lines_max {
        let missing = lines.len() - (lines_max - 1);
        lines.truncate(lines_max - 1);
        lines.push(format!("… {missing} more lines; --json shows them"));
    }
    lines
}

/// The widest label with the blanks behind it.
const LABEL_COLUMNS: usize = "Custom status  ".len();

/// A line for each event.
fn history(events: &[HistoryEvent]) -> Table {
    let mut table = Table::new(&["AT", "EVENT", "NAME", "TOOK", "DETAILS"]);
    let start_ms = events.first().and_then(|event| milliseconds(&event.timestamp)).unwrap_or_default();
    for event in events {
        let at_ms = milliseconds(&event.timestamp).unwrap_or_default();
        let asked_ms = event.scheduled_time.as_deref().and_then(milliseconds);
        let took = asked_ms.map(|asked_ms| duration(at_ms.saturating_sub(asked_ms)));
        let (what, tone) = what(event);
        table.row([
            format!("+{}", duration(at_ms.saturating_sub(start_ms))).into(),
            Cell::toned(&what, tone),
            name(event).into(),
            took.unwrap_or_default().into(),
            details(event, start_ms).into(),
        ]);
    }
    table
}

/// Where the code was when it failed, for each failure that says so: a line about the failure and some of its stack trace.
fn traces(events: &[HistoryEvent], columns: u16) -> Vec<String> {
    let mut shown: Vec<&str> = Vec::new();
    let mut traces = Vec::new();
    for event in events {
        let trace = event.failure_details.as_ref().and_then(|failure| failure.stack_trace.as_deref());
        // What nobody caught ends the instance with the same trace.
        let Some(trace) = trace.filter(|trace| !trace.trim().is_empty() && !shown.contains(trace)) else { continue };
        shown.push(trace);
        let name = clean(&name(event));
        let name = if name.is_empty() { name } else { format!(": {name}") };
        let title = Tone::Dim.paint(&format!("{}{name}", what(event).0));
        let lines = trace.trim_end().lines().map(|line| cut(&clean(line), usize::from(columns) - 2));
        traces.push(format!("{title}\n  {}", bounded(lines.collect(), TRACE_LINES_MAX).join("\n  ")));
    }
    traces
}

/// Whether it is about an HTTP request of the host.
fn is_http(event: &HistoryEvent) -> bool {
    [&event.function_name, &event.name].into_iter().flatten().any(|name| name == HTTP_ACTIVITY)
}

/// Whose event it is: the name of the function or of the event, or the method of a request.
pub(super) fn name(event: &HistoryEvent) -> String {
    if is_http(event) {
        return request(event).map(|request| request.method).unwrap_or_default();
    }
    let name = event.function_name.as_ref().or(event.name.as_ref()).cloned().unwrap_or_default();
    match event.attempt {
        Some(attempt) => format!("{name}, attempt {attempt}"),
        None => name,
    }
}

fn request(event: &HistoryEvent) -> Option<HttpRequest> {
    serde_json::from_str(event.input.as_deref()?).ok()
}

/// What happened, in words.
pub(super) fn what(event: &HistoryEvent) -> (String, Tone) {
    let (what, tone) = match event.event_type.as_str() {
        "TaskScheduled" if is_http(event) => ("http request sent", Tone::Busy),
        "TaskCompleted" if is_http(event) => ("http request answered", Tone::Good),
        "TaskFailed" if is_http(event) => ("http request failed", Tone::Bad),
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
pub(super) fn details(event: &HistoryEvent, start_ms: u64) -> String {
    let due = event.fire_at.as_deref().filter(|_| event.event_type == "TimerCreated").and_then(milliseconds);
    let due = due.map(|due_ms| format!("due at +{}", duration(due_ms.saturating_sub(start_ms))));
    let mut input = event.input.clone().filter(|input| input != "null");
    let mut result = event.result.as_ref().map(|result| result.get().to_owned());
    if is_http(event) {
        input = request(event).map(|request| request.uri).or(input);
        let response = result.as_deref().and_then(|result| serde_json::from_str(result).ok());
        result = response.map(|HttpResponse { status, body }| format!("{status} {body}").trim_end().to_owned()).or(result);
    }
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
    fn why_an_instance_has_failed_is_shown_whole() {
        let ended = |status: &str, output: &str| {
            let instance = instance(&format!(
                r#"{{"name":"BakeBread","instanceId":"loaf-17","runtimeStatus":"{status}","input":null,"customStatus":null,
                "output":{output},"createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T09:00:00Z"}}"#
            ));
            summary(&instance, NOW_MS, 50).lines().skip(5).map(|line| format!("{line}\n")).collect::<String>()
        };
        let expected = "\
Failure        the oven is cold, and so is the
               dough
               \u{fffd}[2J
";
        assert_eq!(ended("Failed", r#""the oven is cold, and so is the dough\n\u001b[2J""#), expected);
        let expected = "\
Output         \"power cut in the whole street,
               until noon\"
";
        assert_eq!(ended("Terminated", r#""power cut in the whole street, until noon""#), expected);
        let long = ended("Failed", &format!("\"{}\"", "x\\n".repeat(30)));
        assert_eq!(long.lines().count(), END_LINES_MAX);
        assert!(long.ends_with("               … 11 more lines; --json shows them\n"), "{long}");
        assert_eq!(ended("Failed", "null"), "");
    }

    #[test]
    fn a_stack_trace_is_shown_once_and_not_all_of_it() {
        let deep = (0..20).map(|n| format!("at f{n}")).collect::<Vec<_>>().join("\\n");
        let events: Vec<HistoryEvent> = serde_json::from_str(&format!(
            r#"[
 {{"EventType":"TaskFailed","Reason":"cold","FailureDetails":{{"StackTrace":"at bake\n  in oven.rs"}},"Timestamp":"","FunctionName":"Bake"}},
 {{"EventType":"TaskFailed","Reason":"cold","FailureDetails":{{"StackTrace":null}},"Timestamp":"","FunctionName":"Bake"}},
 {{"EventType":"ExecutionCompleted","OrchestrationStatus":"Failed","FailureDetails":{{"StackTrace":"at bake\n  in oven.rs"}},"Timestamp":""}},
 {{"EventType":"ExecutionCompleted","OrchestrationStatus":"Failed","FailureDetails":{{"StackTrace":"{deep}"}},"Timestamp":""}}
]"#
        ))
        .unwrap();
        let shown = traces(&events, 80);
        assert_eq!(shown[0], "activity failed: Bake\n  at bake\n    in oven.rs");
        assert!(shown[1].starts_with("failed\n  at f0\n  at f1\n"), "{}", shown[1]);
        assert!(shown[1].ends_with("\n  at f6\n  … 13 more lines; --json shows them"), "{}", shown[1]);
        assert_eq!(shown.len(), 2);
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

    #[test]
    fn a_history_tells_who_else_has_a_part_in_it() {
        let events: Vec<HistoryEvent> = serde_json::from_str(
            r#"[
 {"EventType":"ExecutionStarted","Timestamp":"2026-03-01T08:00:00Z","FunctionName":"BakeBread","Input":"null"},
 {"EventType":"TaskFailed","Reason":"oven is cold","Details":null,"Timestamp":"2026-03-01T08:00:01Z","ScheduledTime":"2026-03-01T08:00:00Z","FunctionName":"Bake","Input":"1"},
 {"EventType":"TimerCreated","FireAt":"2026-03-01T08:00:03Z","Timestamp":"2026-03-01T08:00:01Z"},
 {"EventType":"TimerFired","FireAt":"2026-03-01T08:00:03Z","Timestamp":"2026-03-01T08:00:03Z"},
 {"EventType":"TaskCompleted","Result":true,"Timestamp":"2026-03-01T08:00:04Z","ScheduledTime":"2026-03-01T08:00:03Z","FunctionName":"Bake","Input":"1","Attempt":2},
 {"EventType":"SubOrchestrationInstanceCreated","Name":"Clean","InstanceId":"oven-3","Input":"\"all\"","Timestamp":"2026-03-01T08:00:04Z"},
 {"EventType":"SubOrchestrationInstanceCompleted","Result":7,"Timestamp":"2026-03-01T08:00:06Z","ScheduledTime":"2026-03-01T08:00:04Z","FunctionName":"Knead","InstanceId":"dough","Input":"3"},
 {"EventType":"SubOrchestrationInstanceFailed","Reason":"no van","Timestamp":"2026-03-01T08:00:07Z","ScheduledTime":"2026-03-01T08:00:04Z","FunctionName":"Deliver","InstanceId":"van","Input":"null"},
 {"EventType":"TaskScheduled","Name":"BuiltIn::HttpActivity","Input":"{\"method\":\"POST\",\"uri\":\"http://shop/\"}","Timestamp":"2026-03-01T08:00:07Z"},
 {"EventType":"TaskCompleted","Result":{"status":202,"headers":[],"body":"soon"},"Timestamp":"2026-03-01T08:00:08Z","ScheduledTime":"2026-03-01T08:00:07Z","FunctionName":"BuiltIn::HttpActivity","Input":"{\"method\":\"GET\",\"uri\":\"http://shop/\"}"},
 {"EventType":"TaskFailed","Reason":"no such host","Timestamp":"2026-03-01T08:00:08Z","ScheduledTime":"2026-03-01T08:00:07Z","FunctionName":"BuiltIn::HttpActivity","Input":"{\"method\":\"GET\",\"uri\":\"http://nowhere/\"}"}
]"#,
        )
        .unwrap();
        let expected = "\
AT      EVENT                        NAME             TOOK   DETAILS
+0ms    started                      BakeBread
+1.00s  activity failed              Bake             1.00s  1 → oven is cold
+1.00s  timer set                                            due at +3.00s
+3.00s  timer fired
+4.00s  activity completed           Bake, attempt 2  1.00s  1 → true
+4.00s  sub-orchestration started    Clean                   oven-3: \"all\"
+6.00s  sub-orchestration completed  Knead            2.00s  dough: 3 → 7
+7.00s  sub-orchestration failed     Deliver          3.00s  van: no van
+7.00s  http request sent            POST                    http://shop/
+8.00s  http request answered        GET              1.00s  http://shop/ → 202 soon
+8.00s  http request failed          GET              1.00s  http://nowhere/ → no such host";
        assert_eq!(history(&events).fitted(100), expected);
    }
}
