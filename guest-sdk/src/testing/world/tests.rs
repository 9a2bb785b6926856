//! What surrounds an orchestrator in a scenario: children, other instances, HTTP, executions that follow, questions.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::prelude::*;
use crate::testing::scenario;
use crate::{ActivityOptions, ChildOptions, ContinueOptions, StartOptions};

const HOUR: Duration = Duration::from_hours(1);

#[activity]
async fn weigh(loaf: String) -> Result<usize> {
    Ok(loaf.len())
}

/// Weighs a loaf, after the flour has come.
#[orchestrator(name = "Bake")]
async fn bake(ctx: Context, loaf: String) -> Result<usize> {
    let sacks: usize = ctx.event("flour").await?;
    Ok(ctx.call(weigh, loaf).await? * sacks)
}

#[orchestrator]
async fn bake_two(ctx: Context) -> Result<(usize, usize)> {
    let rye = ctx.call_with(bake, "rye", ChildOptions::new().instance_id("rye").tag("grain", "rye"));
    let wheat = ctx.call(bake, "wheat");
    ctx.sleep(HOUR).await?;
    ctx.send_event("rye", "Flour", &2)?;
    ctx.send_event("test:0001", "flour", &1)?;
    ctx.send_event("0123456789abcdef0123456789abcdef:0001", "flour", &3)?;
    Ok((rye.await?, wheat.await?))
}

#[track_caller]
fn panic_of<T>(run: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(run()))) else { panic!("it did not panic") };
    panic.downcast::<String>().map_or_else(|panic| (*panic.downcast::<&str>().unwrap()).to_owned(), |message| *message)
}

#[test]
fn a_child_may_be_a_mock_that_takes_time() {
    let run = scenario(bake_two, ()).orchestrator(bake, |loaf| Ok(loaf.len() * 10)).takes(2 * HOUR).run();
    assert_eq!((run.output().unwrap(), run.elapsed()), (&(30, 50), 2 * HOUR));
    assert_eq!(run.calls(), ["Bake(\"rye\")", "Bake(\"wheat\")"]);
    let run = scenario(bake_two, ()).orchestrator_named("bake", |loaf: String| Ok(loaf.len())).run();
    assert_eq!((run.output().unwrap(), run.elapsed()), (&(3, 5), HOUR));
}

#[test]
fn children_run_in_the_same_scenario_and_get_events() {
    let run = scenario(bake_two, ()).real(bake).real(weigh).takes(HOUR).run();
    assert_eq!((run.output().unwrap(), run.elapsed()), (&(6, 15), 2 * HOUR));
    assert_eq!(run.calls(), ["Bake(\"rye\")", "Bake(\"wheat\")", "weigh(\"rye\")", "weigh(\"wheat\")"]);
    let sent = ["Flour to rye: 2", "flour to test:0001: 1", "flour to 0123456789abcdef0123456789abcdef:0001: 3"];
    assert_eq!(run.sent(), sent);
    assert_eq!(run.asked()[3], "send Flour to rye: 2");
}

#[test]
fn a_child_knows_who_waits_for_it_and_its_tags() {
    #[orchestrator]
    async fn who(ctx: Context) -> Result<String> {
        let tags: Vec<_> = ctx.tags().collect();
        Ok(format!("{} of {:?} {tags:?}", ctx.instance_id(), ctx.parent()))
    }
    #[orchestrator]
    async fn ask(ctx: Context) -> Result<String> {
        ctx.call_with(who, (), ChildOptions::new().instance_id("child").tag("b", "2").tag("a", "1")).await
    }
    let run = scenario(ask, ()).real(who).run();
    assert_eq!(run.output().unwrap(), "child of Some(\"test\") [(\"a\", \"1\"), (\"b\", \"2\")]");
}

#[test]
fn a_failure_comes_from_the_activity_through_the_child_with_all_it_says() {
    #[activity]
    async fn heat() -> Result<()> {
        let cause = Error::new("NoGas", "the gas is off").with_details(&7);
        Err(Error::new("Cold", "the oven is cold").with_details(&20).non_retriable().caused_by(cause))
    }
    #[orchestrator]
    async fn child(ctx: Context) -> Result<()> {
        ctx.call(heat, ()).await
    }
    #[orchestrator]
    async fn parent(ctx: Context) -> Result<()> {
        let thrice = RetryPolicy::new(HOUR, 3);
        ctx.call_with(child, (), thrice).await
    }
    let run = scenario(parent, ()).real(child).real(heat).run();
    let error = run.output().unwrap_err();
    assert_eq!((error.to_string().as_str(), error.details::<u32>()), ("Cold: the oven is cold", Some(20)));
    assert!(error.is_non_retriable());
    assert_eq!(error.causes().collect::<Vec<_>>(), [("NoGas", "the gas is off")]);
    assert_eq!(run.calls(), ["child(null)", "heat(null)"]);
}

