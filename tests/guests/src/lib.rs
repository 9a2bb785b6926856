//! Guests for the tests of the runtime: those that do what they should, and those that do not.

mod behaved;
mod hostile;

use behaved::{
    approval, big_result, catch_failure, chatter, clocks, collect, echo, fail, fail_activity, fan_out, many_actions, murmur,
    race, sequence, sleeper, status, talks, unknown_activity,
};
use hostile::{call_loop, call_panic, forever, grow, loop_activity, loop_for_ever, panic, panic_activity, read_file, recurse};

dacapo_guest::module!(
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
    talks,
    murmur,
    chatter,
    echo,
    fail,
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
);
