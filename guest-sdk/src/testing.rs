//! How is an orchestrator tested? Natively, in a plain `cargo test`, without a host and without waiting.
//!
//! ```
//! # use std::time::Duration;
//! # use dacapo_guest::prelude::*;
//! # use serde::{Deserialize, Serialize};
//! #[derive(Debug, Serialize, Deserialize)]
//! struct Order {
//!     cents: u64,
//! }
//!
//! #[activity]
//! async fn charge_card(cents: u64) -> Result<String> {
//! #   let _ = cents;
//!     // …
//! #   bail!("no test gets here")
//! }
//!
//! #[orchestrator]
//! async fn order(ctx: Context, order: Order) -> Result<String> {
//!     let week = Duration::from_hours(7 * 24);
//!     if order.cents > 100_000 && !ctx.timeout(week, ctx.event("approve")).await?? {
//!         return Ok("refused".to_owned());
//!     }
//!     ctx.call(charge_card, order.cents).await
//! }
//!
//! use dacapo_guest::testing;
//!
//! # /*
//! #[test]
//! # */
//! fn a_large_order_waits_for_approval() {
//!     let hour = Duration::from_hours(1);
//!     let run = testing::scenario(order, Order { cents: 500_000 })
//!         .activity(charge_card, |cents| Ok(format!("receipt over {cents}")))
//!         .event_at(hour, "approve", &true)
//!         .run();
//!     assert_eq!(run.output().unwrap(), "receipt over 500000");
//!     assert_eq!(run.calls(), ["charge_card(500000)"]);
//!     assert_eq!(run.elapsed(), hour);
//! }
//! # a_large_order_waits_for_approval();
//! ```
//!
//! A [`Scenario`] says what the world outside does: how activities, other orchestrators and HTTP services answer, and which
//! events come when. [`Scenario::run`] plays it on a virtual clock that jumps to whatever comes next, so a test over a year
//! takes no time. Then it replays the recorded turns to fresh executions, also with each event on its own, and panics if one
//! of them asks for anything else.
//!
//! Natively nothing makes an orchestrator deterministic but its author: `SystemTime::now()`, randomness, the order of a
//! `HashMap` and `static`s are those of the test's process. On a host they are the same in every replay. Orchestrators that
//! use [`Context::now`] and [`Context::new_uuid`] do the same in both places. Lines of [`log`](crate::log) go to stderr, once
//! for each replay.

mod world;

use std::any::type_name;
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::world::{Execution, Told, World};
#[cfg(doc)]
use crate::Context;
use crate::bindings::exports::dacapo::guest::orchestrator::{End, Start};
use crate::context::since_epoch_ms;
use crate::executor::Executor;
use crate::function::{Entry, decode_input, encode_output};
use crate::{Activity, ActivityContext, Error, Function, HttpRequest, HttpResponse, Orchestrator, Result};

/// A test of `orchestrator` with this input. Nothing runs before [`Scenario::run`].
///
/// # Panics
/// If `input` has no form in JSON.
#[track_caller]
pub fn scenario<'a, O: Orchestrator>(orchestrator: fn() -> O, input: impl Into<O::Input>) -> Scenario<'a, O>
where
    O::Input: Serialize,
{
    let start = Start {
        function: O::NAME.to_owned(),
        instance_id: "test".to_owned(),
        generation: "0123456789abcdef0123456789abcdef".to_owned(),
        input: to_json("the input", &input.into()),
        parent: None,
        tags: Vec::new(),
        extensions: Vec::new(),
    };
    let _ = orchestrator; // Said all it has to say by its type.
    Scenario { orchestrator: PhantomData, start, start_ms: NEW_YEAR_2030_MS, world: World::default(), named_last: None }
}

/// What happens around one orchestrator while it runs. Mocks may borrow for `'a`, such as a list of what they have seen.
#[must_use = "nothing happens before `.run()`"]
pub struct Scenario<'a, O> {
    orchestrator: PhantomData<fn() -> O>,
    start: Start,
    start_ms: u64,
    world: World<'a>,
    /// What [`Scenario::takes`] is about.
    named_last: Option<Named>,
}

/// What can take time.
enum Named {
    /// A function, by its name in lower case.
    Function(String),
    Http,
}

/// 2030-01-01T00:00:00Z.
const NEW_YEAR_2030_MS: u64 = 1_893_456_000_000;

