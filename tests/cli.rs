//! Does every command do what its help says? The built program is run as from a shell, against a server of the test's own.

mod connection;
mod help;
mod instances;
mod operator;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::Server;
use crate::support::server::{PROGRAM, run_to_end};

/// The exit codes, as the help has them.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const NOT_FOUND: i32 = 4;
const ENDED_BADLY: i32 = 5;
const TIME_UP: i32 = 6;

/// A user's shell: a home folder of its own and nothing in the environment but what a test puts there.
struct Shell {
    home: TempDir,
    variables: Vec<(&'static str, String)>,
}

/// What a command has said and how it ended.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Shell {
    /// One whose environment names no server.
    fn new() -> Self {
        Self { home: TempDir::with_prefix("dacapo-home-").expect("make a folder"), variables: Vec::new() }
    }

    /// One whose environment names this server.
    fn of(server: &Server) -> Self {
        Self::new().with("DACAPO_SERVER", &server.origin)
    }

    /// The same with one more variable.
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// Writes a file into the home folder.
    fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(path);
        fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("make a folder");
        fs::write(&path, text).expect("write a file");
        path
    }

    /// Runs a command and returns whatever came of it.
    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env_clear().env("HOME", self.home.path()).current_dir(self.home.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let Output { status, stdout, stderr } = run_to_end(&mut command);
        let text = |bytes| String::from_utf8(bytes).expect("a command writes text");
        Ran { code: status.code().expect("it ends by itself"), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Runs a command that has to end with status 0 and say nothing besides its results, which are returned.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let Ran { code, stdout, stderr } = self.run(arguments);
        assert_eq!((code, stderr.as_str()), (DONE, ""), "{arguments:?}: {stdout}");
        stdout
    }

    /// Runs a command that has to end like this, without results, and returns the one line that says why.
    #[track_caller]
    fn refused(&self, arguments: &[&str], expected: i32) -> String {
        let Ran { code, stdout, stderr } = self.run(arguments);
        assert_eq!((code, stdout.as_str()), (expected, ""), "{arguments:?}: {stderr}");
        let line = stderr.strip_suffix('\n').and_then(|text| text.strip_prefix("error: "));
        line.filter(|line| !line.contains("error: ")).unwrap_or_else(|| panic!("{arguments:?}: {stderr}")).to_owned()
    }

    /// The JSON that a command prints.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.done(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {text}"))
    }
}

/// What people see, made the same for every run: cells are separated by ` | `, whatever their width, and times are masked.
fn masked(shown: &str) -> String {
    let line = |line: &str| {
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        // Where a cell is cut depends on the width of the others.
        let cells =
            cells.map(|cell| if cell.ends_with('…') { cell.chars().take(30).chain(['…']).collect() } else { cell.to_owned() });
        cells.map(|cell| cell.split(' ').map(mask).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(" | ")
    };
    let text = shown.lines().map(|text| line(text) + "\n").collect::<String>();
    text.replace("<duration> ago", "<ago>").replace("now", "<ago>")
}

/// Masks a word that is a time or a duration.
fn mask(word: &str) -> String {
    let bare = word.trim_matches(|c| "(+)".contains(c));
    let digits = bare.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let is_time = bare.len() >= "2026-03-01T08:00:00Z".len() && bare.as_bytes()[10] == b'T' && bare.ends_with('Z');
    let is_duration = digits.len() < bare.len() && ["ms", "s", "m", "h"].contains(&digits);
    match (is_time, is_duration) {
        (true, _) => word.replace(bare, "<time>"),
        (_, true) => word.replace(bare, "<duration>"),
        _ => word.to_owned(),
    }
}
