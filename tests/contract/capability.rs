//! Links that open one operation on one instance, without a key.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::PREFIXES;
use crate::support::server::{PROGRAM, run_to_end};
use crate::support::{Client, P3, Reply, Server, Setup, eventually};

/// The links of a check-status object with the method of each and the query that it is called with here.
const LINKS: [(&str, &str); 8] = [
    ("statusQueryGetUri", "GET"),
    ("sendEventPostUri", "POST"),
    ("terminatePostUri", "POST"),
    ("purgeHistoryDeleteUri", "DELETE"),
    ("restartPostUri", "POST"),
    ("suspendPostUri", "POST"),
    ("resumePostUri", "POST"),
    ("rewindPostUri", "POST"),
];

fn with_links() -> Server {
    Setup { keys: true, arguments: &["--capability-links", "600"], ..Setup::default() }.start()
}

fn start(server: &Server, id: &str) -> Reply {
    let reply = server.post(&format!("{P3}/orchestrators/Forever/{id}"), "");
    assert_eq!(reply.status, 202, "{reply}");
    reply
}

fn link_of(reply: &Reply, name: &str) -> String {
    let link = reply.json()[name].as_str().expect("a link is text").to_owned();
    link.replace("{eventName}", "Go").replace("{text}", "over")
}

/// A client that has no key.
fn stranger(server: &Server) -> Client {
    Client::new(&server.origin).with_header("content-type", "application/json")
}

/// The same link with something of it exchanged, which has to be there.
fn exchanged(link: &str, from: &str, to: &str) -> String {
    assert!(link.contains(from), "{from} in {link}");
    link.replacen(from, to, 1)
}

#[test]
fn every_link_is_signed_and_no_key_is_handed_out() {
    let server = with_links();
    let reply = start(&server, "a");
    for key in ["master", "system"] {
        assert!(!reply.text().contains(&server.key(key)), "{reply}");
    }
    let mut signatures = Vec::new();
    for (name, _) in LINKS {
        let link = link_of(&reply, name);
        let (url, signature) = link.split_once("&signature=").expect("it is signed");
        assert!(url.contains("taskHub=DurableFunctionsHub&connection=Storage&expires=") && !link.contains("code="), "{link}");
        signatures.push(signature.to_owned());
    }
    signatures.sort();
    signatures.dedup();
    assert_eq!(signatures.len(), LINKS.len());
    assert_eq!(reply.header("location"), Some(link_of(&reply, "statusQueryGetUri").as_str()));
}

#[test]
fn a_link_opens_its_own_operation_on_its_own_instance_and_nothing_else() {
    let server = with_links();
    let stranger = stranger(&server);
    let mine = start(&server, "mine");
    start(&server, "other");
    for (name, method) in LINKS {
        let link = link_of(&mine, name);
        let foreign = exchanged(&link, "/instances/mine", "/instances/other");
        let last = if link.ends_with('0') { "1" } else { "0" };
        let wrong = format!("{}{last}", &link[..link.len() - 1]);
        let later = exchanged(&link, "expires=", "expires=9");
        let hub = exchanged(&link, "taskHub=DurableFunctionsHub", "taskHub=Bakery");
        let bare = exchanged(&link, "signature=", "nothing=");
        for url in [foreign, wrong, later, hub, bare, exchanged(&link, "/instances/mine", "/instances")] {
            let reply = stranger.send(method, &url, b"null");
            assert_eq!((reply.status, reply.text()), (401, ""), "{method} {url}");
        }
        let (_, pass) = link.split_once("&expires=").expect("it expires");
        for (another, method) in LINKS.into_iter().filter(|(another, _)| *another != name) {
            let url = link_of(&mine, another);
            let (url, _) = url.split_once("&expires=").expect("it expires");
            let reply = stranger.send(method, &format!("{url}&expires={pass}"), b"null");
            assert_eq!((reply.status, reply.text()), (401, ""), "{name} opens {another}");
        }
    }
    for id in ["mine", "other"] {
        let is_running = || (server.status(id, "").json()["runtimeStatus"] == "Running").then_some(());
        eventually("a first turn, and no end", is_running);
        assert_eq!(server.status(id, "showHistory=true").json()["historyEvents"].as_array().map(Vec::len), Some(1), "{id}");
    }

    let status = link_of(&mine, "statusQueryGetUri");
    let reply = stranger.get(&format!("{status}&showHistory=true&showInput=false"));
    assert_eq!(reply.status, 202, "{reply}");
    assert!(reply.json()["historyEvents"].is_array());
    let echoed = reply.header("location").expect("it is still running").to_owned();
    assert!(echoed.starts_with(&status) && echoed.ends_with("&showHistory=true&showInput=false"), "{echoed}");
    for prefix in &PREFIXES[..3] {
        assert_eq!(stranger.get(&exchanged(&status, P3, prefix)).status, 202, "{prefix}");
    }
    for event in ["Go", "Come", "a b"] {
        let url = mine.json()["sendEventPostUri"].as_str().expect("it is there").replace("{eventName}", &event.replace(' ', "+"));
        assert_eq!(stranger.post(&url, "1").status, 202, "{event}");
    }
    // DELETE is another name of the same operation.
    let terminate = link_of(&mine, "terminatePostUri");
    assert_eq!(stranger.send("DELETE", &terminate, b"").status, 202);
    assert_eq!(stranger.post(&terminate, "").status, 410, "let in");
    assert_eq!(server.status("mine", "edition=current").json()["output"], "over");
}

