//! A monitor: looks at a job from time to time, at growing intervals, until it is done or a deadline is over.
//!
//! Each look is an execution of its own that hands what it knows to the next one, so the history is as short after a million
//! looks as after one. In between the monitor costs nothing: it waits for a durable timer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dacapo_guest::prelude::*;
use serde::{Deserialize, Serialize};

/// What is watched, and how often. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Watch {
    job: Job,
    /// How long to wait for the next look. Twice as long each time, up to `interval_ms_max`.
    interval_ms: u64,
    interval_ms_max: u64,
    /// Looks for the last time then.
    deadline_ms: u64,
    /// What is known so far; whoever starts the monitor leaves it out.
    #[serde(default)]
    seen: Progress,
}

/// What the monitor answers to the query `progress`, and how it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    percent: u64,
    looks: u32,
}

/// A job somewhere else, known by when it began and how long it takes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Job {
    started_ms: u64,
    takes_ms: u64,
}

/// Looks once; then either is done or waits and goes on as a new execution.
#[orchestrator(name = "Monitor")]
async fn monitor(ctx: Context, watch: Watch) -> Result<Progress> {
    let seen = Rc::new(Cell::new(watch.seen));
    let answer = seen.clone();
    ctx.on_query("progress", move |_: ()| answer.get());

    let percent = ctx.call(look_at, watch.job).await?;
    seen.set(Progress { percent, looks: watch.seen.looks + 1 });
    let deadline = UNIX_EPOCH + Duration::from_millis(watch.deadline_ms);
    if percent == 100 {
        ctx.set_custom_status("done")?;
        return Ok(seen.get());
    }
    if ctx.now() >= deadline {
        ctx.set_custom_status("given up")?;
        return Ok(seen.get());
    }

    ctx.set_custom_status(&format!("{percent} % done"))?;
    let next_look = ctx.now() + Duration::from_millis(watch.interval_ms);
    ctx.sleep_until(next_look.min(deadline)).await?;

    let interval_ms = watch.interval_ms.saturating_mul(2).min(watch.interval_ms_max);
    ctx.continue_as_new(monitor, Watch { interval_ms, seen: seen.get(), ..watch })
}

/// How much of the job is done, in percent. One that runs elsewhere would be asked for over HTTP; this one is computed from the clock.
#[activity(name = "LookAt")]
async fn look_at(job: Job) -> Result<u64> {
    let started = UNIX_EPOCH + Duration::from_millis(job.started_ms);
    // Nothing is done yet of a job that starts in the future.
    let ran_ms = SystemTime::now().duration_since(started).unwrap_or_default().as_millis() as u64;
    Ok(ran_ms.saturating_mul(100).checked_div(job.takes_ms).map_or(100, |percent| percent.min(100)))
}

dacapo_guest::module!(monitor, look_at);

#[cfg(test)]
mod tests {
    use dacapo_guest::testing;

    use super::*;

    const MINUTE_MS: u64 = 60_000;
    const START_MS: u64 = 1_800_000_000_000;

    /// Looks after 1, 2, 4, 8, 8, … minutes, for an hour.
    fn watch() -> Watch {
        Watch {
            job: Job { started_ms: START_MS, takes_ms: 30 * MINUTE_MS },
            interval_ms: MINUTE_MS,
            interval_ms_max: 8 * MINUTE_MS,
            deadline_ms: START_MS + 60 * MINUTE_MS,
            seen: Progress::default(),
        }
    }

    fn start() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(START_MS)
    }

    #[test]
    fn it_looks_at_growing_intervals_until_the_job_is_done() {
        let mut percents = [0, 3, 10, 23, 50, 76, 100].into_iter();
        let scenario = testing::scenario(monitor, watch()).starts_at(start());
        let run = scenario.activity(look_at, |_| Ok(percents.next().unwrap())).run();
        assert_eq!(run.output().unwrap(), &Progress { percent: 100, looks: 7 });
        assert_eq!(run.elapsed(), Duration::from_mins(1 + 2 + 4 + 8 + 8 + 8));
        assert_eq!(run.continued().len(), 6);
        assert_eq!(run.custom_status::<String>().unwrap(), "done");
    }

    #[test]
    fn it_can_be_asked_at_any_time() {
        let mut percents = [0, 3, 10].into_iter();
        let scenario = testing::scenario(monitor, watch()).starts_at(start());
        let run = scenario.activity(look_at, |_| Ok(percents.next().unwrap())).until(Duration::from_mins(5)).run();
        assert_eq!(run.query::<Progress>("progress", &()).unwrap(), Progress { percent: 10, looks: 3 });
        assert_eq!(run.custom_status::<String>().unwrap(), "10 % done");
    }

    #[test]
    fn it_looks_once_more_at_the_deadline_and_gives_up() {
        let run = testing::scenario(monitor, watch()).starts_at(start()).activity(look_at, |_| Ok(42)).run();
        assert_eq!(run.output().unwrap().percent, 42);
        assert_eq!(run.elapsed(), Duration::from_hours(1));
        assert_eq!(run.custom_status::<String>().unwrap(), "given up");
    }
}
