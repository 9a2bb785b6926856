//! What does a client learn when something went wrong, and what stays with us?
//!
//! The wire contract has three forms: no body, the short object and the long one; where the contract does not reach, errors are
//! `{"error":{"code","message"}}`. The cause of a failure of ours is logged in full, and the client gets the number under which.

use std::fmt::Display;

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::reply::Reply;
use crate::model::{Failure, Payload};
use crate::store::StoreError;
use crate::store::group::Refusal;

/// How long a client should wait before it tries again what we had no room for, in seconds.
const RETRY_AFTER_S: u32 = 1;

/// An error as a client gets it.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    form: Form,
    retry_after_s: Option<u32>,
    allow: Option<String>,
}

/// What an error's body looks like.
#[derive(Debug)]
enum Form {
    Empty,
    Text { message: String },
    Short { message: String },
    Long { message: &'static str, kind: &'static str, detail: String },
    Ours { code: &'static str, message: String, failure: Option<Failure> },
}

/// The long form. Client libraries read `ExceptionMessage` of a refused start without asking whether it is there.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
#[schemars(rename = "LongError")]
pub(super) struct Long<'a> {
    message: &'a str,
    exception_message: &'a str,
    exception_type: &'a str,
    stack_trace: Option<&'a str>,
}

/// The short form.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
#[schemars(rename = "ShortError")]
pub(super) struct Short<'a> {
    message: &'a str,
}

/// The form of errors outside the wire contract.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(super) struct Ours<'a> {
    error: OursInner<'a>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct OursInner<'a> {
    /// For programs; never changes.
    code: &'a str,
    /// For people.
    message: &'a str,
    /// Of a guest's failure: which kind it is, in the guest's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    /// Of a guest's failure: what the guest added.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    details: Option<&'a Payload>,
}

