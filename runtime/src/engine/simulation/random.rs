//! Orchestrations that nobody has thought of: drawn from the seed, and run by the real SDK.
//!
//! A program is a tree, and stands in the input of the instance that runs it, so that a history says all there is to know.
//! What activities
//! give derives from their inputs, so that for a program without races the value is known beforehand ([`Node::value`]).

use std::cell::RefCell;
use std::future::{self, Future};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, UNIX_EPOCH};

use dacapo_guest::driver::continue_as_new;
use dacapo_guest::{ChildOptions, Context, ContinueOptions, Result, RetryPolicy, StartOptions, bail};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::below;

/// The one function: what it does is its input.
pub(super) const FUNCTION: &str = "program";

/// Two events, each spelled in two ways.
pub(super) const EVENTS: [&str; 4] = ["go", "GO", "stop", "Stop"];

/// The input of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Program {
    pub body: Node,
    /// How often it continues as new before it ends.
    pub again: u32,
    /// Whether it leaves unread events behind then.
    pub drops: bool,
    /// The events that executions before this one have read.
    pub read: Vec<Value>,
}

/// What an instance gives.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Output {
    pub value: Value,
    /// The events that it has read, in all its executions.
    pub read: Vec<Value>,
}

/// One thing to do. Each has a value, or fails.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Node {
    Sequence(Vec<Self>),
    All(Vec<Self>),
    /// The first that is done counts, and the others are dropped.
    Any(Vec<Self>),
    /// With a timeout in milliseconds.
    Within(u64, Box<Self>),
    /// Gives the kind of the failure, if it is one.
    Try(Box<Self>),
    Work(Work),
    /// In milliseconds.
    Sleep(u64),
    Event(String),
    /// A child runs this, under an ID of its own or one that others want too, with so many attempts.
    Child(Box<Program>, Option<String>, u32),
    /// Another instance does this, so many milliseconds later.
    Start(Box<Program>, Option<u64>),
    /// An event for an instance, or for itself.
    Send(Option<String>, String),
    Status(u32),
    Uuid,
    /// The time goes into the value.
    Now,
    Fail(u32),
}

/// An activity to call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Work {
    pub number: u32,
    /// How many attempts the orchestrator makes at most.
    pub attempts: u32,
    /// How many of them fail.
    pub fails: u32,
    /// Their failure says that another attempt is of no use.
    pub hopeless: bool,
    /// For how long it tries, in milliseconds: this looks at the clock.
    pub total_ms: Option<u64>,
}

impl Work {
    /// What attempt number `attempt`, counted from 1, gives.
    pub(super) fn attempt(&self, attempt: u32) -> std::result::Result<u32, Tired> {
        if attempt > self.fails { Ok(self.number * 10) } else { Err(Tired) }
    }
}

/// Why an activity of a program fails.
pub(super) struct Tired;

impl Tired {
    pub(super) const KIND: &str = "Tired";

    pub(super) fn message(work: &Work) -> String {
        format!("{} is one too many", work.number)
    }
}

/// Which kinds of nodes a program may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Palette {
    /// The value does not depend on the order of things.
    Certain,
    Races,
    /// And it looks at the clock.
    Clock,
}

impl Program {
    pub(super) fn draw(random: &mut ChaCha8Rng) -> Self {
        let palette = [Palette::Certain, Palette::Races, Palette::Races, Palette::Clock][below(random, 4) as usize];
        let depth = if below(random, 4) == 0 { 3 } else { 2 };
        Self::with(random, palette, depth)
    }

    fn with(random: &mut ChaCha8Rng, palette: Palette, depth: u32) -> Self {
        let again = if below(random, 5) == 0 { 1 + below(random, 2) as u32 } else { 0 };
        let drops = below(random, 3) == 0;
        Self { body: Node::group(random, palette, depth), again, drops, read: Vec::new() }
    }

    /// Whether what its executions ask for depends on the times of their turns. What its children do is their own.
    pub(super) fn reads_clock(&self) -> bool {
        self.body.is_any(&|node| matches!(node, Node::Now | Node::Work(Work { total_ms: Some(_), .. })))
    }
}

impl Node {
    fn group(random: &mut ChaCha8Rng, palette: Palette, depth: u32) -> Self {
        let nodes = |random: &mut ChaCha8Rng| (0..2 + below(random, 2)).map(|_| Self::draw(random, palette, depth - 1)).collect();
        match below(random, if palette == Palette::Certain { 6 } else { 9 }) {
            0..4 => Self::Sequence(nodes(random)),
            4..6 => Self::All(nodes(random)),
            _ => Self::Any(nodes(random)),
        }
    }

