//! What happened to an execution? The stored history, event by event.

use serde::{Deserialize, Serialize};

use super::{Action, Digest, Failure, Generation, InstanceId, Payload, Seed, TaskId};

/// One fact about an execution, in the order the facts became durable.
///
/// Written once, never edited. Tags and field names are the stored format: a new variant or an optional field is fine, a
/// rename is a migration. What clients see as history is a projection (`api::history_view`), so the two can change
/// apart. The tag stands outside (`{"resolved":{…}}`), because serde cannot hand a payload's text through untouched
/// where the tag stands inside. All times are milliseconds since 1970, UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// First in every execution.
    Started(Started),
    /// A turn begins: it takes the next `consumes` inputs that no turn has taken yet, and until the next turn the guest's
    /// clock reads `at_ms`. Never goes back.
    TurnStarted {
        /// The guest's time in this turn.
        at_ms: u64,
        /// How many inputs it takes.
        consumes: u32,
    },
    /// The guest asked for its `task`-th task, counted from 0. Never removed.
    Scheduled {
        /// Its number.
        task: TaskId,
        /// What it asked for.
        action: Action,
    },
    /// The guest has dropped this task: no answer to it counts from here on.
    Cancelled {
        /// Which one.
        task: TaskId,
    },
    /// Input: the one answer to `task`.
    Resolved {
        /// Which one.
        task: TaskId,
        /// When the answer arrived.
        at_ms: u64,
        /// What it is.
        outcome: Outcome,
        /// The module that ran, if that was another than the execution's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ran: Option<Digest>,
    },
    /// Last in every ended execution.
    Ended {
        /// When it ended.
        at_ms: u64,
        /// How.
        end: End,
    },
}

/// Fixes the code, the input and the randomness of all replays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// When the start was asked for.
    pub at_ms: u64,
    /// The instance's ID.
    pub instance: InstanceId,
    /// The code.
    pub module: Digest,
    /// The orchestrator's name, as the caller spelled it.
    pub function: String,
    /// `null` if none was given.
    pub input: Payload,
    /// Names this execution to the world: idempotency keys and UUIDs derive from it.
    pub generation: Generation,
    /// All randomness that the guest sees derives from it.
    pub seed: Seed,
    /// The most memory that the guest may have, in bytes: where it hits the limit is part of what it does.
    pub memory_bytes_max: u64,
    /// What wrote this history.
    pub made_by: Versions,
}

/// Who had a hand in a history: what to look at if it cannot be read or replayed one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of the guest contract that the module speaks.
    pub contract: String,
    /// Of the server.
    pub host: String,
    /// Of what generated the module, in its own words.
    pub generator: String,
}

/// The answer to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It gave this value.
    Completed(Payload),
    /// It failed.
    Failed(Failure),
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The orchestrator returned this value.
    Completed(Payload),
    /// The orchestrator returned an error.
    Failed(Failure),
    /// The guest was at fault: it trapped or panicked, passed a limit, or diverged from its history. No replay repeats
    /// the turn in which that happened.
    Faulted(Failure),
}
