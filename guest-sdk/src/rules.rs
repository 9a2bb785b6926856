//! What may names, IDs, labels and statuses be? The host's own rules, here too: what breaks one is an error of the call that says it, to
//! be handled like any other, and not the end of the orchestration.

use crate::{Error, Result};

/// In characters.
const FUNCTION_MAX: usize = 256;

/// In bytes.
const EVENT_MAX: usize = 256;

/// In units of UTF-16.
const INSTANCE_ID_MAX: usize = 256;

const TAGS_MAX: usize = 16;

/// In bytes.
const TAG_NAME_MAX: usize = 64;

/// In bytes.
const TAG_VALUE_MAX: usize = 256;

/// In bytes of UTF-16.
const STATUS_MAX: usize = 16 << 10;

/// Checks the name of a function that is called; `role` says what it is.
pub(crate) fn check_function(role: &str, name: &str) -> Result<()> {
    let characters = name.chars().count();
    let message = || format!("the name of {role} has {characters} characters, and may have {FUNCTION_MAX}");
    check(characters <= FUNCTION_MAX, "LimitExceeded", message)
}

/// Checks the name of an event that is sent or waited for.
pub(crate) fn check_event(name: &str) -> Result<()> {
    let message = || format!("the name of an event has {} bytes, and may have 1 to {EVENT_MAX}", name.len());
    check((1..=EVENT_MAX).contains(&name.len()), "LimitExceeded", message)
}

/// Checks the ID of an instance that is started or sent something.
pub(crate) fn check_instance_id(id: &str) -> Result<()> {
    let refuse = |message: String| check(false, "InvalidInstanceId", || message);
    if id.is_empty() {
        return refuse("an instance ID must not be empty".to_owned());
    }
    if id.encode_utf16().count() > INSTANCE_ID_MAX {
        return refuse(format!("an instance ID may have at most {INSTANCE_ID_MAX} characters"));
    }
    if id.starts_with('@') {
        return refuse(format!("instance ID {id:?} must not start with '@', which is reserved for entities"));
    }
    match id.chars().find(|c| matches!(c, '/' | '\\' | '#' | '?') || c.is_control()) {
        Some(bad) => refuse(format!("instance ID {id:?} must not contain the character {bad:?}")),
        None => Ok(()),
    }
}

/// Checks the labels of an instance that is started.
pub(crate) fn check_tags(tags: &[(String, String)]) -> Result<()> {
    let refuse = |message: String| check(false, "InvalidTags", || message);
    if tags.len() > TAGS_MAX {
        return refuse(format!("an instance may have {TAGS_MAX} tags, and no more"));
    }
    for (name, value) in tags {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !(1..=TAG_NAME_MAX).contains(&name.len()) || !name.bytes().all(is_letter) {
            return refuse(format!("the name of tag {name:?} must be 1 to {TAG_NAME_MAX} letters, digits, '-', '_' or '.'"));
        }
        if value.len() > TAG_VALUE_MAX {
            return refuse(format!("the value of tag {name:?} has {} bytes, and may have {TAG_VALUE_MAX}", value.len()));
        }
    }
    Ok(())
}

/// Checks a custom status, as JSON.
pub(crate) fn check_status(json: &str) -> Result<()> {
    let bytes = 2 * json.encode_utf16().count();
    let message = || format!("the custom status has {bytes} bytes in UTF-16, and may have {STATUS_MAX}");
    check(bytes <= STATUS_MAX, "LimitExceeded", message)
}

/// Checks the length of what is handed over, in bytes; `what` says of what it is a part.
pub(crate) fn check_payload(bytes: usize, bytes_max: usize, what: impl FnOnce() -> String) -> Result<()> {
    let message = || format!("the payload of {} has {bytes} bytes, and may have {bytes_max} (limit payload_bytes_max)", what());
    check(bytes <= bytes_max, "LimitExceeded", message)
}

/// The bound on a payload, in bytes, as the host tells it in `begin`. None, if it does not.
pub(crate) fn payload_bytes_max(extensions: &[(String, String)]) -> usize {
    let told = extensions.iter().find(|(name, _)| name == "payload-bytes-max").and_then(|(_, json)| json.parse().ok());
    told.unwrap_or(usize::MAX)
}

