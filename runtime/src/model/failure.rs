//! Why did something not succeed?

use serde::{Deserialize, Serialize};

use super::Payload;

/// Why an activity, an orchestrator or a guest did not succeed, as people and programs may read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A short, stable name for the kind of failure.
    pub kind: String,
    /// One sentence for people.
    pub message: String,
    /// Anything that a program may want to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Payload>,
    /// Where it happened, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_trace: Option<String>,
    /// Trying again cannot help.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub non_retriable: bool,
    /// What led to it, the nearest cause first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
}

/// One link in the chain behind a [`Failure`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// As in [`Failure`].
    pub kind: String,
    /// As in [`Failure`].
    pub message: String,
    /// As in [`Failure`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Payload>,
}

impl Failure {
    /// A failure without details, trace or causes, which may be retried.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into(),
            details: None,
            stack_trace: None,
            non_retriable: false,
            causes: Vec::new(),
        }
    }

    /// The same, but trying again cannot help.
    pub fn non_retriable(self) -> Self {
        Self { non_retriable: true, ..self }
    }
}
