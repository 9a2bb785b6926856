//! How does an upload become machine code? In a child process, held to CPU time and memory.
//!
//! A compiler is large, and what it is given comes from outside: if it loops, blows up or crashes, the child dies and the
//! server says so. The child is this same program (`dacapo compile-module`): it reads the module from standard input and
//! writes one [`Compiled`], or what is wrong with the module, to standard output.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use wasmtime::Engine;
use wasmtime::component::Component;
use wit_component::ComponentEncoder;

use super::contract;
use super::engines;
use super::module::ModuleError;
use crate::limits::Limits;
use crate::priority;

/// Where modules are compiled.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// In a child process that runs this program, which has to be `dacapo`.
    Child(PathBuf),
    /// Here, without bounds: for modules that are trusted, as in tests and benches.
    InProcess,
}

/// Machine code for the engines of [`engines`], as wasmtime writes it.
#[derive(Debug)]
pub(super) struct Compiled {
    /// For the deterministic engine.
    pub deterministic: Vec<u8>,
    /// For the engine of activities, if the module has that role.
    pub activities: Option<Vec<u8>>,
}

impl Compiler {
    /// A child process of this program, which has to be `dacapo`.
    ///
    /// # Errors
    /// If this program cannot be found.
    pub fn child() -> io::Result<Self> {
        // The kernel's name for the file that runs: it stays this one when an upgrade puts another under the same path.
        Ok(Self::Child(if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { env::current_exe()? }))
    }

    /// Compiles `module`, a component or a core module that carries its component type.
    ///
    /// # Errors
    /// [`ModuleError::Invalid`] if it is neither, or needs more time or memory than it may.
    pub(super) fn compile(&self, module: &[u8], limits: &Limits) -> Result<Compiled, ModuleError> {
        match self {
            Self::InProcess => compile(module, limits).map_err(ModuleError::Invalid),
            Self::Child(program) => compile_in_child(program, module, limits),
        }
    }
}

/// How many modules are compiled at once: each may take all of `compile_memory_bytes_max`.
const PLACES: u32 = 2;

/// Where those wait who want to compile a module while others do.
pub(super) struct Places {
    free: Mutex<u32>,
    freed: Condvar,
}

/// Gives a place back when it is dropped.
pub(super) struct Place<'a>(&'a Places);

impl Places {
    pub(super) fn new() -> Self {
        Self { free: Mutex::new(PLACES), freed: Condvar::new() }
    }

    /// Waits for a place.
    pub(super) fn take(&self) -> Place<'_> {
        // A number is whole at any time, whoever panicked.
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Place(self)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

fn compile(module: &[u8], limits: &Limits) -> Result<Compiled, String> {
    let engine = |config| Engine::new(&config).map_err(|error| format!("the compiler cannot start: {error:#}"));
    let deterministic = engine(engines::deterministic_config(limits))?;
    let component = componentize(&deterministic, module)?;
    let code =
        |engine: &Engine| Component::new(engine, &component).map_err(|error| format!("the module is not valid: {error:#}"));
    let serialize = |code: &Component| code.serialize().map_err(|error| format!("the module does not compile: {error:#}"));

    let first = code(&deterministic)?;
    let has_activities = first.component_type().get_export(&deterministic, contract::ACTIVITY).is_some();
    let activities = if has_activities { Some(serialize(&code(&engine(engines::activities_config())?)?)?) } else { None };
    Ok(Compiled { deterministic: serialize(&first)?, activities })
}

/// The component that `module` is, or that its component type makes of it. A core module is validated by `engine` first: what makes the component
/// panics on one that is cut off.
fn componentize(engine: &Engine, module: &[u8]) -> Result<Vec<u8>, String> {
    match module {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(module.to_vec()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            wasmtime::Module::validate(engine, module).map_err(|error| format!("the module is not valid: {error:#}"))?;
            let encoder = ComponentEncoder::default().validate(true).module(module);
            let component = encoder.and_then(|mut encoder| encoder.encode());
            component.map_err(|error| format!("this core module cannot be made a component: {error:#}"))
        }
        [0, b'a', b's', b'm', ..] => Err("this version of the wasm format is unknown here".into()),
        _ => Err("these bytes are not WebAssembly: they do not begin with \"\\0asm\"".into()),
    }
}

fn compile_in_child(program: &PathBuf, module: &[u8], limits: &Limits) -> Result<Compiled, ModuleError> {
    let internal = |what: &str, error: io::Error| ModuleError::Internal(format!("{what} {}: {error}", program.display()));
    let limits_json = serde_json::to_string(limits).expect("limits are numbers");
    let mut child = Command::new(program)
        .args([COMMAND, &limits_json])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| internal("cannot run the compiler", error))?;
    let mut stdin = child.stdin.take().expect("it is piped");
    // The child reads all before it writes anything, so neither waits for the other. If it died early, its status tells.
    let _ = stdin.write_all(module);
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| internal("cannot read from the compiler", error))?;
    match read_frames(&output.stdout) {
        Some(Ok(compiled)) if output.status.success() => Ok(compiled),
        Some(Err(message)) => Err(ModuleError::Invalid(message)),
        _ => Err(ModuleError::Invalid(broke_off(output.status, limits))),
    }
}

