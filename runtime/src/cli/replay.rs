//! `dacapo replay`: what did an instance do, turn by turn, and does its code do it again? Offline, from a file of `dacapo export`.

use std::fs::{self, DirBuilder, File};
use std::io::{self, IsTerminal, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::{env, process};

use anyhow::{Context, Result};
use console::{Alignment, pad_str};

use super::exit::Exit;
use super::output::{Spinner, Tone, clean, columns, cut, say};
use super::tell;
use crate::engine::archive::{self, Archive, Manifest};
use crate::engine::playback::{Played, PlayedTurn, Stage, Verdict};
use crate::host::Compiler;
use crate::model::{Action, Ask, End, Event, Failure, Input, LogLine, Outcome, Progress, time};
use crate::replay;

/// The largest file that is read, in bytes: it is held in memory as a whole, and its events once more.
const FILE_BYTES_MAX: u64 = 2 << 30;

/// How much of a digest is shown, in hex digits.
const DIGEST_CHARS: usize = 12;

/// How many columns stand before the two sides of a turn.
const MARGIN: usize = 10;

const ABOUT: &str = "\
For each turn the actions stand side by side, as history has them and as the module asks for them
now: = where they are the same, ~ where they differ as other code may, ≠ where they must not differ.
On a terminal it stops after each turn. The module runs with the limits that the instance had.

With --module, another module plays the history: what would the mended code do? It is held to what
two versions have to agree on, which is what they ask for, by its name, and in which order.

Exit status: 0 if it replays to the same history, 1 if it does not.

Examples:
  dacapo replay loaf-17.tar
  dacapo replay loaf-17.tar --module target/wasm32-wasip2/release/bakery.wasm --all";

/// Play an exported instance again, turn by turn, without a server
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Replay {
    /// The file that `dacapo export` wrote
    file: PathBuf,

    /// Play this module against the history instead of its own
    #[arg(long, value_name = "FILE.wasm")]
    module: Option<PathBuf>,

    /// Do not stop after each turn
    #[arg(long)]
    all: bool,

    /// Show inputs, results and backtraces whole
    #[arg(long)]
    full: bool,
}

impl Replay {
    pub(super) fn run(self) -> Result<()> {
        let archive = archive::decode(&read(&self.file)?).with_context(|| format!("read {}", self.file.display()))?;
        let other = self.module.as_deref().map(read).transpose()?;
        let scratch = Scratch::make()?;
        let stage = {
            let _spinner = Spinner::start("Compiling the module");
            let compiler = Compiler::child().context("find this program, which is the compiler too")?;
            Stage::set(&archive, other.as_deref(), &scratch.0.join("compiled"), compiler)?
        };
        say(heading(&archive, &stage))?;
        let stops = !self.all && io::stdin().is_terminal() && io::stdout().is_terminal();
        self.play(&archive, &stage, stops)
    }

    fn play(&self, archive: &Archive, stage: &Stage<'_>, stops: bool) -> Result<()> {
        // Turns before this one are not shown.
        let mut from = 1;
        'again: loop {
            let mut playback = stage.play()?;
            let mut last: Option<Box<PlayedTurn>> = None;
            while let Some(played) = playback.next_step()? {
                let turn = match played {
                    Played::Turn(turn) => turn,
                    Played::Control(event) => {
                        if last.as_ref().is_none_or(|turn| turn.number + 1 >= from) {
                            say(format_args!("\n{}", control(&event)))?;
                        }
                        continue;
                    }
                };
                if turn.number >= from || turn.verdict != Verdict::Same {
                    say(format_args!("\n{}", Shown { full: self.full, columns: columns().into() }.turn(&turn)))?;
                }
                if let Verdict::Diverged(message) = &turn.verdict {
                    let what = format!("it does not replay to the same history: turn {}, {message}", turn.number);
                    return Err(Exit::Failed.because(clean(&what)));
                }
                if stops && turn.number >= from {
                    match ask()? {
                        Wish::Next => from = turn.number + 1,
                        Wish::Quit => return Ok(()),
                        Wish::Turn(number) => from = number,
                    }
                    if from <= turn.number {
                        continue 'again;
                    }
                }
                last = Some(turn);
            }
            return say(format_args!("\n{}", conclusion(archive, stage, last.as_deref())));
        }
    }
}

/// A file that is not too large.
fn read(path: &Path) -> Result<Vec<u8>> {
    let context = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).with_context(context)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let message = format!("{} has more than {FILE_BYTES_MAX} bytes, the most that are read", path.display());
        return Err(Exit::Failed.because(message));
    }
    Ok(bytes)
}

