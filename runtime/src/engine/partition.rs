//! What happens next to an instance? One partition of a hub: a pure state machine that owns its instances.
//!
//! Inputs in, effects out; the shell moves both. It names no tokio, no wasm, no SQL, reads no clock, and never waits: at most one
//! turn or commit of an instance counts at a time, and all other instances go on. The order of the effects is the
//! durability argument: **turn, commit, act**. What an instance is in memory is the fold of what is stored
//! ([`Execution`]), plus what has arrived and is not recorded yet; so it can be dropped and loaded again at any moment.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use lru::LruCache;

use super::instance::{Asker, Instance, Phase};
use super::orders::{
    Answer, Effect, Ended, Input, LoadError, NoRewind, RewindOrder, RewindPlan, Start, Token, TurnFailure, TurnResult, Wish,
};
use super::wants::{Starter, refuse_start};
use crate::model::{Body, Execution, ExecutionKey, InstanceId, MessageKey, TaskId};
use crate::replay::{Fault, TurnError};
use crate::store::{CommitOutcome, InstanceRow, StoreError};

/// How often a turn may use up its bounds before the instance is failed.
const TRIES_MAX: u8 = 3;

/// How long to wait before something is tried again that failed on our side, in milliseconds.
pub(super) const RETRY_MS: u64 = 1_000;

/// How heavy the instances may be together that only wait, in bytes, about: 256 MiB for a hub in the worst case, and far less for what waits as a rule.
const IDLE_WEIGHT_MAX: usize = 4 << 20;

/// The owner of a part of a hub's instances.
pub struct Partition {
    numbers: Numbers,
    instances: HashMap<ExecutionKey, Instance>,
    by_id: HashMap<InstanceId, ExecutionKey>,
    /// The store is asked for these, or is to be asked again, and this has come for them meanwhile. None of them is among `instances`.
    sought: HashMap<InstanceId, Vec<Input>>,
    /// When to look at an instance: a timer is due, or a rest is over.
    alarms: BTreeSet<(u64, ExecutionKey)>,
    /// When to ask the store again.
    searches: BTreeSet<(u64, InstanceId)>,
    /// When the shell will come, if it was asked to.
    armed_ms: Option<u64>,
    /// The instances that only wait and could be read again, the least recently used first, and how heavy each is.
    idle: LruCache<ExecutionKey, usize>,
    /// How heavy they are together.
    idle_weight: usize,
    /// How heavy all others are together.
    busy_weight: usize,
    idle_max: usize,
    /// It has just been read, and stays until what it was read for has been handed over.
    pinned: Option<ExecutionKey>,
    /// What is due by then is in memory or will be handed in.
    horizon_ms: u64,
}

/// The numbers that a partition gives out.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// Those of executions, which all partitions of a hub share.
    pub executions: Arc<ExecutionNumbers>,
    /// All messages so far that are still stored have lower ones.
    pub message: MessageKey,
    /// How many turns were begun in this life of the server.
    pub turns: u64,
}

/// The numbers of a hub's executions.
#[derive(Debug)]
pub struct ExecutionNumbers(AtomicI64);

impl ExecutionNumbers {
    /// Goes on with `next`: all executions so far have lower ones.
    pub fn from(next: ExecutionKey) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(next.0)))
    }

    fn next(&self) -> ExecutionKey {
        ExecutionKey(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// The moment at which an input is taken: the time, the numbers to give out, and what is to be done so far.
pub(super) struct Moment<'a> {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    pub effects: &'a mut Vec<Effect>,
    numbers: &'a mut Numbers,
}

impl Moment<'_> {
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn reply(&mut self, caller: Token, answer: Answer) {
        self.push(Effect::Reply(caller, answer));
    }

    pub(super) fn next_execution(&mut self) -> ExecutionKey {
        self.numbers.executions.next()
    }

    pub(super) fn next_turn(&mut self) -> u64 {
        self.numbers.turns += 1;
        self.numbers.turns
    }

    pub(super) fn next_message(&mut self) -> MessageKey {
        let next = self.numbers.message;
        self.numbers.message = next.next();
        next
    }
}

