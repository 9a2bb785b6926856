//! What an operator and a load balancer ask: readiness, metrics, the binding document.

use std::collections::HashMap;

use super::PREFIXES;
use crate::support::{Client, P3, Server, Setup, eventually, golden, guests};

fn with_keys() -> Server {
    Setup { keys: true, ..Setup::default() }.start()
}

fn is_ready(server: &Server) -> Option<()> {
    let reply = server.get("/readyz");
    assert!(reply.status == 200 || reply.json()["status"] == "recovering", "{reply}");
    (reply.status == 200).then_some(())
}

#[test]
fn a_server_is_ready_without_a_key_once_it_goes_on_with_what_was_open() {
    let mut server = with_keys();
    server.start_as("a", "Forever", "");
    server.kill();
    server.restart();
    eventually("readiness", || is_ready(&server));
    let stranger = Client::new(&server.origin);
    let reply = stranger.get("/readyz");
    assert_eq!(reply.status, 200);
    golden::check("readyz", reply.text(), &[]);
}

/// Every sample by its name and labels. Each line must be one that Prometheus can read.
fn metrics(server: &Server) -> HashMap<String, f64> {
    let reply = server.get("/metrics");
    assert_eq!(reply.status, 200, "{reply}");
    assert_eq!(reply.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = reply.text().strip_suffix("# EOF\n").expect("it ends as OpenMetrics does");
    let (mut samples, mut described) = (HashMap::new(), Vec::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            assert!(["HELP", "TYPE", "UNIT"].contains(&kind) && !rest.is_empty(), "{line}");
            described.push((kind, name));
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let name = series.split('{').next().unwrap();
        assert!(name.starts_with("dacapo_") || name.starts_with("process_"), "{line}");
        for kind in ["HELP", "TYPE"] {
            assert!(described.iter().any(|(it, of)| *it == kind && name.starts_with(of)), "{line} has no {kind}");
        }
        if let Some((_, labels)) = series.split_once('{') {
            let labels = labels.strip_suffix('}').expect("labels end");
            assert!(
                labels.split(',').all(|label| label.split_once("=\"").is_some_and(|(_, value)| value.ends_with('"'))),
                "{line}"
            );
        }
        let again = samples.insert(series.to_owned(), value.parse::<f64>().expect("a value is a number"));
        assert_eq!(again, None, "{series} is there twice");
    }
    samples
}

#[test]
fn the_counters_move_with_what_happens() {
    let server = Server::start();
    let at = |metrics: &HashMap<String, f64>, series: &str| metrics.get(series).copied().unwrap_or(0.0);
    let before = metrics(&server);
    server.output("Sequence", r#"{"count":3}"#);
    server.run("FailActivity", "");
    server.run("Panic", "");
    assert_eq!(server.run("NobodyHasThis", "").status, 400);
    server.start_as("open", "Forever", "");
    assert_eq!(server.get("/nothing/at/all").status, 404);
    let after = metrics(&server);
    for (series, moved) in [
        ("dacapo_instances_started_total", 4.0),
        ("dacapo_instances_ended_total{status=\"Completed\"}", 1.0),
        ("dacapo_instances_ended_total{status=\"Failed\"}", 2.0),
        ("dacapo_http_requests_total{endpoint=\"start\",status=\"2xx\"}", 4.0),
        ("dacapo_http_requests_total{endpoint=\"start\",status=\"4xx\"}", 1.0),
        ("dacapo_http_requests_total{endpoint=\"none\",status=\"4xx\"}", 1.0),
        ("dacapo_http_requests_total{endpoint=\"metrics\",status=\"2xx\"}", 1.0),
        ("dacapo_http_request_seconds_count{endpoint=\"start\"}", 5.0),
        ("dacapo_activities_finished_total{outcome=\"completed\"}", 3.0),
        ("dacapo_activities_finished_total{outcome=\"failed\"}", 1.0),
        ("dacapo_guest_faults_total{kind=\"certain\"}", 1.0),
        ("dacapo_turns_replayed_total", 0.0),
    ] {
        assert_eq!(at(&after, series) - at(&before, series), moved, "{series}");
    }
    // An instance of n activities has n + 2 commits, fewer if two share one.
    assert!(at(&after, "dacapo_commits_total") >= 9.0);
    assert!(at(&after, "dacapo_turn_seconds_count") >= 7.0);
    for series in ["dacapo_commit_batch_seconds_count", "dacapo_store_wal_bytes", "dacapo_instances_open"] {
        assert!(at(&after, series) >= 1.0, "{series}");
    }
    for series in ["process_resident_memory_bytes", "process_cpu_seconds_total"] {
        assert!(at(&after, series) > 0.0, "{series}");
    }
    assert_eq!(at(&after, "dacapo_compile_seconds_count"), 0.0, "the test guests were compiled before");
    server.upload("Bakery", "hello", guests::hello_sequence());
    assert_eq!(at(&metrics(&server), "dacapo_compile_seconds_count"), 1.0);
}

#[test]
fn names_from_outside_are_in_no_metric() {
    let server = Server::start();
    server.start_as("loaf-17", "Race", "");
    server.finished("loaf-17");
    server.get("/somewhere/loaf-18");
    server.send("BREW", &format!("{P3}/instances/loaf-19"), b"");
    let all = metrics(&server).into_keys().collect::<Vec<_>>().join("\n");
    assert!(!all.contains("loaf") && !all.contains("Race") && !all.contains("guests"), "{all}");
}

#[test]
fn metrics_want_the_system_key() {
    let server = with_keys();
    let stranger = Client::new(&server.origin);
    let reply = stranger.get("/metrics");
    assert_eq!((reply.status, reply.text()), (401, ""));
    assert_eq!(stranger.with_header("x-functions-key", &server.key("system")).get("/metrics").status, 200);
    assert_eq!(server.get("/metrics").status, 200, "the master key opens everything");
}

#[test]
fn the_binding_document_leads_a_client_library_here() {
    let server = with_keys();
    let (stranger, system) = (Client::new(&server.origin), server.key("system"));
    let masks = [(server.origin.as_str(), "<origin>"), (system.as_str(), "<key>")];
    for prefix in &PREFIXES[..3] {
        let reply = stranger.get(&format!("{prefix}/?taskHub=Bakery&code={system}"));
        assert_eq!(reply.status, 200, "{reply}");
        golden::check("binding", reply.text(), &masks);
    }
    assert!(!server.get(P3).text().contains(&server.key("master")), "the master key is in no URL");
    for (query, status) in [("", 401), ("code=wrong", 401), (&format!("taskHub=x&code={system}"), 400)] {
        assert_eq!(stranger.get(&format!("{P3}?{query}")).status, status, "{query}");
    }
}

#[test]
fn without_keys_the_binding_document_has_no_code_and_a_place_for_workers() {
    let server = Server::start();
    let reply = server.get(P3);
    golden::check("binding-open", reply.text(), &[(server.origin.as_str(), "<origin>")]);
    let document = reply.json();
    let text = |at: &str| document.pointer(at).and_then(|it| it.as_str()).expect("it is there").to_owned();
    // As the libraries do it: replace the placeholders in the text.
    let start =
        text("/creationUrls/createNewInstancePostUri").replace("{functionName}", "Race").replace("[/{instanceId}]", "/loaf");
    assert_eq!(server.post(&start, "").status, 202);
    let status = text("/managementUrls/statusQueryGetUri").replace("INSTANCEID", "loaf");
    assert!(matches!(server.get(&status).status, 200 | 202));
    let rpc = format!("{}instances/loaf", text("/rpcBaseUrl"));
    assert!(matches!(server.get(&rpc).status, 200 | 202), "{rpc}");
}
