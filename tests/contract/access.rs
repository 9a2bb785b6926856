//! Who is let in: with keys, and without.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::PREFIXES;
use crate::support::server::{PROGRAM, run_to_end};
use crate::support::{Client, P3, Reply, Server, Setup, eventually};

fn with_keys() -> Server {
    Setup { keys: true, ..Setup::default() }.start()
}

/// A client of the same server that brings no key.
fn stranger(server: &Server) -> Client {
    Client::new(&server.origin)
}

#[test]
fn without_a_key_nothing_answers_but_health() {
    let server = with_keys();
    let stranger = stranger(&server);
    for path in ["/healthz", "/readyz"] {
        assert!(matches!(stranger.get(path).status, 200 | 503), "{path}");
    }
    let mut paths: Vec<String> = PREFIXES[..3].iter().map(|prefix| format!("{prefix}/instances/a")).collect();
    paths.extend(["/durabletask/instances/a", "/nothing", "/", "/admin/modules", "/admin/modules/guests"].map(str::to_owned));
    paths.extend(["", "/instances", "/nothing"].map(|path| format!("{P3}{path}")));
    paths.push("/metrics".into());
    for path in paths {
        for url in [path.clone(), format!("{path}?code=wrong"), format!("{path}?code=")] {
            let reply = stranger.get(&url);
            assert_eq!((reply.status, reply.text()), (401, ""), "{url}");
        }
    }
    assert_eq!(stranger.post(&format!("{P3}/orchestrators/Race/a"), "").status, 401);
    assert_eq!(stranger.put("/admin/modules/x", "junk").status, 401);
    assert_eq!(stranger.send("DELETE", "/admin/modules/guests", b"").status, 401);
    assert_eq!(stranger.send("BREW", "/nothing", b"").status, 401, "the key comes before the verb");
    assert_eq!(server.status("a", "").status, 404, "nothing was started");
}

#[test]
fn the_system_key_opens_the_webhooks_and_the_master_key_everything() {
    let server = with_keys();
    let stranger = stranger(&server);
    let (master, system) = (server.key("master"), server.key("system"));
    let code = |path: &str, key: &str| stranger.get(&format!("{path}?code={key}")).status;
    for path in [&format!("{P3}/instances/a"), "/runtime/webhooks/durabletask/x", "/nothing"] {
        assert_eq!((code(path, &system), code(path, &master)), (404, 404), "{path}");
    }
    for path in ["/admin/modules", "/admin/modules/guests"] {
        assert_eq!((code(path, &system), code(path, &master)), (401, 200), "{path}");
    }
    let delete = |key: &str| stranger.send("DELETE", &format!("/admin/modules/none?code={key}"), b"").status;
    assert_eq!((delete(&system), delete(&master)), (401, 404));
    let upload = stranger.put(&format!("/admin/modules/x?code={system}"), "junk");
    assert_eq!((upload.status, upload.text()), (401, ""));
    // The prefix for workers is served on listeners without keys only.
    assert_eq!(code("/durabletask/instances/a", &master), 404);
}

#[test]
fn the_header_counts_before_the_query() {
    let server = with_keys();
    let (stranger, system) = (stranger(&server), server.key("system"));
    let status = |header: &str, query: &str| {
        stranger.with_header("x-functions-key", header).get(&format!("{P3}/instances/a?code={query}")).status
    };
    assert_eq!(status(&system, "wrong"), 404, "let in");
    assert_eq!(status("wrong", &system), 401);
    assert_eq!(status("", &system), 401);
}

#[test]
fn generated_urls_carry_the_system_key_and_work_as_they_are() {
    let server = with_keys();
    let (stranger, system) = (stranger(&server), server.key("system"));
    let reply = server.post(&format!("{P3}/orchestrators/Race"), "");
    let location = reply.header("location").unwrap();
    assert!(location.ends_with(&format!("&code={system}")), "{location}");
    assert!(matches!(stranger.get(location).status, 200 | 202));
    assert!(!reply.text().contains(&server.key("master")), "{reply}");
}

