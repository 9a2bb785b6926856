//! A newcomer's terminal: a folder of its own, and `dacapo` in the PATH.

use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::server::{PROGRAM, run_to_end};
use super::{eventually, eventually_within, guests};

/// How long a program has to say something, in seconds. Builds that come first may have to build their dependencies.
const SAID_S_MAX: u64 = 300;

/// A terminal. Its folder goes when it does.
pub(crate) struct Shell {
    home: TempDir,
    /// Where commands are run.
    pub(crate) folder: PathBuf,
    /// Variables of commands, besides those of this process.
    pub(crate) variables: Vec<(&'static str, String)>,
}

/// What a command has said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Shell {
    pub(crate) fn new() -> Self {
        let home = TempDir::with_prefix("dacapo-test-").expect("make a folder");
        let folder = home.path().canonicalize().expect("find the folder");
        fs::create_dir(folder.join("bin")).expect("make a folder");
        symlink(PROGRAM, folder.join("bin/dacapo")).expect("link the program");
        let path = format!("{}/bin:{}", folder.display(), env::var("PATH").expect("there is a PATH"));
        // Guests of all tests share a folder with those of the workspace, or each test would have to build their dependencies.
        let target = guests::root().join("target").display().to_string();
        let variables = vec![("PATH", path), ("CARGO_TARGET_DIR", target), ("DACAPO_LISTEN", "127.0.0.1:0".to_owned())];
        Self { home, folder, variables }
    }

    /// Sets a variable for all commands from here on.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.variables.push((name, value.into()));
    }

    /// Runs a line to its end.
    pub(crate) fn run(&self, line: &str) -> Said {
        let output = run_to_end(&mut self.command(line));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("what people read is text");
        Said { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The same for one that has to go well; returns its standard output.
    #[track_caller]
    pub(crate) fn done(&self, line: &str) -> String {
        let said = self.run(line);
        assert!(said.status.success(), "{line}: {said:?}");
        said.stdout
    }

    /// Starts a line that goes on by itself, which has to be one program.
    pub(crate) fn start(&self, line: &str) -> Running {
        let mut command = self.command(&format!("exec {line} 2>&1"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start a shell");
        let said = Arc::new(Mutex::new(String::new()));
        let (mut stdout, heard) = (child.stdout.take().expect("it is piped"), said.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Running { child, said }
    }

    /// Makes a crate with `dacapo new`, locked to the versions of the workspace, so that no test looks for newer ones.
    pub(crate) fn new_crate(&self, name: &str) -> PathBuf {
        self.done(&format!("dacapo new {name}"));
        let folder = self.folder.join(name);
        lock(&folder);
        folder
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&self.folder).env("HOME", self.home.path());
        // Where rustup and cargo keep what they have, if not below the home of tests.
        for (variable, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if let (None, Some(home)) = (env::var_os(variable), env::home_dir()) {
                command.env(variable, home.join(folder));
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Gives the crate in `folder` the versions of the workspace.
pub(crate) fn lock(folder: &Path) {
    fs::copy(guests::root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("copy the lock file");
}

/// Changes a file: `from` has to be in it.
pub(crate) fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).expect("read the file");
    assert!(text.contains(from), "{from:?} is not in {}", file.display());
    fs::write(file, text.replace(from, to)).expect("write the file");
}

/// A program that goes on by itself. It is killed when this goes.
pub(crate) struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Running {
    /// All that it has said.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has said `text` for the `times`-th time, and returns what stands behind that on the same line.
    pub(crate) fn says_again(&self, text: &str, times: usize) -> String {
        let waited = eventually_within(SAID_S_MAX, || {
            let said = self.said();
            let rest = said.split(text).nth(times)?;
            rest.split_once('\n').map(|(line, _)| line.to_owned())
        });
        waited.unwrap_or_else(|| panic!("{text:?} was not said {times} times:\n{}", self.said()))
    }

    /// The same for the first time.
    pub(crate) fn says(&self, text: &str) -> String {
        self.says_again(text, 1)
    }

    /// SIGTERM, and waits for a clean end.
    pub(crate) fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("signal the program");
        let status = eventually("the end of the program", || self.child.try_wait().expect("ask for the program"));
        assert!(status.success(), "it ended with {status}:\n{}", self.said());
        self.said()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Best effort: it has ended already, or the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
