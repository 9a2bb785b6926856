//! What was the server asked, and what did it say, when? Whoever is told that something is done writes down where the trace was.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use dacapo_disk::Layer;
use tokio::time::{Duration, sleep};

use super::check::{COMPLETED, Found, Instance, PENDING, RUNNING, TERMINATED};
use crate::http::{self, Connection};

/// How many numbers a `Collect` gets.
const NUMBERS: u64 = 3;

/// How many hubs get a module in each life.
const UPLOADS: usize = 3;

/// How many kinds of stories there are.
const KINDS: u64 = 6;

/// All that was asked and answered.
#[derive(Default)]
pub(super) struct Ledger {
    tales: RefCell<Vec<Tale>>,
    uploads: RefCell<Vec<(Upload, Step)>>,
    told: Cell<u64>,
    told_in_first_life: Cell<u64>,
}

/// What a client does with one instance.
#[derive(Debug, Clone)]
pub(super) struct Story {
    id: String,
    function: &'static str,
    input: u64,
    deeds: Vec<Deed>,
}

/// What clients are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Start,
    Raise(u64),
    Terminate,
    /// Seen as Completed.
    End,
    Purge,
}

/// A story as far as it was told.
struct Tale {
    story: Story,
    /// One for each deed that was begun.
    steps: Vec<Step>,
}

/// When something was asked for, and when it was said to be done: positions of the trace.
#[derive(Debug, Clone, Copy)]
struct Step {
    asked: u64,
    told: Option<u64>,
}

/// A module for a hub of its own.
#[derive(Debug, Clone)]
struct Upload {
    hub: String,
    /// Which variant.
    number: usize,
}

/// What came of a request.
enum Answered {
    Done,
    /// The server cannot, and says so.
    Refused,
    /// There is no server any more.
    Gone,
}

impl Story {
    /// The one of instance `number` of a life.
    pub(super) fn of(life: usize, number: u64) -> Self {
        use Deed::{End, Purge, Raise, Start, Terminate};
        let raises = (1..=NUMBERS).map(Raise);
        let (function, input, deeds) = match number % KINDS {
            0 => ("Sequence", 3, vec![Start, End]),
            1 => ("Parent", 3, vec![Start, End]),
            2 => ("Numbers", NUMBERS + 1, [Start].into_iter().chain(raises).collect()),
            3 => ("Numbers", NUMBERS, [Start].into_iter().chain(raises).chain([End, Purge]).collect()),
            4 => ("Numbers", NUMBERS, vec![Start, Raise(1), Terminate]),
            _ => ("Numbers", NUMBERS, vec![Start, Raise(1), Terminate, Purge]),
        };
        Self { id: format!("life-{life}-{number}"), function, input, deeds }
    }

    /// Whether an instance can look like that when the first `done` deeds are done, and no other.
    fn allows(&self, done: usize, found: Option<&Instance>) -> bool {
        let done = &self.deeds[..done];
        let is_there = done.contains(&Deed::Start) && !done.contains(&Deed::Purge);
        let Some(found) = found else { return !is_there };
        let raised: Vec<u64> =
            done.iter().filter_map(|deed| if let Deed::Raise(number) = deed { Some(*number) } else { None }).collect();
        // It ends by itself as soon as it has what it waits for.
        let may_end = self.function != "Numbers" || raised.len() as u64 >= self.input;
        let status = match found.status {
            TERMINATED => done.contains(&Deed::Terminate),
            COMPLETED => may_end && !done.contains(&Deed::Terminate),
            RUNNING | PENDING => !done.contains(&Deed::Terminate) && !done.contains(&Deed::End),
            _ => false,
        };
        is_there && found.raised == raised && status
    }
}

impl Tale {
    /// Whether the instance can look like that when the power is lost at `cut`. How many deeds had to be done by then.
    fn check(&self, cut: u64, found: Option<&Instance>) -> Result<u64> {
        let least = self.steps.iter().filter(|step| step.told.is_some_and(|told| told <= cut)).count();
        let most = self.steps.iter().filter(|step| step.asked <= cut).count();
        let Story { id, deeds, .. } = &self.story;
        ensure!(
            (least..=most).any(|done| self.story.allows(done, found)),
            "instance {id} is {found:?}, of {deeds:?} {least} were acknowledged and {most} asked for"
        );
        Ok(least as u64)
    }
}

impl Ledger {
    /// How many acknowledgements there are.
    pub(super) fn told(&self) -> u64 {
        self.told.get()
    }

