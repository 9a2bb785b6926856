//! Why something failed, in a form that outlives the module it failed in.
//!
//! An [`Error`] is data: it is recorded in the history, comes back in every replay, and travels from an activity to the
//! orchestrator that called it, and on to whoever asks for the status of the instance.

use std::any::type_name;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::dacapo::guest::types::{Cause, Failure};

/// What functions of a module return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: a short stable kind for programs, a message for people, and what led to it.
///
/// Every [`std::error::Error`] becomes one by `?`, with its type's name as kind and its chain of sources as causes. (For
/// that reason this type is not one itself.)
#[derive(Clone, PartialEq)]
pub struct Error(Box<Failure>);

impl Error {
    /// `kind` is a short, stable name such as `PaymentDeclined`; `message` is one sentence for people. The line that calls this
    /// is shown with it.
    #[track_caller]
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Box::new(Failure {
            kind: kind.into(),
            message: message.into(),
            details: None,
            stack_trace: place(Location::caller()),
            non_retriable: false,
            causes: Vec::new(),
        }))
    }

    /// Says that trying again cannot help.
    #[must_use]
    pub fn non_retriable(mut self) -> Self {
        self.0.non_retriable = true;
        self
    }

    /// Adds what a program may want to read. What cannot be written as JSON is replaced by a text that says so: a
    /// failure must not be lost to another one.
    #[must_use]
    pub fn with_details(mut self, details: &impl Serialize) -> Self {
        let json =
            serde_json::to_string(details).unwrap_or_else(|error| json_text(&format!("details without a form in JSON: {error}")));
        self.0.details = Some(json);
        self
    }

    /// Adds `cause` and its own causes behind those that are there.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Self>) -> Self {
        let Failure { kind, message, details, causes, .. } = *cause.into().0;
        self.0.causes.push(Cause { kind, message, details });
        self.0.causes.extend(causes);
        self
    }

    // `From` has no room for the contract's record, which is an error to the compiler like any other.
    pub(crate) fn from_failure(failure: Failure) -> Self {
        Self(Box::new(failure))
    }

    pub(crate) fn into_failure(self) -> Failure {
        *self.0
    }

    /// The short, stable name of this kind of failure.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What was added with [`with_details`](Self::with_details), if it can be read as a `T`.
    pub fn details<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.0.details.as_deref()?).ok()
    }

    /// Whether trying again cannot help.
    pub fn is_non_retriable(&self) -> bool {
        self.0.non_retriable
    }

    /// Kind and message of all that led to this, the nearest cause first.
    pub fn causes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.causes.iter().map(|cause| (cause.kind.as_str(), cause.message.as_str()))
    }
}

/// The error of [`Context::timeout`](crate::Context::timeout): the time was up first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeout {
    pub(crate) after: Duration,
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it was not done within {:?}", self.after)
    }
}

impl std::error::Error for Timeout {}

/// Returns early with an [`Error`] of kind `Error` and a formatted message.
///
/// ```
/// use dacapo_guest::prelude::*;
///
/// fn bake(degrees: u32) -> Result<()> {
///     if degrees < 180 {
///         bail!("the oven is cold: {degrees} degrees");
///     }
///     Ok(())
/// }
/// # assert_eq!(bake(20).unwrap_err().message(), "the oven is cold: 20 degrees");
/// ```
#[macro_export]
macro_rules! bail {
    ($($message:tt)+) => {
        return ::std::result::Result::Err($crate::Error::new("Error", ::std::format!($($message)+)))
    };
}

impl<E: std::error::Error + 'static> From<E> for Error {
    /// Keeps the line of the `?`.
    #[track_caller]
    fn from(error: E) -> Self {
        let advice = advice(&error).map_or_else(String::new, |advice| format!(" ({advice})"));
        let mut converted = Self::new(short_type_name(type_name::<E>()), format!("{error}{advice}"));
        let mut source = error.source();
        while let Some(cause) = source {
            converted.0.causes.push(Cause { kind: kind_of(cause), message: cause.to_string(), details: None });
            source = cause.source();
        }
        converted
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind(), self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.causes().try_for_each(|(kind, message)| write!(f, "\n  caused by {kind}: {message}"))
    }
}

