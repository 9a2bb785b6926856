//! Which endpoint does a path mean? Every path and alias of the server, in one table.
//!
//! The wire contract's rules fit no router: literal parts match in any case, the path is form-decoded before it is split, slashes
//! at both ends do not count, and a wrong GET, POST or DELETE is a 404. Pure; called by the server for each request, and by `openapi`,
//! which documents each line.

use std::borrow::Cow;

use hyper::Method;

use super::description::Operation;
use super::{control, export, list, logs, modules, openapi, operations, purge, question, restart, start, status, why};

/// What a request asks for, with the variable parts of its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Start an instance.
    Start { function: String, instance: Option<String> },
    /// How an instance stands.
    Status { instance: String, door: Door },
    /// Which instances there are.
    List,
    /// Take an ended instance away.
    Purge { instance: String },
    /// Take all ended instances away that a filter lets through.
    PurgeMany,
    /// Run the same again.
    Restart { instance: String },
    /// Nothing: there is no lease to move.
    MakePrimary,
    /// Raise an event to an instance.
    Raise { instance: String, event: String },
    /// End an instance.
    Terminate { instance: String },
    /// Have an instance pause.
    Suspend { instance: String },
    /// Have it go on after that.
    Resume { instance: String },
    /// Have a failed instance go on.
    Rewind { instance: String },
    /// What an instance has said.
    Logs { instance: String },
    /// What an instance waits for.
    Why { instance: String },
    /// What an instance answers to a question.
    Query { instance: String, name: String },
    /// Take a module.
    Upload { module: String },
    /// All modules of a hub.
    Modules,
    /// One module with its versions.
    Module { module: String },
    /// The bytes of one version.
    ModuleBytes { module: String, digest: String },
    /// Take a module away, or one version of it.
    DeleteModule { module: String, digest: Option<String> },
    /// An instance as a file.
    Export { instance: String },
    /// Whether the server is alive.
    Health,
    /// Whether it does its work.
    Ready,
    /// Its counters.
    Metrics,
    /// What a client needs to know to use a hub.
    Binding,
    /// What there is to know of all of these.
    Document,
}

impl Endpoint {
    /// Its name in the metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Status { .. } => "status",
            Self::List => "list",
            Self::Purge { .. } => "purge",
            Self::PurgeMany => "purge_many",
            Self::Restart { .. } => "restart",
            Self::MakePrimary => "make_primary",
            Self::Raise { .. } => "raise",
            Self::Terminate { .. } => "terminate",
            Self::Suspend { .. } => "suspend",
            Self::Resume { .. } => "resume",
            Self::Rewind { .. } => "rewind",
            Self::Logs { .. } => "logs",
            Self::Why { .. } => "why",
            Self::Query { .. } => "query",
            Self::Upload { .. } => "upload",
            Self::Modules => "modules",
            Self::Module { .. } => "module",
            Self::ModuleBytes { .. } => "module_bytes",
            Self::DeleteModule { .. } => "delete_module",
            Self::Export { .. } => "export",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::Metrics => "metrics",
            Self::Binding => "binding",
            Self::Document => "document",
        }
    }
}

/// Through which door a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// One of the three webhook prefixes, or a path of ours.
    Webhooks,
    /// The prefix for workers, which asks for no key.
    Rpc,
}

/// Why there is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Miss {
    /// 404.
    NotFound,
    /// 405, with the methods that are understood here.
    Method { allow: String },
    /// A start whose path is no text.
    NoText,
}

/// The operations of the wire contract live under each of these.
const PREFIXES: [(&str, Door); 4] = [
    ("runtime/webhooks/durabletask", Door::Webhooks),
    ("admin/extensions/DurableTaskExtension", Door::Webhooks),
    ("webhookextensions/handler/DurableTaskExtension", Door::Webhooks),
    ("durabletask", Door::Rpc),
];

