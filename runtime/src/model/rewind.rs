//! What does a history amount to once a failed execution was rewound? Which tasks that reopens, and what still stands.
//!
//! Nothing is ever removed from a history. A rewind appends [`Event::Rewound`], and what came before is read so: the end does not count,
//! nor do the failed answers of the reopened tasks. The last turn, in which the execution failed, does not count either: it is played
//! again, with all its inputs that still stand, and has to ask first for what it asked for then, since that has taken its numbers and may
//! have been acted on. Pure.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};

use super::{Event, Outcome, TaskId};

/// The tasks that a rewind of `history` reopens, ascending: those that failed, other than those whose failure the code reacted to: the
/// turn that took it asked for something new. If it reacted to all of them, all are reopened.
pub fn to_reopen(history: &[Event]) -> Vec<TaskId> {
    let standing = standing(history);
    let mut unread = VecDeque::new();
    let mut failures: Vec<(TaskId, bool)> = Vec::new();
    let mut asks_again = false;
    for (position, event) in standing.iter().enumerate() {
        match event {
            Event::Rewound { .. } => asks_again |= asks_for_something(asks_behind(&standing, position)),
            Event::TurnStarted { consumes, .. } => {
                let reacts = std::mem::take(&mut asks_again) || asks_for_something(asks_behind(&standing, position));
                let taken = unread.drain(..(*consumes as usize).min(unread.len()));
                failures.extend(taken.flatten().map(|task| (task, reacts)));
            }
            event if is_input(event) => unread.push_back(failed_task(event)),
            _ => (),
        }
    }
    failures.extend(unread.into_iter().flatten().map(|task| (task, false)));
    let is_ignored = |(_, reacts): &&(TaskId, bool)| !reacts;
    let ignored: BTreeSet<TaskId> = failures.iter().filter(is_ignored).map(|(task, _)| *task).collect();
    let all = || failures.iter().map(|(task, _)| *task).collect();
    if ignored.is_empty() { all() } else { ignored }.into_iter().collect()
}

/// The tasks that failed because no instance could be started for them, in the words of the host.
pub fn refused(history: &[Event]) -> BTreeSet<TaskId> {
    let is_refusal = |event: &Event| match event {
        Event::Resolved { task, outcome: Outcome::Failed(failure), .. }
            if ["UnknownOrchestrator", "InstanceExists"].contains(&failure.kind.as_str()) =>
        {
            Some(*task)
        }
        _ => None,
    };
    history.iter().filter_map(is_refusal).collect()
}

/// The tasks that the last turn of `history` asked for.
pub fn asked_last(history: &[Event]) -> BTreeSet<TaskId> {
    let standing = standing(history);
    let asks = last_turn(&standing).map_or(&[][..], |last| asks_behind(&standing, last));
    asks.iter().filter_map(|ask| if let Event::Scheduled { task, .. } = ask { Some(*task) } else { None }).collect()
}

/// The time of the last turn of `history` that stands, in milliseconds since 1970, if it asked for anything.
pub fn last_turn_ms(history: &[Event]) -> Option<u64> {
    let standing = standing(history);
    let last = last_turn(&standing)?;
    let asked_before = |event: &Event| matches!(event, Event::Rewound { turn_at_ms: Some(_), .. });
    // What the turn before it, if this one is played again, asked for has to be asked for at the same time once more.
    let again = standing[..last].iter().rposition(|event| matches!(event, Event::TurnStarted { .. })).map_or(0, |turn| turn + 1);
    let has_asked = !asks_behind(&standing, last).is_empty() || standing[again..last].iter().any(asked_before);
    let Event::TurnStarted { at_ms, .. } = standing[last] else { unreachable!("it was found so") };
    has_asked.then_some(at_ms)
}

/// The events of `history` that still stand, as a fold or a replay takes them: behind each [`Event::Rewound`] follows what the turn before it had
/// asked for, which the next turn has to ask for first.
pub fn standing(history: &[Event]) -> Cow<'_, [Event]> {
    if !history.iter().any(|event| matches!(event, Event::Rewound { .. })) {
        return Cow::Borrowed(history);
    }
    let mut standing = Vec::with_capacity(history.len());
    for event in history {
        if let Event::Rewound { reopened, .. } = event {
            let asked = take_back(&mut standing, reopened);
            standing.push(event.clone());
            standing.extend(asked);
        } else {
            standing.push(event.clone());
        }
    }
    Cow::Owned(standing)
}

/// Which events of `history` are still shown to people: all but ends that were rewound, and the failed answers of tasks that were reopened
/// later.
pub fn is_shown(history: &[Event]) -> Vec<bool> {
    let mut shown = vec![true; history.len()];
    for (position, event) in history.iter().enumerate() {
        let Event::Rewound { reopened, .. } = event else { continue };
        for (earlier, shown) in history[..position].iter().zip(&mut shown) {
            let is_hidden =
                matches!(earlier, Event::Ended { .. }) || failed_task(earlier).is_some_and(|task| reopened.contains(&task));
            *shown &= !is_hidden;
        }
    }
    shown
}