/// Where the user's code has made an error; nothing if this crate or the standard library has.
fn place(at: &Location<'_>) -> Option<String> {
    let here = file!().strip_suffix("error.rs")?;
    let is_users = !at.file().starts_with(here) && !at.file().starts_with("/rustc/");
    is_users.then(|| format!("at {at}"))
}

/// Numbers of the C library for WASI.
const DENIED: i32 = 2;
const NOT_FOUND: i32 = 44;
const NOT_PERMITTED: i32 = 63;

/// What to do about an error of the standard library that is an error only here.
fn advice(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if !cfg!(target_family = "wasm") {
        return None;
    }
    if error.is::<std::env::VarError>() {
        return Some(
            "orchestrators have no environment: hand over what it would say in the input; activities have the variables that sections \
             [hubs.NAME.environment] and [hubs.NAME.secrets] of the server's configuration give their task hub",
        );
    }
    let error: &std::io::Error = error.downcast_ref()?;
    match error.raw_os_error()? {
        NOT_FOUND => Some("functions have no files: hand over what would stand in them in the input"),
        DENIED | NOT_PERMITTED => Some(
            "functions have no sockets and no files: activities speak HTTP by `wasi:http`, as the crate `waki` does, and orchestrators by \
             `ctx.http`",
        ),
        _ => None,
    }
}

/// `text` as a JSON value.
fn json_text(text: &str) -> String {
    serde_json::to_string(text).expect("every str has a form in JSON")
}

/// `core::num::ParseIntError` is `ParseIntError`, `a::Failed<b::C>` is `Failed`.
fn short_type_name(path: &str) -> &str {
    let path = path.split('<').next().unwrap_or(path);
    path.rsplit("::").next().unwrap_or(path)
}

/// A source has lost its type, but a derived `Debug` starts with the name of the type or of its variant.
fn kind_of(error: &dyn std::error::Error) -> String {
    let debug = format!("{error:?}");
    let name = debug.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap_or_default();
    if name.is_empty() { "Error".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct OrderRefused {
        because: std::num::ParseIntError,
    }

    impl fmt::Display for OrderRefused {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the order was refused")
        }
    }

    impl std::error::Error for OrderRefused {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.because)
        }
    }

    fn refuse() -> Result<()> {
        let because = "two".parse::<u32>().unwrap_err();
        Err(OrderRefused { because })?;
        Ok(())
    }

    #[test]
    fn a_question_mark_keeps_type_message_and_causes() {
        let error = refuse().unwrap_err();
        assert_eq!((error.kind(), error.message()), ("OrderRefused", "the order was refused"));
        assert_eq!(error.causes().collect::<Vec<_>>(), [("ParseIntError", "invalid digit found in string")]);
        assert!(!error.is_non_retriable());
    }

    #[test]
    fn details_come_back_as_they_were() {
        let error = Error::new("OvenCold", "the oven is cold").with_details(&20).non_retriable();
        assert_eq!(error.details::<u32>(), Some(20));
        assert_eq!(error.details::<String>(), None);
        assert!(error.is_non_retriable());
    }

    #[test]
    fn a_cause_brings_its_own_causes() {
        let error = Error::new("BatchLost", "no bread today").caused_by(refuse().unwrap_err());
        let kinds: Vec<_> = error.causes().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, ["OrderRefused", "ParseIntError"]);
        assert_eq!(
            format!("{error:?}"),
            "BatchLost: no bread today\n  caused by OrderRefused: the order was refused\n  \
             caused by ParseIntError: invalid digit found in string"
        );
    }

    #[test]
    fn details_without_a_form_in_json_do_not_hide_the_failure() {
        let keyed_by_unit = std::collections::HashMap::from([(vec![1], 1)]);
        let error = Error::new("OvenCold", "the oven is cold").with_details(&keyed_by_unit);
        assert_eq!(error.details::<String>().unwrap(), "details without a form in JSON: key must be a string");
    }

    #[test]
    fn a_kind_is_a_type_name_without_path_and_parameters() {
        assert_eq!(short_type_name("core::num::ParseIntError"), "ParseIntError");
        assert_eq!(short_type_name("a::Failed<b::C<d::E>>"), "Failed");
        assert_eq!(short_type_name("Plain"), "Plain");
    }
}
