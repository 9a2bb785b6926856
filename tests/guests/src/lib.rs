//! Guests for the tests of the runtime: those that do what they should, and those that do not.

mod behaved;
mod hostile;

use behaved::{
    big_result, catch_failure, clocks, echo, fail, fail_activity, fan_out, many_actions, race, sequence, status,
    unknown_activity, worldly,
};
use hostile::{
    call_activity, call_loop, call_panic, connect, connect_activity, divide_by_zero, echo_then_loop, exit, exit_activity,
    fail_with_causes, forever, grow, grow_activity, loop_activity, loop_for_ever, mistyped_activity, need_environment, need_file,
    out_of_bounds, out_of_bounds_activity, panic, panic_activity, read_file, recurse, recurse_activity, sleep_thread,
    spawn_thread, unwrap, write_file_activity, wrong_input, wrong_output,
};

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
);