impl<'a, O: Orchestrator> Scenario<'a, O> {
    /// Answers each call of `activity` by `mock`, in the order of the calls.
    ///
    /// A mock may count and remember:
    ///
    /// ```
    /// # use dacapo_guest::{prelude::*, testing};
    /// # #[activity] async fn charge(cents: u32) -> Result<u32> { Ok(cents) }
    /// # #[orchestrator] async fn order(ctx: Context) -> Result<u32> {
    /// #     while ctx.call(charge, 250_u32).await.is_err() {}
    /// #     ctx.call(charge, 250_u32).await
    /// # }
    /// let mut failures = 2;
    /// # let run =
    /// testing::scenario(order, ()).activity(charge, move |cents| {
    ///     if failures > 0 {
    ///         failures -= 1;
    ///         bail!("the bank is closed");
    ///     }
    ///     Ok(cents)
    /// })
    /// # .run();
    /// # assert_eq!(run.calls().len(), 4);
    /// ```
    pub fn activity<A: Activity>(self, activity: fn() -> A, mut mock: impl FnMut(A::Input) -> Result<A::Output> + 'a) -> Self {
        let _ = activity;
        self.answer(A::NAME, move |_, json| encode_output("activity", A::NAME, &mock(decode_input("activity", A::NAME, &json)?)?))
    }

    /// Answers each call of the activity `name` by `mock`, as for an activity that another module has.
    ///
    /// # Panics
    /// In [`Self::run`], if a call's input cannot be read as what `mock` takes.
    pub fn activity_named<I: DeserializeOwned, T: Serialize>(self, name: &str, mock: impl FnMut(I) -> Result<T> + 'a) -> Self {
        self.answer_named("activity", name, mock)
    }

    /// Answers each call of `orchestrator`, as a sub-orchestration, by `mock`, in the order of the calls.
    ///
    /// ```
    /// # use dacapo_guest::{prelude::*, testing};
    /// # #[orchestrator] async fn ship(ctx: Context, city: String) -> Result<u32> { Ok(12) }
    /// # #[orchestrator] async fn order(ctx: Context) -> Result<u32> { ctx.call(ship, "Oslo").await }
    /// let run = testing::scenario(order, ()).orchestrator(ship, |city| Ok(city.len() as u32)).run();
    /// assert_eq!(run.calls(), ["ship(\"Oslo\")"]);
    /// # assert_eq!(run.output().unwrap(), &4);
    /// ```
    pub fn orchestrator<C: Orchestrator>(
        self,
        orchestrator: fn() -> C,
        mut mock: impl FnMut(C::Input) -> Result<C::Output> + 'a,
    ) -> Self {
        let _ = orchestrator;
        self.answer(C::NAME, move |_, json| {
            encode_output("orchestrator", C::NAME, &mock(decode_input("orchestrator", C::NAME, &json)?)?)
        })
    }

    /// Answers each call of the orchestrator `name` by `mock`, as for one that another module has.
    ///
    /// # Panics
    /// In [`Self::run`], if a call's input cannot be read as what `mock` takes.
    pub fn orchestrator_named<I: DeserializeOwned, T: Serialize>(
        self,
        name: &str,
        mock: impl FnMut(I) -> Result<T> + 'a,
    ) -> Self {
        self.answer_named("orchestrator", name, mock)
    }

    /// Answers each call of `function` by running the function itself. An activity runs with all that it touches. An
    /// orchestrator, called or [started](Context::start), becomes an instance that runs in the same scenario, on the same
    /// clock and against the same mocks.
    pub fn real<F: Function>(mut self, function: fn() -> F) -> Self {
        let _ = function;
        match F::ENTRY {
            Entry::Activity(run) => self.answer(F::NAME, run),
            Entry::Orchestrator(run) => {
                let make = move |start: Start| Executor::new(start, run);
                self.world.make_real(F::NAME, Rc::new(make));
                self.named_last = None;
                self
            }
        }
    }

    /// Answers each request of [`Context::http`] by `mock`: by a response, or by an error if nobody answers.
    ///
    /// ```
    /// # use dacapo_guest::{HttpRequest, HttpResponse, prelude::*, testing};
    /// # #[orchestrator] async fn order(ctx: Context) -> Result<String> {
    /// #     Ok(ctx.http(HttpRequest::post("http://ship/parcels").json("rye")).await?.body)
    /// # }
    /// let run = testing::scenario(order, ())
    ///     .http(|request| match &*request.uri {
    ///         "http://ship/parcels" => Ok(HttpResponse::new(202).with_header("location", "/parcels/7")),
    ///         "http://ship/parcels/7" => Ok(HttpResponse::new(200).with_body("sent")),
    ///         other => bail!("nobody is at {other}"),
    ///     })
    ///     .run();
    /// assert_eq!(run.output().unwrap(), "sent");
    /// assert_eq!(run.requests(), ["POST http://ship/parcels", "GET http://ship/parcels/7"]);
    /// ```
    pub fn http(mut self, mock: impl FnMut(&HttpRequest) -> Result<HttpResponse> + 'a) -> Self {
        self.world.mock_http(Box::new(mock));
        self.named_last = Some(Named::Http);
        self
    }