/// A line of the table: method, path with a name in braces for each variable part, the operation's ID and description in the OpenAPI
/// document, and what to make of the parts.
type Line = (Method, &'static str, &'static str, &'static Operation, fn(&[&str], Door) -> Endpoint);

/// Behind the prefixes of the wire contract.
static OPERATIONS: [Line; 20] = [
    (Method::POST, "orchestrators/{functionName}", "start", &start::START, |part, _| Endpoint::Start {
        function: part[0].into(),
        instance: None,
    }),
    (Method::POST, "orchestrators/{functionName}/{instanceId}", "start_as", &start::START, |part, _| Endpoint::Start {
        function: part[0].into(),
        instance: Some(part[1].into()),
    }),
    (Method::GET, "", "binding", &openapi::BINDING, |_, _| Endpoint::Binding),
    (Method::GET, "instances", "list", &list::LIST, |_, _| Endpoint::List),
    (Method::GET, "instances/{instanceId}", "status", &status::STATUS, |part, door| Endpoint::Status {
        instance: part[0].into(),
        door,
    }),
    (Method::POST, "instances/{instanceId}/raiseEvent/{eventName}", "raise", &control::RAISE, |part, _| Endpoint::Raise {
        instance: part[0].into(),
        event: part[1].into(),
    }),
    (Method::POST, "instances/{instanceId}/terminate", "terminate", &control::TERMINATE, |part, _| Endpoint::Terminate {
        instance: part[0].into(),
    }),
    (Method::DELETE, "instances/{instanceId}/terminate", "terminate_by_delete", &control::TERMINATE, |part, _| {
        Endpoint::Terminate { instance: part[0].into() }
    }),
    (Method::POST, "instances/{instanceId}/suspend", "suspend", &control::SUSPEND, |part, _| Endpoint::Suspend {
        instance: part[0].into(),
    }),
    (Method::POST, "instances/{instanceId}/resume", "resume", &control::RESUME, |part, _| Endpoint::Resume {
        instance: part[0].into(),
    }),
    (Method::POST, "instances/{instanceId}/rewind", "rewind", &control::REWIND, |part, _| Endpoint::Rewind {
        instance: part[0].into(),
    }),
    (Method::POST, "instances/{instanceId}/restart", "restart", &restart::RESTART, |part, _| Endpoint::Restart {
        instance: part[0].into(),
    }),
    (Method::DELETE, "instances/{instanceId}", "purge", &purge::PURGE, |part, _| Endpoint::Purge { instance: part[0].into() }),
    (Method::DELETE, "instances", "purge_many", &purge::PURGE_MANY, |_, _| Endpoint::PurgeMany),
    (Method::GET, "makeprimary", "make_primary_by_get", &operations::MAKE_PRIMARY, |_, _| Endpoint::MakePrimary),
    (Method::POST, "makeprimary", "make_primary", &operations::MAKE_PRIMARY, |_, _| Endpoint::MakePrimary),
    (Method::DELETE, "makeprimary", "make_primary_by_delete", &operations::MAKE_PRIMARY, |_, _| Endpoint::MakePrimary),
    (Method::GET, "instances/{instanceId}/why", "why", &why::WHY, |part, _| Endpoint::Why { instance: part[0].into() }),
    (Method::GET, "instances/{instanceId}/logs", "logs", &logs::LOGS, |part, _| Endpoint::Logs { instance: part[0].into() }),
    (Method::GET, "instances/{instanceId}/query/{queryName}", "query", &question::QUERY, |part, _| Endpoint::Query {
        instance: part[0].into(),
        name: part[1].into(),
    }),
];

/// Ours, from the root.
static OURS: [Line; 13] =
    [
        (Method::POST, "api/orchestrators/{functionName}", "api_start", &start::START, |part, _| Endpoint::Start {
            function: part[0].into(),
            instance: None,
        }),
        (Method::POST, "api/orchestrators/{functionName}/{instanceId}", "api_start_as", &start::START, |part, _| {
            Endpoint::Start { function: part[0].into(), instance: Some(part[1].into()) }
        }),
        (Method::GET, "admin/modules", "modules", &modules::MODULES, |_, _| Endpoint::Modules),
        (Method::PUT, "admin/modules/{moduleName}", "upload", &modules::UPLOAD, |part, _| Endpoint::Upload {
            module: part[0].into(),
        }),
        (Method::GET, "admin/modules/{moduleName}", "module", &modules::MODULE, |part, _| Endpoint::Module {
            module: part[0].into(),
        }),
        (Method::GET, "admin/modules/{moduleName}/versions/{digest}", "module_bytes", &modules::MODULE_BYTES, |part, _| {
            Endpoint::ModuleBytes { module: part[0].into(), digest: part[1].into() }
        }),
        (Method::DELETE, "admin/modules/{moduleName}", "delete_module", &modules::DELETE_MODULE, |part, _| {
            Endpoint::DeleteModule { module: part[0].into(), digest: None }
        }),
        (Method::DELETE, "admin/modules/{moduleName}/versions/{digest}", "delete_version", &modules::DELETE_MODULE, |part, _| {
            Endpoint::DeleteModule { module: part[0].into(), digest: Some(part[1].into()) }
        }),
        (Method::GET, "admin/instances/{instanceId}/export", "export", &export::EXPORT, |part, _| Endpoint::Export {
            instance: part[0].into(),
        }),
        (Method::GET, "healthz", "health", &operations::HEALTH, |_, _| Endpoint::Health),
        (Method::GET, "readyz", "ready", &operations::READY, |_, _| Endpoint::Ready),
        (Method::GET, "metrics", "metrics", &operations::METRICS, |_, _| Endpoint::Metrics),
        (Method::GET, "openapi.json", "document", &openapi::DOCUMENT, |_, _| Endpoint::Document),
    ];

/// A line of the table as the OpenAPI document needs it.
pub(super) struct Described {
    pub(super) method: &'static Method,
    /// Which prefix it stands behind, if it does behind one.
    pub(super) prefix: Option<&'static str>,
    /// What follows the prefix; each variable part has its name in braces.
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) operation: &'static Operation,
    /// The endpoint with some texts as its variable parts.
    pub(super) endpoint: Endpoint,
}

