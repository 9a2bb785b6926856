//! How is an orchestrator run? One component instance per execution, called synchronously, turn by turn.

use std::sync::Arc;

use wasmtime::component::{Component, Instance, InstancePre, Linker};
use wasmtime::{Engine, Store};

use super::contract::{self, orchestrator as bindings, query};
use super::fault::{self, NoGuest};
use super::module::Catalog;
use super::state::{self, GuestState};
use super::wasi;
use crate::limits::Limits;
use crate::model::{Failure, Input, LogLine, Payload, Progress, Started};
use crate::replay::{Fault, Guest};

/// The kind of the failure that says that a guest answers no question of a name.
pub const UNKNOWN_QUERY: &str = "UnknownQuery";

/// The orchestrator role of a module, ready to be instantiated.
pub(super) struct OrchestratorCode {
    pre: InstancePre<GuestState>,
    indices: bindings::GuestIndices,
    /// Where the module answers questions, if it exports that.
    query: Option<query::GuestIndices>,
}

/// Links `component` with the deterministic world.
///
/// # Errors
/// If an import does not have the type that it should have.
pub(super) fn link(engine: &Engine, component: &Component) -> wasmtime::Result<InstancePre<GuestState>> {
    use wasmtime::component::types::ComponentItem;
    let mut linker: Linker<GuestState> = Linker::new(engine);
    for (import, item) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(interface) = item.ty else { continue };
        if import == contract::LOG {
            contract::log::add_to_linker::<_, wasmtime::component::HasSelf<_>>(&mut linker, |state| state)?;
            continue;
        }
        let name = import.split_once('@').map_or(import, |(name, _version)| name);
        let mut instance = linker.instance(import)?;
        for (item, is) in interface.exports(engine) {
            match is.ty {
                ComponentItem::ComponentFunc(_) => wasi::define(&mut instance, name, item)?,
                ComponentItem::Resource(_) => instance.resource(item, wasi::resource_type(), |_, _| Ok(()))?,
                _ => (), // Types need no definition.
            }
        }
    }
    linker.instantiate_pre(component)
}

impl OrchestratorCode {
    pub(super) fn new(pre: InstancePre<GuestState>) -> wasmtime::Result<Self> {
        let answers = pre.component().get_export_index(None, contract::QUERY).is_some();
        let query = if answers { Some(query::GuestIndices::new(&pre)?) } else { None };
        Ok(Self { indices: bindings::GuestIndices::new(&pre)?, query, pre })
    }
}

/// A live guest that runs one execution. Between turns it costs the memory pages it has touched, and nothing else.
pub struct OrchestratorGuest {
    store: Store<GuestState>,
    instance: Instance,
    guest: bindings::Guest,
    query: Option<query::GuestIndices>,
    catalog: Arc<Catalog>,
    payload_bytes_max: usize,
    memory_bytes_max: u64,
}

impl OrchestratorGuest {
    /// A new instance, before `begin`.
    pub(super) fn new(code: &OrchestratorCode, catalog: Arc<Catalog>, limits: &Limits) -> Result<Self, NoGuest> {
        let mut store = state::store(code.pre.engine(), limits);
        let instance = code.pre.instantiate(&mut store);
        let (instance, guest) = instance
            .and_then(|instance| Ok((instance, code.indices.load(&mut store, &instance)?)))
            .map_err(|error| fault::at_instantiation(&error, store.data_mut().panic.take()))?;
        let (payload_bytes_max, memory_bytes_max) = (limits.payload_bytes_max, limits.guest_memory_bytes_max);
        let query = code.query.clone();
        Ok(Self { store, instance, guest, query, catalog, payload_bytes_max, memory_bytes_max })
    }

    /// What the guest said since this was last called.
    pub fn take_lines(&mut self) -> Vec<LogLine> {
        self.store.data_mut().lines.take()
    }

    /// How much memory the guest has beyond what every guest has, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory.bytes()
    }

    /// How long each of the calls that follow may compute, in milliseconds of CPU. At first `turn_cpu_ms_max` of its limits.
    pub fn set_cpu_ms_max(&mut self, ms: u64) {
        self.store.data_mut().budget.set_max(ms);
    }

    /// Asks it a question, about where its last turn has left it, and returns its answer or why it gives none. A failure of the kind
    /// [`UNKNOWN_QUERY`] says that it answers no question of that name.
    ///
    /// A question may change the guest, so the guest is not to be used for another turn.
    ///
    /// # Errors
    /// If the guest is at fault, as in a turn.
    pub fn ask(&mut self, name: &str, input: &Payload) -> Result<Result<Payload, Failure>, Fault> {
        let Some(indices) = self.query.clone() else {
            let message = format!("the module answers no queries: it does not export {}", contract::QUERY);
            return Ok(Err(Failure::new(UNKNOWN_QUERY, message)));
        };
        let question = query::Question { name: name.into(), input: input.text().into(), extensions: Vec::new() };
        let instance = self.instance;
        let answer = self.call(|_, store| indices.load(&mut *store, &instance)?.call_ask(store, &question))?;
        contract::answer(answer, self.payload_bytes_max).map_err(Fault::Certain)
    }

    /// One call into the guest, held to its bounds.
    fn call<R>(
        &mut self,
        call: impl FnOnce(&bindings::Guest, &mut Store<GuestState>) -> wasmtime::Result<R>,
    ) -> Result<R, Fault> {
        let state = self.store.data_mut();
        state.budget.begin();
        state.panic = None; // A panic that the guest survived says nothing about this call.
        self.store.set_epoch_deadline(1);
        call(&self.guest, &mut self.store).map_err(|error| fault::of(&error, self.store.data_mut().panic.take()))
    }
}

impl Guest for OrchestratorGuest {
    fn begin(&mut self, started: &Started) -> Result<(), Fault> {
        let Some(function) = self.catalog.orchestrator(&started.function) else {
            let message = format!("module {} has no orchestrator named {:?}", started.module, started.function);
            return Err(Fault::Certain(Failure::new("UnknownFunction", message)));
        };
        let start = contract::start(started, function);
        let state = self.store.data_mut();
        state.now_ms = started.at_ms;
        state.random = wasi::random(started.seed);
        state.memory.set_max(started.limits.memory_bytes_max.min(self.memory_bytes_max));
        self.payload_bytes_max = usize::try_from(started.limits.payload_bytes_max).unwrap_or(usize::MAX);
        self.call(|guest, store| guest.call_begin(store, &start))
    }

    fn advance(&mut self, at_ms: u64, inputs: &[Input]) -> Result<Progress, Fault> {
        self.store.data_mut().now_ms = at_ms;
        let events = contract::events(at_ms, inputs);
        let progress = self.call(|guest, store| guest.call_advance(store, &events))?;
        contract::progress(progress, self.payload_bytes_max).map_err(Fault::Certain)
    }
}
