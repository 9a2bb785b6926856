//! How is one turn run? On the guest that is still alive, or on one that is brought to this point by replay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::functions::Code;
use super::in_flight::{InFlight, Noted};
use super::orders::{Next, TurnFailure, TurnOrder, TurnResult};
use super::residents::Residents;
use crate::host::{Host, Module, NoGuest, OrchestratorGuest};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::model::{Digest, Event, Failure, Input, Payload};
use crate::replay::{self, Fault, Recorded, TurnError};
use crate::store::Store;

/// What a turn needs of the server.
pub(super) struct TurnContext<'a> {
    pub store: &'a dyn Store,
    pub host: &'a Host,
    pub residents: &'a Residents,
    pub limits: &'a Limits,
    pub metrics: &'a Metrics,
    pub in_flight: &'a InFlight,
}

impl TurnContext<'_> {
    /// The module with this digest, ready to run. Blocks, for as long as compiling takes if its compiled code is gone.
    pub(super) fn module(&self, digest: Digest) -> Result<Arc<Module>, TurnFailure> {
        super::module(self.host, self.store, digest).map_err(|error| TurnFailure::Host(error.to_string()))
    }
}

/// How much longer than one turn may compute all recorded turns of a rebuilt guest may, each: they were within the bound when they
/// were new, and on a busy machine the same work takes more time.
pub(super) const REPLAY_PATIENCE: u64 = 10;

/// Runs one turn: on the living guest, or on one that is brought to this point by replay. `current` says which code new instances of an
/// orchestrator get, if a module has it. From when a guest runs on, it is `noted`.
pub(super) fn run<'a>(
    context: &TurnContext<'a>,
    order: &TurnOrder,
    noted: &mut Option<Noted<'a>>,
    current: impl Fn(&str) -> Option<Code>,
) -> Result<TurnResult, TurnFailure> {
    let mut guest = match context.residents.take(order.execution, order.after) {
        Some(guest) => {
            *noted = context.in_flight.note(order.flight());
            guest
        }
        None => rebuild(context, order, noted)?,
    };
    let recorded = order.again.as_ref().map(Recorded::beginning);
    let played = replay::turn(&mut guest, order.at_ms, &order.inputs, order.next_task, recorded.as_ref());
    let lines = guest.take_lines();
    let progress = played.map_err(|error| TurnFailure::Guest { error, lines: lines.clone() })?;
    let next = match &progress.continuation {
        Some(continuation) => {
            let current = current(&order.function).filter(|_| !continuation.keep_version);
            Some(Box::new(next(context, order, current, &continuation.keep)?))
        }
        None => None,
    };
    if progress.end.is_none() && next.is_none() {
        context.residents.put(order.execution, order.number, guest);
    }
    Ok(TurnResult { progress, lines, next })
}

/// What the execution needs that continues this one: `current` code if there is such, else its own, and the events that it shall `keep`.
fn next(context: &TurnContext<'_>, order: &TurnOrder, current: Option<Code>, keep: &[u32]) -> Result<Next, TurnFailure> {
    let Code { module, made_by } = match current {
        Some(code) => code,
        None => Code::of(order.module, context.module(order.module)?.catalog()),
    };
    Ok(Next { module, made_by, limits: context.limits.in_force(), kept: kept(context, order, keep)? })
}

/// Names and values of the events with these numbers. Those of this turn are at hand; the others stand in the history.
fn kept(context: &TurnContext<'_>, order: &TurnOrder, numbers: &[u32]) -> Result<Vec<(String, Payload)>, TurnFailure> {
    let event = |input: &Input| match input {
        Input::Raised { number, name, payload } if numbers.binary_search(number).is_ok() => {
            Some((*number, (name.clone(), payload.clone())))
        }
        _ => None,
    };
    let mut events: BTreeMap<u32, _> = order.inputs.iter().filter_map(event).collect();
    if events.len() < numbers.len() {
        let unreadable = |error| TurnFailure::Host(format!("the history cannot be read: {error}"));
        let mut raised = 0;
        let history = context.store.history(order.execution).map_err(unreadable)?;
        events.extend(history.iter().filter_map(|stored| event(&Input::of(stored, &mut raised)?)));
    }
    match numbers.iter().find(|number| !events.contains_key(number)) {
        None => Ok(events.into_values().collect()),
        Some(number) => {
            let message = format!("the module keeps event {number}, which it never got; its SDK is at fault");
            let fault = Fault::Certain(Failure::new("InvalidAction", message));
            Err(TurnFailure::Guest { error: TurnError::Fault(fault), lines: Vec::new() })
        }
    }
}

fn rebuild<'a>(
    context: &TurnContext<'a>,
    order: &TurnOrder,
    noted: &mut Option<Noted<'a>>,
) -> Result<OrchestratorGuest, TurnFailure> {
    let history = match &order.started {
        Some(started) => vec![Event::Started(started.clone())],
        None => {
            let unreadable = |error| TurnFailure::Host(format!("the history cannot be read: {error}"));
            context.store.history(order.execution).map_err(unreadable)?
        }
    };
    // Many may wait for the same module after a start: none of them is to blame for what happens then.
    let module = if order.is_recorded {
        context.module(order.module)?
    } else {
        let not_ready = || TurnFailure::Host("the module is not ready, and nothing is recorded that needs it".into());
        context.host.ready_module(order.module).ok_or_else(not_ready)?
    };
    *noted = context.in_flight.note(order.flight());
    let mut guest = new_guest(context, &module)?;
    if order.turns > 0 {
        context.metrics.replay();
        guest.set_cpu_ms_max(context.limits.turn_cpu_ms_max.saturating_mul(REPLAY_PATIENCE));
    }
    replay::replay(&history, &mut guest).map_err(|error| TurnFailure::Guest { error, lines: Vec::new() })?;
    guest.set_cpu_ms_max(context.limits.turn_cpu_ms_max);
    let _said_before = guest.take_lines(); // These were shown when they were new.
    Ok(guest)
}

/// A fresh guest. When all slots are taken, the resident that was not used for longest makes room.
pub(super) fn new_guest(context: &TurnContext<'_>, module: &Module) -> Result<OrchestratorGuest, TurnFailure> {
    loop {
        match module.orchestrator(context.limits) {
            Ok(guest) => return Ok(guest),
            // There are more slots than residents, so other turns are on their way to free one.
            Err(NoGuest::NoSlot) if context.residents.evict_oldest() => (),
            Err(NoGuest::NoSlot) => thread::sleep(Duration::from_millis(1)),
            Err(NoGuest::Guest(fault)) => {
                return Err(TurnFailure::Guest { error: TurnError::Fault(fault), lines: Vec::new() });
            }
            Err(NoGuest::Host(message)) => return Err(TurnFailure::Host(message)),
        }
    }
}
