//! Stores that are configured beside the one in the data directory: requests name them with `connection`, and each is a world of its own.

use std::path::Path;
use std::process::Command;

use dacapo::limits::Limits;
use serde_json::json;

use super::PREFIXES;
use crate::support::server::{HUB, PROGRAM, run_to_end};
use crate::support::{Client, P3, Server, Setup, eventually, guests};

/// A server with the store `Archive` in `folder`, and the test guests in the default store alone.
fn with_archive(folder: &Path, setup: Setup) -> Server {
    let configuration = format!("[stores.Archive]\ndata = {:?}\n", folder.join("archive"));
    Setup { configuration, ..setup }.start()
}

/// Uploads a module to the default hub of the store `Archive`.
fn upload(server: &Client, name: &str, bytes: &[u8]) {
    let reply = server.put(&format!("/admin/modules/{name}?connection=archive"), bytes);
    assert_eq!(reply.status, 201, "{reply}");
}

fn names(server: &Client, query: &str) -> Vec<String> {
    let reply = server.get(&format!("/admin/modules?{query}"));
    assert_eq!(reply.status, 200, "{reply}");
    let modules = reply.json();
    let names =
        modules.as_array().expect("a list").iter().map(|module| module["name"].as_str().expect("a name is text").to_owned());
    names.collect()
}

/// Whatever was acknowledged there repeats itself.
fn verify(folder: &Path) {
    dacapo::engine::verify(&folder.join("archive"), &Limits::default()).expect("what is stored there repeats itself");
}

#[test]
fn two_stores_know_nothing_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = with_archive(folder.path(), Setup::default());
    assert_eq!(names(&server, "connection=Archive"), [""; 0]);
    let start =
        |server: &Server, query: &str, input: &str| server.post(&format!("{P3}/orchestrators/Forever/a?{query}"), input).status;
    assert_eq!(start(&server, "connection=Archive", "2"), 400, "nobody has this orchestrator there");
    upload(&server, "guests", guests::test_guests());
    upload(&server, "hello", guests::hello_sequence());
    assert_eq!(
        (names(&server, ""), names(&server, "connection=ARCHIVE")),
        (vec!["guests".into()], vec!["guests".into(), "hello".into()])
    );

    // The same ID, once here and once there.
    assert_eq!([start(&server, "", "1"), start(&server, "connection=archive", "2")], [202, 202]);
    assert_eq!(start(&server, "connection=Archive", "3"), 409);
    server.stop();
    server.restart();
    let input = |query: &str| server.status("a", query).member("input");
    assert_eq!((input("connection=Storage"), input("connection=Archive")), ("1".into(), "2".into()));
    for prefix in PREFIXES {
        let listed = server.get(&format!("{prefix}/instances?connection=aRCHIVE&showInput=true")).json();
        assert_eq!((listed.as_array().unwrap().len(), &listed[0]["input"]), (1, &json!(2)), "{prefix}");
    }

    // What is done there is done there alone.
    let there =
        |method: &str, below: &str| server.send(method, &format!("{P3}/instances/a{below}?connection=Archive"), b"").status;
    assert_eq!([there("POST", "/suspend"), there("POST", "/resume"), there("POST", "/terminate")], [202; 3]);
    assert_eq!(server.status("a", "connection=Archive").member("runtimeStatus"), "\"Terminated\"");
    assert_eq!(there("DELETE", ""), 200);
    assert_eq!((there("GET", ""), server.status("a", "").status), (404, 202));
    let deleted = server.send("DELETE", "/admin/modules/guests?connection=Archive", b"");
    assert_eq!(deleted.status, 200, "{deleted}");
    assert_eq!((names(&server, ""), names(&server, "connection=Archive")), (vec!["guests".into()], vec!["hello".into()]));
    let hello = server.post(&format!("{P3}/orchestrators/E1_HelloSequence?connection=Archive&timeout=60"), "");
    assert_eq!(hello.status, 200, "{hello}");
    server.stop();
    verify(folder.path());
}

