//! Which job goes first, and on how many threads?

use std::sync::mpsc;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

fn module(number: u8) -> HubModule {
    HubModule { hub: HubKey(1), module: Digest([number; 32]) }
}

fn pool(threads_kept: usize, threads_max: usize) -> TurnPool {
    TurnPool::new(threads_kept, threads_max, 0, Backlog::new(usize::MAX))
}

#[test]
fn what_has_begun_goes_first_and_new_instances_wait_while_much_waits() {
    let (module, backlog) = (module(1), Backlog::new(10));
    let pool = TurnPool::new(1, 1, 0, backlog.clone());
    let (release, held) = mpsc::channel::<()>();
    let (done, finished) = mpsc::channel();
    pool.submit_other(move || held.recv().unwrap());
    let much = backlog.holding(20);
    let says = |what: &'static str| {
        let done = done.clone();
        move || done.send(what).unwrap()
    };
    pool.submit_beginning(module, says("beginning"));
    pool.submit(module, says("turn"));
    pool.submit_other(says("other"));
    release.send(()).unwrap();
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("other"));
    assert_eq!((pool.queued(), pool.beginnings_queued(), finished.try_recv().ok()), (1, 1, None), "so much waits");
    drop(much);
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("turn"));
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("beginning"));
}

#[test]
fn modules_take_turns_to_begin() {
    let (flood, other) = (module(1), module(2));
    let pool = pool(1, 1);
    let (release, held) = mpsc::channel::<()>();
    let (done, finished) = mpsc::channel();
    pool.submit_other(move || held.recv().unwrap());
    for module in [flood, flood, flood, other] {
        let done = done.clone();
        pool.submit_beginning(module, move || done.send(module).unwrap());
    }
    assert_eq!((pool.queued_of(flood), pool.queued_of(other), pool.beginnings_queued()), (3, 1, 4));
    release.send(()).unwrap();
    let begun: Vec<HubModule> = (0..4).map(|_| finished.recv_timeout(DEADLINE).unwrap()).collect();
    assert_eq!(begun, [flood, other, flood, flood]);
    assert_eq!((pool.queued_of(flood), pool.beginnings_queued()), (0, 0));
}

#[test]
fn activities_that_compute_leave_threads_to_turns() {
    let pool = TurnPool::new(1, 1, 1, Backlog::new(usize::MAX));
    let begin = pool.for_activities();
    let (release, held) = mpsc::channel::<()>();
    let (done, finished) = mpsc::channel();
    let says = |what: &'static str| {
        let done = done.clone();
        move || done.send(what).unwrap()
    };
    let ends = says("first activity");
    begin(Box::new(move || {
        held.recv().unwrap();
        ends();
    }));
    begin(Box::new(says("second activity")));
    pool.submit(module(1), says("turn"));
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("turn"));
    release.send(()).unwrap();
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("first activity"));
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("second activity"));
}

#[test]
fn a_long_line_of_activities_holds_instances_back_while_it_moves() {
    let backlog = Backlog::new(usize::MAX);
    let mut queue = Queue { begun: Some(Instant::now() + DEADLINE), ..Queue::default() };
    assert!(!queue.is_better_outside(&backlog), "nothing is in line");
    backlog.line(LINE_MAX, 7);
    assert!(queue.is_better_outside(&backlog), "it is not known yet whether it moves");
    queue.line.as_mut().unwrap().at -= LOOK_AT_LINE;
    assert!(!queue.is_better_outside(&backlog), "it stands, and may do so for hours");
    queue.line.as_mut().unwrap().at -= LOOK_AT_LINE;
    backlog.line(LINE_MAX, 7 + LINE_MAX as u64);
    assert!(queue.is_better_outside(&backlog), "it is soon short again");
}

#[test]
fn instances_begin_slowly_while_the_line_of_activities_is_long_and_moves() {
    let (module, backlog) = (module(1), Backlog::new(usize::MAX));
    let pool = TurnPool::new(1, 1, 0, backlog.clone());
    backlog.line(LINE_MAX, 0);
    let (done, finished) = mpsc::channel();
    for _ in 0..4 {
        let done = done.clone();
        pool.submit_beginning(module, move || done.send(Instant::now()).unwrap());
    }
    let begun: Vec<Instant> = (0..4).map(|_| finished.recv_timeout(DEADLINE).unwrap()).collect();
    assert!(begun[3] - begun[0] >= 2 * BEGIN_EVERY, "they begin one by one");
}

