//! What do operators want of an instance? That it ends, pauses, goes on, or goes on although it had failed. Parents want the first and the
//! last of their children too.

use std::sync::Arc;

use super::{Instance, Phase, has_run};
use crate::engine::orders::{Answer, CommitOrder, Effect, RewindPlan, Rewinder, Token};
use crate::engine::partition::Moment;
use crate::engine::step::{Arrival, STEP_BYTES_MAX, Step, adoptions, next};
use crate::model::{Event, Execution, Message, MessageKey, RuntimeStatus};
use crate::store::Change;

/// A wish from outside that it ends.
#[derive(Debug)]
pub(super) struct Termination {
    /// Why, as the first one said.
    pub(super) reason: Option<String>,
    /// The children that it waits for end too.
    pub(super) recursive: bool,
    /// All who asked for it.
    pub(super) callers: Vec<Token>,
    /// The parent's word for it, if it was the parent who asked.
    pub(super) messages: Vec<MessageKey>,
}

/// A rewind that is being written.
#[derive(Debug)]
pub(in crate::engine) struct Reopening {
    pub(in crate::engine) by: Rewinder,
    /// The fold of the history with it.
    execution: Execution,
    /// Handed over when it is durable.
    sends: Arc<[Message]>,
}

/// Who asks an instance to end.
pub(in crate::engine) enum Asker {
    /// Somebody who waits for the answer.
    Caller(Token),
    /// Its parent, by this message.
    Parent(MessageKey),
}

impl Instance {
    /// Ends the instance as soon as nothing of it is being written. A turn that runs is not waited for, and comes to nothing.
    pub(in crate::engine) fn terminate(
        &mut self,
        asker: Asker,
        recursive: bool,
        reason: Option<String>,
        moment: &mut Moment<'_>,
    ) {
        if let Asker::Caller(caller) = asker
            && self.refuses(caller, moment)
        {
            return;
        }
        let new = || Termination { reason, recursive: false, callers: Vec::new(), messages: Vec::new() };
        let termination = self.termination.get_or_insert_with(new);
        termination.recursive |= recursive;
        match asker {
            Asker::Caller(caller) => termination.callers.push(caller),
            Asker::Parent(message) => termination.messages.push(message),
        }
        self.give_up_turn();
        self.go_on(moment);
    }

    /// Has the instance pause, or go on after a pause, as soon as nothing of it is being written. A turn that runs is not waited for: it is run again
    /// after the pause.
    pub(in crate::engine) fn pause(&mut self, caller: Token, suspend: bool, reason: Option<String>, moment: &mut Moment<'_>) {
        if self.refuses(caller, moment) {
            return;
        }
        if self.will_be_suspended() == suspend {
            let status = if suspend { RuntimeStatus::Suspended } else { self.status() };
            return moment.reply(caller, Answer::Unfit(status));
        }
        let at_ms = moment.now_ms;
        let event = if suspend { Event::Suspended { at_ms, reason } } else { Event::Resumed { at_ms, reason } };
        self.arrived.push(Arrival { event, lines: Vec::new(), caller: Some(caller), message: None });
        self.give_up_turn();
        self.go_on(moment);
    }

    /// Whether it is suspended once all is recorded that has arrived.
    fn will_be_suspended(&self) -> bool {
        let committing = if let Phase::Committing(step) = &self.phase { &*step.events } else { &[] };
        let known = self.execution.as_ref().is_some_and(|execution| execution.is_suspended);
        suspends(committing.iter().chain(self.arrived.iter().map(|arrival| &arrival.event))).unwrap_or(known)
    }

    /// Puts back what a turn has taken that waits or runs; nobody waits for its result any more.
    fn give_up_turn(&mut self) {
        if let Phase::Turn { .. } | Phase::Resting { unknown: None, .. } = self.phase {
            self.take_back();
            self.phase = Phase::Idle;
        }
    }

    /// Records what has arrived without a turn. What comes after it is resumed waits for the next step, so that each has a status of its own.
    pub(super) fn append_while_suspended(&mut self, moment: &mut Moment<'_>) {
        let execution = self.execution.as_ref().expect("only what is loaded goes on");
        let mut taken = next(&mut self.arrived, execution, STEP_BYTES_MAX, moment);
        let is_resume = |arrival: &Arrival| matches!(arrival.event, Event::Resumed { .. });
        if let Some(resume) = taken.iter().position(is_resume) {
            let rest = taken.split_off(resume + 1);
            self.arrived.splice(..0, rest);
        }
        if !taken.is_empty() {
            self.commit(Step { before: taken, ..Step::default() }, moment);
        }
    }

    /// Commits that it goes on although it had failed. It is not known yet, but for what the plan says.
    pub(in crate::engine) fn reopen(&mut self, by: Rewinder, plan: RewindPlan, moment: &mut Moment<'_>) {
        let RewindPlan { row, rewound, execution, unstarted } = plan;
        let reason = if let Event::Rewound { reason, .. } = &rewound { reason.as_ref() } else { None };
        let sends = adoptions(&execution, self.current, reason, &unstarted, moment);
        let status = if has_run(&execution) { RuntimeStatus::Running } else { RuntimeStatus::Pending };
        moment.push(Effect::Commit(Box::new(CommitOrder {
            instance: self.key,
            execution: self.current,
            change: Change::Reopen {
                expected_length: row.length,
                status,
                module: execution.started.module,
                updated_ms: rewound.at_ms(),
                wake: execution.wake(),
            },
            events: [rewound].into(),
            lines: [].into(),
            sends: sends.clone(),
            takes: if let Rewinder::Parent(message, _) = &by { vec![message.key] } else { Vec::new() },
        })));
        self.phase = Phase::Reopening(Box::new(Reopening { by, execution, sends }));
    }

    /// It is durable that it goes on.
    pub(in crate::engine) fn reopened(&mut self, reopening: Reopening, moment: &mut Moment<'_>) {
        let Reopening { by, execution, sends } = reopening;
        if let Rewinder::Caller(caller) = by {
            moment.reply(caller, Answer::Recorded);
        }
        for message in sends.iter() {
            moment.push(Effect::Send(Box::new(message.clone())));
        }
        self.loaded(execution.wake(), execution, &[], moment);
    }
}

/// What the last of these events has to say about whether the execution is suspended, if one has.
pub(super) fn suspends<'a>(events: impl IntoIterator<Item = &'a Event, IntoIter: DoubleEndedIterator>) -> Option<bool> {
    events.into_iter().rev().find_map(|event| match event {
        Event::Suspended { .. } => Some(true),
        Event::Resumed { .. } => Some(false),
        _ => None,
    })
}
