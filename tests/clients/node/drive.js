// Does the npm library `durable-functions` work with our server as it works with the original? It is used unmodified.
//
//     node drive.js BINDING MODE [STEP...]
//
// BINDING is the URL of the server's binding document, with a key if the server wants one. MODE is how the library finds its way:
// `rpc` by `rpcBaseUrl`, which needs no key, or `urls` by the templates, where the key travels in each. All steps run unless some are
// named. Each that holds prints `ok STEP`; the first that does not ends the program with status 1 and the reason.
"use strict";

const assert = require("node:assert/strict");
const df = require("durable-functions");

const DEADLINE_MS = 60_000;

/** Asks again and again until there is an answer. */
async function eventually(what, ask) {
    const deadline = Date.now() + DEADLINE_MS;
    for (;;) {
        const answer = await ask();
        if (answer) return answer;
        if (Date.now() > deadline) throw new Error(`${what}: not in time`);
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
}

/** Waits until an instance has this status. */
function becomes(client, id, status) {
    return eventually(`${id} is ${status}`, async () => {
        const seen = await client.getStatus(id);
        return seen.runtimeStatus === status && seen;
    });
}

/** Starts an orchestration that waits for the event `go`, and waits until it does. */
async function listening(client, id, input) {
    assert.equal(await client.startNew("Listen", { instanceId: id, input }), id);
    await becomes(client, id, "Running");
    return id;
}

/** One that has completed. */
async function completed(client, id) {
    await client.startNew("Race", { instanceId: id });
    await becomes(client, id, "Completed");
    return id;
}

/** One that has failed, since its activity did. */
async function failed(client, id) {
    await client.startNew("FailActivity", { instanceId: id });
    await becomes(client, id, "Failed");
    return id;
}

/** What the server says itself, without the library: it hides the history. */
async function wire(client, id) {
    const url = client.createHttpManagementPayload(id).statusQueryGetUri;
    return (await fetch(`${url}&edition=current&showHistory=true&showHistoryOutput=true`)).json();
}

const steps = {
    async start(client, mode) {
        assert.match(await client.startNew("Race"), /^[0-9a-f]{32}$/);
        // Without an input the library sends an empty text, not nothing.
        for (const [id, input, arrived] of [
            ["started", { flour: "rye", grams: 750.5 }, { flour: "rye", grams: 750.5 }],
            ["a b:c@d", [1, "ü", null], [1, "ü", null]],
            ["nothing", null, null],
            ["undefined", undefined, ""],
        ]) {
            await listening(client, `${mode} ${id}`, input);
            assert.deepEqual((await wire(client, encodeURIComponent(`${mode} ${id}`))).input, arrived, id);
        }
        assert.ok(await client.startNew("Race", { version: "2.0 beta", input: 1 }));
    },

    async status(client, mode) {
        const before = Date.now() - 1_000; // Times come in whole seconds, cut.
        const id = await listening(client, `${mode}-status`, { secret: 1 });
        const running = await client.getStatus(id, { showHistory: true, showHistoryOutput: true, showInput: true });
        assert.equal(running.name, "Listen");
        assert.equal(running.instanceId, id);
        assert.deepEqual(running.input, { secret: 1 });
        assert.equal(running.customStatus, "listening");
        assert.equal(running.output, null);
        for (const time of [running.createdTime, running.lastUpdatedTime]) {
            assert.ok(time.getTime() >= before && time.getTime() <= Date.now(), `${time}`);
        }
        const hidden = await client.getStatus(id, { showInput: false });
        // By `rpcBaseUrl` the library never says that it wants no input.
        assert.deepEqual(hidden.input, mode === "rpc" ? { secret: 1 } : null);
        const done = await client.getStatus(await completed(client, `${mode}-status-done`));
        assert.ok([1, 2].includes(done.output), `${done.output}`);
        const broken = await client.getStatus(await failed(client, `${mode}-status-failed`));
        assert.equal(broken.output, "Orchestrator function 'FailActivity' failed: the oven is cold");
        const elsewhere = client.getStatus(id, { taskHubName: "Elsewhere", connectionName: "Storage" });
        await assert.rejects(elsewhere, /HTTP 404/);
    },

    async list(client, mode) {
        const from = new Date();
        const done = await completed(client, `${mode}-list-done`);
        const broken = await failed(client, `${mode}-list-failed`);
        const open = await listening(client, `${mode}-list-open`, 1);
        const ids = async (filter) => (await client.getStatusBy(filter)).map((it) => it.instanceId);
        const status = df.OrchestrationRuntimeStatus;
        assert.deepEqual(await ids({ createdTimeFrom: from }), [done, broken, open]);
        assert.deepEqual(await ids({ createdTimeFrom: from, runtimeStatus: [status.Failed, status.Running] }), [broken, open]);
        assert.deepEqual(await ids({ createdTimeFrom: from, createdTimeTo: new Date(from - 1) }), []);
        // Both ends of the time are of the range, and the first may be created in the millisecond of `from`.
        const before = { createdTimeTo: new Date(from - 1), runtimeStatus: [status.Completed] };
        assert.ok(!(await ids(before)).includes(done));
        const [seen] = await client.getStatusBy({ createdTimeFrom: from, runtimeStatus: [status.Running], showInput: true });
        assert.equal(seen.input, 1);
        const all = (await client.getStatusAll()).map((it) => it.instanceId);
        for (const id of [done, broken, open]) assert.ok(all.includes(id), id);
    },

    async paging(client, mode) {
        const from = new Date();
        const expected = [];
        for (let number = 0; number < 230; number += 1) {
            expected.push(await client.startNew("Race", { instanceId: `${mode}-page-${number}` }));
        }
        // Three pages of a hundred; the library follows the tokens.
        const seen = (await client.getStatusBy({ createdTimeFrom: from })).map((it) => it.instanceId);
        assert.deepEqual(seen.slice().sort(), expected.sort());
        assert.equal(new Set(seen).size, 230);
    },

    async raise(client, mode) {
        const id = await listening(client, `${mode}-raise`, "in");
        await client.raiseEvent(id, "nobody waits for this", null);
        await client.raiseEvent(id, "go", { tempC: 24 });
        assert.deepEqual((await becomes(client, id, "Completed")).output, ["in", { tempC: 24 }]);
        await client.raiseEvent(id, "go", 1); // It has ended, of which the library makes nothing.
        await assert.rejects(client.raiseEvent(`${mode}-nobody`, "go", 1), /No instance with ID/);
        const open = await listening(client, `${mode}-raise-open`, 1);
        await assert.rejects(client.raiseEvent(open, "go"), /status code: 400.*Invalid JSON content/); // Without data it sends no body.
        await assert.rejects(client.raiseEvent(open, "go", 1, { taskHubName: "Elsewhere" }), /No instance with ID/);
    },

    async terminate(client, mode) {
        const id = await listening(client, `${mode}-terminate`, 1);
        await client.terminate(id, "power cut");
        assert.equal((await becomes(client, id, "Terminated")).output, "power cut");
        await client.terminate(id, "again"); // It has ended, of which the library makes nothing.
        await assert.rejects(client.terminate(`${mode}-nobody`, "why"), /No instance with ID/);
    },

    async suspend(client, mode) {
        const id = await listening(client, `${mode}-suspend`, 1);
        await client.suspend(id, "lunch break");
        assert.equal((await becomes(client, id, "Suspended")).output, "lunch break");
        await assert.rejects(client.suspend(id, "again"), /status code: 500/);
        await client.raiseEvent(id, "go", 1);
        assert.equal((await client.getStatus(id)).runtimeStatus, "Suspended");
        await assert.rejects(client.suspend(`${mode}-nobody`, "why"), /No instance with ID/);
        await client.suspend(await completed(client, `${mode}-suspend-done`), "why");
    },

    async resume(client, mode) {
        const id = await listening(client, `${mode}-resume`, "in");
        await assert.rejects(client.resume(id, "not yet"), /status code: 500/);
        await client.suspend(id, "lunch");
        await becomes(client, id, "Suspended");
        await client.raiseEvent(id, "go", "later");
        await client.resume(id, "back again");
        assert.deepEqual((await becomes(client, id, "Completed")).output, ["in", "later"]);
        const kinds = (await wire(client, id)).historyEvents.map((event) => event.EventType);
        for (const kind of ["ExecutionSuspended", "ExecutionResumed"]) assert.ok(kinds.includes(kind), `${kinds}`);
        await assert.rejects(client.resume(`${mode}-nobody`, "why"), /No instance with ID/);
        await client.resume(id, "it has ended");
    },

    async rewind(client, mode) {
        const id = await failed(client, `${mode}-rewind`);
        await client.rewind(id, "oven fixed");
        const rewound = await eventually("the rewind", async () => {
            const { historyEvents } = await wire(client, id);
            return historyEvents?.find((event) => event.EventType === "ExecutionRewound");
        });
        assert.equal(rewound.Reason, "oven fixed");
        await becomes(client, id, "Failed"); // The oven is as cold as before.
        await assert.rejects(client.rewind(`${mode}-nobody`, "why"), /No instance with ID|nobody/);
        await assert.rejects(client.rewind(await completed(client, `${mode}-rewind-done`), "why"), /status code: 410/);
        const open = await listening(client, `${mode}-rewind-open`, 1);
        // The server's own words, which are no object.
        await assert.rejects(client.rewind(open, "why"), (error) => error.message.includes(open));
    },

    async purge(client, mode) {
        const id = await completed(client, `${mode}-purge`);
        assert.deepEqual(await client.purgeInstanceHistory(id), { instancesDeleted: 1 });
        assert.equal((await client.purgeInstanceHistory(id)).instancesDeleted, 0);
        await assert.rejects(client.getStatus(id), /HTTP 404/);
        const open = await listening(client, `${mode}-purge-open`, 1);
        await assert.rejects(client.purgeInstanceHistory(open), /status code: 412/);
    },

    async purgeByFilter(client, mode) {
        const createdTimeFrom = new Date();
        const ids = ["a", "b", "c"].map((name) => `${mode}-purge-${name}`);
        for (const id of ids) await completed(client, id);
        const broken = await failed(client, `${mode}-purge-failed`);
        const open = await listening(client, `${mode}-purge-still-open`, 1);
        const createdTimeTo = new Date(Date.now() + 1_000);
        const runtimeStatus = [df.OrchestrationRuntimeStatus.Completed];
        const purge = (filter) => client.purgeInstanceHistoryBy({ createdTimeFrom, createdTimeTo, ...filter });
        assert.equal((await purge({ runtimeStatus })).instancesDeleted, 3);
        assert.equal((await purge({ runtimeStatus })).instancesDeleted, 0);
        for (const id of ids) await assert.rejects(client.getStatus(id), /HTTP 404/);
        assert.equal((await purge({})).instancesDeleted, 1);
        await assert.rejects(client.getStatus(broken), /HTTP 404/);
        assert.equal((await client.getStatus(open)).runtimeStatus, "Running");
        assert.equal((await purge({ runtimeStatus: [df.OrchestrationRuntimeStatus.Running] })).instancesDeleted, 0);
    },

    async urls(client, mode, binding) {
        const id = await listening(client, `${mode}-urls`, "in");
        const payload = client.createHttpManagementPayload(id);
        assert.deepEqual(Object.keys(payload).sort(), Object.keys(binding.managementUrls).sort());
        assert.equal(payload.id, id);
        assert.equal((await fetch(payload.statusQueryGetUri)).status, 202);
        const event = payload.sendEventPostUri.replace("{eventName}", "go");
        const json = { method: "POST", headers: { "content-type": "application/json" }, body: "[]" };
        assert.equal((await fetch(event, json)).status, 202);
        await becomes(client, id, "Completed");
        assert.equal((await fetch(payload.terminatePostUri.replace("{text}", "late"), { method: "POST" })).status, 410);
        // In an answer to a user's request the URLs begin as that request's did.
        const request = { url: "https://shop.example/api/orders?x=1" };
        const response = client.createCheckStatusResponse(request, id);
        assert.equal(response.status, 202);
        assert.equal(response.headers.get("retry-after"), "10");
        const theirs = `https://shop.example${new URL(payload.statusQueryGetUri).pathname}`;
        assert.ok(response.headers.get("location").startsWith(`${theirs}?`), response.headers.get("location"));
        assert.equal((await response.json()).statusQueryGetUri, response.headers.get("location"));
    },

    async wait(client, mode) {
        const request = { url: "https://shop.example/api/orders" };
        const wait = (id, timeoutInMilliseconds) =>
            client.waitForCompletionOrCreateCheckStatusResponse(request, id, {
                timeoutInMilliseconds,
                retryIntervalInMilliseconds: 20,
            });
        const done = await wait(await client.startNew("Sequence", { input: { count: 3 } }), DEADLINE_MS);
        assert.deepEqual([done.status, await done.json()], [200, [0, 1, 2]]);
        const broken = await wait(await client.startNew("FailActivity", { input: null }), DEADLINE_MS);
        assert.deepEqual([broken.status, (await broken.json()).runtimeStatus], [500, "Failed"]);
        const id = await listening(client, `${mode}-wait`, 1);
        const open = await wait(id, 100);
        assert.deepEqual([open.status, (await open.json()).id], [202, id]);
        await client.terminate(id, "enough");
        assert.equal((await wait(id, DEADLINE_MS)).status, 200);
    },

    async errors(client, mode) {
        await assert.rejects(client.startNew("NobodyHasThis"), /status code: 400.*NobodyHasThis/);
        await assert.rejects(client.startNew("Race", { instanceId: "@counter" }), /status code: 400/);
        const live = await listening(client, `${mode}-live`, 1);
        await assert.rejects(client.startNew("Race", { instanceId: live }), (error) => /status code: 409/.test(error.message) && error.message.includes(live));
        await assert.rejects(client.getStatus(`${mode}-nobody`), /HTTP 404/);
        // A fault of the orchestration itself: 500 in the edition of 2018, which the prefix for workers does not have.
        const id = await client.startNew("Panic");
        const seen = await eventually("the fault", async () => {
            const { runtimeStatus } = await wire(client, id);
            return runtimeStatus === "Failed" && client.getStatus(id).catch((error) => error);
        });
        if (mode === "rpc") assert.equal(seen.runtimeStatus, "Failed");
        else assert.match(seen.message, /status code: 500/);
    },
};

async function main([bindingUrl, mode, ...wanted]) {
    assert.ok(["rpc", "urls"].includes(mode), `there is no mode ${mode}`);
    const reply = await fetch(bindingUrl);
    assert.equal(reply.status, 200, `${bindingUrl} answers ${reply.status}`);
    const binding = await reply.json();
    if (mode === "urls") delete binding.rpcBaseUrl;
    else assert.ok(binding.rpcBaseUrl, "the server has no prefix for workers");
    // Without this the library believes itself on a developer's machine and calls localhost:7071.
    process.env.WEBSITE_HOSTNAME = new URL(bindingUrl).host;
    const input = df.input.durableClient();
    const client = df.getClient({ options: { extraInputs: [input] }, extraInputs: { get: () => binding } });
    for (const step of wanted.length > 0 ? wanted : Object.keys(steps)) {
        assert.ok(Object.hasOwn(steps, step), `there is no step ${step}`);
        try {
            await steps[step](client, mode, binding);
        } catch (error) {
            throw new Error(`${step} does not hold`, { cause: error });
        }
        console.log(`ok ${step}`);
    }
}

main(process.argv.slice(2)).catch((error) => {
    console.error(error);
    process.exitCode = 1;
});
