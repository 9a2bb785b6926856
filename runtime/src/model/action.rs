//! What may a guest ask for, and what does one turn bring about?

use serde::{Deserialize, Serialize};

use super::{Continuation, End, InstanceId, Payload, Tags, TaskId};

/// What a guest asks for and then awaits. Each takes the next task number of its execution.
///
/// Tags and field names are the stored format, as in [`super::Event`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Run an activity, in whichever module of the hub has it.
    Activity(ActivityCall),
    /// Wait until `due_ms`, milliseconds since 1970. A time that has passed fires at once.
    Timer {
        /// When.
        due_ms: u64,
    },
    /// Wait for an event from outside with this name, compared without case. The host answers no such task: it hands over all
    /// events as they come, and the guest finds who waits. That it waits is known here for those who look.
    WaitEvent {
        /// Which events, as the guest spells it.
        name: String,
    },
    /// Run an orchestration, and wait for its end.
    SubOrchestration(ChildCall),
    /// Start an orchestration, and do not wait. Nothing answers it.
    StartDetached(ChildStart),
    /// Raise an event to another instance. Nothing answers it.
    SendEvent(SentEvent),
    /// Make an HTTP request.
    Http(HttpCall),
}

impl Action {
    /// Whether the host answers it one day, so that it is open until then.
    pub fn is_answered(&self) -> bool {
        match self {
            Self::Activity(_) | Self::Timer { .. } | Self::SubOrchestration(_) | Self::Http(_) => true,
            Self::WaitEvent { .. } | Self::StartDetached(_) | Self::SendEvent(_) => false,
        }
    }

    /// Whether the server has to do something until it is answered, from the start on and again after a restart.
    pub fn is_work(&self) -> bool {
        matches!(self, Self::Activity(_) | Self::Http(_))
    }

    /// How many bytes of values it holds, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Activity(call) => call.input.text().len(),
            Self::SubOrchestration(call) => call.input.text().len(),
            Self::StartDetached(start) => start.input.text().len(),
            Self::SendEvent(event) => event.payload.text().len(),
            Self::Http(call) => call.body.as_ref().map_or(0, String::len),
            Self::Timer { .. } | Self::WaitEvent { .. } => 0,
        }
    }
}

/// An activity to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityCall {
    /// The activity's name, as the guest spells it.
    pub name: String,
    /// Its input.
    pub input: Payload,
    /// Which attempt of the guest's retry policy this is, counted from 1.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub attempt: u32,
    /// The task of attempt 1, if this is a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_attempt: Option<TaskId>,
    /// How long it may take, in milliseconds; the server's limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// An orchestration to run and wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildCall {
    /// The orchestrator's name, as the guest spells it.
    pub name: String,
    /// Its instance ID; [`super::Started::child_id`] of the task if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Its input.
    pub input: Payload,
    /// Which attempt of the guest's retry policy this is, counted from 1.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub attempt: u32,
    /// The task of attempt 1, if this is a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_attempt: Option<TaskId>,
    /// Labels for the child.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

/// An orchestration to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildStart {
    /// The orchestrator's name, as the guest spells it.
    pub name: String,
    /// Its instance ID; [`super::Started::child_id`] of the task if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Its input.
    pub input: Payload,
    /// Not before this time, in milliseconds since 1970, if one is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// Labels for the new instance.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

/// An event for another instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentEvent {
    /// To whom.
    pub instance: InstanceId,
    /// The event's name.
    pub name: String,
    /// The event's value.
    pub payload: Payload,
}

/// An HTTP request that the host makes. Its answer is [`super::Outcome::Completed`] with an object: `status`, a number; `headers`, an
/// array of pairs of texts; `body`, a text. Any status is an answer; only what gives none is a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCall {
    /// `GET`, `POST` and so on.
    pub method: String,
    /// The absolute URI.
    pub uri: String,
    /// Header fields, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// How long it may take in all, in milliseconds; the server's limit on activities if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

fn first() -> u32 {
    1
}

fn is_first(attempt: &u32) -> bool {
    *attempt == 1
}

/// One thing that a guest asks for within a turn, in the order of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A new task. Its number is its position among all that the execution has scheduled.
    Schedule(Action),
    /// The guest has dropped this task.
    Cancel(TaskId),
}

/// What one turn brings about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// What was asked for.
    pub asks: Vec<Ask>,
    /// The custom status, if the turn set it.
    pub custom_status: Option<Payload>,
    /// How the execution ended, if it did.
    pub end: Option<End>,
    /// How the instance goes on as a new execution, if it does. Never together with an end.
    pub continuation: Option<Continuation>,
}
