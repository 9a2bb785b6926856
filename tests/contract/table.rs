//! The wire contract row by row: each operation, each condition, its status code, body and headers, on every prefix.
//!
//! A row says what it shows, what is asked, and what comes back. Where a path names a state in braces, such as `{Running}`, there stands
//! the ID of an instance of that state, made for this row and prefix alone, so rows cannot disturb each other.

use std::cell::Cell;

use super::PREFIXES;
use crate::support::{Client, Reply, Server, Setup, eventually, golden};

use self::Form::{Empty, Exactly, Links, List, Long, Nothing, Short, Status, Text};

/// The prefix for workers, on which the codes of a status are always those of the newest edition.
const WORKERS: &str = PREFIXES[3];

const JSON: &str = "application/json; charset=utf-8";

/// What a body looks like.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// Nothing at all, and no content type.
    Empty,
    /// The check-status object, with the headers that belong to it.
    Links,
    /// The status object; with `Location` and `Retry-After` if the code is 202.
    Status,
    /// An array of status objects, as it is when nothing follows.
    List,
    /// The same without any.
    Nothing,
    /// This JSON, byte for byte.
    Exactly(&'static str),
    /// A JSON string that names the instance.
    Text,
    /// The short error object.
    Short,
    /// The long error object with this label.
    Long(&'static str),
}

const ARGUMENT: Form = Long("One or more of the arguments submitted is incorrect");
const NOT_JSON: Form = Long("Invalid JSON content");

/// A row of the contract.
struct Row {
    shows: &'static str,
    /// Method and path behind the prefix.
    asks: String,
    content_type: &'static str,
    body: &'static str,
    code: u16,
    /// The code on the prefix for workers.
    code_for_workers: u16,
    form: Form,
    golden: Option<&'static str>,
}

/// One that is asked without a body.
fn row(shows: &'static str, asks: impl Into<String>, code: u16, form: Form) -> Row {
    Row { shows, asks: asks.into(), content_type: "", body: "", code, code_for_workers: code, form, golden: None }
}

impl Row {
    fn sending(self, content_type: &'static str, body: &'static str) -> Self {
        Self { content_type, body, ..self }
    }

    /// With another code on the prefix for workers.
    fn for_workers(self, code_for_workers: u16) -> Self {
        Self { code_for_workers, ..self }
    }

    /// With a body that is kept as `golden/{name}.json`.
    fn kept_as(self, name: &'static str) -> Self {
        Self { golden: Some(name), ..self }
    }
}

/// Makes instances of each state.
struct Bench {
    server: Server,
    made: Cell<u32>,
}

impl Bench {
    fn new() -> Self {
        Self { server: Server::start(), made: Cell::new(0) }
    }

    /// A new instance of this state, by its ID. `New` and `Nobody` are IDs that no instance has.
    fn instance(&self, state: &str) -> String {
        self.made.set(self.made.get() + 1);
        let (server, id) = (&self.server, format!("{state}-{}", self.made.get()));
        let act = |verb: &str, query: &str| {
            let reply = server.post(&format!("{}/instances/{id}/{verb}?{query}", PREFIXES[2]), "");
            assert_eq!(reply.status, 202, "{verb} {id}: {reply}");
        };
        let becomes = |status: &str| {
            eventually(status, || (server.status(&id, "").json()["runtimeStatus"] == status).then_some(()));
        };
        match state {
            "New" | "Nobody" => return id,
            "Completed" => server.start_as(&id, "Race", "1"),
            "Failed" => server.start_as(&id, "FailActivity", "1"),
            "Faulted" => server.start_as(&id, "Panic", "1"),
            "Running" | "Terminated" | "Suspended" => {
                server.start_as(&id, "Listen", "1");
                becomes("Running");
            }
            other => panic!("no instance can be {other}"),
        }
        match state {
            "Terminated" => act("terminate", "reason=power+cut"),
            "Suspended" => act("suspend", "reason=lunch"),
            _ => (),
        }
        becomes(if state == "Faulted" { "Failed" } else { state });
        id
    }

    /// Asks what the row asks, on `prefix`.
    #[track_caller]
    fn check(&self, row: &Row, prefix: &str) {
        let (method, pattern) = row.asks.split_once(' ').expect("a method and a path");
        let (path, id) = match pattern.split_once('{') {
            None => (pattern.to_owned(), None),
            Some((before, rest)) => {
                let (state, after) = rest.split_once('}').expect("a state in braces");
                let id = self.instance(state);
                (format!("{before}{id}{after}"), Some(id))
            }
        };
        let url = format!("{}{prefix}{path}", self.server.origin);
        let client = match row.content_type {
            "" => (*self.server).clone(),
            kind => self.server.with_header("content-type", kind),
        };
        let reply = client.send(method, &url, row.body.as_bytes());
        let code = if prefix == WORKERS { row.code_for_workers } else { row.code };
        let about = format!("{}: {method} {url}: {reply}", row.shows);
        assert_eq!(reply.status, code, "{about}");
        body(&reply, row.form, id.as_deref(), &about);
        headers(&reply, row.form, &url, &about);
        if let Some(name) = row.golden {
            let drawn = reply.json()["id"].as_str().map(str::to_owned);
            let id = id.or(drawn).unwrap_or_else(|| "no ID".to_owned());
            golden::check(name, reply.text(), &[(&self.server.origin, "http://server"), (&id, "<id>")]);
        }
    }
}

#[track_caller]
fn body(reply: &Reply, form: Form, id: Option<&str>, about: &str) {
    const STATUS: [&str; 8] =
        ["name", "instanceId", "runtimeStatus", "input", "customStatus", "output", "createdTime", "lastUpdatedTime"];
    match form {
        Empty => assert_eq!(reply.text(), "", "{about}"),
        Exactly(text) => assert_eq!(reply.text(), text, "{about}"),
        Links => {
            let keys = reply.keys();
            assert!(keys[0] == "id" && keys.len() == 9 && keys[8] == "rewindPostUri", "{about}");
        }
        Status => assert_eq!(reply.keys()[..8], STATUS, "{about}"),
        List => {
            let list = reply.json();
            let list = list.as_array().unwrap_or_else(|| panic!("{about}"));
            assert!(list.iter().all(|it| it.as_object().is_some_and(|it| it.len() == STATUS.len())), "{about}");
        }
        Text => {
            let text = reply.json();
            let text = text.as_str().unwrap_or_else(|| panic!("{about}"));
            assert!(!text.is_empty() && id.is_none_or(|id| text.contains(id)), "{about}");
        }
        Nothing => assert_eq!(reply.text(), "[]", "{about}"),
        Short => assert_eq!(reply.keys(), ["Message"], "{about}"),
        Long(message) => {
            assert_eq!(reply.keys(), ["Message", "ExceptionMessage", "ExceptionType", "StackTrace"], "{about}");
            let error = reply.json();
            assert!(message.is_empty() || error["Message"] == message, "{about}");
            assert!(error["ExceptionMessage"].as_str().is_some_and(|text| !text.is_empty()), "{about}");
        }
    }
}

#[track_caller]
fn headers(reply: &Reply, form: Form, url: &str, about: &str) {
    let (location, retry) = match form {
        Links => (reply.json()["statusQueryGetUri"].as_str().map(str::to_owned), Some("10")),
        Status if reply.status == 202 => (Some(url.to_owned()), Some("5")),
        _ => (None, None),
    };
    assert_eq!((reply.header("location"), reply.header("retry-after")), (location.as_deref(), retry), "{about}");
    let content_type = if matches!(form, Empty) { None } else { Some(JSON) };
    assert_eq!(reply.header("content-type"), content_type, "{about}");
    assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()), "{about}");
    let token = if matches!(form, List | Nothing) { Some("") } else { None };
    assert_eq!(reply.header("x-ms-continuation-token"), token, "{about}");
}

