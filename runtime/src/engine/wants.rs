//! Who wants an instance to start, or a failed one to go on, and what do they hear? Callers get an answer, other instances a message.

use std::sync::Arc;

use super::orders::{Answer, Effect, Input, LoadError, NoRewind, RewindOrder, Rewinder, Start, Token, Wish};
use super::partition::unreadable;
use super::step::{answer, gone, outcome};
use crate::model::{Body, Failure, InstanceId, LogLine, LogRecord, Message, MessageKey, Outcome, RuntimeStatus};
use crate::store::StoreError;

/// Who wants an instance to start.
#[derive(Debug)]
pub(super) enum Starter {
    /// Somebody who waits for the answer.
    Caller(Token),
    /// Another instance, by this message, which stays in the store until it is settled.
    Message(Box<Message>),
}

impl Starter {
    /// What it came with.
    pub(super) fn input(self, start: Start) -> Input {
        match self {
            Self::Caller(token) => Input::Start(token, Box::new(start)),
            Self::Message(message) => Input::StartChild(message, Ok(Box::new(start))),
        }
    }

    /// The message, if it is one.
    pub(super) fn message(&self) -> Option<MessageKey> {
        if let Self::Message(message) = self { Some(message.key) } else { None }
    }

    /// It is durable that it has started.
    pub(super) fn started(self, effects: &mut Vec<Effect>) {
        if let Self::Caller(token) = self {
            effects.push(Effect::Reply(token, Answer::Started));
        }
    }

    /// An instance has the ID that stays.
    pub(super) fn refused(self, id: &InstanceId, status: RuntimeStatus, effects: &mut Vec<Effect>) {
        match self {
            Self::Caller(token) => effects.push(Effect::Reply(token, Answer::Exists(status))),
            Self::Message(message) => {
                let why = format!("an instance with the ID {:?} is {status} already; choose another ID, or none", id.as_str());
                refuse_start(*message, Failure::new("InstanceExists", why), effects);
            }
        }
    }

    /// It could not be recorded, or nobody knows whether it was. Returns what may have to be tried again.
    pub(super) fn failed(self, start: Start, error: Arc<StoreError>, effects: &mut Vec<Effect>) -> Option<Input> {
        match self {
            Self::Caller(token) => {
                effects.push(Effect::Reply(token, Answer::Failed(error)));
                None
            }
            Self::Message(mut message) => {
                // The sender has ended, or it would have kept its code from being deleted. What is current will do.
                if let (StoreError::NoModule(_), Body::Start { module, .. }) = (&*error, &mut message.body) {
                    *module = None;
                }
                Some(Input::StartChild(message, Ok(Box::new(start))))
            }
        }
    }
}

impl RewindOrder {
    /// What `input` wants rewound, if it wants that; else `input` itself.
    pub(super) fn of(input: Input) -> Result<Self, Box<Input>> {
        match input {
            Input::Control { caller, instance, wish: Wish::Rewind, reason } => {
                Ok(Self { instance, by: Rewinder::Caller(caller), reason })
            }
            Input::Message(message) => match &message.body {
                Body::Adopt { parent, reason } => {
                    let (parent, reason) = (parent.clone(), reason.clone());
                    Ok(Self { instance: message.to.clone(), by: Rewinder::Parent(message, parent), reason })
                }
                _ => Err(Box::new(Input::Message(message))),
            },
            input => Err(Box::new(input)),
        }
    }
}

impl Rewinder {
    /// There is no way. Returns what is to be tried again.
    pub(super) fn refused(self, id: &InstanceId, why: NoRewind, effects: &mut Vec<Effect>) -> Option<Input> {
        match (self, why) {
            (Self::Caller(token), why) => {
                let answer = match why {
                    NoRewind::NotFound => Answer::NotOpen,
                    NoRewind::Ended(end) => Answer::Ended(end),
                    NoRewind::Refused(why) => Answer::Refused(why),
                    NoRewind::Unreadable(_) => Answer::Failed(unreadable(id)),
                };
                effects.push(Effect::Reply(token, answer));
            }
            (Self::Parent(message, _), NoRewind::Unreadable(LoadError::Passing)) => return Some(Input::Message(message)),
            (Self::Parent(message, parent), why) => {
                let outcome = match why {
                    NoRewind::Ended(end) => outcome(&end),
                    NoRewind::Refused(why) => Outcome::Failed(Failure::new("CannotRewind", why)),
                    NoRewind::NotFound | NoRewind::Unreadable(_) => gone(id),
                };
                effects.push(answer(message.key, parent, outcome));
            }
        }
        None
    }

    /// It could not be recorded, or nobody knows whether it was. Returns what may have to be tried again.
    pub(super) fn failed(self, error: Arc<StoreError>, effects: &mut Vec<Effect>) -> Option<Input> {
        match self {
            Self::Caller(token) => {
                effects.push(Effect::Reply(token, Answer::Failed(error)));
                None
            }
            Self::Parent(message, _) => Some(Input::Message(message)),
        }
    }
}

/// Tells who waits for a child that there will be none, under the number of the message that asked for it.
pub(super) fn refuse_start(message: Message, failure: Failure, effects: &mut Vec<Effect>) {
    let Message { key, to, body } = message;
    match body {
        Body::Start { parent: Some(parent), .. } => effects.push(answer(key, parent, Outcome::Failed(failure))),
        // Nobody waits, so there is nobody to tell but people.
        _ => {
            let line = LogLine {
                level: crate::model::LogLevel::Warn,
                target: "dacapo".into(),
                message: format!("instance {:?} was not started: {}", to.as_str(), failure.message),
            };
            effects.push(Effect::Log(to, [LogRecord { at_ms: 0, task: None, line }].into()));
            effects.push(Effect::Discard(key));
        }
    }
}
