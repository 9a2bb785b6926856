//! What did an instance do, turn by turn, and would this code do it again? Plays an export, without a server and without a store.
//!
//! The rules are those of every other replay (`replay.rs`). Here nothing is kept back: what history has and what the guest asks for are both
//! handed out, with what the guest said on the way. Called by the command line.

use std::path::Path;
use std::sync::Arc;

use super::archive::Archive;
use super::turns::REPLAY_PATIENCE;
use crate::host::{Compiler, Host, Module, ModuleError, NoGuest, OrchestratorGuest};
use crate::limits::Limits;
use crate::model::{CorruptHistory, Digest, Event, Execution, Failure, LogLine, Progress};
use crate::replay::{self, Guest, RecordedTurn, Replay, Step, TurnError};

/// The most memory that a guest of WebAssembly can have, in bytes. A file may say anything.
const MEMORY_BYTES_MAX: u64 = 4 << 30;

/// Why nothing can be played.
#[derive(Debug, thiserror::Error)]
pub enum PlaybackError {
    /// The module cannot be made ready.
    #[error("the module cannot be run here: {0}")]
    Module(#[from] ModuleError),
    /// There is no guest, or it cannot begin.
    #[error("the guest cannot begin: {}", .0.message)]
    Guest(Failure),
    /// There is no room for a guest.
    #[error("there is no guest: {0}")]
    Host(String),
    /// The history cannot be.
    #[error(transparent)]
    Corrupt(#[from] CorruptHistory),
}

/// An export with code that is ready to play it.
pub struct Stage<'a> {
    archive: &'a Archive,
    digest: Digest,
    module: Arc<Module>,
    limits: Limits,
}

/// An export that is being played, from its beginning to its end.
pub struct Playback<'a> {
    replay: Replay<'a>,
    guest: OrchestratorGuest,
    turns: u32,
    said_before: Vec<LogLine>,
    is_broken: bool,
}

/// What came next.
#[derive(Debug)]
pub enum Played {
    /// The guest had a turn.
    Turn(Box<PlayedTurn>),
    /// Somebody from outside has suspended, resumed, rewound or terminated the instance.
    Control(Box<Event>),
}

/// A turn with both sides of it.
#[derive(Debug)]
pub struct PlayedTurn {
    /// Its number, counted from 1.
    pub number: u32,
    /// What history has.
    pub then: RecordedTurn,
    /// What the guest does now; `None` if it is at fault.
    pub now: Option<Progress>,
    /// Why it is at fault now, if it is.
    pub failure: Option<Failure>,
    /// What it said.
    pub lines: Vec<LogLine>,
    /// How the two sides compare.
    pub verdict: Verdict,
}

/// How a turn compares with history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the same.
    Same,
    /// It is as far the same as it has to be: in history the guest was at fault, or failed with other code.
    Free,
    /// It is not; in words that show both sides. Nothing can follow.
    Diverged(String),
}

impl<'a> Stage<'a> {
    /// Makes the code of `archive` ready, or another `module` in its place. Compiled code is kept in the folder `cache`, which is made for it.
    ///
    /// # Errors
    /// [`PlaybackError::Module`], or [`PlaybackError::Corrupt`] if the history does not begin as one does.
    pub fn set(archive: &'a Archive, module: Option<&[u8]>, cache: &Path, compiler: Compiler) -> Result<Self, PlaybackError> {
        let (digest, bytes) = match module {
            Some(bytes) => (Digest::of(bytes), bytes),
            None => {
                let digest = Replay::of(&archive.history)?.code();
                let lacks =
                    || format!("the history runs on module {digest}, and the export does not have it; give it with --module");
                let bytes = archive.modules.get(&digest).ok_or_else(|| ModuleError::Invalid(lacks()))?;
                (digest, &bytes[..])
            }
        };
        // The bounds that the execution keeps for its life; one guest, and none beside it.
        let guest_memory_bytes_max = archive.started().limits.memory_bytes_max.min(MEMORY_BYTES_MAX);
        let limits = Limits { guest_memory_bytes_max, residents_max: 1, activities_running_max: 1, ..Limits::default() };
        let host = Host::new(cache, &limits, 1, compiler, Arc::default())?;
        let module = host.module(digest, || Ok(bytes.to_vec()))?;
        Ok(Self { archive, digest, module, limits })
    }

