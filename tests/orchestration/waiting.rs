//! Waiting for the first, for all, and for very many; and what becomes of what nobody waits for any more.

use serde_json::json;

use super::{completed, forgetful, history, of_type, once, seen, until, until_status};
use crate::support::{Server, Service, Setup, eventually};

/// The timer that was dropped would be due while a later one of somebody else fires; then it must not have fired.
#[test]
fn a_timer_that_lost_never_fires_after_a_crash() {
    let mut server = Server::start();
    server.start_as("race", "RaceTimer", "1200");
    until_status(&server, "race", "Running");
    server.raise("race", "go", "null");
    once(&server, "race", "the end of the timer", |status| of_type(status, "TimerCreated").is_empty());
    server.kill();
    server.restart();
    server.start_as("later", "Sleeper", "1300");
    assert_eq!(completed(&server, "later"), true);
    let status = seen(&server, "race");
    assert_eq!((&status["runtimeStatus"], history(&status).len()), (&json!("Running"), 2), "{status}");
    server.raise("race", "done", "null");
    assert_eq!(completed(&server, "race"), "event");
    assert!(of_type(&server.finished("race"), "TimerFired").is_empty());
}

#[test]
fn a_timer_that_won_stays_won() {
    let mut server = Setup::limits(forgetful()).start();
    server.start_as("race", "RaceTimer", "5");
    until(&server, "race", "TimerFired", 1);
    server.raise("race", "go", "null");
    server.kill();
    server.restart();
    server.raise("race", "done", "null");
    assert_eq!(completed(&server, "race"), "timer");
}

#[test]
fn an_activity_that_lost_is_told_to_stop() {
    let service = Service::holding();
    let server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    server.start_as("race", "RaceActivity", &json!(["Fetch", service.url("/slow")]).to_string());
    eventually("the request", || (service.waiting() == ["/slow"]).then_some(()));
    server.raise("race", "go", "null");
    eventually("the end of the request", || (service.gone() == ["/slow"]).then_some(()));
    eventually("the end of the activity", || (server.metric("dacapo_activities_running") == 0.0).then_some(()));
    assert_eq!(seen(&server, "race")["runtimeStatus"], "Running");
    server.raise("race", "done", "null");
    assert_eq!(completed(&server, "race"), "event");
    assert_eq!(service.seen(), ["/slow"]);
}