    /// Says how long each run of what was named last takes: an activity, or the mock of an orchestrator or of HTTP. Without
    /// this it takes no time. A call whose own [timeout](crate::ActivityOptions::timeout) is shorter fails when that is over.
    ///
    /// # Panics
    /// If nothing was named that takes time.
    #[track_caller]
    pub fn takes(mut self, duration: Duration) -> Self {
        let takes = match &self.named_last {
            Some(Named::Function(name)) => self.world.takes(name),
            Some(Named::Http) => self.world.http_takes(),
            None => None,
        };
        *takes.expect("`takes` follows what it is about, an activity or a mock: `.activity(…).takes(…)`") = duration;
        self
    }

    /// Raises the event `name` so long after the start. Events of the same time come in the order of these calls.
    ///
    /// # Panics
    /// If `data` has no form in JSON.
    #[track_caller]
    pub fn event_at(mut self, after: Duration, name: &str, data: &(impl Serialize + ?Sized)) -> Self {
        let data = to_json(&format!("the event {name}"), data);
        self.world.raise_at(after, name, data);
        self
    }

    /// Sets what [`Context::instance_id`] says; otherwise `test`.
    pub fn instance_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.start.instance_id);
        self
    }

    /// Sets what [`Context::parent`] says; otherwise there is none.
    pub fn parent(mut self, instance_id: &str) -> Self {
        self.start.parent = Some(instance_id.to_owned());
        self
    }

    /// Adds a label for [`Context::tags`].
    pub fn tag(mut self, name: &str, value: &str) -> Self {
        self.start.tags.push((name.to_owned(), value.to_owned()));
        self.start.tags.sort();
        self
    }

    /// Sets the time at the start; otherwise it is the first of January 2030.
    pub fn starts_at(mut self, time: SystemTime) -> Self {
        self.start_ms = since_epoch_ms(time);
        self
    }

    /// Stops the run so long after the start, if it has not ended by then: for orchestrators that are to run for ever.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dacapo_guest::{prelude::*, testing};
    /// # #[activity] async fn sweep() -> Result<()> { Ok(()) }
    /// # const DAY: Duration = Duration::from_hours(24);
    /// #[orchestrator]
    /// async fn sweep_daily(ctx: Context) -> Result<()> {
    ///     loop {
    ///         ctx.sleep(DAY).await?;
    ///         ctx.call(sweep, ()).await?;
    ///     }
    /// }
    /// let run = testing::scenario(sweep_daily, ()).real(sweep).until(7 * DAY).run();
    /// assert_eq!(run.calls().len(), 7);
    /// ```
    pub fn until(mut self, after: Duration) -> Self {
        self.world.until = Some(after);
        self
    }

    /// Runs the orchestrator to its end or as long as [`Self::until`] says, and replays what happened. If it continues as new,
    /// it goes on. Other instances, which it has called or started, run as long as it does.
    ///
    /// # Panics
    /// If it calls what nothing here answers, if it waits for what never comes, if it does not end, or if a replay asks for
    /// something else than the first run.
    #[track_caller]
    pub fn run(mut self) -> Run<O::Output> {
        let output = Rc::default();
        let make = executors::<O>(&output);
        let told = self.world.play(self.start, self.start_ms, make.clone());
        let until = self.world.until;
        let output: Option<O::Output> = output.take();
        let executions = self.world.into_executions();
        for execution in &executions {
            execution.check_replay(self.start_ms);
        }

        let last = executions.into_iter().rfind(|execution| execution.instance == 0).expect("the first instance has executed");
        let output = match (last.outcome(), output) {
            (Some(End::Completed(_)), output) => Some(Ok(output.expect("what was returned is there"))),
            (Some(End::Failed(failure)), _) => Some(Err(Error::from_failure(failure.clone()))),
            _ => None,
        };
        let elapsed = match until {
            Some(until) if output.is_none() => until,
            _ => Duration::from_millis(last.now_ms() - self.start_ms),
        };
        Run { output, told, elapsed, last }
    }

    fn answer_named<I: DeserializeOwned, T: Serialize>(
        self,
        role: &'static str,
        name: &str,
        mut mock: impl FnMut(I) -> Result<T> + 'a,
    ) -> Self {
        let owned = name.to_owned();
        self.answer(name, move |_, json| {
            let input = serde_json::from_str(&json).unwrap_or_else(|error| {
                panic!("{role} {owned} is called with {json}, which its mock cannot read as {}: {error}", type_name::<I>())
            });
            encode_output(role, &owned, &mock(input)?)
        })
    }

    fn answer(mut self, name: &str, run: impl FnMut(ActivityContext, String) -> Result<String> + 'a) -> Self {
        let name = name.to_lowercase();
        self.world.mock(name.clone(), Box::new(run));
        self.named_last = Some(Named::Function(name));
        self
    }
}

