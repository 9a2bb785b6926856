"""Does the PyPI library `azure-functions-durable` work with our server as it works with the original? It is used unmodified.

    python drive.py BINDING [STEP...]

BINDING is the URL of the binding document, with a key if the server wants one; the library itself never sends one. All steps run unless some are
named. Each that holds prints `ok STEP`; the first that does not ends the program with status 1 and the reason.
"""

import asyncio
import json
import re
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

import azure.functions as func
from azure.durable_functions import DurableOrchestrationClient, OrchestrationRuntimeStatus as Status

DEADLINE_S = 60


async def eventually(what, ask):
    """Asks again and again until there is an answer."""
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := await ask()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not in time")
        await asyncio.sleep(0.01)
    return answer


async def becomes(client, instance, status):
    """Waits until an instance has this status."""

    async def ask():
        seen = await client.get_status(instance)
        return seen if seen.runtime_status == status else None

    return await eventually(f"{instance} is {status}", ask)


async def listening(client, instance, value=None):
    """Starts an orchestration that waits for the event `go`, and waits until it does."""
    same(await client.start_new("Listen", instance, value), instance)
    await becomes(client, instance, Status.Running)
    return instance


async def completed(client, instance):
    """One that has completed."""
    await client.start_new("Race", instance)
    await becomes(client, instance, Status.Completed)
    return instance


async def failed(client, instance):
    """One that has failed, since its activity did."""
    await client.start_new("FailActivity", instance)
    await becomes(client, instance, Status.Failed)
    return instance


async def raises(call, *parts):
    """Checks that a call raises an error that says all of `parts`."""
    try:
        seen = await call
    except Exception as error:  # The library raises nothing more special.
        same(type(error), Exception)
        for part in parts:
            holds(part in str(error), error)
    else:
        raise AssertionError(f"it raises nothing and returns {seen!r}")


def same(seen, expected):
    if seen != expected:
        raise AssertionError(f"{seen!r} is not {expected!r}")


def holds(condition, *about):
    if not condition:
        raise AssertionError(*about)


def wire(client, instance):
    """What the server says itself, without the library."""
    url = client.create_http_management_payload(quote(instance))["statusQueryGetUri"]
    with urllib.request.urlopen(f"{url}&edition=current&showHistory=true&showHistoryOutput=true") as reply:
        return json.load(reply)


def code(method, url, body=None):
    """The status code of a request that is none of the library's."""
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


async def start(client):
    holds(re.fullmatch("[0-9a-f]{32}", await client.start_new("Race")), "an ID is drawn")
    # The library encodes its inputs twice, and without one sends no body. What arrives is kept as it is.
    for name, value, arrived in [
        ("started", {"flour": "rye", "grams": 750.5}, '{"flour": "rye", "grams": 750.5}'),
        ("a b:c@d", [1, "ü", None], json.dumps([1, "ü", None])),
        ("nothing", None, None),
        ("text", "rye", '"rye"'),
    ]:
        instance = await listening(client, f"py {name}", value)
        same(wire(client, instance)["input"], arrived)
    holds(await client.start_new("Race", version="2.0 beta"), "a version is taken")


async def status(client):
    before = datetime.now(timezone.utc) - timedelta(seconds=1)  # Times come in whole seconds, cut.
    instance = await listening(client, "py-status", {"secret": 1})
    running = await client.get_status(instance, show_history=True, show_history_output=True, show_input=True)
    holds(running, "it is there")
    same((running.name, running.instance_id, running.runtime_status), ("Listen", instance, Status.Running))
    same((running.input_, running.custom_status, running.output), ('{"secret": 1}', "listening", None))
    same([event["EventType"] for event in running.historyEvents], ["ExecutionStarted"])
    for moment in (running.created_time, running.last_updated_time):
        holds(before <= moment <= datetime.now(timezone.utc), moment)
    holds(not hasattr(await client.get_status(instance), "historyEvents"), "no history unless it is asked for")
    done = await client.get_status(await completed(client, "py-status-done"), show_history=True, show_history_output=True)
    holds(done.output in (1, 2), done.output)
    same(done.historyEvents[-1]["Result"], done.output)
    broken = await client.get_status(await failed(client, "py-status-failed"))
    same(broken.output, "Orchestrator function 'FailActivity' failed: the oven is cold")
    holds(not await client.get_status("py-nobody"), "whom nobody knows is false")


