//! Listing: filters, order, pages.

use super::PREFIXES;
use crate::support::{P3, Reply, Server, Setup, golden};

const TOKEN: &str = "x-ms-continuation-token";

fn ids(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{reply}");
    let list = reply.json();
    let ids = list.as_array().expect("a list").iter().map(|it| it["instanceId"].as_str().expect("text").to_owned());
    ids.collect()
}

fn list(server: &Server, query: &str) -> Vec<String> {
    ids(&server.get(&format!("{P3}/instances?{query}")))
}

/// Three instances, one after the other: completed, failed and running.
fn three() -> Server {
    let server = Server::start();
    server.start_as("done", "Sequence", r#"{"count": 2}"#);
    server.finished("done");
    server.start_as("broken", "FailActivity", "");
    server.finished("broken");
    server.start_as("busy", "Forever", "");
    server
}

#[test]
fn a_list_shows_each_instance_as_its_status_does_whatever_the_prefix() {
    let server = three();
    let reply = server.get(&format!("{P3}/instances?runtimeStatus=Completed,Failed&showHistory=true"));
    assert_eq!((reply.header(TOKEN), reply.header("content-type")), (Some(""), Some("application/json; charset=utf-8")));
    golden::check("list", reply.text(), &[]);
    for prefix in PREFIXES {
        assert_eq!(ids(&server.get(&format!("{prefix}/Instances/"))), ["done", "broken", "busy"], "{prefix}");
    }
    let first = &server.get(&format!("{P3}/instances")).json()[0];
    assert_eq!(*first, server.status("done", "").json());
}

#[test]
fn filters_are_combined_and_what_cannot_be_read_is_left_out() {
    let server = three();
    let created = |id: &str| server.status(id, "").json()["createdTime"].as_str().expect("text").to_owned();
    for (query, expected) in [
        ("runtimeStatus=Failed".to_owned(), "broken"),
        ("runtimeStatus=failed,RUNNING,Pending".into(), "broken busy"),
        ("runtimeStatus=Running&runtimeStatus=Pending&runtimeStatus=Completed".into(), "done busy"),
        ("runtimeStatus=1,3".into(), "done broken"),
        ("runtimeStatus=Baking".into(), "done broken busy"),
        ("runtimeStatus=Canceled".into(), ""),
        ("runtimeStatus=ContinuedAsNew,4".into(), ""),
        ("instanceIdPrefix=b".into(), "broken busy"),
        ("instanceIdPrefix=B".into(), ""),
        ("instanceIdPrefix=".into(), "done broken busy"),
        ("instanceIdPrefix=b&runtimeStatus=Completed,Failed".into(), "broken"),
        ("instanceIdPrefix=@".into(), ""),
        (format!("createdTimeFrom={}", created("done")), "done broken busy"),
        ("createdTimeFrom=2999-01-01T00:00:00Z".into(), ""),
        ("createdTimeFrom=yesterday".into(), "done broken busy"),
        ("createdTimeTo=2999-01-01T00:00:00.000000Z".into(), "done broken busy"),
        ("createdTimeTo=1-01-01T00:00:00".into(), ""),
        ("top=0".into(), "done broken busy"),
        ("top=-1".into(), "done broken busy"),
        ("top=2".into(), "done broken"),
        ("taskHub=Elsewhere".into(), ""),
    ] {
        assert_eq!(list(&server, &query).join(" "), expected, "{query}");
    }
}

#[test]
fn instances_are_found_by_all_of_their_tags() {
    let server = Server::start();
    for (id, prefix, tags) in [
        ("a", PREFIXES[0], "tag.shop=north&tag.kind=rye"),
        ("b", PREFIXES[1], "TAG.shop=north&tag.kind=wheat%20and%20rye"),
        ("c", PREFIXES[3], "tag.shop=south&tag.kind=rye"),
        ("d", "/api", "tag.Shop=north"),
        ("e", P3, ""),
    ] {
        let reply = server.post(&format!("{prefix}/orchestrators/Sequence/{id}?{tags}&timeout=60"), r#"{"count":0}"#);
        assert_eq!(reply.status, 200, "{id}: {reply}");
    }
    for (query, expected) in [
        ("tag.shop=north", "a b"),
        ("tag.shop=north&tag.kind=rye", "a"),
        ("tag.kind=rye&runtimeStatus=Completed", "a c"),
        ("tag.kind=wheat+and+rye", "b"),
        ("tag.kind=rye&instanceIdPrefix=c", "c"),
        ("tag.Shop=north", "d"),
        ("tag.shop=North", ""),
        ("tag.shop=", ""),
        ("tag.size=1", ""),
    ] {
        assert_eq!(list(&server, query).join(" "), expected, "{query}");
    }
    // A new instance under an old ID has its own tags.
    server.post(&format!("{P3}/orchestrators/Sequence/a?tag.kind=oat&timeout=60"), r#"{"count":0}"#);
    assert_eq!((list(&server, "tag.shop=north").join(" "), list(&server, "tag.kind=oat").join(" ")), ("b".into(), "a".into()));
}

#[test]
fn inputs_are_shown_unless_they_are_not_wanted() {
    let server = three();
    let inputs = |query: &str| {
        let list = server.get(&format!("{P3}/instances?runtimeStatus=Completed&{query}"));
        (list.json()[0]["input"].to_string(), list.json()[0]["output"].to_string())
    };
    assert_eq!(inputs(""), (r#"{"count":2}"#.into(), "[0,1]".into()));
    assert_eq!(inputs("showInput=False"), ("null".into(), "[0,1]".into()));
}

#[test]
fn the_token_leads_from_page_to_page_until_it_is_empty() {
    let server = Server::start();
    let mut expected: Vec<String> = (0..7).map(|n| format!("loaf {n}:é")).collect();
    for id in &expected {
        server.start_as(&id.replace(' ', "+").replace('é', "%C3%A9"), "Race", "");
    }
    server.start_as("other", "Race", "");
    for (query, count) in [("top=3", 8), ("top=3&instanceIdPrefix=loaf", 7), ("top=1&showInput=false", 8), ("", 8), ("top=8", 8)]
    {
        let (mut token, mut seen) = (String::new(), Vec::new());
        loop {
            let reply = server.with_header(TOKEN, &token).get(&format!("{P3}/instances?{query}"));
            seen.extend(ids(&reply));
            token = reply.header(TOKEN).expect("it is always there").to_owned();
            if token.is_empty() {
                break;
            }
            assert!(token.bytes().all(|byte| byte.is_ascii_graphic()), "{token}");
        }
        if count == 8 {
            expected.push("other".into());
        }
        assert_eq!(seen, expected, "{query}");
        expected.truncate(7);
    }
}

#[test]
fn what_is_wrong_with_a_list_is_400_and_without_a_key_it_is_401() {
    let server = Server::start();
    for (token, query) in [("junk", ""), ("", "taskHub=x"), ("", "connection=Elsewhere"), ("", "tag.=1"), ("", "tag.a=1&tag.a=2")]
    {
        let reply = server.with_header(TOKEN, token).get(&format!("{P3}/instances?{query}"));
        assert_eq!((reply.status, reply.keys()[0].as_str()), (400, "Message"), "{token} {query}: {reply}");
    }
    let server = Setup { keys: true, ..Setup::default() }.start();
    let system = server.key("system");
    let stranger = crate::support::Client::new(&server.origin);
    let reply = stranger.get(&format!("{P3}/instances"));
    assert_eq!((reply.status, reply.text()), (401, ""));
    assert_eq!(ids(&stranger.get(&format!("{P3}/instances?code={system}"))), [""; 0]);
}
