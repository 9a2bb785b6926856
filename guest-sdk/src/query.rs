//! Which questions does an orchestration answer? Those it has handlers for: `ctx.on_query(…)`.
//!
//! A handler may only look. The host asks a copy of the execution that it throws away afterwards, so whatever a handler would ask
//! for could never come about; it is told so by a failure.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::function::{decode_input, encode_output};
use crate::{Context, Error, Result};

impl Context {
    /// Answers the question `name`, in whatever case, by `handler` from now on, also after the orchestrator has ended. A
    /// handler of the same name takes its place.
    ///
    /// Whoever may see the instance can ask, at any time: `GET …/instances/{id}/query/{name}`. What orchestrator and handler
    /// share lies in an `Rc`:
    ///
    /// ```
    /// # use std::{cell::Cell, rc::Rc};
    /// # use dacapo_guest::{prelude::*, testing};
    /// # #[activity] async fn bake(loaf: u32) -> Result<()> { Ok(()) }
    /// #[orchestrator]
    /// async fn bake_all(ctx: Context, loaves: u32) -> Result<()> {
    ///     let baked = Rc::new(Cell::new(0));
    ///     let seen = baked.clone();
    ///     ctx.on_query("left", move |_: ()| loaves - seen.get());
    ///     for loaf in 0..loaves {
    ///         ctx.call(bake, loaf).await?;
    ///         baked.set(loaf + 1);
    ///     }
    ///     Ok(())
    /// }
    /// # let run = testing::scenario(bake_all, 3_u32).real(bake).run();
    /// # assert_eq!(run.query::<u32>("Left", &()).unwrap(), 0);
    /// ```
    ///
    /// A handler may only look: one that asks its context for anything, such as a call or a new UUID, fails with `QueryAsked`.
    pub fn on_query<I: DeserializeOwned + 'static, O: Serialize>(&self, name: &str, handler: impl Fn(I) -> O + 'static) {
        let owned = name.to_owned();
        let handler = move |json: &str| encode_output("query", &owned, &handler(decode_input("query", &owned, json)?));
        self.ledger.answer_query(name, Rc::new(handler));
    }
}

/// Answers a question: JSON to JSON.
pub(crate) type Handler = Rc<dyn Fn(&str) -> Result<String>>;

/// The questions that an execution answers.
#[derive(Default)]
pub(crate) struct Queries {
    /// By name in lower case, with the name as it was given.
    handlers: RefCell<BTreeMap<String, (String, Handler)>>,
    /// What the handler at work has asked for first, though it may not.
    pub(crate) refused: RefCell<Option<String>>,
}

impl Queries {
    pub(crate) fn add(&self, name: &str, handler: Handler) {
        let before = self.handlers.borrow_mut().insert(name.to_lowercase(), (name.to_owned(), handler));
        drop(before); // Not before the borrow: it may run code that comes back here.
    }

    /// The handler of `name`.
    pub(crate) fn find(&self, name: &str) -> Result<Handler> {
        let handlers = self.handlers.borrow();
        if let Some((_, handler)) = handlers.get(&name.to_lowercase()) {
            return Ok(handler.clone());
        }
        let names: Vec<_> = handlers.values().map(|(name, _)| name.as_str()).collect();
        let there_are = match &names[..] {
            [] => "so far it answers none".to_owned(),
            names => format!("it answers {}", names.join(", ")),
        };
        Err(Error::new("UnknownQuery", format!("this orchestration answers no query {name:?}: {there_are}")).non_retriable())
    }

    pub(crate) fn forget(&self) {
        let handlers = self.handlers.take();
        drop(handlers);
    }
}

/// What a query gets to hear that asks for something.
pub(crate) fn only_looks() -> Error {
    Error::new("QueryAsked", "a query may only look").non_retriable()
}

