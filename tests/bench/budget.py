#!/usr/bin/env python3
"""Splits the CPU of a server among what it does for an orchestration.

Reads what `perf script -F comm,ip,sym` prints; the first argument is the server's CPU for each orchestration in microseconds, as dacapo-bench has it.
docs/performance.md has the commands.
"""

import re
import sys
from collections import Counter

# The first rule that fits a sample decides. A rule has the thread's name, or None for any, and what one of the frames has to contain.
RULES = [
    ("checkpoint of the log", "checkpoint", r""),
    ("threads: sleep, wake, switch", None, r"futex|__schedule|epoll_wait|sched_yield|try_to_wake_up|park_internal"),
    ("store: log written and synced", None, r"pagerWalFrames|walWriteOneFrame|fsync|walIndexAppend"),
    ("store: statements", None, r"SqliteStore|sqlite3|rusqlite|store::sqlite"),
    ("commit: events as JSON", None, r"EncodedEvents|CommitOrder::encoded"),
    ("activity: instance made and dropped", None,
     r"ActivityCode::run.*(drop_in_place|deallocate|new_raw|Instantiator|lookup_vmdef|trampoline_ptrs|ModuleRegistry|GuestIndices|Store<T>::|allocate_instance|make_fiber|flush_fiber)"),
    ("activity: call of the guest, values cross", None, r"ActivityCode::run|ActivityCode::invoke|fiber_start"),
    ("turn: instance made and dropped", None, r"turns::new_guest|turns::run.*(drop_in_place|deallocate)"),
    ("turn: call of the guest, values cross", None, r"turns::run|replay::"),
    ("engine: state of instances", None, r"partition::Partition|instance::Instance"),
    ("engine: orders handed over", None, r"dacapo::engine|dacapo::store::group"),
    ("HTTP: answer written (system)", None, r"writev|sendmsg|tcp_"),
    ("HTTP: request read (system)", None, r"recvfrom|sys_read|sock_recv"),
    ("HTTP: routing, JSON, answer", None, r"dacapo::api"),
    ("HTTP: connection and parser", None, r"hyper"),
    ("asynchronous runtime", None, r"tokio"),
]


def rule(comm, frames):
    if frames[0].startswith("wasm["):
        return "guests: their own code"
    stack = " ".join(reversed(frames))
    for name, thread, pattern in RULES:
        if thread is None:
            if re.search(pattern, stack):
                return name
        elif thread == comm:
            return name
    return "other"


def main():
    microseconds = float(sys.argv[1])
    counts = Counter()
    for block in sys.stdin.read().split("\n\n"):
        lines = [line.strip() for line in block.split("\n") if line.strip()]
        if len(lines) < 2:
            continue
        frames = [line.split(" ", 1)[1] if " " in line else line for line in lines[1:]]
        counts[rule(lines[0], frames)] += 1
    samples = sum(counts.values())
    print("| | share | µs |\n|---|---|---|")
    for name, count in counts.most_common():
        print(f"| {name} | {100 * count / samples:.1f} % | {microseconds * count / samples:.0f} |")


main()
