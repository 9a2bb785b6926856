//! Each test plays events to an orchestrator and reads what it asks for. See [`check`] for the notation.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::time::{Duration, SystemTime};

use futures::channel::oneshot;
use futures::future::{Either, join_all, select};
use serde::Serialize;

use super::*;
use crate::bindings::dacapo::guest::types::Failure;
use crate::bindings::exports::dacapo::guest::orchestrator::Answer;
use crate::prelude::*;

#[activity]
pub(crate) async fn echo(number: u32) -> Result<u32> {
    Ok(number)
}

/// Plays `calls` to the orchestrator that `run` makes: events on the left, on the right what each call brings about.
///
/// Events: `turn 5` (a turn at 5 ms), `0=42` (task 0 gave 42), `0!Cold` (task 0 failed), `0!!Cold` (and trying again cannot
/// help), `0 fired`, `raise item 7`. Answers: `echo(1)`, `echo(1) again 2 of 0` (attempt 2, the first was task 0), `child
/// bake(1)`, `start bake(1)`, `send item to loaf: 7`, `GET uri`, `timer 5`, `wait item`, `cancel 0`, `status "baking"`, `ended
/// 42`, `failed Cold: message`, `continued 42 keep [0, 1]`.
///
/// Then plays the same events once more for every way to spread them over calls, and expects the same in sum.
#[track_caller]
pub(crate) fn check<T, F>(run: impl Fn(Context) -> F, calls: &[(&str, &str)])
where
    T: Serialize,
    F: Future<Output = Result<T>> + 'static,
{
    let mut executor = start(&run);
    for (events, expected) in calls {
        let progress = executor.advance(events.split("; ").map(event).collect());
        assert_eq!(describe(&[progress]), *expected, "after {events:?}");
    }

    let events: Vec<_> = calls.iter().flat_map(|(events, _)| events.split("; ")).collect();
    let together = describe(&[start(&run).advance(events.iter().copied().map(event).collect())]);
    for cuts in 0..1_u32 << (events.len() - 1) {
        let mut executor = start(&run);
        let mut batches = vec![vec![]];
        for (index, text) in events.iter().enumerate() {
            batches.last_mut().unwrap().push(event(text));
            if cuts & (1 << index) != 0 {
                batches.push(vec![]);
            }
        }
        let progress: Vec<_> = batches.into_iter().map(|batch| executor.advance(batch)).collect();
        assert_eq!(describe(&progress), together, "cut after the events with a bit in {cuts:b}");
    }
}

pub(crate) fn start<T, F>(run: &impl Fn(Context) -> F) -> Executor
where
    T: Serialize,
    F: Future<Output = Result<T>> + 'static,
{
    let start = Start {
        function: "bake".to_owned(),
        instance_id: "loaf".to_owned(),
        generation: "0123456789abcdef0123456789abcdef".to_owned(),
        input: "null".to_owned(),
        parent: None,
        tags: vec![],
        extensions: vec![],
    };
    Executor::new(start, |context, _| {
        let future = run(context);
        Box::pin(async move { Ok(serde_json::to_string(&future.await?)?) })
    })
}

pub(crate) fn event(text: &str) -> Event {
    if let Some(ms) = text.strip_prefix("turn ") {
        return Event::TurnStarted(ms.parse().unwrap());
    }
    if let Some((name, data)) = text.strip_prefix("raise ").and_then(|event| event.split_once(' ')) {
        // Where the order matters, tests raise numbers, and in their order.
        return Event::Raised(RaisedEvent { number: data.parse().unwrap_or(0), name: name.to_owned(), data: data.to_owned() });
    }
    let (task, answer) = text.split_at(text.find(['=', '!', ' ']).unwrap());
    let outcome = match answer.split_at(1) {
        ("=", json) => Outcome::Completed(json.to_owned()),
        ("!", kind) if kind.starts_with('!') => {
            Outcome::Failed(Error::new(&kind[1..], "it went wrong").non_retriable().into_failure())
        }
        ("!", kind) => Outcome::Failed(Error::new(kind, "it went wrong").into_failure()),
        (" ", "fired") => Outcome::Fired,
        _ => panic!("no event: {text}"),
    };
    Event::Resolved(Answer { task: task.parse().unwrap(), outcome })
}

