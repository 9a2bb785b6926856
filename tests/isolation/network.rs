//! A guest reaches nothing that is not listed, however it is spelled, wherever a name leads and whoever sends it there.

use serde_json::json;

use crate::support::service::Answer;
use crate::support::{Server, Service, Setup, guests};

/// Everything public may be reached, in the default hub.
const ALL: &str = "[hubs.DurableFunctionsHub.network]\nallow = [\"*\"]\n";

/// Asks for `url` by an activity's `wasi:http` and by a durable request. Both fail, with a text that has `part` in it.
#[track_caller]
fn refused(server: &Server, url: &str, part: &str) {
    for (function, input) in [("CallWithText", json!(["Fetch", url])), ("FetchByHost", json!(url))] {
        let id = server.start(function, &input.to_string());
        let status = server.finished(&id);
        let text = status.to_string() + &server.lines(&id).concat();
        assert_eq!(status["runtimeStatus"], "Failed", "{function} {url}: {text}");
        assert!(text.contains(part), "{function} {url}: {part:?} is not in {text}");
    }
}

#[test]
fn an_address_that_is_not_public_is_refused_in_every_spelling() {
    let server = Setup { configuration: ALL.into(), ..Setup::default() }.start();
    for host in [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "127.0.0.1",
        "0.0.0.0",
        "169.254.0.1",
        "169.254.169.254",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[::ffff:7f00:1]",
        "[64:ff9b::169.254.169.254]",
        "[2002:7f00:1::1]",
        "[2001::1]",
        "localhost",
        "anything.localhost.",
    ] {
        refused(&server, &format!("http://{host}/latest/meta-data"), "not among what may be reached");
    }
}

/// Numbers that are no address to us are names, which the system's resolver takes for addresses: as a name server may say of any name.
#[test]
fn a_name_that_leads_to_an_address_that_is_not_public_is_refused_after_it_was_looked_up() {
    let service = Service::start(|_| Answer::Text("it was reached".into()));
    let port = service.authority.rsplit_once(':').expect("a port").1;
    let server = Setup { configuration: ALL.into(), ..Setup::default() }.start();
    for host in ["2130706433", "0x7f000001", "017700000001", "127.1", "0x7f.1", "0177.0.0.1"] {
        refused(&server, &format!("http://{host}:{port}/"), "not a public address");
    }
    assert_eq!(service.seen(), Vec::<String>::new());
}

#[test]
fn a_redirect_leads_no_further_than_the_policy() {
    let inner = Service::start(|_| Answer::Text("it was reached".into()));
    let targets = [inner.url("/inner"), "http://169.254.169.254/latest".to_owned(), "http://[::1]/".to_owned()];
    let elsewhere = targets.clone();
    let service = Service::start(move |path| {
        let (kind, number) = path[1..].split_once('/').expect("two parts");
        let to = elsewhere[number.parse::<usize>().expect("a number")].clone();
        Answer::Elsewhere(if kind == "redirect" { 302 } else { 202 }, to)
    });
    let server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    for (number, target) in targets.iter().enumerate() {
        let redirect = service.url(&format!("/redirect/{number}"));
        assert_eq!(server.output("FetchByHost", &json!(redirect).to_string()), json!([302, ""]), "{target}");
        assert_eq!(server.output("CallWithText", &json!(["Fetch", redirect]).to_string()), "", "{target}");
        // What is accepted is followed, by requests that are judged as all others are.
        let id = server.start("FollowByHost", &json!(service.url(&format!("/accepted/{number}"))).to_string());
        let status = server.finished(&id);
        assert_eq!(status["runtimeStatus"], "Failed", "{status}");
        assert!(status.to_string().contains("not among what may be reached"), "{status}");
    }
    assert_eq!(inner.seen(), Vec::<String>::new());
    assert_eq!(service.seen().len(), 9, "{:?}", service.seen());
}

#[test]
fn what_one_hub_may_reach_another_may_not() {
    let service = Service::start(|_| Answer::Text("fresh".into()));
    let server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    server.upload("Bakery", "guests", guests::test_guests());
    assert_eq!(server.output("FetchByHost", &json!(service.url("/own")).to_string()), json!([200, "fresh"]));
    for (function, input) in
        [("CallWithText", json!(["Fetch", service.url("/other")])), ("FetchByHost", json!(service.url("/other")))]
    {
        let path = format!("{}/orchestrators/{function}?taskHub=Bakery&timeout=60", crate::support::P3);
        let reply = server.post(&path, input.to_string());
        assert!(reply.text().contains("Failed"), "{reply}");
    }
    assert_eq!(service.seen(), ["/own"]);
}

/// By sockets nobody reaches anything, listed or not.
#[test]
fn there_is_no_way_out_but_http() {
    let service = Service::start(|_| Answer::Text("it was reached".into()));
    let server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    for function in ["ConnectActivity", "WriteFileActivity"] {
        let id = server.start("CallActivity", &json!(function).to_string());
        assert_eq!(server.finished(&id)["runtimeStatus"], "Failed", "{function}");
    }
    assert_eq!(service.seen(), Vec::<String>::new());
}
