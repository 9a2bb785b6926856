//! How does an orchestrator run other functions? By calls that it waits for, and by starts that it does not.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::exports::dacapo::guest::orchestrator::{Action, ActivityCall, ChildCall, ChildStart, SentEvent};
use crate::context::{ceil_to_ms, since_epoch_ms};
use crate::retry::{RetryPolicy, retried};
use crate::task::{Asked, What, read};
use crate::{Context, Error, Function, IntoInput, IntoOptions, Orchestrator, Result, Task, rules};

/// What a call of an activity may say beside its input. A [`RetryPolicy`] alone will do in its place.
#[derive(Debug, Clone, Default)]
#[must_use = "options say nothing until they are handed over"]
pub struct ActivityOptions {
    retry: Option<RetryPolicy>,
    timeout: Option<Duration>,
}

impl ActivityOptions {
    /// One attempt, for as long as the server gives activities whose call does not say: ten minutes, unless it is set otherwise.
    pub const fn new() -> Self {
        Self { retry: None, timeout: None }
    }

    /// Tries again after failures.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Stops a run that takes longer, rounded up to a millisecond, which is a failure of that attempt. A retry policy may try
    /// again. It may be longer than what is given without it, up to the server's own bound: a day, unless it is set otherwise. (To bound everything, waits included, there is [`Context::timeout`].)
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl From<RetryPolicy> for ActivityOptions {
    fn from(policy: RetryPolicy) -> Self {
        Self::new().retry(policy)
    }
}

/// What a call of an orchestrator may say beside its input. A [`RetryPolicy`] alone will do in its place.
#[derive(Debug, Clone, Default)]
#[must_use = "options say nothing until they are handed over"]
pub struct ChildOptions {
    retry: Option<RetryPolicy>,
    instance_id: Option<String>,
    tags: Vec<(String, String)>,
}

impl ChildOptions {
    /// One attempt, with an ID that derives from the caller's, and no tags.
    pub const fn new() -> Self {
        Self { retry: None, instance_id: None, tags: Vec::new() }
    }

    /// Tries again after failures: each attempt is an instance of its own, or a new start of the same one, if it has an ID.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// The child's instance ID. If an instance of this ID is alive, the call fails.
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    /// A label for the child, by which instances can be listed.
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.push((name.into(), value.into()));
        self
    }
}

impl From<RetryPolicy> for ChildOptions {
    fn from(policy: RetryPolicy) -> Self {
        Self::new().retry(policy)
    }
}

/// What a start of an orchestrator may say beside its input.
#[derive(Debug, Clone, Default)]
#[must_use = "options say nothing until they are handed over"]
pub struct StartOptions {
    instance_id: Option<String>,
    at: Option<SystemTime>,
    tags: Vec<(String, String)>,
}

impl StartOptions {
    /// At once, with an ID that derives from the caller's, and no tags.
    pub const fn new() -> Self {
        Self { instance_id: None, at: None, tags: Vec::new() }
    }

    /// The new instance's ID. If an instance of this ID is alive, nothing is started, and nobody hears of it.
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    /// Lets it begin at this time, rounded up to a millisecond, and not before.
    pub const fn at(mut self, time: SystemTime) -> Self {
        self.at = Some(time);
        self
    }

    /// A label for the new instance, by which instances can be listed.
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.push((name.into(), value.into()));
        self
    }
}

impl Context {
    /// Asks for a run of `function`, an activity or an orchestrator, which starts even before the task is awaited.
    ///
    /// The input may be anything that converts into what the function takes, such as a `&str` for a `String`; a number
    /// needs its type (`ctx.call(square, 7_u64)`), and a function without input takes `()`. If the function fails, its
    /// error arrives here with its kind, message and all else that it says.
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # #[activity] async fn bake(loaf: String) -> Result<u32> { Ok(500) }
    /// #[orchestrator]
    /// async fn bake_two(ctx: Context) -> Result<u32> {
    ///     Ok(ctx.call(bake, "rye").await? + ctx.call(bake, "wheat").await?)
    /// }
    ///
    /// #[orchestrator]
    /// async fn open_shop(ctx: Context) -> Result<u32> {
    ///     ctx.call(bake_two, ()).await
    /// }
    /// ```
    ///
    /// An orchestrator that is called is an instance of its own, with its own history and status: a sub-orchestration. Dropping
    /// the task lets it run on alone.
    pub fn call<F: Function>(&self, function: fn() -> F, input: impl IntoInput<F::Input>) -> Task<F::Output>
    where
        F::Input: Serialize,
        F::Output: DeserializeOwned,
    {
        let _ = function; // Said all it has to say by its type.
        self.ask_once(F::Options::default().into_call(Cow::Borrowed(F::NAME), &input.into_input()))
    }

