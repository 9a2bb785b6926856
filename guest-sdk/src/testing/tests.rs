//! One test for each thing that a scenario can say, and one for each message of a panic.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::prelude::*;

const HOUR: Duration = Duration::from_hours(1);

#[activity(name = "Weigh")]
async fn weigh(loaf: String) -> Result<usize> {
    Ok(loaf.len())
}

/// Weighs loaves one after the other until one weighs nothing.
#[orchestrator]
async fn weigh_all(ctx: Context, loaves: Vec<String>) -> Result<Vec<usize>> {
    let mut weights = Vec::new();
    for loaf in loaves {
        ctx.set_custom_status(&loaf)?;
        match ctx.call(weigh, loaf).await? {
            0 => return Err(Error::new("OvenCold", "a loaf weighs nothing")),
            weight => weights.push(weight),
        }
    }
    Ok(weights)
}

fn loaves() -> Vec<String> {
    vec!["rye".to_owned(), "wheat".to_owned()]
}

/// Waits up to two hours for each of two events.
#[orchestrator]
async fn collect(ctx: Context) -> Result<Vec<u32>> {
    let mut items = Vec::new();
    for _ in 0..2 {
        match ctx.timeout(2 * HOUR, ctx.event("item")).await {
            Ok(item) => items.push(item?),
            Err(_timeout) => items.push(0),
        }
    }
    Ok(items)
}

/// The message with which `run` panics.
#[track_caller]
fn panic_of<T>(run: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(run()))) else { panic!("it did not panic") };
    panic.downcast::<String>().map_or_else(|panic| (*panic.downcast::<&str>().unwrap()).to_owned(), |message| *message)
}

#[test]
fn a_mock_answers_by_the_types_of_its_activity() {
    let run = scenario(weigh_all, loaves()).activity(weigh, |loaf| Ok(loaf.len() * 100)).run();
    assert_eq!(run.output().unwrap(), &[300, 500]);
    assert_eq!(run.calls(), ["Weigh(\"rye\")", "Weigh(\"wheat\")"]);
    assert_eq!(run.elapsed(), Duration::ZERO);
}

#[test]
fn a_mock_by_name_answers_in_whatever_case() {
    let run = scenario(weigh_all, loaves()).activity_named("weigh", |loaf: String| Ok(loaf.len())).run();
    assert_eq!(run.output().unwrap(), &[3, 5]);
}

#[test]
fn a_real_activity_runs() {
    #[activity]
    async fn who_am_i(context: ActivityContext) -> Result<(String, u32, String)> {
        Ok((context.instance_id, context.task, context.idempotency_key))
    }
    #[orchestrator]
    async fn ask(ctx: Context) -> Result<(String, u32, String)> {
        ctx.call(weigh, "rye").await?;
        ctx.call(who_am_i, ()).await
    }
    let run = scenario(ask, ()).real(weigh).real(who_am_i).run();
    let expected = ("test".to_owned(), 1, "0123456789abcdef0123456789abcdef:1".to_owned());
    assert_eq!(run.output().unwrap(), &expected);
}

#[test]
fn a_mock_may_fail_at_first() {
    #[orchestrator]
    async fn try_again(ctx: Context) -> Result<u32> {
        let mut failures = 0;
        while let Err(error) = ctx.call(weigh, "rye").await {
            assert_eq!(error.kind(), "OvenCold");
            failures += 1;
        }
        Ok(failures)
    }
    let mut calls = 0;
    let twice_cold = move |_| {
        calls += 1;
        if calls <= 2 { Err(Error::new("OvenCold", "the oven is cold")) } else { Ok(3) }
    };
    let run = scenario(try_again, ()).activity(weigh, twice_cold).run();
    assert_eq!((run.output().unwrap(), run.calls().len()), (&2, 3));
}

#[test]
fn an_error_of_the_orchestrator_comes_out() {
    let run = scenario(weigh_all, loaves()).activity(weigh, |_| Ok(0)).run();
    assert_eq!(run.output().unwrap_err().to_string(), "OvenCold: a loaf weighs nothing");
}

#[test]
fn an_activity_takes_virtual_time() {
    let run = scenario(weigh_all, loaves()).real(weigh).takes(HOUR).run();
    assert_eq!(run.elapsed(), 2 * HOUR);
}