/// Goes through all rows on all prefixes.
#[track_caller]
fn check(rows: impl IntoIterator<Item = Row>) {
    let bench = Bench::new();
    for row in rows {
        PREFIXES.iter().for_each(|prefix| bench.check(&row, prefix));
    }
}

/// `rows`, and what no operation on one instance takes, whatever it is: `method` on what is `below` an instance of this state.
fn with_strangers<const N: usize>(rows: [Row; N], method: &str, state: &str, below: &str) -> impl Iterator<Item = Row> {
    let one = |query: &str| format!("{method} /instances/{{{state}}}{below}?{query}");
    let strangers = [
        row("an ID that can be none is unknown", format!("{method} /instances/{}{below}", "x".repeat(257)), 404, Empty),
        row("a hub that nobody has is an empty one", one("taskHub=Elsewhere"), 404, Empty),
        row("an ill-formed hub name is refused", one("taskHub=x"), 400, ARGUMENT),
        row("a connection that is not configured is refused", one("connection=Elsewhere"), 400, ARGUMENT),
    ];
    rows.into_iter().chain(strangers)
}

#[test]
fn start() {
    check([
        row("an orchestration is started under a new ID", "POST /orchestrators/Race", 202, Links).sending(JSON, "[1]"),
        row("one may give the ID", "POST /orchestrators/Race/{New}", 202, Links).kept_as("start-with-id"),
        row(
            "hub and connection are those that were asked for",
            "POST /orchestrators/Race?taskHub=+&connection=STORAGE",
            202,
            Links,
        ),
        row(
            "what it does not know it ignores",
            "POST /orchestrators/Race?version=2&x=1&showHistory&connectionName=y",
            202,
            Links,
        ),
        row("the content type says nothing", "POST /orchestrators/Race", 202, Links).sending("text/plain", "{}"),
        row("blanks are no input", "POST /orchestrators/Race", 202, Links).sending("application/octet-stream", " \r\n"),
        row("the function is found in any case", "POST /orchestrators/rACE", 202, Links),
        row("a body has to be JSON", "POST /orchestrators/Race/{New}", 400, NOT_JSON)
            .sending(JSON, "{'a':1}")
            .kept_as("not-json"),
        row("nothing may follow the JSON", "POST /orchestrators/Race", 400, NOT_JSON).sending(JSON, "1 2"),
        row("somebody has to have the orchestrator", "POST /orchestrators/NobodyHasThis", 400, ARGUMENT),
        row("an activity is no orchestrator", "POST /orchestrators/Echo", 400, ARGUMENT),
        row("an ID of an entity is refused", "POST /orchestrators/Race/@x", 400, ARGUMENT).kept_as("bad-id"),
        row("a character that no ID has is refused", "POST /orchestrators/Race/a%23b", 400, ARGUMENT),
        row("an ill-formed hub name is refused", "POST /orchestrators/Race?taskHub=my-hub", 400, ARGUMENT).kept_as("bad-hub"),
        row("a connection that is not configured is refused", "POST /orchestrators/Race?connection=Elsewhere", 400, ARGUMENT)
            .kept_as("bad-connection"),
        row("an ID in use is refused", "POST /orchestrators/Race/{Running}", 409, Short).kept_as("start-conflict"),
        row("the ID of a completed one is free", "POST /orchestrators/Race/{Completed}", 202, Links),
        row("the ID of a failed one is free", "POST /orchestrators/Race/{Failed}", 202, Links),
        row("the ID of a terminated one is free", "POST /orchestrators/Race/{Terminated}", 202, Links),
        row("GET starts nothing", "GET /orchestrators/Race", 404, Empty),
        row("DELETE starts nothing", "DELETE /orchestrators/Race/{New}", 404, Empty),
        row("PUT is understood nowhere", "PUT /orchestrators/Race/{New}", 405, Empty),
        row("a function has a name", "POST /orchestrators", 404, Empty),
    ]);
}

