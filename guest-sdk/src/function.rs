//! What the attributes make of a function: a name with a type that says what goes in and what comes out.
//!
//! `#[activity] async fn say_hello(city: String) -> Result<String>` becomes
//! `fn say_hello() -> impl Activity<Input = String, Output = String>`. So `ctx.call(say_hello, "Oslo")` is checked by the
//! compiler, and calling `say_hello("Oslo".into())` past the host, which would not be durable, does not compile.

use std::any::TypeId;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, Waker};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::CallOptions;
use crate::executor::Woken;
use crate::{ActivityContext, ActivityOptions, ChildOptions, Context, Error, Result};

/// A function that other functions and clients reach by name. The attributes implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither an activity nor an orchestrator",
    note = "only functions with the attribute `#[activity]` or `#[orchestrator]` can be called this way"
)]
pub trait Function: 'static {
    /// What it is called by.
    const NAME: &'static str;

    /// What it takes; `()` if nothing. To be called from the same module, it has to be `Serialize` too.
    type Input: DeserializeOwned + 'static;

    /// What it gives. To be called from the same module, it has to be `DeserializeOwned` too.
    type Output: Serialize + 'static;

    /// What a call may say beside the input: [`ActivityOptions`] or [`ChildOptions`].
    type Options: CallOptions;

    #[doc(hidden)]
    const ENTRY: Entry;
}

/// A function with `#[activity]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no activity",
    note = "only functions with the attribute `#[activity]` can be used this way"
)]
pub trait Activity: Function<Options = ActivityOptions> {
    #[doc(hidden)]
    fn run(context: ActivityContext, input: Self::Input) -> impl Future<Output = Result<Self::Output>>;
}

/// A function with `#[orchestrator]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no orchestrator",
    note = "only functions with the attribute `#[orchestrator]` can be used this way"
)]
pub trait Orchestrator: Function<Options = ChildOptions> {
    #[doc(hidden)]
    fn run(context: Context, input: Self::Input) -> impl Future<Output = Result<Self::Output>> + 'static;
}

/// How the host's call reaches a function. Inputs and outputs are JSON text.
#[derive(Clone, Copy)]
pub enum Entry {
    /// Makes the future of an execution and runs nothing yet.
    Orchestrator(fn(Context, String) -> Execution),
    /// Runs an activity to its end.
    Activity(fn(ActivityContext, String) -> Result<String>),
}

/// An orchestrator at work.
pub(crate) type Execution = Pin<Box<dyn Future<Output = Result<String>>>>;

impl Entry {
    /// The entry of the orchestrator `O`.
    pub const fn orchestrator<O: Orchestrator>() -> Self {
        Self::Orchestrator(|context, input| {
            Box::pin(async move {
                let input = decode_input("orchestrator", O::NAME, &input)?;
                encode_output("orchestrator", O::NAME, &O::run(context, input).await?)
            })
        })
    }

    /// The entry of the activity `A`.
    pub const fn activity<A: Activity>() -> Self {
        Self::Activity(|context, input| {
            let input = decode_input("activity", A::NAME, &input)?;
            encode_output("activity", A::NAME, &block_on(A::NAME, A::run(context, input))?)
        })
    }
}

/// One line of a module's catalog.
#[derive(Clone, Copy)]
pub struct Definition {
    /// What it is called by.
    pub name: &'static str,
    /// How it is called.
    pub entry: Entry,
}

/// What may stand in a module's list: what the attributes make of a function.
#[diagnostic::on_unimplemented(
    message = "`module!` lists functions with `#[activity]` or `#[orchestrator]`",
    label = "put one of these attributes on this function"
)]
pub trait ActivityOrOrchestrator: Copy {
    /// What it is.
    const DEFINITION: Definition;
}

#[diagnostic::do_not_recommend]
impl<L: Fn() -> F + Copy, F: Function> ActivityOrOrchestrator for L {
    const DEFINITION: Definition = Definition { name: F::NAME, entry: F::ENTRY };
}

/// The definition of a function with an attribute.
pub const fn define<L: ActivityOrOrchestrator>(_: L) -> Definition {
    L::DEFINITION
}

/// What a function with an attribute may return. Finds the value's type behind any alias of `Result`.
#[diagnostic::on_unimplemented(
    message = "an activity or orchestrator cannot return `{Self}`",
    label = "write `Result<…>`, which is `dacapo_guest::Result` of what it gives",
    note = "`Result<T, E>` with another error works too, if `E` is a `std::error::Error`; of a text, `bail!(\"…\")` makes one"
)]
pub trait Fallible {
    /// What it is if it went well.
    type Value;

