//! What can the server do, for programs that ask? The OpenAPI 3.1 document: the routing table with the descriptions of its operations,
//! and schemas derived from the wire types.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::StatusCode;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::auth::{Access, Need};
use super::description::{Answer, Body, Content, Family, Header, Kind, Operation, Parameter, Place};
use super::links::Binding;
use super::route::{Described, table};
use crate::model::StoreName;

/// What the parts of paths are.
static PARTS: [Parameter; 6] = [
    Parameter::path("functionName", Kind::Matching("^[^/]+$", 1_000), "An orchestrator; its case does not count."),
    Parameter::path("instanceId", Kind::Matching(INSTANCE_ID, 256), "The ID of an instance; its case counts."),
    Parameter::path("eventName", Kind::Matching("^[^/]+$", 1_000), "The event's name."),
    Parameter::path("queryName", Kind::Matching("^[^/]+$", 1_000), "The name of the question."),
    Parameter::path("moduleName", Kind::Matching("^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", 100), "The module's name within its hub."),
    Parameter::path("digest", Kind::Matching("^[0-9a-f]{64}$", 64), "The SHA-256 of the version's bytes."),
];

const INSTANCE_ID: &str = r"^[^@/\\#?\u0000-\u001f\u007f-\u009f][^/\\#?\u0000-\u001f\u007f-\u009f]*$";

pub(super) static DOCUMENT: Operation = Operation {
    summary: "This document",
    family: Family::Server,
    takes: &[],
    body: Body::None,
    answers: &[Answer::json::<Document>(200, "OpenAPI 3.1, of all that this listener serves.")],
};

pub(super) static BINDING: Operation = Operation {
    summary: "What a client library needs to use a hub",
    family: Family::Contract,
    takes: &[],
    body: Body::None,
    answers: &[Answer::json::<Binding>(200, "The binding document.")],
};

/// An OpenAPI document, as far as its schema says it of itself.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the document is put together as JSON; this is its schema")]
struct Document {
    openapi: String,
    info: Map<String, Value>,
    paths: Map<String, Value>,
    components: Map<String, Value>,
}

/// The document as JSON, for a server that lets clients in by `access` and has these `stores`.
pub(super) fn document<'a>(access: &Access, stores: impl Iterator<Item = &'a StoreName>) -> Bytes {
    let stores: Vec<&str> = stores.map(StoreName::as_str).chain([""]).collect();
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut schemas = settings.into_generator();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for line in table(access.doors()) {
        let verb = line.method.as_str().to_ascii_lowercase();
        paths.entry(path(&line)).or_default().insert(verb, operation(&line, access, &stores, &mut schemas));
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Dacapo",
            "summary": "Durable orchestrations that are WebAssembly modules",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas.take_definitions(true), "securitySchemes": security_schemes(access) },
    });
    document.to_string().into()
}

fn path(line: &Described) -> String {
    let parts = [line.prefix.unwrap_or_default(), line.path].into_iter().filter(|part| !part.is_empty());
    format!("/{}", parts.collect::<Vec<_>>().join("/"))
}

/// Its ID is unique: behind every prefix but the first, that which generated URLs have, it ends with the name of the prefix.
fn operation(line: &Described, access: &Access, stores: &[&str], schemas: &mut SchemaGenerator) -> Value {
    let Described { prefix, path, id, operation, endpoint, .. } = line;
    let Operation { summary, family, takes, body, answers } = operation;
    let first_part = prefix.and_then(|prefix| prefix.split('/').next());
    let need = endpoint.need();
    let mut described = json!({
        "operationId": first_part.filter(|part| *part != "runtime").map_or_else(|| (*id).to_owned(), |part| format!("{id}_{part}")),
        "summary": summary,
        "tags": [prefix.unwrap_or("Dacapo")],
        "parameters": parts(path).chain(takes.iter()).chain(family.takes()).map(|it| parameter(it, stores)).collect::<Vec<_>>(),
        "responses": responses(answers.iter().chain(family.answers()).chain(body.answers()).chain(access.answers(need)), schemas),
        "security": access.security(need),
    });
    if let Some(body) = request_body(*body) {
        described["requestBody"] = body;
    }
    if need == Need::Master && matches!(access, Access::Keys { .. }) {
        described["description"] = "Needs the master key.".into();
    }
    described
}

