//! What does a guest say to people?

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TaskId;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// For whoever looks for a mistake.
    Debug,
    /// Worth knowing. What a guest prints to its standard output.
    Info,
    /// Not as it should be. What a guest prints to its standard error.
    Warn,
    /// Gone wrong.
    Error,
}

/// One line that a guest wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// How much it matters.
    pub level: LogLevel,
    /// Who speaks, such as a module path; `stdout` or `stderr` for what was printed.
    pub target: String,
    /// What it says.
    pub message: String,
}

/// A line with where it belongs, as it is kept with the instance. Field names are the stored format, as in [`super::Event`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The time of the turn that wrote it, or when the activity that did had ended; milliseconds since 1970.
    pub at_ms: u64,
    /// The task, if an activity wrote it; the orchestrator did otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// What was written.
    #[serde(flatten)]
    pub line: LogLine,
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.target, self.message)
    }
}
