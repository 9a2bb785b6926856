//! Nothing crosses task hubs: names, instances, events, logs, environments, secrets, code.

use std::fs;

use serde_json::{Value, json};

use crate::support::server::HUB;
use crate::support::{Client, P3, Server, Setup, eventually, guests};

/// Secrets as nobody would write them by chance: of the bakery, and of the mill under the same name.
const SECRETS: [(&str, &str); 2] = [("Bakery", "caraway-and-salt-and-rye"), ("Mill", "two-millstones-of-basalt")];

/// A server with the same module in three hubs, of which two have a variable and a secret each.
fn village() -> Server {
    let folder = tempfile::tempdir().expect("make a folder");
    let mut configuration = String::new();
    for (hub, secret) in SECRETS {
        let file = folder.path().join(hub);
        fs::write(&file, secret).expect("write the secret");
        configuration += &format!("[hubs.{hub}]\nenvironment.{hub} = \"here\"\nsecrets.KEY = {{ file = {file:?} }}\n");
        configuration += &format!("secrets.KEY_OF_{hub} = {{ file = {file:?} }}\n");
    }
    let server = Setup { configuration, log: "debug", ..Setup::default() }.start();
    for (hub, _) in SECRETS {
        server.upload(hub, "guests", guests::test_guests());
    }
    server
}

/// Asks for what belongs to `instance` of `hub`: a path behind it, or nothing.
fn url(hub: &str, instance: &str, rest: &str) -> String {
    format!("{P3}/instances/{instance}{rest}?taskHub={hub}")
}

fn start(server: &Server, hub: &str, id: &str, function: &str, input: &Value) {
    let reply = server.post(&format!("{P3}/orchestrators/{function}/{id}?taskHub={hub}"), input.to_string());
    assert_eq!(reply.status, 202, "{function} in {hub}: {reply}");
}

/// Waits for the end of an instance, and returns its status with its history.
fn finished(server: &Server, hub: &str, id: &str) -> Value {
    eventually(&format!("the end of {id} in {hub}"), || {
        let reply = server.get(&(url(hub, id, "") + "&edition=current&showHistory=true&showHistoryOutput=true"));
        (reply.status == 200).then(|| reply.json())
    })
}

#[test]
fn an_instance_of_one_hub_is_not_seen_steered_or_heard_of_in_another() {
    let server = village();
    let json = server.with_header("content-type", "application/json");
    start(&server, "Bakery", "loaf", "Forever", &json!(1));
    start(&server, "Mill", "flour", "Forever", &json!(2));
    for (what, method) in [("", "GET"), ("/logs", "GET"), ("/why", "GET"), ("/query/where", "GET"), ("", "DELETE")] {
        let reply = json.send(method, &url("Mill", "loaf", what), b"");
        assert_eq!(reply.status, 404, "{method} {what}: {reply}");
    }
    for what in ["/raiseEvent/approved", "/terminate", "/suspend", "/resume", "/rewind", "/restart"] {
        let reply = json.post(&url("Mill", "loaf", what), "1");
        // The contract wants 400 for a restart of what is not there.
        assert_eq!(reply.status, if what == "/restart" { 400 } else { 404 }, "{what}: {reply}");
    }
    let listed = |hub: &str| -> Vec<Value> {
        let list = server.get(&format!("{P3}/instances?taskHub={hub}")).json();
        list.as_array().expect("a list").iter().map(|row| row["instanceId"].clone()).collect()
    };
    assert_eq!((listed("Bakery"), listed("Mill"), listed(HUB)), (vec![json!("loaf")], vec![json!("flour")], vec![]));
    // A purge of everything in one hub.
    assert_eq!(json.post(&url("Bakery", "loaf", "/terminate"), "").status, 202);
    finished(&server, "Bakery", "loaf");
    let purge = server.send("DELETE", &format!("{P3}/instances?taskHub=Mill&createdTimeFrom=2000-01-01T00:00:00Z"), b"");
    assert_eq!(purge.status, 404, "there is nothing to purge: {purge}");
    assert_eq!(listed("Bakery"), ["loaf"]);
}

#[test]
fn an_event_and_a_child_stay_in_the_hub_of_who_sends_them() {
    let server = village();
    // One of this name waits in the mill. In the bakery another one is started, and sent what both wait for.
    start(&server, "Mill", "waiting", "Collect", &json!(3));
    start(&server, "Bakery", "sender", "StartAndSend", &json!({"to": "waiting", "count": 3}));
    assert_eq!(finished(&server, "Bakery", "waiting")["output"], json!([0, 1, 2]));
    let other = server.get(&(url("Mill", "waiting", "") + "&showHistory=true"));
    assert!(other.status == 202 && !other.text().contains("EventRaised"), "{other}");
    assert_eq!(server.get(&url("Mill", "sender", "")).status, 404);
}

