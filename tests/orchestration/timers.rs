//! Timers: for years, by the thousand, and due while nobody was there.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{completed, forgetful, history, of_type, seen, until};
use crate::support::{P3, Server, Setup, eventually};

const YEAR_MS: u64 = 365 * 24 * 3_600_000;

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(since.as_millis()).expect("a time that fits")
}

/// A time of the history.
fn time(event: &Value, key: &str) -> Timestamp {
    event[key].as_str().unwrap_or_else(|| panic!("no {key} in {event}")).parse().expect("a time")
}

#[test]
fn a_sleeper_of_years_is_one_timer_over_restarts() {
    let mut server = Setup::limits(forgetful()).start();
    server.start_as("long", "Sleeper", &(100 * YEAR_MS).to_string());
    let before = until(&server, "long", "TimerCreated", 1);
    let timer = of_type(&before, "TimerCreated")[0];
    let sleeps = time(timer, "FireAt").as_millisecond() - time(timer, "Timestamp").as_millisecond();
    assert_eq!(u64::try_from(sleeps), Ok(100 * YEAR_MS));
    server.kill();
    server.restart();
    assert_eq!(server.output("Sleeper", "20"), true, "others go on");
    let after = seen(&server, "long");
    assert_eq!((&after, &after["runtimeStatus"]), (&before, &json!("Running")));
    assert_eq!(server.post(&format!("{P3}/instances/long/terminate"), "").status, 202);
    assert_eq!(server.finished("long")["runtimeStatus"], "Terminated");
}

#[test]
fn many_sleepers_are_not_kept_in_memory_and_all_wake_up() {
    const SLEEPERS: u64 = 200;
    for (name, limits) in [("none", 0), ("one per partition", 64)] {
        let server = Setup::limits(dacapo::limits::Limits { idle_instances_max: limits, ..forgetful() }).start();
        let wakes_ms = now_ms() + 3_000;
        let ids: Vec<_> =
            (0..SLEEPERS).map(|number| server.start("SleepUntil", &(wakes_ms + number % 3 * 300).to_string())).collect();
        server.start_as("years", "Sleeper", &(10 * YEAR_MS).to_string());
        for id in ids.iter().map(String::as_str).chain(["years"]) {
            until(&server, id, "TimerCreated", 1);
        }
        // What is due within the next second may be there already; it goes when it has ended.
        for id in &ids {
            let status = server.finished(id);
            assert_eq!(status["output"], true, "{name}: {status}");
            let fired = of_type(&status, "TimerFired")[0];
            assert!(time(fired, "Timestamp") >= time(fired, "FireAt"), "{status}");
        }
        eventually("the unloading of who sleeps for years", || {
            (server.metric("dacapo_instances_open") <= limits as f64).then_some(())
        });
    }
}

#[test]
fn sleepers_are_unloaded_while_they_sleep() {
    let server = Setup::limits(dacapo::limits::Limits { idle_instances_max: 64, ..forgetful() }).start();
    let ids: Vec<_> = (0..300).map(|_| server.start("Sleeper", &(10 * YEAR_MS).to_string())).collect();
    for id in &ids {
        until(&server, id, "TimerCreated", 1);
    }
    eventually("the unloading", || (server.metric("dacapo_instances_open") <= 64.0).then_some(()));
    // They are all still there for who asks.
    for id in &ids[..10] {
        assert_eq!(seen(&server, id)["runtimeStatus"], "Running");
    }
}

#[test]
fn a_timer_that_was_due_while_nobody_was_there_fires_at_once() {
    let mut server = Setup::limits(forgetful()).start();
    let ids: Vec<_> = (0..20).map(|_| server.start("Sleeper", "400")).collect();
    let statuses: Vec<_> = ids.iter().map(|id| until(&server, id, "TimerCreated", 1)).collect();
    let due_ms = statuses.iter().map(|status| time(of_type(status, "TimerCreated")[0], "FireAt").as_millisecond()).max().unwrap();
    server.kill();
    eventually("the time at which they are due", || (i64::try_from(now_ms()).unwrap() > due_ms).then_some(()));
    server.restart();
    for id in &ids {
        assert_eq!(completed(&server, id), true);
        assert_eq!(of_type(&server.finished(id), "TimerFired").len(), 1);
    }
}

#[test]
fn a_timer_in_the_past_fires_at_once() {
    let server = Server::start();
    for at_ms in [0, 1_000_000, now_ms() - 1] {
        server.start_as(&at_ms.to_string(), "SleepUntil", &at_ms.to_string());
        let status = server.finished(&at_ms.to_string());
        assert_eq!((&status["output"], history(&status).len()), (&json!(true), 4), "{status}");
    }
}

#[test]
fn an_event_wakes_up_who_sleeps_unloaded() {
    let server = Setup::limits(forgetful()).start();
    for (id, said) in [("yes", "true"), ("no", "false")] {
        server.start_as(id, "Approval", &(10 * YEAR_MS).to_string());
        until(&server, id, "TimerCreated", 1);
        server.raise(id, "approve", said);
    }
    assert_eq!((completed(&server, "yes"), completed(&server, "no")), (json!("approved"), json!("denied")));
    server.start_as("late", "Approval", "30");
    assert_eq!(completed(&server, "late"), "timed out");
}
