//! What went wrong in a guest, and what is there to tell people?

use wasmtime::{Trap, WasmBacktrace};

use super::state::{Denied, Exhausted, PanicNote};
use crate::model::Failure;
use crate::replay::Fault;

/// What `error`, the end of a call into a guest, means for the execution. `panic` is what the guest's panic hook said.
///
/// A panic and what a guest must not do come again in every try. Time, memory and stack depend on the machine: a trap that
/// may have come from there is tried again.
pub(super) fn of(error: &wasmtime::Error, panic: Option<PanicNote>) -> Fault {
    let trace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string);
    let failure = |kind: &str, message: String| Failure { stack_trace: trace.clone(), ..Failure::new(kind, message) };
    if let Some(PanicNote { message, location }) = panic {
        return Fault::Certain(failure("Panic", format!("panicked at {location}: {message}")));
    }
    if let Some(denied) = error.downcast_ref::<Denied>() {
        return Fault::Certain(failure("NotDeterministic", denied.to_string()));
    }
    if let Some(exhausted) = error.downcast_ref::<Exhausted>() {
        return Fault::Exhausted(failure("LimitExceeded", exhausted.to_string()));
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) => {
            Fault::Certain(failure("Trap", "the guest trapped at `unreachable`, as a panic does that has no message".into()))
        }
        Some(Trap::StackOverflow) => {
            Fault::Exhausted(failure("LimitExceeded", "the guest's stack is full; it recursed too deep".into()))
        }
        Some(Trap::MemoryOutOfBounds) => {
            let message = "the guest reached outside its memory; most likely it recursed too deep";
            Fault::Exhausted(failure("LimitExceeded", message.into()))
        }
        Some(trap) => Fault::Exhausted(failure("Trap", format!("the guest trapped: {trap}"))),
        None => Fault::Certain(failure("InvalidAnswer", format!("the guest broke the contract: {}", error.root_cause()))),
    }
}
