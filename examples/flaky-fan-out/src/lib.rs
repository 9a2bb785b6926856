//! Fan-out over activities that fail now and then: weather stations are read by radio, all at once. What breaks off is tried
//! again, what cannot be had is reported, and neither holds up the others.
//!
//! The input is a list of station numbers, such as `[1, 2, 3]`.

use std::time::Duration;

use dacapo_guest::log;
use dacapo_guest::prelude::*;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

/// What is known of a day in the end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    /// Each station that was read, with its mean temperature in degrees.
    mean_degrees: Vec<(u32, i32)>,
    missing: Vec<Missing>,
}

/// A station that could not be read.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Missing {
    station: u32,
    kind: String,
    reason: String,
}

/// Reads all stations at once, each up to four times.
#[orchestrator(name = "ReadStations")]
async fn read_stations(ctx: Context, stations: Vec<u32>) -> Result<Report> {
    let patience = RetryPolicy::new(Duration::from_millis(200), 4)
        .backoff_coefficient(2.0) // After 200 and 400 ms, …
        .max_interval(Duration::from_millis(600)) // … and then 600.
        .retry_if(|error| error.kind() != "LowBattery"); // Each attempt would empty it further.
    let days = stations.iter().map(|&station| ctx.call_with(read_station, station, patience.clone()));

    let mut report = Report { mean_degrees: Vec::new(), missing: Vec::new() };
    // `join_all` waits for the failures too; `try_join_all` would give up at the first one, and cancel the others.
    for (station, day) in stations.iter().copied().zip(join_all(days).await) {
        match day {
            Ok(degrees) => report.mean_degrees.push((station, degrees.iter().sum::<i32>() / HOURS as i32)),
            Err(error) => {
                report.missing.push(Missing { station, kind: error.kind().to_owned(), reason: error.message().to_owned() });
            }
        }
    }
    Ok(report)
}

/// Reads the temperatures of a day, hour by hour. After each it tells how far it is, so that the next attempt goes on where this
/// one breaks off, and the hours before are not read twice.
#[activity(name = "ReadStation")]
async fn read_station(station: u32, run: ActivityContext) -> Result<Vec<i32>> {
    let mut degrees: Vec<i32> = run.progress().unwrap_or_default();
    log::info!("station {station}, attempt {}, from {} o'clock on", run.attempt, degrees.len());
    for hour in degrees.len()..HOURS {
        degrees.push(ask(station, hour, run.attempt)?);
        run.heartbeat(&degrees)?;
    }
    Ok(degrees)
}

dacapo_guest::module!(read_stations, read_station);

const HOURS: usize = 24;

/// Stands in for the radio, and fails as a radio does, only that it can be foretold: the last digit of a station says how.
fn ask(station: u32, hour: usize, attempt: u32) -> Result<i32> {
    let digit = station % 10;
    match digit {
        9 => Err(Error::new("Dismantled", format!("there is no station {station} any more")).non_retriable()),
        8 => Err(Error::new("LowBattery", format!("station {station} has no power to spare"))),
        7 => Err(Error::new("Silence", format!("station {station} does not answer"))),
        // The others take one to four attempts, each of which gets further into the day.
        _ if hour * (digit as usize % 4 + 1) >= attempt as usize * HOURS => {
            Err(Error::new("BrokenOff", format!("station {station} was lost at {hour} o'clock")))
        }
        _ => Ok(digit as i32 + hour as i32 / 2),
    }
}

#[cfg(test)]
mod tests {
    use dacapo_guest::testing;

    use super::*;

    fn missing(station: u32, kind: &str, reason: &str) -> Missing {
        Missing { station, kind: kind.to_owned(), reason: reason.to_owned() }
    }

    #[test]
    fn what_fails_is_reported_beside_what_was_read() {
        let run = testing::scenario(read_stations, [10, 13, 17, 18, 19]).real(read_station).run();
        let expected = Report {
            mean_degrees: vec![(10, 5), (13, 8)],
            missing: vec![
                missing(17, "Silence", "station 17 does not answer"),
                missing(18, "LowBattery", "station 18 has no power to spare"),
                missing(19, "Dismantled", "there is no station 19 any more"),
            ],
        };
        assert_eq!(run.output().unwrap(), &expected);
        let attempts = |station: u32| run.calls().iter().filter(|call| **call == format!("ReadStation({station})")).count();
        assert_eq!([10, 13, 17, 18, 19].map(attempts), [1, 4, 4, 1, 1]);
    }

    #[test]
    fn all_wait_at_the_same_time() {
        let run = testing::scenario(read_stations, [7, 17, 27]).real(read_station).run();
        assert_eq!(run.elapsed(), Duration::from_millis(200 + 400 + 600));
    }

    #[test]
    fn an_hour_that_was_read_is_not_read_again() {
        let run = testing::scenario(read_stations, [3]).real(read_station).run();
        assert_eq!((run.calls().len(), run.heartbeats().len()), (4, HOURS));
    }
}
