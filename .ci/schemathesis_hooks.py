"""What schemathesis has to know of this server beside its document."""

import os
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

MODULE = Path(os.environ["DACAPO_MODULE"]).read_bytes()

# A module that can run, the beginning of one, an empty core module, and what is none.
schemathesis.openapi.media_type(
    "application/wasm",
    st.sampled_from([MODULE, MODULE[:1000], b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0", b""]) | st.binary(max_size=100),
)


# A request that waits for the end of an instance waits for as long as it says, and some never end.
WAIT_S_MAX = 0.5


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
    ), f"{response.status_code} {body}"