/// All actions, the last status and the end, if there is one, of a row of calls.
pub(crate) fn describe(calls: &[Progress]) -> String {
    let actions = calls.iter().flat_map(|call| &call.actions).map(|action| match action {
        Action::Activity(call) => {
            let attempt = again(call.attempt, call.first_attempt);
            format!("{}({}){attempt}{}", call.name, call.input, option(" within ", call.timeout_ms))
        }
        Action::SubOrchestration(call) => {
            let (id, attempt) = (option(" as ", call.instance_id.as_ref()), again(call.attempt, call.first_attempt));
            format!("child {}({}){id}{}{attempt}", call.name, call.input, tags(&call.tags))
        }
        Action::StartDetached(call) => {
            let (id, at) = (option(" as ", call.instance_id.as_ref()), option(" at ", call.at_ms));
            format!("start {}({}){id}{}{at}", call.name, call.input, tags(&call.tags))
        }
        Action::SendEvent(sent) => format!("send {} to {}: {}", sent.name, sent.instance_id, sent.data),
        Action::Http(call) => {
            let headers: String = call.headers.iter().map(|(name, value)| format!(" {name}: {value}")).collect();
            let (body, timeout) = (option(" ", call.body.as_ref()), option(" within ", call.timeout_ms));
            format!("{} {}{headers}{body}{timeout}", call.method, call.uri)
        }
        Action::Timer(due_ms) => format!("timer {due_ms}"),
        Action::WaitEvent(name) => format!("wait {name}"),
        Action::Cancel(task) => format!("cancel {task}"),
        other => panic!("no test asks for {other:?}"),
    });
    let status = calls.iter().rev().find_map(|call| call.custom_status.as_ref());
    let end = calls.iter().find_map(|call| call.outcome.as_ref()).map(|end| match end {
        End::Completed(json) => format!("ended {json}"),
        End::Failed(Failure { kind, message, .. }) => format!("failed {kind}: {message}"),
        End::ContinuedAsNew(next) => {
            format!("continued {} keep {:?}{}", next.input, next.keep, if next.keep_version { " and version" } else { "" })
        }
        End::Extension(_) => panic!("no test ends with an extension"),
    });
    let words: Vec<_> = actions.chain(status.map(|status| format!("status {status}"))).chain(end).collect();
    words.join("; ")
}

fn again(attempt: u32, first: Option<u32>) -> String {
    match first {
        Some(first) => format!(" again {attempt} of {first}"),
        None => String::new(),
    }
}

fn option(before: &str, value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(String::new, |value| format!("{before}{value}"))
}

fn tags(tags: &[(String, String)]) -> String {
    tags.iter().map(|(name, value)| format!(" {name}={value}")).collect()
}

/// Counts the polls of a future.
pub(crate) struct Counted<F>(pub(crate) F, pub(crate) Rc<Cell<usize>>);

impl<F: Future + Unpin> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<F::Output> {
        self.1.set(self.1.get() + 1);
        Pin::new(&mut self.0).poll(cx)
    }
}

#[test]
fn a_sequence_asks_for_one_thing_after_the_other() {
    async fn sequence(ctx: Context) -> Result<Vec<u32>> {
        Ok(vec![ctx.call(echo, 1_u32).await?, ctx.call(echo, 2_u32).await?])
    }
    check(sequence, &[("turn 0", "echo(1)"), ("turn 1; 0=1", "echo(2)"), ("turn 2; 1=2", "ended [1,2]")]);
}

#[test]
fn nothing_runs_before_the_first_event() {
    let mut executor = start(&|ctx: Context| async move { ctx.call(echo, 1_u32).await });
    assert_eq!(describe(&[executor.advance(vec![])]), "");
    assert_eq!(describe(&[executor.advance(vec![event("turn 0")])]), "echo(1)");
}

#[test]
fn tasks_made_before_the_first_await_run_side_by_side() {
    async fn both(ctx: Context) -> Result<(u32, u32)> {
        let first = ctx.call(echo, 1_u32);
        let second = ctx.call(echo, 2_u32);
        Ok((first.await?, second.await?))
    }
    check(both, &[("turn 0", "echo(1); echo(2)"), ("turn 1; 1=2", ""), ("turn 2; 0=1", "ended [1,2]")]);
}

#[test]
fn a_join_waits_for_all() {
    async fn join(ctx: Context) -> Result<(u32, u32)> {
        futures::try_join!(ctx.call(echo, 1_u32), ctx.call(echo, 2_u32))
    }
    check(join, &[("turn 0", "echo(1); echo(2)"), ("turn 1; 1=2", ""), ("0=1", "ended [1,2]")]);
    check(join, &[("turn 0", "echo(1); echo(2)"), ("turn 1; 1!Cold", "failed Cold: it went wrong")]);
}

