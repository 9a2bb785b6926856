//! How is an activity run? A component instance of its own for each call, on fibers of an asynchronous runtime.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker, ResourceTable, ResourceType};
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::background::{Background, Ticks};
use super::client::Client;
use super::contract::{self, activity as bindings, heartbeat, log, types};
use super::fault::{self, NoGuest};
use super::heartbeat::Heartbeat;
use super::outgoing::{self, Outgoing};
use super::secrets::Secrets;
use super::state::{self, MemoryBound, NotOffered, PanicNote, Refused, SharedLines};
use super::surroundings::Surroundings;
use crate::limits::{GUEST_HANDLES_MAX, Limits, REQUEST_HEAD_BYTES_MAX};
use crate::model::{Failure, Generation, InstanceId, Outcome, Payload, TaskId};

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
    /// What an earlier run reported last, if one did.
    pub progress: Option<Payload>,
    /// Where this run's reports go.
    pub heartbeat: Heartbeat,
    /// Where its lines gather; they are there too when it is stopped in the middle.
    pub lines: SharedLines,
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
    client: Client,
    background: Arc<Background>,
}

impl ActivityCode {
    /// Links `component` with WASI, outgoing HTTP (by `client`), the log and the heartbeat. What WASI has beyond that ends whoever calls it. Calls
    /// that compute for long go on in the `background`.
    ///
    /// # Errors
    /// If an import does not have the type that it should have.
    pub(super) fn new(
        engine: &Engine,
        component: &Component,
        client: Client,
        background: Arc<Background>,
    ) -> wasmtime::Result<Self> {
        let mut linker: Linker<ActivityState> = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        outgoing::bound(&mut linker)?;
        log::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        heartbeat::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        link_what_is_missing(&mut linker, component)?;
        let pre = linker.instantiate_pre(component)?;
        Ok(Self { indices: bindings::GuestIndices::new(&pre)?, pre, client, background })
    }

    /// Runs one call to its end. Dropping the future stops the guest where it is.
    ///
    /// `function` is spelled as the catalog spells it. What the guest says goes to the lines of `invocation`.
    ///
    /// # Errors
    /// If there was no instance to run it in: the activity has not run then.
    pub(super) async fn invoke(
        self: &Arc<Self>,
        invocation: &Invocation,
        function: &str,
        limits: &Limits,
        surroundings: &Arc<Surroundings>,
    ) -> Result<Outcome, NoGuest> {
        let (code, ticks, limits, surroundings) = (self.clone(), Arc::<Ticks>::default(), limits.clone(), surroundings.clone());
        let (invocation, function, counted) = (invocation.clone(), function.to_owned(), ticks.clone());
        let run = async move { code.run(&invocation, &function, &limits, &surroundings, counted).await };
        self.background.run(run, &ticks).await
    }

    /// Runs one call, and counts the ticks of the epoch in which it computes.
    async fn run(
        &self,
        invocation: &Invocation,
        function: &str,
        limits: &Limits,
        surroundings: &Arc<Surroundings>,
        ticks: Arc<Ticks>,
    ) -> Result<Outcome, NoGuest> {
        let secrets = &surroundings.secrets;
        let state = ActivityState {
            memory: MemoryBound::new(limits.guest_memory_bytes_max),
            lines: invocation.lines.clone(),
            panic: None,
            client: self.client.clone(),
            surroundings: surroundings.clone(),
            heartbeat: invocation.heartbeat.clone(),
            heartbeat_bytes_max: limits.heartbeat_bytes_max,
            wasi: None,
        };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        // Every tick the guest makes room for others; how long it may take in all is for the caller to say.
        store.epoch_deadline_callback(move |_| {
            ticks.count();
            Ok(UpdateDeadline::Yield(1))
        });
        store.set_epoch_deadline(1);
        store.set_hostcall_fuel(state::hostcall_bytes_max(limits));
        store.set_max_component_handles(GUEST_HANDLES_MAX);
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
                let what = "the activity's result";
                contract::payload(output, what, limits.payload_bytes_max)
                    .and_then(|output| without_secret(output, what, secrets))
                    .map(Outcome::Completed)
            }
            Ok(Err(failure)) => contract::from_guest(concealed(failure, secrets), limits.payload_bytes_max).map(Outcome::Failed),
            Err(error) => {
                let fault = fault::of(&error, store.data_mut().panic.take());
                let message = format!("activity {function:?}: {}", fault.failure().message);
                Err(Failure { message, ..fault.failure().clone() })
            }
        };
        Ok(outcome.unwrap_or_else(Outcome::Failed))
    }
}

