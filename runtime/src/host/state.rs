//! What does the host keep beside one guest, and how does it hold the guest to its bounds?

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline};

use super::secrets::Secrets;
use super::surroundings::Surroundings;
use super::text::{NAME_BYTES_MAX, TEXT_BYTES_MAX, cut};
use super::wasi;
use crate::limits::{GUEST_HANDLES_MAX, Limits};
use crate::model::{Failure, LogLevel, LogLine, Seed};
use crate::priority;

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

/// The store of a guest that has not begun, with all bounds in force.
pub(super) fn store(engine: &Engine, limits: &Limits) -> Store<GuestState> {
    let state = GuestState {
        now_ms: 0,
        random: wasi::random(Seed([0; 16])), // Until `begin`, which knows the execution's seed.
        lines: Lines::default(),
        panic: None,
        memory: MemoryBound::new(limits.guest_memory_bytes_max),
        budget: CpuBudget { max: Duration::from_millis(limits.turn_cpu_ms_max), began: None },
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.memory);
    store.epoch_deadline_callback(|mut cx| cx.data_mut().budget.tick());
    store.set_epoch_deadline(1);
    store.set_hostcall_fuel(hostcall_bytes_max(limits));
    store.set_max_component_handles(GUEST_HANDLES_MAX);
    store
}

/// How much a guest may hand over in one call, in bytes: what its memory can hold. Without that a list whose elements all are
/// the same text would make the host hold far more. A fan-out to 10,000 with 2 KB each needs 25 MB.
pub(super) fn hostcall_bytes_max(limits: &Limits) -> usize {
    usize::try_from(limits.guest_memory_bytes_max).unwrap_or(usize::MAX)
}

/// What a panic says of itself.
#[derive(Debug, Clone)]
pub(super) struct PanicNote {
    pub message: String,
    pub location: String,
}

impl PanicNote {
    pub(super) fn new(message: String, location: String) -> Self {
        Self { message: cut(message, TEXT_BYTES_MAX), location: cut(location, NAME_BYTES_MAX) }
    }
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

/// A function of WASI that no guest is offered, by its full name.
#[derive(Debug)]
pub(super) struct NotOffered(pub String);

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest calls {}, which this version of Dacapo does not offer", self.0)
    }
}

impl StdError for NotOffered {}

/// What a guest may not hand over, and why.
#[derive(Debug)]
pub(super) struct Refused(pub Failure);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Refused {}

/// A bound that another try may not reach.
#[derive(Debug)]
pub(super) enum Exhausted {
    Cpu {
        max: Duration,
    },
    Memory {
        asked: usize,
        max: usize,
    },
    /// The bound would have allowed it, the machine did not.
    MachineMemory {
        asked: usize,
    },
}

/// Where limits are set.
const WHERE: &str = "(section [limits] of the server's configuration)";

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { max } => {
                write!(
                    f,
                    "the guest computed for more than {} ms without waiting: leave long work to activities, or raise the limit \
                     turn_cpu_ms_max {WHERE}",
                    max.as_millis()
                )
            }
            Self::Memory { asked, max } => {
                write!(
                    f,
                    "the guest wanted {asked} bytes of memory, and may have {max}: keep less at a time, or raise the limit \
                     guest_memory_bytes_max {WHERE}"
                )
            }
            Self::MachineMemory { asked } => {
                write!(f, "the guest wanted {asked} bytes more memory than it had, and the machine has none left")
            }
        }
    }
}

impl StdError for Exhausted {}

/// What the memory of a lean guest takes, in bytes. Such a guest, as Rust makes them, comes with some 1.2 MiB, of which it touches
/// a few pages, so only what is above this counts as memory that is in use.
const LEAN_BYTES: usize = 2 << 20;

/// Counts the memory of a guest, all its linear memories together. Growing past the bound traps, and so does growth that the
/// machine refuses: what depends on the server must not be visible to the guest.
pub(super) struct MemoryBound {
    max: usize,
    now: usize,
    /// The growth that was granted last, in bytes; wasmtime may report that it failed.
    granted: usize,
}

impl MemoryBound {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { max: usize::try_from(bytes_max).unwrap_or(usize::MAX), now: 0, granted: 0 }
    }

    /// Takes another bound from here on.
    pub(super) fn set_max(&mut self, bytes_max: u64) {
        self.max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    }

    /// How much memory the guest has beyond what every guest has, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.now.saturating_sub(LEAN_BYTES)
    }
}

impl ResourceLimiter for MemoryBound {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false); // The module's own bound: it says -1 in every run.
        }
        let growth = desired - current;
        let asked = self.now.saturating_add(growth);
        if asked > self.max {
            return Err(wasmtime::Error::new(Exhausted::Memory { asked, max: self.max }));
        }
        (self.now, self.granted) = (asked, growth);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        let asked = std::mem::take(&mut self.granted);
        self.now -= asked;
        Err(wasmtime::Error::new(Exhausted::MachineMemory { asked }))
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

    /// The bound of the calls that follow.
    pub(super) fn set_max(&mut self, ms: u64) {
        self.max = Duration::from_millis(ms);
    }

    fn tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let now = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
        let computed = now.saturating_sub(*self.began.get_or_insert(now));
        priority::has_computed(computed);
        if computed < self.max {
            Ok(UpdateDeadline::Continue(1))
        } else {
            Err(wasmtime::Error::new(Exhausted::Cpu { max: self.max }))
        }
    }
}

/// What a guest says within one turn or activity, bounded: whoever talks without end must not fill the host's memory.
#[derive(Default)]
pub(super) struct Lines {
    done: Vec<LogLine>,
    /// Printed, but without a line break yet: to standard output and to standard error.
    open: [Vec<u8>; 2],
    bytes: usize,
    dropped: u64,
    /// What no line may show.
    secrets: Secrets,
}

