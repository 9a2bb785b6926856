//! What comes of a durable HTTP request? One request, one answer of any status, or a failure that says whether to try again.

use std::borrow::Cow;
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
    let (limit_ms, whose) = limits.activity_ms(call.timeout_ms);
    let answered = tokio::time::timeout(Duration::from_millis(limit_ms), answer(client, call, surroundings, limits));
    let answered = answered.await.unwrap_or_else(|_| {
        Err(Failure::new("HttpTimeout", format!("{} took longer than {limit_ms} ms ({whose}), and was given up", name(call))))
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
            SendError::Crowded { .. }
            | SendError::Lookup { .. }
            | SendError::Connect { .. }
            | SendError::Tls { .. }
            | SendError::Exchange { .. } => Failure::new("HttpFailed", message),
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

    let answer = client.send(&surroundings.network, prepared(call, surroundings)?, Patience::default()).await.map_err(failed)?;
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

fn prepared(call: &HttpCall, surroundings: &Surroundings) -> Result<Request<Full<Bytes>>, Failure> {
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
        let value = filled(value, surroundings).map_err(invalid)?;
        let value = HeaderValue::from_str(&value).or_else(|_| HeaderValue::from_bytes(value.as_bytes()));
        let value =
            value.map_err(|_| invalid(format!("the value of the header field {shown:?} has characters that none may have")))?;
        headers.try_append(field, value).map_err(|_| invalid("there are too many header fields".into()))?;
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// The value of a header field, with the hub's secrets in place of `{{secret NAME}}`. What comes out stands in no message.
fn filled<'a>(value: &'a str, surroundings: &Surroundings) -> Result<Cow<'a, str>, String> {
    const OPEN: &str = "{{secret ";
    let mut filled = Cow::Borrowed("");
    let mut rest = value;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let Some((name, after)) = after.split_once("}}") else { break };
        let name = name.trim();
        let secret = surroundings.secrets.variables().find(|(known, _)| *known == name).map(|(_, secret)| secret);
        let secret = secret.ok_or_else(|| {
            let hub = surroundings.network.hub();
            let name = cut(name.to_owned(), NAME_BYTES_MAX);
            format!("there is no secret {name:?}: put it into section [hubs.{hub}.secrets] of the server's configuration")
        })?;
        filled.to_mut().push_str(before);
        filled.to_mut().push_str(secret);
        rest = after;
    }
    if rest.len() == value.len() {
        return Ok(Cow::Borrowed(value));
    }
    filled.to_mut().push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{client, server};
    use super::super::network::tests::policy;
    use super::super::secrets::Secrets;
    use super::*;

    fn surroundings(allow: &[&str]) -> Surroundings {
        let secrets = Secrets::new([("KEY".to_owned(), "rye-bread".to_owned())]);
        Surroundings { network: policy(allow), environment: Vec::new(), secrets, ..Surroundings::default() }
    }

    fn call(uri: &str) -> HttpCall {
        HttpCall { method: "GET".into(), uri: uri.into(), headers: Vec::new(), body: None, timeout_ms: None }
    }

    /// What comes of `call`: the answer, or the failure's kind, whether it is final, and its message.
    async fn made(call: &HttpCall, allow: &[&str]) -> String {
        let limits = Limits { payload_bytes_max: 1_000, ..Limits::default() };
        match request(&client(), call, &surroundings(allow), &limits).await {
            Outcome::Completed(answer) => answer.text().to_owned(),
            Outcome::Failed(failure) => {
                let again = if failure.non_retriable { "final" } else { "passing" };
                format!("{} ({again}): {}", failure.kind, failure.message)
            }
            Outcome::Fired => unreachable!("a request is no timer"),
        }
    }

    /// A server gives `answer`, and then goes, or never does: what comes of a request to it?
    async fn answered(answer: &str, goes: bool, timeout_ms: Option<u64>) -> String {
        let port = server(answer, goes).await;
        made(&HttpCall { timeout_ms, ..call(&format!("http://127.0.0.1:{port}/bread?key=1#top")) }, &["127.0.0.1"]).await
    }

    #[tokio::test]
    async fn any_status_is_an_answer_and_202_and_redirects_are_not_followed() {
        let accepted = "HTTP/1.1 202 Accepted\r\nLocation: /status/7\r\nretry-after: 3\r\nx: 1\r\nx: br\u{f8}d\r\ncontent-length: 4\r\n\r\nwait";
        let headers = r#"[["location","/status/7"],["retry-after","3"],["x","1"],["x","brød"],["content-length","4"]]"#;
        assert_eq!(answered(accepted, false, None).await, format!(r#"{{"status":202,"headers":{headers},"body":"wait"}}"#));
        let moved = "HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\n\r\n";
        assert_eq!(answered(moved, true, None).await, r#"{"status":302,"headers":[["location","http://10.0.0.1/"]],"body":""}"#);
        let broken = "HTTP/1.1 500 Broken\r\n\r\n\u{1f35e} \"";
        assert_eq!(answered(broken, true, None).await, r#"{"status":500,"headers":[],"body":"🍞 \""}"#);
    }

    #[tokio::test]
    async fn method_header_fields_and_body_are_sent_as_they_were_asked_for() {
        let port = server("HTTP/1.1 200 OK\r\n\r\n{request}", true).await;
        let headers =
            vec![("X-Kind".into(), "rye".into()), ("x-kind".into(), "brød".into()), ("User-Agent".into(), "baker".into())];
        let call = HttpCall {
            method: "BAKE".into(),
            headers,
            body: Some("flour".into()),
            ..call(&format!("http://127.0.0.1:{port}/a#b"))
        };
        let expected =
            format!("BAKE /a HTTP/1.1|x-kind: rye|x-kind: brød|user-agent: baker|host: 127.0.0.1:{port}|content-length: 5||");
        let answer = made(&call, &["127.0.0.1"]).await;
        assert!(answer.contains(&expected), "{answer}");
    }

    #[tokio::test]
    async fn a_secret_is_put_into_a_header_field_where_its_name_stands() {
        let with = |value: &str| HttpCall { headers: vec![("x-key".into(), value.into())], ..call("http://127.0.0.1:1/") };
        let sent = |value: &str| {
            let request = prepared(&with(value), &surroundings(&[])).map_err(|failure| failure.message)?;
            Ok::<_, String>(request.headers()["x-key"].to_str().unwrap().to_owned())
        };
        for (value, expected) in [
            ("{{secret KEY}}", "rye-bread"),
            ("a {{secret KEY}}, {{secret  KEY }}.", "a rye-bread, rye-bread."),
            ("{{secret KEY", "{{secret KEY"),
            ("{{secret}} {{KEY}} {secret KEY}", "{{secret}} {{KEY}} {secret KEY}"),
        ] {
            assert_eq!(sent(value).unwrap(), expected, "{value}");
        }
        for name in ["OTHER", "key", ""] {
            let refused = sent(&format!("{{{{secret {name}}}}}")).unwrap_err();
            assert!(refused.contains(&format!("no secret {name:?}")) && refused.contains("[hubs.Bakery.secrets]"), "{refused}");
        }
        // Whoever tells it back puts it into no history.
        let port = server("HTTP/1.1 200 OK\r\n\r\n{request}", true).await;
        let told = HttpCall { uri: format!("http://127.0.0.1:{port}/"), ..with("{{secret KEY}}") };
        let said = made(&told, &["127.0.0.1"]).await;
        assert!(said.starts_with("SecretRevealed") && !said.contains("rye"), "{said}");
    }

    #[tokio::test]
    async fn an_answer_that_no_history_can_hold_is_a_failure_that_says_what_to_do() {
        let declared = format!("HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n{}", "x".repeat(1_001));
        let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(100_000));
        let escaped = format!("HTTP/1.1 200 OK\r\n\r\n{}", "\n".repeat(600)); // Twice as long in JSON.
        for (answer, goes) in [(declared, false), (endless, false), (escaped, true)] {
            let said = answered(&answer, goes, Some(10_000)).await;
            assert!(
                said.starts_with("LimitExceeded (final): GET http://127.0.0.1:") && said.contains("payload_bytes_max"),
                "{said}"
            );
            assert!(!said.contains("key=1"), "{said}");
        }
        let said = answered("HTTP/1.1 200 OK\r\n\r\nyour key is rye-bread", true, None).await;
        assert!(said.starts_with("SecretRevealed (final)") && said.contains("the secret KEY") && !said.contains("rye"), "{said}");
    }

    #[tokio::test]
    async fn an_answer_that_is_no_text_is_a_failure() {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe").await.unwrap();
            std::future::pending::<()>().await;
        });
        let said = made(&call(&uri), &["127.0.0.1"]).await;
        assert!(said.starts_with("NotText (final)") && said.contains("make this request in an activity"), "{said}");
    }

    #[tokio::test]
    async fn what_may_pass_is_retriable_and_what_is_wrong_is_not() {
        let late = answered("", false, Some(50)).await;
        assert!(
            late.starts_with("HttpTimeout (passing)")
                && late.ends_with("/bread took longer than 50 ms (the timeout of its call), and was given up"),
            "{late}"
        );
        let broke = answered("", true, None).await;
        assert!(broke.starts_with("HttpFailed (passing)"), "{broke}");
        let denied = made(&call("http://169.254.169.254/latest"), &["*"]).await;
        assert!(denied.starts_with("HttpDenied (final)") && denied.contains("[hubs.Bakery.network]"), "{denied}");

        let with =
            |field: &str, value: &str| HttpCall { headers: vec![(field.into(), value.into())], ..call("http://127.0.0.1:1/") };
        for (wrong, expected) in [
            (HttpCall { method: "G E T".into(), ..call("http://127.0.0.1:1/") }, "the method must be a word"),
            (HttpCall { method: "CONNECT".into(), ..call("http://127.0.0.1:1/") }, "the method CONNECT is not offered"),
            (call("not a URI"), "the URI cannot be read"),
            (call("http://"), "the URI cannot be read"),
            (call("/bread"), "the URI must start with http"),
            (call("http://rye:bread@127.0.0.1:1/"), "user name"),
            (with("a b", "1"), "no name of a header field"),
            (with("a", "1\r\nb: 2"), "has characters that none may have"),
            (with("Host", "10.0.0.1"), "\"Host\" is for the server to set"),
            (with("Content-Length", "7"), "is for the server to set"),
            (with("Transfer-Encoding", "chunked"), "is for the server to set"),
        ] {
            let said = made(&wrong, &["127.0.0.1"]).await;
            assert!(said.starts_with("InvalidRequest (final): ") && said.contains(expected), "{said}");
        }
    }
}