/// What is told to who asked the question.
pub(crate) fn query_asked(name: &str, what: &str) -> Error {
    let message = format!(
        "query {name:?} asks for {what}, and a query may only look: let its handler return what the orchestrator has left for it, \
         such as the content of an `Rc<RefCell<…>>`"
    );
    Error::new("QueryAsked", message).non_retriable()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::executor::Executor;
    use crate::executor::tests::{describe, echo, event, start};
    use crate::{HttpRequest, Task, orchestrator};

    #[orchestrator]
    async fn bake(_ctx: Context) -> Result<()> {
        Ok(())
    }

    #[track_caller]
    fn check(executor: &Executor, name: &str, input: &str, expected: Result<&str, &str>) {
        let answer = executor.ask(name, input).map_err(|error| error.to_string());
        assert_eq!(answer.as_deref().map_err(String::as_str), expected);
    }

    /// Adds up what its activities give.
    async fn add_up(ctx: Context) -> Result<u32> {
        let sum = Rc::new(Cell::new(0));
        let seen = sum.clone();
        ctx.on_query("Sum", move |plus: u32| seen.get() + plus);
        let seen = sum.clone();
        ctx.on_query("is-zero", move |_: ()| seen.get() == 0);
        for number in [1_u32, 2] {
            sum.set(sum.get() + ctx.call(echo, number).await?);
        }
        Ok(sum.get())
    }

    #[test]
    fn a_question_is_answered_at_any_time_and_changes_nothing() {
        let mut executor = start(&add_up);
        let nothing = "UnknownQuery: this orchestration answers no query \"sum\": so far it answers none";
        check(&executor, "sum", "1", Err(nothing));
        assert_eq!(describe(&[executor.advance(vec![event("turn 0")])]), "echo(1)");
        check(&executor, "sum", "100", Ok("100"));
        assert_eq!(describe(&[executor.advance(vec![event("0=10")])]), "echo(2)");
        check(&executor, "SUM", "100", Ok("110"));
        check(&executor, "Is-Zero", "\"whatever\"", Ok("false"));
        assert_eq!(describe(&[executor.advance(vec![event("1=20")])]), "ended 30");
        check(&executor, "sum", "100", Ok("130"));
    }

    #[test]
    fn an_unknown_question_is_answered_with_those_there_are() {
        let mut executor = start(&add_up);
        executor.advance(vec![event("turn 0")]);
        let message = "UnknownQuery: this orchestration answers no query \"total\": it answers is-zero, Sum";
        check(&executor, "total", "null", Err(message));
    }

    #[test]
    fn an_input_of_the_wrong_type_is_an_error() {
        let mut executor = start(&add_up);
        executor.advance(vec![event("turn 0")]);
        let message = "InvalidInput: query Sum cannot read its input: invalid type: null, expected u32 at line 1 column 4";
        check(&executor, "sum", "null", Err(message));
    }

    #[test]
    fn a_handler_of_the_same_name_takes_the_place_of_the_one_before() {
        let mut executor = start(&|ctx: Context| async move {
            ctx.on_query("oven", |_: ()| "cold");
            ctx.on_query("Oven", |_: ()| "hot");
            Ok(())
        });
        executor.advance(vec![event("turn 0")]);
        check(&executor, "oven", "null", Ok("\"hot\""));
    }

    #[test]
    fn a_handler_that_asks_for_something_fails_and_changes_nothing() {
        type Ask = fn(&Context);
        let asks: [(&str, Ask); 11] = [
            ("activity echo", |ctx| drop(ctx.call(echo, 1_u32))),
            ("orchestrator bake", |ctx| drop(ctx.call(bake, ()))),
            ("a start of bake", |ctx| drop(ctx.start(bake, ()))),
            ("event item for instance \"loaf\"", |ctx| drop(ctx.send_event("loaf", "item", &1))),
            ("event item", |ctx| drop::<Task<u32>>(ctx.event("item"))),
            ("a timer", |ctx| drop(ctx.timeout(Duration::from_secs(1), async {}))),
            ("GET http://a/", |ctx| drop(ctx.http(HttpRequest::get("http://a/")))),
            ("a new UUID", |ctx| assert_ne!(ctx.new_uuid(), uuid::Uuid::nil())),
            ("a custom status", |ctx| drop(ctx.set_custom_status("hot"))),
            ("a new execution", |ctx| drop(ctx.continue_as_new(crate::query::tests::bake, ()))),
            ("another query", |ctx| ctx.on_query("more", |_: ()| 1)),
        ];
        for (what, ask) in asks {
            let mut executor = start(&move |ctx: Context| async move {
                let context = ctx.clone();
                ctx.on_query("ask", move |_: ()| ask(&context));
                ctx.call(echo, 1_u32).await
            });
            executor.advance(vec![event("turn 0")]);
            let message = format!(
                "QueryAsked: query \"ask\" asks for {what}, and a query may only look: let its handler return what the \
                 orchestrator has left for it, such as the content of an `Rc<RefCell<…>>`"
            );
            check(&executor, "ask", "null", Err(&message));
            check(&executor, "ASK", "null", Err(&message.replace("ask\"", "ASK\"")));
            let names = "UnknownQuery: this orchestration answers no query \"more\": it answers ask";
            check(&executor, "more", "null", Err(names));
            assert_eq!(describe(&[executor.advance(vec![event("0=7")])]), "ended 7", "after a query asked for {what}");
        }
    }

    #[test]
    fn a_handler_that_drops_a_task_does_not_cancel_it() {
        let mut executor = start(&|ctx: Context| async move {
            let held = Rc::new(RefCell::new(Some(ctx.call(echo, 1_u32))));
            let seen = held.clone();
            ctx.on_query("drop", move |_: ()| drop(seen.take()));
            ctx.call(echo, 2_u32).await
        });
        executor.advance(vec![event("turn 0")]);
        let error = executor.ask("drop", "null").unwrap_err();
        assert!(error.message().starts_with("query \"drop\" asks for the end of a task"), "{error}");
        assert_eq!(describe(&[executor.advance(vec![event("turn 1")])]), "");
    }

    #[test]
    fn what_a_context_tells_may_be_told() {
        let mut executor = start(&|ctx: Context| async move {
            let context = ctx.clone();
            ctx.on_query("who", move |_: ()| format!("{} at {:?}", context.instance_id(), context.now().elapsed().is_ok()));
            Ok(())
        });
        executor.advance(vec![event("turn 0")]);
        check(&executor, "who", "null", Ok("\"loaf at true\""));
    }

    #[test]
    fn handlers_that_hold_the_context_do_not_keep_it_alive() {
        let witness = Rc::new(());
        let held = witness.clone();
        let mut executor = start(&move |ctx: Context| {
            let held = held.clone();
            async move {
                let context = ctx.clone();
                ctx.on_query("who", move |_: ()| (context.instance_id().to_owned(), Rc::strong_count(&held)));
                Ok(())
            }
        });
        executor.advance(vec![event("turn 0")]);
        drop(executor);
        assert_eq!(Rc::strong_count(&witness), 1);
    }
}
