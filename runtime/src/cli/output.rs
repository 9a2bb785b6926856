//! How do results look? Tables, times, colours and a spinner: for people at a terminal, and plain text where nobody looks.
//!
//! What comes from guests and users is shown [`clean`]: it must not steer the terminal.

use std::borrow::Cow;
use std::io::{self, Write};
use std::mem;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Row};
use console::{Term, measure_text_width, style};
use indicatif::ProgressBar;

use super::tell;

/// The widest that output gets, in columns: longer lines are hard to read even where they fit.
const COLUMNS_MAX: u16 = 100;

/// The narrowest that output gets, in columns; a terminal that is narrower breaks the lines.
const COLUMNS_MIN: u16 = 40;

/// How long something has to take before a spinner says so, in milliseconds.
const SPINNER_AFTER_MS: u64 = 1_000;

/// How often a spinner moves, in milliseconds.
const SPINNER_TICK_MS: u64 = 100;

/// How much of what a server says goes into an error, in columns.
const BRIEF_COLUMNS_MAX: usize = 500;

/// Stands for a character that would steer the terminal.
const REPLACED: char = '\u{fffd}';

/// Says on the terminal that something is going on, if it takes long. It goes when this is dropped.
///
/// Drawn on standard error, and only if that is a terminal.
pub(super) struct Spinner(Option<(Sender<()>, JoinHandle<()>)>);

impl Spinner {
    /// Starts one that says `what`, such as "Building greeter".
    pub(super) fn start(what: impl Into<String>) -> Self {
        if !Term::stderr().is_term() {
            return Self(None);
        }
        let what = what.into();
        let (done, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            if ended.recv_timeout(Duration::from_millis(SPINNER_AFTER_MS)) == Err(RecvTimeoutError::Timeout) {
                let bar = ProgressBar::new_spinner().with_message(clean(&what));
                bar.enable_steady_tick(Duration::from_millis(SPINNER_TICK_MS));
                let _ = ended.recv(); // Ends with an error, when the sender is dropped.
                bar.finish_and_clear();
            }
        });
        Self(Some((done, thread)))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.0.take() {
            drop(done);
            let _ = thread.join(); // What is written next must not stand behind it.
        }
    }
}

/// Writes lines to standard output.
pub(super) fn say(lines: impl std::fmt::Display) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{lines}").and_then(|()| out.flush()).context("write to standard output")
}

/// Writes a line of data to standard output: as it is for programs, [`clean`] for people.
pub(super) fn say_data(data: &str) -> Result<()> {
    if Term::stdout().is_term() { say(clean(data)) } else { say(data) }
}

/// Says something to people at a terminal; where nobody looks, there is nothing to be said.
pub(super) fn hint(line: impl std::fmt::Display) {
    if Term::stderr().is_term() {
        tell(clean(&line.to_string()));
    }
}

/// `text` as one word of a command line.
pub(super) fn shell_word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "-_.:@%+".contains(c);
    if !text.starts_with('-') && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', "'\\''")).into()
    }
}

/// What a text means to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// It went well.
    Good,
    /// It goes on.
    Busy,
    /// It may go wrong.
    Warning,
    /// It went wrong.
    Bad,
    /// Less important than the rest.
    Dim,
}

impl Tone {
    /// That of a runtime status.
    pub(super) fn of_status(status: &str) -> Self {
        match status {
            "Completed" => Self::Good,
            "Failed" | "Terminated" | "Canceled" => Self::Bad,
            _ => Self::Busy,
        }
    }

    /// `text` in the colour of this tone, if standard output shows colours.
    pub(super) fn paint(self, text: &str) -> String {
        let styled = style(text);
        match self {
            Self::Good => styled.green(),
            Self::Busy => styled.cyan(),
            Self::Warning => styled.yellow(),
            Self::Bad => styled.red(),
            Self::Dim => styled.dim(),
        }
        .to_string()
    }
}

/// What a cell of a table says.
pub(super) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    pub(super) fn toned(text: &str, tone: Tone) -> Self {
        Self { text: text.to_owned(), tone: Some(tone) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: None }
    }
}