#[test]
fn keys_are_kept_for_their_owner_alone() {
    let mut server = with_keys();
    let keys = (server.key("master"), server.key("system"));
    let file = server.data().join("keys.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    server.stop();
    server.restart();
    assert_eq!((server.key("master"), server.key("system")), keys);
    assert_eq!(server.get("/admin/modules").status, 200);
    server.stop();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(server.data());
    let output = run_to_end(&mut command);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{told}");
    assert!(told.contains("can be opened by others") && told.contains("chmod 600"), "{told}");
    assert!(!told.contains(&keys.0) && !told.contains(&keys.1), "{told}");
}

#[test]
fn a_key_is_in_no_log_and_in_no_list_of_processes() {
    let server = Setup { keys: true, log: "trace", ..Setup::default() }.start();
    let stranger = stranger(&server);
    let (master, system) = (server.key("master"), server.key("system"));
    for key in [&master, &system, "wrong-key"] {
        let with_header = stranger.with_header("x-functions-key", key);
        for path in [P3, "/admin/modules", "/metrics", "/nothing", &format!("{P3}/instances/a")] {
            with_header.get(path);
            stranger.get(&format!("{path}?code={key}"));
        }
        stranger.post(&format!("{P3}/orchestrators/Race?code={key}"), "");
        stranger.post(&format!("{P3}/orchestrators/Race?code={key}"), "no JSON");
        server.raw(&format!("GET {P3}?code={key} HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n"));
        server.raw(&format!("GET {P3}?code={key} HTTP/9.9\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    }
    eventually("the log of the last request", || server.log().contains("status=401").then_some(()));
    let log = server.log();
    assert!(log.contains("answered"), "it logs requests: {log}");
    for key in [&master, &system, "wrong-key"] {
        assert!(!log.contains(key), "{log}");
    }
    let process = Path::new("/proc").join(server.process_id().to_string());
    for file in ["cmdline", "environ"] {
        let shown = String::from_utf8_lossy(&fs::read(process.join(file)).unwrap()).into_owned();
        assert!(!shown.contains(&master) && !shown.contains(&system), "{file}: {shown}");
    }
}

#[test]
fn no_answer_allows_pages_of_other_origins() {
    for server in [with_keys(), Server::start()] {
        for method in ["GET", "OPTIONS"] {
            for path in [P3, "/healthz", "/readyz", "/nothing"] {
                let reply = server.with_header("origin", "http://evil.example").send(method, path, b"");
                for header in ["origin", "methods", "headers", "credentials"] {
                    assert_eq!(reply.header(&format!("access-control-allow-{header}")), None, "{method} {path}: {reply}");
                }
            }
        }
    }
}

#[test]
fn without_keys_only_this_machine_is_served() {
    let server = Server::start();
    let port = server.authority().split_once(':').unwrap().1;
    let ask = |headers: &str| -> Reply {
        server.raw(&format!("POST {P3}/orchestrators/Race HTTP/1.1\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"))
    };
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "localhost".into(), "127.0.0.1".into(), "[::1]".into()]
    {
        let reply = ask(&format!("Host: {host}\r\n"));
        assert_eq!(reply.status, 202, "{host}: {reply}");
        assert!(reply.header("location").unwrap().starts_with(&format!("http://{host}/")), "{reply}");
    }
    for headers in [
        format!("Host: evil.example:{port}\r\n"),
        "Host: 192.168.1.7\r\n".into(),
        "Host: localhost.evil.example\r\n".into(),
        format!("Host: localhost:{port}\r\nOrigin: http://evil.example\r\n"),
        format!("Host: localhost:{port}\r\nOrigin: null\r\n"),
        format!("Host: localhost:{port}\r\nOrigin: http://localhost:1\r\n"),
        format!("Host: localhost:{port}\r\nSec-Fetch-Site: cross-site\r\n"),
    ] {
        let reply = ask(&headers);
        assert_eq!(reply.status, 403, "{headers}: {reply}");
        assert_eq!(reply.json()["error"]["code"], "foreign_request");
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    let own = format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\nSec-Fetch-Site: same-origin\r\n");
    let reply = ask(&own);
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (202, None), "{reply}");
    // Whoever brings a key to a server that asks for none is welcome too.
    assert_eq!(server.get("/admin/modules?code=anything").status, 200);
}

#[test]
fn workers_of_this_machine_need_no_key_on_a_listener_of_their_own() {
    let server = Setup { keys: true, workers: true, ..Setup::default() }.start();
    let binding = server.get(P3).json();
    let base = binding["rpcBaseUrl"].as_str().expect("it says where");
    let origin = base.strip_suffix("/durabletask/").expect("it is the prefix for workers");
    assert_ne!(origin, server.origin);
    let worker = Client::new(origin);

    let started = worker.post(&format!("{base}orchestrators/FailActivity/a"), "");
    assert_eq!(started.status, 202, "{started}");
    server.finished("a");
    // What it hands out leads to where no key is needed, and holds none.
    let location = started.header("location").expect("it says where");
    assert!(location.starts_with(&format!("{base}instances/a?")), "{location}");
    assert_eq!((worker.get(location).status, server.status("a", "").status), (200, 400), "workers have the newest codes");
    let document = worker.get("/durabletask");
    assert_eq!(document.json()["rpcBaseUrl"], base);
    assert_eq!(document.json()["baseUrl"], format!("{origin}/durabletask"));
    for reply in [&started, &document] {
        assert!(!reply.text().contains(&server.key("system")) && !reply.text().contains("code="), "{reply}");
    }
    for path in [P3, "/admin/modules", "/api/orchestrators/Race", "/metrics", "/healthz", "/nothing"] {
        for method in ["GET", "POST", "PUT"] {
            assert!(matches!(worker.send(method, path, b"").status, 401 | 404), "{method} {path}");
        }
    }
    let foreign = worker.raw("POST /durabletask/orchestrators/Race HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!(foreign.status, 403, "{foreign}");
    assert_eq!(stranger(&server).get("/durabletask/instances/a").status, 401, "the other listener wants its key as before");
}

#[test]
fn a_server_without_keys_listens_on_loopback_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--no-auth", "--listen", "0.0.0.0:0", "--data"]).arg(folder.path().join("data"));
    let output = run_to_end(&mut command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{error}");
    assert!(error.contains("loopback"), "{error}");
}
