//! What has just happened, a line each: what guests log, runs that end, what the server warns of, what becomes of the sources.
//!
//! [`Lines`] writes them; [`Listener`] is the subscriber of `tracing` that takes them from the server in this process.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use console::measure_text_width;
use jiff::{Timestamp, Zoned};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer};

use crate::cli::moment::milliseconds;
use crate::cli::output::{Tone, clean, columns, cut, say};
use crate::cli::wire::Instance;

/// Where the engine reports lines of guests, and executions that have ended.
const GUEST: &str = "dacapo::guest";
const ENDED: &str = "dacapo::ended";

/// What is shown whatever else is logged: it is what `dev` is for.
pub(super) fn always_shown() -> Targets {
    Targets::new().with_target(GUEST, Level::DEBUG).with_target(ENDED, Level::DEBUG)
}

/// Writes to standard output: the time of day, what kind of line it is, perhaps whose, and a text.
#[derive(Default)]
pub(super) struct Lines {
    /// How wide the column of IDs is so far.
    id_columns: AtomicUsize,
}

/// An execution that has ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) instance: String,
    pub(super) function: String,
    pub(super) status: String,
    pub(super) took_ms: u64,
    /// When that was heard here, in milliseconds since 1970.
    pub(super) heard_ms: u64,
}

impl Ended {
    /// Whether it is this execution's end that `now` tells of, as far as times in whole seconds can say: its ID may have been started
    /// anew meanwhile.
    pub(super) fn is_of(&self, now: &Instance) -> bool {
        let began_before = |created_ms: u64| created_ms + self.took_ms <= self.heard_ms;
        now.runtime_status == self.status
            && now.name == self.function
            && milliseconds(&now.created_time).is_some_and(began_before)
    }
}

impl Lines {
    /// A line that is about no instance.
    pub(super) fn tell(&self, kind: &str, tone: Tone, text: &str) {
        // Nobody reads it: no reason to stop.
        let _ = say(format_args!("{}  {}", start(kind, tone), clean(text)));
    }

    /// A line of `instance`.
    pub(super) fn tell_of(&self, instance: &str, kind: &str, tone: Tone, text: &str) {
        let id = self.column(instance);
        let _ = say(format_args!("{}  {id}  {}", start(kind, tone), clean(text)));
    }

    /// The same with one more line below it, of which no more is shown than fits.
    pub(super) fn tell_two_of(&self, instance: &str, kind: &str, tone: Tone, text: &str, below: &str) {
        let width = usize::from(columns()).saturating_sub(INDENT);
        let below = Tone::Dim.paint(&cut(&clean(below), width));
        let id = self.column(instance);
        let _ = say(format_args!("{}  {id}  {}\n{:INDENT$}{below}", start(kind, tone), clean(text), ""));
    }

    /// An ID as wide as the widest one so far.
    fn column(&self, instance: &str) -> String {
        let instance = clean(instance);
        let own = measure_text_width(&instance);
        let all = self.id_columns.fetch_max(own, Ordering::Relaxed).max(own);
        format!("{instance}{}", " ".repeat(all - own))
    }
}

/// How wide the kind of a line is, and where what follows it begins.
const KIND_COLUMNS: usize = 5;
const INDENT: usize = "00:00:00".len() + 2 + KIND_COLUMNS + 2;

fn start(kind: &str, tone: Tone) -> String {
    let time = Zoned::now().strftime("%H:%M:%S").to_string();
    format!("{}  {}", Tone::Dim.paint(&time), tone.paint(&format!("{kind:KIND_COLUMNS$}")))
}

/// Takes the events of the server in this process.
pub(super) struct Listener {
    lines: Arc<Lines>,
    /// Who asks for what came out, which takes a moment.
    ended: Sender<Ended>,
}

impl Listener {
    /// One that writes to `lines`, but for executions that have ended: those go to `ended`.
    pub(super) fn new(lines: Arc<Lines>, ended: Sender<Ended>) -> Self {
        Self { lines, ended }
    }
}

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        let (kind, tone) = match *event.metadata().level() {
            Level::ERROR => ("error", Tone::Bad),
            Level::WARN => ("warn", Tone::Bad),
            Level::INFO => ("info", Tone::Busy),
            Level::DEBUG => ("debug", Tone::Dim),
            Level::TRACE => ("trace", Tone::Dim),
        };
        match event.metadata().target() {
            GUEST => self.lines.tell_of(&seen.ended.instance, kind, tone, &seen.message),
            ENDED => {
                let heard_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
                let _ = self.ended.send(Ended { heard_ms, ..seen.ended }); // Nobody asks any more: it is over.
            }
            _ => {
                let text = format!("server: {}{}", seen.message, seen.rest);
                match seen.ended.instance.as_str() {
                    "" => self.lines.tell(kind, tone, &text),
                    instance => self.lines.tell_of(instance, kind, tone, &text),
                }
            }
        }
    }
}

/// The fields of an event.
#[derive(Default)]
struct Seen {
    message: String,
    ended: Ended,
    /// Those that have no place of their own.
    rest: String,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "took_ms" => self.ended.took_ms = value,
            _ => self.record_str(field, &value.to_string()),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let place = match field.name() {
            "message" => &mut self.message,
            "instance" => &mut self.ended.instance,
            "function" => &mut self.ended.function,
            "status" => &mut self.ended.status,
            name => {
                let _ = write!(self.rest, " {name}={value}"); // A `String` takes everything.
                return;
            }
        };
        value.clone_into(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_shown_with_the_run_that_it_is_of() {
        let now = |name: &str, status: &str, created: &str| -> Instance {
            let text = format!(
                r#"{{"name":"{name}","instanceId":"a","runtimeStatus":"{status}","input":null,"customStatus":null,"output":1,
                "createdTime":"1970-01-01T00:00:{created}Z","lastUpdatedTime":"1970-01-01T00:00:59Z"}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let ended =
            Ended { function: "Bake".into(), status: "Completed".into(), took_ms: 2_000, heard_ms: 12_500, ..Ended::default() };
        assert!(ended.is_of(&now("Bake", "Completed", "10")));
        // It went on as new: it was created before this part of it began.
        assert!(ended.is_of(&now("Bake", "Completed", "01")));
        for other in [now("Bake", "Running", "10"), now("Mix", "Completed", "10"), now("Bake", "Completed", "12")] {
            assert!(!ended.is_of(&other), "{other:?}");
        }
    }
}
