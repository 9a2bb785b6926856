//! Which paths and verbs there are.

use super::PREFIXES;
use crate::support::{P3, Server};

#[test]
fn a_wrong_verb_is_404_or_405_with_an_empty_body() {
    let server = Server::start();
    server.start_as("a", "Forever", "");
    for prefix in PREFIXES {
        for (method, path, code) in [
            ("GET", "/orchestrators/Race", 404),
            ("DELETE", "/orchestrators/Race/b", 404),
            ("POST", "/instances/a", 404),
            ("PUT", "/orchestrators/Race/b", 405),
            ("PATCH", "/instances/a", 405),
            ("HEAD", "/instances/a", 405),
            ("OPTIONS", "/instances/a", 405),
            ("BREW", "/instances/a", 405),
        ] {
            let request = format!(
                "{method} {prefix}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                server.authority()
            );
            let reply = server.raw(&request);
            assert_eq!((reply.status, reply.text()), (code, ""), "{method} {prefix}{path}");
        }
    }
    assert_eq!(server.status("b", "").status, 404);
}

#[test]
fn a_path_that_nobody_knows_is_404_with_an_empty_body() {
    let server = Server::start();
    for path in
        ["/", "/runtime", "/favicon.ico", "/instances/a", "/runtime/webhooks/durabletasks/instances/a", "/admin", "/healthz/x"]
    {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.text()), (404, ""), "{path}");
    }
    for prefix in PREFIXES {
        for path in ["/orchestrators", "/instances/a/b/c", "/nothing", "/instances/a%", "/instances/%FF", "/instances/a%2Fb"] {
            let reply = server.get(&format!("{prefix}{path}"));
            // What is part of the contract and not served yet is 404 too.
            assert_eq!((reply.status, reply.text()), (404, ""), "{prefix}{path}");
        }
    }
}

#[test]
fn literal_parts_match_in_any_case_and_slashes_at_the_ends_do_not_count() {
    let server = Server::start();
    server.start_as("Loaf", "Race", "");
    server.finished("Loaf");
    for prefix in PREFIXES {
        for path in [
            format!("{}/INSTANCES/Loaf", prefix.to_uppercase()),
            format!("{}/instances/Loaf/", prefix.to_lowercase()),
            format!("{prefix}//Instances/Loaf//"),
        ] {
            assert_eq!(server.get(&path).status, 200, "{path}");
        }
        let reply = server.post(&format!("{prefix}/Orchestrators/Race/"), "");
        assert_eq!(reply.status, 202, "{prefix}: {reply}");
    }
}

#[test]
fn a_path_is_decoded_once_and_plus_is_a_blank() {
    let server = Server::start();
    server.start_as("a%20b", "Race", "");
    server.start_as("a%2Bb", "Race", "");
    server.start_as("a%2520b", "Race", "");
    for (path, id) in [("a%20b", "a b"), ("a+b", "a b"), ("a%2Bb", "a+b"), ("a%2520b", "a%20b")] {
        let reply = server.get(&format!("{P3}/instances/{path}"));
        assert_eq!(reply.json()["instanceId"], id, "{path}");
    }
}

#[test]
fn a_request_that_is_no_http_does_not_disturb_the_server() {
    let mut server = Server::start();
    for request in [
        "\r\n\r\n",
        "GET\r\n\r\n",
        "\u{16}\u{3}\u{1}\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)),
    ] {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(server.authority()).unwrap();
        // It may hang up before it has all of it.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let host = "Host: localhost\r\n";
    for hosts in ["", &host.repeat(2), "Host: \r\n", "Host: a b\r\n", "Host: user@localhost\r\n"] {
        let reply = server.raw(&format!("GET /healthz HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n"));
        assert_eq!(reply.status, 400, "{hosts:?}: {reply}");
    }
    assert!(server.is_alive());
    assert_eq!(server.get("/healthz").status, 200);
}