/// A table without lines: a header, and a line for each row. What does not fit is cut, with … at its end.
pub(super) struct Table {
    table: comfy_table::Table,
    /// The most that it takes, in columns; `None` if that depends on the terminal.
    columns_max: Option<u16>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_truncation_indicator("…");
        // A cell is cut where its room ends, not where a word does.
        table.set_delimiter('\0').set_header(Row::from(header.to_vec()));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table, columns_max: None }
    }

    /// The same, which is not cut where standard output is no terminal: a script wants the whole of an ID.
    pub(super) fn whole_for_programs(self) -> Self {
        Self { columns_max: (!Term::stdout().is_term()).then_some(u16::MAX), ..self }
    }

    /// Adds a line.
    pub(super) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        // A tone takes no room: it is an invisible character until the table is laid out.
        let mark = |tone: Tone| TONES.iter().find(|(_, marked)| *marked == tone).map(|(mark, _)| *mark);
        let room = self.columns_max.unwrap_or(COLUMNS_MAX);
        let text = |Cell { text, tone }| {
            let text = cut(&clean(&text), room.into()); // Whatever is longer does not fit anyway.
            tone.and_then(mark).into_iter().chain(text.chars()).collect::<String>()
        };
        let mut row = Row::from(cells.map(text));
        row.max_height(1);
        self.table.add_row(row);
    }

    /// The table as standard output takes it.
    pub(super) fn show(self) -> String {
        let room = self.columns_max.unwrap_or_else(columns);
        self.fitted(room)
    }

    /// The table in no more than `columns`.
    pub(super) fn fitted(mut self, columns: u16) -> String {
        self.table.set_width(columns);
        let mut lines = self.table.lines().map(|line| painted(line.trim_end()));
        let header = Tone::Dim.paint(&lines.next().unwrap_or_default());
        std::iter::once(header).chain(lines).collect::<Vec<_>>().join("\n")
    }
}

/// What stands for a tone before a cell's text, until the table is laid out: characters that [`clean`] lets nobody else write.
const TONES: [(char, Tone); 5] = [
    ('\u{2060}', Tone::Warning),
    ('\u{2061}', Tone::Good),
    ('\u{2062}', Tone::Busy),
    ('\u{2063}', Tone::Bad),
    ('\u{2064}', Tone::Dim),
];

/// A line of a table with its tones. The text of a cell ends before the space between columns.
fn painted(line: &str) -> String {
    let Some((at, tone)) = TONES.iter().find_map(|(mark, tone)| Some((line.find(*mark)?, *tone))) else {
        return line.to_owned();
    };
    let (before, rest) = (&line[..at], line[at..].trim_start_matches(|c| TONES.iter().any(|(mark, _)| *mark == c)));
    let (text, after) = rest.split_at(rest.find("  ").unwrap_or(rest.len()));
    format!("{before}{}{after}", tone.paint(text))
}

/// How wide output may be.
pub(super) fn columns() -> u16 {
    let wide = Term::stdout().size_checked().map_or(COLUMNS_MAX, |(_, columns)| columns);
    wide.clamp(COLUMNS_MIN, COLUMNS_MAX)
}

/// `text` in no more than `columns`, with … at its end if that is not all of it.
pub(super) fn cut(text: &str, columns: usize) -> String {
    // The end of what leaves a column for the …
    let (mut used, mut end) = (0, 0);
    for (at, c) in text.char_indices() {
        used += width(c);
        if used > columns {
            return format!("{}…", &text[..end]);
        }
        if used < columns {
            end = at + c.len_utf8();
        }
    }
    text.to_owned()
}

/// What somebody else says, as a part of an error.
pub(super) fn brief(text: &str) -> String {
    cut(&clean(text), BRIEF_COLUMNS_MAX)
}

/// `text` in lines of no more than `columns`, each [`clean`]: broken between words, and within words that are longer than a line.
pub(super) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let (mut line, mut used) = (String::new(), 0);
        for (number, word) in clean(paragraph).split(' ').enumerate() {
            if used > 0 && used + 1 + word.chars().map(width).sum::<usize>() > columns {
                lines.push(mem::take(&mut line));
                used = 0;
            } else if number > 0 {
                line.push(' ');
                used += 1;
            }
            for c in word.chars() {
                if used > 0 && used + width(c) > columns {
                    lines.push(mem::take(&mut line));
                    used = 0;
                }
                line.push(c);
                used += width(c);
            }
        }
        lines.push(line);
    }
    lines
}

/// How many columns a character takes.
fn width(c: char) -> usize {
    measure_text_width(c.encode_utf8(&mut [0; 4]))
}