#[test]
fn an_activity_that_only_computes_is_told_to_stop_too() {
    let server = Server::start();
    server.start_as("race", "RaceActivity", r#"["LoopActivity", ""]"#);
    eventually("the activity", || (server.metric("dacapo_activities_running") == 1.0).then_some(()));
    server.raise("race", "go", "null");
    eventually("the end of the activity", || (server.metric("dacapo_activities_running") == 0.0).then_some(()));
    server.raise("race", "done", "null");
    assert_eq!(completed(&server, "race"), "event");
}

#[test]
fn an_activity_that_was_dropped_does_not_run_again_after_a_crash() {
    let service = Service::holding();
    let mut server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    server.start_as("race", "RaceActivity", &json!(["Fetch", service.url("/slow")]).to_string());
    eventually("the request", || (service.waiting() == ["/slow"]).then_some(()));
    server.raise("race", "go", "null");
    eventually("the end of the request", || (service.gone() == ["/slow"]).then_some(()));
    server.kill();
    server.restart();
    server.raise("race", "done", "null");
    assert_eq!(completed(&server, "race"), "event");
    assert_eq!(service.seen(), ["/slow"], "one request, no other");
}

#[test]
fn all_of_an_activity_a_timer_and_an_event_are_waited_for() {
    let mut server = Setup::limits(forgetful()).start();
    for id in ["a", "b"] {
        server.start_as(id, "WaitForAll", "");
    }
    server.raise("a", "word", "\"early\"");
    until(&server, "b", "TimerFired", 1);
    until(&server, "b", "TaskCompleted", 1);
    server.kill();
    server.restart();
    server.raise("b", "word", "\"late\"");
    assert_eq!((completed(&server, "a"), completed(&server, "b")), (json!([7, "early"]), json!([7, "late"])));
}

#[test]
fn the_first_of_many_is_taken_and_the_others_are_dropped() {
    let server = Server::start();
    for (number, name) in ["red", "GREEN", "blue"].into_iter().enumerate() {
        server.start_as(name, "WaitForAny", "");
        server.raise(name, "unrelated", "0");
        server.raise(name, name, "5");
        assert_eq!(completed(&server, name), json!([number, 5]));
    }
}

#[test]
fn the_newest_wait_gets_the_oldest_event() {
    let server = Server::start();
    server.start_as("a", "WaitTwice", "");
    until_status(&server, "a", "Running");
    for event in ["1", "2"] {
        server.raise("a", "Item", event);
    }
    assert_eq!(completed(&server, "a"), json!([2, 1]));
}

/// The same work per task, however many there are. How many answers share a commit depends on the machine, so what is written is
/// held against the number of commits, of which there are at most as many as tasks, and against the length of the history.
#[test]
fn a_fan_out_is_linear_in_history_and_in_bytes_written() {
    const WIDTHS: [u32; 3] = [100, 1_000, 10_000];
    /// A commit changes a few pages of 4 KiB, however much has been written before it.
    const COMMIT_BYTES_MAX: f64 = 8.0 * 4_120.0;
    let per_task = WIDTHS.map(|width| {
        let server = Server::start();
        let figures = || ["dacapo_store_wal_bytes", "dacapo_commits_total"].map(|name| server.metric(name));
        let before = figures();
        server.start_as("wide", "FanOutTexts", &width.to_string());
        assert_eq!(completed(&server, "wide"), width);
        let after = figures();
        let [written, commits] = [after[0] - before[0], after[1] - before[1]];
        let status = server.finished("wide");
        assert_eq!((history(&status).len() as u32, of_type(&status, "TaskCompleted").len() as u32), (width + 2, width));
        let told = status["historyEvents"].to_string().len() as f64;
        println!("{width} wide: {told} bytes of history, {written} bytes written in {commits} commits");
        assert!(commits <= f64::from(width) + 10.0, "{width} wide: {commits} commits");
        assert!(written <= 3.0 * told + COMMIT_BYTES_MAX * commits, "{width} wide: {written} bytes in {commits} commits");
        told / f64::from(width)
    });
    for (width, told) in WIDTHS.into_iter().zip(per_task) {
        assert!((told / per_task[2] - 1.0).abs() < 0.2, "{width} wide: {told} bytes of history for each task, {per_task:?}");
    }
}

#[test]
fn a_fan_out_of_a_thousand_is_killed_and_goes_on_while_nothing_stays_in_memory() {
    let mut server = Setup::limits(forgetful()).start();
    server.start_as("wide", "FanOutTexts", "1000");
    until(&server, "wide", "TaskCompleted", 1);
    server.kill();
    server.restart();
    assert_eq!(completed(&server, "wide"), 1_000);
    assert_eq!(of_type(&server.finished("wide"), "TaskCompleted").len(), 1_000);
}

/// So large an input is not kept in memory while its orchestration waits.
#[test]
fn who_has_a_large_input_hears_events_too() {
    let server = Server::start();
    let coin = "x".repeat(20_000);
    server.start_as("till", "Till", &json!({"left": 2, "taken": [coin]}).to_string());
    until_status(&server, "till", "Running");
    server.raise("till", "coin", "1");
    server.raise("till", "coin", "2");
    assert_eq!(completed(&server, "till"), json!([coin, 1, 2]));
    server.start_as("terminated", "Till", &json!({"left": 1, "taken": [coin]}).to_string());
    until_status(&server, "terminated", "Running");
    let reply = server.post("/runtime/webhooks/durabletask/instances/terminated/terminate", "");
    assert_eq!(reply.status, 202, "{reply}");
    assert_eq!(server.finished("terminated")["runtimeStatus"], "Terminated");
}