/// Trying again cannot help.
fn check(is_right: bool, kind: &str, message: impl FnOnce() -> String) -> Result<()> {
    if is_right { Ok(()) } else { Err(Error::new(kind, message()).non_retriable()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bindings::exports::dacapo::guest::orchestrator::Start;
    use crate::executor::Executor;
    use crate::executor::tests::{check, describe, event};
    use crate::prelude::*;
    use crate::{ChildOptions, HttpRequest, StartOptions};

    #[test]
    fn what_breaks_a_rule_is_refused_with_the_rule() {
        let long = |length| "x".repeat(length);
        let tags = |count: usize, name: usize, value: usize| {
            let tag = |number| (format!("{number:0>name$}"), long(value));
            check_tags(&(0..count).map(tag).collect::<Vec<_>>())
        };
        let refused = |result: Result<()>| result.err().map_or_else(String::new, |error| error.to_string());
        for (result, expected) in [
            (check_function("an activity", &"ø".repeat(256)), ""),
            (check_function("an activity", &long(257)), "LimitExceeded: the name of an activity has 257 characters"),
            (check_event(&long(256)), ""),
            (check_event(&long(257)), "LimitExceeded: the name of an event has 257 bytes, and may have 1 to 256"),
            (check_event(""), "LimitExceeded: the name of an event has 0 bytes"),
            (check_instance_id(&"ø".repeat(256)), ""),
            (check_instance_id(&long(257)), "InvalidInstanceId: an instance ID may have at most 256"),
            (check_instance_id(""), "InvalidInstanceId: an instance ID must not be empty"),
            (check_instance_id("@loaf"), "InvalidInstanceId: instance ID \"@loaf\" must not start with '@'"),
            (check_instance_id("a/b"), "InvalidInstanceId: instance ID \"a/b\" must not contain the character '/'"),
            (check_instance_id("a\n"), "InvalidInstanceId: instance ID"),
            (tags(16, 64, 256), ""),
            (tags(17, 64, 0), "InvalidTags: an instance may have 16 tags"),
            (tags(1, 65, 0), "InvalidTags: the name of tag"),
            (tags(1, 1, 257), "InvalidTags: the value of tag \"0\" has 257 bytes, and may have 256"),
            (check_tags(&[("a b".to_owned(), String::new())]), "InvalidTags: the name of tag \"a b\" must be"),
            (check_tags(&[(String::new(), String::new())]), "InvalidTags: the name of tag \"\""),
            (check_status(&long(8_192)), ""),
            (check_status(&long(8_193)), "LimitExceeded: the custom status has 16386 bytes in UTF-16, and may have 16384"),
        ] {
            let seen = refused(result);
            assert!(seen.starts_with(expected) && seen.is_empty() == expected.is_empty(), "{seen:?} is not {expected:?}");
        }
    }

    #[test]
    fn what_is_longer_than_the_host_takes_is_an_error_that_can_be_handled() {
        #[orchestrator]
        async fn bake(_ctx: Context, _loaves: String) -> Result<()> {
            Ok(())
        }
        async fn greedy(ctx: Context) -> Result<Vec<bool>> {
            let (fits, long) = ("1".repeat(8), "1".repeat(9)); // And two quotes.
            let is_refused = |result: Result<()>| result.is_err_and(|error| error.kind() == "LimitExceeded");
            let mut refused = Vec::new();
            for text in [&fits, &long] {
                refused.push(is_refused(ctx.start_named("Bake", text).map(drop)));
                refused.push(is_refused(ctx.send_event("loaf", "ready", text)));
            }
            refused.push(is_refused(ctx.call_named("Weigh", &long).await));
            refused.push(is_refused(ctx.http(HttpRequest::get("http://a/")).await.map(drop)));
            refused.push(is_refused(ctx.continue_as_new(bake, long)));
            Ok(refused)
        }
        let start = Start {
            function: "bake".to_owned(),
            instance_id: "loaf".to_owned(),
            generation: "0".repeat(32),
            input: "null".to_owned(),
            parent: None,
            tags: vec![],
            extensions: vec![("other".to_owned(), "1".to_owned()), ("payload-bytes-max".to_owned(), "10".to_owned())],
        };
        let mut executor = Executor::new(start, |context, _| {
            let future = greedy(context);
            Box::pin(async move { Ok(serde_json::to_string(&future.await?)?) })
        });
        let said = describe(&[executor.advance(vec![event("turn 0")])]);
        assert!(said.ends_with("ended [false,false,true,true,true,true,true]"), "{said}");
    }

    /// What an orchestrator gets to know, and goes on: nothing of it reaches the host.
    #[test]
    fn what_breaks_a_rule_is_an_error_that_can_be_handled() {
        async fn clumsy(ctx: Context) -> Result<Vec<String>> {
            let long = "x".repeat(2_000);
            let thrice = RetryPolicy::new(Duration::from_secs(1), 3);
            let child = |options| ctx.call_orchestrator_named_with::<u32>("Bake", &1, options);
            let started = |options| ctx.start_named_with("Bake", &1, options);
            let errors = [
                child(ChildOptions::new().instance_id("a/b")).await.err(),
                child(ChildOptions::new().instance_id("").retry(thrice)).await.err(),
                child(ChildOptions::new().tag("a b", "")).await.err(),
                started(StartOptions::new().instance_id("@loaf")).err(),
                started(StartOptions::new().tag("a", &long)).err(),
                ctx.send_event("a?b", "ready", &1).err(),
                ctx.send_event("loaf", &long, &1).err(),
                ctx.event::<u32>("").await.err(),
                ctx.call_named::<u32>(&long, &1).await.err(),
                ctx.call_orchestrator_named::<u32>(&long, &1).await.err(),
                ctx.start_named(&long, &1).err(),
                ctx.set_custom_status(&long.repeat(5)).err(),
            ];
            Ok(errors.into_iter().map(|error| error.map_or("fine".to_owned(), |error| error.kind().to_owned())).collect())
        }
        let [id, tags, limit] = ["\"InvalidInstanceId\"", "\"InvalidTags\"", "\"LimitExceeded\""];
        let kinds = [id, id, tags, id, tags, id, limit, limit, limit, limit, limit, limit].join(",");
        check(clumsy, &[("turn 0", &format!("ended [{kinds}]"))]);
    }
}
