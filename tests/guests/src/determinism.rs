//! Ordinary code that asks for what differs from run to run anywhere else.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dacapo_guest::prelude::*;
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};

/// What std and two crates have said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// Milliseconds since 1970.
    system_ms: u128,
    /// Nanoseconds since the orchestrator began, by a clock that only runs forward.
    elapsed_ns: u128,
    /// Keys of a hash map and of a hash set, in their order.
    keys: Vec<u32>,
    members: Vec<char>,
    /// What the crate `rand` gives: a number, and a shuffled list.
    number: u64,
    shuffled: Vec<u8>,
    /// What the crate `uuid` gives.
    uuid: String,
}

impl Reading {
    fn take(began: Instant) -> Result<Self> {
        let mut random = rand::rng();
        let mut shuffled: Vec<u8> = (0..10).collect();
        shuffled.shuffle(&mut random);
        Ok(Self {
            system_ms: SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis(),
            elapsed_ns: began.elapsed().as_nanos(),
            keys: (0..10).map(|key| (key, ())).collect::<HashMap<_, _>>().into_keys().collect(),
            members: ('a'..'k').collect::<HashSet<_>>().into_iter().collect(),
            number: random.random(),
            shuffled,
            uuid: uuid::Uuid::new_v4().to_string(),
        })
    }
}

/// Takes a reading before each of so many steps, gives it to an activity, and returns all. So each stands in the history as the
/// input of a task, where every replay has to come to the same, and once more in the result, as the last replay has it.
#[orchestrator(name = "Roulette")]
pub(crate) async fn roulette(ctx: Context, steps: u32) -> Result<Vec<Reading>> {
    let began = Instant::now();
    let mut readings = Vec::new();
    for step in 0..steps {
        let reading = Reading::take(began)?;
        ctx.call_named::<()>("Note", &reading).await?;
        if step % 2 == 1 {
            ctx.sleep(Duration::from_millis(3)).await?;
        }
        readings.push(reading);
    }
    Ok(readings)
}

/// Takes note of a reading.
#[activity(name = "Note")]
pub(crate) async fn note(reading: Reading) -> Result<()> {
    println!("{}", reading.uuid);
    Ok(())
}
