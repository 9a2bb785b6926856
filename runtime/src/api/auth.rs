//! Who may do what? Two keys, and links that open one thing each; or, on a loopback listener, no keys and nobody but this machine.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::{HeaderMap, StatusCode};
use subtle::ConstantTimeEq;

use super::capability::{CapabilityLinks, Verb};
use super::error::ApiError;
use super::keys::Keys;
use super::links::{Origin, Pass, Target};
use super::query::Query;
use super::route::Door;

/// What a request has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need<'a> {
    /// Nothing.
    Nothing,
    /// The system key or the master key.
    System,
    /// One of them, or a capability link for this.
    Instance {
        /// What is to be done.
        verb: Verb,
        /// With which instance.
        instance: &'a str,
    },
    /// The master key.
    Master,
}

/// How a server decides whom to serve.
#[derive(Clone)]
pub enum Access {
    /// By key.
    Keys {
        /// The keys.
        keys: Keys,
        /// What the URLs of check-status objects carry in place of the system key, if that is wanted.
        links: Option<CapabilityLinks>,
    },
    /// Everybody who reaches it. Only for a loopback listener: it then refuses what a browser may have been tricked into, by
    /// asking that the request names this machine or one of `hosts` and does not come from another site's page.
    Open {
        /// Names, without port, under which the server may be called besides those of the loopback interface.
        hosts: Vec<String>,
    },
    /// Workers of this machine, by their prefix alone. Only for a loopback listener beside one that asks for keys; it refuses as
    /// [`Access::Open`] does.
    Workers,
}

/// On what grounds a request is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grounds {
    /// By a key, or because none is needed: all that the endpoint does.
    Trust,
    /// By a capability link: one operation on one instance, and nothing that follows from it.
    Link {
        /// Until when, in seconds since 1970.
        expires_s: u64,
    },
}

/// What a request shows of who sends it.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) query: &'a Query,
    pub(super) origin: &'a Origin,
    /// The hub and the store that it is about, if there can be such.
    pub(super) target: Option<&'a Target>,
    /// When it came, in seconds since 1970.
    pub(super) now_s: u64,
}

impl Grounds {
    /// Whether it is a link.
    pub(super) fn is_link(self) -> bool {
        matches!(self, Self::Link { .. })
    }

    /// For how many seconds more they hold, if not for ever.
    pub(super) fn left_s(self, now_s: u64) -> Option<u64> {
        if let Self::Link { expires_s } = self { Some(expires_s.saturating_sub(now_s)) } else { None }
    }
}

impl Access {
    /// The same as [`Self::instance_pass`] for the answer to a request that was let in on these grounds: a link leads to no further ones.
    pub(super) fn pass_on(&self, grounds: Grounds, now_s: u64) -> Pass<'_> {
        if grounds.is_link() { Pass::Nothing } else { self.instance_pass(now_s) }
    }

    /// What the URLs of a check-status object carry that is made at `now_s`, in seconds since 1970.
    pub(super) fn instance_pass(&self, now_s: u64) -> Pass<'_> {
        match self {
            Self::Keys { links: Some(links), .. } => Pass::Link { links, now_s },
            _ => self.hub_pass(),
        }
    }

    /// What URLs carry that are for whoever has a key anyway, and for a whole hub.
    pub(super) fn hub_pass(&self) -> Pass<'_> {
        match self {
            Self::Keys { keys, .. } => Pass::Code(&keys.system),
            Self::Open { .. } | Self::Workers => Pass::Nothing,
        }
    }

    /// Which prefixes are served: that for workers, whose clients send no key, only where none is asked for.
    pub(super) fn doors(&self) -> &'static [Door] {
        match self {
            Self::Keys { .. } => &[Door::Webhooks],
            Self::Open { .. } => &[Door::Webhooks, Door::Rpc],
            Self::Workers => &[Door::Rpc],
        }
    }

    /// Lets a request through or not.
    ///
    /// # Errors
    /// 401 with an empty body if the key is missing or wrong, and so is the signature; 403 if no key is needed but the request may not be
    /// its user's will.
    pub(super) fn check(&self, need: Need<'_>, caller: Caller<'_>) -> Result<Grounds, ApiError> {
        let Caller { headers, query, origin, .. } = caller;
        match self {
            _ if need == Need::Nothing => Ok(Grounds::Trust),
            Self::Keys { keys, links } => {
                // The header wins even if it is empty.
                let header = headers.get("x-functions-key").map(|header| header.as_bytes());
                let given = header.unwrap_or_else(|| query.text("code").unwrap_or_default().as_bytes());
                // Both are compared in any case, so that the time taken says nothing of which one was near.
                let master = given.ct_eq(keys.master.as_bytes());
                let system = given.ct_eq(keys.system.as_bytes());
                let enough = bool::from(if need == Need::Master { master } else { master | system });
                let links = links.as_ref().filter(|_| header.is_none());
                if enough {
                    return Ok(Grounds::Trust);
                }
                let expires_s = links.and_then(|links| opened_until(links, need, caller));
                let expires_s = expires_s.ok_or_else(|| ApiError::empty(StatusCode::UNAUTHORIZED))?;
                Ok(Grounds::Link { expires_s })
            }
            Self::Open { hosts } => not_tricked(hosts, headers, origin),
            // Nothing behind that prefix needs as much, and nobody here could show it.
            Self::Workers if need == Need::Master => Err(ApiError::empty(StatusCode::UNAUTHORIZED)),
            Self::Workers => not_tricked(&[], headers, origin),
        }
    }
}

