//! Where does an instance stand, as its callers see it?

use std::fmt;

/// The runtime status of an instance. The numbers are those of the wire contract and of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RuntimeStatus {
    /// Its code has run at least once and waits for something.
    Running = 0,
    /// It returned a value.
    Completed = 1,
    /// It returned an error, or its guest was at fault.
    Failed = 3,
    /// Somebody from outside ended it.
    Terminated = 5,
    /// It is accepted and on disk; its code has not run yet.
    Pending = 6,
    /// Somebody from outside has it pause, before or after its code has run.
    Suspended = 7,
}

impl RuntimeStatus {
    /// All there are.
    pub const ALL: [Self; 6] = [Self::Running, Self::Completed, Self::Failed, Self::Terminated, Self::Pending, Self::Suspended];

    /// The status that the store keeps as `number`.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as u8 == number)
    }

    /// Whether the instance has come to its end.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Terminated)
    }

    /// The name that the wire uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Terminated => "Terminated",
            Self::Pending => "Pending",
            Self::Suspended => "Suspended",
        }
    }
}

impl fmt::Display for RuntimeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