async def list_(client):
    begin = datetime.now(timezone.utc)
    done = await completed(client, "py-list-done")
    broken = await failed(client, "py-list-failed")
    opened = await listening(client, "py-list-open")

    async def ids(**filters):
        return [seen.instance_id for seen in await client.get_status_by(**filters)]

    same(await ids(created_time_from=begin), [done, broken, opened])
    same(await ids(created_time_from=begin, runtime_status=[Status.Failed, Status.Running]), [broken, opened])
    same(await ids(created_time_from=begin, created_time_to=begin - timedelta(milliseconds=1)), [])
    same(await ids(instance_id_prefix="py-list-"), [done, broken, opened])
    same(await ids(instance_id_prefix="py-list-", runtime_status=[Status.Completed]), [done])
    every = {seen.instance_id: seen.runtime_status for seen in await client.get_status_all()}
    same(every.get(done), Status.Completed)


async def paging(client):
    for number in range(130):
        await client.start_new("Race", f"py-page-{number}")
    # The library reads the first page only.
    same(len(await client.get_status_by(instance_id_prefix="py-page-")), 100)
    same(len(await client.get_status_all()), 100)


async def raise_(client):
    instance = await listening(client, "py-raise", 5)
    await client.raise_event(instance, "nobody waits for this")
    await client.raise_event(instance, "go", {"tempC": 24})
    same((await becomes(client, instance, Status.Completed)).output, ["5", '{"tempC": 24}'])
    await raises(client.raise_event(instance, "go", 1), "is gone")
    await raises(client.raise_event("py-nobody", "go", 1), "No instance with ID py-nobody found")
    opened = await listening(client, "py-raise-open")
    await raises(client.raise_event(opened, "go", 1, task_hub_name="Elsewhere"), "No instance")
    await raises(client.raise_event(opened, "go", 1, connection_name="Elsewhere"), "")
    await client.raise_event(opened, "go")  # No data is the text null.
    same((await becomes(client, opened, Status.Completed)).output, [None, "null"])


async def terminate(client):
    instance = await listening(client, "py-terminate")
    await client.terminate(instance, "power cut & more")
    same((await becomes(client, instance, Status.Terminated)).output, "power cut & more")
    await client.terminate(instance, "again")  # It has ended, of which the library makes nothing.
    await raises(client.terminate("py-nobody", "why"), "No instance with ID 'py-nobody' found.")


async def suspend(client):
    instance = await listening(client, "py-suspend")
    await client.suspend(instance, "lunch break")
    same((await becomes(client, instance, Status.Suspended)).output, "lunch break")
    await raises(client.suspend(instance, "again"), "unexpected status code 500")
    await raises(client.suspend("py-nobody", "why"), "No instance with ID 'py-nobody' found.")
    await client.suspend(await completed(client, "py-suspend-done"), "it has ended")


async def resume(client):
    instance = await listening(client, "py-resume", "in")
    await raises(client.resume(instance, "not yet"), "unexpected status code 500")
    await client.suspend(instance, "lunch")
    await becomes(client, instance, Status.Suspended)
    await client.raise_event(instance, "go", "later")
    await client.resume(instance, "back again")
    same((await becomes(client, instance, Status.Completed)).output, ['"in"', '"later"'])
    kinds = [event["EventType"] for event in wire(client, instance)["historyEvents"]]
    holds("ExecutionSuspended" in kinds and "ExecutionResumed" in kinds, kinds)
    await raises(client.resume("py-nobody", "why"), "No instance with ID 'py-nobody' found.")


async def rewind(client):
    instance = await failed(client, "py-rewind")
    await client.rewind(instance, "oven fixed")

    async def rewound():
        events = wire(client, instance).get("historyEvents", [])
        return next((event for event in events if event["EventType"] == "ExecutionRewound"), None)

    same((await eventually("the rewind", rewound))["Reason"], "oven fixed")
    await becomes(client, instance, Status.Failed)  # The oven is as cold as before.
    await raises(client.rewind("py-nobody", "why"), "No instance with ID py-nobody found.")
    await raises(client.rewind(await completed(client, "py-rewind-done"), "why"), "only supported on failed")
    opened = await listening(client, "py-rewind-open")
    await raises(client.rewind(opened, "why"), opened)


async def restart(client):
    instance = await completed(client, "py-restart")
    answer = await client.restart(instance)
    holds(re.fullmatch("[0-9a-f]{32}", answer["id"]), answer)
    await becomes(client, answer["id"], Status.Completed)
    again = await client.restart(instance, restart_with_new_instance_id=False)
    same(again["id"], instance)
    opened = await listening(client, "py-restart-open", 7)
    await raises(client.restart(opened, restart_with_new_instance_id=False), "unexpected status code 409")
    copy = (await client.restart(opened))["id"]
    await becomes(client, copy, Status.Running)
    same(wire(client, copy)["input"], "7")
    await raises(client.restart("py-nobody"), "unexpected status code 400")