/// Until when the query makes the request one of our links for what it needs, if it does.
fn opened_until(links: &CapabilityLinks, need: Need<'_>, Caller { query, target, now_s, .. }: Caller<'_>) -> Option<u64> {
    let Need::Instance { verb, instance } = need else { return None };
    // It is for one instance, and not for those that this one has started.
    if verb == Verb::Terminate && query.flag("recursive") == Some(true) {
        return None;
    }
    links.opened_until(query, target?, verb, instance, now_s)
}

/// Whether a request is addressed to us by a name of ours and comes from no page of somebody else.
///
/// A name of somebody else's that resolves to 127.0.0.1 makes a page of theirs "same origin" with us, hence the host; a form or
/// an image on their page reaches us too, hence the rest.
fn not_tricked(hosts: &[String], headers: &HeaderMap, origin: &Origin) -> Result<Grounds, ApiError> {
    let foreign = |message| Err(ApiError::ours(StatusCode::FORBIDDEN, "foreign_request", message));
    let ours = |host: &str| is_loopback(host) || hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
    let authority = origin.authority();
    if !ours(authority.host()) {
        let host = authority.host();
        return foreign(format!(
            "the server runs without keys and is not known as {host:?}; call it as localhost, or configure the name"
        ));
    }
    for page in headers.get_all("origin") {
        let site = page.to_str().ok().and_then(|page| page.split_once("://")).map_or("", |(_, site)| site);
        let host = site.rsplit_once(':').map_or(site, |(host, _)| host);
        if !site.eq_ignore_ascii_case(authority.as_str()) && !hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
            return foreign("the server runs without keys and serves no pages of other origins".into());
        }
    }
    if headers.get_all("sec-fetch-site").iter().any(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site")) {
        return foreign("the server runs without keys and serves no pages of other sites".into());
    }
    Ok(Grounds::Trust)
}

