//! What may a guest ask for, and what does one turn bring about?

use serde::{Deserialize, Serialize};

use super::{End, Payload, TaskId};

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
}