#[test]
fn the_fastest_activity_wins_a_race() {
    #[activity]
    async fn guess(loaf: String) -> Result<usize> {
        Ok(loaf.len() + 1)
    }
    #[orchestrator]
    async fn race(ctx: Context) -> Result<usize> {
        futures::future::select(ctx.call(weigh, "rye"), ctx.call(guess, "rye")).await.factor_first().0
    }
    let race = || scenario(race, ()).real(weigh).takes(HOUR).real(guess);
    let run = race().takes(2 * HOUR).run();
    assert_eq!((run.output().unwrap(), run.elapsed()), (&3, HOUR));
    let run = race().takes(Duration::from_millis(1)).run();
    assert_eq!((run.output().unwrap(), run.elapsed()), (&4, Duration::from_millis(1)));
}

#[test]
fn events_come_at_their_time_and_timers_fire_at_theirs() {
    let run = scenario(collect, ()).event_at(HOUR, "Item", &7).run();
    assert_eq!(run.output().unwrap(), &[7, 0]);
    assert_eq!(run.elapsed(), 3 * HOUR);
    assert_eq!(run.asked(), ["event item", "timer 7200s", "cancel timer 7200s", "event item", "timer 10800s"]);
}

#[test]
fn events_of_the_same_time_come_in_the_order_of_the_script() {
    let run = scenario(collect, ()).event_at(HOUR, "item", &1).event_at(Duration::ZERO, "item", &2).run();
    assert_eq!(run.output().unwrap(), &[2, 1]);
    let run = scenario(collect, ()).event_at(HOUR, "item", &1).event_at(HOUR, "item", &2).run();
    assert_eq!((run.output().unwrap(), run.elapsed()), (&vec![1, 2], HOUR));
}

#[test]
fn events_that_come_before_they_are_waited_for_keep_the_order_of_their_times() {
    #[orchestrator]
    async fn collect_late(ctx: Context) -> Result<(u32, u32)> {
        ctx.sleep(3 * HOUR).await?;
        Ok((ctx.event("item").await?, ctx.event("item").await?))
    }
    let run = scenario(collect_late, ()).event_at(2 * HOUR, "item", &1).event_at(HOUR, "item", &2).run();
    assert_eq!(run.output().unwrap(), &(2, 1));
}

#[test]
fn a_mock_may_write_down_what_it_sees() {
    let mut seen = Vec::new();
    let run = scenario(weigh_all, loaves())
        .activity(weigh, |loaf| {
            seen.push(loaf);
            Ok(1)
        })
        .run();
    assert!(run.output().is_ok());
    assert_eq!(seen, loaves());
}

#[test]
fn a_sleep_of_any_length_ends() {
    #[orchestrator]
    async fn sleep(ctx: Context) -> Result<()> {
        ctx.sleep(Duration::MAX).await
    }
    let run = scenario(sleep, ()).run();
    assert!(run.output().is_ok());
    assert!(run.elapsed() > Duration::from_hours(24 * 365 * 100_000_000));
}

#[test]
fn the_last_custom_status_stays() {
    let run = scenario(weigh_all, loaves()).real(weigh).run();
    assert_eq!(run.custom_status::<String>().as_deref(), Some("wheat"));
    let run = scenario(weigh_all, vec![]).run();
    assert_eq!(run.custom_status::<String>(), None);
}

#[test]
fn what_a_context_says_of_the_instance_can_be_set() {
    #[orchestrator]
    async fn describe(ctx: Context) -> Result<String> {
        let tags: Vec<_> = ctx.tags().collect();
        let now = ctx.now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(format!("{} {:?} {tags:?} {now:?}", ctx.instance_id(), ctx.parent()))
    }
    let run = scenario(describe, ()).run();
    assert_eq!(run.output().unwrap(), "test None [] 1893456000s");
    let at = SystemTime::UNIX_EPOCH + HOUR;
    let run = scenario(describe, ()).instance_id("loaf").parent("oven").tag("b", "2").tag("a", "1").starts_at(at).run();
    assert_eq!(run.output().unwrap(), "loaf Some(\"oven\") [(\"a\", \"1\"), (\"b\", \"2\")] 3600s");
}

#[test]
fn what_was_asked_for_at_the_very_end_is_told_but_does_not_run() {
    #[orchestrator]
    async fn leave(ctx: Context) -> Result<()> {
        drop(ctx.call(weigh, "rye"));
        Ok(())
    }
    assert_eq!(scenario(leave, ()).run().calls(), ["Weigh(\"rye\")"]);
}

#[test]
fn what_the_same_turn_cancels_neither_runs_nor_counts() {
    #[orchestrator]
    async fn change_mind(ctx: Context) -> Result<()> {
        drop((ctx.call(weigh, "rye"), ctx.sleep(HOUR)));
        ctx.call_named("weigh", &"wheat").await
    }
    let mut weighed = Vec::new();
    let weigh = |loaf: String| {
        weighed.push(loaf);
        Ok(())
    };
    let run = scenario(change_mind, ()).activity_named("weigh", weigh).run();
    assert_eq!(run.calls(), ["weigh(\"wheat\")"]);
    assert_eq!(run.asked(), ["Weigh(\"rye\")", "timer 3600s", "cancel Weigh(\"rye\")", "cancel timer 3600s", "weigh(\"wheat\")"]);
    assert_eq!(run.elapsed(), Duration::ZERO);
    drop(run);
    assert_eq!(weighed, ["wheat"]);
}