#[test]
fn a_child_whose_id_is_alive_fails() {
    #[orchestrator]
    async fn twins(ctx: Context) -> Result<usize> {
        let first = ctx.call_with(bake, "rye", ChildOptions::new().instance_id("loaf"));
        let second = ctx.call_with(bake, "wheat", ChildOptions::new().instance_id("loaf"));
        let error = second.await.unwrap_err();
        assert_eq!(error.to_string(), "InstanceExists: an instance with the ID \"loaf\" is alive");
        ctx.send_event("loaf", "flour", &1)?;
        first.await
    }
    let run = scenario(twins, ()).real(bake).real(weigh).run();
    assert_eq!(run.output().unwrap(), &3);
}

#[test]
fn a_child_that_nobody_waits_for_any_more_runs_on_alone() {
    #[orchestrator]
    async fn impatient(ctx: Context) -> Result<()> {
        let baked = ctx.timeout(HOUR, ctx.call_with(bake, "rye", ChildOptions::new().instance_id("loaf"))).await;
        assert!(baked.is_err());
        ctx.send_event("loaf", "flour", &1)?;
        ctx.sleep(HOUR).await
    }
    let run = scenario(impatient, ()).real(bake).real(weigh).run();
    assert_eq!(run.calls(), ["Bake(\"rye\")", "weigh(\"rye\")"]);
    assert_eq!(run.elapsed(), 2 * HOUR);
}

/// Starts a baker who answers, and two whom nobody knows.
#[orchestrator]
async fn open_shop(ctx: Context) -> Result<usize> {
    let at = ctx.now() + HOUR;
    let id = ctx.start_with(bake_and_tell, ctx.instance_id().to_owned(), StartOptions::new().instance_id("baker").at(at))?;
    ctx.start_named("Sweep", &7)?;
    let grams = ctx.event("baked").await?;
    assert_eq!(id, "baker");
    Ok(grams)
}

#[orchestrator]
async fn bake_and_tell(ctx: Context, whom: String) -> Result<()> {
    assert_eq!(ctx.parent(), None);
    let grams = ctx.call(weigh, "rye").await?;
    ctx.send_event(&whom, "baked", &grams)
}

#[test]
fn what_is_started_runs_beside_if_it_is_real() {
    let run = scenario(open_shop, ()).real(bake_and_tell).real(weigh).run();
    assert_eq!((run.output().unwrap(), run.elapsed()), (&3, HOUR));
    let started = ["bake_and_tell(\"test\") as baker", "Sweep(7) as 0123456789abcdef0123456789abcdef:0001"];
    assert_eq!(run.started(), started);
    assert_eq!(run.asked(), ["start bake_and_tell(\"test\")", "start Sweep(7)", "event baked"]);
}

#[test]
fn what_is_started_is_only_noted_if_it_is_not_real() {
    let run = scenario(open_shop, ()).event_at(HOUR, "baked", &5).run();
    assert_eq!((run.output().unwrap(), run.started().len()), (&5, 2));
}

#[test]
fn retries_wait_on_the_virtual_clock() {
    #[orchestrator]
    async fn patient(ctx: Context) -> Result<usize> {
        ctx.call_with(weigh, "rye", RetryPolicy::new(HOUR, 4).backoff_coefficient(2.0)).await
    }
    let failures = Cell::new(3);
    let cold = |loaf: String| match failures.replace(failures.get() - 1) {
        0 => Ok(loaf.len()),
        _ => bail!("the oven is cold"),
    };
    let run = scenario(patient, ()).activity(weigh, cold).run();
    assert_eq!((run.output().unwrap(), run.elapsed(), run.calls().len()), (&3, 7 * HOUR, 4));
    let run = scenario(patient, ()).activity(weigh, |_| bail!("the oven is cold")).run();
    assert_eq!((run.output().unwrap_err().message(), run.elapsed()), ("the oven is cold", 7 * HOUR));
}

#[test]
fn a_later_attempt_knows_its_number_its_key_and_how_far_the_one_before_came() {
    #[activity]
    async fn send_all(letters: usize, run: ActivityContext) -> Result<String> {
        let sent: usize = run.progress().unwrap_or(0);
        for number in sent + 1..=letters {
            run.heartbeat(&number)?;
            if number % 2 == 0 {
                bail!("the bag is full");
            }
        }
        Ok(format!("{} {}", run.attempt, run.idempotency_key))
    }
    #[orchestrator]
    async fn send(ctx: Context) -> Result<String> {
        ctx.call_with(send_all, 5_usize, RetryPolicy::new(HOUR, 9)).await
    }
    let run = scenario(send, ()).real(send_all).run();
    assert_eq!(run.output().unwrap(), "3 0123456789abcdef0123456789abcdef:0");
    assert_eq!(run.heartbeats(), ["send_all: 1", "send_all: 2", "send_all: 3", "send_all: 4", "send_all: 5"]);
}

