//! Which work runs next? The line in which activities wait: fair between hubs, functions and instances, and within all bounds.
//!
//! Hubs take turns; within a hub its functions do, and within a function the executions that want it. So an execution that asks
//! for 10,000 activities keeps nobody waiting for more than one of them. What is at its bound is left out until something of it
//! has ended, and holds up nothing else. Every operation costs a few look-ups in trees and tables, however much waits. Pure;
//! used by `crew.rs`.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::limits::WorkLimits;
use crate::model::{ExecutionKey, HubKey, TaskId};

/// Whose work it is, as far as bounds go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    hub: HubKey,
    function: Arc<str>,
}

impl Lane {
    /// Calls of `function`, whose name is compared without case, for instances of `hub`.
    pub fn new(hub: HubKey, function: &str) -> Self {
        Self { hub, function: function.to_lowercase().into() }
    }
}

/// What bounds how much runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The bound on calls of its function.
    Function,
    /// The bound on its hub.
    Hub,
    /// The server's own.
    Server,
}

/// Work that waits, and how much of it runs.
pub struct Queue<T> {
    hubs: Ring<HubKey, Hub<T>>,
    limits: HashMap<HubKey, WorkLimits>,
    running: usize,
    running_max: usize,
}

impl<T> Queue<T> {
    /// Nothing waits; at most `running_max` run at once.
    pub fn new(running_max: usize) -> Self {
        Self { hubs: Ring::default(), limits: HashMap::new(), running: 0, running_max }
    }

    /// Bounds the work of `hub`, before there is any.
    pub fn set_limits(&mut self, hub: HubKey, limits: WorkLimits) {
        self.limits.insert(hub, limits);
    }

    /// Puts `item` in line, for a task that is not there yet.
    pub fn push(&mut self, lane: &Lane, execution: ExecutionKey, task: TaskId, item: T) {
        let limits = self.limits.get(&lane.hub);
        let new_hub = || Hub::new(limits.and_then(|limits| limits.activities_running_max));
        let new_function = || Function::new(limits.and_then(|limits| limits.running_max(&lane.function)));
        self.hubs.change_or_add(&lane.hub, new_hub, |hub| {
            hub.functions.change_or_add(&lane.function, new_function, |function| {
                let new_tasks = || Tasks(BTreeMap::new());
                function.waiting += 1;
                function.executions.change_or_add(&execution, new_tasks, |tasks| {
                    let old = tasks.0.insert(task, item);
                    assert!(old.is_none(), "task {task} of execution {} is in line twice", execution.0);
                });
            });
        });
    }

    /// What may run now and is next, if there is anything. It counts as running until [`Queue::done`].
    pub fn take(&mut self) -> Option<(Lane, T)> {
        if self.running >= self.running_max {
            return None;
        }
        let taken = self.hubs.take(|hub_key, hub| {
            hub.running += 1;
            let of_hub = hub.functions.take(|name, function| {
                function.running += 1;
                function.waiting -= 1;
                let next = function.executions.take(|_, tasks| tasks.0.pop_first().expect(READY));
                let (_, item) = next.expect(READY);
                (Lane { hub: *hub_key, function: name.clone() }, item)
            });
            of_hub.expect(READY)
        })?;
        self.running += 1;
        Some(taken)
    }

    /// Something of this lane that was taken has ended.
    pub fn done(&mut self, lane: &Lane) {
        self.running = self.running.checked_sub(1).expect(TAKEN);
        let of_hub = self.hubs.change(&lane.hub, |hub| {
            hub.running = hub.running.checked_sub(1).expect(TAKEN);
            hub.functions.change(&lane.function, |function| {
                function.running = function.running.checked_sub(1).expect(TAKEN);
            })
        });
        of_hub.flatten().expect(TAKEN);
    }

