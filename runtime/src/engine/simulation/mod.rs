//! Do the engine's promises hold in every order of things? The partition under a seeded scheduler.
//!
//! Clients, operators, turns, commits, activities, timers and crashes of the server are steps that a seed puts in order (`world.rs`); the
//! store fails where the seed says so. Then all is let run out, and every promise is checked (`checks.rs`). Orchestrations are of two kinds:
//! written by hand for one promise each (`programs.rs`), or generated from the seed and run by the real SDK (`random.rs`, `sdk.rs`).
//!
//! `DACAPO_SEED=17 cargo test --lib simulation` runs one seed alone, and `DACAPO_SEEDS=10000` so many of each kind.

mod checks;
mod generated;
mod history;
mod programs;
mod random;
mod sdk;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use super::orders::ActivityOrder;
use crate::model::{Outcome, Payload, Started};
use crate::replay::Guest;
use checks::Ended;
use generated::Generated;
use programs::Handwritten;
use world::World;

#[test]
fn every_promise_holds_in_every_interleaving() {
    simulate::<Handwritten>(&[
        "ended",
        "commit failed",
        "restart",
        "guest rebuilt",
        "turn exhausted",
        "task cancelled",
        "start refused",
        "start left an ended instance",
        "answer twice",
        "event raised",
        "terminated",
        "suspended",
        "resumed",
        "rewound",
        "found",
        "continued",
        "child answered",
        "child refused",
    ]);
}

#[test]
fn every_promise_holds_for_generated_orchestrations_in_the_real_sdk() {
    simulate::<Generated>(&[
        "ended",
        "ended completed",
        "ended failed",
        "commit failed",
        "restart",
        "guest rebuilt",
        "turn exhausted",
        "task cancelled",
        "start refused",
        "answer twice",
        "event raised",
        "event read",
        "event kept unread",
        "event handed on",
        "terminated",
        "suspended",
        "resumed",
        "rewound",
        "found",
        "continued",
        "timer fired",
        "attempt after a failure",
        "child answered",
        "child refused",
        "detached start",
        "event sent",
        "custom status",
        "clock read",
        "split anew",
        "value computed",
    ]);
}

/// What a world's clients start, and what has to come of it.
trait Programs: Sized + 'static {
    type Guest: Guest + Default;
    /// How many interleavings are run if nobody says.
    const SEEDS: u64;
    /// How many steps a world takes before all is let run out: so many more than 20.
    const STEPS: u64;
    /// Of which names clients raise events.
    const EVENTS: &[&str];
    /// Clients also have to do with instances that were started by others.
    const MEDDLING: bool;

    /// Some orchestrator, with an input.
    fn draw(random: &mut ChaCha8Rng) -> (&'static str, Payload);

    /// What a run of an activity gives: always the same for the same order.
    fn work(order: &ActivityOrder) -> Outcome;

    /// Whether what it asks for depends on the times of its turns, but for when timers are due.
    fn reads_clock(started: &Started) -> bool;

    /// Whether the instance may continue as new.
    fn may_continue(started: &Started) -> bool;

    /// Everything that these programs promise of an instance that has ended.
    fn check(world: &mut World<Self>, ended: &Ended);
}

/// Runs the interleavings, and sees that all of `expected` was met often enough: a simulation that never meets what it is
/// there for proves nothing.
fn simulate<P: Programs>(expected: &[&'static str]) {
    let (seeds, is_one) = seeds(P::SEEDS);
    let count = seeds.end - seeds.start;
    let mut total = Coverage::default();
    for seed in seeds {
        match std::panic::catch_unwind(|| World::<P>::new(seed).run()) {
            Ok(coverage) => total.add(&coverage),
            Err(panic) => {
                eprintln!("the interleaving of seed {seed} failed; run it alone with DACAPO_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let few = |name: &&&str| total.times(name) < count / 50;
    let missed: Vec<_> = expected.iter().filter(few).collect();
    assert!(is_one || count < 500 || missed.is_empty(), "too few of {missed:?} among {total:?}");
}

/// Which seeds to run, and whether it is one alone.
fn seeds(default: u64) -> (Range<u64>, bool) {
    let number =
        |name| std::env::var(name).ok().map(|text| text.parse().expect("a seed and a number of seeds are whole numbers"));
    match number("DACAPO_SEED") {
        Some(seed) => (seed..seed + 1, true),
        None => (0..number("DACAPO_SEEDS").unwrap_or(default), false),
    }
}

/// What the interleavings met, and how often.
#[derive(Debug, Default)]
struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    fn note(&mut self, what: &'static str) {
        self.note_times(what, 1);
    }

    fn note_times(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, times)| self.note_times(what, *times));
    }

    fn times(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}

fn below(random: &mut ChaCha8Rng, bound: u64) -> u64 {
    random.next_u64() % bound
}