/// The variable parts of a path.
fn parts(path: &'static str) -> impl Iterator<Item = &'static Parameter> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| PARTS.iter().find(|part| part.name == name).expect("the tests ask for the document"))
}

fn parameter(Parameter { name, place, kind, about, is_required }: &Parameter, stores: &[&str]) -> Value {
    let place = match place {
        Place::Path => "path",
        Place::Query => "query",
        Place::Header => "header",
    };
    let value = match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Matching(pattern, length_max) => json!({ "type": "string", "pattern": pattern, "maxLength": length_max }),
        Kind::OneOf(values) => json!({ "type": "string", "enum": values }),
        Kind::Store => json!({ "type": "string", "enum": stores }),
        Kind::SomeOf(values) => json!({ "type": "array", "items": { "type": "string", "enum": values } }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Whole => json!({ "type": "integer" }),
        Kind::Seconds => json!({ "type": "number" }),
        Kind::Time => json!({ "type": "string", "format": "date-time" }),
        Kind::Json => json!({}),
        Kind::Labels => json!({
            "type": "object",
            "propertyNames": { "pattern": r"^tag\.[A-Za-z0-9._-]{1,64}$" },
            "additionalProperties": { "type": "string", "maxLength": 256 },
            "maxProperties": 16,
        }),
    };
    let mut described = json!({ "name": name, "in": place, "description": about, "required": is_required });
    match kind {
        Kind::Json => described["content"] = json!({ "application/json": { "schema": value } }),
        _ => described["schema"] = value,
    }
    match kind {
        Kind::SomeOf(_) => described["explode"] = false.into(),
        Kind::Labels => described["explode"] = true.into(),
        _ => (),
    }
    described
}

fn request_body(body: Body) -> Option<Value> {
    let (about, media_type, schema, is_required) = match body {
        Body::None => return None,
        Body::Input => ("The input; `null` without it. Its content type does not count.", "application/json", json!({}), false),
        Body::Event => ("What the event carries.", "application/json", json!({}), true),
        Body::Module => ("A component, or a core module with its component type.", "application/wasm", json!({}), true),
    };
    Some(json!({ "description": about, "required": is_required, "content": { media_type: { "schema": schema } } }))
}

/// All answers by their status. Those of one status become one, which has any of their forms.
fn responses<'a>(answers: impl Iterator<Item = &'a Answer>, schemas: &mut SchemaGenerator) -> Value {
    let mut by_status: BTreeMap<u16, Vec<&Answer>> = BTreeMap::new();
    for answer in answers {
        by_status.entry(answer.status).or_default().push(answer);
    }
    let responses = by_status.into_iter().map(|(status, answers)| {
        let mut when: Vec<_> = answers.iter().map(|answer| answer.when).collect();
        when.dedup();
        let mut response = json!({ "description": when.join(" Or: ") });
        let (mut forms, mut contents) = (Vec::new(), Map::new());
        for answer in &answers {
            match answer.content {
                Content::Empty => (),
                Content::Json(schema) => {
                    let schema = schema(schemas).to_value();
                    if !forms.contains(&schema) {
                        forms.push(schema);
                    }
                }
                Content::Other(media_type) => _ = contents.insert(media_type.into(), json!({})),
            }
        }
        match forms.len() {
            0 => (),
            1 => _ = contents.insert("application/json".into(), json!({ "schema": forms[0] })),
            _ => _ = contents.insert("application/json".into(), json!({ "schema": { "anyOf": forms } })),
        }
        if !contents.is_empty() {
            response["content"] = contents.into();
        }
        let always = |header| answers.iter().all(|answer| answer.headers.contains(header));
        let headers: Map<_, _> = answers.iter().flat_map(|answer| answer.headers).map(|it| header(it, always(it))).collect();
        if !headers.is_empty() {
            response["headers"] = headers.into();
        }
        (status.to_string(), response)
    });
    responses.collect::<Map<_, _>>().into()
}