    /// How long the line is of those whom neither their function's bound nor their hub's keeps from running: how many executions, once for each
    /// function; or one for each `each` activities if those are more. It is not counted much further than `enough`. An execution that waits
    /// for much counts as little as the others, since they take turns; but so many activities are much to do.
    pub fn line(&self, enough: usize, each: usize) -> usize {
        let mut line = 0;
        for function in self.hubs.ready().flat_map(|hub| hub.functions.ready()) {
            line += function.executions.order.len().max(function.waiting / each);
            if line >= enough {
                break;
            }
        }
        line
    }

    /// Which bound keeps what waits in this lane from being taken, if one does; otherwise it only waits for its turn.
    pub fn bound(&self, lane: &Lane) -> Option<Bound> {
        let hub = self.hubs.get(&lane.hub);
        let function = hub.and_then(|hub| hub.functions.get(&lane.function));
        if function.is_some_and(|function| !has_room(function.running, function.running_max)) {
            Some(Bound::Function)
        } else if hub.is_some_and(|hub| !has_room(hub.running, hub.running_max)) {
            Some(Bound::Hub)
        } else {
            (self.running >= self.running_max).then_some(Bound::Server)
        }
    }

    /// Takes out what has not been taken yet, for good.
    pub fn remove(&mut self, lane: &Lane, execution: ExecutionKey, task: TaskId) -> Option<T> {
        let of_hub = |hub: &mut Hub<T>| {
            let of_function = |function: &mut Function<T>| {
                let removed = function.executions.change(&execution, |tasks| tasks.0.remove(&task));
                function.waiting -= usize::from(matches!(removed, Some(Some(_))));
                removed
            };
            hub.functions.change(&lane.function, of_function)
        };
        self.hubs.change(&lane.hub, of_hub).flatten().flatten().flatten()
    }
}

const READY: &str = "only who has work in line has a turn";
const TAKEN: &str = "what ends was taken";

/// The work of a hub.
struct Hub<T> {
    functions: Ring<Arc<str>, Function<T>>,
    running: u32,
    running_max: Option<NonZeroU32>,
}

/// The calls of a function.
struct Function<T> {
    executions: Ring<ExecutionKey, Tasks<T>>,
    /// How many activities these want.
    waiting: usize,
    running: u32,
    running_max: Option<NonZeroU32>,
}

/// What an execution wants of a function, in the order in which it asked.
struct Tasks<T>(BTreeMap<TaskId, T>);

impl<T> Hub<T> {
    fn new(running_max: Option<NonZeroU32>) -> Self {
        Self { functions: Ring::default(), running: 0, running_max }
    }
}

impl<T> Function<T> {
    fn new(running_max: Option<NonZeroU32>) -> Self {
        Self { executions: Ring::default(), waiting: 0, running: 0, running_max }
    }
}

impl<T> TakesTurns for Hub<T> {
    fn is_ready(&self) -> bool {
        has_room(self.running, self.running_max) && self.functions.is_ready()
    }

    fn is_needed(&self) -> bool {
        self.running > 0 || self.functions.is_needed()
    }
}

impl<T> TakesTurns for Function<T> {
    fn is_ready(&self) -> bool {
        has_room(self.running, self.running_max) && self.executions.is_ready()
    }

    fn is_needed(&self) -> bool {
        self.running > 0 || self.executions.is_needed()
    }
}

impl<T> TakesTurns for Tasks<T> {
    fn is_ready(&self) -> bool {
        !self.0.is_empty()
    }

    fn is_needed(&self) -> bool {
        !self.0.is_empty()
    }
}

fn has_room(running: u32, max: Option<NonZeroU32>) -> bool {
    max.is_none_or(|max| running < max.get())
}

/// A member of a [`Ring`].
pub trait TakesTurns {
    /// It has something that may be taken now.
    fn is_ready(&self) -> bool;
    /// It has something at all.
    fn is_needed(&self) -> bool;
}

/// Members of which those that are ready take turns. Who becomes ready, or is so again, comes after all others; who has nothing
/// left is forgotten.
pub struct Ring<K, M> {
    members: HashMap<K, Member<M>>,
    /// Those that are ready, by their tickets. A tree, so that one that is ready no longer can be taken out of the middle.
    order: BTreeMap<u64, K>,
    next_ticket: u64,
}