/// Whatever of the check-status object is served at all, its link opens.
#[test]
fn every_link_whose_operation_there_is_opens_it() {
    let server = with_links();
    let stranger = stranger(&server);
    let document = server.get("/openapi.json").json();
    let mut opened = 0;
    for (number, (name, method)) in LINKS.into_iter().enumerate() {
        let id = format!("i{number}");
        let link = link_of(&start(&server, &id), name);
        let path = link.split('?').next().expect("it has a path").trim_start_matches(&server.origin);
        let template = path.replace(&id, "{instanceId}").replace("/Go", "/{eventName}");
        let is_served = document["paths"][template][method.to_lowercase()].is_object();
        let reply = stranger.send(method, &link, b"null");
        assert_eq!(reply.status != 401, is_served, "{name}: {reply}");
        opened += usize::from(is_served);
    }
    assert!(opened >= 3, "status, raise and terminate are served");
}

#[test]
fn a_header_beats_a_link_as_it_beats_a_code() {
    let server = with_links();
    let (stranger, status) = (stranger(&server), link_of(&start(&server, "a"), "statusQueryGetUri"));
    let with_header = |key: &str| stranger.with_header("x-functions-key", key).get(&status).status;
    assert_eq!((with_header("wrong"), with_header("")), (401, 401));
    assert_eq!(with_header(&server.key("system")), 202);
    // A key opens what a signature does not.
    let broken = format!("{status}0&code={}", server.key("system"));
    assert_eq!(stranger.get(&broken).status, 202);
}

#[test]
fn a_list_and_the_binding_document_take_a_key_and_no_link() {
    let server = with_links();
    let (stranger, status) = (stranger(&server), link_of(&start(&server, "a"), "statusQueryGetUri"));
    let (_, query) = status.split_once('?').expect("it has a query");
    for path in ["", "/instances", "/instances/a/logs", "/instances/a/query/count", "/nothing"] {
        assert_eq!(stranger.get(&format!("{P3}{path}?{query}")).status, 401, "{path}");
    }
    assert_eq!(stranger.post(&format!("{P3}/orchestrators/Forever?{query}"), "").status, 401);
    assert_eq!(stranger.get(&format!("/openapi.json?{query}")).status, 401);
    let code = format!("code={}", server.key("system"));
    let binding = stranger.get(&format!("{P3}?{code}")).json();
    assert!(binding["managementUrls"]["statusQueryGetUri"].as_str().is_some_and(|url| url.ends_with(&code)), "{binding}");
}

#[test]
fn a_link_expires() {
    let server = Setup { keys: true, arguments: &["--capability-links", "1"], ..Setup::default() }.start();
    let (stranger, status) = (stranger(&server), link_of(&start(&server, "a"), "statusQueryGetUri"));
    let reply = eventually("its end", || Some(stranger.get(&status)).filter(|reply| reply.status != 202));
    assert_eq!((reply.status, reply.text()), (401, ""));
}