    /// As [`call`](Self::call), with options: a [`RetryPolicy`], or [`ActivityOptions`] for an activity, or [`ChildOptions`]
    /// for an orchestrator.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dacapo_guest::prelude::*;
    /// # use dacapo_guest::{ActivityOptions, ChildOptions};
    /// # #[activity] async fn bake(loaf: String) -> Result<u32> { Ok(500) }
    /// # #[orchestrator] async fn deliver(ctx: Context, grams: u32) -> Result<()> { Ok(()) }
    /// # async fn order(ctx: Context) -> Result<()> {
    /// let thrice = RetryPolicy::new(Duration::from_secs(1), 3);
    /// let hour = Duration::from_hours(1);
    /// let grams = ctx.call_with(bake, "rye", ActivityOptions::new().retry(thrice.clone()).timeout(hour)).await?;
    /// ctx.call_with(deliver, grams, ChildOptions::new().instance_id("delivery-7").tag("city", "Oslo")).await?;
    /// ctx.call_with(deliver, grams, thrice).await?;
    /// # Ok(()) }
    /// ```
    pub fn call_with<F: Function>(
        &self,
        function: fn() -> F,
        input: impl IntoInput<F::Input>,
        options: impl IntoOptions<F::Options>,
    ) -> Task<F::Output>
    where
        F::Input: Serialize,
        F::Output: DeserializeOwned,
    {
        let _ = function;
        self.ask(options.into_options().into_call(Cow::Borrowed(F::NAME), &input.into_input()))
    }

