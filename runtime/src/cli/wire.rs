//! What does the server say? The parts of its answers that commands show; what they do not know is skipped.

use serde::Deserialize;
use serde_json::value::RawValue;

/// An instance that was started.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Started {
    /// Its ID.
    pub(super) id: String,
    /// Where to ask how it stands; the `Location` of the answer too. Carries a key if the server has keys.
    pub(super) status_query_get_uri: String,
}

/// How an instance stands.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Instance {
    /// Its function, as whoever started it spelled it.
    pub(super) name: String,
    pub(super) instance_id: String,
    /// `Completed` if all went well.
    pub(super) runtime_status: String,
    /// These three as the server wrote them.
    pub(super) input: Box<RawValue>,
    pub(super) custom_status: Box<RawValue>,
    pub(super) output: Box<RawValue>,
    /// UTC, whole seconds.
    pub(super) created_time: String,
    pub(super) last_updated_time: String,
    /// Only if it was asked for.
    #[serde(default)]
    pub(super) history_events: Vec<HistoryEvent>,
}

impl Instance {
    /// Whether it will do nothing more.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.runtime_status.as_str(), "Completed" | "Failed" | "Terminated" | "Canceled")
    }

    /// The contents of an output that is a JSON string, such as a failure; other JSON as it is.
    pub(super) fn plain_output(&self) -> String {
        let json = self.output.get();
        serde_json::from_str(json).unwrap_or_else(|_| json.to_owned())
    }
}

/// An event of a history, of any type: each type has some of these members.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HistoryEvent {
    pub(super) event_type: String,
    pub(super) timestamp: String,
    /// Of answers: when the task was asked for.
    pub(super) scheduled_time: Option<String>,
    pub(super) fire_at: Option<String>,
    pub(super) function_name: Option<String>,
    pub(super) name: Option<String>,
    pub(super) instance_id: Option<String>,
    /// Of a task under a retry policy: which attempt, from the second on.
    pub(super) attempt: Option<u32>,
    /// JSON text, or plain text.
    pub(super) input: Option<String>,
    pub(super) result: Option<Box<RawValue>>,
    pub(super) reason: Option<String>,
    pub(super) orchestration_status: Option<Box<RawValue>>,
    pub(super) failure_details: Option<FailureDetails>,
}

/// An HTTP request of the host, as it stands in the input of the activity that it is in a history.
#[derive(Debug, Deserialize)]
pub(super) struct HttpRequest {
    pub(super) method: String,
    pub(super) uri: String,
}

/// The answer to one.
#[derive(Debug, Deserialize)]
pub(super) struct HttpResponse {
    pub(super) status: u16,
    #[serde(default)]
    pub(super) body: String,
}

/// Why something failed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FailureDetails {
    pub(super) stack_trace: Option<String>,
}

/// A module with its versions.
#[derive(Debug, Deserialize)]
pub(super) struct Module {
    pub(super) name: String,
    /// The digest that new instances run on.
    pub(super) current: String,
    /// The newest upload first.
    pub(super) versions: Vec<Version>,
}

/// One version of a module.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version {
    pub(super) digest: String,
    /// UTC, whole seconds.
    pub(super) uploaded_time: String,
    #[serde(default)]
    pub(super) orchestrators: Vec<String>,
    #[serde(default)]
    pub(super) activities: Vec<String>,
    pub(super) live_instances: u64,
}

/// What came of an upload.
#[derive(Debug)]
pub(super) struct Uploaded {
    /// Whether the server did not have these bytes under this name.
    pub(super) new: bool,
    /// What was taken, and is current now.
    pub(super) version: Version,
    /// The server's answer as it is.
    pub(super) text: String,
}

/// Lines of an instance's log.
#[derive(Debug, Deserialize)]
pub(super) struct Logs {
    /// Each a [`LogLine`], as the server wrote it.
    pub(super) lines: Vec<Box<RawValue>>,
    /// What to ask for to get the lines behind these.
    pub(super) next: u64,
}

/// What an instance waits for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Waiting {
    /// In a sentence or two.
    pub(super) summary: String,
    pub(super) open: OpenTasks,
    /// The first of them.
    pub(super) tasks: Vec<OpenTask>,
    pub(super) unread_events: Vec<UnreadEvents>,
    pub(super) children: Vec<Child>,
}

/// How many tasks are open.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpenTasks {
    activities: u64,
    http_requests: u64,
    timers: u64,
    events: u64,
    sub_orchestrations: u64,
}

impl OpenTasks {
    /// All together.
    pub(super) fn all(&self) -> u64 {
        self.activities + self.http_requests + self.timers + self.events + self.sub_orchestrations
    }
}

/// An open task, of any kind: each kind has some of these members.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpenTask {
    pub(super) task: u64,
    pub(super) kind: String,
    pub(super) since: String,
    pub(super) name: Option<String>,
    pub(super) uri: Option<String>,
    pub(super) instance_id: Option<String>,
    pub(super) due: Option<String>,
    /// `running`, `queued` or `handedOver`.
    pub(super) state: Option<String>,
    /// Which bound it stands behind in line.
    pub(super) behind: Option<String>,
    pub(super) attempt: Option<u32>,
    pub(super) progress: Option<Box<RawValue>>,
}

/// Events of one name that were not read.
#[derive(Debug, Deserialize)]
pub(super) struct UnreadEvents {
    pub(super) name: String,
    pub(super) count: u64,
    pub(super) since: String,
    pub(super) hint: Option<String>,
}

/// A sub-orchestration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Child {
    pub(super) instance_id: String,
    pub(super) name: String,
    pub(super) runtime_status: Option<String>,
    pub(super) since: String,
    pub(super) failure: Option<String>,
}

/// A line that a guest has logged.
#[derive(Debug, Deserialize)]
pub(super) struct LogLine {
    /// UTC, milliseconds.
    pub(super) time: String,
    pub(super) level: String,
    /// The module.
    pub(super) target: String,
    /// The activity that said it; `None` if it was the orchestrator itself.
    pub(super) task: Option<u64>,
    pub(super) message: String,
}