/// A folder for compiled code, which goes with this.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).context("draw a name")?;
        let folder = env::temp_dir().join(format!("dacapo-replay-{}-{}", process::id(), hex::encode(random)));
        DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // It only takes room.
    }
}

/// What whoever sits there wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Next,
    Turn(u32),
    Quit,
}

impl Wish {
    fn of(line: &str) -> Option<Self> {
        match line.trim() {
            "" => Some(Self::Next),
            "q" | "Q" => Some(Self::Quit),
            number => number.parse().ok().filter(|number| *number > 0).map(Self::Turn),
        }
    }
}

fn ask() -> Result<Wish> {
    loop {
        tell(Tone::Dim.paint("Enter: the next turn; a number: that turn; q: the end"));
        let mut line = String::new();
        if io::stdin().read_line(&mut line).context("read what to show")? == 0 {
            return Ok(Wish::Quit);
        }
        if let Some(wish) = Wish::of(&line) {
            return Ok(wish);
        }
    }
}

fn heading(archive: &Archive, stage: &Stage<'_>) -> String {
    let Manifest { instance, function, status, task_hub, exported_at, exported_by, events, .. } = &archive.manifest;
    let digest = stage.digest().to_string();
    let whose = if stage.is_other_code() { "another than its own" } else { "its own" };
    let line = |name: &str, text: String| format!("{}  {}", Tone::Dim.paint(&format!("{name:13}")), clean(&text));
    [
        line("Instance", format!("{instance} ({function}) of task hub {task_hub}")),
        line("Status", format!("{status}, {events} events")),
        line("Exported", format!("{exported_at} by {exported_by}")),
        line("Module", format!("{}, {whose}", &digest[..DIGEST_CHARS.min(digest.len())])),
    ]
    .join("\n")
}

fn conclusion(archive: &Archive, stage: &Stage<'_>, last: Option<&PlayedTurn>) -> String {
    let Some(last) = last else { return "It replays to the same history, which has no turn.".into() };
    let turns = match last.number {
        1 => "1 turn".to_owned(),
        number => format!("{number} turns"),
    };
    let events = archive.history.len();
    let free = last.verdict == Verdict::Free;
    match (stage.is_other_code(), free, &last.failure) {
        (false, false, _) => format!("It replays to the same history: {turns}, {events} events."),
        (false, true, _) => {
            format!(
                "It replays to the same history: {turns}, {events} events. In the last turn the guest was at fault, which no replay has to repeat."
            )
        }
        (true, false, _) => {
            format!("It replays to the same history, by the rules for another version of the code: {turns}, {events} events.")
        }
        (true, true, None) => format!(
            "It replays to the same history, by the rules for another version of the code, up to the failure in turn {}: a rewind can go on with it.",
            last.number
        ),
        (true, true, Some(_)) => format!(
            "It replays to the same history, by the rules for another version of the code, up to the failure in turn {}; but it is at fault there too.",
            last.number
        ),
    }
}

/// What somebody from outside has done.
fn control(event: &Event) -> String {
    let with = |what: &str, reason: &Option<String>| match reason {
        Some(reason) => format!("{what}: {reason}"),
        None => what.to_owned(),
    };
    let what = match event {
        Event::Suspended { reason, .. } => with("suspended", reason),
        Event::Resumed { reason, .. } => with("resumed", reason),
        Event::Rewound { reason, .. } => with("rewound", reason),
        Event::Ended { end: End::Terminated { reason }, .. } => with("terminated", reason),
        other => format!("{other:?}"),
    };
    format!("{} at {}", clean(&what), time::exact(event.at_ms()))
}

/// How turns are shown.
struct Shown {
    /// Nothing is cut short.
    full: bool,
    columns: usize,
}

