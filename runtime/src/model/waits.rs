//! Which events does an execution wait for, and which have come that it has not read?
//!
//! The host answers no wait: the guest finds who waits for an event, by rules that both know (the newest open wait of a name takes it, and
//! a new wait takes the oldest one that nobody has read). This repeats them from the history, for those who look. What a turn did between two
//! events that it was given together is not recorded; the events are then taken to come before all that the turn asked for. So it may be the other
//! one of two waits for the same name that is shown as open, and an event that the guest gave back unread, by dropping a wait
//! that had it, counts as read.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Action, Event, TaskId};

/// The waits and the events of an execution, folded from its history.
#[derive(Debug, Default)]
pub struct Waits {
    turn_at_ms: u64,
    open: BTreeMap<TaskId, Wait>,
    /// By the events' name in lower case.
    mailboxes: BTreeMap<String, Mailbox>,
    /// What waits have got, since it may turn out that it was another wait.
    got: HashMap<TaskId, Letter>,
    /// What no turn has taken yet: an event from outside, or something else.
    inputs: VecDeque<Option<Letter>>,
    raised: u32,
}

/// A wait that no event has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Which events, as the guest spells it.
    pub name: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

/// An event from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its position among those that were raised to the execution, counted from 0.
    pub number: u32,
    /// Its name as it was raised.
    pub name: String,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The events of one name, and those who wait for them.
#[derive(Debug, Default)]
struct Mailbox {
    /// The oldest first.
    unread: VecDeque<Letter>,
    /// The newest last.
    waits: Vec<TaskId>,
}