/// Every line of the table, once for each prefix behind the doors that are open.
pub(super) fn table(open: &[Door]) -> impl Iterator<Item = Described> {
    let describe = |(method, path, id, operation, make): &'static Line, prefix, door| {
        let endpoint = make(&path.split('/').filter(|part| is_variable(part)).collect::<Vec<_>>(), door);
        Described { method, prefix, path, id, operation, endpoint }
    };
    let prefixes = PREFIXES.into_iter().filter(|(_, door)| open.contains(door));
    let behind_prefixes =
        prefixes.flat_map(move |(prefix, door)| OPERATIONS.iter().map(move |line| describe(line, Some(prefix), door)));
    behind_prefixes.chain(OURS.iter().map(move |line| describe(line, None, Door::Webhooks)))
}

/// Finds the endpoint that `path`, as it was sent, names for `method`, behind one of the doors that are open, and its description.
pub(super) fn route(method: &Method, path: &str, open: &[Door]) -> Result<(Endpoint, &'static Operation), Miss> {
    let Some(decoded) = decode(path) else {
        // A start has to say what is wrong with the ID; of anything else there is nothing under such a name.
        let like = find(method, &percent_encoding::percent_decode_str(path).decode_utf8_lossy(), open);
        return Err(if matches!(like, Ok((Endpoint::Start { .. }, _))) { Miss::NoText } else { Miss::NotFound });
    };
    find(method, &decoded, open)
}

/// The same for a path that is decoded.
fn find(method: &Method, path: &str, open: &[Door]) -> Result<(Endpoint, &'static Operation), Miss> {
    let path = path.strip_prefix('/').ok_or(Miss::NotFound)?;
    for (prefix, door) in PREFIXES.into_iter().filter(|(_, door)| open.contains(door)) {
        if let Some(rest) = behind(path, prefix) {
            return if [Method::GET, Method::POST, Method::DELETE].contains(method) {
                OPERATIONS.iter().find_map(|line| make(line, method, rest, door)).ok_or(Miss::NotFound)
            } else {
                // What the contract has no path for could still be named by one of its verbs.
                Err(Miss::Method { allow: methods(&OPERATIONS, rest).unwrap_or_else(|| "GET, POST, DELETE".into()) })
            };
        }
    }
    if !open.contains(&Door::Webhooks) {
        return Err(Miss::NotFound);
    }
    // What watches over servers asks for heads.
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let found = OURS.iter().find_map(|line| make(line, method, path, Door::Webhooks));
    found.ok_or_else(|| methods(&OURS, path).map_or(Miss::NotFound, |allow| Miss::Method { allow }))
}

/// The methods that are understood at `path`. `None` if there is no such path.
fn methods(lines: &[Line], path: &str) -> Option<String> {
    let here = lines.iter().filter(|(_, pattern, ..)| parts(pattern, path).is_some());
    let methods: Vec<_> = here.map(|(method, ..)| method.as_str()).collect();
    (!methods.is_empty()).then(|| methods.join(", "))
}

