//! How is an activity run? A component instance of its own for each call, on fibers of an asynchronous runtime.

use wasmtime::component::{Component, HasSelf, InstancePre, Linker, ResourceTable};
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::contract::{self, activity as bindings, log};
use super::fault;
use super::state::{Lines, MemoryBound, PanicNote};
use crate::limits::Limits;
use crate::model::{Generation, InstanceId, LogLine, Outcome, Payload, TaskId};

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
    /// Links `component` with WASI and the log. What WASI has beyond version 0.2's command world traps when it is called.
    ///
    /// # Errors
    /// If an import does not have the type that it should have.
    pub(super) fn new(engine: &Engine, component: &Component) -> wasmtime::Result<Self> {
        let mut linker: Linker<ActivityState> = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        log::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        linker.define_unknown_imports_as_traps(component)?;
        let pre = linker.instantiate_pre(component)?;
        Ok(Self { indices: bindings::GuestIndices::new(&pre)?, pre })
    }

    /// Runs one call to its end. Dropping the future stops the guest where it is.
    ///
    /// `function` is spelled as the catalog spells it. Returns what the guest said beside its outcome.
    ///
    /// # Errors
    /// If there was no instance to run it in: nothing has run then, and another try may succeed.
    pub(super) async fn invoke(
        &self,
        invocation: &Invocation,
        function: &str,
        limits: &Limits,
    ) -> wasmtime::Result<(Outcome, Vec<LogLine>)> {
        let mut store = Store::new(self.pre.engine(), ActivityState::new(limits));
        store.limiter(|state| &mut state.memory);
        // Every tick the guest makes room for others; how long it may take in all is for the caller to say.
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        store.set_epoch_deadline(1);
        let instance = self.pre.instantiate_async(&mut store).await?;
        let guest = self.indices.load(&mut store, &instance)?;
        let asked = bindings::Invocation {
            function: function.to_owned(),
            input: invocation.input.text().to_owned(),
            instance_id: invocation.instance.to_string(),
            task: invocation.task.0,
            attempt: invocation.attempt,
            idempotency_key: invocation.idempotency_key(),
            progress: None,
            extensions: Vec::new(),
        };
        let outcome = match guest.call_invoke(&mut store, &asked).await {
            Ok(Ok(output)) => {
                contract::payload(output, "the activity's result", limits.payload_bytes_max).map(Outcome::Completed)
            }
            Ok(Err(failure)) => contract::from_guest(failure, limits.payload_bytes_max).map(Outcome::Failed),
            Err(error) => Err(fault::of(&error, store.data_mut().panic.take()).failure().clone()),
        };
        let lines = store.data_mut().take_lines();
        Ok((outcome.unwrap_or_else(Outcome::Failed), lines))
    }
}

/// The data in an activity's wasmtime store.
struct ActivityState {
    memory: MemoryBound,
    lines: Lines,
    panic: Option<PanicNote>,
    /// Made at the first call of WASI: most activities that only compute never make one.
    wasi: Option<Wasi>,
}

struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    stdout: MemoryOutputPipe,
    stderr: MemoryOutputPipe,
}

/// How much of what an activity prints is kept, in bytes, for each of its two streams.
const PRINTED_BYTES_MAX: usize = 64 << 10;

impl Wasi {
    /// Clocks and randomness, but no files, no environment and no network: nothing is given that nobody allowed.
    fn new() -> Self {
        let (stdout, stderr) = (MemoryOutputPipe::new(PRINTED_BYTES_MAX), MemoryOutputPipe::new(PRINTED_BYTES_MAX));
        let ctx = WasiCtxBuilder::new()
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        Self { ctx, table: ResourceTable::new(), stdout, stderr }
    }
}

impl ActivityState {
    fn new(limits: &Limits) -> Self {
        let memory = MemoryBound::new(limits.guest_memory_bytes_max);
        Self { memory, lines: Lines::default(), panic: None, wasi: None }
    }

    fn take_lines(&mut self) -> Vec<LogLine> {
        if let Some(wasi) = &self.wasi {
            self.lines.print(false, &wasi.stdout.contents());
            self.lines.print(true, &wasi.stderr.contents());
        }
        self.lines.take()
    }
}

impl WasiView for ActivityState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(Wasi::new);
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

impl log::Host for ActivityState {
    fn write(&mut self, level: log::Level, target: String, message: String) {
        self.lines.push(contract::level(level), target, message);
    }

    fn panicked(&mut self, message: String, location: String) {
        self.panic = Some(PanicNote { message, location });
    }
}
