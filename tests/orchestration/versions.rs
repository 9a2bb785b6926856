//! Which code runs: of an execution, its children, its activities, and of other modules.

use dacapo::model::Digest;
use serde_json::json;

use super::{completed, until_status};
use crate::support::server::HUB;
use crate::support::{P3, Server, guests, wasm};

/// What the functions of the test guests say of their edition, and what those of another build say.
pub(crate) const EDITIONS: (&str, &str) = (
    "this is the edition of the test guests that was built first of all",
    "this is the edition of the test guests that was made out of that 1",
);

/// The test guests as they were built anew.
pub(crate) fn second_edition() -> Vec<u8> {
    wasm::reworded(guests::test_guests(), EDITIONS.0, EDITIONS.1)
}

#[test]
fn an_execution_and_its_children_stay_on_their_version_and_activities_take_the_current() {
    let (first, second) = EDITIONS;
    let mut server = Server::start();
    server.start_as("old", "Editions", "");
    until_status(&server, "old", "Running");
    server.upload(HUB, "guests", &second_edition());
    server.start_as("new", "Editions", "");
    until_status(&server, "new", "Running");
    server.kill();
    server.restart();
    for id in ["old", "new"] {
        server.raise(id, "go", "null");
    }
    assert_eq!(completed(&server, "old"), json!([first, second, first]));
    assert_eq!(completed(&server, "new"), json!([second, second, second]));
}

#[test]
fn an_activity_that_the_current_version_has_no_longer_runs_as_it_was() {
    let (first, _) = EDITIONS;
    let server = Server::start();
    server.start_as("old", "Editions", "");
    until_status(&server, "old", "Running");
    // The same name, other functions: the hub no longer has those of the test guests.
    server.upload(HUB, "guests", guests::hello_sequence());
    server.raise("old", "go", "null");
    assert_eq!(completed(&server, "old"), json!([first, first, first]));
    assert_eq!(server.post(&format!("{P3}/orchestrators/Editions"), "").status, 400, "nobody can start it any more");
}

#[test]
fn uploading_an_old_version_goes_back_to_it() {
    let (first, second) = EDITIONS;
    let server = Server::start();
    server.upload(HUB, "guests", &second_edition());
    assert_eq!(server.output("ChildEdition", ""), second);
    server.start_as("second", "Editions", "");
    until_status(&server, "second", "Running");
    server.upload(HUB, "guests", guests::test_guests());
    assert_eq!(server.output("ChildEdition", ""), first);
    server.raise("second", "go", "null");
    assert_eq!(completed(&server, "second"), json!([second, first, second]), "who runs stays where it was");
}

#[test]
fn functions_of_other_modules_are_the_current_ones() {
    let server = Server::start();
    server.upload(HUB, "hello", guests::hello_sequence());
    server.start_as("a", "CallOthers", "");
    until_status(&server, "a", "Running");
    let hello = wasm::reworded(guests::hello_sequence(), "Hello ", "Salut ");
    server.upload(HUB, "hello", &hello);
    server.raise("a", "go", "null");
    assert_eq!(completed(&server, "a"), json!(["Salut Oslo!", ["Salut Tokyo!", "Salut Seattle!", "Salut London!"]]));
}

#[test]
fn a_version_is_needed_as_long_as_a_child_runs_on_it() {
    let server = Server::start();
    let old = Digest::of(guests::test_guests());
    server.start_as("parent", "Leave", "\"child\"");
    until_status(&server, "child", "Running");
    server.upload(HUB, "guests", &second_edition());
    server.raise("parent", "leave", "null");
    assert_eq!(completed(&server, "parent"), "left");
    let url = format!("/admin/modules/guests/versions/{old}");
    let refused = server.send("DELETE", &url, b"");
    assert_eq!(refused.status, 409, "{refused}");
    let versions = server.get("/admin/modules/guests").json()["versions"].clone();
    let live: Vec<_> = versions.as_array().unwrap().iter().map(|it| it["liveInstances"].as_u64().unwrap()).collect();
    assert_eq!(live, [0, 1], "{versions}");
    server.raise("child", "item", "1");
    completed(&server, "child");
}
