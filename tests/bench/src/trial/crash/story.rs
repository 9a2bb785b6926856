//! What does a client know of an instance that it has started? What was acknowledged, and what may have been done.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::Answer;

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Collect,
    Errand,
    Rounds,
    Gamble,
    Family,
}

/// Whether something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Known {
    #[default]
    No,
    /// It was asked for, and there was no answer.
    Perhaps,
    /// It was acknowledged.
    Yes,
}

/// What all clients share.
#[derive(Debug, Default)]
pub(super) struct Books {
    numbers: u64,
    /// Requests with status 200 to 202.
    pub(super) acknowledged: u64,
    /// Requests with another one, such as a purge of what has not ended.
    pub(super) refused: u64,
    /// Requests without an answer.
    pub(super) cut_off: u64,
    /// An answer that must never be given.
    pub(super) wrong: Option<String>,
    /// The digests of all uploads that were acknowledged.
    pub(super) uploaded: BTreeSet<String>,
}

/// A request that has no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Start,
    Item,
    Terminate { recursive: bool },
    Pause(bool),
    Purge,
}

/// An instance as its client knows it.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) id: String,
    pub(super) kind: Kind,
    number: u64,
    started: Known,
    /// What was sent to it, in order.
    pub(super) items: Vec<(u64, Known)>,
    terminated: Known,
    /// The same for a termination with all its children.
    with_children: Known,
    purged: Known,
    /// Whether it was suspended or resumed last; `None` if that is not known.
    is_paused: Option<bool>,
    asked: Option<Asked>,
}

impl Books {
    /// A number that nobody else has.
    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Counts an answer.
    pub(super) fn count(&mut self, answer: &Answer) {
        match answer.status {
            200..=202 => self.acknowledged += 1,
            404 | 410 | 412 | 500 | 503 => self.refused += 1,
            _ => self.wrong = Some(format!("a request was answered {answer}")),
        }
    }
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Collect, Self::Errand, Self::Rounds, Self::Gamble, Self::Family];

    /// The orchestrator.
    pub(super) fn function(self) -> &'static str {
        match self {
            Self::Collect => "Collect",
            Self::Errand => "Errand",
            Self::Rounds => "Rounds",
            Self::Gamble => "Gamble",
            Self::Family => "Family",
        }
    }
}

impl Story {
    /// One whose start is about to be asked for.
    pub(super) fn new(id: String, kind: Kind, number: u64) -> Self {
        Self {
            id,
            kind,
            number,
            started: Known::No,
            items: Vec::new(),
            terminated: Known::No,
            with_children: Known::No,
            purged: Known::No,
            is_paused: Some(false),
            asked: Some(Asked::Start),
        }
    }

    /// Its input, as JSON.
    pub(super) fn input(&self) -> String {
        match self.kind {
            Kind::Collect => "[]".to_owned(),
            Kind::Errand => format!("[{}, {}]", self.number, self.depth()),
            Kind::Rounds => format!("[{}, 0]", self.rounds()),
            Kind::Gamble => self.number.to_string(),
            Kind::Family => String::new(),
        }
    }

    fn depth(&self) -> u64 {
        self.number % 3
    }

    fn rounds(&self) -> u64 {
        self.number % 7
    }

    /// Whether it makes sense to ask for something about it.
    pub(super) fn may_be_asked(&self) -> bool {
        self.started == Known::Yes && self.terminated != Known::Yes && self.purged != Known::Yes
    }

    /// The ID of its child, if it has one that others know.
    pub(super) fn child(&self) -> Option<String> {
        (self.kind == Kind::Family).then(|| format!("{}-child", self.id))
    }

    /// Whether its child has to end by itself.
    pub(super) fn takes_its_child_along(&self) -> bool {
        self.with_children == Known::Yes
    }

    /// An item is sent; its body.
    pub(super) fn raise(&mut self, item: u64) -> String {
        self.items.push((item, Known::No));
        self.asked = Some(Asked::Item);
        item.to_string()
    }

