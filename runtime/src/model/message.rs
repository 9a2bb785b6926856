//! What do instances tell each other? It is written with the sender's step, and stays until the step that records it.

use serde::{Deserialize, Serialize};

use super::{Digest, ExecutionKey, Generation, InstanceId, MessageKey, Outcome, Parent, Payload, Seed, Tags, TaskId};

/// Something that one instance has for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its number in the store.
    pub key: MessageKey,
    /// For whom.
    pub to: InstanceId,
    /// What.
    pub body: Body,
}

/// What a [`Message`] says. Tags and field names are the stored format, as in [`super::Event`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Come into being.
    Start {
        /// The orchestrator's name, as the sender spells it.
        function: String,
        /// Its input.
        input: Payload,
        /// Its generation.
        generation: Generation,
        /// Its seed.
        seed: Seed,
        /// The code of the sender, which is the child's too if it has the function and the hub still has it.
        module: Option<Digest>,
        /// Who waits for the end, if the sender does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Parent>,
        /// Labels.
        #[serde(default, skip_serializing_if = "Tags::is_empty")]
        tags: Tags,
        /// Its first turn may not begin before this time, in milliseconds since 1970, if one is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before_ms: Option<u64>,
    },
    /// A child of yours has come to its end, or could not be started.
    Answer {
        /// The execution that waits.
        execution: ExecutionKey,
        /// The task that is answered.
        task: TaskId,
        /// With what.
        outcome: Outcome,
    },
    /// Your parent goes on after a rewind, and waits for you again: answer if you have ended, and if you have failed, go on too.
    Adopt {
        /// Who waits. You are meant only if that is your parent.
        parent: Parent,
        /// Why it was rewound, if it was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Your parent was ended with all its children: come to your end, and tell yours.
    Terminate {
        /// You are meant only if that is your parent.
        parent: Parent,
        /// Why, if it was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An event for you.
    Raise {
        /// Its name.
        name: String,
        /// Its value.
        payload: Payload,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every stored message is written so. A text that changes here needs a migration.
    #[test]
    fn the_stored_format_stays_as_it_is() {
        let check = |body: &Body, expected: &str| {
            assert_eq!(serde_json::to_string(body).unwrap(), expected);
            assert_eq!(serde_json::from_str::<Body>(expected).unwrap(), *body);
        };
        let mut start = Body::Start {
            function: "Bake".into(),
            input: Payload::of(&1),
            generation: Generation([2; 16]),
            seed: Seed([3; 16]),
            module: Some(Digest([1; 32])),
            parent: None,
            tags: Tags::default(),
            not_before_ms: None,
        };
        let (module, generation, seed) = ("01".repeat(32), "02".repeat(16), "03".repeat(16));
        let plain = format!(r#""function":"Bake","input":1,"generation":"{generation}","seed":"{seed}","module":"{module}""#);
        check(&start, &format!(r#"{{"start":{{{plain}}}}}"#));
        if let Body::Start { parent, tags, not_before_ms, .. } = &mut start {
            *parent = Some(Parent { instance: "loaf".parse().unwrap(), execution: ExecutionKey(7), task: TaskId(2) });
            *tags = Tags::new([("shop".to_owned(), "north".to_owned())]).unwrap();
            *not_before_ms = Some(9);
        }
        let rest = r#""parent":{"instance":"loaf","execution":7,"task":2},"tags":{"shop":"north"},"not_before_ms":9"#;
        check(&start, &format!(r#"{{"start":{{{plain},{rest}}}}}"#));
        check(
            &Body::Answer { execution: ExecutionKey(7), task: TaskId(2), outcome: Outcome::Completed(Payload::of(&1)) },
            r#"{"answer":{"execution":7,"task":2,"outcome":{"completed":1}}}"#,
        );
        let parent = || Parent { instance: "loaf".parse().unwrap(), execution: ExecutionKey(7), task: TaskId(2) };
        let who = r#""parent":{"instance":"loaf","execution":7,"task":2}"#;
        check(&Body::Adopt { parent: parent(), reason: None }, &format!(r#"{{"adopt":{{{who}}}}}"#));
        let reason = Some("power cut".into());
        check(&Body::Terminate { parent: parent(), reason }, &format!(r#"{{"terminate":{{{who},"reason":"power cut"}}}}"#));
        check(&Body::Raise { name: "go".into(), payload: Payload::null() }, r#"{"raise":{"name":"go","payload":null}}"#);
    }
}
