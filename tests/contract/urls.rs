//! The URLs that the server hands out: whom they name, and that they work.

use crate::support::{P3, Reply, Server, Setup, eventually, guests};

fn url(reply: &Reply, name: &str) -> String {
    reply.json()[name].as_str().unwrap_or_else(|| panic!("no {name} in {reply}")).to_owned()
}

#[test]
fn each_url_of_an_accepted_start_does_what_its_name_says() {
    let server = Server::start();
    let json = server.with_header("content-type", "application/json");
    for path in ["loaf-17", "a%20b:c@d", "%25%2B%C3%BC"] {
        let started = server.post(&format!("{P3}/orchestrators/Listen/{path}"), "1");
        assert_eq!(started.status, 202, "{path}: {started}");
        let status = url(&started, "statusQueryGetUri");
        eventually("its first turn", || (server.get(&status).json()["runtimeStatus"] == "Running").then_some(()));
        // Clients put their values in place of the braces as they are.
        let event = url(&started, "sendEventPostUri").replace("{eventName}", "nobody waits for this").replace(' ', "%20");
        assert_eq!(json.post(&event, "1").status, 202, "{event}");
        let terminate = url(&started, "terminatePostUri").replace("{text}", "enough");
        assert_eq!(server.post(&terminate, "").status, 202, "{terminate}");
        let ended = server.get(&format!("{status}&edition=current")).json();
        assert_eq!((&ended["instanceId"], &ended["output"]), (&started.json()["id"], &"enough".into()), "{ended}");
    }
}

#[test]
fn a_proxy_is_believed_only_where_the_operator_says_so_and_if_it_names_host_and_scheme() {
    let behind_a_proxy = Setup { configuration: "use_forwarded_host = true\n".to_owned(), ..Setup::default() }.start();
    let on_its_own = Server::start();
    for (server, host, scheme, expected) in [
        (&behind_a_proxy, "shop.example:8443", "https", "https://shop.example:8443"),
        (&behind_a_proxy, "shop.example", "", ""),
        (&behind_a_proxy, "", "https", ""),
        (&behind_a_proxy, "shop.example", "gopher", ""),
        (&on_its_own, "shop.example", "https", ""),
    ] {
        let expected = if expected.is_empty() { &server.origin } else { expected };
        let headers = [("x-forwarded-host", host), ("x-forwarded-proto", scheme)];
        let given = headers.into_iter().filter(|(_, value)| !value.is_empty());
        let client = given.fold((**server).clone(), |client, (name, value)| client.with_header(name, value));
        let started = client.post(&format!("{P3}/orchestrators/Forever"), "");
        let location = started.header("location").expect("it says where").to_owned();
        assert!(location.starts_with(&format!("{expected}{P3}/instances/")), "{host} {scheme}: {location}");
        assert!(url(&started, "terminatePostUri").starts_with(&format!("{expected}/")), "{started}");
        let path = location.strip_prefix(expected).expect("it begins so");
        assert_eq!(client.get(path).header("location"), Some(location.as_str()), "the status says the same");
        assert_eq!(url(&client.get(P3), "baseUrl"), format!("{expected}{P3}"));
    }
}

#[test]
fn urls_name_the_server_as_the_client_does() {
    let server = Server::start();
    let port = server.authority().split_once(':').expect("host and port").1;
    let location = |head: &str| {
        let reply = server.raw(&format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n"));
        assert_eq!(reply.status, 202, "{head}: {reply}");
        reply.header("location").expect("it says where").to_owned()
    };
    let start = format!("{P3}/orchestrators/Race");
    for (head, origin) in [
        (format!("POST {start} HTTP/1.1\r\nHost: localhost:{port}\r\n"), format!("http://localhost:{port}")),
        // An absolute URI counts before the header, as proxies send it.
        (format!("POST http://localhost:{port}{start} HTTP/1.1\r\nHost: 127.0.0.1\r\n"), format!("http://localhost:{port}")),
        // A client of HTTP/1.0 need not say whom it means; then it is the address that it has called.
        (format!("POST {start} HTTP/1.0\r\n"), server.origin.clone()),
    ] {
        let location = location(&head);
        assert!(location.starts_with(&format!("{origin}{P3}/instances/")), "{head}: {location}");
    }
}

#[test]
fn the_hub_that_is_meant_without_a_name_is_configured() {
    let setup = Setup { configuration: "default_hub = \"Bakery\"\n".to_owned(), empty: true, ..Setup::default() };
    let server = setup.start();
    server.upload("Bakery", "guests", guests::test_guests());
    let started = server.post(&format!("{P3}/orchestrators/Race/a?taskHub=+"), "");
    assert!(url(&started, "statusQueryGetUri").ends_with("?taskHub=Bakery&connection=Storage"), "{started}");
    assert_eq!(url(&server.get(P3), "taskHubName"), "Bakery");
    assert!(matches!(server.status("a", "taskHub=bakery").status, 200 | 202));
    assert_eq!(server.status("a", "taskHub=DurableFunctionsHub").status, 404);
}

#[test]
fn headers_that_help_to_trace_a_request_may_be_malformed() {
    let server = Server::start();
    for (name, value) in [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("traceparent", "junk"),
        ("tracestate", "a=b,c=d"),
        ("X-Azure-Functions-InvocationId", "8c1f1c8e-4a5d-4f7e-9a39-2f0c6f5c7b11"),
        ("X-Azure-Functions-InvocationId", "{}"),
    ] {
        let reply = server.with_header(name, value).post(&format!("{P3}/orchestrators/Race"), "");
        assert_eq!(reply.status, 202, "{name}: {value}: {reply}");
    }
}
