//! Which instances are there? A page of a list, and the token that leads to the next.

use hyper::{HeaderMap, StatusCode};
use jiff::Timestamp;

use super::description::{Answer, Body, Family, Header, Kind, Operation, Parameter};
use super::error::ApiError;
use super::history_view::Show;
use super::query::{Query, STATUSES};
use super::reply::Reply;
use super::status::{self, StatusPayload};
use crate::engine::{Hub, InstancePage};
use crate::store::{Filter, Position};

/// Where clients say how far they have come, and are told.
const TOKEN: &str = "x-ms-continuation-token";

/// How many instances a page has if the client does not say.
const TOP: usize = 100;

/// The most instances that a page has, whatever the client says: each is two reads.
const TOP_MAX: usize = 1_000;

/// What a client wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListCall {
    filter: Filter,
    after: Option<Position>,
    top: usize,
    show_input: bool,
}

impl ListCall {
    /// Reads it from query and headers.
    ///
    /// # Errors
    /// 400 if the token is none of ours, or what is to be a label can be none.
    pub(super) fn of(query: &Query, headers: &HeaderMap) -> Result<Self, ApiError> {
        let filter = Filter {
            created_from_ms: query.time("createdTimeFrom").map(Timestamp::as_millisecond),
            created_to_ms: query.time("createdTimeTo").map(Timestamp::as_millisecond),
            statuses: query.statuses("runtimeStatus"),
            tags: query.tags().map_err(ApiError::bad_argument)?,
            id_prefix: query.text("instanceIdPrefix").unwrap_or_default().to_owned(),
        };
        let top = query.integer("top").and_then(|top| usize::try_from(top).ok()).filter(|top| *top > 0);
        let token = headers.get(TOKEN).map(|token| token.as_bytes()).filter(|token| !token.is_empty());
        let unreadable = || ApiError::bad_argument(format_args!("{TOKEN} must be one that this server gave out, or be left out"));
        let after = token.map(|token| position(token).ok_or_else(unreadable));
        let show_input = query.flag("showInput").unwrap_or(true);
        Ok(Self { filter, after: after.transpose()?, top: top.unwrap_or(TOP).min(TOP_MAX), show_input })
    }
}

pub(super) static LIST: Operation = Operation {
    summary: "List instances",
    family: Family::Contract,
    takes: &[
        Parameter::query("createdTimeFrom", Kind::Time, "Created at this time or later."),
        Parameter::query("createdTimeTo", Kind::Time, "Created at this time or earlier."),
        Parameter::query("runtimeStatus", Kind::SomeOf(&STATUSES), "In one of these states."),
        Parameter::query("instanceIdPrefix", Kind::Text, "With an ID that begins so."),
        Parameter::query("tags", Kind::Labels, "With all of these labels, `tag.NAME=VALUE` each."),
        Parameter::query("top", Kind::Whole, "How many on a page: 100 by default, 1000 at most."),
        status::SHOW_INPUT,
        Parameter::header(
            TOKEN,
            Kind::Matching("^([0-9a-f]{2})*$", 4_096),
            "What the page before gave; without it the first page.",
        ),
    ],
    body: Body::None,
    answers: &[
        Answer::json::<Vec<StatusPayload<'static>>>(200, "A page; none are on it if nothing matches.")
            .with(&[Header::ContinuationToken]),
        Answer::long(400, "The token is none of this server, or a label can be none."),
    ],
};

/// `GET {prefix}/instances`: a page of the instances of a hub, and in the header `x-ms-continuation-token` what leads to the next; empty
/// at the end.
///
/// With `tag.NAME=VALUE`, only those that have this label; with several, only those that have all of them.
///
/// 200 whatever the states are, with an empty list for an unknown hub. 400 for a token that is none of ours, a label that can be none, an
/// ill-formed hub name or an unknown connection.
pub(super) async fn list(hub: Option<&Hub>, call: ListCall) -> Result<Reply, ApiError> {
    let ListCall { filter, after, top, show_input } = call;
    let page = match hub {
        Some(hub) => hub.list(filter, after, top, show_input).await.map_err(ApiError::internal)?,
        None => InstancePage { instances: Vec::new(), next: None },
    };
    // A page may have megabytes, so it is printed where no other request waits for the thread.
    let printed = tokio::task::spawn_blocking(move || reply(&page, show_input)).await;
    Ok(printed.expect("a panic goes on here, and the answer is 500"))
}