#[test]
fn start_and_wait() {
    check([
        row(
            "an end in time is the bare output",
            "POST /orchestrators/Sequence?timeout=60&pollingInterval=0.5",
            200,
            Exactly("[0,1]"),
        )
        .sending(JSON, r#"{"count":2}"#),
        row("no output is null", "POST /orchestrators/Status/{New}?timeout=60", 200, Exactly("null")),
        row("a failure in time is the status", "POST /orchestrators/FailActivity/{New}?timeout=60", 200, Status)
            .kept_as("wait-failed"),
        row(
            "a failure in time is 200 even if it was to be 500",
            "POST /orchestrators/Panic?timeout=60&returnInternalServerErrorOnFailure=true",
            200,
            Status,
        ),
        row("the query says what the status shows", "POST /orchestrators/FailActivity?timeout=60&showHistory=True", 200, Status),
        row("no end in time is the answer of a start", "POST /orchestrators/Listen?timeout=0.05", 202, Links),
        row("no time is asking once", "POST /orchestrators/Listen?timeout=0&pollingInterval=-1", 202, Links),
        row("an interval alone waits for nothing", "POST /orchestrators/Listen?pollingInterval=5", 202, Links),
        row(
            "polling slower than the timeout is refused",
            "POST /orchestrators/Race/{New}?timeout=1&pollingInterval=2",
            400,
            ARGUMENT,
        )
        .kept_as("wait-bad-interval"),
        row("an ID in use is refused", "POST /orchestrators/Race/{Running}?timeout=60", 409, Short),
        row("somebody has to have the orchestrator", "POST /orchestrators/NobodyHasThis?timeout=60", 400, ARGUMENT),
    ]);
}

#[test]
fn status() {
    const AS_500: &str = "GET /instances/{Failed}?returnInternalServerErrorOnFailure=TRUE";
    check(with_strangers(
        [
            row("a completed instance", "GET /instances/{Completed}", 200, Status),
            row("a running one, with where and when to ask again", "GET /instances/{Running}", 202, Status)
                .kept_as("status-waiting"),
            row("the query is part of where to ask", "GET /instances/{Running}?showInput=false&x=%2F+y", 202, Status),
            row("a terminated one", "GET /instances/{Terminated}", 400, Status).for_workers(200).kept_as("status-terminated"),
            row("a terminated one, in the edition of today", "GET /instances/{Terminated}?edition=current", 200, Status),
            row("a failed one", "GET /instances/{Failed}", 400, Status).for_workers(200),
            row("a failed one, in the edition of today", "GET /instances/{Failed}?edition=current", 200, Status),
            row("a failed one that is to be 500", AS_500, 500, Status),
            row("one whose guest was at fault", "GET /instances/{Faulted}", 500, Status).for_workers(200),
            row("one whose guest was at fault, today", "GET /instances/{Faulted}?edition=current", 200, Status),
            row("only a failed one is 500", "GET /instances/{Completed}?returnInternalServerErrorOnFailure=true", 200, Status),
            row("a history goes with it", "GET /instances/{Completed}?showHistory=true&showHistoryOutput=true", 200, Status),
            row(
                "a filter of lists has no effect",
                "GET /instances/{Completed}?runtimeStatus=Failed&createdTimeFrom=2999-01-01",
                200,
                Status,
            ),
            row("slashes and case do not count", "GET //INSTANCES/{Completed}/", 200, Status),
            row("no such instance", "GET /instances/{Nobody}", 404, Empty),
            row("no part of an instance has this name", "GET /instances/{Running}/raiseEvent/go", 404, Empty),
            row("POST is no status", "POST /instances/{Running}", 404, Empty),
            row("PATCH is understood nowhere", "PATCH /instances/{Running}", 405, Empty),
        ],
        "GET",
        "Running",
        "",
    ));
}

#[test]
fn list() {
    check([
        row("all of them, always 200", "GET /instances", 200, List),
        row("a slash behind it does not count", "GET /instances/?showInput=False", 200, List),
        row("what matches nothing is empty", "GET /instances?createdTimeFrom=2999-01-01T00:00:00.000Z", 200, Nothing),
        row("an unknown hub is empty", "GET /instances?taskHub=Elsewhere", 200, Nothing),
        row("a history is never shown", "GET /instances?showHistory=true&showHistoryOutput=true", 200, List),
        row("what cannot be read is no filter", "GET /instances?top=x&createdTimeTo=y&runtimeStatus=z&showInput=1", 200, List),
        row("an ill-formed hub name is refused", "GET /instances?taskHub=x", 400, ARGUMENT),
        row("a connection that is not configured is refused", "GET /instances?connection=Elsewhere", 400, ARGUMENT),
        row("nobody can POST to it", "POST /instances", 404, Empty),
    ]);
}

#[test]
fn raise_event() {
    const GO: &str = "POST /instances/{Running}/raiseEvent/go";
    check(with_strangers(
        [
            row("an event is taken", GO, 202, Empty).sending("application/json", "{}"),
            row("parameters and case of the content type do not count", GO, 202, Empty)
                .sending("APPLICATION/Json; charset=utf-8", "1"),
            row("null is an event", GO, 202, Empty).sending(JSON, "null"),
            row("a mark of the byte order is no part of it", GO, 202, Empty).sending(JSON, "\u{feff}1"),
            row("nobody need wait for it", "POST /instances/{Running}/RAISEEVENT/any+name", 202, Empty).sending(JSON, "1"),
            row("no such instance, before all else", "POST /instances/{Nobody}/raiseEvent/go", 404, Empty)
                .sending("text/plain", "{"),
            row("a completed one, before the body", "POST /instances/{Completed}/raiseEvent/go", 410, Empty)
                .sending("text/plain", "{"),
            row("a failed one", "POST /instances/{Failed}/raiseEvent/go", 410, Empty).sending(JSON, "1"),
            row("a terminated one", "POST /instances/{Terminated}/raiseEvent/go", 410, Empty).sending(JSON, "1"),
            row("another content type", GO, 400, Short).sending("text/plain", "{").kept_as("raise-content-type"),
            row("no content type", GO, 400, Short).sending("", "{"),
            row("no body", GO, 400, NOT_JSON).sending(JSON, ""),
            row("no JSON", GO, 400, NOT_JSON).sending(JSON, "{"),
            row("an event has a name", "POST /instances/{Running}/raiseEvent/", 404, Empty).sending(JSON, "1"),
            row("GET raises nothing", "GET /instances/{Running}/raiseEvent/go", 404, Empty),
            row("DELETE raises nothing", "DELETE /instances/{Running}/raiseEvent/go", 404, Empty),
        ],
        "POST",
        "Running",
        "/raiseEvent/go",
    ));
}

#[test]
fn terminate() {
    check(with_strangers(
        [
            row("a running one", "POST /instances/{Running}/terminate?reason=power%20cut", 202, Empty),
            row("a reason is not needed", "POST /instances/{Running}/Terminate", 202, Empty),
            row("DELETE does the same", "DELETE /instances/{Running}/terminate?reason=power+cut", 202, Empty),
            row("a body is not looked at", "POST /instances/{Running}/terminate", 202, Empty).sending(JSON, "{"),
            row("no such instance", "POST /instances/{Nobody}/terminate", 404, Empty),
            row("a completed one", "POST /instances/{Completed}/terminate", 410, Empty),
            row("a failed one", "POST /instances/{Failed}/terminate", 410, Empty),
            row("a terminated one", "DELETE /instances/{Terminated}/terminate", 410, Empty),
            row("GET ends nothing", "GET /instances/{Running}/terminate", 404, Empty),
        ],
        "POST",
        "Running",
        "/terminate",
    ));
}

#[test]
fn suspend() {
    check(with_strangers(
        [
            row("a running one", "POST /instances/{Running}/suspend?reason=lunch", 202, Empty),
            row("no such instance", "POST /instances/{Nobody}/suspend", 404, Empty),
            row("a completed one", "POST /instances/{Completed}/suspend", 410, Empty),
            row("a failed one", "POST /instances/{Failed}/suspend", 410, Empty),
            row("a terminated one", "POST /instances/{Terminated}/suspend", 410, Empty),
            row("one that is suspended", "POST /instances/{Suspended}/suspend", 500, Long("")).kept_as("suspend-twice"),
            row("GET suspends nothing", "GET /instances/{Running}/suspend", 404, Empty),
            row("DELETE suspends nothing", "DELETE /instances/{Running}/suspend", 404, Empty),
            // What the other operations make of one that is suspended.
            row("its status is that of an open one", "GET /instances/{Suspended}", 202, Status).kept_as("status-suspended"),
            row("its ID is in use", "POST /orchestrators/Race/{Suspended}", 409, Short),
            row("it takes events", "POST /instances/{Suspended}/raiseEvent/go", 202, Empty).sending(JSON, "1"),
            row("it can be terminated", "POST /instances/{Suspended}/terminate", 202, Empty),
        ],
        "POST",
        "Running",
        "/suspend",
    ));
}

#[test]
fn resume() {
    check(with_strangers(
        [
            row("a suspended one", "POST /instances/{Suspended}/resume?reason=back", 202, Empty),
            row("no such instance", "POST /instances/{Nobody}/resume", 404, Empty),
            row("a completed one", "POST /instances/{Completed}/resume", 410, Empty),
            row("a failed one", "POST /instances/{Failed}/resume", 410, Empty),
            row("a terminated one", "POST /instances/{Terminated}/resume", 410, Empty),
            row("one that runs", "POST /instances/{Running}/resume", 500, Long("")).kept_as("resume-running"),
            row("GET resumes nothing", "GET /instances/{Suspended}/resume", 404, Empty),
        ],
        "POST",
        "Running",
        "/resume",
    ));
}

#[test]
fn rewind() {
    check(with_strangers(
        [
            row("a failed one", "POST /instances/{Failed}/rewind?reason=oven+fixed", 202, Empty),
            row("no such instance", "POST /instances/{Nobody}/rewind", 404, Empty),
            row("a completed one", "POST /instances/{Completed}/rewind", 410, Empty),
            row("a terminated one", "POST /instances/{Terminated}/rewind", 410, Empty),
            row("a running one", "POST /instances/{Running}/rewind", 412, Text).kept_as("rewind-running"),
            row("a suspended one", "POST /instances/{Suspended}/rewind", 412, Text),
            row("GET rewinds nothing", "GET /instances/{Failed}/rewind", 404, Empty),
        ],
        "POST",
        "Failed",
        "/rewind",
    ));
}

#[test]
fn restart() {
    const OLD_ID: &str = "POST /instances/{Running}/restart?restartWithNewInstanceId=false";
    check([
        row("a completed one, under a new ID", "POST /instances/{Completed}/restart", 202, Links),
        row("a running one, under a new ID", "POST /instances/{Running}/restart?restartWithNewInstanceId=true", 202, Links),
        row("a failed one, under its old ID", "POST /instances/{Failed}/restart?restartWithNewInstanceId=False", 202, Links),
        row("one may wait for it", "POST /instances/{Failed}/restart?timeout=60", 200, Status),
        row("a live one, under its old ID", OLD_ID, 409, Long("")).kept_as("restart-live"),
        row(
            "no such instance, which is no 404",
            "POST /instances/{Nobody}/restart",
            400,
            Long("InstanceId does not match a valid orchestration instance."),
        )
        .kept_as("restart-unknown"),
        row(
            "polling slower than the timeout is refused",
            "POST /instances/{Failed}/restart?timeout=1&pollingInterval=2",
            400,
            ARGUMENT,
        ),
        row("an ill-formed hub name is refused", "POST /instances/{Failed}/restart?taskHub=x", 400, ARGUMENT),
        row("GET restarts nothing", "GET /instances/{Failed}/restart", 404, Empty),
    ]);
}

#[test]
fn purge_one() {
    const ONE: Form = Exactly(r#"{"instancesDeleted":1}"#);
    check(with_strangers(
        [
            row("a completed one", "DELETE /instances/{Completed}", 200, ONE),
            row("a failed one", "DELETE /instances/{Failed}", 200, ONE),
            row("a terminated one", "DELETE /instances/{Terminated}", 200, ONE),
            row("no such instance", "DELETE /instances/{Nobody}", 404, Empty),
            row("a running one", "DELETE /instances/{Running}", 412, Text).kept_as("purge-running"),
            row("a suspended one", "DELETE /instances/{Suspended}", 412, Text),
        ],
        "DELETE",
        "Completed",
        "",
    ));
}

#[test]
fn purge_by_filter() {
    const SOME: Form = Exactly(r#"{"instancesDeleted":1}"#);
    check([
        row("by prefix", "DELETE /instances?createdTimeFrom=2020-01-01T00:00:00Z&instanceIdPrefix={Completed}", 200, SOME),
        row(
            "by status",
            "DELETE /instances/?createdTimeFrom=2020-01-01&runtimeStatus=Failed,Running&instanceIdPrefix={Failed}",
            200,
            SOME,
        ),
        row("a running one stays", "DELETE /instances?createdTimeFrom=2020-01-01&instanceIdPrefix={Running}", 404, Empty),
        row(
            "of another status",
            "DELETE /instances?createdTimeFrom=2020-01-01&runtimeStatus=Failed&instanceIdPrefix={Completed}",
            404,
            Empty,
        ),
        row("only states without an end", "DELETE /instances?createdTimeFrom=2020-01-01&runtimeStatus=Running", 404, Empty),
        row("nobody was created then", "DELETE /instances?createdTimeFrom=2999-01-01T00:00:00Z", 404, Empty),
        row("an end before the beginning", "DELETE /instances?createdTimeFrom=2020-01-01&createdTimeTo=2019-01-01", 404, Empty),
        row("no beginning", "DELETE /instances?instanceIdPrefix=a", 400, Text).kept_as("purge-without-time"),
        row("a beginning that is none", "DELETE /instances?createdTimeFrom=yesterday", 400, Text),
        row("an unknown hub is empty", "DELETE /instances?createdTimeFrom=2020-01-01&taskHub=Elsewhere", 404, Empty),
        row("an ill-formed hub name is refused", "DELETE /instances?createdTimeFrom=2020-01-01&taskHub=x", 400, ARGUMENT),
    ]);
}

#[test]
fn make_primary() {
    check([
        row("there is nothing to move", "POST /makeprimary", 200, Empty),
        row("whatever the verb", "GET /MakePrimary/", 200, Empty),
        row("whatever the verb", "DELETE /makeprimary", 200, Empty),
        row("as long as it is one of the three", "PUT /makeprimary", 405, Empty),
    ]);
}

#[test]
fn what_is_not_in_the_contract_is_not_there() {
    check([
        row("no such operation", "POST /instances/{Running}/bake", 404, Empty),
        row("no such collection", "GET /orchestrations", 404, Empty),
        row("a slash inside an ID is another path", "GET /instances/a%2Fb", 404, Empty),
        row("a broken escape is no path", "GET /instances/a%zz", 404, Empty),
    ]);
}

#[test]
fn without_the_key_every_operation_is_401_with_an_empty_body() {
    let server = Setup { keys: true, ..Setup::default() }.start();
    server.start_as("open", "Listen", "");
    let (stranger, system) = (Client::new(&server.origin), server.key("system"));
    let with_header = |key: &str| stranger.with_header("x-functions-key", key).with_header("content-type", "application/json");
    for prefix in &PREFIXES[..3] {
        for asked in [
            "POST /orchestrators/Race",
            "POST /orchestrators/Race/new?timeout=1",
            "GET /instances/open",
            "GET /instances/nobody",
            "GET /instances",
            "DELETE /instances/open",
            "DELETE /instances?createdTimeFrom=2020-01-01",
            "POST /instances/open/raiseEvent/go",
            "POST /instances/open/terminate",
            "DELETE /instances/open/terminate",
            "POST /instances/open/suspend",
            "POST /instances/open/resume",
            "POST /instances/open/rewind",
            "POST /instances/open/restart",
            "POST /makeprimary",
            "GET ",
            "GET /nothing",
            "PUT /instances/open",
        ] {
            let (method, path) = asked.split_once(' ').expect("a method and a path");
            let (url, mark) = (format!("{prefix}{path}"), if path.contains('?') { '&' } else { '?' });
            let with_code = format!("{url}{mark}code={system}");
            for reply in [
                stranger.send(method, &url, b"1"),
                stranger.send(method, &format!("{url}{mark}code=wrong"), b"1"),
                // The header counts before the query.
                with_header("wrong").send(method, &with_code, b"1"),
                with_header("").send(method, &with_code, b"1"),
            ] {
                assert_eq!((reply.status, reply.text(), reply.header("content-type")), (401, "", None), "{asked} on {prefix}");
            }
        }
        assert_eq!(server.status("open", "").status, 202, "nothing has reached it");
        assert_eq!(server.status("new", "").status, 404);
        let url = format!("{prefix}/instances/open/raiseEvent/nobody+waits");
        for reply in [
            with_header(&system).send("POST", &url, b"1"),
            with_header(&server.key("master")).send("POST", &format!("{url}?code=wrong"), b"1"),
            stranger.with_header("content-type", "application/json").send("POST", &format!("{url}?CODE={system}"), b"1"),
        ] {
            assert_eq!(reply.status, 202, "{reply}");
        }
    }
}
