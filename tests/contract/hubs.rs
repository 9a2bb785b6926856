//! Task hubs: each a space of its own.

use crate::support::server::HUB;
use crate::support::{P3, Server, guests};

#[test]
fn an_unknown_hub_is_an_empty_one() {
    let server = Server::start();
    server.start_as("a", "Race", "");
    assert_eq!(server.get(&format!("{P3}/instances/a?taskHub=Bakery")).status, 404);
    let reply = server.get("/admin/modules?taskHub=Bakery");
    assert_eq!((reply.status, reply.text()), (200, "[]"));
    let reply = server.post(&format!("{P3}/orchestrators/Race/a?taskHub=Bakery"), "");
    assert_eq!(reply.status, 400, "nobody has this orchestrator there: {reply}");
}

#[test]
fn two_hubs_live_side_by_side() {
    let mut server = Server::start();
    server.upload("Bakery", "guests", guests::test_guests());
    let start = |hub: &str, input: &str| server.post(&format!("{P3}/orchestrators/Forever/a?taskHub={hub}"), input).status;
    assert_eq!((start(HUB, "1"), start("Bakery", "2"), start("Bakery", "3")), (202, 202, 409));
    server.stop();
    server.restart();
    let input = |query: &str| server.status("a", query).member("input");
    assert_eq!((input(""), input("taskHub=Bakery")), ("1".into(), "2".into()));
}

#[test]
fn a_hub_is_found_in_any_case_and_urls_name_it_as_it_was_called() {
    let server = Server::start();
    server.upload("Bakery", "guests", guests::test_guests());
    let reply = server.post(&format!("{P3}/orchestrators/Forever/a?TaskHub=bAKERY"), "");
    assert_eq!(reply.status, 202, "{reply}");
    assert!(reply.header("location").unwrap().contains("taskHub=bAKERY&"), "{reply}");
    assert_eq!(server.status("a", "taskhub=BAKERY").status, 202);
    assert_eq!(server.status("a", "").status, 404);
}

#[test]
fn a_function_of_another_hub_is_not_called() {
    let server = Server::empty();
    server.upload("Bakery", "guests", guests::test_guests());
    server.upload("Elsewhere", "hello", guests::hello_sequence());
    assert_eq!(server.post(&format!("{P3}/orchestrators/E1_HelloSequence?taskHub=Bakery"), "").status, 400);
    assert_eq!(server.post(&format!("{P3}/orchestrators/E1_HelloSequence?taskHub=Elsewhere&timeout=60"), "").status, 200);
}