impl Lines {
    /// No lines yet, and none that will show one of `secrets`.
    pub(super) fn without(secrets: Secrets) -> Self {
        Self { secrets, ..Self::default() }
    }

    /// How much of it is kept, in bytes: some thousand lines.
    const BYTES_MAX: usize = 256 << 10;

    /// Takes one line, and cuts it if it is too long.
    pub(super) fn push(&mut self, level: LogLevel, target: String, message: String) {
        // Concealed before it is cut: half a secret is not recognised.
        let (target, message) = (self.secrets.conceal(target), self.secrets.conceal(message));
        let (target, message) = (cut(target, NAME_BYTES_MAX), cut(message, TEXT_BYTES_MAX));
        self.bytes += size_of::<LogLine>() + target.len() + message.len(); // An empty line takes room too.
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
            let message = format!("{} more lines were dropped", self.dropped);
            lines.push(LogLine { level: LogLevel::Warn, target: "dacapo".into(), message });
        }
        *self = Self::without(std::mem::take(&mut self.secrets));
        lines
    }

    fn close(&mut self, to_stderr: bool) {
        let bytes = std::mem::take(&mut self.open[usize::from(to_stderr)]);
        let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
        let (level, target) = if to_stderr { (LogLevel::Warn, "stderr") } else { (LogLevel::Info, "stdout") };
        self.push(level, target.into(), text);
    }
}

/// What an activity says, through the log and through its two output streams. Clones are the same lines.
#[derive(Clone, Default)]
pub struct SharedLines(Arc<Mutex<Lines>>);

impl SharedLines {
    /// No lines yet, and none that will show a secret of these surroundings.
    pub fn new(surroundings: &Surroundings) -> Self {
        Self(Arc::new(Mutex::new(Lines::without(surroundings.secrets.clone()))))
    }

    /// Gives out what was said until now.
    pub fn take(&self) -> Vec<LogLine> {
        self.lock().take()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Lines> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedLines({})", self.lock().done.len())
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

    /// Has a guest say `text` so many times, and returns the lines that are kept.
    fn talk(text: &str, times: usize) -> Vec<LogLine> {
        let mut lines = Lines::default();
        for _ in 0..times {
            lines.push(LogLevel::Info, String::new(), text.into());
        }
        lines.take()
    }

    #[test]
    fn a_guest_that_talks_without_end_is_cut_short_and_says_so() {
        for text in ["again", ""] {
            let said = talk(text, 100_000);
            assert!(said.len() * size_of::<LogLine>() <= Lines::BYTES_MAX + size_of::<LogLine>(), "{}", said.len());
            assert!(said.last().unwrap().message.ends_with("more lines were dropped"));
        }
        let long = talk(&"x".repeat(1 << 20), 1);
        assert_eq!(long[0].message, cut("x".repeat(1 << 20), TEXT_BYTES_MAX));
    }

    #[test]
    fn no_line_shows_a_secret_however_it_was_printed() {
        let key = "rye-bread-".repeat(TEXT_BYTES_MAX / 10);
        let mut lines = Lines::without(Secrets::new([("KEY".into(), "rye-bread".into()), ("LONG".into(), key.clone())]));
        lines.push(LogLevel::Info, "rye-bread".into(), "the key is rye-bread".into());
        lines.print(false, b"the key is rye-");
        lines.print(false, b"bread\n");
        lines.print(true, format!("a{key}").as_bytes());
        let said: Vec<String> = lines.take().iter().map(ToString::to_string).collect();
        let expected = ["[secret KEY]: the key is [secret KEY]", "stdout: the key is [secret KEY]", "stderr: a[secret LONG]"];
        assert_eq!(said, expected);
        lines.push(LogLevel::Info, String::new(), "rye-bread again".into());
        assert_eq!(lines.take()[0].message, "[secret KEY] again");
    }

    /// A core module with one memory, and a function that grows it by a number of pages.
    fn growing(memory: &str, bytes_max: u64) -> impl FnMut(i32) -> wasmtime::Result<i32> {
        let text =
            format!(r#"(module (memory {memory}) (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#);
        let engine = Engine::default();
        let module = wasmtime::Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let mut store = Store::new(&engine, MemoryBound::new(bytes_max));
        store.limiter(|bound| bound);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow").unwrap();
        move |pages| grow.call(&mut store, pages)
    }

    #[test]
    fn growth_past_the_modules_own_bound_is_refused_and_past_the_hosts_it_traps() {
        let mut grow = growing("1 3", 1 << 20);
        assert_eq!(grow(1).unwrap(), 1);
        assert_eq!(grow(2).unwrap(), -1);
        assert_eq!(grow(1).unwrap(), 2);
        let mut grow = growing("1", 1 << 20);
        assert_eq!(grow(15).unwrap(), 1);
        assert!(grow(1).unwrap_err().is::<Exhausted>());
        assert_eq!(grow(-1).unwrap(), -1, "no memory has more than 4 GiB");
    }

    #[test]
    fn all_memories_count_together_and_growth_that_failed_does_not() {
        let mut bound = MemoryBound::new(8 << 20);
        assert!(bound.memory_growing(0, 3 << 20, None).unwrap());
        assert!(bound.memory_growing(0, 4 << 20, None).unwrap());
        assert_eq!(bound.bytes(), 5 << 20);
        assert!(bound.memory_growing(3 << 20, 5 << 20, None).unwrap_err().is::<Exhausted>());
        assert!(bound.memory_growing(3 << 20, 4 << 20, None).unwrap());
        assert!(bound.memory_grow_failed(wasmtime::Error::msg("ENOMEM")).unwrap_err().is::<Exhausted>());
        assert_eq!(bound.bytes(), 5 << 20);
    }
}