impl Shown {
    fn turn(&self, turn: &PlayedTurn) -> String {
        let PlayedTurn { number, then, now, failure, lines, verdict } = turn;
        let mut text = format!("Turn {number} at {}\n", time::exact(then.at_ms));
        for input in &then.inputs {
            text += &self.line("given", &given(input), Tone::Dim);
        }
        let recorded = &then.recorded;
        let asks: &[Ask] = now.as_ref().map_or(&[], |progress| &progress.asks);
        let rows = recorded.asks().len().max(asks.len());
        let ends = recorded.end().is_some() || now.as_ref().is_none_or(|now| now.end.is_some() || now.continuation.is_some());
        if rows > 0 || ends {
            text += &Tone::Dim.paint(self.sides(" ", "TASK", "HISTORY", "GUEST NOW").trim_end_matches('\n'));
            text.push('\n');
        }
        let mut task = then.next_task;
        for position in 0..rows {
            let (history, guest) = (recorded.asks().get(position), asks.get(position));
            let mark = mark(history == guest, recorded.takes(position, guest));
            let is_task = matches!(history.or(guest), Some(Ask::Schedule(_)));
            let label = if is_task { task.to_string() } else { String::new() };
            text += &self.sides(&mark, &label, &asked(history), &asked(guest));
            if is_task {
                task = task.next();
            }
        }
        if ends {
            let history = recorded.end().map_or_else(|| "goes on".to_owned(), ended);
            let guest = now.as_ref().map_or_else(|| "is at fault".to_owned(), outcome);
            let is_taken = *verdict == Verdict::Free || now.as_ref().is_some_and(|now| recorded.takes_end(now));
            text += &self.sides(&mark(history == guest, is_taken), "end", &history, &guest);
        }
        let failed = now.as_ref().and_then(|now| match &now.end {
            Some(End::Failed(failure)) => Some(failure),
            _ => None,
        });
        if let Some(failure) = failure.as_ref().or(failed) {
            text += &self.failure(failure);
        }
        for line in lines {
            text += &self.said(line);
        }
        text.truncate(text.trim_end().len());
        text
    }

    fn failure(&self, failure: &Failure) -> String {
        let mut text = self.line("failure", &format!("{}: {}", failure.kind, failure.message), Tone::Bad);
        for cause in &failure.causes {
            text += &self.line("", &format!("caused by {}: {}", cause.kind, cause.message), Tone::Bad);
        }
        let trace = failure.stack_trace.as_deref().filter(|_| self.full).unwrap_or_default();
        trace.lines().for_each(|line| text += &self.line("", line, Tone::Dim));
        text
    }

    /// What the guest said. Further lines of its message are indented, so that they pass for no lines of their own.
    fn said(&self, LogLine { level, target, message }: &LogLine) -> String {
        let mut text = String::new();
        let level = format!("{level:?}").to_ascii_lowercase();
        for (number, line) in message.lines().enumerate() {
            let line = if number == 0 { format!("{level} {target}: {line}") } else { format!("    {line}") };
            text += &self.line(if number == 0 { "said" } else { "" }, &line, Tone::Dim);
        }
        text
    }

    /// A line under a label in this tone.
    fn line(&self, label: &str, text: &str, tone: Tone) -> String {
        let (label, text) = (format!("{label:>width$}", width = MARGIN - 2), clean(text));
        let text = if self.full { text } else { cut(&text, self.columns.saturating_sub(MARGIN)) };
        format!("{}  {text}\n", tone.paint(&label))
    }

    /// Both sides of a turn: beside one another where they are cut short, else one below the other, or as one if they are the same.
    fn sides(&self, mark: &str, label: &str, history: &str, guest: &str) -> String {
        let margin = format!("{mark} {label:>width$}  ", width = MARGIN - 4);
        let (history, guest) = (clean(history), clean(guest));
        if self.full {
            let again = if history == guest { String::new() } else { format!("{}{guest}\n", " ".repeat(MARGIN)) };
            return format!("{margin}{history}\n{again}");
        }
        let half = self.columns.saturating_sub(MARGIN + 2) / 2;
        let line = format!("{margin}{}  {}", pad_str(&cut(&history, half), half, Alignment::Left, None), cut(&guest, half));
        format!("{}\n", line.trim_end())
    }
}

/// How two sides compare.
fn mark(is_same: bool, is_taken: bool) -> String {
    match (is_same, is_taken) {
        (true, _) => Tone::Good.paint("="),
        (false, true) => Tone::Warning.paint("~"),
        (false, false) => Tone::Bad.paint("≠"),
    }
}

fn given(input: &Input) -> String {
    match input {
        Input::Resolved { task, outcome: Outcome::Completed(result) } => format!("task {task} gave {result}"),
        Input::Resolved { task, outcome: Outcome::Failed(failure) } => {
            format!("task {task} failed: {}: {}", failure.kind, failure.message)
        }
        Input::Resolved { task, outcome: Outcome::Fired } => format!("task {task}, a timer, is due"),
        Input::Raised { name, payload, .. } => format!("event {name:?} with {payload}"),
    }
}

