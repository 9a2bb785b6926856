//! Lines: each once, over replays, kills and executions that follow each other.

use super::{completed, forgetful, until};
use crate::support::{Setup, eventually};

#[test]
fn each_line_is_there_once_however_often_its_turn_is_replayed() {
    const LINES: u32 = 30;
    let mut server = Setup::limits(forgetful()).start();
    let ids = ["a", "b", "c"];
    for id in ids {
        server.start_as(id, "Chatter", &LINES.to_string());
    }
    until(&server, "a", "TaskCompleted", 10);
    server.kill();
    server.restart();
    for id in ids {
        completed(&server, id);
        assert_eq!(server.lines(id), (0..LINES).map(|number| format!("line {number}")).collect::<Vec<_>>(), "{id}");
    }
}

#[test]
fn each_line_of_each_execution_is_there_once() {
    const ROUNDS: u32 = 20;
    let mut server = Setup::limits(forgetful()).start();
    server.start_as("a", "Rounds", &format!("[{ROUNDS}, 0]"));
    eventually("some rounds", || (server.lines("a").len() >= 12).then_some(()));
    server.kill();
    server.restart();
    server.raise("a", "done", "null");
    completed(&server, "a");
    let expected: Vec<_> = (0..=ROUNDS).flat_map(|round| [format!("round {round}"), format!("round {round} is over")]).collect();
    assert_eq!(server.lines("a"), expected);
}

#[test]
fn macros_and_print_both_make_lines_with_their_levels() {
    let server = Setup::limits(forgetful()).start();
    server.start_as("a", "Talks", "");
    eventually("three lines", || (server.lines("a").len() == 3).then_some(()));
    server.raise("a", "done", "null");
    completed(&server, "a");
    let reply = server.get("/runtime/webhooks/durabletask/instances/a/logs").json();
    let lines = reply["lines"].as_array().expect("lines");
    let told: Vec<_> = lines.iter().map(|line| (line["level"].as_str().unwrap(), line["message"].as_str().unwrap())).collect();
    let expected = [("info", "first the mixing"), ("info", "the dough"), ("warn", "the oven is at 250 °C")];
    assert_eq!(told, expected);
}
