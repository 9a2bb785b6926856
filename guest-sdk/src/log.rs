//! Lines for people: `dacapo_guest::log::info!("baked {loaves} loaves")`.
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

/// Writes a line of level [`Trace`](Level::Trace), formatted like `println!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Trace, ::std::module_path!(), ::std::format_args!($($message)+))
    };
}

/// Writes a line of level [`Debug`](Level::Debug), formatted like `println!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Debug, ::std::module_path!(), ::std::format_args!($($message)+))
    };
}

/// Writes a line of level [`Info`](Level::Info), formatted like `println!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Info, ::std::module_path!(), ::std::format_args!($($message)+))
    };
}

/// Writes a line of level [`Warn`](Level::Warn), formatted like `println!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Warn, ::std::module_path!(), ::std::format_args!($($message)+))
    };
}

/// Writes a line of level [`Error`](Level::Error), formatted like `println!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Error, ::std::module_path!(), ::std::format_args!($($message)+))
    };
}