    /// Asks for a run of an activity that another module has, by its name.
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # async fn pay(ctx: Context) -> Result<()> {
    /// let receipt = ctx.call_named::<String>("ChargeCard", &("alice", 12)).await?;
    /// # Ok(()) }
    /// ```
    pub fn call_named<Output: DeserializeOwned + 'static>(&self, name: &str, input: &(impl Serialize + ?Sized)) -> Task<Output> {
        self.ask_once(ActivityOptions::new().into_call(Cow::Owned(name.to_owned()), input))
    }

    /// As [`call_named`](Self::call_named), with a [`RetryPolicy`] or [`ActivityOptions`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dacapo_guest::prelude::*;
    /// # async fn pay(ctx: Context) -> Result<()> {
    /// let thrice = RetryPolicy::new(Duration::from_secs(1), 3);
    /// let receipt: String = ctx.call_named_with("ChargeCard", &("alice", 12), thrice).await?;
    /// # Ok(()) }
    /// ```
    pub fn call_named_with<Output: DeserializeOwned + 'static>(
        &self,
        name: &str,
        input: &(impl Serialize + ?Sized),
        options: impl IntoOptions<ActivityOptions>,
    ) -> Task<Output> {
        self.ask(options.into_options().into_call(Cow::Owned(name.to_owned()), input))
    }

    /// Asks for a run of an orchestrator that another module has, by its name: a sub-orchestration, as with [`call`](Self::call).
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # async fn ship(ctx: Context) -> Result<()> {
    /// let parcel = ctx.call_orchestrator_named::<String>("Ship", &("Oslo", 12)).await?;
    /// # Ok(()) }
    /// ```
    pub fn call_orchestrator_named<Output: DeserializeOwned + 'static>(
        &self,
        name: &str,
        input: &(impl Serialize + ?Sized),
    ) -> Task<Output> {
        self.ask_once(ChildOptions::new().into_call(Cow::Owned(name.to_owned()), input))
    }

    /// As [`call_orchestrator_named`](Self::call_orchestrator_named), with a [`RetryPolicy`] or [`ChildOptions`].
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # use dacapo_guest::ChildOptions;
    /// # async fn ship(ctx: Context) -> Result<()> {
    /// let options = ChildOptions::new().instance_id("parcel-7").tag("city", "Oslo");
    /// let parcel: String = ctx.call_orchestrator_named_with("Ship", &("Oslo", 12), options).await?;
    /// # Ok(()) }
    /// ```
    pub fn call_orchestrator_named_with<Output: DeserializeOwned + 'static>(
        &self,
        name: &str,
        input: &(impl Serialize + ?Sized),
        options: impl IntoOptions<ChildOptions>,
    ) -> Task<Output> {
        self.ask(options.into_options().into_call(Cow::Owned(name.to_owned()), input))
    }

    /// Starts an instance of `orchestrator` and waits for nothing. Gives the ID of the new instance, which begins after this
    /// turn is recorded.
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # #[orchestrator] async fn audit(ctx: Context, order: u32) -> Result<()> { Ok(()) }
    /// # async fn order(ctx: Context) -> Result<()> {
    /// let id = ctx.start(audit, 17_u32)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the input has no form in JSON. What comes of the start, nobody hears here.
    pub fn start<O: Orchestrator>(&self, orchestrator: fn() -> O, input: impl IntoInput<O::Input>) -> Result<String>
    where
        O::Input: Serialize,
    {
        self.start_with(orchestrator, input, StartOptions::new())
    }

    /// As [`start`](Self::start), with an instance ID, tags, or a time before which it does not begin.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dacapo_guest::prelude::*;
    /// # use dacapo_guest::StartOptions;
    /// # #[orchestrator] async fn audit(ctx: Context, order: u32) -> Result<()> { Ok(()) }
    /// # async fn order(ctx: Context) -> Result<()> {
    /// let tomorrow = ctx.now() + Duration::from_hours(24);
    /// ctx.start_with(audit, 17_u32, StartOptions::new().instance_id("audit-17").tag("kind", "audit").at(tomorrow))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the input has no form in JSON, or the ID or a tag breaks its rules.
    pub fn start_with<O: Orchestrator>(
        &self,
        orchestrator: fn() -> O,
        input: impl IntoInput<O::Input>,
        options: StartOptions,
    ) -> Result<String>
    where
        O::Input: Serialize,
    {
        let _ = orchestrator;
        self.start_named_with(O::NAME, &input.into_input(), options)
    }

    /// Starts an instance of an orchestrator that another module has, by its name, as [`start`](Self::start) does.
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # async fn order(ctx: Context) -> Result<()> {
    /// let id = ctx.start_named("Audit", &17)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the input has no form in JSON.
    pub fn start_named(&self, name: &str, input: &(impl Serialize + ?Sized)) -> Result<String> {
        self.start_named_with(name, input, StartOptions::new())
    }

    /// As [`start_named`](Self::start_named), with an instance ID, tags, or a time before which it does not begin.
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # use dacapo_guest::StartOptions;
    /// # async fn order(ctx: Context) -> Result<()> {
    /// ctx.start_named_with("Audit", &17, StartOptions::new().instance_id("audit-17"))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the input has no form in JSON, or the name, the ID or a tag breaks its rules.
    pub fn start_named_with(&self, name: &str, input: &(impl Serialize + ?Sized), options: StartOptions) -> Result<String> {
        rules::check_function("an orchestrator", name)?;
        options.instance_id.as_deref().map_or(Ok(()), rules::check_instance_id)?;
        let start = ChildStart {
            name: name.to_owned(),
            instance_id: options.instance_id.clone(),
            input: input_json("orchestrator", name, input)?,
            at_ms: options.at.map(since_epoch_ms),
            tags: sorted(options.tags)?,
            options: Vec::new(),
        };
        let task = self.ledger.ask(Action::StartDetached(start))?;
        // As the host derives it, from what is said in `begin`.
        Ok(options.instance_id.unwrap_or_else(|| format!("{}:{task:04x}", self.ledger.start.generation)))
    }

    /// Raises the event `name` to another instance, after this turn is recorded. Waits there match it in whatever case; if
    /// there is no such instance, or if it has ended, the event is dropped.
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # async fn order(ctx: Context) -> Result<()> {
    /// ctx.send_event("shop-7", "order arrived", &17)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If `data` has no form in JSON, or what is no instance ID, or no name of an event, is given.
    pub fn send_event(&self, instance_id: &str, name: &str, data: &(impl Serialize + ?Sized)) -> Result<()> {
        rules::check_instance_id(instance_id)?;
        rules::check_event(name)?;
        let data = serde_json::to_string(data).map_err(|error| {
            Error::new("InvalidEvent", format!("the event {name} for {instance_id:?} has no form in JSON: {error}"))
                .non_retriable()
        })?;
        let sent = SentEvent { instance_id: instance_id.to_owned(), name: name.to_owned(), data };
        self.ledger.ask(Action::SendEvent(sent)).map(|_| ())
    }

    /// Makes a call as often as its options say.
    fn ask<T: DeserializeOwned + 'static>(&self, call: Result<Call>) -> Task<T> {
        let Ok(Call { retry: Some(policy), action, what }) = call else { return self.ask_once(call) };
        let first = policy.check().and_then(|()| Asked::ask(&self.ledger, action.clone(), what.clone()));
        match first {
            Ok(first) => {
                let json = self.retry(policy, first, action, what.clone());
                Task::composed(what.clone(), async move { read(&what, &json.await?) })
            }
            Err(error) => Task::refused(error),
        }
    }

    /// Makes a call whose options say nothing of retries. Apart, so that a guest without retries holds no code for them.
    fn ask_once<T>(&self, call: Result<Call>) -> Task<T> {
        call.and_then(|call| Asked::ask(&self.ledger, call.action, call.what)).into()
    }

    /// Makes the attempts behind the `first` one.
    fn retry(
        &self,
        policy: RetryPolicy,
        first: Asked,
        action: Action,
        what: What,
    ) -> impl Future<Output = Result<String>> + use<> {
        let (ctx, task) = (self.clone(), first.number);
        retried(self.clone(), Some(policy), first, move |number| {
            let mut action = action.clone();
            if let Action::Activity(ActivityCall { attempt, first_attempt, .. })
            | Action::SubOrchestration(ChildCall { attempt, first_attempt, .. }) = &mut action
            {
                (*attempt, *first_attempt) = (number, Some(task));
            }
            Asked::ask(&ctx.ledger, action, what.clone())
        })
    }
}