/// Takes out of `events` what a rewind that reopens these tasks takes back. Returns what the last turn had asked for.
fn take_back(events: &mut Vec<Event>, reopened: &[TaskId]) -> Vec<Event> {
    let reopened: BTreeSet<TaskId> = reopened.iter().copied().collect();
    let is_reopened = |event: &Event| failed_task(event).is_some_and(|task| reopened.contains(&task));
    let last = last_turn(events);
    let asked = last.map_or(0..0, |last| last + 1..last + 1 + asks_behind(events, last).len());
    let mut unread = VecDeque::new();
    let mut rest = Vec::with_capacity(events.len());
    let mut taken = Vec::with_capacity(asked.len());
    for (position, event) in events.drain(..).enumerate() {
        if asked.contains(&position) {
            taken.push(event);
        } else if let Event::TurnStarted { at_ms, consumes } = event {
            if Some(position) != last {
                let hidden = unread.drain(..(consumes as usize).min(unread.len())).filter(|is_reopened| *is_reopened).count();
                let consumes = consumes - u32::try_from(hidden).expect("it is part of a u32");
                rest.push(Event::TurnStarted { at_ms, consumes });
            }
        } else {
            let is_hidden = is_reopened(&event);
            if is_input(&event) {
                unread.push_back(is_hidden);
            }
            if !is_hidden && !matches!(event, Event::Ended { .. }) {
                rest.push(event);
            }
        }
    }
    *events = rest;
    taken
}

fn last_turn(events: &[Event]) -> Option<usize> {
    events.iter().rposition(|event| matches!(event, Event::TurnStarted { .. }))
}

fn asks_for_something(asks: &[Event]) -> bool {
    asks.iter().any(|ask| matches!(ask, Event::Scheduled { .. }))
}

/// What the turn at `position` asked for, or one before a rewind there.
fn asks_behind(events: &[Event], position: usize) -> &[Event] {
    let behind = &events[position + 1..];
    let is_ask = |event: &Event| matches!(event, Event::Scheduled { .. } | Event::Cancelled { .. });
    &behind[..behind.iter().position(|event| !is_ask(event)).unwrap_or(behind.len())]
}

/// Whether a turn takes it.
fn is_input(event: &Event) -> bool {
    matches!(event, Event::Resolved { .. } | Event::Raised { .. })
}