impl Partition {
    /// A partition that goes on with `numbers`, and keeps at most `idle_max` instances in memory that only wait.
    pub fn new(numbers: Numbers, idle_max: usize) -> Self {
        Self {
            numbers,
            instances: HashMap::new(),
            by_id: HashMap::new(),
            sought: HashMap::new(),
            alarms: BTreeSet::new(),
            searches: BTreeSet::new(),
            armed_ms: None,
            idle: LruCache::unbounded(),
            idle_weight: 0,
            busy_weight: 0,
            idle_max,
            pinned: None,
            horizon_ms: 0,
        }
    }

    /// How many open instances are in memory.
    pub fn loaded_instances(&self) -> usize {
        self.instances.len()
    }

    /// How much memory those take that do not only wait for others, in bytes, about.
    pub fn busy_weight(&self) -> usize {
        self.busy_weight
    }

    /// Whether the answer of this task, which was dispatched, is still wanted.
    pub fn is_running(&self, execution: ExecutionKey, task: TaskId) -> bool {
        self.instances.get(&execution).is_some_and(|instance| instance.is_running(task))
    }

    /// What is in flight for an instance, if it is in memory.
    pub(super) fn phase(&self, execution: ExecutionKey) -> Option<&Phase> {
        self.instances.get(&execution).map(|instance| &instance.phase)
    }

    /// Whether the result of this turn is still wanted.
    pub fn is_in_turn(&self, execution: ExecutionKey, number: u64) -> bool {
        self.instances.get(&execution).is_some_and(|instance| instance.is_in_turn(number))
    }

    /// A thread has come to this turn. Whether it is still wanted.
    pub fn begin_turn(&mut self, execution: ExecutionKey, number: u64) -> bool {
        self.instances.get_mut(&execution).is_some_and(|instance| instance.begin_turn(number))
    }

    /// Takes `input` at `now_ms`, milliseconds since 1970, and says what there is to do.
    pub fn on(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(now_ms, input, &mut effects);
        self.arm(&mut effects);
        effects
    }

