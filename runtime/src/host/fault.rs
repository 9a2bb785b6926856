//! What went wrong in a guest, and what is there to tell people?

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::state::{Denied, Exhausted, NotOffered, PanicNote, Refused};
use super::text::{TEXT_BYTES_MAX, cut};
use super::trace::{self, Trace};
use crate::limits::{GUEST_HANDLES_MAX, REQUEST_HEAD_BYTES_MAX};
use crate::model::Failure;
use crate::replay::Fault;

/// Why there is no guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoGuest {
    /// All slots are taken. Drop a guest that waits, and try again.
    NoSlot,
    /// The guest's own doing, such as a trap in its start function.
    Guest(Fault),
    /// Anything on our side; to be tried again.
    Host(String),
}

/// What `error`, the end of an instantiation, means. `panic` is what the guest's panic hook said.
pub(super) fn at_instantiation(error: &wasmtime::Error, panic: Option<PanicNote>) -> NoGuest {
    // With a backtrace the guest's start function was running. A data segment outside the memory traps without one.
    let by_guest = error.is::<WasmBacktrace>() || error.is::<Trap>() || error.is::<Exhausted>();
    match error {
        _ if error.is::<PoolConcurrencyLimitError>() => NoGuest::NoSlot,
        _ if by_guest => NoGuest::Guest(of(error, panic)),
        _ => NoGuest::Host(format!("a guest cannot be made: {error:#}")),
    }
}