    /// It is to end; the rest of the path.
    pub(super) fn terminate(&mut self, recursive: bool) -> String {
        self.asked = Some(Asked::Terminate { recursive });
        format!("/terminate?recursive={recursive}")
    }

    /// It is to pause or to go on; the rest of the path.
    pub(super) fn pause(&mut self, suspend: bool) -> String {
        self.asked = Some(Asked::Pause(suspend));
        if suspend { "/suspend" } else { "/resume" }.to_owned()
    }

    /// It is to go; the rest of the path.
    pub(super) fn purge(&mut self) -> String {
        self.asked = Some(Asked::Purge);
        String::new()
    }

    /// What it asked for has been answered.
    pub(super) fn answered(&mut self, status: u16) {
        match status {
            200..=202 => self.note(Known::Yes),
            // It could not be recorded, as far as the server knows.
            503 => self.note(Known::Perhaps),
            _ => self.note(Known::No),
        }
    }

    /// The server was killed. Whether there is something that was not answered.
    pub(super) fn cut_off(&mut self) -> bool {
        let is_open = self.asked.is_some();
        self.note(Known::Perhaps);
        is_open
    }

    fn note(&mut self, known: Known) {
        let rise = |old: &mut Known| {
            if *old != Known::Yes && known != Known::No {
                *old = known;
            }
        };
        match self.asked.take() {
            None => (),
            Some(Asked::Start) => rise(&mut self.started),
            Some(Asked::Item) => match (known, self.items.last_mut()) {
                (Known::No, _) => drop(self.items.pop()),
                (_, Some(item)) => item.1 = known,
                (_, None) => (),
            },
            Some(Asked::Terminate { recursive }) => {
                rise(&mut self.terminated);
                if recursive {
                    rise(&mut self.with_children);
                }
            }
            Some(Asked::Pause(suspend)) => match known {
                Known::No => (),
                Known::Perhaps => self.is_paused = None,
                Known::Yes => self.is_paused = Some(suspend),
            },
            Some(Asked::Purge) => rise(&mut self.purged),
        }
    }

    /// Checks, before anything is brought to its end, that it pauses if it was told to, and does not if it was told to go on.
    pub(super) fn check_pause(&self, answer: &Answer) -> Result<()> {
        let (Some(is_paused), Known::Yes, Known::No, Known::No) = (self.is_paused, self.started, self.terminated, self.purged)
        else {
            return Ok(());
        };
        let status = read(answer).with_context(|| format!("{self:?} was started"))?;
        ensure!((status["runtimeStatus"] == "Suspended") == is_paused, "{self:?} is {status}");
        Ok(())
    }

    /// Checks that it is there if it has to be, and that it has ended as it should.
    pub(super) fn check_end(&self, answer: &Answer) -> Result<()> {
        if answer.status == 404 {
            ensure!(self.started != Known::Yes || self.purged != Known::No, "{self:?} is lost");
            return Ok(());
        }
        ensure!(self.purged != Known::Yes, "{self:?} is there again: {answer}");
        let status = read(answer)?;
        match status["runtimeStatus"].as_str() {
            Some("Terminated") => ensure!(self.terminated != Known::No, "{self:?} was terminated by nobody: {status}"),
            Some("Completed") => {
                ensure!(self.terminated != Known::Yes, "the termination of {self:?} is lost: {status}");
                self.check_output(&status["output"]).with_context(|| format!("{self:?} gave {}", status["output"]))?;
            }
            _ => bail!("{self:?} has not ended well: {status}"),
        }
        Ok(())
    }

    fn check_output(&self, output: &Value) -> Result<()> {
        match self.kind {
            Kind::Collect => {
                let items: Vec<u64> = serde_json::from_value(output.clone()).context("read the items")?;
                let mut collected = items.iter().peekable();
                // In the order of sending, and what was not acknowledged may be missing.
                for (item, known) in &self.items {
                    if collected.next_if_eq(&item).is_none() {
                        ensure!(*known != Known::Yes, "item {item} is lost, or not in its place");
                    }
                }
                ensure!(collected.next().is_none(), "there is more than was sent, or twice");
                Ok(())
            }
            Kind::Errand => same(output, sum(self.number, self.depth())),
            Kind::Rounds => same(output, self.rounds() * (self.rounds() + 1) / 2),
            Kind::Gamble => same(output, self.number),
            Kind::Family => {
                ensure!(*output == Value::Array(Vec::new()), "it has to be empty");
                Ok(())
            }
        }
    }