fn header(header: &Header, is_required: bool) -> (String, Value) {
    let (name, about, schema) = match header {
        Header::Location => ("Location", "Where to ask how the instance stands.", json!({ "type": "string" })),
        Header::RetryAfter => ("Retry-After", "After how many seconds to ask again.", json!({ "type": "integer", "minimum": 0 })),
        Header::ContinuationToken => {
            let about = "What leads to the next page, as the request header of this name; empty at the end.";
            ("x-ms-continuation-token", about, json!({ "type": "string", "pattern": "^[0-9a-f]*$" }))
        }
    };
    (name.to_owned(), json!({ "description": about, "required": is_required, "schema": schema }))
}

/// How a key may be shown.
fn security_schemes(access: &Access) -> Value {
    let scheme =
        |place: &str, name: &str, about: &str| json!({ "type": "apiKey", "in": place, "name": name, "description": about });
    let mut schemes = Map::new();
    if let Access::Keys { links, .. } = access {
        schemes.insert("header".into(), scheme("header", "x-functions-key", "A key; if it is there, the query does not count."));
        schemes.insert("code".into(), scheme("query", "code", "A key."));
        if links.is_some() {
            let about = "What the URLs of a check-status object carry: it opens one operation of one instance.";
            schemes.insert("signature".into(), scheme("query", "signature", about));
            schemes.insert("expires".into(), scheme("query", "expires", "Until when a signature holds, in seconds since 1970."));
        }
    }
    schemes.into()
}