    /// Which code is played.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether that is other code than the history ran on.
    pub fn is_other_code(&self) -> bool {
        Replay::of(&self.archive.history).is_ok_and(|replay| replay.code() != self.digest)
    }

    /// Raises the curtain, as often as one likes.
    ///
    /// # Errors
    /// As [`PlaybackError`] says.
    pub fn play(&self) -> Result<Playback<'a>, PlaybackError> {
        let replay = Replay::of_other_code(&self.archive.history, self.digest)?;
        let mut guest = self.module.orchestrator(&self.limits).map_err(|error| match error {
            NoGuest::Guest(fault) => PlaybackError::Guest(fault.failure().clone()),
            NoGuest::NoSlot => PlaybackError::Host("all slots are taken".into()),
            NoGuest::Host(message) => PlaybackError::Host(message),
        })?;
        guest.set_cpu_ms_max(self.limits.turn_cpu_ms_max.saturating_mul(REPLAY_PATIENCE));
        guest.begin(replay.started()).map_err(|fault| PlaybackError::Guest(fault.failure().clone()))?;
        let said_before = guest.take_lines();
        Ok(Playback { replay, guest, turns: 0, said_before, is_broken: false })
    }
}

impl Playback<'_> {
    /// Plays on to the end of the next turn. `None` at the end of the history, or behind a divergence.
    ///
    /// # Errors
    /// If the history cannot be.
    pub fn next_step(&mut self) -> Result<Option<Played>, CorruptHistory> {
        if self.is_broken {
            return Ok(None);
        }
        let then = match self.replay.next_step()? {
            None => return Ok(None),
            Some(Step::Control(event)) => return Ok(Some(Played::Control(Box::new(event)))),
            Some(Step::Turn(turn)) => turn,
        };
        self.turns += 1;
        let played = self.guest.advance(then.at_ms, &then.inputs);
        let mut lines = std::mem::take(&mut self.said_before);
        lines.append(&mut self.guest.take_lines());
        let (now, failure) = match played {
            Ok(progress) => (Some(progress), None),
            Err(fault) => (None, Some(fault.failure().clone())),
        };
        let verdict = verdict(&then, now.as_ref(), failure.as_ref());
        // A guest at fault has no next turn, even if history has one.
        self.is_broken = matches!(verdict, Verdict::Diverged(_));
        let number = self.turns;
        Ok(Some(Played::Turn(Box::new(PlayedTurn { number, then, now, failure, lines, verdict }))))
    }

    /// Where the execution stands at the end of the history.
    pub fn into_execution(self) -> Execution {
        self.replay.into_execution()
    }
}

fn verdict(then: &RecordedTurn, now: Option<&Progress>, failure: Option<&Failure>) -> Verdict {
    let RecordedTurn { recorded, next_task, .. } = then;
    // Of a turn in which this code was at fault nothing is recorded that could be compared.
    if recorded.is_at_fault() && !recorded.is_beginning() {
        return Verdict::Free;
    }
    let checked = now.map_or(Ok(()), |progress| replay::check(progress, *next_task, Some(recorded)));
    let fault = match checked {
        Err(TurnError::Diverged(message)) => return Verdict::Diverged(message),
        Err(error) => Some(error.to_string()),
        Ok(()) => failure.map(|failure| failure.message.clone()),
    };
    match fault {
        _ if recorded.is_beginning() => Verdict::Free,
        Some(message) => Verdict::Diverged(at_fault(then, &message)),
        None => Verdict::Same,
    }
}

fn at_fault(then: &RecordedTurn, message: &str) -> String {
    let end = then.recorded.end().map_or_else(|| "goes on".to_owned(), replay::describe_end);
    format!("after task {}: in history the orchestrator {end}, the guest now is at fault: {message}", then.next_task)
}