/// `payload`, unless it would put a secret into a history.
fn without_secret(payload: Payload, what: &str, secrets: &Secrets) -> Result<Payload, Failure> {
    match secrets.found_in(payload.text()) {
        None => Ok(payload),
        Some(secret) => {
            let message = format!("{what} has the secret {secret} in it, which must not stand in a history: leave it out");
            Err(Failure::new("SecretRevealed", message).non_retriable())
        }
    }
}

/// `failure` with `[secret NAME]` where a secret stood. Before its texts are cut: half a secret is not recognised.
fn concealed(mut failure: types::Failure, secrets: &Secrets) -> types::Failure {
    let text = |text: &mut String| *text = secrets.conceal(std::mem::take(text));
    let details = |details: &mut Option<String>| {
        if let Some(secret) = details.as_deref().and_then(|details| secrets.found_in(details)) {
            *details = Some(format!("\"[secret {secret}]\""));
        }
    };
    text(&mut failure.kind);
    text(&mut failure.message);
    failure.stack_trace.iter_mut().for_each(text);
    details(&mut failure.details);
    for cause in &mut failure.causes {
        text(&mut cause.kind);
        text(&mut cause.message);
        details(&mut cause.details);
    }
    failure
}

/// Gives `component` the interfaces of WASI that `linker` does not have. Not with `define_unknown_imports_as_traps`: to that
/// method an import of WASI 0.2.6 is unknown to a linker that has 0.2.12, and all of WASI would trap.
fn link_what_is_missing(linker: &mut Linker<ActivityState>, component: &Component) -> wasmtime::Result<()> {
    const LINKED: [&str; 8] = [
        "wasi:cli/",
        "wasi:clocks/",
        "wasi:filesystem/",
        "wasi:http/outgoing-handler@",
        "wasi:http/types@",
        "wasi:io/",
        "wasi:random/",
        "wasi:sockets/",
    ];
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
    client: Client,
    surroundings: Arc<Surroundings>,
    heartbeat: Heartbeat,
    heartbeat_bytes_max: usize,
    /// Made at the first call of WASI: most activities that only compute never make one.
    wasi: Option<Wasi>,
}

struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    outgoing: Outgoing,
}

impl Wasi {
    /// Clocks, randomness, the hub's variables and HTTP as far as its policy allows; no files and no sockets.
    fn new(client: &Client, surroundings: &Arc<Surroundings>, lines: &SharedLines) -> Self {
        let ctx = WasiCtxBuilder::new()
            .envs(&surroundings.variables().collect::<Vec<_>>())
            .stdout(Printer { lines: lines.clone(), to_stderr: false })
            .stderr(Printer { lines: lines.clone(), to_stderr: true })
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let outgoing = Outgoing::new(client.clone(), surroundings.clone(), lines.clone());
        let (mut table, mut http) = (ResourceTable::new(), WasiHttpCtx::new());
        table.set_max_capacity(GUEST_HANDLES_MAX);
        http.set_field_size_limit(REQUEST_HEAD_BYTES_MAX);
        Self { ctx, table, http, outgoing }
    }
}

impl ActivityState {
    fn wasi(&mut self) -> &mut Wasi {
        self.wasi.get_or_insert_with(|| Wasi::new(&self.client, &self.surroundings, &self.lines))
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
        let wasi = self.wasi();
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

impl WasiHttpView for ActivityState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let wasi = self.wasi();
        WasiHttpCtxView { hooks: &mut wasi.outgoing, table: &mut wasi.table, ctx: &mut wasi.http }
    }
}

