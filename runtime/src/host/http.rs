//! What comes of a durable HTTP request? One request, one answer of any status, or a failure that says whether to try again.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Uri};
use serde::Serialize;
use wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS;

use super::client::{Client, Patience, SendError};
use super::surroundings::Surroundings;
use super::text::{NAME_BYTES_MAX, TEXT_BYTES_MAX, cut};
use crate::limits::Limits;
use crate::model::{Failure, HttpCall, Outcome, Payload};

/// The answer as orchestrators read it.
#[derive(Serialize)]
struct Answer<'a> {
    status: u16,
    headers: Vec<(&'a str, String)>,
    body: &'a str,
}

/// Makes the request, within the time that it may take.
pub(super) async fn request(client: &Client, call: &HttpCall, surroundings: &Surroundings, limits: &Limits) -> Outcome {
    let limit_ms = call.timeout_ms.unwrap_or(limits.activity_ms_max).min(limits.activity_ms_max);
    let answered = tokio::time::timeout(Duration::from_millis(limit_ms), answer(client, call, surroundings, limits));
    let answered = answered.await.unwrap_or_else(|_| {
        let whose = if limit_ms == limits.activity_ms_max {
            " (limit activity_ms_max, section [limits] of the server's configuration)"
        } else {
            ""
        };
        Err(Failure::new("HttpTimeout", format!("{} took longer than {limit_ms} ms{whose}, and was given up", name(call))))
    });
    match answered {
        Ok(answer) => Outcome::Completed(answer),
        Err(failure) => Outcome::Failed(Failure { message: cut(failure.message, TEXT_BYTES_MAX), ..failure }),
    }
}

/// The request as messages name it. Without the query, which may have keys in it.
fn name(call: &HttpCall) -> String {
    let uri = call.uri.split(['?', '#']).next().unwrap_or_default();
    format!("{} {}", cut(call.method.clone(), NAME_BYTES_MAX), cut(uri.to_owned(), NAME_BYTES_MAX))
}

async fn answer(client: &Client, call: &HttpCall, surroundings: &Surroundings, limits: &Limits) -> Result<Payload, Failure> {
    let failed = |error: SendError| {
        let message = format!("{}: {error}", name(call));
        match error {
            SendError::Denied(_) => Failure::new("HttpDenied", message).non_retriable(),
            SendError::Method(_) | SendError::Uri(_) => Failure::new("InvalidRequest", message).non_retriable(),
            SendError::Timeout { .. } => Failure::new("HttpTimeout", message),
            SendError::Lookup { .. } | SendError::Connect { .. } | SendError::Tls { .. } | SendError::Exchange { .. } => {
                Failure::new("HttpFailed", message)
            }
        }
    };
    let bytes_max = limits.payload_bytes_max;
    let too_large = || {
        let message = format!(
            "{}: the answer has more than {bytes_max} bytes (limit payload_bytes_max): make this request in an activity, which can \
             read it piece by piece",
            name(call)
        );
        Failure::new("LimitExceeded", message).non_retriable()
    };

    let answer = client.send(&surroundings.network, prepared(call)?, Patience::default()).await.map_err(failed)?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, bytes_max).collect().await.map_err(|error| match error.downcast::<SendError>() {
        Ok(error) => failed(*error),
        Err(error) => {
            assert!(error.is::<LengthLimitError>(), "{error}");
            too_large()
        }
    })?;
    let bytes = body.to_bytes();
    let Ok(body) = std::str::from_utf8(&bytes) else {
        let message =
            format!("{}: the answer is not UTF-8 text: make this request in an activity, which can read bytes", name(call));
        return Err(Failure::new("NotText", message).non_retriable());
    };
    let headers = head.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    let answer = Payload::of(&Answer { status: head.status.as_u16(), headers, body });
    if answer.text().len() > bytes_max {
        return Err(too_large());
    }
    if let Some(secret) = surroundings.secrets.found_in(answer.text()) {
        let message = format!("{}: the answer has the secret {secret} in it, which must not stand in a history", name(call));
        return Err(Failure::new("SecretRevealed", message).non_retriable());
    }
    Ok(answer)
}

/// A value of a header field. Those that are not UTF-8 are what they were before that: ISO 8859-1.
fn text(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    std::str::from_utf8(bytes).map_or_else(|_| bytes.iter().map(|byte| char::from(*byte)).collect(), str::to_owned)
}

fn prepared(call: &HttpCall) -> Result<Request<Full<Bytes>>, Failure> {
    let invalid = |what: String| Failure::new("InvalidRequest", format!("{}: {what}", name(call))).non_retriable();
    let mut request = Request::new(Full::new(Bytes::from(call.body.clone().unwrap_or_default())));
    *request.method_mut() =
        Method::from_bytes(call.method.as_bytes()).map_err(|_| invalid("the method must be a word such as GET".into()))?;
    let uri = call.uri.split('#').next().unwrap_or_default(); // What follows is never sent.
    *request.uri_mut() = Uri::try_from(uri).map_err(|error| invalid(format!("the URI cannot be read: {error}")))?;
    let mut headers = HeaderMap::new();
    for (field, value) in &call.headers {
        let shown = cut(field.clone(), NAME_BYTES_MAX);
        let field = HeaderName::try_from(field).map_err(|_| invalid(format!("{shown:?} is no name of a header field")))?;
        if field == CONTENT_LENGTH || DEFAULT_FORBIDDEN_HEADERS.contains(&field) {
            return Err(invalid(format!("the header field {shown:?} is for the server to set")));
        }
        let value = HeaderValue::from_str(value).or_else(|_| HeaderValue::from_bytes(value.as_bytes()));
        let value =
            value.map_err(|_| invalid(format!("the value of the header field {shown:?} has characters that none may have")))?;
        headers.try_append(field, value).map_err(|_| invalid("there are too many header fields".into()))?;
    }
    *request.headers_mut() = headers;
    Ok(request)
}
