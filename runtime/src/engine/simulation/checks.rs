//! What has to hold when everything has come to its end.

use std::collections::{HashMap, HashSet};

use rand_chacha::ChaCha8Rng;

use super::history::{Histories, raised};
use super::world::World;
use super::{Programs, below};
use crate::model::{Action, Ask, ChildStart, End, Event, Execution, ExecutionKey, Input, Payload, Progress, Started, rewind};
use crate::replay::{Guest, replay};
use crate::store::{InstanceRow, Store as _};

/// An instance that has come to its end.
pub(super) struct Ended {
    pub row: InstanceRow,
    pub execution: Execution,
    pub end: End,
    /// Of its last execution, as far as it still stands.
    pub history: Vec<Event>,
}

impl<P: Programs> World<P> {
    pub(super) fn check(&mut self) {
        assert_eq!(self.partition.loaded_instances(), 0, "everything comes to its end");
        assert_eq!(self.store.inbox(self.hub, None, usize::MAX).unwrap(), [], "every message was taken or given up");
        assert!(self.waiting.is_empty() && self.starting.is_empty(), "everybody is answered");
        assert!(self.raising.is_empty() && self.controlling.is_empty(), "everybody is answered");
        let keys = Histories::keys(&self.store, self.hub);
        let statuses: HashMap<_, _> = keys.into_iter().map(|key| (key, self.check_replay(key))).collect();
        let rows = self.store.instances(self.hub, None, usize::MAX).unwrap();
        let mut generations = HashSet::new();
        for row in rows {
            let stored = self.histories.of(&self.store, row.execution).to_vec();
            let execution = Execution::fold(&stored).unwrap();
            assert_eq!(execution.length, row.length);
            check_pauses(&stored);
            let history = rewind::standing(&stored).into_owned();
            let is_rewound = history.len() < stored.len();
            assert!(generations.insert(execution.started.generation));
            self.coverage.note("ended");
            let end = execution.end.clone().expect("it has ended");
            assert_eq!(row.status, end.status());
            assert!(!matches!(&end, End::Faulted(failure) if failure.kind == "Diverged"), "{end:?}");
            assert!(raised(&history).is_sorted_by(|a, b| a < b), "events stand once each, in the order in which they came");
            match &statuses[&row.execution] {
                // A turn that was taken back may have said something of itself.
                _ if is_rewound => (),
                Some(status) => assert_eq!(row.custom_status.as_ref(), Some(status)),
                None => assert!(row.custom_status.is_none() || execution.started.continued > 0),
            }
            P::check(self, &Ended { row, execution, end, history });
        }
        self.check_acknowledged();
    }

    fn check_acknowledged(&mut self) {
        for (id, starts) in &self.acknowledged {
            let row = self.store.instance(self.hub, id).unwrap();
            let row = row.unwrap_or_else(|| panic!("{id} was acknowledged and is gone"));
            let newest = starts.last().expect("an entry has at least one");
            let first = self.histories.of(&self.store, ExecutionKey(row.key.0)).first();
            let Some(Event::Started(Started { generation: stored, .. })) = first else { panic!("{id} has never begun") };
            // A start whose commit was reported as failed may be there after all, in the place of an ended instance.
            let is_newest = *stored == newest.generation;
            let is_unacknowledged = starts.iter().all(|start| start.generation != *stored);
            assert!(is_newest || is_unacknowledged, "{id} is an older one than the one acknowledged last");
        }
    }
}

impl<P: Programs> World<P> {
    /// Whatever is stored of an execution is what a fresh guest makes of what it took: event by event as it is printed, and
    /// however the same
    /// inputs are spread over turns. Returns the custom status that it has set last.
    fn check_replay(&mut self, key: ExecutionKey) -> Option<Payload> {
        let history = self.histories.of(&self.store, key);
        let Some(Event::Started(started)) = history.first() else { return None }; // Its commit never went through.
        let execution = Execution::fold(history).unwrap();
        assert_eq!(replay(history, &mut P::Guest::default()), Ok(execution), "a stored history replays");
        let mut played = Played::default();
        let standing = rewind::standing(history);
        let again = played.turn_by_turn(&standing, &mut P::Guest::default());
        let printed = serde_json::to_string(&again).unwrap();
        if standing.len() == history.len() {
            let rows = self.store.history_rows(key, 0);
            let stored: Vec<_> = rows.iter().map(|row| row.trim_start_matches('[').trim_end_matches(']')).collect();
            assert_eq!(printed.trim_start_matches('[').trim_end_matches(']'), stored.join(","), "a replay prints what is stored");
        } else {
            assert_eq!(printed, serde_json::to_string(&standing).unwrap(), "a replay prints what still stands");
        }
        if !P::reads_clock(started) && !played.turns.is_empty() {
            let inputs = played.turns.concat();
            let anew = Played::split_anew(started, &inputs, &mut P::Guest::default(), &mut self.random);
            assert_eq!(
                (&anew.asks, &anew.end),
                (&played.asks, &played.end),
                "it makes no difference which turn an input comes with"
            );
            assert_eq!(anew.status, played.status);
            self.coverage.note_times("split anew", u64::from(anew.turns.len() != played.turns.len()));
        }
        played.status
    }
}

