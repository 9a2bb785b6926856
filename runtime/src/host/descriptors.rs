//! How many connections may guests have at once? So many that the server keeps file descriptors for its own clients and its store.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the store, the compiler and the threads need, with room to spare.
const OWN: u64 = 128;

/// More connections than this would take too much memory, however many descriptors there are: each has buffers of some 100 KB.
const CONNECTIONS_MAX: u64 = 4_096;

/// How many connections guests may have at once, all together. Raises the process's bound on file descriptors as far as it may.
pub(super) fn connections_max() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let may_be_raised = current.is_some_and(|current| maximum.is_none_or(|maximum| current < maximum));
    if may_be_raised && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("the bound on file descriptors cannot be raised: {error}");
    }
    share(getrlimit(Resource::Nofile).current)
}

/// Of what is not the server's own, one half; the other is for those who call the server.
fn share(descriptors: Option<u64>) -> usize {
    let half = descriptors.unwrap_or(u64::MAX).saturating_sub(OWN) / 2;
    usize::try_from(half.clamp(1, CONNECTIONS_MAX)).expect("a few thousand")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_get_half_of_what_the_server_does_not_need_itself() {
        for (descriptors, expected) in
            [(Some(0), 1), (Some(128), 1), (Some(220), 46), (Some(1_024), 448), (Some(1 << 20), 4_096), (None, 4_096)]
        {
            assert_eq!(share(descriptors), expected, "{descriptors:?}");
        }
    }
}
