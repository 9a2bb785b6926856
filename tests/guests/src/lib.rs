//! Guests for the tests of the runtime: those that do what they should, and those that do not.

mod behaved;
mod children;
mod continuing;
mod determinism;
mod hoarding;
mod hostile;
mod network;
mod questions;
mod retries;
mod rewinding;
mod versions;
mod waiting;

use behaved::{
    approval, big_result, catch_failure, chatter, clocks, collect, echo, fail, fail_activity, fan_out, listen, many_actions,
    murmur, race, sequence, sleeper, status, talks, unknown_activity, worldly,
};
use children::{
    ask_too_much, batch, call_child, call_clumsy, catch_child, fail_with_all, household, leave, lineage, loaf, start_and_send,
    start_later, start_two, twins,
};
use continuing::{continue_and_fail, count_down, forget, rounds, till};
use determinism::{note, roulette};
use hoarding::{call_hoard, hoard, hoard_streams, talk_and_loop};
use hostile::{
    call_activity, call_loop, call_panic, connect, connect_activity, divide_by_zero, echo_then_loop, exit, exit_activity,
    fail_with_causes, forever, grow, grow_activity, loop_activity, loop_for_ever, mistyped_activity, need_environment, need_file,
    out_of_bounds, out_of_bounds_activity, panic, panic_activity, read_file, recurse, recurse_activity, sleep_thread,
    spawn_thread, unwrap, write_file_activity, wrong_input, wrong_output,
};
use network::{
    blurt, boast, call_stepwise, call_with_secret, call_with_text, call_with_value, fetch, fetch_by_host, fetch_in_time,
    fetch_itself, fetch_many, fetch_slowly, follow_by_host, mumble, post, say, scream, stepwise, tell,
};
use questions::shelf;
use retries::{flaky, flaky_child, hopeless, retry_child, retry_flaky, retry_hopeless, retry_timeout};
use rewinding::{after_mended, all_mended, compensates, compensates_for_ever, mended, mended_itself};
use versions::{call_others, child_edition, editions, next_edition, tell_edition};
use waiting::{
    announce, count, echo_text, fan_out_texts, race_activity, race_timer, sleep_until, wait_for_all, wait_for_any, wait_twice,
};

dacapo_guest::module!(
    after_mended,
    all_mended,
    compensates,
    count,
    compensates_for_ever,
    mended,
    mended_itself,
    sequence,
    fan_out,
    fail_activity,
    catch_failure,
    race,
    unknown_activity,
    clocks,
    status,
    big_result,
    many_actions,
    sleeper,
    approval,
    collect,
    listen,
    talks,
    murmur,
    chatter,
    echo,
    fail,
    worldly,
    loop_for_ever,
    panic,
    grow,
    recurse,
    read_file,
    forever,
    call_panic,
    call_loop,
    panic_activity,
    loop_activity,
    out_of_bounds,
    unwrap,
    divide_by_zero,
    need_file,
    need_environment,
    connect,
    spawn_thread,
    sleep_thread,
    exit,
    fail_with_causes,
    mistyped_activity,
    wrong_input,
    wrong_output,
    call_activity,
    echo_then_loop,
    out_of_bounds_activity,
    recurse_activity,
    grow_activity,
    write_file_activity,
    connect_activity,
    exit_activity,
    call_child,
    catch_child,
    fail_with_all,
    lineage,
    leave,
    loaf,
    batch,
    start_and_send,
    start_two,
    start_later,
    household,
    twins,
    count_down,
    till,
    forget,
    rounds,
    continue_and_fail,
    roulette,
    note,
    fetch,
    fetch_slowly,
    call_with_text,
    fetch_itself,
    fetch_by_host,
    follow_by_host,
    fetch_many,
    fetch_in_time,
    mumble,
    say,
    tell,
    blurt,
    scream,
    boast,
    stepwise,
    call_stepwise,
    shelf,
    flaky,
    hopeless,
    retry_flaky,
    retry_hopeless,
    flaky_child,
    retry_child,
    retry_timeout,
    tell_edition,
    child_edition,
    editions,
    next_edition,
    call_others,
    announce,
    race_timer,
    race_activity,
    wait_for_all,
    wait_for_any,
    wait_twice,
    fan_out_texts,
    echo_text,
    sleep_until,
    hoard,
    call_hoard,
    hoard_streams,
    talk_and_loop,
    post,
    call_clumsy,
    call_with_secret,
    call_with_value,
    ask_too_much,
);