/// None of its code runs between a suspension and what ends that.
fn check_pauses(history: &[Event]) {
    let mut is_suspended = false;
    for event in history {
        match event {
            Event::Suspended { .. } => is_suspended = true,
            Event::Resumed { .. } | Event::Ended { .. } => is_suspended = false,
            Event::TurnStarted { .. } => assert!(!is_suspended, "a turn runs in a pause: {history:?}"),
            _ => (),
        }
    }
}

/// What a guest did with what it was given.
#[derive(Default)]
struct Played {
    /// What it was given.
    turns: Vec<Vec<Input>>,
    /// All that it asked for, but for times, which depend on those of the turns.
    asks: Vec<Ask>,
    status: Option<Payload>,
    end: Option<End>,
}

impl Played {
    fn take(&mut self, inputs: Vec<Input>, progress: &Progress) {
        assert_eq!(progress.continuation, None, "the turn in which it continued as new is not stored");
        self.turns.push(inputs);
        self.asks.extend(progress.asks.iter().cloned().map(without_time));
        self.status = progress.custom_status.clone().or(self.status.take());
        self.end.clone_from(&progress.end);
    }

    /// Plays the turns of `history`, and returns it with what the guest does now in the place of what it did then.
    fn turn_by_turn(&mut self, history: &[Event], guest: &mut impl Guest) -> Vec<Event> {
        let [Event::Started(started), rest @ ..] = history else { panic!("it begins with its start") };
        guest.begin(started).unwrap();
        let mut execution = Execution::new(started.clone());
        let mut again = vec![history[0].clone()];
        for (position, event) in rest.iter().enumerate() {
            match event {
                // What a turn asked for before it was rewound stands where it was rewound.
                Event::Scheduled { .. } | Event::Cancelled { .. } if execution.again.is_some() => again.push(event.clone()),
                Event::Scheduled { .. } | Event::Cancelled { .. } => (),
                Event::Ended { end: End::Completed(_) | End::Failed(_), .. } => (),
                _ => again.push(event.clone()),
            }
            let next_end =
                rest[position + 1..].iter().find(|event| !matches!(event, Event::Scheduled { .. } | Event::Cancelled { .. }));
            match (event, next_end) {
                // Nobody knows what the guest did in that turn.
                (Event::TurnStarted { .. }, Some(Event::Ended { end: End::Faulted(_), .. })) => (),
                (Event::TurnStarted { at_ms, consumes }, next_end) => {
                    let inputs: Vec<_> = execution.unread.iter().take(*consumes as usize).cloned().collect();
                    let progress = guest.advance(*at_ms, &inputs).unwrap();
                    let first = execution.again.as_ref();
                    let asked_before = first.map_or(0, |first| first.asks.len());
                    assert_eq!(
                        progress.asks[..asked_before],
                        *first.map_or(&[][..], |first| &first.asks),
                        "it asks for it again"
                    );
                    let mut task = execution.next_task;
                    for ask in &progress.asks[asked_before..] {
                        again.push(match ask.clone() {
                            Ask::Cancel(task) => Event::Cancelled { task },
                            Ask::Schedule(action) => Event::Scheduled { task, action },
                        });
                        task = if let Ask::Schedule(_) = ask { task.next() } else { task };
                    }
                    if let Some(end) = progress.end.clone() {
                        again.push(Event::Ended { at_ms: next_end.map_or(0, Event::at_ms), end });
                    }
                    self.take(inputs, &progress);
                }
                _ => (),
            }
            execution.apply(event).unwrap();
        }
        again
    }

    /// Plays `inputs` in other turns, at other times.
    fn split_anew(started: &Started, inputs: &[Input], guest: &mut impl Guest, random: &mut ChaCha8Rng) -> Self {
        let mut played = Self::default();
        guest.begin(started).unwrap();
        let (mut at_ms, mut rest) = (started.at_ms, inputs);
        while played.end.is_none() && (played.turns.is_empty() || !rest.is_empty()) {
            let (now, later) = rest.split_at(below(random, 4).min(rest.len() as u64) as usize);
            let progress = guest.advance(at_ms, now).unwrap();
            played.take(now.to_vec(), &progress);
            at_ms += below(random, 60);
            rest = later;
        }
        played
    }
}

fn without_time(ask: Ask) -> Ask {
    match ask {
        Ask::Schedule(Action::Timer { .. }) => Ask::Schedule(Action::Timer { due_ms: 0 }),
        Ask::Schedule(Action::StartDetached(start)) => Ask::Schedule(Action::StartDetached(ChildStart { at_ms: None, ..start })),
        ask => ask,
    }
}
