//! What is a hub's world made of? Plain data: names and numbers, the events of a history, what a guest may ask for.
//!
//! Pure: nothing here reads a clock, a file or a socket. Everything else in the crate is built on these types.

pub mod action;
pub mod event;
pub mod execution;
pub mod failure;
pub mod id;
pub mod idempotency;
pub mod lineage;
pub mod log;
pub mod message;
pub mod payload;
pub mod retention;
pub mod rewind;
pub mod status;
pub mod tags;
pub mod time;
pub mod waits;
pub mod wake;

pub use action::{Action, ActivityCall, Ask, ChildCall, ChildStart, HttpCall, Progress, SentEvent};
pub use event::{End, Event, LimitsInForce, Outcome, Started, Versions};
pub use execution::{Again, CorruptHistory, Execution, Input};
pub use failure::{Cause, Failure};
pub use id::{
    Digest, ExecutionKey, Generation, HubKey, HubName, InstanceId, InstanceKey, MessageKey, ModuleName, Seed, StoreName, TaskId,
};
pub use idempotency::{Idempotency, IdempotencyKey};
pub use lineage::{Continuation, Parent};
pub use log::{LogLevel, LogLine, LogRecord};
pub use message::{Body, Message};
pub use payload::Payload;
pub use retention::{Kept, Retention};
pub use status::RuntimeStatus;
pub use tags::{TagError, Tags};
pub use wake::Wake;