/// `text` on one line, without what would steer a terminal or turn around what stands beside it.
pub(super) fn clean(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' => REPLACED,
        c if c.is_control() => REPLACED, // Those of C1 too.
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// How long ago something was: "12s ago", "3h ago".
pub(super) fn relative(now_ms: u64, then_ms: u64) -> String {
    match (now_ms.abs_diff(then_ms), then_ms > now_ms) {
        (0..1_000, _) => "now".into(),
        (ms, true) => format!("in {}", span(ms)), // The server's clock is ahead of ours.
        (ms, false) => format!("{} ago", span(ms)),
    }
}

/// A span of time in its largest unit.
fn span(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m", s / 60),
        3_600..86_400 => format!("{}h", s / 3_600),
        _ => format!("{}d", s / 86_400),
    }
}

/// How long something took, with three digits or so: "312ms", "4.21s", "3m 20s", "2h 5m", "3d 4h".
pub(super) fn duration(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}.{:02}s", ms % 1_000 / 10),
        60..3_600 => format!("{}m {}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h {}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_its_largest_unit() {
        for (ago_ms, expected) in [
            (0, "now"),
            (999, "now"),
            (12_999, "12s ago"),
            (59_999, "59s ago"),
            (60_000, "1m ago"),
            (3 * 3_600_000 + 1, "3h ago"),
            (86_400_000, "1d ago"),
            (400 * 86_400_000, "400d ago"),
        ] {
            assert_eq!(relative(1_000_000_000_000, 1_000_000_000_000 - ago_ms), expected);
        }
        assert_eq!(relative(1_000, 6_500), "in 5s");
    }

    #[test]
    fn a_duration_has_two_units_at_most() {
        for (ms, expected) in
            [(0, "0ms"), (312, "312ms"), (4_219, "4.21s"), (200_000, "3m 20s"), (7_500_000, "2h 5m"), (273_600_000, "3d 4h")]
        {
            assert_eq!(duration(ms), expected);
        }
    }

    #[test]
    fn a_table_fits_its_columns_and_cuts_what_does_not() {
        let table = || {
            let mut table = Table::new(&["ID", "STATUS", "CREATED"]);
            table.row(["loaf-17".into(), Cell::toned("Running", Tone::Busy), "3h ago".into()]);
            table.row(["a long name, with blanks and 日本語 in it".into(), "Completed".into(), "now".into()]);
            table
        };
        let wide = table().fitted(100);
        assert_eq!(
            wide,
            "ID                                         STATUS     CREATED\n\
             loaf-17                                    Running    3h ago\n\
             a long name, with blanks and 日本語 in it  Completed  now"
        );
        for columns in [40, 45] {
            let narrow = table().fitted(columns);
            assert!(narrow.contains('…') && narrow.contains("Completed"), "{narrow}");
            assert!(narrow.lines().all(|line| measure_text_width(line) <= columns.into()), "{narrow}");
        }
    }

    #[test]
    fn nothing_that_is_shown_steers_the_terminal() {
        assert_eq!(clean("a\u{1b}[31mb\u{9b}c\nd\u{202e}e\u{2061}"), "a\u{fffd}[31mb\u{fffd}c d\u{fffd}e\u{fffd}");
        assert_eq!(clean("\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{85}"), "\u{fffd}".repeat(6));
        let mut table = Table::new(&["ID"]);
        table.row(["\u{1b}]0;title\u{7}\u{2063}".into()]);
        assert_eq!(table.fitted(80), "ID\n\u{fffd}]0;title\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_word_survives_the_shell() {
        for (text, expected) in [("loaf-17", "loaf-17"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("-x", "'-x'"), ("$x", "'$x'")]
        {
            assert_eq!(shell_word(text), expected);
        }
    }

    #[test]
    fn a_cut_text_has_the_width_that_was_asked_for() {
        assert_eq!(cut("12345", 5), "12345");
        assert_eq!(cut("123456", 5), "1234…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        let accents = "e".to_owned() + &"\u{301}".repeat(60_000);
        assert_eq!(cut(&accents, 5), accents);
    }

    #[test]
    fn a_text_is_wrapped_between_words_and_within_long_ones() {
        let check = |text, columns, expected: &[&str]| assert_eq!(wrapped(text, columns), expected);
        check("the oven is cold", 8, &["the oven", "is cold"]);
        check("the oven", 7, &["the", "oven"]);
        check("a 0123456789 b", 4, &["a", "0123", "4567", "89 b"]);
        check("one\n  two\u{1b}", 9, &["one", "  two\u{fffd}"]);
        check("日本語", 5, &["日本", "語"]);
        check("", 5, &[]);
    }
}
