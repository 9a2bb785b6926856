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
    /// Answers the question `name`, in whatever case, by `handler` from now on, also after the orchestrator has ended. A handler of the
    /// same name takes its place.
    ///
    /// Whoever may see the instance can ask, at any time: `GET …/instances/{id}/query/{name}`. What orchestrator and handler share
    /// lies in an `Rc`:
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
        "query {name:?} asks for {what}, and a query may only look: let its handler return what the orchestrator has left for it, such \
         as the content of an `Rc<RefCell<…>>`"
    );
    Error::new("QueryAsked", message).non_retriable()
}