async def purge(client):
    instance = await completed(client, "py-purge")
    same((await client.purge_instance_history(instance)).instances_deleted, 1)
    same((await client.purge_instance_history(instance)).instances_deleted, 0)
    holds(not await client.get_status(instance), "it is gone")
    await raises(client.purge_instance_history(await listening(client, "py-purge-open")), "unexpected status code 412")


async def purge_by_filter(client):
    begin = datetime.now(timezone.utc)
    instances = [await completed(client, f"py-purge-{name}") for name in "abc"]
    broken = await failed(client, "py-purge-failed")
    opened = await listening(client, "py-purge-still-open")

    async def purged(**filters):
        end = datetime.now(timezone.utc) + timedelta(seconds=1)
        return (await client.purge_instance_history_by(begin, end, **filters)).instances_deleted

    same(await purged(runtime_status=[Status.Completed]), 3)
    same(await purged(runtime_status=[Status.Completed]), 0)
    same([bool(await client.get_status(instance)) for instance in instances], [False] * 3)
    same(await purged(), 1)
    holds(not await client.get_status(broken), "it is gone")
    same((await client.get_status(opened)).runtime_status, Status.Running)
    same(await purged(runtime_status=[Status.Running]), 0)


async def urls(client):
    instance = await listening(client, "py-urls")
    payload = client.create_http_management_payload(instance)
    same((len(payload), payload["id"]), (9, instance))
    same(code("GET", payload["statusQueryGetUri"]), 202)
    same(code("POST", payload["sendEventPostUri"].replace("{eventName}", "go"), b"[]"), 202)
    await becomes(client, instance, Status.Completed)
    same(code("POST", payload["terminatePostUri"].replace("{text}", "late")), 410)
    request = func.HttpRequest("POST", "https://shop.example/api/orders?x=1", body=b"")
    response = client.create_check_status_response(request, instance)
    same((response.status_code, response.headers["Retry-After"]), (202, "10"))
    location = response.headers["Location"]
    holds(location.startswith(f"https://shop.example/runtime/webhooks/durabletask/instances/{instance}?"), location)
    same(json.loads(response.get_body())["statusQueryGetUri"], location)


async def wait(client):
    request = func.HttpRequest("POST", "https://shop.example/api/orders", body=b"")

    async def ended(instance, timeout_ms=DEADLINE_S * 1000):
        return await client.wait_for_completion_or_create_check_status_response(request, instance, timeout_ms, 20)

    done = await ended(await client.start_new("Race"))
    holds((done.status_code, done.get_body()) in [(200, b"1"), (200, b"2")], done.get_body())
    broken = await ended(await client.start_new("FailActivity"))
    same((broken.status_code, json.loads(broken.get_body())["runtimeStatus"]), (500, "Failed"))
    instance = await listening(client, "py-wait")
    opened = await ended(instance, 100)
    same((opened.status_code, json.loads(opened.get_body())["id"]), (202, instance))
    await client.terminate(instance, "enough")
    same((await ended(instance)).status_code, 200)


async def errors(client):
    # The server's message, and not a KeyError of the library, which reads `ExceptionMessage` unasked.
    await raises(client.start_new("NobodyHasThis"), "NobodyHasThis")
    await raises(client.start_new("Race", "@counter"), "@counter")
    await raises(client.start_new("Race", "x" * 257), "256")
    live = await listening(client, "py-live")
    await raises(client.start_new("Race", live), live)
    # A fault of the orchestration itself; the prefix for workers always has the newest edition.
    instance = await client.start_new("Panic")
    holds("the oven is cold" in (await becomes(client, instance, Status.Failed)).output, "it says why")


STEPS = {
    "start": start,
    "status": status,
    "list": list_,
    "paging": paging,
    "raise": raise_,
    "terminate": terminate,
    "suspend": suspend,
    "resume": resume,
    "rewind": rewind,
    "restart": restart,
    "purge": purge,
    "purgeByFilter": purge_by_filter,
    "urls": urls,
    "wait": wait,
    "errors": errors,
}


async def main(binding_url, *wanted):
    with urllib.request.urlopen(binding_url) as reply:
        client = DurableOrchestrationClient(reply.read().decode(), function_invocation_id="8c1f1c8e-4a5d-4f7e-9a39-2f0c6f5c7b11")
    for step in wanted or STEPS:
        holds(step in STEPS, f"there is no step {step}")
        try:
            await STEPS[step](client)
        except Exception as error:
            raise AssertionError(f"{step} does not hold") from error
        print(f"ok {step}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
