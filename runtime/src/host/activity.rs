//! How is an activity run? A component instance of its own for each call, on fibers of an asynchronous runtime.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker, ResourceTable, ResourceType};
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::contract::{self, activity as bindings, heartbeat, log};
use super::fault::{self, NoGuest};
use super::heartbeat::Heartbeat;
use super::state::{self, Lines, MemoryBound, NotOffered, PanicNote};
use crate::limits::Limits;
use crate::model::{Failure, Generation, InstanceId, LogLine, Outcome, Payload, TaskId};

/// One call of an activity.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The activity's name; found without regard to case.
    pub function: String,
    /// Its input.
    pub input: Payload,
    /// The orchestration that asked.
    pub instance: InstanceId,
    /// That execution's generation.
    pub generation: Generation,
    /// The number of its task there.
    pub task: TaskId,
    /// Which attempt of the guest's retry policy this is, counted from 1.
    pub attempt: u32,
    /// The task of attempt 1, if this is a later one.
    pub first_attempt: Option<TaskId>,
    /// What an earlier run of it, or of an earlier attempt, reported last.
    pub progress: Option<Payload>,
    /// Takes what it reports.
    pub heartbeat: Heartbeat,
}

impl Invocation {
    /// The same for each run of the same task and of its retries; for no other.
    fn idempotency_key(&self) -> String {
        format!("{}:{}", self.generation, self.first_attempt.unwrap_or(self.task))
    }
}

/// The activity role of a module, ready to be instantiated.
pub(super) struct ActivityCode {
    pre: InstancePre<ActivityState>,
    indices: bindings::GuestIndices,
}

impl ActivityCode {
    /// Links `component` with WASI and the log. What WASI has beyond version 0.2's command world ends whoever calls it.
    ///
    /// # Errors
    /// If an import does not have the type that it should have.
    pub(super) fn new(engine: &Engine, component: &Component) -> wasmtime::Result<Self> {
        let mut linker: Linker<ActivityState> = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        log::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        heartbeat::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        link_what_is_missing(&mut linker, component)?;
        let pre = linker.instantiate_pre(component)?;
        Ok(Self { indices: bindings::GuestIndices::new(&pre)?, pre })
    }

    /// Runs one call to its end. Dropping the future stops the guest where it is.
    ///
    /// `function` is spelled as the catalog spells it. Returns what the guest said beside its outcome.
    ///
    /// # Errors
    /// If there was no instance to run it in: the activity has not run then.
    pub(super) async fn invoke(
        &self,
        invocation: &Invocation,
        function: &str,
        limits: &Limits,
    ) -> Result<(Outcome, Vec<LogLine>), NoGuest> {
        let mut store = Store::new(self.pre.engine(), ActivityState::new(limits, invocation.heartbeat.clone()));
        store.limiter(|state| &mut state.memory);
        // Every tick the guest makes room for others; how long it may take in all is for the caller to say.
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        store.set_epoch_deadline(1);
        store.set_hostcall_fuel(state::hostcall_bytes_max(limits));
        let instance = self.pre.instantiate_async(&mut store).await;
        let guest = instance
            .and_then(|instance| self.indices.load(&mut store, &instance))
            .map_err(|error| fault::at_instantiation(&error, store.data_mut().panic.take()))?;
        let asked = bindings::Invocation {
            function: function.to_owned(),
            input: invocation.input.text().to_owned(),
            instance_id: invocation.instance.to_string(),
            task: invocation.task.0,
            attempt: invocation.attempt,
            idempotency_key: invocation.idempotency_key(),
            progress: invocation.progress.as_ref().map(|progress| progress.text().to_owned()),
            extensions: Vec::new(),
        };
        let outcome = match guest.call_invoke(&mut store, &asked).await {
            Ok(Ok(output)) => {
                contract::payload(output, "the activity's result", limits.payload_bytes_max).map(Outcome::Completed)
            }
            Ok(Err(failure)) => contract::from_guest(failure, limits.payload_bytes_max).map(Outcome::Failed),
            Err(error) => {
                let fault = fault::of(&error, store.data_mut().panic.take());
                let message = format!("activity {function:?}: {}", fault.failure().message);
                Err(Failure { message, ..fault.failure().clone() })
            }
        };
        let lines = store.data().lines.lock().take();
        Ok((outcome.unwrap_or_else(Outcome::Failed), lines))
    }
}