/// Decodes `%XX` and `+`, once. `None` if a `%` has no two hex digits behind it, or the bytes are not UTF-8.
fn decode(path: &str) -> Option<String> {
    let hex = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' && !(hex(bytes.next()) && hex(bytes.next())) {
            return None;
        }
    }
    let spaced: Cow<'_, str> = if path.contains('+') { path.replace('+', " ").into() } else { path.into() };
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

/// What follows `prefix`, which matches in any case and ends where a part ends.
fn behind<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = path.split_at_checked(prefix.len())?;
    (start.eq_ignore_ascii_case(prefix) && (rest.is_empty() || rest.starts_with('/'))).then_some(rest)
}

/// The endpoint of a line and its description, if it is this method and path.
fn make(
    (wanted, pattern, _, operation, make): &Line,
    method: &Method,
    path: &str,
    door: Door,
) -> Option<(Endpoint, &'static Operation)> {
    if wanted != method {
        return None;
    }
    parts(pattern, path).map(|parts| (make(&parts, door), *operation))
}

/// The variable parts of `path`, if it has the form of `pattern`. No part is empty; slashes at the ends do not count.
fn parts<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let mut variable = Vec::new();
    let mut wanted = pattern.split('/');
    for part in path.trim_matches('/').split('/') {
        match wanted.next()? {
            name if is_variable(name) && part.is_empty() => return None,
            name if is_variable(name) => variable.push(part),
            literal if literal.eq_ignore_ascii_case(part) => (),
            _ => return None,
        }
    }
    wanted.next().is_none().then_some(variable)
}

