//! Which URLs does the server hand out? All of them are made here, from what the client called us by.

use std::net::SocketAddr;

use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Uri, Version, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Serialize;

use super::capability::{CapabilityLinks, Verb};
use crate::model::{HubName, InstanceId, StoreName};

/// The prefix that generated URLs have, whichever the client came by.
const PREFIX: &str = "/runtime/webhooks/durabletask";

/// The prefix for workers, which send no key.
const RPC_PREFIX: &str = "/durabletask";

/// What is escaped in a part of a path or a value of a query.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'!').remove(b'*').remove(b'(').remove(b')');

/// Which hub and store a request acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The hub, as the client spelled it.
    pub(super) hub: HubName,
    /// The store, as the configuration spells it.
    pub(super) connection: StoreName,
}

/// Whom the client believes to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: &'static str,
    authority: Authority,
    /// Where the operations of the wire contract are.
    prefix: &'static str,
}

impl Origin {
    /// Reads it from the request: from an absolute URI if there is one, else from `Host`; a client of HTTP/1.0 that says nothing
    /// means `local`, the address it has connected to. `None` if `Host` is missing, given twice or no host.
    pub(super) fn of(request: &Parts, local: SocketAddr) -> Option<Self> {
        let mut hosts = request.headers.get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => Some(plain_authority(host.to_str().ok()?)?),
            (None, None) if request.version == Version::HTTP_10 => None,
            _ => return None,
        };
        let authority = match request.uri.authority() {
            Some(authority) => plain_authority(authority.as_str())?,
            None => host.or_else(|| plain_authority(&local.to_string()))?,
        };
        Some(Self { scheme: "http", authority, prefix: PREFIX })
    }

    /// What a proxy in front of us says, if it says both the host and the scheme; else the same as before.
    pub(super) fn forwarded(self, headers: &HeaderMap) -> Self {
        let first = |name| headers.get(name)?.to_str().ok()?.split(',').next().map(str::trim);
        let scheme =
            first("x-forwarded-proto").and_then(|name| ["http", "https"].into_iter().find(|it| name.eq_ignore_ascii_case(it)));
        match (scheme, first("x-forwarded-host").and_then(plain_authority)) {
            (Some(scheme), Some(authority)) => Self { scheme, authority, ..self },
            _ => self,
        }
    }

    /// The same where only the prefix for workers is served.
    pub(super) fn for_workers(self) -> Self {
        Self { prefix: RPC_PREFIX, ..self }
    }

    /// Host and port.
    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The absolute form of a URI of this server, with its whole query.
    pub(super) fn url_of(&self, uri: &Uri) -> String {
        format!("{}://{}{}", self.scheme, self.authority, uri.path_and_query().map_or("/", |it| it.as_str()))
    }
}

/// Host and port without anything in front of them. `None` if it is something else.
fn plain_authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let has_port = !authority.as_str().ends_with(']') && authority.as_str().contains(':');
    let is_plain = !authority.as_str().contains('@') && !authority.host().is_empty();
    (is_plain && (!has_port || authority.port_u16().is_some())).then_some(authority)
}

/// What a URL carries so that it opens something.
#[derive(Clone, Copy)]
pub(super) enum Pass<'a> {
    /// Nothing, since no key is asked for.
    Nothing,
    /// A key.
    Code(&'a str),
    /// A signature for what the URL is for, made at this time in seconds since 1970.
    Link { links: &'a CapabilityLinks, now_s: u64 },
}

/// What every URL about the instances of one hub has in common.
#[derive(Clone)]
pub(super) struct Links<'a> {
    base: String,
    /// What the query of every URL begins with; with the key, if URLs carry that.
    query: String,
    /// The part of it that shows the key; empty without one.
    code: String,
    target: &'a Target,
    pass: Pass<'a>,
}

/// What a client can do with an instance: the body of every 202 of a start.
///
/// `{eventName}` and `{text}` are placeholders that clients replace in the text, so their braces are not escaped.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CheckStatus {
    id: String,
    status_query_get_uri: String,
    send_event_post_uri: String,
    terminate_post_uri: String,
    purge_history_delete_uri: String,
    restart_post_uri: String,
    suspend_post_uri: String,
    resume_post_uri: String,
    rewind_post_uri: String,
}

