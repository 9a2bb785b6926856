//! How does one execution come from another? Children and successors, and what they are called.
//!
//! Nothing of a new execution is drawn by chance where another one asks for it: its names derive from those of who asked, so that a
//! message that is delivered twice asks for the same thing twice.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{ExecutionKey, Generation, InstanceId, Payload, Seed, Started, TaskId};

/// Who waits for the end of a child. Kept through all executions of the child's instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The instance.
    pub instance: InstanceId,
    /// Its execution that waits; no other one gets to hear of the end.
    pub execution: ExecutionKey,
    /// The task of that execution.
    pub task: TaskId,
}

/// The execution that shall follow one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuation {
    /// Its input.
    pub input: Payload,
    /// The numbers of the events from outside that were not read and that it shall get, ascending.
    pub keep: Vec<u32>,
    /// It stays on the digest of the one before, whatever is current.
    pub keep_version: bool,
}

impl Started {
    /// The ID of the instance that `task` starts, if the guest gave none.
    pub fn child_id(&self, task: TaskId) -> InstanceId {
        format!("{}:{:04x}", self.generation, task.0).parse().expect("hex digits and a colon are allowed")
    }

    /// Generation and seed of the execution that `task` starts.
    pub fn child(&self, task: TaskId) -> (Generation, Seed) {
        self.derive(b"child", task.0)
    }

    /// Generation and seed of the execution that this one continues as.
    pub fn successor(&self) -> (Generation, Seed) {
        self.derive(b"successor", 0)
    }

    fn derive(&self, what: &[u8], number: u32) -> (Generation, Seed) {
        // The seed is known to nobody outside, so nobody can tell these before they are there.
        let hash: [u8; 32] = Sha256::new()
            .chain_update(self.generation.0)
            .chain_update(self.seed.0)
            .chain_update(what)
            .chain_update(number.to_be_bytes())
            .finalize()
            .into();
        let half = |from: usize| -> [u8; 16] { hash[from..from + 16].try_into().expect("16 of 32 bytes") };
        (Generation(half(0)), Seed(half(16)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::execution::tests::started;

    /// A message of an older version must ask for the same child.
    #[test]
    fn what_an_execution_starts_is_called_the_same_for_ever() {
        let parent = started();
        assert_eq!(parent.child_id(TaskId(26)).as_str(), "02020202020202020202020202020202:001a");
        let names = [parent.child(TaskId(0)), parent.child(TaskId(1)), parent.successor()]
            .map(|(generation, seed)| format!("{generation} {seed}"));
        let expected = [
            "b2ea7d5f7f56eb05decbc97482edaae7 21e258959cd75aff02ceaf552af75f6c",
            "d9843889dcbf0576866662ab8d2ab2e8 67eb9107a34b1dfb078f77096955685d",
            "96e905065a1983c689d8770dc0917ff9 b70f7f862dd5b18debce3716d6fb9b74",
        ];
        assert_eq!(names, expected);
    }
}
