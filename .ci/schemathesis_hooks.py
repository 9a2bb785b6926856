"""What schemathesis has to know of this server beside its document."""

import hashlib
import os
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

MODULE = Path(os.environ["DACAPO_MODULE"]).read_bytes()
DIGEST = hashlib.sha256(MODULE).hexdigest()

# A module that can run, the beginning of one, an empty core module, and what is none.
schemathesis.openapi.media_type(
    "application/wasm",
    st.sampled_from([MODULE, MODULE[:1000], b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0", b""]) | st.binary(max_size=100),
)


# A request that waits for the end of an instance waits for as long as it says, and some never end.
WAIT_S_MAX = 0.5


# What schemathesis makes up leads nowhere more often than not; here is where requests of some kinds get further. An event goes to an
# instance that nobody ends, a question to one that answers some, a start to a function that there is, and of all digests one is known.
FURTHER = {
    "raiseEvent/{eventName}": {"instanceId": "waiting-1"},
    "query/{queryName}": {"instanceId": "library", "queryName": "count"},
    "orchestrators/{functionName}": {"functionName": "Race"},
    "orchestrators/{functionName}/{instanceId}": {"functionName": "Shelf"},
    "versions/{digest}": {"digest": DIGEST},
}


@schemathesis.hook
def map_path_parameters(ctx, parts):
    for end, values in FURTHER.items():
        if not ctx.operation.path.endswith(end):
            continue
        for name, value in values.items():
            made_up = (parts or {}).get(name)
            # Two in three; the same ones in each run.
            if isinstance(made_up, str) and sum(made_up.encode()) % 3 != 2:
                parts[name] = value
    return parts


@schemathesis.hook
def map_query(ctx, query):
    for name in ("timeout", "wait"):
        value = (query or {}).get(name)
        if isinstance(value, (int, float)) and value > WAIT_S_MAX:
            query[name] = WAIT_S_MAX
    return query


@schemathesis.check
def a_5xx_is_one_that_is_meant(ctx, response, case):
    """Where the contract itself has a 5xx, and `not_a_server_error` is off for it, it is the documented one and no other."""
    if response.status_code < 500:
        return
    body = response.json()
    assert (
        # A failed instance, asked for with returnInternalServerErrorOnFailure or in the edition of 2018.
        (response.status_code == 500 and body.get("runtimeStatus") == "Failed")
        # A guest that is at fault while it answers a question.
        or (response.status_code == 500 and body.get("error", {}).get("code") in ("query_faulted", "diverged"))
        # An instance that is suspended twice, or resumed while it runs.
        or (response.status_code == 500 and body.get("ExceptionType") == "System.InvalidOperationException")
    ), f"{response.status_code} {body}"