/// Why the child did not get to its end.
fn broke_off(status: ExitStatus, limits: &Limits) -> String {
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        let max = limits.compile_cpu_s_max;
        return format!("compiling the module takes more than {max} s of CPU, which is the limit compile_cpu_s_max");
    }
    format!(
        "compiling the module broke off ({status}): it needs more than {} bytes of memory, which is the limit compile_memory_bytes_max, \
         or it is nested too deep",
        limits.compile_memory_bytes_max
    )
}

/// The hidden command under which this program is the compiler's child process.
pub const COMMAND: &str = "compile-module";

/// The child's side: compiles what comes on standard input, and writes to `out`, which the parent reads.
///
/// # Errors
/// If the limits cannot be set, or the parent is gone.
pub fn child_main(limits_json: &str, mut out: impl Write) -> io::Result<()> {
    let limits: Limits = serde_json::from_str(limits_json)?;
    // Nobody is left to take what a killed server has asked for. It is the parent's thread that counts, and that waits for this.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    priority::be_nice();
    let bound = |max: u64| Rlimit { current: Some(max), maximum: Some(max) };
    // The signal of the lower bound says why, that of the upper one nothing.
    let cpu_s_max = limits.compile_cpu_s_max;
    setrlimit(Resource::Cpu, Rlimit { current: Some(cpu_s_max), maximum: cpu_s_max.checked_add(1) })?;
    setrlimit(Resource::As, bound(limits.compile_memory_bytes_max))?;
    setrlimit(Resource::Core, bound(0))?;
    let mut module = Vec::new();
    io::stdin().lock().read_to_end(&mut module)?;
    match compile(&module, &limits) {
        Ok(compiled) => {
            write_frame(&mut out, b'D', &compiled.deterministic)?;
            if let Some(activities) = &compiled.activities {
                write_frame(&mut out, b'A', activities)?;
            }
            write_frame(&mut out, b'.', &[])?;
        }
        Err(message) => write_frame(&mut out, b'E', message.as_bytes())?,
    }
    out.flush()
}

fn write_frame(out: &mut impl Write, tag: u8, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&[tag])?;
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(bytes)
}

/// What the child wrote; `None` if it did not get to its end.
fn read_frames(mut bytes: &[u8]) -> Option<Result<Compiled, String>> {
    let (mut deterministic, mut activities) = (None, None);
    loop {
        let (header, rest) = bytes.split_first_chunk::<9>()?;
        let length = u64::from_le_bytes(header[1..].try_into().ok()?);
        let (frame, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        bytes = rest;
        match header[0] {
            b'D' => deterministic = Some(frame.to_vec()),
            b'A' => activities = Some(frame.to_vec()),
            b'E' => return Some(Err(String::from_utf8_lossy(frame).into_owned())),
            _ => return Some(Ok(Compiled { deterministic: deterministic?, activities })),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn no_more_modules_are_compiled_at_once_than_there_are_places() {
        let (places, inside) = (Places::new(), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let _place = places.take();
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < PLACES);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(*places.free.lock().unwrap(), PLACES);
    }

    #[test]
    fn what_a_child_writes_is_read_back_and_a_torn_end_is_noticed() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, b'D', b"code").unwrap();
        write_frame(&mut bytes, b'.', b"").unwrap();
        let compiled = read_frames(&bytes).unwrap().unwrap();
        assert_eq!((compiled.deterministic.as_slice(), compiled.activities), (&b"code"[..], None));
        for cut in 0..bytes.len() {
            assert!(read_frames(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        let mut bytes = Vec::new();
        write_frame(&mut bytes, b'E', b"no").unwrap();
        assert_eq!(read_frames(&bytes).unwrap().unwrap_err(), "no");
    }

    #[test]
    fn bytes_that_are_no_module_are_refused_with_what_they_are() {
        let refused = |bytes: &[u8]| compile(bytes, &Limits::default()).unwrap_err();
        assert_eq!(refused(b"hello"), "these bytes are not WebAssembly: they do not begin with \"\\0asm\"");
        assert_eq!(refused(b"\0asm\x02\0\0\0"), "this version of the wasm format is unknown here");
        assert!(refused(b"\0asm\x0d\0\x01\0junk").starts_with("the module is not valid: "));
        assert!(refused(b"\0asm\x01\0\0\0\x02\x29\x01").starts_with("the module is not valid: unexpected end"), "it is cut off");
        // A core module with an import that its component type (it has none) does not explain.
        let core = wat::parse_str("(module (import \"env\" \"f\" (func)))").unwrap();
        let message = refused(&core);
        assert!(message.starts_with("this core module cannot be made a component: "), "{message}");
    }
}