/// What came of a [`Scenario`].
pub struct Run<T> {
    /// `None` if [`Scenario::until`] stopped it.
    output: Option<Result<T>>,
    told: Told,
    elapsed: Duration,
    /// The last one of the orchestrator under test.
    last: Execution,
}

impl<T> Run<T> {
    /// What the orchestrator returned.
    ///
    /// # Errors
    /// The error that it returned.
    ///
    /// # Panics
    /// If it had not ended when [`Scenario::until`] stopped it.
    #[track_caller]
    pub fn output(&self) -> Result<&T, &Error> {
        let Some(output) = &self.output else {
            panic!(
                "the orchestrator had not ended {:?} after its start, where `.until(…)` stopped it: let it run longer",
                self.elapsed
            )
        };
        output.as_ref()
    }

    /// Whether it ended before [`Scenario::until`] stopped it.
    pub fn ended(&self) -> bool {
        self.output.is_some()
    }

    /// The activities and orchestrators it called, in order, each as its name and input: `charge_card(5000)`. Each attempt
    /// counts. Without those that it cancelled in the turn that asked for them: they never run. With what
    /// [real](Scenario::real) orchestrators called.
    pub fn calls(&self) -> &[String] {
        &self.told.calls
    }

    /// The orchestrators it started, in order, each with its input and the ID of the instance: `audit(17) as audit-17`. With
    /// what real orchestrators started.
    pub fn started(&self) -> &[String] {
        &self.told.started
    }

    /// The events it sent, in order: `arrived to shop-7: 17`. With what real orchestrators sent.
    pub fn sent(&self) -> &[String] {
        &self.told.sent
    }

    /// The HTTP requests it made, in order: `GET http://ship/parcels/7`. Each attempt counts. With what real orchestrators
    /// requested.
    pub fn requests(&self) -> &[String] {
        &self.told.requests
    }

    /// What activities told of their progress, in order: `send_all: 3`.
    pub fn heartbeats(&self) -> &[String] {
        &self.told.heartbeats
    }

    /// The inputs, as JSON, with which it continued as new, in order.
    pub fn continued(&self) -> &[String] {
        &self.told.continued
    }

    /// All that it asked for, in order: `charge_card(5000)`, `event approve`, `timer 3600s` (due so long after the start),
    /// `cancel timer 3600s`, `start audit(17)`, `send arrived to shop-7: 17`, `GET http://ship/parcels/7`.
    pub fn asked(&self) -> &[String] {
        &self.told.asked
    }

    /// Asks it, as it stood at the end or where [`Scenario::until`] stopped it, a question that it answers by
    /// [`Context::on_query`].
    ///
    /// # Errors
    /// If it answers no such question, or as its handler says.
    ///
    /// # Panics
    /// If `input` has no form in JSON, or if the answer cannot be read as an `A`.
    #[track_caller]
    pub fn query<A: DeserializeOwned>(&self, name: &str, input: &(impl Serialize + ?Sized)) -> Result<A> {
        let json = self.last.ask(name, &to_json(&format!("the input of query {name}"), input))?;
        match serde_json::from_str(&json) {
            Ok(answer) => Ok(answer),
            Err(error) => panic!("query {name} is answered with {json}, which cannot be read as {}: {error}", type_name::<A>()),
        }
    }

    /// The virtual time from the start to the end, or to where [`Scenario::until`] stopped it.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The custom status at the end, if there is one.
    ///
    /// # Panics
    /// If it cannot be read as an `S`.
    #[track_caller]
    pub fn custom_status<S: DeserializeOwned>(&self) -> Option<S> {
        let json = self.told.custom_status.as_deref().filter(|json| *json != "null")?;
        match serde_json::from_str(json) {
            Ok(status) => Some(status),
            Err(error) => panic!("the custom status is {json}, which cannot be read as {}: {error}", type_name::<S>()),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Run<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("output", &self.output)
            .field("told", &self.told)
            .field("elapsed", &self.elapsed)
            .finish_non_exhaustive()
    }
}

/// Makes executors of `O` that leave in `output` what it returns.
fn executors<O: Orchestrator>(output: &Rc<RefCell<Option<O::Output>>>) -> world::Make {
    let output = output.clone();
    Rc::new(move |start| {
        let output = output.clone();
        Executor::new(start, move |context, input| {
            Box::pin(async move {
                let input = decode_input("orchestrator", O::NAME, &input)?;
                let returned = O::run(context, input).await?;
                let json = encode_output("orchestrator", O::NAME, &returned)?;
                output.replace(Some(returned));
                Ok(json)
            })
        })
    })
}

#[track_caller]
fn to_json(what: &str, value: &(impl Serialize + ?Sized)) -> String {
    match serde_json::to_string(value) {
        Ok(json) => json,
        Err(error) => panic!("{what} has no form in JSON: {error}"),
    }
}

#[cfg(test)]
mod tests;