/// What a client library needs to use a hub, as a worker gets it. In the management URLs the instance ID is the text `INSTANCEID`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Binding {
    task_hub_name: String,
    creation_urls: CreationUrls,
    management_urls: CheckStatus,
    base_url: String,
    required_query_string_parameters: String,
    /// Where requests need no key, with a slash at its end. Left out if there is no such place.
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_base_url: Option<String>,
}

/// Where instances are started. What stands in braces or brackets clients replace in the text.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CreationUrls {
    create_new_instance_post_uri: String,
    create_and_wait_on_new_instance_post_uri: String,
}

impl<'a> Links<'a> {
    /// URLs of `target` that carry `pass`.
    pub(super) fn new(origin: &Origin, target: &'a Target, pass: Pass<'a>) -> Self {
        let mut query = format!("taskHub={}&connection={}", escaped(target.hub.as_str()), escaped(target.connection.as_str()));
        let mut code = String::new();
        if let Pass::Code(key) = pass {
            code = format!("code={}", escaped(key));
            query.push('&');
            query.push_str(&code);
        }
        let base = format!("{}://{}{}", origin.scheme, origin.authority, origin.prefix);
        Self { base, query, code, target, pass }
    }

    /// Where to ask how an instance stands.
    pub(super) fn status(&self, instance: &InstanceId) -> String {
        self.instance(instance)(Verb::Status, "?")
    }

    /// All that can be done with an instance.
    pub(super) fn check_status(&self, instance: &InstanceId) -> CheckStatus {
        let url = self.instance(instance);
        CheckStatus {
            id: instance.to_string(),
            status_query_get_uri: url(Verb::Status, "?"),
            send_event_post_uri: url(Verb::Raise, "/raiseEvent/{eventName}?"),
            terminate_post_uri: url(Verb::Terminate, "/terminate?reason={text}&"),
            purge_history_delete_uri: url(Verb::Purge, "?"),
            restart_post_uri: url(Verb::Restart, "/restart?"),
            suspend_post_uri: url(Verb::Suspend, "/suspend?reason={text}&"),
            resume_post_uri: url(Verb::Resume, "/resume?reason={text}&"),
            rewind_post_uri: url(Verb::Rewind, "/rewind?reason={text}&"),
        }
    }

    /// What a client library needs to use the hub. `workers`: host and port where workers are served, if they are.
    pub(super) fn binding(&self, workers: Option<&str>) -> Binding {
        let Self { base, code, target, .. } = self;
        let start = format!("{base}/orchestrators/{{functionName}}[/{{instanceId}}]");
        let wait = "timeout={timeoutInSeconds}&pollingInterval={intervalInSeconds}";
        let and_code = if code.is_empty() { String::new() } else { format!("&{code}") };
        Binding {
            task_hub_name: target.hub.to_string(),
            creation_urls: CreationUrls {
                create_new_instance_post_uri: format!("{start}?{code}"),
                create_and_wait_on_new_instance_post_uri: format!("{start}?{wait}{and_code}"),
            },
            management_urls: self.check_status(&"INSTANCEID".parse().expect("letters make an ID")),
            base_url: base.clone(),
            required_query_string_parameters: code.clone(),
            rpc_base_url: workers.map(|authority| format!("http://{authority}{RPC_PREFIX}/")),
        }
    }

    /// Makes the URLs of an instance: of each verb, by the end of its path and the beginning of its query.
    fn instance(&self, instance: &InstanceId) -> impl Fn(Verb, &str) -> String {
        let Self { base, query, target, pass, .. } = self;
        let url = format!("{base}/instances/{}", escaped(instance.as_str()));
        move |verb, rest| match pass {
            Pass::Link { links, now_s } => {
                format!("{url}{rest}{query}&{}", links.pass(target, verb, instance.as_str(), *now_s))
            }
            Pass::Code(_) | Pass::Nothing => format!("{url}{rest}{query}"),
        }
    }
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use hyper::Request;

    use super::super::capability::tests::LINKS;
    use super::*;

