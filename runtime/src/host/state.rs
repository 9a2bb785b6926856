//! What does the host keep beside one guest, and how does it hold the guest to its bounds?

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};

use super::wasi;
use crate::model::{LogLevel, LogLine, Seed};

/// The data in an orchestrator's wasmtime store.
pub(super) struct GuestState {
    /// What all of the guest's clocks read, in milliseconds since 1970.
    pub now_ms: u64,
    /// All randomness of the execution.
    pub random: ChaCha8Rng,
    /// What the guest said since it was last asked.
    pub lines: Lines,
    /// What the guest's panic hook had to say, just before the guest trapped.
    pub panic: Option<PanicNote>,
    /// How much memory it has and may have.
    pub memory: MemoryBound,
    /// How long it may compute.
    pub budget: CpuBudget,
}

impl GuestState {
    /// The state of a guest that has not begun. [`wasi::random`] of the execution's seed replaces the seed of zeros in `begin`.
    pub(super) fn new(memory_bytes_max: u64, cpu_ms_max: u64) -> Self {
        Self {
            now_ms: 0,
            random: wasi::random(Seed([0; 16])),
            lines: Lines::default(),
            panic: None,
            memory: MemoryBound::new(memory_bytes_max),
            budget: CpuBudget { max: Duration::from_millis(cpu_ms_max), began: None },
        }
    }
}

/// Makes the bounds of the store's state take effect.
pub(super) fn bind(store: &mut Store<GuestState>) {
    store.limiter(|state| &mut state.memory);
    store.epoch_deadline_callback(|mut cx| cx.data_mut().budget.tick());
}

/// What a panic says of itself.
#[derive(Debug, Clone)]
pub(super) struct PanicNote {
    pub message: String,
    pub location: String,
}

/// Something that an orchestrator must not do, as the rest of a sentence that starts with "the orchestrator".
#[derive(Debug)]
pub(super) struct Denied(pub String);

impl Denied {
    pub(super) fn error(message: String) -> wasmtime::Error {
        wasmtime::Error::new(Self(message))
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the orchestrator {}", self.0)
    }
}

impl StdError for Denied {}

/// A bound that another try may not reach.
#[derive(Debug)]
pub(super) enum Exhausted {
    Cpu { max: Duration },
    Memory { asked: usize, max: usize },
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { max } => {
                write!(f, "the guest computed for more than {} ms without waiting (limit turn_cpu_ms_max)", max.as_millis())
            }
            Self::Memory { asked, max } => {
                write!(f, "the guest wanted {asked} bytes of memory, and may have {max} (limit guest_memory_bytes_max)")
            }
        }
    }
}

impl StdError for Exhausted {}

/// Counts a guest's memory. Growing past the bound traps, so that the guest cannot mistake it for something else.
pub(super) struct MemoryBound {
    max: usize,
    initial: Option<usize>,
    now: usize,
}

impl MemoryBound {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { max: usize::try_from(bytes_max).unwrap_or(usize::MAX), initial: None, now: 0 }
    }

    /// Takes another bound from here on.
    pub(super) fn set_max(&mut self, bytes_max: u64) {
        self.max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    }

    /// By how many bytes the guest has grown beyond what it came with.
    pub(super) fn grown(&self) -> usize {
        self.now.saturating_sub(self.initial.unwrap_or(self.now))
    }
}

impl ResourceLimiter for MemoryBound {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.max {
            return Err(wasmtime::Error::new(Exhausted::Memory { asked: desired, max: self.max }));
        }
        self.initial.get_or_insert(desired);
        self.now = desired;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, _desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true) // The pool bounds every table.
    }
}

/// Bounds the CPU time of one call: time that the thread really had, so that a busy machine fails nobody.
pub(super) struct CpuBudget {
    max: Duration,
    began: Option<Duration>,
}

impl CpuBudget {
    /// A call begins. The clock is only read at the first tick, since most calls end before it.
    pub(super) fn begin(&mut self) {
        self.began = None;
    }

    fn tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let now = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
        let began = *self.began.get_or_insert(now);
        if now.saturating_sub(began) < self.max {
            Ok(UpdateDeadline::Continue(1))
        } else {
            Err(wasmtime::Error::new(Exhausted::Cpu { max: self.max }))
        }
    }
}

/// What a guest says within one turn, bounded: whoever talks without end must not fill the host's memory.
#[derive(Default)]
pub(super) struct Lines {
    done: Vec<LogLine>,
    /// Printed, but without a line break yet: to standard output and to standard error.
    open: [Vec<u8>; 2],
    bytes: usize,
    dropped: u64,
}

impl Lines {
    /// How much of it is kept, in bytes: some thousand lines.
    const BYTES_MAX: usize = 256 << 10;

    /// Takes one line.
    pub(super) fn push(&mut self, level: LogLevel, target: String, message: String) {
        self.bytes += target.len() + message.len();
        if self.bytes > Self::BYTES_MAX {
            self.dropped += 1;
        } else {
            self.done.push(LogLine { level, target, message });
        }
    }

    /// Takes what is printed and makes lines of it.
    pub(super) fn print(&mut self, to_stderr: bool, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let open = &mut self.open[usize::from(to_stderr)];
            let room = Self::BYTES_MAX.saturating_sub(open.len());
            open.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.close(to_stderr);
            }
        }
    }

    /// Gives out what was said, and starts anew.
    pub(super) fn take(&mut self) -> Vec<LogLine> {
        for to_stderr in [false, true] {
            if !self.open[usize::from(to_stderr)].is_empty() {
                self.close(to_stderr);
            }
        }
        let mut lines = std::mem::take(&mut self.done);
        if self.dropped > 0 {
            let message = format!("{} more lines in this turn were dropped", self.dropped);
            lines.push(LogLine { level: LogLevel::Warn, target: "dacapo".into(), message });
        }
        *self = Self::default();
        lines
    }

    fn close(&mut self, to_stderr: bool) {
        let bytes = std::mem::take(&mut self.open[usize::from(to_stderr)]);
        let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
        let (level, target) = if to_stderr { (LogLevel::Warn, "stderr") } else { (LogLevel::Info, "stdout") };
        self.push(level, target.into(), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_in_pieces_becomes_whole_lines() {
        let mut lines = Lines::default();
        lines.print(false, b"one\ntw");
        lines.print(true, b"careful");
        lines.print(false, b"o\n\nthree");
        let said: Vec<String> = lines.take().iter().map(ToString::to_string).collect();
        assert_eq!(said, ["stdout: one", "stdout: two", "stdout: ", "stdout: three", "stderr: careful"]);
        assert!(lines.take().is_empty());
    }

    #[test]
    fn a_guest_that_talks_without_end_is_cut_short_and_says_so() {
        let mut lines = Lines::default();
        for _ in 0..100_000 {
            lines.push(LogLevel::Info, "loop".into(), "again".into());
        }
        let said = lines.take();
        assert!(said.len() < 40_000);
        assert!(said.last().unwrap().message.ends_with("more lines in this turn were dropped"));
    }
}
