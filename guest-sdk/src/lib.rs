//! Durable orchestrations for Dacapo, written as ordinary async Rust.
//!
#![doc = concat!("```\n", include_str!("../../examples/hello-sequence/src/lib.rs"), "\n```")]
//!
//! An **activity** does the work: it may take its time, fail, and touch the world. An **orchestrator** says what is done
//! in which order. It is durable: the host records every answer it gets, and after a crash plays the same code again
//! against that record until it stands where it stood. Everything an orchestrator can reach is deterministic by
//! construction, clocks and randomness included, so nothing needs to be avoided in its code.
//!
//! [`module!`] puts functions into a module. It is built as a `cdylib` for `wasm32-wasip2`, and for
//! `wasm32-unknown-unknown` if it needs nothing of WASI (there `SystemTime::now()` panics; [`Context::now`] works).
//!
//! [`testing`] runs an orchestrator in a plain `cargo test`, against mocked activities and on a virtual clock.
//!
//! Reading order: [`function`](Activity) says what the attributes make of a function, `context.rs` and `call.rs` what an
//! orchestrator can do, `task.rs` what it awaits, `executor.rs` how it is run, `module.rs` how all of it meets the host.

// The attributes write `::dacapo_guest::…`, in the tests of this crate too.
extern crate self as dacapo_guest;

#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod allocator;
mod bindings;
mod call;
mod context;
mod continuation;
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub mod driver;
mod error;
mod executor;
mod function;
mod http;
mod input;
mod invocation;
pub mod log;
mod module;
mod query;
mod retry;
mod rules;
mod task;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use call::{ActivityOptions, ChildOptions, StartOptions};
pub use context::Context;
pub use continuation::ContinueOptions;
pub use dacapo_guest_macros::{activity, orchestrator};
pub use error::{Error, Result, Timeout};
pub use function::{Activity, Function, Orchestrator};
pub use http::{HttpRequest, HttpResponse};
pub use input::{IntoInput, IntoOptions};
pub use invocation::ActivityContext;
pub use retry::RetryPolicy;
pub use task::Task;
pub use uuid::Uuid;

/// What almost every module needs.
pub mod prelude {
    pub use crate::{ActivityContext, Context, Error, Result, RetryPolicy, Task, activity, bail, orchestrator};
}

/// What the macros write into other crates. No part of the API.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::export;
    pub use crate::bindings::exports;
    pub use crate::function::{ActivityOrOrchestrator, Definition, Entry, Fallible, define};
    pub use crate::module::{Exports, Module, assert_names_differ};
}