impl ApiError {
    /// Nothing but the status.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, form: Form::Empty, retry_after_s: None, allow: None }
    }

    /// 405 with the methods that are understood.
    pub(super) fn method_not_allowed(allow: String) -> Self {
        Self { allow: Some(allow), ..Self::empty(StatusCode::METHOD_NOT_ALLOWED) }
    }

    /// 400, long form: a parameter or a name breaks its rules.
    pub(super) fn bad_argument(detail: impl Display) -> Self {
        let message = "One or more of the arguments submitted is incorrect";
        Self::long(StatusCode::BAD_REQUEST, message, "InvalidArgument", detail)
    }

    /// 400, long form: what is to be restarted is not there.
    pub(super) fn unknown_instance(detail: impl Display) -> Self {
        let message = "InstanceId does not match a valid orchestration instance.";
        Self::long(StatusCode::BAD_REQUEST, message, "UnknownInstance", detail)
    }

    /// The same in the long form, if it is in the short one.
    pub(super) fn in_long_form(self) -> Self {
        match self.form {
            Form::Short { message } | Form::Ours { message, .. } => {
                Self { form: Form::Long { message: "The request was refused", kind: "Refused", detail: message }, ..self }
            }
            _ => self,
        }
    }

    /// 400, long form: the body is not JSON.
    pub(super) fn bad_json(detail: impl Display) -> Self {
        Self::long(StatusCode::BAD_REQUEST, "Invalid JSON content", "InvalidJson", detail)
    }

    /// 400, short form: the body is announced as something else than it has to be.
    pub(super) fn bad_content_type(message: impl Display) -> Self {
        Self { form: Form::Short { message: message.to_string() }, ..Self::empty(StatusCode::BAD_REQUEST) }
    }

    /// A body that is one text.
    pub(super) fn text(status: StatusCode, message: impl Display) -> Self {
        Self { form: Form::Text { message: message.to_string() }, ..Self::empty(status) }
    }

    /// 500, long form, by its name in the original: the instance is not in a status in which that can be done.
    pub(super) fn invalid_operation(detail: impl Display) -> Self {
        let message = "The instance is not in a status in which that can be done";
        Self::long(StatusCode::INTERNAL_SERVER_ERROR, message, "System.InvalidOperationException", detail)
    }

    /// 409, short form.
    pub(super) fn conflict(message: impl Display) -> Self {
        Self { form: Form::Short { message: message.to_string() }, ..Self::empty(StatusCode::CONFLICT) }
    }

    /// 503, long form: to be tried again a moment later.
    pub(super) fn unavailable(detail: impl Display) -> Self {
        let error = Self::long(StatusCode::SERVICE_UNAVAILABLE, "The server cannot take this now", "Unavailable", detail);
        Self { retry_after_s: Some(RETRY_AFTER_S), ..error }
    }

    /// 503, long form: the store did not confirm what was asked. `advice` says what to make of that.
    pub(super) fn unconfirmed(cause: &StoreError, advice: &str) -> Self {
        match Refusal::of(cause) {
            Some(refusal) => Self::unavailable(format_args!("{advice}; {refusal}")), // The log and `/readyz` say so too.
            None => {
                let number = log_failure(cause);
                Self::unavailable(format_args!("{advice}; the server's log has the cause as request {number}"))
            }
        }
    }

    /// 500, long form: a failure of ours.
    pub(super) fn internal(cause: impl Display) -> Self {
        let detail = internal_message(cause);
        Self::long(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong in the server", "Internal", detail)
    }

    /// An error outside the wire contract. `code` is for programs and never changes.
    pub(super) fn ours(status: StatusCode, code: &'static str, message: impl Display) -> Self {
        Self { form: Form::Ours { code, message: message.to_string(), failure: None }, ..Self::empty(status) }
    }

    /// The same where a guest's failure is behind it: its kind and details go along.
    pub(super) fn ours_of_guest(status: StatusCode, code: &'static str, message: impl Display, failure: Failure) -> Self {
        let form = Form::Ours { code, message: message.to_string(), failure: Some(failure) };
        Self { form, ..Self::empty(status) }
    }

    /// 400 outside the wire contract.
    pub(super) fn ours_bad_request(message: impl Display) -> Self {
        Self::ours(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 503 outside the wire contract: to be tried again a moment later.
    pub(super) fn ours_unavailable(message: impl Display) -> Self {
        Self { retry_after_s: Some(RETRY_AFTER_S), ..Self::ours(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message) }
    }

    /// 503 outside the wire contract if the store takes no writes at all; else 500, a failure of ours.
    pub(super) fn ours_unconfirmed(cause: &StoreError, whole: impl Display) -> Self {
        Refusal::of(cause).map_or_else(|| Self::ours_internal(whole), Self::ours_unavailable)
    }

    /// 500 outside the wire contract: a failure of ours.
    pub(super) fn ours_internal(cause: impl Display) -> Self {
        Self::ours(StatusCode::INTERNAL_SERVER_ERROR, "internal", internal_message(cause))
    }

    /// The answer that says it.
    pub(super) fn into_reply(self) -> Reply {
        let mut reply = match &self.form {
            Form::Empty => Reply::empty(self.status),
            Form::Text { message } => Reply::json(self.status, message),
            Form::Short { message } => Reply::json(self.status, &Short { message }),
            Form::Long { message, kind, detail } => {
                let long = Long { message, exception_message: detail, exception_type: kind, stack_trace: None };
                Reply::json(self.status, &long)
            }
            Form::Ours { code, message, failure } => {
                let kind = failure.as_ref().map(|failure| failure.kind.as_str());
                let details = failure.as_ref().and_then(|failure| failure.details.as_ref());
                Reply::json(self.status, &Ours { error: OursInner { code, message, kind, details } })
            }
        };
        if let Some(seconds) = self.retry_after_s {
            reply = reply.retry_after_s(seconds);
        }
        if let Some(methods) = &self.allow {
            reply = reply.allow(methods);
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            reply = reply.close(); // The rest of the body may come yet and must not be read as the next request.
        }
        reply
    }

    fn long(status: StatusCode, message: &'static str, kind: &'static str, detail: impl Display) -> Self {
        Self { form: Form::Long { message, kind, detail: detail.to_string() }, ..Self::empty(status) }
    }
}

/// Logs `cause` under a new number and returns the number, which is all that a client gets of it.
pub(super) fn log_failure(cause: impl Display) -> String {
    let mut number = [0; 8];
    // Should the system have no randomness to give, the log line still stands, only under a number of zeros.
    let _ = getrandom::fill(&mut number);
    let number = hex::encode(number);
    tracing::error!(request = number, "{cause}");
    number
}

fn internal_message(cause: impl Display) -> String {
    format!("an internal error; the server's log has it as request {}", log_failure(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: ApiError, expected: &str) {
        assert_eq!(error.into_reply().shown(), expected);
    }

    #[test]
    fn errors_have_the_forms_of_the_contract() {
        check(ApiError::empty(StatusCode::NOT_FOUND), "404  ");
        check(ApiError::conflict("it is Running"), r#"409  {"Message":"it is Running"}"#);
        check(
            ApiError::bad_json("line 1"),
            r#"400  {"Message":"Invalid JSON content","ExceptionMessage":"line 1","ExceptionType":"InvalidJson","StackTrace":null}"#,
        );
        check(
            ApiError::ours(StatusCode::CONFLICT, "function_taken", "\"A\" is taken"),
            r#"409  {"error":{"code":"function_taken","message":"\"A\" is taken"}}"#,
        );
        let failure = Failure { details: Some(Payload::of(&20)), ..Failure::new("OvenCold", "it is cold") };
        check(
            ApiError::ours_of_guest(StatusCode::UNPROCESSABLE_ENTITY, "query_failed", failure.message.clone(), failure),
            r#"422  {"error":{"code":"query_failed","message":"it is cold","kind":"OvenCold","details":20}}"#,
        );
    }

    #[test]
    fn a_client_never_reads_the_cause_of_our_failure() {
        for error in [ApiError::internal("/var/secret"), ApiError::ours_internal("/var/secret")] {
            let shown = error.into_reply().shown();
            assert!(shown.starts_with("500 ") && shown.contains("as request ") && !shown.contains("secret"), "{shown}");
        }
    }
}