impl heartbeat::Host for ActivityState {
    fn report(&mut self, progress: String) -> wasmtime::Result<()> {
        let what = "the progress that the activity reports";
        let progress = contract::bounded(progress, what, self.heartbeat_bytes_max, "heartbeat_bytes_max")
            .and_then(|progress| without_secret(progress, what, &self.surroundings.secrets));
        self.heartbeat.report(progress.map_err(|failure| wasmtime::Error::new(Refused(failure)))?);
        Ok(())
    }
}

impl log::Host for ActivityState {
    fn write(&mut self, level: log::Level, target: String, message: String) {
        self.lines.lock().push(contract::level(level), target, message);
    }

    fn panicked(&mut self, message: String, location: String) {
        self.panic = Some(PanicNote::new(self.surroundings.secrets.conceal(message), location));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::client::tests::client;
    use super::*;

    /// What an activity has in a hub with the secret KEY, and what it has reported.
    fn state() -> (ActivityState, Arc<Mutex<Vec<String>>>) {
        let secrets = Secrets::new([("KEY".to_owned(), "rye-bread".to_owned())]);
        let surroundings = Surroundings { secrets, ..Surroundings::default() };
        let reports = Arc::<Mutex<Vec<String>>>::default();
        let sink = reports.clone();
        let state = ActivityState {
            memory: MemoryBound::new(0),
            lines: SharedLines::default(),
            panic: None,
            client: client(),
            surroundings: Arc::new(surroundings),
            heartbeat: Heartbeat::new(move |progress| sink.lock().unwrap().push(progress.text().to_owned())),
            heartbeat_bytes_max: 16,
            wasi: None,
        };
        (state, reports)
    }

    #[test]
    fn a_report_is_handed_over_as_it_is_or_ends_the_activity_with_what_is_wrong() {
        use heartbeat::Host;
        let (mut state, reports) = state();
        state.report("{\"done\": 1.0}".into()).unwrap();
        for (report, kind, non_retriable) in [
            ("done", "InvalidJson", false),
            ("\"rye-bread\"", "SecretRevealed", true),
            ("[1,2,3,4,5,6,7,8]", "LimitExceeded", false),
        ] {
            let fault = fault::of(&state.report(report.into()).unwrap_err(), None);
            let failure = fault.failure();
            assert_eq!((failure.kind.as_str(), failure.non_retriable), (kind, non_retriable));
            assert!(failure.message.starts_with("the progress that the activity reports "), "{failure:?}");
        }
        assert_eq!(*reports.lock().unwrap(), ["{\"done\": 1.0}"]);
    }

    #[test]
    fn no_failure_and_no_result_shows_a_secret() {
        let (mut state, _) = state();
        let secrets = state.surroundings.secrets.clone();
        let details = || Some(r#"{"key":"rye\u002dbread"}"#.to_owned());
        let cause = types::Cause { kind: "rye-bread".into(), message: "of rye-bread".into(), details: details() };
        let failure = types::Failure {
            kind: "rye-bread".into(),
            message: format!("{}rye-bread", "x".repeat(super::super::text::TEXT_BYTES_MAX - 4)),
            details: details(),
            stack_trace: Some("at rye-bread".into()),
            non_retriable: false,
            causes: vec![cause],
        };
        let failure = contract::from_guest(concealed(failure, &secrets), 1_000).unwrap();
        let shown = serde_json::to_string(&failure).unwrap();
        assert!(!shown.contains("rye") && !shown.contains("bread"), "{shown}");
        assert_eq!(failure.details.unwrap().text(), r#""[secret KEY]""#);
        assert_eq!(failure.causes[0].message, "of [secret KEY]");

        log::Host::panicked(&mut state, "no rye-bread left".into(), "src/lib.rs:3".into());
        assert_eq!(state.panic.unwrap().message, "no [secret KEY] left");

        let result = |json: &str| without_secret(Payload::parse(json.into()).unwrap(), "the result", &secrets);
        assert!(result(r#"["wheat-bread"]"#).is_ok());
        let failure = result(r#"{"key": "rye-bread"}"#).unwrap_err();
        assert!(failure.non_retriable && failure.message.contains("the secret KEY"), "{failure:?}");
    }

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