fn asked(ask: Option<&Ask>) -> String {
    let Some(ask) = ask else { return "nothing".into() };
    let action = match ask {
        Ask::Cancel(task) => return format!("the cancellation of task {task}"),
        Ask::Schedule(action) => action,
    };
    let with = match action {
        Action::Activity(call) => Some(call.input.text()),
        Action::SubOrchestration(call) => Some(call.input.text()),
        Action::StartDetached(start) => Some(start.input.text()),
        Action::SendEvent(event) => Some(event.payload.text()),
        Action::Http(call) => call.body.as_deref(),
        Action::Timer { .. } | Action::WaitEvent { .. } => None,
    };
    with.map_or_else(|| replay::name(action), |with| format!("{} with {with}", replay::name(action)))
}

fn outcome(now: &Progress) -> String {
    match now {
        Progress { continuation: Some(next), .. } => format!("continues as new with {}", next.input),
        Progress { end: Some(end), .. } => ended(end),
        _ => "goes on".into(),
    }
}

fn ended(end: &End) -> String {
    match end {
        End::Completed(output) => format!("returns {output}"),
        End::Failed(failure) => format!("fails: {}", failure.message),
        End::Faulted(_) => "is at fault".into(),
        End::Terminated { .. } => "is terminated".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::execution::tests::{activity, ended as completed, scheduled, started, turn};
    use crate::model::{LogLevel, Payload};
    use crate::replay::{Replay, Step};

    /// The first turn of this history, with what the guest does in it now.
    fn played(history: &[Event], now: Progress) -> PlayedTurn {
        let history: Vec<Event> = std::iter::once(Event::Started(started())).chain(history.iter().cloned()).collect();
        let Some(Step::Turn(then)) = Replay::of(&history).unwrap().next_step().unwrap() else { panic!("it has a turn") };
        let line = LogLine { level: LogLevel::Info, target: "bakery".into(), message: "one\ntwo\u{1b}".into() };
        PlayedTurn { number: 1, then, now: Some(now), failure: None, lines: vec![line], verdict: Verdict::Same }
    }

    fn mix_and(end: Option<End>) -> Progress {
        Progress { asks: vec![Ask::Schedule(activity("Mix"))], end, ..Progress::default() }
    }

    #[test]
    fn both_sides_of_a_turn_stand_beside_one_another_and_cut_to_fit() {
        let history = [turn(1_000, 0), scheduled(0, "Mix"), scheduled(1, "Bake")];
        let shown = Shown { full: false, columns: 60 };
        assert_eq!(
            shown.turn(&played(&history, mix_and(Some(End::Completed(Payload::of(&"x".repeat(40))))))),
            "\
Turn 1 at 1970-01-01T00:00:01Z
    TASK  HISTORY                   GUEST NOW
=      0  activity \"Mix\" with null  activity \"Mix\" with null
≠      1  activity \"Bake\" with nu…  nothing
≠    end  goes on                   returns \"xxxxxxxxxxxxxx…
    said  info bakery: one
              two\u{fffd}"
        );
    }

    #[test]
    fn what_is_not_cut_stands_below_one_another_and_once_if_it_is_the_same() {
        let history = [turn(1_000, 0), scheduled(0, "Mix"), completed()];
        let shown = Shown { full: true, columns: 60 };
        let output = format!("\"{}\"", "x".repeat(80));
        let text = shown.turn(&played(&history, mix_and(Some(End::Completed(Payload::parse(output.clone()).unwrap())))));
        let expected = format!("=      0  activity \"Mix\" with null\n≠    end  returns null\n          returns {output}\n");
        assert!(text.contains(&expected), "{text}");
    }

    #[test]
    fn what_somebody_from_outside_has_done_is_told_with_its_reason_and_time() {
        let rewound = |reason: Option<&str>| {
            let reason = reason.map(str::to_owned);
            control(&Event::Rewound { at_ms: 1_500, reason, reopened: Vec::new(), turn_at_ms: None, module: None })
        };
        assert_eq!(rewound(Some("oven\nfixed")), "rewound: oven fixed at 1970-01-01T00:00:01.5Z");
        assert_eq!(rewound(None), "rewound at 1970-01-01T00:00:01.5Z");
        let end = End::Terminated { reason: Some("power cut".into()) };
        assert_eq!(control(&Event::Ended { at_ms: 0, end }), "terminated: power cut at 1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_wish_is_enter_a_number_or_q() {
        let wishes = ["\n", " 12\n", "q\n", "0\n", "-1\n", "what\n"].map(Wish::of);
        assert_eq!(wishes, [Some(Wish::Next), Some(Wish::Turn(12)), Some(Wish::Quit), None, None, None]);
    }
}