#[test]
fn the_pool_grows_when_all_its_threads_are_busy() {
    let pool = pool(1, 3);
    let (release, held) = mpsc::channel::<()>();
    let (done, finished) = mpsc::channel();
    pool.submit_other(move || held.recv().unwrap());
    pool.submit_other(move || done.send("past the one that waits").unwrap());
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("past the one that waits"));
    release.send(()).unwrap();
}

#[test]
fn what_waits_already_when_a_module_comes_under_suspicion_waits_in_line() {
    let (suspect, honest) = (module(1), module(2));
    let pool = pool(1, 2);
    let (release, held) = mpsc::channel::<()>();
    let (done, finished) = mpsc::channel();
    // The only thread is busy, so that all of this waits.
    pool.submit_other(move || held.recv().unwrap());
    let (block, blocked) = mpsc::channel::<()>();
    let first = done.clone();
    pool.submit(suspect, move || {
        blocked.recv().unwrap();
        first.send("suspect 1").unwrap();
    });
    let second = done.clone();
    pool.submit(suspect, move || second.send("suspect 2").unwrap());
    pool.suspect(suspect);
    assert!(pool.queued() >= 1);
    pool.submit(honest, move || done.send("honest").unwrap());
    release.send(()).unwrap();
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("honest"));
    block.send(()).unwrap();
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("suspect 1"));
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("suspect 2"));
}

#[test]
fn a_module_whose_turns_compute_for_long_leaves_threads_to_others() {
    let (hog, other) = (module(1), module(2));
    let pool = pool(1, 2 * LONG_ONE_IN);
    let (done, finished) = mpsc::channel();
    let hold = |what: &'static str| {
        let (release, held) = mpsc::channel::<()>();
        let done = done.clone();
        pool.submit(hog, move || {
            priority::has_computed(Duration::from_secs(1));
            done.send("computes").unwrap();
            held.recv().unwrap();
            done.send(what).unwrap();
        });
        release
    };
    let first = hold("first");
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("computes"));
    let second = hold("second");
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("computes"));
    let third = hold("third");
    let past = done.clone();
    pool.submit(other, move || past.send("past them").unwrap());
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("past them"));
    let begins = done.clone();
    pool.submit_beginning(hog, move || begins.send("begins").unwrap());
    let past = done.clone();
    pool.submit_beginning(HubModule { hub: HubKey(2), ..hog }, move || past.send("in another hub").unwrap());
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("in another hub"));
    assert_eq!((pool.queued(), pool.queued_of(hog), pool.queued_behind_others()), (0, 2, 1), "they wait for one of the two");
    first.send(()).unwrap();
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("first"));
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("computes"), "the third, before what has not begun");
    second.send(()).unwrap();
    third.send(()).unwrap();
    let mut rest = [0; 3].map(|_| finished.recv_timeout(DEADLINE).unwrap());
    rest.sort_unstable();
    assert_eq!(rest, ["begins", "second", "third"]);
}

#[test]
fn what_may_take_the_server_down_runs_alone_and_others_go_past_it() {
    let (one, other) = (module(1), module(2));
    let pool = pool(2, 4);
    let (release, held) = mpsc::channel::<()>();
    let (done, finished) = mpsc::channel();
    let first = done.clone();
    pool.submit_alone(one, move || {
        held.recv().unwrap();
        first.send("alone 1").unwrap();
    });
    let second = done.clone();
    pool.submit_alone(other, move || second.send("alone 2").unwrap());
    pool.submit(one, move || done.send("past them").unwrap());
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("past them"));
    release.send(()).unwrap();
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("alone 1"));
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("alone 2"));
}

#[test]
fn a_suspected_module_runs_one_job_at_a_time_and_others_go_past_it() {
    let (suspect, honest) = (module(1), module(2));
    let pool = pool(2, 4);
    pool.suspect(suspect);
    let (release, held) = mpsc::channel::<()>();
    let (done, finished) = mpsc::channel();
    let first = done.clone();
    pool.submit(suspect, move || {
        held.recv().unwrap();
        first.send("suspect 1").unwrap();
    });
    let second = done.clone();
    pool.submit(suspect, move || second.send("suspect 2").unwrap());
    pool.submit(honest, move || done.send("honest").unwrap());
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("honest"));
    release.send(()).unwrap();
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("suspect 1"));
    assert_eq!(finished.recv_timeout(DEADLINE), Ok("suspect 2"));
}