impl Waits {
    /// Folds a whole history, as far as it stands.
    pub fn fold<'a>(history: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut waits = Self::default();
        history.into_iter().for_each(|event| waits.apply(event));
        waits
    }

    /// The waits that are open, by their numbers.
    pub fn open(&self) -> &BTreeMap<TaskId, Wait> {
        &self.open
    }

    /// The events that turns have taken and no wait has got, by name, and the oldest of each first.
    pub fn unread(&self) -> impl Iterator<Item = &VecDeque<Letter>> {
        self.mailboxes.values().map(|mailbox| &mailbox.unread).filter(|unread| !unread.is_empty())
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Started(started) => self.turn_at_ms = started.at_ms,
            Event::TurnStarted { at_ms, consumes } => {
                self.turn_at_ms = *at_ms;
                for input in self.inputs.drain(..(*consumes as usize).min(self.inputs.len())).collect::<Vec<_>>() {
                    input.into_iter().for_each(|letter| self.deliver(letter));
                }
            }
            Event::Scheduled { task, action: Action::WaitEvent { name } } => {
                let mailbox = self.mailboxes.entry(name.to_lowercase()).or_default();
                match mailbox.unread.pop_front() {
                    Some(letter) => _ = self.got.insert(*task, letter),
                    None => {
                        mailbox.waits.push(*task);
                        self.open.insert(*task, Wait { name: name.clone(), since_ms: self.turn_at_ms });
                    }
                }
            }
            Event::Cancelled { task } => match (self.open.remove(task), self.got.remove(task)) {
                (Some(wait), _) => {
                    let mailbox = self.mailboxes.entry(wait.name.to_lowercase()).or_default();
                    mailbox.waits.retain(|waiting| waiting != task);
                }
                // It was open until then, so the event went elsewhere.
                (None, Some(letter)) => self.deliver(letter),
                (None, None) => (),
            },
            Event::Resolved { .. } => self.inputs.push_back(None),
            Event::Raised { at_ms, name, .. } => {
                let letter = Letter { number: self.raised, name: name.clone(), at_ms: *at_ms };
                self.raised += 1;
                self.inputs.push_back(Some(letter));
            }
            Event::Ended { .. } => {
                self.open.clear();
                self.mailboxes.values_mut().for_each(|mailbox| mailbox.waits.clear());
            }
            Event::Scheduled { .. } | Event::Suspended { .. } | Event::Resumed { .. } | Event::Rewound { .. } => (),
        }
    }

    /// The newest wait gets the event, or else it stays unread.
    fn deliver(&mut self, letter: Letter) {
        let mailbox = self.mailboxes.entry(letter.name.to_lowercase()).or_default();
        match mailbox.waits.pop() {
            Some(task) => {
                self.open.remove(&task);
                self.got.insert(task, letter);
            }
            None => {
                let at = mailbox.unread.partition_point(|other| other.number <= letter.number);
                mailbox.unread.insert(at, letter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::execution::tests::{ended, resolved, scheduled, started, turn};
    use crate::model::{Outcome, Payload};

    /// A history from words: `turn N` takes N inputs, `+name` raises, `0?name` waits as task 0, `0-` drops it, `0=` answers an activity.
    fn history(script: &str) -> Vec<Event> {
        let mut now_ms = 1_000;
        let mut events = vec![Event::Started(started())];
        for step in script.split("; ").filter(|step| !step.is_empty()) {
            now_ms += 100;
            events.push(if let Some(consumes) = step.strip_prefix("turn ") {
                turn(now_ms, consumes.parse().unwrap())
            } else if let Some(name) = step.strip_prefix('+') {
                Event::Raised { at_ms: now_ms, name: name.into(), payload: Payload::null() }
            } else if let Some((task, name)) = step.split_once('?') {
                let action = Action::WaitEvent { name: name.into() };
                Event::Scheduled { task: TaskId(task.parse().unwrap()), action }
            } else if let Some(task) = step.strip_suffix('-') {
                Event::Cancelled { task: TaskId(task.parse().unwrap()) }
            } else if let Some(task) = step.strip_suffix('=') {
                resolved(task.parse().unwrap())
            } else if let Some(task) = step.strip_suffix('!') {
                Event::Resolved { task: TaskId(task.parse().unwrap()), at_ms: now_ms, outcome: Outcome::Fired, ran: None }
            } else if step == "end" {
                ended()
            } else {
                scheduled(step.parse().unwrap(), "Mix")
            });
        }
        events
    }

    fn check(script: &str, open: &str, unread: &str) {
        let waits = Waits::fold(&history(script));
        let seen: Vec<_> = waits.open().iter().map(|(task, wait)| format!("{task}?{}", wait.name)).collect();
        assert_eq!(seen.join(" "), open, "{script}");
        let seen: Vec<_> = waits.unread().flatten().map(|letter| format!("{}+{}", letter.number, letter.name)).collect();
        assert_eq!(seen.join(" "), unread, "{script}");
    }

    #[test]
    fn an_event_answers_the_newest_wait_of_its_name_whatever_its_case() {
        check("turn 0; 0?go; 1?stop; 2?Go", "0?go 1?stop 2?Go", "");
        check("turn 0; 0?go; 1?stop; 2?Go; +GO; turn 1", "0?go 1?stop", "");
        check("turn 0; 0?go; 1?stop; 2?Go; +GO; +go; turn 2", "1?stop", "");
    }

    #[test]
    fn an_event_that_nobody_waits_for_stays_until_somebody_does() {
        check("turn 0; 0; +b; +a; +b; turn 3", "", "1+a 0+b 2+b");
        check("turn 0; 0; +b; +a; +b; turn 3; 1?B", "", "1+a 2+b");
        check("turn 0; 0; +b; +a; +b; turn 3; 1?B; 2?b; 3?b", "3?b", "1+a");
        check("+go; turn 1; 0?go; 1?go", "1?go", "");
    }

    #[test]
    fn an_event_that_no_turn_has_taken_changes_nothing_yet() {
        check("turn 0; 0?go; +go", "0?go", "");
        check("turn 0; 0?go; 1; 1=; +go; turn 1", "0?go", "");
        check("turn 0; 0?go; 1; 1=; +go; turn 1; turn 1", "", "");
        check("turn 0; 0?go; end", "", "");
    }

    #[test]
    fn a_wait_that_was_dropped_gets_nothing() {
        check("turn 0; 0?go; 1; 1!; turn 1; 0-; +go; turn 1", "", "0+go");
        check("turn 0; 0?go; 1?go; 2; 2!; turn 1; 1-; +go; turn 1", "", "");
        // The turn got both events, and dropped the wait for the second when the first had come.
        check("turn 0; 0?a; 1?b; +a; +b; turn 2; 1-", "", "1+b");
        check("turn 0; 0?a; 1?b; 2?b; +a; +b; turn 2; 2-", "", "");
        check("turn 0; 0?a; 1?b; +a; +b; turn 2; 1-; 2?b", "", "");
    }

    #[test]
    fn a_wait_knows_since_when_it_waits() {
        let waits = Waits::fold(&history("turn 0; 0?go; +x; turn 1; 1?stop"));
        let since: Vec<_> = waits.open().values().map(|wait| wait.since_ms).collect();
        assert_eq!(since, [1_100, 1_400]);
        assert_eq!(waits.unread().next().map(|letters| letters[0].at_ms), Some(1_300));
    }
}
