//! What has just happened, a line each: what guests log, runs that end, what the server warns of, what becomes of the sources.
//!
//! [`Lines`] writes them; [`Listener`] is the subscriber of `tracing` that takes them from the server in this process.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use console::measure_text_width;
use jiff::Zoned;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::cli::output::{Tone, clean, columns, cut, say};

/// What is listened to if nobody says otherwise.
pub(super) const FILTER: &str = "warn,dacapo::guest=debug,dacapo::ended=debug";

/// Where the engine reports lines of guests, and executions that have ended.
const GUEST: &str = "dacapo::guest";
const ENDED: &str = "dacapo::ended";

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
                let _ = self.ended.send(seen.ended); // Nobody asks any more: it is over.
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
