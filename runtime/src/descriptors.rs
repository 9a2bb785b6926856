//! How many connections may there be at once? So many that file descriptors are left for the store, for guests and for clients each.

use std::sync::Once;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the store, the compiler and the threads need, with room to spare.
const OWN: u64 = 128;

/// More connections of guests than this would take too much memory, however many descriptors there are: each has buffers of some 100 KB.
const GUESTS_MAX: u64 = 4_096;

/// How many connections guests may have at once, all together. Raises the process's bound on file descriptors as far as it may.
pub fn for_guests() -> usize {
    let half = free(bound()) / 2;
    usize::try_from(half.clamp(1, GUESTS_MAX)).expect("a few thousand")
}

/// How many connections clients may have at once, who may have `most` as far as memory is concerned. The same as to the process's bound; if
/// that is too low, the log says so.
pub fn for_clients(most: usize) -> usize {
    let bound = bound();
    let clients = clients(bound, most);
    if clients < most
        && let Some(bound) = bound
    {
        let needed = most as u64 + GUESTS_MAX + OWN;
        tracing::warn!(
            "this process may have {bound} file descriptors, so {clients} clients may be connected at once and not {most} (limit \
             connections_max): raise the hard bound to {needed} (ulimit -Hn, or LimitNOFILE= in a unit of systemd), or lower the limit"
        );
    }
    clients
}

/// What is left when guests have their half, which has a bound of its own.
fn clients(bound: Option<u64>, most: usize) -> usize {
    let free = free(bound);
    let left = free - (free / 2).min(GUESTS_MAX);
    usize::try_from(left.max(1)).unwrap_or(usize::MAX).min(most)
}

fn free(bound: Option<u64>) -> u64 {
    bound.unwrap_or(u64::MAX).saturating_sub(OWN)
}

/// The process's bound on file descriptors, which is raised as far as it may be; `None` if there is none.
fn bound() -> Option<u64> {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let may_be_raised = current.is_some_and(|current| maximum.is_none_or(|maximum| current < maximum));
        if may_be_raised && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            tracing::warn!("the bound on file descriptors cannot be raised: {error}");
        }
    });
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_and_clients_get_half_each_of_what_the_server_does_not_need_itself_up_to_their_bounds() {
        let check = |descriptors: Option<u64>, guests_expected: u64, clients_expected: usize| {
            let guests = (free(descriptors) / 2).clamp(1, GUESTS_MAX);
            assert_eq!((guests, clients(descriptors, 10_000)), (guests_expected, clients_expected), "{descriptors:?}");
        };
        check(Some(0), 1, 1);
        check(Some(128), 1, 1);
        check(Some(220), 46, 46);
        check(Some(1_024), 448, 448);
        check(Some(20_000), 4_096, 10_000);
        check(None, 4_096, 10_000);
    }
}