/// The winner of two calls, and then a third one, so that there is a turn in which the loser matters.
async fn race(ctx: Context) -> Result<u32> {
    let winner = match select(ctx.call(echo, 1_u32), ctx.call(echo, 2_u32)).await {
        Either::Left((answer, loser)) | Either::Right((answer, loser)) => {
            drop(loser);
            answer?
        }
    };
    ctx.call(echo, winner + 10).await
}

#[test]
fn the_loser_of_a_race_is_cancelled() {
    check(race, &[("turn 0", "echo(1); echo(2)"), ("turn 1; 1=2", "cancel 0; echo(12)"), ("2=12", "ended 12")]);
}

#[test]
fn the_first_of_two_events_in_one_call_wins_the_race() {
    check(race, &[("turn 0", "echo(1); echo(2)"), ("turn 1; 0=1; 1=2", "cancel 1; echo(11)"), ("2=11", "ended 11")]);
    check(race, &[("turn 0", "echo(1); echo(2)"), ("turn 1; 1=2; 0=1", "cancel 0; echo(12)"), ("2=12", "ended 12")]);
}

#[test]
fn dropping_a_task_cancels_it_unless_it_was_answered() {
    async fn drop_two(ctx: Context) -> Result<()> {
        let answered = ctx.call(echo, 1_u32);
        let open = ctx.call(echo, 2_u32);
        ctx.call(echo, 3_u32).await?;
        drop(answered);
        drop(open);
        ctx.call(echo, 4_u32).await?;
        Ok(())
    }
    let calls = [
        ("turn 0", "echo(1); echo(2); echo(3)"),
        ("turn 1; 0=1", ""),
        ("turn 2; 2=3", "cancel 1; echo(4)"),
        ("turn 3; 3=4", "ended null"),
    ];
    check(drop_two, &calls);
}

#[test]
fn an_end_cancels_nothing() {
    async fn hold(ctx: Context) -> Result<u32> {
        let _held = ctx.call(echo, 1_u32);
        ctx.call(echo, 2_u32).await
    }
    check(hold, &[("turn 0", "echo(1); echo(2)"), ("turn 1; 1=2", "ended 2")]);
}

#[test]
fn answers_to_strangers_and_second_answers_change_nothing() {
    async fn sequence(ctx: Context) -> Result<u32> {
        Ok(ctx.call(echo, 1_u32).await? + ctx.call(echo, 2_u32).await?)
    }
    check(sequence, &[("turn 0; 7=7", "echo(1)"), ("0=1; 0=5", "echo(2)"), ("1=2; 1=5; turn 9", "ended 3")]);
}

#[test]
fn a_failure_arrives_with_kind_and_message() {
    async fn catch(ctx: Context) -> Result<String> {
        let error = ctx.call(echo, 1_u32).await.unwrap_err();
        Ok(format!("caught {error}"))
    }
    check(catch, &[("turn 0", "echo(1)"), ("0!Cold", "ended \"caught Cold: it went wrong\"")]);
    check(race, &[("turn 0", "echo(1); echo(2)"), ("0!Cold", "failed Cold: it went wrong")]);
}

#[test]
fn an_answer_of_another_type_is_a_failure() {
    async fn expect_number(ctx: Context) -> Result<u32> {
        ctx.call_named("Weigh", &"rye").await
    }
    let failure = "failed InvalidOutput: activity Weigh gave something else than expected: \
                   invalid type: string \"heavy\", expected u32 at line 1 column 7";
    check(expect_number, &[("turn 0", "Weigh(\"rye\")"), ("0=\"heavy\"", failure)]);
}

#[test]
fn an_input_without_a_form_in_json_is_never_asked_for() {
    async fn unspeakable(ctx: Context) -> Result<()> {
        ctx.call_named("Weigh", &std::collections::HashMap::from([((), 1)])).await
    }
    let failure = "failed InvalidInput: the input for activity Weigh has no form in JSON: key must be a string";
    check(unspeakable, &[("turn 0", failure)]);
}

#[test]
fn branches_may_wake_each_other() {
    async fn pass_on(ctx: Context) -> Result<u32> {
        let (sender, receiver) = oneshot::channel();
        let listen = async { Ok::<_, Error>(receiver.await?) };
        let speak = async {
            sender.send(ctx.call(echo, 1_u32).await?).ok();
            Ok(())
        };
        futures::try_join!(listen, speak).map(|(heard, ())| heard)
    }
    check(pass_on, &[("turn 0", "echo(1)"), ("0=1", "ended 1")]);
}