    /// The same with our error.
    fn into_result(self) -> Result<Self::Value>;
}

#[diagnostic::do_not_recommend]
impl<T, E: Into<Error>> Fallible for Result<T, E> {
    type Value = T;

    fn into_result(self) -> Result<T> {
        self.map_err(Into::into)
    }
}

pub(crate) fn decode_input<T: DeserializeOwned + 'static>(role: &str, name: &str, json: &str) -> Result<T> {
    // A function without an input does not mind being given one.
    let json = if TypeId::of::<T>() == TypeId::of::<()>() { "null" } else { json };
    serde_json::from_str(json)
        .map_err(|error| Error::new("InvalidInput", format!("{role} {name} cannot read its input: {error}")).non_retriable())
}

pub(crate) fn encode_output(role: &str, name: &str, output: &impl Serialize) -> Result<String> {
    serde_json::to_string(output).map_err(|error| {
        Error::new("InvalidOutput", format!("{role} {name} returned what has no form in JSON: {error}")).non_retriable()
    })
}

/// Runs an activity's future to its end. The host calls activities synchronously, each in an instance of its own.
fn block_on<T>(name: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending if woken.take() => {}
            Poll::Pending => {
                let message = format!(
                    "activity {name} waits for something that nothing can wake: no async runtime and no other thread \
                     runs beside it"
                );
                return Err(Error::new("ActivityStuck", message).non_retriable());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    #[activity]
    async fn double(number: u32) -> Result<u32> {
        Ok(number * 2)
    }

    #[activity(name = "Who am I")]
    async fn who_am_i(context: ActivityContext) -> Result<String> {
        Ok(format!("{}/{}", context.instance_id, context.task))
    }

    #[activity]
    async fn measure(text: String, context: ActivityContext) -> Result<u32, std::num::TryFromIntError> {
        u32::try_from(text.len() + context.attempt as usize)
    }

    #[activity]
    async fn stuck() -> Result<()> {
        std::future::pending().await
    }

    #[activity]
    async fn yields() -> Result<u32> {
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == 3 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        Ok(polls)
    }

    #[activity]
    async fn unspeakable() -> Result<std::collections::HashMap<(), u32>> {
        Ok(std::collections::HashMap::from([((), 1)]))
    }

    /// Calls `function` as call 3 of instance `loaf`.
    #[track_caller]
    fn check<A: Activity>(_function: fn() -> A, input: &str, expected: Result<&str, &str>) {
        let Entry::Activity(run) = A::ENTRY else { panic!("{} is no activity", A::NAME) };
        let context = ActivityContext { instance_id: "loaf".to_owned(), task: 3, attempt: 1, ..ActivityContext::default() };
        let answer = run(context, input.to_owned()).map_err(|error| error.to_string());
        assert_eq!(answer.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn an_activity_takes_and_gives_json() {
        check(double, "21", Ok("42"));
        assert_eq!(define(double).name, "double");
    }

    #[test]
    fn an_activity_may_ask_which_call_it_is() {
        check(who_am_i, "null", Ok("\"loaf/3\""));
        check(measure, "\"rye\"", Ok("4"));
        assert_eq!(define(who_am_i).name, "Who am I");
    }

    #[test]
    fn a_function_without_input_ignores_what_it_is_given() {
        check(who_am_i, "{\"any\": [1]}", Ok("\"loaf/3\""));
    }

    #[test]
    fn an_input_of_the_wrong_type_is_an_error_that_says_so() {
        let message = "InvalidInput: activity double cannot read its input: \
                       invalid type: string \"two\", expected u32 at line 1 column 5";
        check(double, "\"two\"", Err(message));
    }

    #[test]
    fn an_output_without_a_form_in_json_is_an_error() {
        let message = "InvalidOutput: activity unspeakable returned what has no form in JSON: key must be a string";
        check(unspeakable, "null", Err(message));
    }

    #[test]
    fn an_activity_may_wake_itself() {
        check(yields, "null", Ok("3"));
    }

    #[test]
    fn an_activity_that_nothing_can_wake_is_an_error() {
        let message = "ActivityStuck: activity stuck waits for something that nothing can wake: \
                       no async runtime and no other thread runs beside it";
        check(stuck, "null", Err(message));
    }
}