    fn draw(random: &mut ChaCha8Rng, palette: Palette, depth: u32) -> Self {
        match below(random, 20) {
            0..6 if depth > 0 => Self::group(random, palette, depth),
            6..8 if depth > 0 => Self::Try(Box::new(Self::draw(random, palette, depth - 1))),
            8..10 if depth > 0 => {
                let is_wanted = palette != Palette::Certain && below(random, 2) == 0;
                let id = is_wanted.then(|| format!("child-{}", below(random, 2)));
                let attempts = 1 + below(random, 2) as u32;
                Self::Child(Box::new(Program::with(random, palette, depth)), id, attempts)
            }
            10 if depth > 0 => {
                let after_ms = (below(random, 2) == 0).then(|| below(random, 30));
                Self::Start(Box::new(Program::with(random, palette, 1)), after_ms)
            }
            11..13 if depth > 0 && palette != Palette::Certain => {
                Self::Within(1 + below(random, 40), Box::new(Self::draw(random, palette, depth - 1)))
            }
            13..15 if palette != Palette::Certain => Self::Event(EVENTS[below(random, 4) as usize].to_owned()),
            15 => {
                let to = (below(random, 2) == 0).then(|| format!("instance-{}", below(random, 12)));
                Self::Send(to, EVENTS[below(random, 4) as usize].to_owned())
            }
            16 => Self::Status(below(random, 1_000) as u32),
            17 if palette == Palette::Clock => Self::Now,
            17 if palette == Palette::Races => Self::Uuid,
            18 if below(random, 3) == 0 => Self::Fail(below(random, 1_000) as u32),
            18..20 => Self::Sleep(below(random, 40)),
            _ => {
                let (number, attempts) = (below(random, 1_000) as u32, 1 + below(random, 3) as u32);
                let fails = if below(random, 2) == 0 { below(random, 4) as u32 } else { 0 };
                let is_bounded = palette == Palette::Clock && below(random, 2) == 0;
                let total_ms = is_bounded.then(|| below(random, 60));
                Self::Work(Work { number, attempts, fails, hopeless: below(random, 5) == 0, total_ms })
            }
        }
    }

    /// Whether this or anything within is as `is` says; what other instances do is not within.
    fn is_any(&self, is: &impl Fn(&Self) -> bool) -> bool {
        is(self)
            || match self {
                Self::Sequence(nodes) | Self::All(nodes) | Self::Any(nodes) => nodes.iter().any(|node| node.is_any(is)),
                Self::Within(_, node) | Self::Try(node) => node.is_any(is),
                _ => false,
            }
    }

    /// What comes of it, if that does not depend on the order of things: a value, or kind and message of the failure.
    pub(super) fn value(&self) -> Option<std::result::Result<Value, (String, String)>> {
        let failure = |kind: &str, message: String| Err((kind.to_owned(), message));
        Some(match self {
            Self::Sequence(nodes) => {
                let mut values = Vec::new();
                for node in nodes {
                    match node.value()? {
                        Ok(value) => values.push(value),
                        Err(failure) => return Some(Err(failure)),
                    }
                }
                Ok(Value::Array(values))
            }
            Self::All(nodes) => {
                let results = nodes.iter().map(Self::value).collect::<Option<Vec<_>>>()?;
                results.into_iter().collect::<std::result::Result<_, _>>().map(Value::Array)
            }
            Self::Try(node) => Ok(node.value()?.unwrap_or_else(|(kind, _)| Value::String(kind))),
            Self::Work(Work { total_ms: Some(_), .. }) => return None,
            Self::Work(work) => {
                let attempts = if work.hopeless { 1 } else { work.attempts };
                work.attempt(attempts).map(Value::from).or_else(|_| failure(Tired::KIND, Tired::message(work)))
            }
            Self::Child(program, None, _) => program.body.value()?,
            Self::Sleep(_) | Self::Start(..) | Self::Send(..) | Self::Status(_) => Ok(Value::Null),
            Self::Fail(number) => failure("Error", format!("fails with {number}")),
            Self::Any(_) | Self::Within(..) | Self::Event(_) | Self::Child(..) | Self::Uuid | Self::Now => return None,
        })
    }
}

/// The orchestrator: runs the program in `input`.
pub(super) async fn run(ctx: Context, input: String) -> Result<String> {
    let Program { body, again, drops, read } = serde_json::from_str(&input)?;
    let runner = Runner { ctx, read: RefCell::new(read) };
    let result = runner.run(&body).await;
    let Runner { ctx, read } = runner;
    let read = read.into_inner();
    if again > 0 {
        let options = if drops { ContinueOptions::new().drop_events() } else { ContinueOptions::new() };
        let next = Program { body, again: again - 1, drops, read };
        return Err(continue_as_new(&ctx, &serde_json::to_value(next)?, options));
    }
    match result {
        Ok(value) => Ok(serde_json::to_string(&Output { value, read })?),
        Err(error) => Err(error.with_details(&read)),
    }
}

