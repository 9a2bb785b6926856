//! Lines for people: `dacapo_guest::log::info!("baked {loaves} loaves")`, or with fields in front as in `tracing`:
//! `info!(order = 7, baker = ?name, "baked {loaves} loaves")` is the line `baked 12 loaves order=7 baker="Ada"`.
//!
//! The host keeps them with the instance. In an orchestrator each line appears once, when its turn is recorded, and not
//! again in replays. Outside a host, as in unit tests, they go to stderr.

use std::fmt;

#[doc(inline)]
pub use crate::{__log_debug as debug, __log_error as error, __log_info as info, __log_trace as trace, __log_warn as warn};

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Step by step.
    Trace,
    /// For whoever looks for a fault.
    Debug,
    /// What went as it should.
    Info,
    /// What went on in spite of something.
    Warn,
    /// What did not go on.
    Error,
}

/// Writes one line. `target` says who speaks, such as a module path.
pub fn write(level: Level, target: &str, message: fmt::Arguments<'_>) {
    #[cfg(target_family = "wasm")]
    {
        use crate::bindings::dacapo::guest::log;
        let level = match level {
            Level::Trace => log::Level::Trace,
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::write(level, target, &message.to_string());
    }
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?} {target}: {message}");
}

/// Lets a panic reach the failure it causes, with message and place. Without that the host sees only a trap.
pub(crate) fn report_panics() {
    #[cfg(target_family = "wasm")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            std::panic::set_hook(Box::new(|panic| {
                let message = panic.payload_as_str().unwrap_or("a panic whose payload is no text");
                let location = panic.location().map(ToString::to_string).unwrap_or_default();
                crate::bindings::dacapo::guest::log::panicked(message, &location);
            }));
        });
    }
}

/// Writes a line of level [`Trace`](Level::Trace), formatted like `println!`, with or without fields in front.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace {
    ($($line:tt)+) => {
        $crate::__log_line!(Trace [] $($line)+)
    };
}

/// Writes a line of level [`Debug`](Level::Debug), formatted like `println!`, with or without fields in front.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($line:tt)+) => {
        $crate::__log_line!(Debug [] $($line)+)
    };
}

/// Writes a line of level [`Info`](Level::Info), formatted like `println!`, with or without fields in front.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($line:tt)+) => {
        $crate::__log_line!(Info [] $($line)+)
    };
}

/// Writes a line of level [`Warn`](Level::Warn), formatted like `println!`, with or without fields in front.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($line:tt)+) => {
        $crate::__log_line!(Warn [] $($line)+)
    };
}

/// Writes a line of level [`Error`](Level::Error), formatted like `println!`, with or without fields in front.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($line:tt)+) => {
        $crate::__log_line!(Error [] $($line)+)
    };
}

/// Takes the fields `name = value,` one by one, of which `?value` is shown by `Debug`, and others, `%value` too, by `Display`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_line {
    ($level:ident [$($done:tt)*] $name:ident = ? $value:expr, $($rest:tt)+) => {
        $crate::__log_line!($level [$($done)* ($name "={:?}" $value)] $($rest)+)
    };
    ($level:ident [$($done:tt)*] $name:ident = % $value:expr, $($rest:tt)+) => {
        $crate::__log_line!($level [$($done)* ($name "={}" $value)] $($rest)+)
    };
    ($level:ident [$($done:tt)*] $name:ident = $value:expr, $($rest:tt)+) => {
        $crate::__log_line!($level [$($done)* ($name "={}" $value)] $($rest)+)
    };
    ($level:ident [] $($message:tt)+) => {
        $crate::log::write($crate::log::Level::$level, ::std::module_path!(), ::std::format_args!($($message)+))
    };
    ($level:ident [$(($name:ident $shown:literal $value:expr))+] $($message:tt)+) => {
        $crate::log::write(
            $crate::log::Level::$level,
            ::std::module_path!(),
            ::std::format_args!(
                ::std::concat!("{}" $(, " ", ::std::stringify!($name), $shown)+),
                ::std::format_args!($($message)+)
                $(, $value)+
            ),
        )
    };
}