#[test]
fn a_task_may_be_awaited_by_someone_else_than_who_polled_it_first() {
    async fn hand_over(ctx: Context) -> Result<u32> {
        let mut task = ctx.call(echo, 1_u32);
        {
            let elsewhere = Arc::new(Woken::default());
            let waker = Waker::from(elsewhere);
            assert!(pin!(&mut task).poll(&mut std::task::Context::from_waker(&waker)).is_pending());
        }
        task.await
    }
    check(hand_over, &[("turn 0", "echo(1)"), ("0=1", "ended 1")]);
}

#[test]
fn a_wide_join_polls_each_task_once_per_answer() {
    const WIDTH: u32 = 10_000;
    let polls = Rc::new(Cell::new(0));
    let counter = polls.clone();
    let mut executor = start(&move |ctx: Context| {
        let counter = counter.clone();
        async move {
            let tasks = (0..WIDTH).map(|number| Counted(ctx.call(echo, number), counter.clone()));
            join_all(tasks).await.into_iter().sum::<Result<u32>>()
        }
    });
    let asked = executor.advance(vec![event("turn 0")]).actions.len();
    let answers = (0..WIDTH).rev().map(|task| event(&format!("{task}={task}"))).collect();
    assert_eq!(describe(&[executor.advance(answers)]), "ended 49995000");
    assert_eq!((asked, polls.get()), (10_000, 20_000));
}

#[test]
fn the_last_custom_status_of_a_call_is_told() {
    async fn tell(ctx: Context) -> Result<()> {
        ctx.set_custom_status("mixing")?;
        ctx.set_custom_status("baking")?;
        ctx.call(echo, 1_u32).await?;
        ctx.set_custom_status(&())
    }
    let calls = [("turn 0", "echo(1); status \"baking\""), ("turn 1", ""), ("0=1", "status null; ended null")];
    check(tell, &calls);
}

#[test]
fn the_clock_moves_with_the_turns() {
    async fn measure(ctx: Context) -> Result<u128> {
        let before = ctx.now();
        ctx.call(echo, 1_u32).await?;
        Ok(ctx.now().duration_since(before)?.as_millis())
    }
    check(measure, &[("turn 1000", "echo(1)"), ("turn 1250", ""), ("turn 3000; 0=1", "ended 2000")]);
}

#[test]
fn uuids_differ_from_each_other_and_are_the_same_in_every_run() {
    async fn two(ctx: Context) -> Result<String> {
        Ok(format!("{} {}", ctx.new_uuid(), ctx.new_uuid()))
    }
    // Recorded histories hold such values: they must not change from one version of the SDK to the next.
    let uuids = "06ba3860-ec0f-5ecc-a34a-92d57d105034 01542757-fbc4-5800-a453-67b9da56209d";
    check(two, &[("turn 0", &format!("ended \"{uuids}\""))]);
}

#[test]
fn a_sleep_lasts_from_now_until_its_timer_fires() {
    async fn nap(ctx: Context) -> Result<u128> {
        let before = ctx.now();
        ctx.sleep(Duration::from_millis(250)).await?;
        Ok(ctx.now().duration_since(before)?.as_millis())
    }
    check(nap, &[("turn 1000", "timer 1250"), ("turn 1100", ""), ("turn 1250; 0 fired", "ended 250")]);
}

#[test]
fn timers_are_rounded_up_and_never_overflow() {
    async fn extremes(ctx: Context) -> Result<()> {
        let times = [SystemTime::UNIX_EPOCH - Duration::from_secs(1), SystemTime::UNIX_EPOCH + Duration::from_micros(7001)];
        let _until = times.map(|time| ctx.sleep_until(time));
        let _for = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX].map(|duration| ctx.sleep(duration));
        std::future::pending().await
    }
    check(extremes, &[("turn 5", "timer 0; timer 8; timer 5; timer 6; timer 18446744073709551615")]);
}

#[test]
fn a_wait_takes_the_next_event_of_its_name_in_whatever_case() {
    async fn wait(ctx: Context) -> Result<u32> {
        ctx.event("Größe").await
    }
    check(wait, &[("turn 0", "wait Größe"), ("turn 1; raise item 6", ""), ("raise GRÖSSE 7; raise GRÖßE 8", "ended 8")]);
}

