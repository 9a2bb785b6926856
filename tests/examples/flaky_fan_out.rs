//! Does a fan-out reach all that can be had, try again what may pass, and say what failed?

use serde_json::{Value, json};

use super::events;
use crate::support::server::HUB;
use crate::support::{P3, Server, eventually, guests};

/// The attempts that the history has for a station, each with the hour it broke off at, or what else came of it.
fn attempts(status: &Value, station: u32) -> Vec<(u64, String)> {
    let (input, all) = (json!(station.to_string()), status["historyEvents"].as_array().expect("it has a history").iter());
    let of_station = all.filter(|event| event["FunctionName"] == "ReadStation" && event["Input"] == input);
    of_station
        .map(|event| {
            let attempt = event.get("Attempt").map_or(1, |attempt| attempt.as_u64().expect("a number"));
            let kind = match event["EventType"].as_str().expect("an event has a type") {
                "TaskFailed" => event["FailureDetails"]["ErrorType"].as_str().expect("a failure has a kind"),
                other => other,
            };
            (attempt, kind.to_owned())
        })
        .collect()
}

/// What the example promises of the stations 10 to 19.
#[track_caller]
fn check_ten(status: &Value) {
    let expected = json!({
        "mean_degrees": [[10, 5], [11, 6], [12, 7], [13, 8], [14, 9], [15, 10], [16, 11]],
        "missing": [
            { "station": 17, "kind": "Silence", "reason": "station 17 does not answer" },
            { "station": 18, "kind": "LowBattery", "reason": "station 18 has no power to spare" },
            { "station": 19, "kind": "Dismantled", "reason": "there is no station 19 any more" },
        ],
    });
    assert_eq!(status["output"], expected);
    let broken_off = |times: u64| {
        let failed = (1..=times).map(|attempt| (attempt, "BrokenOff".to_owned()));
        failed.chain([(times + 1, "TaskCompleted".to_owned())]).collect::<Vec<_>>()
    };
    for station in 10..17 {
        assert_eq!(attempts(status, station), broken_off(u64::from(station % 10 % 4)), "station {station}");
    }
    assert_eq!(attempts(status, 17), (1..=4).map(|attempt| (attempt, "Silence".to_owned())).collect::<Vec<_>>());
    assert_eq!(attempts(status, 18), [(1, "LowBattery".to_owned())]);
    assert_eq!(attempts(status, 19), [(1, "Dismantled".to_owned())]);
    // One timer before each attempt but the first.
    let again = (10..20).map(|station| attempts(status, station).len() - 1).sum::<usize>();
    assert_eq!((events(status, "TimerCreated").len(), events(status, "TimerFired").len()), (again, again));
    let failed = events(status, "TaskFailed").into_iter();
    let is_final: Vec<_> = failed.filter(|event| event["FailureDetails"]["IsNonRetriable"] == true).collect();
    assert!(matches!(is_final[..], [event] if event["Input"] == "19"), "{is_final:?}");
}

#[test]
fn what_breaks_off_is_tried_again_and_what_cannot_be_had_is_reported() {
    let server = Server::empty();
    server.upload(HUB, "flaky-fan-out", guests::flaky_fan_out());
    let id = server.start("ReadStations", "[10,11,12,13,14,15,16,17,18,19]");
    check_ten(&server.finished(&id));
}

#[test]
fn attempts_that_wait_when_the_server_is_killed_are_made_after_it() {
    let mut server = Server::empty();
    server.upload(HUB, "flaky-fan-out", guests::flaky_fan_out());
    server.start_as("a", "ReadStations", "[10,11,12,13,14,15,16,17,18,19]");
    for timers in [1, 8] {
        eventually("attempts that wait", || {
            let status = server.status("a", "showHistory=true").json();
            (events(&status, "TimerCreated").len() >= timers).then_some(())
        });
        server.kill();
        server.restart();
    }
    check_ten(&server.finished("a"));
}

#[test]
fn an_attempt_goes_on_at_the_hour_that_the_last_heartbeat_told() {
    let server = Server::empty();
    server.upload(HUB, "flaky-fan-out", guests::flaky_fan_out());
    server.start_as("a", "ReadStations", "[13]");
    assert_eq!(server.finished("a")["output"], json!({ "mean_degrees": [[13, 8]], "missing": [] }));
    let said = server.get(&format!("{P3}/instances/a/logs")).text().to_owned();
    for (attempt, hour) in [(1, 0), (2, 6), (3, 12), (4, 18)] {
        let line = format!("station 13, attempt {attempt}, from {hour} o'clock on");
        assert!(said.contains(&line), "{line}: {said}");
    }
}

#[test]
fn a_hundred_stations_are_read_at_once() {
    let server = Server::empty();
    server.upload(HUB, "flaky-fan-out", guests::flaky_fan_out());
    let stations: Vec<u32> = (0..100).collect();
    let report = server.output("ReadStations", &json!(stations).to_string());
    let read: Vec<(u32, u32)> =
        stations.iter().filter(|station| **station % 10 < 7).map(|station| (*station, station % 10 + 5)).collect();
    assert_eq!(report["mean_degrees"], json!(read));
    assert_eq!(report["missing"].as_array().expect("a list").len(), 30);
}