#[test]
fn an_activity_that_takes_longer_than_its_timeout_fails() {
    #[orchestrator]
    async fn brief(ctx: Context) -> Result<usize> {
        ctx.call_with(weigh, "rye", ActivityOptions::new().timeout(HOUR)).await
    }
    let run = scenario(brief, ()).real(weigh).takes(2 * HOUR).run();
    assert_eq!(run.output().unwrap_err().to_string(), "Timeout: activity weigh was not done within 3600000 ms");
    assert_eq!(run.elapsed(), HOUR);
    assert_eq!(scenario(brief, ()).real(weigh).takes(HOUR).run().output().unwrap(), &3);
}

#[test]
fn a_request_that_takes_longer_than_its_timeout_fails_as_it_does_on_a_host() {
    #[orchestrator]
    async fn brief(ctx: Context) -> Result<u16> {
        Ok(ctx.http(HttpRequest::get("http://ship/?key=1").timeout(HOUR)).await?.status)
    }
    let run = scenario(brief, ()).http(|_| Ok(HttpResponse::new(200))).takes(2 * HOUR).run();
    assert_eq!(run.output().unwrap_err().to_string(), "HttpTimeout: the request to http://ship/ was not done within 3600000 ms");
}

#[test]
fn http_is_answered_by_its_mock() {
    #[orchestrator]
    async fn ship(ctx: Context) -> Result<u32> {
        let request = HttpRequest::post("http://ship/parcels").header("X-Key", "1").json("rye");
        ctx.http(request.retry(RetryPolicy::new(HOUR, 2))).await?.json()
    }
    let seen = RefCell::new(Vec::new());
    let run = scenario(ship, ())
        .http(|request| {
            seen.borrow_mut().push((request.headers.len(), request.body.clone()));
            match seen.borrow().len() {
                1 => bail!("nobody is there"),
                2 => Ok(HttpResponse::new(202).with_header("Location", "7").with_header("Retry-After", "1800")),
                _ => Ok(HttpResponse::new(200).with_body("42")),
            }
        })
        .takes(HOUR)
        .run();
    assert_eq!((run.output().unwrap(), run.elapsed()), (&42, 4 * HOUR + HOUR / 2));
    assert_eq!(run.requests(), ["POST http://ship/parcels", "POST http://ship/parcels", "GET http://ship/7"]);
    let body = Some("\"rye\"".to_owned());
    assert_eq!(*seen.borrow(), [(2, body.clone()), (2, body), (1, None)]);
}

#[test]
fn what_nothing_answers_is_named() {
    #[orchestrator]
    async fn ask(ctx: Context) -> Result<u16> {
        Ok(ctx.http(HttpRequest::get("http://ship/")).await?.status)
    }
    let expected = "orchestrator ask asks for GET http://ship/, which this test does not answer: do so by `.http(|request| …)`";
    assert_eq!(panic_of(|| scenario(ask, ()).run()), expected);
    let expected = "orchestrator bake_two calls orchestrator Bake(\"rye\"), which this test does not answer. Mock it by \
                    `.orchestrator(function, |input| …)`, or by `.orchestrator_named(\"Bake\", |input| …)` if another module \
                    has it, or run the function itself by `.real(function)`";
    assert_eq!(panic_of(|| scenario(bake_two, ()).run()), expected);
}

#[test]
fn what_a_child_waits_for_is_named() {
    #[orchestrator]
    async fn wait(ctx: Context) -> Result<usize> {
        ctx.call(bake, "rye").await
    }
    let expected = "orchestrator wait waits for what never comes: Bake(\"rye\"), which waits for event flour. \
                    Raise events by `.event_at(after, name, &data)`";
    assert_eq!(panic_of(|| scenario(wait, ()).real(bake).run()), expected);
}

/// Adds up events, two in each execution, until their sum is large enough.
#[orchestrator]
async fn add_up(ctx: Context, sum: u32) -> Result<u32> {
    ctx.set_custom_status(&sum)?;
    let base = Rc::new(Cell::new(sum));
    let seen = base.clone();
    ctx.on_query("sum", move |plus: u32| seen.get() + plus);
    for _ in 0..2 {
        base.set(base.get() + ctx.event::<u32>("item").await?);
    }
    if base.get() >= 100 {
        return Ok(base.get());
    }
    ctx.call(weigh, "rye").await?;
    ctx.continue_as_new(add_up, base.get())
}