/// Waits for three events called `item`, but not before its activity is done.
async fn collect(ctx: Context) -> Result<Vec<u32>> {
    ctx.call(echo, 1_u32).await?;
    Ok(vec![ctx.event("item").await?, ctx.event("item").await?, ctx.event("item").await?])
}

#[test]
fn events_that_nobody_waits_for_are_kept_in_their_order() {
    let calls = [
        ("turn 0", "echo(1)"),
        ("turn 1; raise item 7; raise item 8", ""),
        ("turn 2; 0=1", "wait item; wait item; wait item"),
        ("turn 3; raise item 9", "ended [7,8,9]"),
    ];
    check(collect, &calls);
}

#[test]
fn events_before_the_first_turn_are_kept_too() {
    let calls = [
        ("raise item 7; turn 0; raise item 8; raise item 9", "echo(1)"),
        ("0=1", "wait item; wait item; wait item; ended [7,8,9]"),
    ];
    check(collect, &calls);
}

#[test]
fn of_several_waits_the_newest_gets_the_event() {
    async fn three(ctx: Context) -> Result<(u32, u32, u32)> {
        futures::try_join!(ctx.event("item"), ctx.event("Item"), ctx.event("ITEM"))
    }
    let asked = "wait item; wait Item; wait ITEM";
    check(three, &[("turn 0", asked), ("turn 1; raise item 7; raise item 8", ""), ("turn 2; raise item 9", "ended [9,8,7]")]);
}

#[test]
fn a_dropped_wait_leaves_its_event_to_the_others() {
    async fn drop_newest(ctx: Context) -> Result<(u32, u32)> {
        let oldest = ctx.event("item");
        let newest = ctx.event::<u32>("item");
        ctx.call(echo, 1_u32).await?;
        drop(newest);
        Ok((oldest.await?, ctx.event("item").await?))
    }
    let calls = [
        ("turn 0", "wait item; wait item; echo(1)"),
        ("turn 1; 2=1", "cancel 1"),
        ("turn 2; raise item 7; raise item 8", "wait item; ended [7,8]"),
    ];
    check(drop_newest, &calls);
}

#[test]
fn the_loser_of_a_race_gives_its_event_back() {
    async fn account(ctx: Context) -> Result<(u32, u32, u32)> {
        ctx.call(echo, 1_u32).await?;
        // Both have an event already. The left one wins.
        let either = select(ctx.event::<u32>("deposit"), ctx.event::<u32>("withdraw")).await;
        let Either::Left((deposit, loser)) = either else { bail!("the right one won") };
        drop(loser);
        Ok((deposit?, ctx.event("withdraw").await?, ctx.event("withdraw").await?))
    }
    let calls = [
        ("turn 0", "echo(1)"),
        ("turn 1; raise withdraw 7; raise deposit 8; raise withdraw 9", ""),
        ("turn 2; 0=1", "wait deposit; wait withdraw; wait withdraw; wait withdraw; ended [8,7,9]"),
    ];
    check(account, &calls);
}

#[test]
fn events_that_are_given_back_stay_in_their_order() {
    async fn drop_both(ctx: Context) -> Result<Vec<u32>> {
        ctx.call(echo, 1_u32).await?;
        let (first, second) = (ctx.event::<u32>("item"), ctx.event::<u32>("item"));
        drop(first);
        drop(second);
        Ok(vec![ctx.event("item").await?, ctx.event("item").await?, ctx.event("item").await?])
    }
    let waits = "wait item; wait item; wait item; wait item; wait item";
    let calls = [("turn 0; raise item 7; raise item 8; raise item 9", "echo(1)"), ("0=1", &format!("{waits}; ended [7,8,9]"))];
    check(drop_both, &calls);
}

#[test]
fn an_event_that_is_given_back_goes_to_an_open_wait() {
    async fn hand_over(ctx: Context) -> Result<u32> {
        let older = ctx.event("item");
        let newer = ctx.event::<u32>("item");
        ctx.call(echo, 1_u32).await?;
        drop(newer);
        older.await
    }
    check(hand_over, &[("turn 0", "wait item; wait item; echo(1)"), ("raise item 7", ""), ("2=1", "ended 7")]);
}