#[test]
fn functions_of_another_hub_are_not_called_by_anybody() {
    let server = village();
    server.upload("Mill", "hello", guests::hello_sequence());
    for (id, function) in [("activity", "CallWithText"), ("child", "CallChild")] {
        let input = if id == "activity" {
            json!(["E1_SayHello", "Tokyo"])
        } else {
            json!({"function": "E1_HelloSequence", "input": null})
        };
        start(&server, "Bakery", id, function, &input);
        let status = finished(&server, "Bakery", id).to_string();
        assert!(status.contains("Failed") && status.contains("no module in this task hub"), "{status}");
    }
    start(&server, "Mill", "activity", "CallWithText", &json!(["E1_SayHello", "Tokyo"]));
    assert_eq!(finished(&server, "Mill", "activity")["output"], "Hello Tokyo!");
    // The same bytes are in three hubs. Taking them out of one leaves them to the others.
    assert_eq!(server.send("DELETE", "/admin/modules/guests?taskHub=Bakery", b"").status, 200);
    assert_eq!(server.output("Sequence", r#"{"count":2}"#), json!([0, 1]));
}

#[test]
fn variables_and_secrets_are_those_of_the_own_hub() {
    let server = village();
    for (own, other) in [("Bakery", "Mill"), ("Mill", "Bakery")] {
        start(&server, own, "own", "CallWithText", &json!(["Tell", own]));
        assert_eq!(finished(&server, own, "own")["output"], "here");
        for (id, name) in [("variable", other.to_owned()), ("secret", format!("KEY_OF_{other}"))] {
            start(&server, own, id, "CallWithText", &json!(["Mumble", name]));
            assert_eq!(finished(&server, own, id)["runtimeStatus"], "Failed", "{own}: {name}");
        }
        start(&server, own, "durable", "CallWithSecret", &json!(["http://127.0.0.1:1/", format!("KEY_OF_{other}")]));
        let status = finished(&server, own, "durable").to_string();
        assert!(status.contains("InvalidRequest") && status.contains(&format!("KEY_OF_{other}")), "{status}");
    }
    // A hub that the configuration does not name has neither.
    start(&server, HUB, "none", "CallWithText", &json!(["Mumble", "KEY"]));
    assert_eq!(finished(&server, HUB, "none")["runtimeStatus"], "Failed");
}

/// Whatever can be asked of a server is asked, in each hub, after its secrets have been said in every way that guests have.
#[test]
fn a_secret_is_in_no_answer_of_the_server_whoever_asks() {
    let server = village();
    let mut seen = String::new();
    for (hub, secret) in SECRETS {
        for function in ["Mumble", "Tell", "Blurt", "Scream", "Boast"] {
            start(&server, hub, function, "CallWithText", &json!([function, "KEY"]));
            let status = finished(&server, hub, function);
            assert_eq!(status["runtimeStatus"], if function == "Mumble" { "Completed" } else { "Failed" }, "{status}");
        }
        // Names that hold the secret of another hub are the caller's own words; in this one they are nowhere.
        start(&server, hub, "length", "CallWithText", &json!(["Mumble", "KEY"]));
        assert_eq!(finished(&server, hub, "length")["output"], secret.len(), "each hub has its own under that name");
    }
    for hub in ["Bakery", "Mill", HUB] {
        for id in ["Mumble", "Tell", "Blurt", "Scream", "Boast", "nobody"] {
            let all = "&showHistory=true&showHistoryOutput=true&showInput=true";
            for rest in ["", "/logs", "/why", "/query/where"] {
                seen += server.get(&(url(hub, id, rest) + all)).text();
            }
        }
        for path in ["/admin/modules".to_owned(), format!("{P3}/instances"), P3.to_owned()] {
            seen += server.get(&format!("{path}?taskHub={hub}")).text();
        }
    }
    for path in ["/metrics", "/healthz", "/readyz", "/openapi.json"] {
        seen += server.get(path).text();
    }
    seen += &server.log();
    for (hub, secret) in SECRETS {
        assert!(!seen.contains(secret), "the secret of {hub} was told");
    }
    assert!(seen.contains("[secret KEY]"), "what was concealed is marked");
}

/// What a guest says is one line of the server's log, or it could write lines that look like the server's own.
#[test]
fn a_guest_forges_no_line_of_the_servers_log() {
    let server = Server::start();
    let forged = "2026-01-01T00:00:00.000000Z ERROR dacapo: the oven burns";
    let said = format!("bread\n{forged}\r\n\u{1b}[31m{forged}");
    server.output("CallWithText", &json!(["Say", said]).to_string());
    eventually("the line", || server.log().contains("bread").then_some(()));
    let log = server.log();
    assert!(log.contains(forged), "{log}");
    assert!(!log.split(['\n', '\r']).any(|line| line.starts_with(forged)) && !log.contains('\u{1b}'), "{log:?}");
}

#[test]
fn a_module_is_not_told_apart_by_who_else_has_it() {
    let server = Server::start();
    let stranger = Client::new(&server.origin);
    let first = stranger.put("/admin/modules/copy?taskHub=Bakery", guests::test_guests());
    assert_eq!(first.status, 201, "new to this hub, whoever else has the same bytes: {first}");
    assert_eq!(first.json()["liveInstances"], 0);
}

#[test]
fn loops_of_one_hub_hold_up_no_turn_of_the_same_module_in_another() {
    let server = village();
    // More than the machine has threads for such turns; each ends with its bound, after a second of CPU.
    for number in 0..200 {
        start(&server, "Bakery", &format!("loop-{number}"), "Loop", &Value::Null);
    }
    start(&server, "Mill", "flour", "Sequence", &json!({"count": 3}));
    let flour = finished(&server, "Mill", "flour");
    assert_eq!(flour["runtimeStatus"], "Completed", "{flour}");
    let reply = server.get(&format!("{P3}/instances?taskHub=Bakery&runtimeStatus=Running,Pending&top=1"));
    assert_eq!(reply.json().as_array().map(Vec::len), Some(1), "the loops are not done: {reply}");
}