struct Member<M> {
    ticket: Option<u64>,
    state: M,
}

impl<K, M> Default for Ring<K, M> {
    fn default() -> Self {
        Self { members: HashMap::new(), order: BTreeMap::new(), next_ticket: 0 }
    }
}

impl<K: Clone + Eq + Hash, M: TakesTurns> Ring<K, M> {
    /// Whether one is ready.
    pub fn is_ready(&self) -> bool {
        !self.order.is_empty()
    }

    fn is_needed(&self) -> bool {
        !self.members.is_empty()
    }

    /// What a member is, if it is there.
    pub fn get(&self, key: &K) -> Option<&M> {
        self.members.get(key).map(|member| &member.state)
    }

    /// Those that are ready.
    fn ready(&self) -> impl Iterator<Item = &M> {
        self.order.values().map(|key| &self.members.get(key).expect("who is ready is a member").state)
    }

    /// Changes the member whose turn it is, if one is ready. Its next turn comes after those of all others.
    pub fn take<R>(&mut self, change: impl FnOnce(&K, &mut M) -> R) -> Option<R> {
        let (_, key) = self.order.pop_first()?;
        let member = self.members.get_mut(&key).expect("who is ready is a member");
        member.ticket = None;
        let result = change(&key, &mut member.state);
        self.settle(&key);
        Some(result)
    }

    /// Changes a member, if it is there.
    pub fn change<R>(&mut self, key: &K, change: impl FnOnce(&mut M) -> R) -> Option<R> {
        let result = change(&mut self.members.get_mut(key)?.state);
        self.settle(key);
        Some(result)
    }

    /// Changes a member that `new` makes if it is not there.
    pub fn change_or_add(&mut self, key: &K, new: impl FnOnce() -> M, change: impl FnOnce(&mut M)) {
        let member = self.members.entry(key.clone()).or_insert_with(|| Member { ticket: None, state: new() });
        change(&mut member.state);
        self.settle(key);
    }

