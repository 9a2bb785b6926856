//! What is there to know of an operation? What the OpenAPI document says of it, beside the handler that does it.
//!
//! Each line of the table in `route` names an [`Operation`]; `openapi` makes the document of them. What all operations have in common
//! (the hub, keys, what happens to a broken request) is added there, so that a description holds only what is special.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::error::{Long, Ours, Short};

/// What an operation takes and answers.
#[derive(Debug)]
pub(super) struct Operation {
    /// What it does, in a few words.
    pub(super) summary: &'static str,
    /// Whose rules it follows.
    pub(super) family: Family,
    /// What it takes beside the parts of its path and what its family takes.
    pub(super) takes: &'static [Parameter],
    /// What it reads.
    pub(super) body: Body,
    /// Every status it may answer with, beside those that stand for all of its family and those of its body. A status that stands
    /// here twice has several forms.
    pub(super) answers: &'static [Answer],
}

/// Whose rules an operation follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// The wire contract's: it acts on a hub, and its errors have the contract's forms.
    Contract,
    /// Ours: it acts on a hub too, and its errors are `{"error":{"code","message"}}`.
    Ours,
    /// Ours, about the server as a whole.
    Server,
}

/// What an operation reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    None,
    /// JSON, under whatever content type; none at all is `null`.
    Input,
    /// JSON, announced as such.
    Event,
    /// A WebAssembly module.
    Module,
}

/// A parameter, or a part of a path.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) kind: Kind,
    /// What it does, in a sentence.
    pub(super) about: &'static str,
    pub(super) is_required: bool,
}

/// Where a parameter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    Query,
    Header,
}

/// What a parameter may be. Numbers, flags and times that cannot be read count as absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// A text that this regular expression describes, of at most so many characters.
    Matching(&'static str, usize),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Any of these, with commas between them.
    SomeOf(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Whole,
    /// Seconds, perhaps with a fraction.
    Seconds,
    /// A time in ISO 8601.
    Time,
    /// JSON text.
    Json,
    /// One of the server's stores, or nothing.
    Store,
    /// Labels: any number of parameters `tag.NAME=VALUE`.
    Labels,
}

/// An answer: a status, and what comes with it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// When it is given, in a sentence.
    pub(super) when: &'static str,
    pub(super) content: Content,
    pub(super) headers: &'static [Header],
}

/// What the body of an answer holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// It has none.
    Empty,
    /// JSON, and its schema.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Something else, by its media type.
    Other(&'static str),
}

/// A header of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// `Location`: where to ask how an instance stands.
    Location,
    /// `Retry-After`: when to ask again, in seconds.
    RetryAfter,
    /// `x-ms-continuation-token`: what leads to the next page.
    ContinuationToken,
}

impl Operation {
    /// Whether it may answer with `status`.
    pub(super) fn gives(&self, status: u16) -> bool {
        let all = self.answers.iter().chain(self.family.answers()).chain(self.body.answers());
        all.into_iter().any(|answer| answer.status == status)
    }
}

impl Family {
    /// What all of it may answer, whatever else.
    pub(super) fn answers(self) -> &'static [Answer] {
        const OURS_TO_BLAME: &str =
            "Something went wrong in the server; the message has the number under which it logged the cause.";
        const BROKEN: Answer = Answer::long(400, "The request is broken, or its Host is no host.");
        const NO_HUB: &str = "The name of the task hub breaks its rules, or there is no such connection.";
        const PANIC: Answer = Answer::long(500, OURS_TO_BLAME);
        const CONTRACT: &[Answer] = &[BROKEN, Answer::long(400, NO_HUB), PANIC];
        const OURS: &[Answer] = &[BROKEN, Answer::ours(400, NO_HUB), Answer::ours(500, OURS_TO_BLAME), PANIC];
        const SERVER: &[Answer] = &[BROKEN, PANIC];
        match self {
            Self::Contract => CONTRACT,
            Self::Ours => OURS,
            Self::Server => SERVER,
        }
    }

    /// What all of it takes.
    pub(super) fn takes(self) -> &'static [Parameter] {
        const HUB: &[Parameter] = &[
            Parameter::query(
                "taskHub",
                Kind::Matching("^([A-Za-z][A-Za-z0-9]{2,44})?$", 45),
                "The task hub; without it the server's default one.",
            ),
            Parameter::query(
                "connection",
                Kind::Store,
                "The store by its name in the configuration; without it the default one.",
            ),
        ];
        match self {
            Self::Contract | Self::Ours => HUB,
            Self::Server => &[],
        }
    }
}

impl Body {
    /// What may be wrong with it, whatever it holds.
    pub(super) fn answers(self) -> &'static [Answer] {
        const BROKE_OFF: &str = "The body broke off.";
        const TOO_SLOW: &str = "The body did not arrive in time.";
        const TOO_LARGE: &str = "The body is larger than the limit that the message names.";
        const CONTRACT: &[Answer] = &[Answer::long(400, BROKE_OFF), Answer::long(408, TOO_SLOW), Answer::long(413, TOO_LARGE)];
        const OURS: &[Answer] = &[Answer::ours(400, BROKE_OFF), Answer::ours(408, TOO_SLOW), Answer::ours(413, TOO_LARGE)];
        match self {
            Self::None => &[],
            Self::Input | Self::Event => CONTRACT,
            Self::Module => OURS,
        }
    }
}

impl Parameter {
    /// One in the query that may be left out.
    pub(super) const fn query(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, place: Place::Query, kind, about, is_required: false }
    }

    /// A header of the request that may be left out.
    pub(super) const fn header(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { place: Place::Header, ..Self::query(name, kind, about) }
    }

    /// A part of the path.
    pub(super) const fn path(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { place: Place::Path, is_required: true, ..Self::query(name, kind, about) }
    }
}

impl Answer {
    /// One without a body.
    pub(super) const fn empty(status: u16, when: &'static str) -> Self {
        Self { status, when, content: Content::Empty, headers: &[] }
    }

    /// One with a wire type of ours.
    pub(super) const fn json<T: JsonSchema>(status: u16, when: &'static str) -> Self {
        Self { content: Content::Json(SchemaGenerator::subschema_for::<T>), ..Self::empty(status, when) }
    }

    /// An error in the contract's short form.
    pub(super) const fn short(status: u16, when: &'static str) -> Self {
        Self::json::<Short<'static>>(status, when)
    }

    /// An error in the contract's long form.
    pub(super) const fn long(status: u16, when: &'static str) -> Self {
        Self::json::<Long<'static>>(status, when)
    }

    /// An error outside the contract.
    pub(super) const fn ours(status: u16, when: &'static str) -> Self {
        Self::json::<Ours<'static>>(status, when)
    }

    /// Another media type.
    pub(super) const fn other(status: u16, media_type: &'static str, when: &'static str) -> Self {
        Self { content: Content::Other(media_type), ..Self::empty(status, when) }
    }

    /// The same with headers.
    pub(super) const fn with(self, headers: &'static [Header]) -> Self {
        Self { headers, ..self }
    }
}