/// Whether a host, as a URL writes it, is this machine and nothing else.
fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match address {
        Some(address) => address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback()),
        None => host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::capability::tests::LINKS;
    use super::super::links::tests::{origin, request};
    use super::*;
    use crate::model::StoreName;

    fn keys(links: Option<CapabilityLinks>) -> Access {
        Access::Keys { keys: Keys { master: "mmm".into(), system: "sss".into() }, links }
    }

    fn check(access: &Access, need: Need<'_>, text: &str, expected: &str) {
        let parts = request(text);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let (origin, names) = (origin(text).unwrap(), [StoreName::default_store()]);
        let target = query.target(&"Bakery".parse().unwrap(), names.iter()).ok();
        let caller = Caller { headers: &parts.headers, query: &query, origin: &origin, target: target.as_ref(), now_s: 1_000 };
        let seen = match access.check(need, caller) {
            Ok(Grounds::Trust) => "ok".to_owned(),
            Ok(Grounds::Link { expires_s }) => format!("until {expires_s}"),
            Err(error) => error.into_reply().shown(),
        };
        let seen = if seen.starts_with("403  {\"error\":{\"code\":\"foreign_request\"") { "403" } else { &seen };
        assert_eq!(seen, expected, "{need:?} {text}");
    }

    #[test]
    fn each_key_opens_its_part_and_the_header_beats_the_query() {
        let access = keys(None);
        for (need, line, expected) in [
            (Need::Nothing, "/ HTTP/1.1", "ok"),
            (Need::System, "/?code=sss HTTP/1.1", "ok"),
            (Need::System, "/?CODE=mmm HTTP/1.1", "ok"),
            (Need::System, "/ HTTP/1.1\nx-functions-key: sss", "ok"),
            (Need::System, "/?code=wrong HTTP/1.1\nx-functions-key: mmm", "ok"),
            (Need::System, "/?code=sss HTTP/1.1\nx-functions-key:", "401  "),
            (Need::System, "/?code=sss HTTP/1.1\nx-functions-key: wrong", "401  "),
            (Need::System, "/ HTTP/1.1", "401  "),
            (Need::System, "/?code= HTTP/1.1", "401  "),
            (Need::System, "/?code=ss HTTP/1.1", "401  "),
            (Need::System, "/?code=sss&code=sss HTTP/1.1", "401  "),
            (Need::Master, "/?code=mmm HTTP/1.1", "ok"),
            (Need::Master, "/?code=sss HTTP/1.1", "401  "),
        ] {
            let (first, headers) = line.split_once('\n').unwrap_or((line, ""));
            check(&access, need, format!("GET {first}\nHost: anywhere.example\n{headers}").trim_end(), expected);
        }
    }

    #[test]
    fn without_keys_only_requests_of_this_machine_are_served() {
        let access = Access::Open { hosts: vec!["dev.example".into()] };
        for (headers, expected) in [
            ("Host: localhost", "ok"),
            ("Host: LOCALHOST:7071", "ok"),
            ("Host: 127.0.0.1:1", "ok"),
            ("Host: 127.9.8.7", "ok"),
            ("Host: [::1]:7071", "ok"),
            ("Host: dev.example:443", "ok"),
            ("Host: evil.example", "403"),
            ("Host: localhost.evil.example", "403"),
            ("Host: 127.0.0.1.evil.example", "403"),
            ("Host: 128.0.0.1", "403"),
            ("Host: [::2]", "403"),
            ("Host: localhost:7071\nOrigin: http://localhost:7071", "ok"),
            ("Host: localhost:7071\nOrigin: https://dev.example", "ok"),
            ("Host: localhost:7071\nOrigin: http://localhost:3000", "403"),
            ("Host: localhost:7071\nOrigin: http://evil.example", "403"),
            ("Host: localhost:7071\nOrigin: null", "403"),
            ("Host: localhost:7071\nSec-Fetch-Site: same-origin", "ok"),
            ("Host: localhost:7071\nSec-Fetch-Site: none", "ok"),
            ("Host: localhost:7071\nSec-Fetch-Site: Cross-Site", "403"),
        ] {
            check(&access, Need::System, &format!("GET /?code=any HTTP/1.1\n{headers}"), expected);
            check(&access, Need::Master, &format!("GET / HTTP/1.1\n{headers}"), expected);
        }
        check(&Access::Workers, Need::System, "GET / HTTP/1.1\nHost: localhost:17071", "ok");
        check(&Access::Workers, Need::Master, "GET / HTTP/1.1\nHost: localhost:17071", "401  ");
        check(&Access::Workers, Need::System, "GET / HTTP/1.1\nHost: dev.example", "403");
        check(&access, Need::System, "GET http://evil.example/ HTTP/1.1\nHost: localhost", "403");
        check(&access, Need::System, "GET / HTTP/1.0", "ok");
    }

    #[test]
    fn a_link_opens_one_operation_on_one_instance() {
        let access = keys(Some(LINKS));
        let status = |instance| Need::Instance { verb: Verb::Status, instance };
        let target = Target { hub: "Bakery".parse().unwrap(), connection: StoreName::default_store() };
        let link = LINKS.pass(&target, Verb::Status, "loaf-17", 1_000);
        let expired = LINKS.pass(&target, Verb::Status, "loaf-17", 900);
        let get = |query: &str, headers: &str| format!("GET /?{query} HTTP/1.1\nHost: anywhere.example{headers}");
        let mine = status("loaf-17");
        check(&access, mine, &get(&link, ""), "until 1060");
        check(&access, mine, &get(&format!("taskHub=BAKERY&connection=storage&{link}"), ""), "until 1060");
        check(&access, mine, &get("code=sss", ""), "ok");
        check(&access, mine, &get(&format!("code=wrong&{link}"), ""), "until 1060");
        check(&access, mine, &get(&format!("code=sss&{expired}"), ""), "ok");
        check(&access, mine, &get(&link, "\nx-functions-key: sss"), "ok");
        for (need, query, headers) in [
            (mine, expired.as_str(), ""),
            (mine, "", ""),
            (mine, &format!("taskHub=Other&{link}"), ""),
            (mine, &format!("taskHub=x&{link}"), ""),
            (mine, &format!("connection=Other&{link}"), ""),
            (mine, &link, "\nx-functions-key: wrong"),
            (mine, &link, "\nx-functions-key:"),
            (status("loaf-18"), &link, ""),
            (Need::Instance { verb: Verb::Raise, instance: "loaf-17" }, &link, ""),
            (Need::System, &link, ""),
            (Need::Master, &link, ""),
        ] {
            check(&access, need, &get(query, headers), "401  ");
        }
        check(&keys(None), mine, &get(&link, ""), "401  ");
    }
}
