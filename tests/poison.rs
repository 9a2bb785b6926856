//! What if a turn takes the server down, again and again? The server is killed from outside in the middle of the same turn: to the next life of
//! the server that looks alike.

use std::fs;

use dacapo::limits::Limits;
use serde_json::json;

use crate::support::{P3, Server, Setup, eventually};

/// A server on which a turn may loop for longer than the test takes.
fn patient() -> Server {
    Setup::limits(Limits { turn_cpu_ms_max: 600_000, ..Limits::default() }).start()
}

/// Waits until the code of an instance runs.
fn wait_until_it_runs(server: &Server, id: &str) {
    eventually("a turn", || (turn(server, id) == "running" && turns_in_flight(server) > 0).then_some(()));
}

/// How many guests run in a turn, as the page says that outlives the server: a slot of 64 bytes for each, behind one that says what it is.
fn turns_in_flight(server: &Server) -> usize {
    let page = fs::read(server.data().join("turns-in-flight")).expect("read the page");
    page.chunks(64).skip(1).filter(|slot| slot[..8] != [0; 8]).count()
}

/// What is in flight for an instance.
fn turn(server: &Server, id: &str) -> String {
    server.get(&format!("{P3}/instances/{id}/why")).json()["turn"].as_str().unwrap_or_default().to_owned()
}

fn kill_in_the_middle_of(server: &mut Server, id: &str) {
    wait_until_it_runs(server, id);
    server.kill();
    server.restart();
}

#[test]
fn an_instance_in_whose_turn_the_server_died_three_times_is_failed_and_others_go_on() {
    let mut server = patient();
    server.start_as("poison", "Loop", "");
    for death in 1..=3 {
        assert_eq!(server.output("Sequence", r#"{"count":3}"#), json!([0, 1, 2]), "after {death} deaths");
        kill_in_the_middle_of(&mut server, "poison");
    }
    let status = server.finished("poison");
    assert_eq!(status["runtimeStatus"], "Failed", "{status}");
    let why = status["output"].to_string();
    assert!(why.contains("the server died 3 times while it ran turn 1 of this instance"), "{why}");
    assert_eq!(server.output("Sequence", r#"{"count":3}"#), json!([0, 1, 2]));

    // An operator has it go on, and it is held to what others are held to.
    server.stop();
    server.restart_with(Limits { turn_cpu_ms_max: 50, ..Limits::default() });
    let reply = server.post(&format!("{P3}/instances/poison/rewind"), "");
    assert_eq!(reply.status, 202, "{reply}");
    let why = server.finished("poison")["output"].to_string();
    assert!(why.contains("limit turn_cpu_ms_max") && why.contains("tried 3 times"), "{why}");
}

#[test]
fn who_only_ran_beside_it_is_told_apart() {
    let mut server = patient();
    for id in ["one", "other"] {
        server.start_as(id, "Loop", "");
    }
    eventually("both turns", || (turns_in_flight(&server) == 2).then_some(()));
    server.kill();
    server.restart();
    // Both ran, so from now on they run one at a time, and each further death is that of the one that ran.
    let ids = ["one", "other"];
    let mut deaths = [1, 1];
    let (guilty, bystander) = loop {
        let is_set_aside = |id: &&str| server.status(id, "").text().contains("\"Failed\"");
        if let Some(at) = deaths.iter().position(|deaths| *deaths == 3) {
            eventually("the third death", || is_set_aside(&ids[at]).then_some(()));
            break (ids[at], ids[1 - at]);
        }
        let running = eventually("one of them", || ids.iter().position(|id| turn(&server, id) == "running"));
        assert_ne!(turn(&server, ids[1 - running]), "running");
        kill_in_the_middle_of(&mut server, ids[running]);
        deaths[running] += 1;
    };
    assert_eq!(server.finished(guilty)["runtimeStatus"], "Failed");
    wait_until_it_runs(&server, bystander);
    assert_eq!(server.post(&format!("{P3}/instances/{bystander}/terminate"), "").status, 202);
}

#[test]
fn kills_while_an_instance_gets_on_never_add_up() {
    let mut server = patient();
    server.start_as("steady", "Till", r#"{"left":6,"taken":[]}"#);
    for coin in 0..6 {
        server.raise("steady", "coin", &coin.to_string());
        server.kill();
        server.restart();
    }
    assert_eq!(server.finished("steady")["runtimeStatus"], "Completed");
}