#[test]
fn urls_name_the_store_as_it_is_configured_and_lead_back_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_archive(folder.path(), Setup::default());
    upload(&server, "guests", guests::test_guests());
    for prefix in PREFIXES {
        let reply = server.post(&format!("{prefix}/orchestrators/Forever?connection=+aRCHIVE+"), "");
        assert_eq!(reply.status, 202, "{reply}");
        let query = format!("?taskHub={HUB}&connection=Archive");
        let location = reply.header("location").unwrap();
        assert!(location.ends_with(&query), "{reply}");
        assert_eq!(server.get(location).json()["name"], "Forever");
        let terminate = reply.json()["terminatePostUri"].as_str().unwrap().replace("{text}", "over");
        assert_eq!(server.post(&terminate, "").status, 202, "{terminate}");
    }
    let binding = server.get(&format!("{P3}?connection=archive")).json();
    let status = binding["managementUrls"]["statusQueryGetUri"].as_str().unwrap().to_owned();
    assert!(status.contains("&connection=Archive"), "{status}");
    let document = server.get("/openapi.json").json();
    let parameters = document["paths"]["/admin/modules"]["get"]["parameters"].as_array().unwrap().clone();
    let connection = parameters.iter().find(|parameter| parameter["name"] == "connection").unwrap();
    assert_eq!(connection["schema"]["enum"], json!(["Storage", "Archive", ""]));
}

#[test]
fn an_unknown_store_is_refused_with_the_names_of_those_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_archive(folder.path(), Setup::default());
    for (method, path) in [
        ("POST", "/runtime/webhooks/durabletask/orchestrators/Forever"),
        ("GET", "/runtime/webhooks/durabletask/instances/a"),
        ("GET", "/admin/modules"),
        ("PUT", "/admin/modules/guests"),
    ] {
        let reply = server.send(method, &format!("{path}?connection=Archives"), b"");
        assert_eq!(reply.status, 400, "{method} {path}: {reply}");
        let sentence = r#"connection \"Archives\" is not configured; there is \"Storage\" (the default) and \"Archive\""#;
        assert!(reply.text().contains(sentence), "{method} {path}: {reply}");
    }
}

#[test]
fn a_capability_link_opens_nothing_in_another_store() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup { keys: true, arguments: &["--capability-links", "600"], ..Setup::default() };
    let server = with_archive(folder.path(), setup);
    upload(&server, "guests", guests::test_guests());
    for connection in ["Storage", "Archive"] {
        let reply = server.post(&format!("{P3}/orchestrators/Forever/a?connection={connection}"), "");
        let link = reply.json()["statusQueryGetUri"].as_str().unwrap().to_owned();
        let stranger = Client::new(&server.origin);
        assert_eq!(stranger.get(&link).status, 202, "{link}");
        assert_eq!(stranger.get(&link.replace(connection, &connection.to_uppercase())).status, 202, "{link}");
        let other = if connection == "Storage" { "Archive" } else { "Storage" };
        assert_eq!(stranger.get(&link.replace(connection, other)).status, 401, "{link}");
    }
}

#[test]
fn a_server_counts_what_is_done_in_all_stores_and_is_ready_when_all_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = with_archive(folder.path(), Setup::default());
    upload(&server, "guests", guests::test_guests());
    for connection in ["Storage", "Archive", "Archive"] {
        assert_eq!(server.post(&format!("{P3}/orchestrators/Forever?connection={connection}"), "").status, 202);
    }
    let has = |line: &str| server.get("/metrics").text().lines().any(|seen| seen == line);
    assert!(has("dacapo_instances_started_total 3") && has("dacapo_instances_open 3"), "{}", server.get("/metrics"));
    server.kill();
    server.restart();
    eventually("readiness", || (server.get("/readyz").status == 200).then_some(()));
    let ids = |connection: &str| server.get(&format!("{P3}/instances?connection={connection}")).json().as_array().unwrap().len();
    assert_eq!([ids("Storage"), ids("Archive")], [1, 2]);
}

#[test]
fn no_two_stores_have_the_same_directory() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::write(folder.path().join("dacapo.toml"), format!("[stores.Archive]\ndata = {:?}\n", data.join("../data"))).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg("--config").arg(folder.path().join("dacapo.toml"));
    command.args(["--no-auth", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
    let output = run_to_end(&mut command);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("which store \"Storage\" has: give it one of its own"), "{said}");
}