    /// How many there were in the first life, or are.
    pub(super) fn told_in_first_life(&self) -> u64 {
        self.told_in_first_life.get()
    }

    pub(super) fn end_first_life(&self) {
        self.told_in_first_life.set(self.told());
    }

    /// Plays one story after the other, until the server is gone.
    ///
    /// # Errors
    /// If an answer is none that the server may give, or if a deed is not done although it `has_to` be.
    pub(super) async fn play(
        &self,
        layer: &Layer,
        server: SocketAddr,
        stories: impl Iterator<Item = Story>,
        has_to: bool,
    ) -> Result<()> {
        let mut connection = Connection::open(server).await?;
        for story in stories {
            let tale = self.tales.borrow().len();
            self.tales.borrow_mut().push(Tale { story: story.clone(), steps: Vec::new() });
            for deed in &story.deeds {
                let asked = layer.position()?;
                self.tales.borrow_mut()[tale].steps.push(Step { asked, told: None });
                match deed.ask(&mut connection, server, &story).await.with_context(|| format!("{deed:?} of {}", story.id))? {
                    Answered::Done => {
                        self.tales.borrow_mut()[tale].steps.last_mut().context("it was just begun")?.told =
                            Some(layer.position()?);
                        self.told.set(self.told() + 1);
                    }
                    Answered::Refused | Answered::Gone if has_to => bail!("{deed:?} of {} was not done", story.id),
                    Answered::Refused => break,
                    Answered::Gone => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Gives some hubs a module, until the server is gone.
    ///
    /// # Errors
    /// As [`Ledger::play`].
    pub(super) async fn upload(&self, layer: &Layer, server: SocketAddr, module: &[u8], life: usize, has_to: bool) -> Result<()> {
        let mut connection = Connection::open(server).await?;
        for number in 0..UPLOADS {
            // The last one has to be compiled, which the others need not wait for.
            let is_last = number + 1 == UPLOADS;
            let upload = Upload { hub: format!("Hub{life}x{number}"), number: if is_last { life + 1 } else { 0 } };
            let step = Step { asked: layer.position()?, told: None };
            let path = format!("/admin/modules/bench?taskHub={}", upload.hub);
            let request = http::request("PUT", &path, server, "application/wasm", &variant(module, upload.number));
            self.uploads.borrow_mut().push((upload, step));
            match answered(connection.ask(&request).await, 201).context("upload a module")? {
                Answered::Done => {
                    self.uploads.borrow_mut().last_mut().context("it was just begun")?.1.told = Some(layer.position()?);
                    self.told.set(self.told() + 1);
                }
                Answered::Refused | Answered::Gone if has_to => bail!("an upload was not taken"),
                Answered::Refused | Answered::Gone => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether a store has what it must have, and nothing else, when the power is lost at `cut`. How many acknowledgements had been given by then.
    ///
    /// # Errors
    /// If not.
    pub(super) fn check(&self, cut: u64, found: &Found, module: &[u8]) -> Result<u64> {
        let mut due = 0;
        for tale in self.tales.borrow().iter() {
            due += tale.check(cut, found.instances.get(&tale.story.id))?;
        }
        for (Upload { hub, number }, step) in self.uploads.borrow().iter() {
            let has = found.modules.get(hub).is_some_and(|modules| *modules == [variant(module, *number)]);
            let is_due = step.told.is_some_and(|told| told <= cut);
            ensure!(has || !is_due, "the module that hub {hub} was given is not there");
            ensure!(step.asked <= cut || !found.modules.contains_key(hub), "hub {hub} is there before anybody asked for it");
            due += u64::from(is_due);
        }
        Ok(due)
    }

    /// What was acknowledged, by kind.
    pub(super) fn summary(&self) -> String {
        let tales = self.tales.borrow();
        let count = |is_it: fn(&Deed) -> bool| -> usize {
            let told = |tale: &Tale| {
                tale.steps.iter().zip(&tale.story.deeds).filter(|(step, deed)| step.told.is_some() && is_it(deed)).count()
            };
            tales.iter().map(told).sum()
        };
        let uploads = self.uploads.borrow().iter().filter(|(_, step)| step.told.is_some()).count();
        format!(
            "{} starts, {} events, {} terminates, {} ends, {} purges, {uploads} uploads",
            count(|deed| *deed == Deed::Start),
            count(|deed| matches!(deed, Deed::Raise(_))),
            count(|deed| *deed == Deed::Terminate),
            count(|deed| *deed == Deed::End),
            count(|deed| *deed == Deed::Purge),
        )
    }
}

impl Deed {
    async fn ask(self, connection: &mut Connection, server: SocketAddr, story: &Story) -> Result<Answered> {
        let Story { id, function, input, .. } = story;
        let instance = format!("/runtime/webhooks/durabletask/instances/{id}");
        let mut ask = async |method: &str, path: &str, body: &str, expected: u16| {
            let request = http::request(method, path, server, "application/json", body.as_bytes());
            answered(connection.ask(&request).await, expected)
        };
        match self {
            Self::Start => ask("POST", &format!("/api/orchestrators/{function}/{id}"), &input.to_string(), 202).await,
            Self::Raise(number) => ask("POST", &format!("{instance}/raiseEvent/Number"), &number.to_string(), 202).await,
            Self::Terminate => ask("POST", &format!("{instance}/terminate"), "", 202).await,
            Self::Purge => ask("DELETE", &instance, "", 200).await,
            Self::End => {
                let request = http::request("GET", &instance, server, "application/json", b"");
                // The server may stop to write meanwhile, and go on to answer.
                for _ in 0..500 {
                    match connection.ask(&request).await {
                        Ok(answer) if answer.status == 200 => return Ok(Answered::Done),
                        Ok(answer) => ensure!(answer.status == 202, "{id}: {answer}"),
                        Err(_) => return Ok(Answered::Gone),
                    }
                    sleep(Duration::from_millis(2)).await;
                }
                Ok(Answered::Refused)
            }
        }
    }
}

fn answered(answer: Result<http::Answer>, expected: u16) -> Result<Answered> {
    match answer {
        Ok(answer) if answer.status == expected => Ok(Answered::Done),
        Ok(answer) if answer.status == 503 => Ok(Answered::Refused),
        Ok(answer) => bail!("{answer}"),
        Err(_) => Ok(Answered::Gone),
    }
}

/// The module with a section that means nothing, so that the server takes it for another; number 0 is the module itself.
fn variant(module: &[u8], number: usize) -> Vec<u8> {
    if number == 0 {
        return module.to_vec();
    }
    let name = format!("variant {number}");
    let length = u8::try_from(name.len()).expect("a short name");
    [module, &[0, length + 1, length], name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(number: u64, done: usize, status: i64, raised: &[u64]) -> bool {
        Story::of(0, number).allows(done, Some(&Instance { status, raised: raised.into() }))
    }

    #[test]
    fn a_story_allows_what_its_deeds_lead_to() {
        assert!(Story::of(0, 0).allows(0, None) && !Story::of(0, 0).allows(1, None));
        assert!(check(0, 1, RUNNING, &[]) && check(0, 1, COMPLETED, &[]) && !check(0, 2, RUNNING, &[]));
        assert!(check(2, 3, RUNNING, &[1, 2]) && !check(2, 3, RUNNING, &[1]) && !check(2, 3, RUNNING, &[2, 1]));
        assert!(!check(2, 4, COMPLETED, &[1, 2, 3]) && check(3, 4, COMPLETED, &[1, 2, 3]));
        assert!(check(4, 3, TERMINATED, &[1]) && !check(4, 3, RUNNING, &[1]) && !check(4, 2, TERMINATED, &[1]));
        assert!(Story::of(0, 5).allows(4, None) && !Story::of(0, 5).allows(3, None));
    }

    #[test]
    fn what_was_asked_for_and_not_acknowledged_may_be_there_or_not() {
        let step = |asked, told| Step { asked, told };
        let tale = Tale { story: Story::of(0, 2), steps: vec![step(10, Some(20)), step(20, Some(30)), step(30, None)] };
        let found = |raised: &[u64]| Instance { status: RUNNING, raised: raised.into() };
        assert_eq!(tale.check(9, None).unwrap(), 0);
        assert!(tale.check(9, Some(&found(&[]))).is_err() && tale.check(20, None).is_err());
        assert_eq!(tale.check(15, Some(&found(&[]))).unwrap(), 0);
        assert_eq!(tale.check(29, Some(&found(&[1]))).unwrap(), 1);
        assert!(tale.check(30, Some(&found(&[]))).is_err());
        for raised in [&[1][..], &[1, 2]] {
            assert_eq!(tale.check(99, Some(&found(raised))).unwrap(), 2);
        }
    }
}