struct Runner {
    ctx: Context,
    read: RefCell<Vec<Value>>,
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<Value>> + 'a>>;

impl Runner {
    fn run<'a>(&'a self, node: &'a Node) -> Running<'a> {
        Box::pin(async move {
            let ctx = &self.ctx;
            match node {
                Node::Sequence(nodes) => {
                    let mut values = Vec::new();
                    for node in nodes {
                        values.push(self.run(node).await?);
                    }
                    return Ok(Value::Array(values));
                }
                Node::All(nodes) => {
                    let all = join(nodes.iter().map(|node| self.run(node)).collect()).await;
                    return Ok(Value::Array(all.into_iter().collect::<Result<_>>()?));
                }
                Node::Any(nodes) => return race(nodes.iter().map(|node| self.run(node)).collect()).await,
                Node::Within(ms, node) => {
                    let within = ctx.timeout(Duration::from_millis(*ms), self.run(node)).await;
                    return within.unwrap_or_else(|_late| Ok(json!("late")));
                }
                Node::Try(node) => {
                    return Ok(self.run(node).await.unwrap_or_else(|error| json!(error.kind())));
                }
                Node::Work(work) if work.attempts == 1 => return ctx.call_named("work", work).await,
                Node::Work(work) => return ctx.call_named_with("work", work, policy(work.attempts, work.total_ms)).await,
                Node::Sleep(ms) => ctx.sleep(Duration::from_millis(*ms)).await?,
                Node::Event(name) => {
                    let event: Value = ctx.event(name).await?;
                    self.read.borrow_mut().push(event.clone());
                    return Ok(event);
                }
                Node::Child(program, id, attempts) => {
                    let mut options = ChildOptions::new().tag("kind", "child");
                    if let Some(id) = id {
                        options = options.instance_id(id);
                    }
                    if *attempts > 1 {
                        options = options.retry(policy(*attempts, None));
                    }
                    let output: Output = ctx.call_orchestrator_named_with(FUNCTION, program, options).await?;
                    return Ok(output.value);
                }
                Node::Start(program, after_ms) => {
                    let mut options = StartOptions::new();
                    if let Some(after_ms) = after_ms {
                        options = options.at(ctx.now() + Duration::from_millis(*after_ms));
                    }
                    ctx.start_named_with(FUNCTION, program, options)?;
                }
                Node::Send(to, name) => {
                    let to = to.as_deref().unwrap_or(ctx.instance_id());
                    ctx.send_event(to, name, &ctx.new_uuid().to_string())?;
                }
                Node::Status(number) => ctx.set_custom_status(number)?,
                Node::Uuid => return Ok(json!(ctx.new_uuid().to_string())),
                Node::Now => return Ok(json!(ctx.now().duration_since(UNIX_EPOCH)?.as_millis() as u64)),
                Node::Fail(number) => bail!("fails with {number}"),
            }
            Ok(Value::Null)
        })
    }
}

fn policy(attempts: u32, total_ms: Option<u64>) -> RetryPolicy {
    let policy = RetryPolicy::new(Duration::from_millis(2), attempts).backoff_coefficient(1.5);
    match total_ms {
        Some(total_ms) => policy.total_timeout(Duration::from_millis(total_ms)),
        None => policy,
    }
}

/// Waits for all. By hand, as is [`race`]: the crate that has both would be compiled anew for these tests, and with it all
/// that uses it.
async fn join(futures: Vec<Running<'_>>) -> Vec<Result<Value>> {
    let mut open: Vec<_> = futures.into_iter().map(Some).collect();
    let mut results: Vec<_> = open.iter().map(|_| None).collect();
    future::poll_fn(move |cx| {
        for (future, result) in open.iter_mut().zip(&mut results) {
            if let Some(running) = future
                && let Poll::Ready(done) = running.as_mut().poll(cx)
            {
                *result = Some(done);
                *future = None;
            }
        }
        if open.iter().any(Option::is_some) {
            return Poll::Pending;
        }
        Poll::Ready(results.iter_mut().map(|result| result.take().expect("all are done")).collect())
    })
    .await
}

/// Waits for the first, and drops the others.
async fn race(mut futures: Vec<Running<'_>>) -> Result<Value> {
    future::poll_fn(|cx| {
        let first = futures.iter_mut().find_map(|future| match future.as_mut().poll(cx) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        });
        first.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