    /// Gives a member that has changed its place in the order, or none.
    fn settle(&mut self, key: &K) {
        let member = self.members.get_mut(key).expect("it has just changed");
        match (member.ticket, member.state.is_ready()) {
            (None, true) => {
                member.ticket = Some(self.next_ticket);
                self.order.insert(self.next_ticket, key.clone());
                self.next_ticket += 1;
            }
            (Some(ticket), false) => {
                self.order.remove(&ticket);
                member.ticket = None;
            }
            (None, false) | (Some(_), true) => (),
        }
        if !member.state.is_needed() {
            self.members.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Plays `script` to a queue of at most three at once, where hub 1 runs two, and function `slow` of it one. Words:
    /// `1/mix/7:0` pushes task 0 of execution 7, `-1/mix/7:0` removes it; `take` takes one; `done 1/mix` ends one. Returns what
    /// was taken.
    fn check(script: &str, expected: &str) {
        let mut queue = queue();
        let mut taken = Vec::new();
        for step in script.split("; ") {
            match step.split_once(' ') {
                None if step == "take" => taken.push(queue.take().map_or("none".to_owned(), |(_, item)| item)),
                Some(("done", lane)) => {
                    let (hub, function) = lane.split_once('/').unwrap();
                    queue.done(&Lane::new(HubKey(hub.parse().unwrap()), function));
                }
                _ => {
                    let name = step.trim_start_matches('-');
                    let (lane, execution, task) = parse(name);
                    if name == step {
                        queue.push(&lane, execution, task, name.to_owned());
                    } else {
                        let removed = queue.remove(&lane, execution, task);
                        taken.push(removed.map_or("gone".to_owned(), |item| format!("-{item}")));
                    }
                }
            }
        }
        assert_eq!(taken.join(" "), expected, "{script}");
    }

    #[test]
    fn what_waits_knows_behind_which_bound() {
        let check = |running: &str, expected: Option<Bound>| {
            let mut queue = queue();
            for (task, lane) in (0..).zip(running.split_whitespace()) {
                let (hub, function) = lane.split_once('/').unwrap();
                let lane = Lane::new(HubKey(hub.parse().unwrap()), function);
                queue.push(&lane, ExecutionKey(1), TaskId(task), String::new());
                queue.take().unwrap();
            }
            let slow = Lane::new(HubKey(1), "slow");
            queue.push(&slow, ExecutionKey(2), TaskId(0), String::new());
            assert_eq!(queue.bound(&slow), expected, "{running}");
        };
        check("", None);
        check("1/mix 2/mix", None);
        check("1/Slow", Some(Bound::Function));
        check("1/mix 1/mix", Some(Bound::Hub));
        check("1/mix 2/mix 2/mix", Some(Bound::Server));
        check("1/slow 1/mix 2/mix", Some(Bound::Function));
    }

    #[test]
    fn the_line_is_of_executions_that_wait_for_nothing_but_their_turn_or_of_many_activities() {
        let check = |pushed: &str, taken: usize, expected: usize| {
            let mut queue = queue();
            for item in pushed.split_whitespace() {
                let (lane, execution, task) = parse(item);
                queue.push(&lane, execution, task, ());
            }
            (0..taken).for_each(|_| _ = queue.take().unwrap());
            assert_eq!(queue.line(100, 3), expected, "{pushed}, {taken} taken");
        };
        check("1/mix/7:0", 1, 0);
        check("2/mix/7:0 2/mix/7:1 2/mix/7:2 2/mix/8:3 3/mix/9:4", 0, 3);
        check("2/mix/7:0 2/mix/7:1 2/mix/7:2 2/mix/7:3", 3, 1);
        check("2/mix/7:0 2/mix/7:1 2/mix/7:2 2/mix/7:3 2/mix/7:4 2/mix/7:5 3/mix/9:4", 0, 3);
        check("2/mix/7:0 2/mix/7:1 2/mix/7:2 2/mix/7:3 2/mix/7:4 2/mix/7:5 3/mix/9:4", 1, 2);
        // Behind the bounds of a function, and of a hub.
        check("1/slow/7:0 1/slow/8:1 1/mix/9:2", 1, 1);
        check("1/mix/7:0 1/mix/8:1 1/mix/9:2 2/mix/9:3", 3, 0);
    }

    fn parse(item: &str) -> (Lane, ExecutionKey, TaskId) {
        let [hub, function, rest] = item.split('/').collect::<Vec<_>>()[..] else { panic!("{item}") };
        let (execution, task) = rest.split_once(':').unwrap();
        let lane = Lane::new(HubKey(hub.parse().unwrap()), function);
        (lane, ExecutionKey(execution.parse().unwrap()), TaskId(task.parse().unwrap()))
    }

    fn queue<T>() -> Queue<T> {
        let mut queue = Queue::new(3);
        let limits = toml::from_str("activities_running_max = 2\nfunctions.Slow.running_max = 1").unwrap();
        queue.set_limits(HubKey(1), limits);
        queue
    }

    #[test]
    fn an_execution_with_much_work_lets_the_others_in_after_one_of_it() {
        check("2/mix/1:0; 2/mix/1:1; 2/mix/1:2; 2/mix/2:0; take; take; take", "2/mix/1:0 2/mix/2:0 2/mix/1:1");
        check("2/mix/1:0; 2/mix/1:1; take; 2/mix/2:0; 2/mix/3:0; take; take", "2/mix/1:0 2/mix/1:1 2/mix/2:0");
    }

    #[test]
    fn functions_of_a_hub_take_turns_and_so_do_hubs() {
        check("2/mix/1:0; 2/mix/2:0; 2/bake/1:1; take; take; take", "2/mix/1:0 2/bake/1:1 2/mix/2:0");
        check("2/mix/1:0; 2/mix/2:0; 3/mix/9:0; take; take; take", "2/mix/1:0 3/mix/9:0 2/mix/2:0");
    }

    #[test]
    fn an_execution_is_served_in_the_order_in_which_it_asked() {
        check("2/mix/1:2; 2/mix/1:0; 2/MIX/1:1; take; take; take", "2/mix/1:0 2/MIX/1:1 2/mix/1:2");
    }

    #[test]
    fn no_more_runs_than_the_server_may_run() {
        check("2/mix/1:0; 3/mix/2:0; 4/mix/3:0; 5/mix/4:0; take; take; take; take", "2/mix/1:0 3/mix/2:0 4/mix/3:0 none");
        check(
            "2/a/1:0; 2/a/1:1; 2/a/1:2; 2/a/1:3; take; take; take; done 2/a; take; take",
            "2/a/1:0 2/a/1:1 2/a/1:2 2/a/1:3 none",
        );
    }

    #[test]
    fn a_function_at_its_bound_holds_up_no_other() {
        check("1/slow/1:0; 1/SLOW/2:0; 1/mix/3:0; take; take; take", "1/slow/1:0 1/mix/3:0 none");
        check("1/slow/1:0; 1/slow/2:0; take; take; done 1/slow; take", "1/slow/1:0 none 1/slow/2:0");
    }

    #[test]
    fn a_hub_at_its_bound_holds_up_no_other() {
        check("1/mix/1:0; 1/mix/1:1; 1/mix/1:2; take; take; take", "1/mix/1:0 1/mix/1:1 none");
        check("1/a/1:0; 1/b/1:1; 1/c/1:2; 2/a/9:0; take; take; take", "1/a/1:0 2/a/9:0 1/b/1:1");
        check("1/a/1:0; 1/b/1:1; 1/c/1:2; take; take; take; done 1/b; take", "1/a/1:0 1/b/1:1 none 1/c/1:2");
    }

    #[test]
    fn what_is_removed_never_runs() {
        check("2/mix/1:0; 2/mix/1:1; -2/mix/1:0; take; take", "-2/mix/1:0 2/mix/1:1 none");
        check("2/mix/1:0; take; -2/mix/1:0; -3/mix/1:0; -2/bake/1:0; -2/mix/2:0", "2/mix/1:0 gone gone gone gone");
    }

    #[test]
    fn what_is_over_leaves_nothing_behind() {
        let mut queue = queue();
        for execution in 0..100 {
            let lane = Lane::new(HubKey(1), &format!("function-{execution}"));
            queue.push(&lane, ExecutionKey(execution), TaskId(0), ());
            if execution % 2 == 0 {
                assert!(queue.remove(&lane, ExecutionKey(execution), TaskId(0)).is_some());
            } else {
                assert!(queue.take().is_some_and(|(taken, ())| taken == lane));
                queue.done(&lane);
            }
        }
        assert!(queue.take().is_none() && queue.running == 0 && queue.hubs.members.is_empty());
    }

    /// A step of a random life: which of few hubs, functions and executions.
    #[derive(Debug, Clone)]
    enum Step {
        Push(u32, usize, i64),
        Take,
        /// Ends the one of those running at this place, modulo their number.
        Done(usize),
        /// Removes the one of those waiting at this place, modulo their number.
        Remove(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1_u32..3, 0_usize..3, 0_i64..4).prop_map(|(hub, function, execution)| Step::Push(hub, function, execution)),
            4 => Just(Step::Take),
            3 => any::<usize>().prop_map(Step::Done),
            1 => any::<usize>().prop_map(Step::Remove),
        ]
    }

    const FUNCTIONS: [&str; 3] = ["slow", "mix", "bake"];

    /// What the queue has to do, as slow as it likes.
    #[derive(Default)]
    struct Model {
        waiting: Vec<Item>,
        running: Vec<Item>,
        /// Of each execution and function: which others have waited since its last turn without a turn of their own.
        passed: HashMap<(u32, usize, i64), BTreeSet<i64>>,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Item {
        hub: u32,
        function: usize,
        execution: i64,
        task: u32,
    }

    impl Item {
        fn lane(&self) -> Lane {
            Lane::new(HubKey(self.hub), FUNCTIONS[self.function])
        }
    }

    impl Model {
        fn may_run(&self, item: &Item) -> bool {
            let of_hub = self.running.iter().filter(|other| other.hub == item.hub);
            let of_function = of_hub.clone().filter(|other| other.function == item.function);
            self.running.len() < 3 && (item.hub != 1 || of_hub.count() < 2 && (item.function != 0 || of_function.count() < 1))
        }

        /// Takes note that `item` was taken, which must be in order.
        fn take(&mut self, item: Item) {
            let at = self.waiting.iter().position(|waiting| *waiting == item).expect("what is taken was waiting");
            assert!(self.may_run(&item), "{item:?} beside {:?}", self.running);
            let first = self.waiting.iter().filter(|other| Item { task: 0, ..**other } == Item { task: 0, ..item });
            assert_eq!(first.map(|other| other.task).min(), Some(item.task), "an execution's work runs in its order");
            self.waiting.remove(at);
            self.running.push(item);

            let Item { hub, function, execution, .. } = item;
            let passed = self.passed.remove(&(hub, function, execution)).unwrap_or_default();
            assert!(passed.is_empty(), "{item:?} has two turns, and {passed:?} none between them");
            for ((other_hub, other_function, _), passed) in &mut self.passed {
                if (*other_hub, *other_function) == (hub, function) {
                    passed.remove(&execution);
                }
            }
            let others = self.waiting.iter().filter(|other| (other.hub, other.function) == (hub, function));
            let others = others.map(|other| other.execution).filter(|other| *other != execution).collect();
            self.passed.insert((hub, function, execution), others);
        }

        fn remove(&mut self, item: Item) {
            self.waiting.retain(|waiting| *waiting != item);
            let is_waiting = |execution| {
                let same = |other: &Item| (other.hub, other.function, other.execution) == (item.hub, item.function, execution);
                self.waiting.iter().any(same)
            };
            if !is_waiting(item.execution) {
                for ((hub, function, _), passed) in &mut self.passed {
                    if (*hub, *function) == (item.hub, item.function) {
                        passed.remove(&item.execution);
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn nothing_is_lost_no_bound_is_passed_and_everybody_has_a_turn(steps in prop::collection::vec(step(), 1..200)) {
            let mut queue = queue();
            let mut model = Model::default();
            let mut next_task = 0;
            for step in steps {
                match step {
                    Step::Push(hub, function, execution) => {
                        let item = Item { hub, function, execution, task: next_task };
                        next_task += 1;
                        queue.push(&item.lane(), ExecutionKey(execution), TaskId(item.task), item);
                        model.waiting.push(item);
                    }
                    Step::Take => match queue.take() {
                        Some((lane, item)) => {
                            prop_assert_eq!(lane, item.lane());
                            model.take(item);
                        }
                        None => prop_assert!(!model.waiting.iter().any(|item| model.may_run(item)), "something could run"),
                    },
                    Step::Done(at) if !model.running.is_empty() => {
                        let item = model.running.remove(at % model.running.len());
                        queue.done(&item.lane());
                    }
                    Step::Remove(at) if !model.waiting.is_empty() => {
                        let item = model.waiting[at % model.waiting.len()];
                        prop_assert_eq!(queue.remove(&item.lane(), ExecutionKey(item.execution), TaskId(item.task)), Some(item));
                        model.remove(item);
                    }
                    Step::Done(_) | Step::Remove(_) => (),
                }
            }
            // All that is left gets to run.
            while !model.waiting.is_empty() || !model.running.is_empty() {
                match queue.take() {
                    Some((_, item)) => model.take(item),
                    None => queue.done(&model.running.pop().expect("if nothing can be taken, something runs").lane()),
                }
            }
            prop_assert!(queue.hubs.members.is_empty());
        }
    }
}