    /// Checks that its child has ended: with it, or by itself.
    pub(super) fn check_child(&self, answer: &Answer) -> Result<()> {
        if answer.status == 404 {
            ensure!(self.started != Known::Yes || self.terminated != Known::No, "the child of {self:?} is lost");
            return Ok(());
        }
        let status = read(answer)?;
        let ended = status["runtimeStatus"].as_str();
        let expected = match self.with_children {
            Known::Yes => ended == Some("Terminated"),
            Known::Perhaps => matches!(ended, Some("Terminated" | "Completed")),
            Known::No => ended == Some("Completed"),
        };
        ensure!(expected, "the child of {self:?} is {status}");
        Ok(())
    }
}

/// What an errand gives.
fn sum(number: u64, depth: u64) -> u64 {
    if depth == 0 { number } else { number + sum(number, depth - 1) + sum(number + 1, depth - 1) }
}

fn same(output: &Value, expected: u64) -> Result<()> {
    ensure!(output.as_u64() == Some(expected), "it has to be {expected}");
    Ok(())
}

fn read(answer: &Answer) -> Result<Value> {
    ensure!(matches!(answer.status, 200 | 202), "{answer}");
    serde_json::from_slice(&answer.body).context("read a status")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn collector(items: &[(u64, u16)]) -> Story {
        let mut story = Story::new("a".into(), Kind::Collect, 1);
        story.answered(202);
        for (item, status) in items {
            story.raise(*item);
            match status {
                0 => assert!(story.cut_off()),
                status => story.answered(*status),
            }
        }
        story
    }

    fn ended(status: &str, output: Value) -> Answer {
        Answer {
            status: 200,
            body: json!({ "runtimeStatus": status, "output": output }).to_string().into(),
            has_retry_after: false,
        }
    }

    #[test]
    fn what_was_acknowledged_has_to_be_there_once_and_the_rest_at_most_once() {
        let story = collector(&[(1, 202), (2, 0), (3, 410), (4, 202)]);
        for good in [json!([1, 4]), json!([1, 2, 4])] {
            story.check_end(&ended("Completed", good)).unwrap();
        }
        for bad in
            [json!([1]), json!([2, 4]), json!([1, 1, 4]), json!([1, 2, 2, 4]), json!([4, 1]), json!([1, 4, 3]), json!([1, 4, 9])]
        {
            assert!(story.check_end(&ended("Completed", bad.clone())).is_err(), "{bad}");
        }
        assert!(story.check_end(&ended("Failed", json!("died"))).is_err());
        assert!(story.check_end(&ended("Terminated", json!(null))).is_err());
        assert!(story.check_end(&Answer { status: 404, body: Vec::new(), has_retry_after: false }).is_err());
    }

    #[test]
    fn an_acknowledged_end_a_pause_and_a_purge_have_to_last() {
        let mut story = collector(&[]);
        story.pause(true);
        story.answered(202);
        assert!(story.check_pause(&ended("Running", json!(null))).is_err());
        story.check_pause(&ended("Suspended", json!(null))).unwrap();
        story.terminate(true);
        story.cut_off();
        story.check_end(&ended("Completed", json!([]))).unwrap();
        story.terminate(true);
        story.answered(202);
        assert!(story.check_end(&ended("Completed", json!([]))).is_err());
        story.purge();
        story.answered(412);
        assert!(story.check_end(&Answer { status: 404, body: Vec::new(), has_retry_after: false }).is_err());
        story.purge();
        story.answered(200);
        assert!(story.check_end(&ended("Terminated", json!(null))).is_err());
        story.check_end(&Answer { status: 404, body: Vec::new(), has_retry_after: false }).unwrap();
    }
}