#[test]
fn what_the_same_turn_cancels_needs_no_mock() {
    #[orchestrator]
    async fn change_mind(ctx: Context) -> Result<()> {
        drop(ctx.call(weigh, "rye"));
        ctx.sleep(HOUR).await
    }
    let run = scenario(change_mind, ()).run();
    assert_eq!((run.calls().len(), run.elapsed()), (0, HOUR));
}

#[test]
fn an_activity_that_nothing_answers_is_named() {
    let expected = "orchestrator weigh_all calls activity Weigh(\"rye\"), which this test does not answer. \
                    Mock it by `.activity(function, |input| …)`, or by `.activity_named(\"Weigh\", |input| …)` if another module \
                    has it, or run the function itself by `.real(function)`";
    assert_eq!(panic_of(|| scenario(weigh_all, loaves()).run()), expected);
}

#[test]
fn a_mock_by_name_that_cannot_read_its_input_says_so() {
    let expected = "activity Weigh is called with \"rye\", which its mock cannot read as u32: \
                    invalid type: string \"rye\", expected u32 at line 1 column 5";
    let run = || scenario(weigh_all, loaves()).activity_named("Weigh", |_: u32| Ok(1)).run();
    assert_eq!(panic_of(run), expected);
}

#[test]
fn a_duration_without_an_activity_says_where_it_belongs() {
    let expected = "`takes` follows what it is about, an activity or a mock: `.activity(…).takes(…)`";
    assert_eq!(panic_of(|| scenario(weigh_all, loaves()).takes(HOUR)), expected);
}

#[test]
fn what_has_no_form_in_json_is_named() {
    #[orchestrator]
    async fn count(_ctx: Context, input: HashMap<(), u32>) -> Result<usize> {
        Ok(input.len())
    }
    let map = HashMap::from([((), 1)]);
    assert_eq!(
        panic_of(|| scenario(collect, ()).event_at(HOUR, "item", &map)),
        "the event item has no form in JSON: key must be a string"
    );
    assert_eq!(panic_of(|| scenario(count, map)), "the input has no form in JSON: key must be a string");
}

#[test]
fn events_that_never_come_are_listed() {
    #[orchestrator]
    async fn both(ctx: Context) -> Result<(u32, u32)> {
        let (left, right) = (ctx.event("left"), ctx.event("right"));
        let _: u32 = ctx.event("first").await?;
        Ok((left.await?, right.await?))
    }
    let scenario = scenario(both, ()).event_at(HOUR, "first", &1).event_at(HOUR, "left", &2);
    let expected = "orchestrator both waits for what never comes: event right. Raise events by `.event_at(after, name, &data)`";
    assert_eq!(panic_of(|| scenario.run()), expected);
}

#[test]
fn a_wait_for_nothing_that_was_asked_for_is_told() {
    #[orchestrator]
    async fn pend(_ctx: Context) -> Result<()> {
        std::future::pending().await
    }
    let expected = "orchestrator pend waits, but for nothing that it asked its context for: whatever it awaits, such as a \
                    channel whose sender is gone or waits itself, can never wake it";
    assert_eq!(panic_of(|| scenario(pend, ()).run()), expected);
}

#[test]
fn an_orchestrator_without_end_is_stopped() {
    #[orchestrator]
    async fn tick(ctx: Context) -> Result<()> {
        loop {
            ctx.sleep(HOUR).await?;
        }
    }
    let expected = "orchestrator tick has not ended after 100000 turns, at 359996400s after its start. \
                    Last it asked for: timer 360000000s. If it is to run for ever, stop the test by `.until(duration)`";
    assert_eq!(panic_of(|| scenario(tick, ()).run()), expected);
}

#[test]
fn an_orchestrator_that_always_wakes_itself_is_stopped() {
    #[orchestrator]
    async fn spin(_ctx: Context) -> Result<()> {
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await
    }
    let expected = "orchestrator spin has not come to wait after 1000000 polls: something in it wakes itself again and again, \
                    such as `loop { yield_now().await }`. Await something that was asked of its context, such as `ctx.sleep(…)`";
    assert_eq!(panic_of(|| scenario(spin, ()).run()), expected);
}

