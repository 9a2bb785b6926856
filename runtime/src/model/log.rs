//! What does a guest say to people?

use std::fmt;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: LogLevel,
    /// Who speaks, such as a module path; `stdout` or `stderr` for what was printed.
    pub target: String,
    /// What it says.
    pub message: String,
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.target, self.message)
    }
}