    pub(in crate::api) fn request(text: &str) -> Parts {
        let mut lines = text.lines();
        let mut first = lines.next().unwrap().split(' ');
        let mut request = Request::builder().method(first.next().unwrap()).uri(first.next().unwrap());
        if first.next() == Some("HTTP/1.0") {
            request = request.version(Version::HTTP_10);
        }
        for line in lines {
            let (name, value) = line.split_once(':').unwrap();
            request = request.header(name, value.trim());
        }
        request.body(()).unwrap().into_parts().0
    }

    pub(in crate::api) fn origin(text: &str) -> Option<Origin> {
        Origin::of(&request(text), "127.0.0.1:7071".parse().unwrap())
    }

    fn bakery() -> Target {
        Target { hub: "Bakery".parse().unwrap(), connection: StoreName::default_store() }
    }

    fn links<'a>(target: &'a Target, pass: Pass<'a>) -> Links<'a> {
        Links::new(&origin("GET / HTTP/1.1\nHost: oven.example:7071").unwrap(), target, pass)
    }

    #[test]
    fn the_origin_is_what_the_client_called_us_by() {
        let check = |text: &str, expected: Option<&str>| {
            let seen = origin(text).map(|origin| origin.url_of(&"/p?q=%20".parse().unwrap()));
            assert_eq!(seen.as_deref(), expected, "{text}");
        };
        check("GET / HTTP/1.1\nHost: oven.example:7071", Some("http://oven.example:7071/p?q=%20"));
        check("GET / HTTP/1.1\nHost: [::1]:80", Some("http://[::1]:80/p?q=%20"));
        check("GET http://a.example/x HTTP/1.1\nHost: b.example", Some("http://a.example/p?q=%20"));
        check("GET / HTTP/1.0", Some("http://127.0.0.1:7071/p?q=%20"));
        check("GET / HTTP/1.1", None);
        check("GET / HTTP/1.1\nHost: a\nHost: a", None);
        check("GET / HTTP/1.1\nHost:", None);
        check("GET / HTTP/1.1\nHost: user@a", None);
        check("GET / HTTP/1.1\nHost: a/b", None);
        check("GET / HTTP/1.1\nHost: a b", None);
        check("GET / HTTP/1.1\nHost: ü", None);
    }

    #[test]
    fn a_proxy_is_believed_only_if_it_names_host_and_scheme() {
        let check = |headers: &str, expected: &str| {
            let text = format!("GET / HTTP/1.1\nHost: inner{headers}");
            let seen = origin(&text).unwrap().forwarded(&request(&text).headers);
            assert_eq!(seen.url_of(&"/".parse().unwrap()), expected, "{headers}");
        };
        check("\nX-Forwarded-Host: outer:8443\nX-Forwarded-Proto: https", "https://outer:8443/");
        check("\nX-Forwarded-Host: outer, other\nX-Forwarded-Proto: HTTPS, http", "https://outer/");
        check("\nX-Forwarded-Host: outer", "http://inner/");
        check("\nX-Forwarded-Proto: https", "http://inner/");
        check("\nX-Forwarded-Host: a/b\nX-Forwarded-Proto: https", "http://inner/");
        check("\nX-Forwarded-Host: outer\nX-Forwarded-Proto: gopher", "http://inner/");
    }