fn is_variable(part: &str) -> bool {
    part.starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(request: &str, open: &[Door]) -> String {
        let (method, path) = request.split_once(' ').unwrap();
        match route(&method.parse().unwrap(), path, open).map(|(endpoint, _)| endpoint) {
            Ok(Endpoint::Start { function, instance }) => format!("start {function:?} {instance:?}"),
            Ok(Endpoint::Status { instance, door }) => format!("status {instance:?} {door:?}"),
            Ok(other) => format!("{other:?}"),
            Err(Miss::NotFound) => "404".into(),
            Err(Miss::Method { allow }) => format!("405 {allow}"),
            Err(Miss::NoText) => "400".into(),
        }
    }

    fn check(request: &str, expected: &str) {
        assert_eq!(shown(request, &[Door::Webhooks]), expected, "{request}");
    }

    #[test]
    fn every_operation_answers_under_every_webhook_prefix() {
        for (prefix, _) in &PREFIXES[..3] {
            let prefix = format!("/{prefix}");
            check(&format!("POST {prefix}/orchestrators/Bake"), r#"start "Bake" None"#);
            check(&format!("POST {prefix}/orchestrators/Bake/loaf-17"), r#"start "Bake" Some("loaf-17")"#);
            check(&format!("GET {prefix}/instances/loaf-17"), r#"status "loaf-17" Webhooks"#);
            check(&format!("GET {prefix}/Instances/"), "List");
            check(&format!("DELETE {prefix}/Instances/"), "PurgeMany");
            check(&format!("DELETE {prefix}/instances/loaf-17/"), r#"Purge { instance: "loaf-17" }"#);
            check(&format!("POST {prefix}/instances/a/Restart"), r#"Restart { instance: "a" }"#);
            for method in ["GET", "POST", "DELETE"] {
                check(&format!("{method} {prefix}/MakePrimary"), "MakePrimary");
            }
            check(&format!("GET {prefix}/instances/a/Query/How%20far/"), r#"Query { instance: "a", name: "How far" }"#);
            check(&format!("GET {prefix}/instances/a/WHY/"), r#"Why { instance: "a" }"#);
            check(&format!("POST {prefix}/instances/a/why"), "404");
            check(&format!("GET {prefix}/instances/a/query"), "404");
            check(&format!("POST {prefix}/instances/a/query/far"), "404");
            for method in ["GET", "POST", "DELETE"] {
                check(&format!("{method} {prefix}/MakePrimary"), "MakePrimary");
            }
            check(&format!("GET {prefix}"), "Binding");
            check(&format!("GET {prefix}/"), "Binding");
            check(&format!("GET {}/INSTANCES/Loaf/", prefix.to_uppercase()), r#"status "Loaf" Webhooks"#);
        }
    }

    #[test]
    fn ours_are_found_too() {
        check("POST /api/orchestrators/Bake", r#"start "Bake" None"#);
        check("POST /api/orchestrators/Bake/loaf-17", r#"start "Bake" Some("loaf-17")"#);
        check("PUT /admin/modules/bakery", r#"Upload { module: "bakery" }"#);
        check("GET /admin/modules", "Modules");
        check("GET /admin/modules/", "Modules");
        check("GET /admin/modules/bakery", r#"Module { module: "bakery" }"#);
        check("GET /admin/modules/bakery/versions/ab12", r#"ModuleBytes { module: "bakery", digest: "ab12" }"#);
        check("DELETE /admin/modules/bakery", r#"DeleteModule { module: "bakery", digest: None }"#);
        check("DELETE /admin/modules/bakery/versions/ab12", r#"DeleteModule { module: "bakery", digest: Some("ab12") }"#);
        check("GET /admin/instances/loaf%2017/export", r#"Export { instance: "loaf 17" }"#);
        check("GET /healthz", "Health");
        check("HEAD /healthz", "Health");
        check("GET /readyz", "Ready");
        check("GET /metrics", "Metrics");
        check("GET /openapi.json", "Document");
    }

    #[test]
    fn a_prefix_is_there_only_if_its_door_is_open() {
        assert_eq!(shown("GET /durabletask/instances/a", &[Door::Webhooks, Door::Rpc]), r#"status "a" Rpc"#);
        assert_eq!(shown("POST /DurableTask/orchestrators/Bake", &[Door::Rpc]), r#"start "Bake" None"#);
        check("GET /durabletask/instances/a", "404");
        assert_eq!(shown("GET /runtime/webhooks/durabletask/instances/a", &[Door::Rpc]), "404");
        assert_eq!(shown("GET /admin/modules", &[Door::Rpc]), "404");
        assert_eq!(shown("POST /api/orchestrators/Bake", &[Door::Rpc]), "404");
    }

    #[test]
    fn a_path_is_form_decoded_once_before_it_is_split() {
        let status = |id: &str| format!("GET /runtime/webhooks/durabletask/instances/{id}");
        check(&status("a%20b"), r#"status "a b" Webhooks"#);
        check(&status("a+b"), r#"status "a b" Webhooks"#);
        check(&status("a%2Bb"), r#"status "a+b" Webhooks"#);
        check(&status("a%2520b"), r#"status "a%20b" Webhooks"#);
        check(&status("%C3%9C%3a1"), r#"status "Ü:1" Webhooks"#);
        check(&status("a%2F"), r#"status "a" Webhooks"#);
        check(&status("a%2Fb"), "404");
        check(&status("a%"), "404");
        check(&status("a%2"), "404");
        check(&status("a%zzb"), "404");
        check(&status("%FF"), "404");
        check(&status("%C3"), "404");
        for start in ["POST /api/orchestrators/Bake/%FF", "POST /runtime/webhooks/durabletask/orchestrators/Bake/a%zz"] {
            check(start, "400");
        }
    }

    #[test]
    fn a_wrong_verb_of_the_three_is_404_and_any_other_405() {
        let path = "/runtime/webhooks/durabletask";
        check(&format!("GET {path}/orchestrators/Bake"), "404");
        check(&format!("POST {path}/instances/a"), "404");
        check(&format!("DELETE {path}/instances/a/b"), "404");
        check(&format!("POST {path}/makebread"), "404");
        for method in ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
            check(&format!("{method} {path}/instances/a/terminate"), "405 POST, DELETE");
            check(&format!("{method} {path}"), "405 GET");
            check(&format!("{method} {path}/nothing"), "405 GET, POST, DELETE");
        }
        check("DELETE /admin/modules", "405 GET");
        check("POST /admin/modules/bakery", "405 PUT, GET, DELETE");
        check("GET /api/orchestrators/Bake", "405 POST");
        check("PUT /healthz", "405 GET");
    }

    #[test]
    fn what_is_not_in_the_table_is_not_there() {
        for path in ["", "*", "/", "//", "/runtime", "/runtime/webhooks/durabletasks/instances/a"] {
            check(&format!("GET {path}"), "404");
        }
        for path in ["/instances/a", "//healthz/x", "/admin/modules/a/versions", "/admin/modules//versions/b", "/healthz/x"] {
            check(&format!("GET {path}"), "404");
        }
        check("POST /runtime/webhooks/durabletask/orchestrators", "404");
        check("POST /runtime/webhooks/durabletask/orchestrators//a", "404");
        check("POST /runtime/webhooks/durabletask/orchestrators/a/b/c", "404");
        check("GET /\u{fc}\u{fc}/webhooks/durabletask", "404");
    }
}