/// What `error`, the end of a call into a guest, means for the execution. `panic` is what the guest's panic hook said.
///
/// A panic and what a guest must not do come again in every try. Time, memory and stack depend on the machine: a trap that
/// may have come from there is tried again.
pub(super) fn of(error: &wasmtime::Error, panic: Option<PanicNote>) -> Fault {
    let Trace { text, place } = Trace::of(error);
    let failure = |kind: &str, message: String| Failure {
        message: cut(message, TEXT_BYTES_MAX),
        stack_trace: text.clone(),
        ..Failure::new(kind, String::new())
    };
    let at = place.as_ref().map(|place| format!("at {place} ")).unwrap_or_default();
    // First of all: the host ended the guest, whatever that has said before.
    if let Some(exhausted) = error.downcast_ref::<Exhausted>() {
        return Fault::Exhausted(failure("LimitExceeded", format!("{at}{exhausted}")));
    }
    if let Some(PanicNote { message, location }) = panic {
        // Where std or a library notices what is wrong is not where it is wrong.
        let place = trace::own_place(&location).or(place).unwrap_or(location);
        let advice = if message.starts_with("failed to spawn thread") {
            " (a guest has one thread: for work side by side, call activities, and await them together)"
        } else {
            ""
        };
        return Fault::Certain(failure("Panic", format!("panicked at {place}: {message}{advice}")));
    }
    if let Some(denied) = error.downcast_ref::<Denied>() {
        return Fault::Certain(failure("NotDeterministic", format!("{at}{denied}")));
    }
    if let Some(not_offered) = error.downcast_ref::<NotOffered>() {
        return Fault::Certain(failure("NotOffered", format!("{at}{not_offered}")));
    }
    if let Some(Refused(refused)) = error.downcast_ref::<Refused>() {
        let non_retriable = refused.non_retriable;
        return Fault::Certain(Failure { non_retriable, ..failure(&refused.kind, format!("{at}{}", refused.message)) });
    }
    if error.is::<I32Exit>() {
        let message =
            "the guest ended its process (as `std::process::exit` does): return a result instead, such as an error by `bail!`";
        return Fault::Certain(failure("Exit", format!("{at}{message}")));
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) => {
            let message = "the guest trapped at `unreachable`, as a panic does that has no message";
            Fault::Certain(failure("Trap", format!("{at}{message}")))
        }
        Some(Trap::StackOverflow) => {
            let message = "the guest's stack is full, so it recursed too deep: use a loop, or a list of what is still to be done";
            Fault::Exhausted(failure("LimitExceeded", format!("{at}{message}")))
        }
        Some(Trap::MemoryOutOfBounds) => {
            let message = "the guest reached outside its memory, so most likely it recursed too deep: use a loop, or a list of what \
                           is still to be done";
            Fault::Exhausted(failure("LimitExceeded", format!("{at}{message}")))
        }
        Some(trap) => Fault::Exhausted(failure("Trap", format!("{at}the guest trapped: {trap}"))),
        None => Fault::Certain(match error.root_cause().to_string() {
            // Its type is not public.
            cause if cause.contains("hostcalls") => {
                let message = "the guest handed over more in one call than its memory may hold: hand over less at once, or raise the \
                               limit guest_memory_bytes_max (section [limits] of the server's configuration)";
                failure("LimitExceeded", format!("{at}{message}"))
            }
            cause if cause.contains("handle limit exceeded") || cause == ResourceTableError::Full.to_string() => {
                let message = format!(
                    "the guest holds more than {GUEST_HANDLES_MAX} things of the host at once, such as streams, header fields or requests: \
                     drop what is done with"
                );
                failure("LimitExceeded", format!("{at}{message}"))
            }
            cause if cause == "total size of fields exceeds limit" => {
                let message = format!(
                    "the guest made a set of header fields of more than {REQUEST_HEAD_BYTES_MAX} bytes: send what is long in a body"
                );
                failure("LimitExceeded", format!("{at}{message}"))
            }
            cause => failure("InvalidAnswer", format!("the guest broke the contract: {cause}; its SDK is at fault")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::component::{Component, Linker};
    use wasmtime::{Engine, Error, Store};

    use super::*;

    fn note() -> Option<PanicNote> {
        Some(PanicNote::new("the oven is cold".into(), "src/lib.rs:3".into()))
    }

    #[test]
    fn a_panic_that_the_guest_survived_does_not_hide_what_ended_it() {
        let exhausted = Error::new(Exhausted::Memory { asked: 2, max: 1 });
        assert!(matches!(of(&exhausted, note()), Fault::Exhausted(failure) if failure.kind == "LimitExceeded"));
        let trap = Error::new(Trap::UnreachableCodeReached);
        assert!(matches!(of(&trap, note()), Fault::Certain(failure) if failure.message.ends_with("the oven is cold")));
    }

    #[test]
    fn what_goes_wrong_while_a_guest_is_made_is_the_guests_doing_or_ours() {
        let engine = Engine::default();
        let made = |module: &str| {
            let text = format!("(component (core module $m {module}) (core instance (instantiate $m)))");
            let component = Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
            let error = Linker::<()>::new(&engine).instantiate(&mut Store::new(&engine, ()), &component).err().unwrap();
            at_instantiation(&error, None)
        };
        let traps = made("(func $start unreachable) (start $start)");
        assert!(matches!(traps, NoGuest::Guest(Fault::Certain(_))), "{traps:?}");
        let outside = made(r#"(memory 0) (data (i32.const 9) "x")"#);
        assert!(matches!(outside, NoGuest::Guest(Fault::Exhausted(_))), "{outside:?}");
        let ours = at_instantiation(&Error::msg("no memory mappings left"), None);
        assert_eq!(ours, NoGuest::Host("a guest cannot be made: no memory mappings left".into()));
    }

    #[test]
    fn a_guest_that_hands_over_too_much_is_told_which_bound_that_is() {
        let engine = Engine::default();
        let text = r#"(component
            (core module $m
                (memory (export "memory") 1)
                (func (export "say") (result i32)
                    (i32.store (i32.const 0) (i32.const 8)) (i32.store (i32.const 4) (i32.const 1000)) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func (export "say") (result string) (canon lift (core func $i "say") (memory (core memory $i "memory")))))"#;
        let component = Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let said = |fuel| {
            let mut store = Store::new(&engine, ());
            store.set_hostcall_fuel(fuel);
            let instance = Linker::new(&engine).instantiate(&mut store, &component).unwrap();
            instance.get_typed_func::<(), (String,)>(&mut store, "say").unwrap().call(&mut store, ())
        };
        assert_eq!(said(1_000).unwrap().0.len(), 1_000);
        let fault = of(&said(999).unwrap_err(), None);
        assert_eq!(fault.failure().kind, "LimitExceeded", "{fault:?}");
    }
}