fn reply(page: &InstancePage, show_input: bool) -> Reply {
    let show = Show { input: show_input, output: false };
    let payloads: Vec<_> = page.instances.iter().map(|view| StatusPayload::of(view, show)).collect();
    let token = page.next.as_ref().map(token).unwrap_or_default();
    Reply::json(StatusCode::OK, &payloads).continuation_token(&token)
}

/// A place in a list, as clients hand it back. Hex digits, since an ID may hold what a header may not.
fn token(position: &Position) -> String {
    hex::encode(format!("{} {}", position.created_ms, position.id))
}

fn position(token: &[u8]) -> Option<Position> {
    let text = String::from_utf8(hex::decode(token).ok()?).ok()?;
    let (created_ms, id) = text.split_once(' ')?;
    Some(Position { created_ms: created_ms.parse().ok()?, id: id.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RuntimeStatus, Tags};

    fn call(query: &str, token: &str) -> Result<ListCall, String> {
        let mut headers = HeaderMap::new();
        headers.insert(TOKEN, token.parse().unwrap());
        ListCall::of(&Query::parse(query), &headers).map_err(|error| error.into_reply().shown())
    }

    #[test]
    fn a_call_is_read_from_the_query_with_the_contracts_defaults() {
        let nothing = ListCall { filter: Filter::default(), after: None, top: 100, show_input: true };
        assert_eq!(call("", "").unwrap(), nothing);
        assert_eq!(
            call("createdTimeFrom=x&createdTimeTo=&runtimeStatus=x&instanceIdPrefix=&showInput=1&top=x", "").unwrap(),
            nothing
        );
        let filter = Filter {
            created_from_ms: Some(1_500),
            created_to_ms: Some(-1_000),
            statuses: Some(vec![RuntimeStatus::Failed]),
            tags: Tags::new([("shop".to_owned(), "north".to_owned()), ("kind".to_owned(), "rye".to_owned())]).unwrap(),
            id_prefix: "Loaf".into(),
        };
        let query = "createdTimeFrom=1970-01-01T00:00:01.5Z&createdTimeTo=1969-12-31T23:59:59Z&RUNTIMESTATUS=failed&instanceIdPrefix=Loaf\
                     &showInput=False&top=7&tag.shop=north&Tag.kind=rye";
        assert_eq!(call(query, "").unwrap(), ListCall { filter, after: None, top: 7, show_input: false });
        for (top, expected) in
            [("0", 100), ("-5", 100), ("1", 1), ("1000", 1_000), ("1001", 1_000), ("99999999999999999999", 100)]
        {
            assert_eq!(call(&format!("top={top}"), "").unwrap().top, expected, "{top}");
        }
    }

    #[test]
    fn a_label_that_can_be_none_is_400() {
        for bad in ["tag.=1", "tag.a%20b=1", "tag.shop=a&tag.shop=b"] {
            let refused = call(bad, "").unwrap_err();
            assert!(refused.starts_with("400  {\"Message\":\"One or more"), "{bad}: {refused}");
        }
    }

    #[test]
    fn a_token_leads_back_to_its_place_and_any_other_is_400() {
        for id in ["loaf-17", "a b", "Ünïcode:x", &"é".repeat(256)] {
            let place = Position { created_ms: 1_772_352_000_999, id: id.parse().unwrap() };
            let token = token(&place);
            assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(call("", &token).unwrap().after, Some(place));
        }
        for bad in ["x", "00", "3120", &hex::encode("x a"), &hex::encode("1 a/b"), &hex::encode("1a"), "616"] {
            let refused = call("", bad).unwrap_err();
            assert!(refused.starts_with("400  {\"Message\":\"One or more"), "{bad}: {refused}");
        }
    }
}