impl Access {
    /// What an operation that asks for `need` may answer because of who asks.
    fn answers(&self, need: Need<'_>) -> &'static [Answer] {
        match self {
            _ if need == Need::Nothing => &[],
            Self::Keys { .. } => const { &[Answer::empty(StatusCode::UNAUTHORIZED.as_u16(), "The key is missing or wrong.")] },
            Self::Open { .. } | Self::Workers => const { &[Answer::ours(403, "The request may come from another site's page.")] },
        }
    }

    /// What it asks for: any one of these.
    fn security(&self, need: Need<'_>) -> Value {
        match (self, need) {
            (_, Need::Nothing) | (Self::Open { .. } | Self::Workers, _) => json!([]),
            (Self::Keys { links: Some(_), .. }, Need::Instance { .. }) => {
                json!([{ "header": [] }, { "code": [] }, { "signature": [], "expires": [] }])
            }
            (Self::Keys { .. }, _) => json!([{ "header": [] }, { "code": [] }]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::capability::tests::LINKS;
    use super::super::keys::Keys;
    use super::super::route::Door;
    use super::*;

    fn with_keys() -> Access {
        Access::Keys { keys: Keys { master: "mmm".into(), system: "sss".into() }, links: Some(LINKS) }
    }

    fn open() -> Access {
        Access::Open { hosts: Vec::new() }
    }

    fn parsed(access: &Access) -> Value {
        serde_json::from_slice(&document(access, [StoreName::default_store()].iter())).unwrap()
    }

    fn described<'a>(document: &'a Value, line: &Described) -> &'a Value {
        &document["paths"][path(line)][line.method.as_str().to_ascii_lowercase()]
    }

    #[test]
    fn every_route_is_in_the_document_with_every_status_it_may_answer() {
        for access in [with_keys(), open()] {
            let document = parsed(&access);
            let mut lines = 0;
            for line in table(access.doors()) {
                let described = described(&document, &line);
                let responses = described["responses"].as_object().unwrap_or_else(|| panic!("{} is missing", path(&line)));
                for status in 100..600 {
                    if line.operation.gives(status) {
                        let response = &responses[&status.to_string()];
                        assert!(!response["description"].as_str().unwrap().is_empty(), "{} {status}", path(&line));
                    }
                }
                let about_caller = if matches!(access, Access::Keys { .. }) { "401" } else { "403" };
                let is_public = line.endpoint.need() == Need::Nothing;
                assert_eq!(responses.contains_key(about_caller), !is_public, "{}", path(&line));
                assert_eq!(described["security"] == json!([]), is_public || about_caller == "403", "{}", path(&line));
                lines += 1;
            }
            let paths = document["paths"].as_object().unwrap();
            assert_eq!(paths.values().map(|verbs| verbs.as_object().unwrap().len()).sum::<usize>(), lines);
            let has_rpc = access.doors().contains(&Door::Rpc);
            assert_eq!(paths.contains_key("/durabletask/instances/{instanceId}"), has_rpc);
        }
    }

    #[test]
    fn an_operation_has_an_id_of_its_own_and_all_parts_of_its_path() {
        let (access, mut ids) = (open(), BTreeSet::new());
        let document = parsed(&access);
        for line in table(access.doors()) {
            let described = described(&document, &line);
            let id = described["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id.clone()), "{id} is there twice");
            let names: Vec<_> = described["parameters"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
            let distinct: BTreeSet<_> = names.iter().map(|name| name.as_str().unwrap().to_ascii_lowercase()).collect();
            assert_eq!(names.len(), distinct.len(), "{id}: {names:?}");
            assert_eq!(parts(line.path).count(), line.path.matches('{').count(), "{id}");
        }
    }

    /// A client that reads the body of a 404 cannot know whether there is one, unless it always is.
    #[test]
    fn a_status_has_either_a_body_or_none() {
        for line in table(open().doors()) {
            let Operation { answers, family, body, .. } = line.operation;
            let all: Vec<_> = answers.iter().chain(family.answers()).chain(body.answers()).collect();
            for answer in &all {
                let is_empty = |answer: &Answer| matches!(answer.content, Content::Empty);
                let alike = all.iter().filter(|other| other.status == answer.status).all(|it| is_empty(it) == is_empty(answer));
                assert!(alike, "{} {}", path(&line), answer.status);
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|value| references(value, found));
                }
                Value::Array(elements) => elements.iter().for_each(|value| references(value, found)),
                _ => (),
            }
        }
        let document = parsed(&with_keys());
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.contains(&"#/components/schemas/StatusPayload") && found.contains(&"#/components/schemas/HistoryEvent"));
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let schemes = document["components"]["securitySchemes"].as_object().unwrap();
        let status = &document["paths"]["/runtime/webhooks/durabletask/instances/{instanceId}"]["get"]["security"];
        assert_eq!(*status, json!([{ "header": [] }, { "code": [] }, { "signature": [], "expires": [] }]));
        assert!(["header", "code", "signature", "expires"].iter().all(|name| schemes.contains_key(*name)));
        let started = &document["paths"]["/runtime/webhooks/durabletask/orchestrators/{functionName}"]["post"]["security"];
        assert_eq!(*started, json!([{ "header": [] }, { "code": [] }]), "a start needs a key");
    }

    #[test]
    fn the_schema_of_a_status_is_that_of_its_type() {
        let document = parsed(&open());
        let status = &document["components"]["schemas"]["StatusPayload"];
        let required =
            json!(["name", "instanceId", "runtimeStatus", "input", "customStatus", "output", "createdTime", "lastUpdatedTime"]);
        assert_eq!(status["required"], required);
        assert_eq!(status["properties"]["runtimeStatus"]["enum"].as_array().unwrap().len(), 8);
        assert!(status["properties"]["historyEvents"].is_object());
    }
}
