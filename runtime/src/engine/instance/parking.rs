//! What comes for an instance before it is known how what is in flight for it comes out, and so whether it is this instance's affair at all?

use std::sync::Arc;

use super::{Instance, Phase};
use crate::engine::orders::{Answer, Input, Start};
use crate::engine::partition::Moment;
use crate::engine::wants::Starter;
use crate::model::{Body, Event};
use crate::store::StoreError;

impl Instance {
    /// Whether `input` has to wait until it is known how what is in flight comes out: whether it is open at all, or has just ended.
    pub(in crate::engine) fn parks(&self, input: &Input) -> bool {
        let is_start = matches!(input, Input::Start(..) | Input::StartChild(..));
        let is_control = matches!(input, Input::Control { .. });
        match &self.phase {
            _ if self.starting.is_some() => !is_start && !matches!(input, Input::Forget(..)),
            Phase::Reopening(_) => !is_start && !matches!(input, Input::Forget(..)),
            Phase::Loading => is_control,
            Phase::Committing(step) if matches!(step.events.last(), Some(Event::Ended { .. })) => {
                is_control || matches!(input, Input::Message(message) if matches!(message.body, Body::Terminate { .. }))
            }
            _ => false,
        }
    }

    /// Nothing more is known of it for long: tells those who wait to know more that it cannot be said.
    pub(in crate::engine) fn refuse_parked(&mut self, why: &Arc<StoreError>, moment: &mut Moment<'_>) {
        for caller in self.parked.extract_if(.., |input| input.caller().is_some()).filter_map(|input| input.caller()) {
            moment.reply(caller, Answer::Failed(why.clone()));
        }
    }

    /// Somebody wants to start another instance under this ID: says no, or waits until it turns out whether the ID is free. The store
    /// may show an end before the partition hears of it.
    pub(in crate::engine) fn contend(&mut self, starter: Starter, start: Start, moment: &mut Moment<'_>) {
        let is_open = match &self.phase {
            _ if self.starting.is_some() => true,
            Phase::Reopening(_) | Phase::Loading => true,
            Phase::Committing(step) => matches!(step.events.last(), Some(Event::Ended { .. })),
            _ => false,
        };
        let answer = match &self.phase {
            Phase::Resting { unknown: Some(why), .. } | Phase::Halted { why } => Answer::Failed(why.clone()),
            _ => Answer::Exists(self.status()),
        };
        self.contenders.push((starter, start));
        if !is_open {
            self.answer_contenders(&answer, moment);
        }
    }

    /// It has turned out that the ID is not free, or not to be known: tells those who want it. Messages wait until it is known.
    pub(in crate::engine) fn answer_contenders(&mut self, answer: &Answer, moment: &mut Moment<'_>) {
        for (starter, start) in std::mem::take(&mut self.contenders) {
            match (starter, answer) {
                (starter, Answer::Exists(status)) => starter.refused(&self.id, *status, moment.effects),
                (Starter::Caller(token), answer) => moment.reply(token, answer.clone()),
                (Starter::Message(message), _) => self.contenders.push((Starter::Message(message), start)),
            }
        }
    }
}