/// Weighs a loaf every hour, and for each event.
#[orchestrator]
async fn keep_weighing(ctx: Context) -> Result<()> {
    loop {
        if let Ok(loaf) = ctx.timeout(HOUR, ctx.event::<String>("loaf")).await {
            ctx.set_custom_status(&loaf?)?;
        }
        ctx.call(weigh, "rye").await?;
    }
}

#[test]
fn a_run_may_stop_before_the_end() {
    let run = scenario(keep_weighing, ()).real(weigh).event_at(HOUR / 2, "loaf", "wheat").until(3 * HOUR).run();
    assert_eq!((run.ended(), run.calls().len(), run.elapsed()), (false, 3, 3 * HOUR));
    assert_eq!(run.custom_status::<String>().as_deref(), Some("wheat"));
    let expected = "the orchestrator had not ended 10800s after its start, where `.until(…)` stopped it: let it run longer";
    assert_eq!(panic_of(|| run.output().is_ok()), expected);
}

#[test]
fn what_happens_at_the_moment_of_the_stop_still_counts() {
    let run = scenario(keep_weighing, ()).real(weigh).until(2 * HOUR).run();
    assert_eq!(run.calls().len(), 2);
    let run = scenario(keep_weighing, ()).real(weigh).until(2 * HOUR - Duration::from_millis(1)).run();
    assert_eq!(run.calls().len(), 1);
}

#[test]
fn a_run_that_ends_before_its_stop_has_its_output() {
    let run = scenario(collect, ()).event_at(HOUR, "item", &7).until(24 * HOUR).run();
    assert_eq!((run.ended(), run.output().unwrap(), run.elapsed()), (true, &vec![7, 0], 3 * HOUR));
}

#[test]
fn who_waits_for_events_at_the_stop_is_not_stuck() {
    #[orchestrator]
    async fn listen(ctx: Context) -> Result<()> {
        loop {
            let loaf: String = ctx.event("loaf").await?;
            ctx.call(weigh, loaf).await?;
        }
    }
    let run = scenario(listen, ()).real(weigh).event_at(HOUR, "loaf", "rye").until(2 * HOUR).run();
    assert_eq!((run.ended(), run.calls().len(), run.elapsed()), (false, 1, 2 * HOUR));
}

#[test]
fn a_custom_status_of_another_type_is_named() {
    let run = scenario(weigh_all, loaves()).real(weigh).run();
    let expected = "the custom status is \"wheat\", which cannot be read as u32: \
                    invalid type: string \"wheat\", expected u32 at line 1 column 7";
    assert_eq!(panic_of(|| run.custom_status::<u32>()), expected);
}

const ADVICE: &str = "Natively the usual cause is the real time, randomness, the order of a HashMap, or a `static` or other \
                      state that outlives the run. Use ctx.now() and ctx.new_uuid(), or let an activity do it.";

#[test]
fn a_replay_that_differs_shows_both_sides() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    #[orchestrator]
    async fn count(ctx: Context) -> Result<usize> {
        ctx.sleep(HOUR).await?;
        ctx.call(weigh, "x".repeat(RUNS.fetch_add(1, Ordering::Relaxed))).await
    }
    let expected = format!(
        "orchestrator count is not deterministic: the replay of turn 1 differs\n  first:  Weigh(\"\")\n  replay: Weigh(\"x\")\n{ADVICE}"
    );
    assert_eq!(panic_of(|| scenario(count, ()).real(weigh).run()), expected);
}

#[test]
fn a_replay_with_each_event_on_its_own_may_be_what_differs() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    #[orchestrator]
    async fn third_time(_ctx: Context) -> Result<bool> {
        Ok(RUNS.fetch_add(1, Ordering::Relaxed) == 2)
    }
    let expected = format!(
        "orchestrator third_time is not deterministic: the replay of turn 0, with each event in a call of its own differs\n  \
         first:  returned false\n  replay: returned true\n{ADVICE}"
    );
    assert_eq!(panic_of(|| scenario(third_time, ()).run()), expected);
}

#[test]
fn a_replay_that_asks_for_nothing_says_so() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    #[orchestrator]
    async fn once(ctx: Context) -> Result<()> {
        if RUNS.fetch_add(1, Ordering::Relaxed) == 0 {
            ctx.set_custom_status("first")?;
            bail!("the oven is cold");
        }
        std::future::pending().await
    }
    let expected = format!(
        "orchestrator once is not deterministic: the replay of turn 0 differs\n  \
         first:  custom status \"first\", failed with Error: the oven is cold\n  replay: nothing\n{ADVICE}"
    );
    assert_eq!(panic_of(|| scenario(once, ()).run()), expected);
}
