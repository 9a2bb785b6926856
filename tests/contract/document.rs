//! The OpenAPI document, as a client gets it. That the server keeps to it, `.ci/schemathesis` shows.

use serde_json::{Value, json};

use super::PREFIXES;
use crate::support::{Client, Server, Setup};

fn document(client: &Client) -> Value {
    let reply = client.get("/openapi.json");
    assert_eq!(reply.status, 200, "{reply}");
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
    reply.json()
}

#[test]
fn the_document_is_there_for_whoever_has_a_key() {
    let server = Setup { keys: true, ..Setup::default() }.start();
    let stranger = Client::new(&server.origin);
    let reply = stranger.get("/openapi.json");
    assert_eq!((reply.status, reply.text()), (401, ""));
    let document = document(&stranger.with_header("x-functions-key", &server.key("system")));
    assert_eq!(document["openapi"], "3.1.0");
    for prefix in PREFIXES {
        let served = document["paths"].get(format!("{prefix}/instances/{{instanceId}}/raiseEvent/{{eventName}}")).is_some();
        assert_eq!(served, prefix != "/durabletask", "{prefix}");
    }
    let schemes = document["components"]["securitySchemes"].as_object().expect("keys are asked for");
    let places: Vec<_> = schemes.values().map(|scheme| (&scheme["in"], &scheme["name"])).collect();
    assert_eq!(places, [(&json!("query"), &json!("code")), (&json!("header"), &json!("x-functions-key"))]);
}

#[test]
fn a_server_without_keys_documents_the_prefix_for_workers_too() {
    let server = Server::start();
    let document = document(&server);
    for prefix in PREFIXES {
        let status = &document["paths"][format!("{prefix}/instances/{{instanceId}}")]["get"];
        assert_eq!((&status["security"], &status["responses"]["401"]), (&json!([]), &Value::Null), "{prefix}");
        assert!(["200", "202", "400", "404", "500"].iter().all(|code| status["responses"][code].is_object()), "{prefix}");
    }
    assert_eq!(server.send("POST", "/openapi.json", b"").status, 405);
}