/// Gives `component` the interfaces of WASI that `linker` does not have. Not with `define_unknown_imports_as_traps`: to that
/// method an import of WASI 0.2.6 is unknown to a linker that has 0.2.12, and all of WASI would trap.
fn link_what_is_missing(linker: &mut Linker<ActivityState>, component: &Component) -> wasmtime::Result<()> {
    const LINKED: [&str; 6] = ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];
    let engine = linker.engine().clone();
    for (import, item) in component.component_type().imports(&engine) {
        let ComponentItem::ComponentInstance(interface) = item.ty else { continue };
        if !import.starts_with("wasi:") || LINKED.iter().any(|package| import.starts_with(package)) {
            continue;
        }
        let mut instance = linker.instance(import)?;
        for (function, is) in interface.exports(&engine) {
            match is.ty {
                ComponentItem::ComponentFunc(_) => {
                    let called = format!("{import}#{function}");
                    instance.func_new(function, move |_, _, _, _| Err(wasmtime::Error::new(NotOffered(called.clone()))))?;
                }
                ComponentItem::Resource(_) => instance.resource(function, ResourceType::host::<()>(), |_, _| Ok(()))?,
                _ => (), // Types need no definition.
            }
        }
    }
    Ok(())
}

/// The data in an activity's wasmtime store.
struct ActivityState {
    memory: MemoryBound,
    lines: SharedLines,
    panic: Option<PanicNote>,
    heartbeat: Heartbeat,
    payload_bytes_max: usize,
    /// Made at the first call of WASI: most activities that only compute never make one.
    wasi: Option<Wasi>,
}

struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
}

impl Wasi {
    /// Clocks and randomness, but no files, no environment and no network: nothing is given that nobody allowed.
    fn new(lines: &SharedLines) -> Self {
        let ctx = WasiCtxBuilder::new()
            .stdout(Printer { lines: lines.clone(), to_stderr: false })
            .stderr(Printer { lines: lines.clone(), to_stderr: true })
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        Self { ctx, table: ResourceTable::new() }
    }
}

impl ActivityState {
    fn new(limits: &Limits, heartbeat: Heartbeat) -> Self {
        let memory = MemoryBound::new(limits.guest_memory_bytes_max);
        let payload_bytes_max = limits.payload_bytes_max;
        Self { memory, lines: SharedLines::default(), panic: None, heartbeat, payload_bytes_max, wasi: None }
    }
}

/// What an activity says, through the log and through its two output streams.
#[derive(Clone, Default)]
struct SharedLines(Arc<Mutex<Lines>>);

impl SharedLines {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Standard output or standard error. Never full: a program that prints too much loses lines, not its life.
#[derive(Clone)]
struct Printer {
    lines: SharedLines,
    to_stderr: bool,
}

impl StdoutStream for Printer {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl IsTerminal for Printer {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl OutputStream for Printer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.lines.lock().print(self.to_stderr, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(64 << 10) // At once, any number of times.
    }
}

impl Pollable for Printer {
    fn ready<'a, 'b>(&'a mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async {})
    }
}

/// For WASI 0.3, which is not linked here; wasmtime asks for both.
impl AsyncWrite for Printer {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.lines.lock().print(self.to_stderr, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl WasiView for ActivityState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| Wasi::new(&self.lines));
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

impl log::Host for ActivityState {
    fn write(&mut self, level: log::Level, target: String, message: String) {
        self.lines.lock().push(contract::level(level), target, message);
    }

    fn panicked(&mut self, message: String, location: String) {
        self.panic = Some(PanicNote::new(message, location));
    }
}

impl heartbeat::Host for ActivityState {
    fn report(&mut self, progress: String) {
        if let Ok(progress) = contract::payload(progress, "the activity's progress", self.payload_bytes_max) {
            self.heartbeat.report(progress);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_talkative_activity_loses_lines_and_nothing_else() {
        let lines = SharedLines::default();
        let mut stdout = Printer { lines: lines.clone(), to_stderr: false }.p2_stream();
        for _ in 0..10_000 {
            assert!(stdout.check_write().unwrap() >= 64 << 10);
            stdout.write(Bytes::from("the oven is hot\n".repeat(100))).unwrap();
            stdout.flush().unwrap();
        }
        lines.lock().push(crate::model::LogLevel::Info, "late".into(), "too late".into());
        let said = lines.lock().take();
        assert_eq!(said[0].to_string(), "stdout: the oven is hot");
        assert!(said.last().unwrap().message.ends_with(" more lines were dropped"), "{:?}", said.last());
    }
}