    #[test]
    fn the_check_status_object_is_that_of_the_contract() {
        let seen =
            serde_json::to_string_pretty(&links(&bakery(), Pass::Code("k1")).check_status(&"loaf-17".parse().unwrap())).unwrap();
        let base = "http://oven.example:7071/runtime/webhooks/durabletask/instances/loaf-17";
        let query = "taskHub=Bakery&connection=Storage&code=k1";
        let expected = format!(
            r#"{{
  "id": "loaf-17",
  "statusQueryGetUri": "{base}?{query}",
  "sendEventPostUri": "{base}/raiseEvent/{{eventName}}?{query}",
  "terminatePostUri": "{base}/terminate?reason={{text}}&{query}",
  "purgeHistoryDeleteUri": "{base}?{query}",
  "restartPostUri": "{base}/restart?{query}",
  "suspendPostUri": "{base}/suspend?reason={{text}}&{query}",
  "resumePostUri": "{base}/resume?reason={{text}}&{query}",
  "rewindPostUri": "{base}/rewind?reason={{text}}&{query}"
}}"#
        );
        assert_eq!(seen, expected);
    }

    #[test]
    fn ids_are_escaped_in_urls_so_that_they_come_back_as_they_were() {
        for (id, path) in
            [("a b", "a%20b"), ("a:b@c", "a%3Ab%40c"), ("-_.!*()", "-_.!*()"), ("ü+%", "%C3%BC%2B%25"), ("é~'", "%C3%A9%7E%27")]
        {
            let url = links(&bakery(), Pass::Nothing).status(&id.parse().unwrap());
            let base = "http://oven.example:7071/runtime/webhooks/durabletask/instances/";
            assert_eq!(url, format!("{base}{path}?taskHub=Bakery&connection=Storage"));
        }
    }

    #[test]
    fn capability_links_differ_from_others_only_in_what_they_carry() {
        let (target, id) = (bakery(), "loaf-17".parse().unwrap());
        let signed = links(&target, Pass::Link { links: &LINKS, now_s: 1_000 });
        let shown = |links: &Links<'_>| serde_json::to_value(links.check_status(&id)).unwrap();
        let (seen, with_key) = (shown(&signed), shown(&links(&target, Pass::Code("k1"))));
        let verbs = [
            ("statusQueryGetUri", Verb::Status),
            ("sendEventPostUri", Verb::Raise),
            ("terminatePostUri", Verb::Terminate),
            ("purgeHistoryDeleteUri", Verb::Purge),
            ("restartPostUri", Verb::Restart),
            ("suspendPostUri", Verb::Suspend),
            ("resumePostUri", Verb::Resume),
            ("rewindPostUri", Verb::Rewind),
        ];
        for (name, verb) in verbs {
            let expected = with_key[name].as_str().unwrap().replace("code=k1", &LINKS.pass(&target, verb, "loaf-17", 1_000));
            assert_eq!(seen[name], expected, "{name}");
        }
        assert_eq!((seen["id"].as_str(), seen.as_object().unwrap().len()), (Some("loaf-17"), verbs.len() + 1));
        assert_eq!(signed.status(&id), seen["statusQueryGetUri"]);
    }

    #[test]
    fn the_binding_document_is_that_of_the_contract() {
        let target = bakery();
        let base = "http://oven.example:7071/runtime/webhooks/durabletask";
        let start = format!("{base}/orchestrators/{{functionName}}[/{{instanceId}}]");
        let wait = "timeout={timeoutInSeconds}&pollingInterval={intervalInSeconds}";
        let shown = |pass, workers| serde_json::to_value(links(&target, pass).binding(workers)).unwrap();

        let with_key = shown(Pass::Code("k1"), None);
        assert_eq!(with_key["taskHubName"], "Bakery");
        assert_eq!(with_key["creationUrls"]["createNewInstancePostUri"], format!("{start}?code=k1"));
        assert_eq!(with_key["creationUrls"]["createAndWaitOnNewInstancePostUri"], format!("{start}?{wait}&code=k1"));
        let management = &with_key["managementUrls"];
        assert_eq!((&management["id"], management.as_object().unwrap().len()), (&"INSTANCEID".into(), 9));
        let status = format!("{base}/instances/INSTANCEID?taskHub=Bakery&connection=Storage&code=k1");
        assert_eq!(management["statusQueryGetUri"], status);
        assert_eq!((&with_key["baseUrl"], &with_key["requiredQueryStringParameters"]), (&base.into(), &"code=k1".into()));
        assert_eq!(with_key.get("rpcBaseUrl"), None);

        let open = shown(Pass::Nothing, Some("127.0.0.1:17071"));
        assert_eq!(open["creationUrls"]["createNewInstancePostUri"], format!("{start}?"));
        assert_eq!(open["creationUrls"]["createAndWaitOnNewInstancePostUri"], format!("{start}?{wait}"));
        assert_eq!(open["requiredQueryStringParameters"], "");
        assert_eq!(open["rpcBaseUrl"], "http://127.0.0.1:17071/durabletask/");
    }
}