/// The task that this is the failure of.
fn failed_task(event: &Event) -> Option<TaskId> {
    if let Event::Resolved { task, outcome: Outcome::Failed(_), .. } = event { Some(*task) } else { None }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::execution::tests::{ended, resolved, scheduled, started, turn};
    use crate::model::{Action, End, Execution, Failure};

    pub(crate) fn failed(task: u32) -> Event {
        let outcome = Outcome::Failed(Failure::new("Oven", "the oven is cold"));
        Event::Resolved { task: TaskId(task), at_ms: 1_500, outcome, ran: None }
    }

    pub(crate) fn failed_end() -> Event {
        Event::Ended { at_ms: 2_000, end: End::Failed(Failure::new("Oven", "the oven is cold")) }
    }

    /// The rewind that `history` would get.
    pub(crate) fn rewound(history: &[Event]) -> Event {
        let (reopened, turn_at_ms) = (to_reopen(history), last_turn_ms(history));
        Event::Rewound { at_ms: 3_000, reason: None, reopened, turn_at_ms, module: None }
    }

    fn timer(task: u32) -> Event {
        Event::Scheduled { task: TaskId(task), action: Action::Timer { due_ms: 5_000 } }
    }

    /// Letters for what stands: turns with what they take, asks, answers, and so on.
    fn letters(events: &[Event]) -> String {
        let letter = |event: &Event| match event {
            Event::Started(_) => "S".to_owned(),
            Event::TurnStarted { consumes, .. } => format!("T{consumes}"),
            Event::Scheduled { task, .. } => format!("a{task}"),
            Event::Cancelled { task } => format!("c{task}"),
            Event::Resolved { task, outcome: Outcome::Failed(_), .. } => format!("f{task}"),
            Event::Resolved { task, .. } => format!("r{task}"),
            Event::Raised { .. } => "e".into(),
            Event::Suspended { .. } | Event::Resumed { .. } => "p".into(),
            Event::Rewound { .. } => "R".into(),
            Event::Ended { .. } => "E".into(),
        };
        events.iter().map(letter).collect::<Vec<_>>().join(" ")
    }

    /// Rewinds after each part, and says which tasks were reopened, what stands, and what is shown.
    fn check(parts: &[&[Event]], reopened: &[u32], stands: &str, shown: &str) {
        let mut history = vec![Event::Started(started())];
        for part in parts {
            history.extend(part.iter().cloned());
            history.push(rewound(&history));
        }
        let Some(Event::Rewound { reopened: seen, .. }) = history.last() else { panic!("it was just rewound") };
        assert_eq!(seen.iter().map(|task| task.0).collect::<Vec<_>>(), reopened);
        assert_eq!(letters(&standing(&history)), stands);
        let is_shown = is_shown(&history);
        let kept: Vec<Event> = history.iter().zip(is_shown).filter(|(_, shown)| *shown).map(|(event, _)| event.clone()).collect();
        assert_eq!(letters(&kept), shown);
        let execution = Execution::fold(&history).expect("what stands is a history");
        assert_eq!(execution.length as usize, history.len());
        assert!(execution.again.is_some() && execution.end.is_none());
    }

    #[test]
    fn a_failed_task_is_open_again_and_keeps_its_number() {
        let one = [turn(1_000, 0), scheduled(0, "Mix"), failed(0), turn(1_500, 1), failed_end()];
        check(&[&one], &[0], "S T0 a0 R", "S T0 a0 T1 R");
        let two =
            [turn(1_000, 0), scheduled(0, "Mix"), scheduled(1, "Heat"), failed(0), resolved(1), turn(1_500, 2), failed_end()];
        check(&[&two], &[0], "S T0 a0 a1 r1 R", "S T0 a0 a1 r1 T2 R");
        // A failure that an earlier turn took without a word.
        let earlier = [&two[..4], &[turn(1_500, 1), resolved(1), turn(1_600, 1), failed_end()]].concat();
        check(&[&earlier], &[0], "S T0 a0 a1 T0 r1 R", "S T0 a0 a1 T1 r1 T1 R");
    }

    #[test]
    fn a_failure_that_the_code_reacted_to_stays() {
        let retried = [
            turn(1_000, 0),
            scheduled(0, "Mix"),
            failed(0),
            turn(1_500, 1),
            timer(1),
            resolved(1),
            turn(5_000, 1),
            scheduled(2, "Mix"),
            failed(2),
            turn(5_500, 1),
            failed_end(),
        ];
        check(&[&retried], &[2], "S T0 a0 f0 T1 a1 r1 T1 a2 R", "S T0 a0 f0 T1 a1 r1 T1 a2 T1 R");
        // It reacted to the only one there is.
        let compensated = [&retried[..6], &[turn(5_000, 1), failed_end()]].concat();
        check(&[&compensated], &[0], "S T0 a0 T0 a1 r1 R", "S T0 a0 T1 a1 r1 T1 R");
    }

    #[test]
    fn a_failure_of_the_code_itself_reopens_nothing_and_plays_the_last_turn_again() {
        let at_once = [turn(1_000, 0), failed_end()];
        check(&[&at_once], &[], "S R", "S T0 R");
        let later = [turn(1_000, 0), scheduled(0, "Mix"), resolved(0), turn(1_500, 1), failed_end()];
        check(&[&later], &[], "S T0 a0 r0 R", "S T0 a0 r0 T1 R");
        // What it asked for in that turn it has to ask for again.
        let asking = [turn(1_000, 0), scheduled(0, "Mix"), resolved(0), turn(1_500, 1), scheduled(1, "Bake"), failed_end()];
        check(&[&asking], &[], "S T0 a0 r0 R a1", "S T0 a0 r0 T1 a1 R");
    }

    #[test]
    fn a_rewind_may_follow_a_rewind() {
        let first = [turn(1_000, 0), scheduled(0, "Mix"), failed(0), turn(1_500, 1), failed_end()];
        let again = [turn(3_000, 0), failed(0), turn(3_500, 1), failed_end()];
        check(&[&first, &again], &[0], "S T0 a0 R T0 R", "S T0 a0 T1 R T0 T1 R");
        let asking = [turn(1_000, 0), scheduled(0, "Mix"), failed_end()];
        let more = [turn(1_000, 0), scheduled(1, "Bake"), failed_end()];
        check(&[&asking, &more], &[], "S R a0 R a1", "S T0 a0 R T0 a1 R");
        // Nothing has happened since the last one but its turn.
        check(&[&asking, &[turn(1_000, 0), failed_end()]], &[], "S R a0 R", "S T0 a0 R T0 R");
    }

    #[test]
    fn a_turn_that_asked_for_something_is_played_again_at_its_own_time() {
        let check = |parts: &[&[Event]], expected: Option<u64>| {
            let mut history = vec![Event::Started(started())];
            for (number, part) in parts.iter().enumerate() {
                history.extend(part.iter().cloned());
                if number + 1 < parts.len() {
                    history.push(rewound(&history));
                }
            }
            assert_eq!(last_turn_ms(&history), expected);
        };
        let asking = [turn(1_000, 0), scheduled(0, "Mix"), failed_end()];
        check(&[&[turn(1_000, 0), failed_end()]], None);
        check(&[&asking], Some(1_000));
        check(&[&asking, &[turn(1_000, 0), failed_end()]], Some(1_000));
        check(&[&asking, &[turn(1_000, 0), resolved(0), turn(1_700, 1), failed_end()]], None);
        check(&[&[ended()]], None);
    }
}