#[test]
fn links_survive_a_restart_but_not_the_loss_of_their_key() {
    let mut server = with_links();
    let status = link_of(&start(&server, "a"), "statusQueryGetUri");
    let path = status.strip_prefix(&server.origin).expect("it is on this server").to_owned();
    let file = server.data().join("links.key");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    server.stop();
    server.restart();
    assert_eq!(stranger(&server).get(&path).status, 202);
    server.stop();
    std::fs::remove_file(&file).unwrap();
    server.restart();
    assert_eq!(stranger(&server).get(&path).status, 401);
    assert_eq!(server.status("a", "").status, 202, "keys are as they were");
}

#[test]
fn without_the_setting_a_signature_opens_nothing() {
    let mut server = with_links();
    let status = link_of(&start(&server, "a"), "statusQueryGetUri");
    let path = status.strip_prefix(&server.origin).expect("it is on this server").to_owned();
    server.stop();
    server.restart_with_arguments(&[]);
    assert_eq!(stranger(&server).get(&path).status, 401);
    let reply = server.post(&format!("{P3}/orchestrators/Forever/b"), "");
    assert!(link_of(&reply, "statusQueryGetUri").ends_with(&server.key("system")), "{reply}");
}

#[test]
fn a_signature_is_in_no_log() {
    let server = Setup { keys: true, log: "trace", arguments: &["--capability-links", "600"], ..Setup::default() }.start();
    let status = link_of(&start(&server, "a"), "statusQueryGetUri");
    let (_, signature) = status.split_once("signature=").expect("it is signed");
    stranger(&server).get(&status);
    stranger(&server).get(&format!("{status}0"));
    eventually("the log of the last request", || server.log().contains("status=401").then_some(()));
    assert!(!server.log().contains(signature), "{}", server.log());
}

#[test]
fn links_are_refused_where_there_are_no_keys() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--no-auth", "--capability-links", "60", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path());
    let output = run_to_end(&mut command);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("--capability-links needs keys"), "{told}");
}

#[test]
fn what_a_link_does_leads_to_no_further_links() {
    let server = with_links();
    let stranger = stranger(&server);
    let restart = link_of(&start(&server, "a"), "restartPostUri");
    assert_eq!(server.post(&format!("{P3}/instances/a/terminate"), "").status, 202);
    for url in [restart.clone(), format!("{restart}&restartWithNewInstanceId=false")] {
        let reply = stranger.post(&url, "");
        assert_eq!(reply.status, 202, "{reply}");
        assert!(!reply.text().contains("signature=") && !reply.text().contains("code="), "{reply}");
        let status = link_of(&reply, "statusQueryGetUri");
        assert_eq!(reply.header("location"), Some(status.as_str()));
        assert_eq!(stranger.get(&status).status, 401);
    }
    // The holder of a key gets new ones.
    let reply = server.post(&format!("{P3}/instances/a/restart"), "");
    assert!(link_of(&reply, "statusQueryGetUri").contains("signature="), "{reply}");
}

#[test]
fn a_link_that_terminates_is_not_for_what_the_instance_has_started() {
    let server = with_links();
    let terminate = link_of(&start(&server, "a"), "terminatePostUri");
    assert_eq!(stranger(&server).post(&format!("{terminate}&recursive=true"), "").status, 401);
    assert_eq!(stranger(&server).post(&format!("{terminate}&recursive=false"), "").status, 202);
}

#[test]
fn a_page_of_any_origin_may_read_what_a_link_opens() {
    let server = with_links();
    let status = link_of(&start(&server, "a"), "statusQueryGetUri");
    let page = stranger(&server).with_header("origin", "http://shop.example");
    let reply = page.get(&status);
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (202, Some("*")));
    let with_key = page.get(&format!("{P3}/instances/a?code={}", server.key("system")));
    assert_eq!((with_key.status, with_key.header("access-control-allow-origin")), (202, None));
}

#[test]
fn a_stream_ends_when_the_link_to_it_expires() {
    let server = Setup { keys: true, arguments: &["--capability-links", "2"], ..Setup::default() }.start();
    let status = link_of(&start(&server, "a"), "statusQueryGetUri");
    let client = stranger(&server).with_header("accept", "text/event-stream");
    let events: Vec<_> = client.stream(status.strip_prefix(&server.origin).expect("it is ours")).collect();
    assert!(!events.is_empty() && events.iter().all(|event| !event.what().contains("Completed")), "{events:?}");
    assert_eq!(stranger(&server).get(&status).status, 401);
}
