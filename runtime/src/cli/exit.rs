//! How does a command end, as scripts see it? With one number for each outcome that a script treats differently.
//!
//! Commands return `anyhow` errors; [`Exit::because`] makes one that knows its number, [`Exit::of`] finds it again.

use std::fmt::Display;

use anyhow::Error;

/// What `--help` says of it.
pub(super) const HELP: &str = "\
Exit status:
  0  it is done
  1  the server refused, or something failed
  2  the command line is wrong
  3  the server cannot be reached
  4  there is no such instance, module or query
  5  the instance that was waited for has ended as Failed, Terminated or Canceled
  6  the time is up, and the instance that is waited for goes on";

/// Why a command did not do what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// The server refused, or anything else went wrong.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// There is no server, or no way to it.
    Unreachable = 3,
    /// There is no such instance, module or query.
    NotFound = 4,
    /// The instance has ended, and not by completing.
    EndedBadly = 5,
    /// The instance goes on after the time that was given to it.
    TimeUp = 6,
}

/// A message with its number.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Reason {
    exit: Exit,
    message: String,
}

impl Exit {
    /// An error that ends the command like this.
    pub(super) fn because(self, message: impl Display) -> Error {
        Reason { exit: self, message: message.to_string() }.into()
    }

    /// How a command ends that failed with `error`, whatever context was put around it.
    pub(super) fn of(error: &Error) -> Self {
        error.downcast_ref::<Reason>().map_or(Self::Failed, |reason| reason.exit)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn the_number_of_an_error_survives_the_context_around_it() {
        let error: anyhow::Result<()> = Err(Exit::NotFound.because("there is no instance \"a\""));
        let error = error.context("look at it").context("show it").unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NotFound);
        assert_eq!(format!("{error:#}"), "show it: look at it: there is no instance \"a\"");
        assert_eq!(Exit::of(&anyhow!("disk full").context("write")), Exit::Failed);
    }

    #[test]
    fn the_help_has_a_line_for_each_number() {
        let numbers = [Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::NotFound, Exit::EndedBadly, Exit::TimeUp];
        for number in numbers.map(|exit| exit as u8).into_iter().chain([0]) {
            assert!(HELP.lines().any(|line| line.starts_with(&format!("  {number}  "))), "{number}");
        }
    }
}