    fn take(&mut self, now_ms: u64, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Start(_, ref start) | Input::StartChild(_, Ok(ref start)) => {
                let id = start.started.instance.clone();
                self.take_for(now_ms, id, input, effects);
            }
            Input::StartChild(message, Err(failure)) => refuse_start(*message, failure, effects),
            Input::Wait(_, ref id)
            | Input::Raise { instance: ref id, .. }
            | Input::Control { instance: ref id, .. }
            | Input::Forget(_, ref id)
            | Input::Due(ref id) => {
                let id = id.clone();
                self.take_for(now_ms, id, input, effects);
            }
            Input::Message(ref message) => {
                let id = message.to.clone();
                self.take_for(now_ms, id, input, effects);
            }
            Input::Horizon(until_ms) => self.horizon_ms = until_ms,
            Input::Found { instance, found, unrecorded } => self.found(now_ms, instance, found, &unrecorded, effects),
            Input::Planned(order, plan) => self.planned(now_ms, *order, plan, effects),
            Input::TurnDone(key, number, result) => self.turn_done(now_ms, key, number, result, effects),
            Input::Committed(key, outcome) => self.committed(now_ms, key, outcome, effects),
            Input::CommitFailed(key, error) => self.commit_failed(now_ms, key, error, effects),
            Input::TaskDone { execution, task, outcome, ran, lines } => {
                self.with(now_ms, execution, effects, |instance, moment| {
                    instance.answer(moment.now_ms, task, outcome, ran, lines);
                    instance.go_on(moment);
                });
            }
            Input::Alarm => self.alarm(now_ms, effects),
        }
    }

    /// Does `work` with an instance if it is in memory, and then sees to what follows from how it stands.
    fn with<T>(
        &mut self,
        now_ms: u64,
        key: ExecutionKey,
        effects: &mut Vec<Effect>,
        work: impl FnOnce(&mut Instance, &mut Moment<'_>) -> T,
    ) -> Option<T> {
        let instance = self.instances.get_mut(&key)?;
        let done = work(instance, &mut Moment { now_ms, effects, numbers: &mut self.numbers });
        self.settle(key, effects);
        Some(done)
    }

    /// Takes an input for the instance with this ID: hands it over, or has the store asked first.
    fn take_for(&mut self, now_ms: u64, id: InstanceId, input: Input, effects: &mut Vec<Effect>) {
        if let Some(key) = self.by_id.get(&id).copied() {
            return self.hand_over(now_ms, key, input, effects);
        }
        if let Some(inputs) = self.sought.get_mut(&id) {
            return match input {
                Input::Forget(token, _) => {
                    inputs.retain(|input| !matches!(input, Input::Wait(other, _) if *other == token));
                    for input in inputs {
                        if let Input::Start(_, start) = input {
                            start.forget(token);
                        }
                    }
                }
                input => inputs.push(input),
            };
        }
        match input {
            // Only the store knows whether the ID is free: the commit finds out, and creates the instance in the same step.
            Input::Start(token, start) => self.start(now_ms, Starter::Caller(token), *start, effects),
            Input::StartChild(message, Ok(start)) => self.start(now_ms, Starter::Message(message), *start, effects),
            Input::Forget(..) => (),
            input => {
                effects.push(Effect::Find(id.clone(), Vec::new()));
                self.sought.insert(id, vec![input]);
            }
        }
    }

    /// Hands an input to an instance that is in memory.
    fn hand_over(&mut self, now_ms: u64, key: ExecutionKey, input: Input, effects: &mut Vec<Effect>) {
        if let Some(instance) = self.instances.get_mut(&key)
            && instance.parks(&input)
        {
            return instance.parked.push(input);
        }
        self.with(now_ms, key, effects, |instance, moment| match input {
            Input::Start(token, start) => instance.contend(Starter::Caller(token), *start, moment),
            Input::StartChild(message, Ok(start)) => instance.contend(Starter::Message(message), *start, moment),
            Input::Wait(token, _) => instance.waiters.push(token),
            Input::Forget(token, _) => instance.forget(token),
            Input::Raise { caller, name, payload, unread_bytes_max, .. } => match instance.unread_event_bytes() {
                bytes if bytes > unread_bytes_max => moment.reply(caller, Answer::Crowded(bytes)),
                _ => instance.raise(Some(caller), None, name, payload, moment),
            },
            Input::Control { caller, wish, reason, .. } => match wish {
                Wish::Terminate { recursive } => instance.terminate(Asker::Caller(caller), recursive, reason, moment),
                Wish::Suspend => instance.pause(caller, true, reason, moment),
                Wish::Resume => instance.pause(caller, false, reason, moment),
                Wish::Rewind if instance.refuses(caller, moment) => (),
                Wish::Rewind => moment.reply(caller, Answer::Unfit(instance.status())),
            },
            Input::Message(message) => instance.receive(*message, moment),
            _ => (), // It is known that it is due.
        });
    }

    /// Says that no open instance has the ID that this is for.
    fn turn_away(input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Wait(token, _) | Input::Raise { caller: token, .. } | Input::Control { caller: token, .. } => {
                effects.push(Effect::Reply(token, Answer::NotOpen));
            }
            Input::Message(message) => effects.push(Effect::Discard(message.key)),
            _ => (),
        }
    }

    fn start(&mut self, now_ms: u64, starter: Starter, start: Start, effects: &mut Vec<Effect>) {
        let key = Moment { now_ms, effects, numbers: &mut self.numbers }.next_execution();
        let id = start.started.instance.clone();
        self.by_id.insert(id.clone(), key);
        self.instances.insert(key, Instance::new(key.instance(), key, id, Phase::Idle));
        self.with(now_ms, key, effects, |instance, moment| instance.start(starter, start, moment));
    }

    /// Takes the store's word for where an instance stands, and acts on what follows from it.
    fn found(
        &mut self,
        now_ms: u64,
        id: InstanceId,
        found: Result<Option<Box<(InstanceRow, Execution)>>, LoadError>,
        unrecorded: &[MessageKey],
        effects: &mut Vec<Effect>,
    ) {
        if let Some(key) = self.by_id.get(&id).copied() {
            if matches!(self.instances[&key].phase, Phase::Loading) {
                self.found_again(now_ms, key, found, unrecorded, effects);
            }
            return;
        }
        let Some(inputs) = self.sought.remove(&id) else { return };
        match found {
            Ok(found) => {
                let generation = found.as_ref().map(|found| found.1.started.generation);
                let key = found.as_ref().map(|found| found.0.execution);
                if let Some(found) = found {
                    let key = found.0.execution;
                    self.by_id.insert(id.clone(), key);
                    self.instances.insert(key, Instance::new(found.0.key, key, id.clone(), Phase::Loading));
                    self.pinned = Some(key);
                    self.load(now_ms, key, *found, &[], effects);
                }
                let mut looks_for_code = false;
                let mut inputs = inputs.into_iter();
                while let Some(input) = inputs.next() {
                    let order = if looks_for_code || self.by_id.contains_key(&id) {
                        Err(Box::new(input))
                    } else {
                        RewindOrder::of(input)
                    };
                    let input = match order {
                        // It has ended, or was never there; what comes behind waits until that is known.
                        Ok(order) => {
                            effects.push(Effect::PlanRewind(Box::new(order)));
                            self.sought.insert(id, inputs.collect());
                            return;
                        }
                        Err(input) => *input,
                    };
                    match input {
                        // It is the one that this asked for: the commit went through after all.
                        Input::StartChild(_, Ok(start)) if Some(start.started.generation) == generation => (),
                        // Its code is gone, and the shell has to look for another.
                        Input::StartChild(message, _) if matches!(message.body, Body::Start { module: None, .. }) => {
                            looks_for_code = true;
                            effects.push(Effect::Send(message));
                        }
                        // What was sent behind it must not come before it.
                        Input::Message(message) if looks_for_code => effects.push(Effect::Send(message)),
                        Input::Start(..) | Input::StartChild(..) => self.take_for(now_ms, id.clone(), input, effects),
                        _ if self.by_id.contains_key(&id) => self.take_for(now_ms, id.clone(), input, effects),
                        _ => Self::turn_away(input, effects),
                    }
                }
                self.pinned = None;
                if let Some(key) = key {
                    self.settle(key, effects);
                }
            }
            Err(error) => {
                let why = unreadable(&id);
                let mut left = Vec::new();
                for input in inputs {
                    match input.caller() {
                        Some(caller) => effects.push(Effect::Reply(caller, Answer::Failed(why.clone()))),
                        None => left.push(input),
                    }
                }
                // If it is damaged, nothing that we could do would be right. Its messages stay in the store, for people to look at.
                if error == LoadError::Passing && !left.is_empty() {
                    self.seek_later(now_ms, id, left);
                }
            }
        }
    }

    /// Has an instance go on that had failed, if there is a way, and hands on what has come for it meanwhile.
    fn planned(&mut self, now_ms: u64, order: RewindOrder, plan: Result<Box<RewindPlan>, NoRewind>, effects: &mut Vec<Effect>) {
        let RewindOrder { instance: id, by, .. } = order;
        let Some(inputs) = self.sought.remove(&id) else { return };
        match plan {
            Ok(plan) => {
                let key = plan.row.execution;
                self.by_id.insert(id.clone(), key);
                self.instances.insert(key, Instance::new(plan.row.key, key, id.clone(), Phase::Idle));
                self.with(now_ms, key, effects, |instance, moment| instance.reopen(by, *plan, moment));
            }
            Err(why) => {
                if let Some(order) = by.refused(&id, why, effects) {
                    return self.seek_later(now_ms, id, std::iter::once(order).chain(inputs).collect());
                }
            }
        }
        for input in inputs {
            self.take_for(now_ms, id.clone(), input, effects);
        }
    }

    /// The same for an instance that is in memory, and that the store was asked about because nobody knew what a commit had come to.
    fn found_again(
        &mut self,
        now_ms: u64,
        key: ExecutionKey,
        found: Result<Option<Box<(InstanceRow, Execution)>>, LoadError>,
        unrecorded: &[MessageKey],
        effects: &mut Vec<Effect>,
    ) {
        match found {
            Ok(Some(found)) => {
                let key = self.rename(now_ms, key, found.0.execution, effects);
                self.load(now_ms, key, *found, unrecorded, effects);
            }
            Ok(None) => {
                self.with(now_ms, key, effects, |instance, moment| instance.send_unsent(unrecorded, moment));
                self.drop_instance(now_ms, key, &Answer::NotOpen, effects);
            }
            Err(error) => {
                self.with(now_ms, key, effects, |instance, moment| {
                    let why = unreadable(&instance.id);
                    instance.answer_contenders(&Answer::Failed(why.clone()), moment);
                    instance.refuse_callers(&Answer::Failed(why.clone()), moment);
                    instance.refuse_parked(&why, moment);
                    instance.phase = match error {
                        LoadError::Passing => Phase::Resting { until_ms: now_ms + RETRY_MS, unknown: Some(why) },
                        LoadError::Damaged => Phase::Halted { why },
                    };
                });
            }
        }
    }

    fn load(
        &mut self,
        now_ms: u64,
        key: ExecutionKey,
        (row, execution): (InstanceRow, Execution),
        unrecorded: &[MessageKey],
        effects: &mut Vec<Effect>,
    ) {
        let parked = self.with(now_ms, key, effects, |instance, moment| {
            instance.loaded(row.wake, execution, unrecorded, moment);
            std::mem::take(&mut instance.parked)
        });
        if !self.finish(now_ms, key, effects) {
            self.still_open(now_ms, key, effects);
        }
        for input in parked.into_iter().flatten() {
            self.take_for(now_ms, row.id.clone(), input, effects);
        }
    }

    /// The store is asked for this instance a little later.
    fn seek_later(&mut self, now_ms: u64, id: InstanceId, inputs: Vec<Input>) {
        self.searches.insert((now_ms + RETRY_MS, id.clone()));
        self.sought.insert(id, inputs);
    }

    fn turn_done(
        &mut self,
        now_ms: u64,
        key: ExecutionKey,
        number: u64,
        result: Result<TurnResult, TurnFailure>,
        effects: &mut Vec<Effect>,
    ) {
        // The guest of a turn that nobody waits for any more has gone where no history went.
        if !self.is_in_turn(key, number) {
            return effects.push(Effect::Evict(key));
        }
        self.with(now_ms, key, effects, |instance, moment| match result {
            Ok(result) if instance.runs_beside_start() => instance.keep_first_turn(Some(Ok(result))),
            Err(TurnFailure::Host(_)) if instance.runs_beside_start() => instance.keep_first_turn(None),
            Ok(result) => instance.record(result, moment),
            Err(TurnFailure::Host(_)) if instance.starting.is_some() => instance.start_without_turn(moment),
            Err(TurnFailure::Host(_)) => {
                instance.take_back();
                instance.phase = Phase::Resting { until_ms: now_ms + RETRY_MS, unknown: None };
                instance.append_while_waiting(moment);
            }
            Err(TurnFailure::Guest { error, lines }) => {
                instance.tries += 1;
                let is_tried_again = matches!(error, TurnError::Fault(Fault::Exhausted(_))) && instance.tries < TRIES_MAX;
                if instance.runs_beside_start() {
                    instance.keep_first_turn((!is_tried_again).then_some(Err((error, lines))));
                } else if is_tried_again && instance.starting.is_some() {
                    instance.start_without_turn(moment);
                } else if is_tried_again {
                    instance.try_again(moment);
                } else {
                    instance.record_fault(error, lines, moment);
                }
            }
        });
    }

    fn committed(&mut self, now_ms: u64, key: ExecutionKey, outcome: CommitOutcome, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key) else { return };
        match (std::mem::replace(&mut instance.phase, Phase::Idle), outcome) {
            (Phase::Reopening(reopening), CommitOutcome::Done) => {
                let (id, parked) = (instance.id.clone(), std::mem::take(&mut instance.parked));
                self.with(now_ms, key, effects, |instance, moment| instance.reopened(*reopening, moment));
                self.still_open(now_ms, key, effects);
                for input in parked {
                    self.take_for(now_ms, id.clone(), input, effects);
                }
            }
            (Phase::Committing(_), CommitOutcome::Refused(status)) if let Some(starting) = instance.starting.take() => {
                let id = instance.id.clone();
                effects.push(Effect::Evict(key));
                starting.starter.refused(&id, status, effects);
                let mut moment = Moment { now_ms, effects, numbers: &mut self.numbers };
                // One that has ended may give way to the next one who asks.
                if !status.is_ended() {
                    instance.answer_contenders(&Answer::Exists(status), &mut moment);
                }
                let rest = self.drop_unstarted(now_ms, key, effects);
                // Whoever has the ID may not be in memory, and if the search for what is due has come by meanwhile, it has met this one.
                for input in std::iter::once(Input::Due(id.clone())).chain(rest) {
                    self.take_for(now_ms, id.clone(), input, effects);
                }
            }
            (Phase::Committing(step), CommitOutcome::Done) => {
                let has_just_started = instance.starting.is_some();
                let key = step.next.map_or(key, |next| self.rename(now_ms, key, next, effects));
                self.with(now_ms, key, effects, |instance, moment| instance.commit_done(*step, moment));
                if self.finish(now_ms, key, effects) {
                    return;
                }
                self.still_open(now_ms, key, effects);
                if has_just_started && let Some(instance) = self.instances.get_mut(&key) {
                    let (id, parked) = (instance.id.clone(), std::mem::take(&mut instance.parked));
                    for input in parked {
                        self.take_for(now_ms, id.clone(), input, effects);
                    }
                }
            }
            (phase, outcome) => panic!("instance {key:?} got {outcome:?} in {phase:?}: no commit of that kind is in flight"),
        }
    }

    fn commit_failed(&mut self, now_ms: u64, key: ExecutionKey, error: Arc<StoreError>, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key) else { return };
        let may_pass = !matches!(*error, StoreError::Fenced { .. } | StoreError::Poisoned(_));
        let refusal = error.clone();
        let mut moment = Moment { now_ms, effects, numbers: &mut self.numbers };
        instance.answer_contenders(&Answer::Failed(error.clone()), &mut moment);
        if instance.starting.is_some() || matches!(instance.phase, Phase::Reopening(_)) {
            let id = instance.id.clone();
            let again = match (instance.starting.take(), std::mem::replace(&mut instance.phase, Phase::Idle)) {
                (Some(starting), _) => {
                    effects.push(Effect::Evict(key));
                    starting.starter.failed(starting.start, error, effects)
                }
                (None, Phase::Reopening(reopening)) => reopening.by.failed(error, effects),
                _ => unreachable!("it was just looked at"),
            };
            let rest = self.drop_unstarted(now_ms, key, effects);
            // It may be there after all, and somebody has to run it then.
            if may_pass {
                self.seek_later(now_ms, id, again.into_iter().chain(rest).collect());
            } else {
                let callers = rest.iter().filter_map(Input::caller);
                effects.extend(callers.map(|caller| Effect::Reply(caller, Answer::Failed(refusal.clone()))));
            }
            return;
        }
        // The guest is ahead of the store. Whether the commit went through after all, only the store can tell.
        instance.take_back();
        moment.push(Effect::Evict(key));
        instance.refuse_callers(&Answer::Failed(error.clone()), &mut moment);
        instance.refuse_parked(&error, &mut moment);
        instance.phase = if may_pass {
            Phase::Resting { until_ms: now_ms + RETRY_MS, unknown: Some(error) }
        } else {
            Phase::Halted { why: error }
        };
        self.settle(key, effects);
    }

    /// It is durable that the instance is open: goes on with it.
    fn still_open(&mut self, now_ms: u64, key: ExecutionKey, effects: &mut Vec<Effect>) {
        self.with(now_ms, key, effects, |instance, moment| {
            instance.answer_contenders(&Answer::Exists(instance.status()), moment);
            instance.go_on(moment);
            instance.append_while_waiting(moment);
        });
    }

    /// If the execution has ended: tells who waits for it, and forgets it.
    fn finish(&mut self, now_ms: u64, key: ExecutionKey, effects: &mut Vec<Effect>) -> bool {
        let Some(execution) = self.instances.get(&key).and_then(|instance| instance.execution.as_ref()) else { return false };
        let Some(end) = execution.end.clone() else { return false };
        effects.push(Effect::Evict(key));
        effects.push(Effect::Ended(Box::new(Ended {
            instance: execution.started.instance.clone(),
            function: execution.started.function.clone(),
            status: end.status(),
            took_ms: execution.latest_ms - execution.started.at_ms,
        })));
        self.drop_instance(now_ms, key, &Answer::Ended(end), effects);
        true
    }

    /// Forgets an instance; its ID is free for who waits for it.
    fn drop_instance(&mut self, now_ms: u64, key: ExecutionKey, answer: &Answer, effects: &mut Vec<Effect>) {
        let mut instance = self.forget(key);
        let (id, parked) = (instance.id.clone(), std::mem::take(&mut instance.parked));
        let mut moment = Moment { now_ms, effects, numbers: &mut self.numbers };
        let starts = instance.dismiss(answer, &mut moment).into_iter().map(|(starter, start)| starter.input(start));
        for input in parked.into_iter().chain(starts) {
            self.take_for(now_ms, id.clone(), input, effects);
        }
    }

    /// Forgets an instance that did not come into being. Returns what came for the ID meanwhile and is still to be settled: another instance may have
    /// it.
    fn drop_unstarted(&mut self, now_ms: u64, key: ExecutionKey, effects: &mut Vec<Effect>) -> Vec<Input> {
        let mut instance = self.forget(key);
        let parked = std::mem::take(&mut instance.parked);
        let mut moment = Moment { now_ms, effects, numbers: &mut self.numbers };
        let contenders = instance.dismiss(&Answer::NotOpen, &mut moment);
        contenders.into_iter().map(|(starter, start)| starter.input(start)).chain(parked).collect()
    }

    /// Takes an instance out of memory.
    fn forget(&mut self, key: ExecutionKey) -> Instance {
        let mut instance = self.instances.remove(&key).expect("the caller has just found it");
        self.by_id.remove(&instance.id);
        if let Some(alarm_ms) = instance.alarm_ms.take() {
            self.alarms.remove(&(alarm_ms, key));
        }
        self.busy_weight -= std::mem::take(&mut instance.busy_weight);
        self.set_idle(key, None);
        instance
    }

    /// The instance goes on as another execution.
    fn rename(&mut self, now_ms: u64, from: ExecutionKey, to: ExecutionKey, effects: &mut Vec<Effect>) -> ExecutionKey {
        if from == to {
            return to;
        }
        let mut instance = self.forget(from);
        effects.push(Effect::Evict(from));
        instance.become_execution(to, &mut Moment { now_ms, effects, numbers: &mut self.numbers });
        self.by_id.insert(instance.id.clone(), to);
        self.instances.insert(to, instance);
        to
    }

    /// The time of an alarm has come, or is near.
    fn alarm(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        self.armed_ms = None;
        while let Some((at_ms, key)) = self.alarms.first().copied()
            && at_ms <= now_ms
        {
            self.alarms.pop_first();
            self.with(now_ms, key, effects, |instance, moment| {
                instance.alarm_ms = None;
                instance.alarm(moment);
            });
        }
        while let Some((at_ms, _)) = self.searches.first()
            && *at_ms <= now_ms
        {
            let (_, id) = self.searches.pop_first().expect("it was just looked at");
            if self.sought.contains_key(&id) {
                effects.push(Effect::Find(id, Vec::new()));
            }
        }
    }

    /// Sees to it that the instance is looked at when its time comes, and that not too many are in memory that only wait.
    fn settle(&mut self, key: ExecutionKey, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&key).filter(|_| self.pinned != Some(key)) else { return };
        let alarm_ms = instance.next_alarm_ms();
        if alarm_ms != instance.alarm_ms {
            if let Some(old_ms) = instance.alarm_ms {
                self.alarms.remove(&(old_ms, key));
            }
            self.alarms.extend(alarm_ms.map(|at_ms| (at_ms, key)));
            instance.alarm_ms = alarm_ms;
        }
        let (weight, is_idle) = (instance.weight(), instance.only_waits(self.horizon_ms));
        let busy = std::mem::replace(&mut instance.busy_weight, if is_idle { 0 } else { weight });
        self.busy_weight = self.busy_weight + instance.busy_weight - busy;
        self.set_idle(key, is_idle.then_some(weight));
        // The one that was used last may be as heavy as it is: others may have much to say to it.
        while self.idle.len() > self.idle_max || (self.idle.len() > 1 && self.idle_weight > IDLE_WEIGHT_MAX) {
            let (oldest, _) = self.idle.peek_lru().map(|(key, weight)| (*key, *weight)).expect("there is one at least");
            self.set_idle(oldest, None);
            let horizon_ms = self.horizon_ms;
            if self.instances.get(&oldest).is_some_and(|instance| instance.only_waits(horizon_ms)) {
                self.unload(oldest, effects);
            }
        }
    }

    /// Notes that an instance only waits and how heavy it is, or that it does not.
    fn set_idle(&mut self, key: ExecutionKey, weight: Option<usize>) {
        let old = match weight {
            Some(weight) => self.idle.put(key, weight),
            None => self.idle.pop(&key),
        };
        self.idle_weight = self.idle_weight + weight.unwrap_or(0) - old.unwrap_or(0);
    }

    /// Drops an instance from memory that only waits: all of it is in the store.
    fn unload(&mut self, key: ExecutionKey, effects: &mut Vec<Effect>) {
        self.forget(key);
        effects.push(Effect::Evict(key));
    }

    /// Has the shell come when the next alarm is due, if it does not come before that anyway.
    fn arm(&mut self, effects: &mut Vec<Effect>) {
        let alarm = self.alarms.first().map(|(at_ms, _)| *at_ms);
        let search = self.searches.first().map(|(at_ms, _)| *at_ms);
        let Some(at_ms) = [alarm, search].into_iter().flatten().min() else { return };
        if self.armed_ms.is_none_or(|armed_ms| at_ms < armed_ms) {
            self.armed_ms = Some(at_ms);
            effects.push(Effect::Arm(at_ms));
        }
    }
}

pub(super) fn unreadable(id: &InstanceId) -> Arc<StoreError> {
    Arc::new(StoreError::Other(format!("what is stored of instance {id} cannot be read")))
}