#[test]
fn an_orchestration_that_continues_as_new_runs_on_with_its_unread_events() {
    let mut scenario = scenario(add_up, 0_u32).real(weigh).takes(HOUR);
    for item in 1..=5_u32 {
        scenario = scenario.event_at(HOUR, "item", &(item * 9));
    }
    let run = scenario.event_at(4 * HOUR, "item", &1).run();
    // 9 and 18, then 27 and 36, which had come with them, then 45 and 1.
    assert_eq!((run.output().unwrap(), run.elapsed()), (&136, 4 * HOUR));
    assert_eq!(run.continued(), ["27", "90"]);
    assert_eq!(run.custom_status::<u32>(), Some(90));
    assert_eq!(run.query::<u32>("Sum", &0).unwrap(), 136);
}

#[test]
fn events_may_be_left_behind() {
    #[orchestrator]
    async fn forget(ctx: Context, round: u32) -> Result<String> {
        let item: String = ctx.event("item").await?;
        if round == 1 {
            return Ok(item);
        }
        ctx.continue_as_new_with(forget, round + 1, ContinueOptions::new().drop_events())
    }
    let run = scenario(forget, 0_u32)
        .event_at(HOUR / 2, "other", "x")
        .event_at(HOUR, "item", "a")
        .event_at(2 * HOUR, "item", "b")
        .run();
    assert_eq!((run.output().unwrap().as_str(), run.elapsed()), ("b", 2 * HOUR));
}

#[test]
fn a_parent_waits_for_the_last_execution_of_its_child() {
    #[orchestrator]
    async fn count(ctx: Context, number: u32) -> Result<String> {
        ctx.sleep(HOUR).await?;
        if number == 3 { Ok(format!("{number} for {:?}", ctx.parent())) } else { ctx.continue_as_new(count, number + 1) }
    }
    #[orchestrator]
    async fn wait(ctx: Context) -> Result<String> {
        ctx.call(count, 1_u32).await
    }
    let run = scenario(wait, ()).real(count).run();
    assert_eq!((run.output().unwrap().as_str(), run.elapsed()), ("3 for Some(\"test\")", 3 * HOUR));
    assert_eq!(run.continued().len(), 0, "the orchestrator under test has not");
}

#[test]
fn an_orchestration_that_continues_for_ever_is_stopped() {
    #[orchestrator]
    async fn spin(ctx: Context, number: u32) -> Result<()> {
        ctx.continue_as_new(spin, number + 1)
    }
    let expected = "orchestrator spin has not ended after 100000 turns, at 0ns after its start. Last it asked for: nothing. \
                    If it is to run for ever, stop the test by `.until(duration)`";
    assert_eq!(panic_of(|| scenario(spin, 0_u32).run()), expected);
}

#[test]
fn a_later_execution_that_differs_in_its_replay_is_named() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    #[orchestrator]
    async fn third(ctx: Context, number: usize) -> Result<usize> {
        if number == 1 { Ok(RUNS.fetch_add(1, Ordering::Relaxed)) } else { ctx.continue_as_new(third, number + 1) }
    }
    let message = panic_of(|| scenario(third, 0_usize).run());
    let expected = "orchestrator third is not deterministic: the replay of turn 0 after continuing as new for time 1 differs\n  \
                    first:  returned 0\n  replay: returned 1\n";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn a_question_is_asked_at_the_time_of_the_stop() {
    let run = scenario(add_up, 7_u32).event_at(HOUR, "item", &10).until(2 * HOUR).run();
    assert!(!run.ended());
    assert_eq!(run.query::<u32>("sum", &100).unwrap(), 117);
    assert_eq!(run.query::<u32>("sum", "seven").unwrap_err().kind(), "InvalidInput");
    assert_eq!(run.query::<u32>("total", &0).unwrap_err().kind(), "UnknownQuery");
    let expected = "query sum is answered with 17, which cannot be read as alloc::string::String: \
                    invalid type: integer `17`, expected a string at line 1 column 2";
    assert_eq!(panic_of(|| run.query::<String>("sum", &0)), expected);
}

#[test]
fn a_question_asks_a_copy() {
    #[orchestrator]
    async fn count(ctx: Context) -> Result<()> {
        let asked = Cell::new(0);
        ctx.on_query("asked", move |_: ()| asked.replace(asked.get() + 1));
        Ok(())
    }
    let run = scenario(count, ()).run();
    assert_eq!([run.query::<u32>("asked", &()).unwrap(), run.query::<u32>("asked", &()).unwrap()], [0, 0]);
}