/// The options of one kind of function. Only this crate implements it.
pub trait CallOptions: Default {
    /// The call of the function `name` with these options.
    #[doc(hidden)]
    fn into_call(self, name: Cow<'static, str>, input: &(impl Serialize + ?Sized)) -> Result<Call>;
}

/// A call of a function, as its first attempt asks for it.
pub struct Call {
    what: What,
    action: Action,
    retry: Option<RetryPolicy>,
}

impl CallOptions for ActivityOptions {
    fn into_call(self, name: Cow<'static, str>, input: &(impl Serialize + ?Sized)) -> Result<Call> {
        rules::check_function("an activity", &name)?;
        let action = Action::Activity(ActivityCall {
            name: name.clone().into_owned(),
            input: input_json("activity", &name, input)?,
            attempt: 1,
            first_attempt: None,
            timeout_ms: self.timeout.map(ceil_to_ms),
            options: Vec::new(),
        });
        Ok(Call { what: What::Activity(name), action, retry: self.retry })
    }
}

impl CallOptions for ChildOptions {
    fn into_call(self, name: Cow<'static, str>, input: &(impl Serialize + ?Sized)) -> Result<Call> {
        rules::check_function("an orchestrator", &name)?;
        self.instance_id.as_deref().map_or(Ok(()), rules::check_instance_id)?;
        let action = Action::SubOrchestration(ChildCall {
            name: name.clone().into_owned(),
            instance_id: self.instance_id,
            input: input_json("orchestrator", &name, input)?,
            attempt: 1,
            first_attempt: None,
            tags: sorted(self.tags)?,
            options: Vec::new(),
        });
        Ok(Call { what: What::Orchestrator(name), action, retry: self.retry })
    }
}

/// As the contract wants tags. The last value of a name counts.
fn sorted(tags: Vec<(String, String)>) -> Result<Vec<(String, String)>> {
    let tags: Vec<_> = tags.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect();
    rules::check_tags(&tags)?;
    Ok(tags)
}

fn input_json(role: &str, name: &str, input: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(input).map_err(|error| {
        Error::new("InvalidInput", format!("the input for {role} {name} has no form in JSON: {error}")).non_retriable()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::executor::tests::{check, echo};
    use crate::orchestrator;

    #[orchestrator]
    async fn bake(_ctx: Context, loaf: String) -> Result<u32> {
        Ok(loaf.len() as u32)
    }

    #[test]
    fn a_child_is_called_as_an_activity_is() {
        async fn call(ctx: Context) -> Result<u32> {
            let (rye, wheat) = (ctx.call(bake, "rye"), ctx.call_orchestrator_named::<u32>("Bake", &"wheat"));
            Ok(rye.await? + wheat.await?)
        }
        check(call, &[("turn 0", "child bake(\"rye\"); child Bake(\"wheat\")"), ("turn 1; 1=5", ""), ("0=3", "ended 8")]);
        check(call, &[("turn 0", "child bake(\"rye\"); child Bake(\"wheat\")"), ("0!Cold", "failed Cold: it went wrong")]);
    }

    #[test]
    fn a_call_takes_its_options() {
        async fn call(ctx: Context) -> Result<u32> {
            let options = ChildOptions::new().instance_id("loaf").tag("grain", "oat").tag("grain", "rye").tag("a", "b");
            let first = ctx.call_with(bake, "rye", options.clone());
            let second = ctx.call_orchestrator_named_with::<u32>("Bake", "rye", options);
            let brief = ActivityOptions::new().timeout(Duration::from_secs(1));
            let third = ctx.call_named_with::<u32>("Weigh", &7, brief);
            Ok(first.await? + second.await? + third.await?)
        }
        let child = "(\"rye\") as loaf a=b grain=rye";
        let asked = format!("child bake{child}; child Bake{child}; Weigh(7) within 1000");
        check(call, &[("turn 0", &asked), ("0=1; 1=2; 2=3", "ended 6")]);
    }

    #[test]
    fn a_child_that_gives_another_type_is_a_failure() {
        async fn call(ctx: Context) -> Result<u32> {
            ctx.call(bake, "rye").await
        }
        let failure = "failed InvalidOutput: orchestrator bake gave something else than expected: \
                       invalid type: string \"heavy\", expected u32 at line 1 column 7";
        check(call, &[("turn 0", "child bake(\"rye\")"), ("0=\"heavy\"", failure)]);
    }

    #[test]
    fn a_start_gives_the_id_of_the_new_instance_and_is_not_awaited() {
        async fn start(ctx: Context) -> Result<Vec<String>> {
            let first = ctx.call(echo, 1_u32);
            let derived = ctx.start(bake, "rye")?;
            let at = ctx.now() + Duration::from_micros(1);
            let named = ctx.start_named_with("Bake", "rye", StartOptions::new().instance_id("loaf-7").tag("a", "b").at(at))?;
            first.await?;
            Ok(vec![derived, named, ctx.start_named("Bake", &7)?])
        }
        let asked = "echo(1); start bake(\"rye\"); start Bake(\"rye\") as loaf-7 a=b at 6";
        let ids = "[\"0123456789abcdef0123456789abcdef:0001\",\"loaf-7\",\"0123456789abcdef0123456789abcdef:0003\"]";
        check(start, &[("turn 5", asked), ("turn 6; 0=1", &format!("start Bake(7); ended {ids}"))]);
    }

    #[test]
    fn an_event_is_sent_in_the_order_of_asking_and_takes_a_number() {
        async fn send(ctx: Context) -> Result<u32> {
            ctx.send_event("shop-7", "Loaf baked", &("rye", 500))?;
            ctx.call(echo, 1_u32).await
        }
        check(send, &[("turn 0", "send Loaf baked to shop-7: [\"rye\",500]; echo(1)"), ("1=7", "ended 7")]);
    }

    #[test]
    fn what_has_no_form_in_json_is_never_asked_for() {
        fn unspeakable() -> HashMap<(), u32> {
            HashMap::from([((), 1)])
        }
        async fn call(ctx: Context) -> Result<u32> {
            ctx.call_orchestrator_named("Bake", &unspeakable()).await
        }
        let failure = "failed InvalidInput: the input for orchestrator Bake has no form in JSON: key must be a string";
        check(call, &[("turn 0", failure)]);
        async fn start(ctx: Context) -> Result<String> {
            ctx.start_named("Bake", &unspeakable())
        }
        check(start, &[("turn 0", failure)]);
        async fn send(ctx: Context) -> Result<()> {
            ctx.send_event("shop", "loaf", &unspeakable())
        }
        let failure = "failed InvalidEvent: the event loaf for \"shop\" has no form in JSON: key must be a string";
        check(send, &[("turn 0", failure)]);
    }
}