#[test]
fn an_event_of_another_type_is_an_error_of_the_wait_that_got_it() {
    async fn wait(ctx: Context) -> Result<bool> {
        let error = ctx.event::<u32>("item").await.unwrap_err();
        assert_eq!(error.kind(), "InvalidEvent");
        let expected = "event item cannot be read as u32: invalid type: boolean `true`, expected u32 at line 1 column 4";
        assert_eq!(error.message(), expected);
        ctx.event("item").await
    }
    check(wait, &[("turn 0", "wait item"), ("turn 1; raise item true", "wait item"), ("turn 2; raise item true", "ended true")]);
}

/// Waits 100 ms for an event, and then for an activity, so that there is a turn in which the loser matters.
async fn approval(ctx: Context) -> Result<(Option<u32>, u32)> {
    let answer = ctx.timeout(Duration::from_millis(100), ctx.event("item")).await.ok().transpose()?;
    Ok((answer, ctx.call(echo, 1_u32).await?))
}

#[test]
fn a_timeout_gives_what_came_in_time_and_cancels_its_timer() {
    let calls =
        [("turn 5", "wait item; timer 105"), ("turn 9; raise item 7; 1 fired", "cancel 1; echo(1)"), ("2=1", "ended [7,1]")];
    check(approval, &calls);
}

#[test]
fn a_timeout_that_is_over_cancels_what_it_waited_for() {
    let calls =
        [("turn 5", "wait item; timer 105"), ("turn 105; 1 fired; raise item 7", "cancel 0; echo(1)"), ("2=1", "ended [null,1]")];
    check(approval, &calls);
}

#[test]
fn a_timeout_starts_when_it_is_made_and_what_is_ready_by_then_wins() {
    async fn late(ctx: Context) -> Result<u32> {
        let answer = ctx.timeout(Duration::from_millis(100), ctx.call(echo, 1_u32));
        ctx.sleep(Duration::from_millis(300)).await?;
        answer.await?
    }
    let calls = [("turn 0", "echo(1); timer 100; timer 300"), ("turn 150; 1 fired; 0=1", ""), ("turn 300; 2 fired", "ended 1")];
    check(late, &calls);
}

#[test]
fn a_timeout_races_an_event() {
    async fn race(ctx: Context) -> Result<Option<u32>> {
        let approved = ctx.timeout(Duration::from_millis(100), ctx.event::<u32>("item"));
        match select(approved, ctx.event::<u32>("stop")).await {
            Either::Left((item, _stop)) => item?.map(Some),
            Either::Right((stop, _item)) => stop.map(|_| None),
        }
    }
    let asked = "wait item; timer 100; wait stop";
    check(race, &[("turn 0", asked), ("turn 9; raise item 7", "ended 7")]);
    check(race, &[("turn 0", asked), ("turn 9; raise stop 1", "ended null")]);
    check(race, &[("turn 0", asked), ("turn 100; 1 fired", "failed Timeout: it was not done within 100ms")]);
}

#[test]
fn a_timeout_becomes_an_error_that_says_how_long() {
    async fn fail(ctx: Context) -> Result<u32> {
        ctx.timeout(Duration::from_millis(1500), ctx.call(echo, 1_u32)).await?
    }
    let calls = [("turn 0", "echo(1); timer 1500"), ("turn 1500; 1 fired", "failed Timeout: it was not done within 1.5s")];
    check(fail, &calls);
}

#[test]
fn an_answer_that_does_not_fit_the_task_is_a_failure() {
    async fn nap(ctx: Context) -> Result<()> {
        ctx.sleep(Duration::ZERO).await
    }
    let failure = "failed UnknownOutcome: a timer was answered with `completed`, which this module's SDK does not know";
    check(nap, &[("turn 0", "timer 0"), ("0=null", failure)]);
    async fn call(ctx: Context) -> Result<u32> {
        ctx.call(echo, 1_u32).await
    }
    let failure = "failed UnknownOutcome: activity echo was answered with `fired`, which this module's SDK does not know";
    check(call, &[("turn 0", "echo(1)"), ("0 fired", failure)]);
}

#[test]
#[should_panic(expected = "keep it in no thread-local")]
fn a_context_that_another_execution_has_left_behind_is_refused() {
    thread_local! {
        static KEPT: RefCell<Option<Context>> = const { RefCell::new(None) };
    }
    let keep = |ctx: Context| async move {
        KEPT.set(Some(ctx));
        Ok(())
    };
    start(&keep).advance(vec![event("turn 0")]);
    let take = |_| async { KEPT.take().expect("it was kept").call(echo, 1_u32).await };
    start(&take).advance(vec![event("turn 0")]);
}
