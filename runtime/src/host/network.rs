//! Where may a hub's activities, and its durable HTTP requests, connect to? Pure: rules, and addresses that somebody else looked up.
//!
//! Nowhere, until the configuration lists it under `allow` of `[hubs.NAME.network]`. An entry is one of
//!
//! * a name, `"api.example.com"` or `"*.example.org"` (all names below that one, not the name itself): it may be looked up and reached
//!   at the **public** addresses that it leads to;
//! * `"*"`: every name, and every public address;
//! * an address or a range, `"10.1.2.3"`, `"10.1.0.0/16"`, `"fd00::/8"`: it may be reached, public or not.
//!
//! Each may end with a port, as in `"*.example.org:443"`, `"127.0.0.1:8080"` and `"[fd00::1]:80"`; without one it holds for all ports.
//! So a name that leads to a private address needs two entries, one for the name and one for the address: what stands in a foreign
//! name server must not open the inner network. And a name that is not listed is not even looked up, since the question itself tells
//! something. `localhost` is never looked up: it is 127.0.0.1 and ::1, of which an entry lists what may be reached.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::model::HubName;

/// What may be reached from one hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    hub: HubName,
    allow: Vec<Entry>,
}

/// One entry of the setting `allow`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Entry {
    what: What,
    /// `None` for every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Every name, every public address.
    Any,
    /// This name, in lower case and without a dot at the end.
    Name(String),
    /// All names that end with this text, which begins with a dot.
    Below(String),
    /// These addresses, public or not.
    Range(IpNet),
}

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub host: Host,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// In lower case and without a dot at the end.
    Name(String),
    Address(IpAddr),
}

impl Destination {
    /// `host` is spelled as in a URI: an IPv6 address stands in brackets.
    pub(super) fn new(host: &str, port: u16) -> Self {
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match in_brackets.unwrap_or(host).parse::<IpAddr>() {
            Ok(address) => Host::Address(address.to_canonical()),
            Err(_) => Host::Name(normal(host)),
        };
        Self { host, port }
    }

    /// The addresses that need no question to anybody.
    pub(super) fn known_addresses(&self) -> Option<Vec<IpAddr>> {
        match &self.host {
            Host::Address(address) => Some(vec![*address]),
            Host::Name(name) if is_localhost(name) => Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
            Host::Name(_) => None,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
        }
    }
}

/// Why a request is not made, with the setting that would allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Denial {
    /// The destination is not listed.
    Host(String),
    /// Its name is listed, but it leads to addresses that are not.
    Address(String),
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Host(message) | Self::Address(message)) = self;
        f.write_str(message)
    }
}

impl Policy {
    /// What the `allow` of the hub's configuration says.
    pub(super) fn new(hub: HubName, allow: Vec<Entry>) -> Self {
        Self { hub, allow }
    }

    /// Whose policy it is.
    pub(super) fn hub(&self) -> &HubName {
        &self.hub
    }

    /// Whether the name may be looked up, or the address reached. Before anybody is asked.
    ///
    /// # Errors
    /// If nothing in the policy lists the destination.
    pub(super) fn check(&self, to: &Destination) -> Result<(), Denial> {
        let is_allowed = match (&to.host, to.known_addresses()) {
            (_, Some(addresses)) => addresses.iter().any(|address| self.allows(to, *address)),
            (Host::Name(name), None) => self.lists_name(name, to.port),
            (Host::Address(_), None) => unreachable!("an address is known"),
        };
        if is_allowed {
            return Ok(());
        }
        let entry = match &to.host {
            Host::Name(name) if is_localhost(name) => format!("127.0.0.1:{}", to.port),
            _ => to.to_string(),
        };
        Err(Denial::Host(format!(
            "{to} is not among what may be reached from this task hub: to allow it, {}",
            self.advice(&entry)
        )))
    }

    /// Those of `addresses`, to which the destination leads, that may be connected to.
    ///
    /// # Errors
    /// If it is none of them. There has to be at least one.
    pub(super) fn reachable(&self, to: &Destination, addresses: &[IpAddr]) -> Result<Vec<SocketAddr>, Denial> {
        self.check(to)?;
        let may = addresses.iter().filter(|address| self.allows(to, **address));
        let reachable: Vec<SocketAddr> = may.map(|address| SocketAddr::new(*address, to.port)).collect();
        if reachable.is_empty() {
            let first = SocketAddr::new(addresses[0].to_canonical(), to.port);
            return Err(Denial::Address(format!(
                "{to} leads to {}, which is not a public address: to allow it, also {}",
                first.ip(),
                self.advice(&first.to_string())
            )));
        }
        Ok(reachable)
    }

    fn advice(&self, entry: &str) -> String {
        format!("put {entry:?} into `allow` in section [hubs.{}.network] of the server's configuration", self.hub)
    }

    fn lists_name(&self, name: &str, port: u16) -> bool {
        self.entries(port).any(|what| match what {
            What::Any => true,
            What::Name(listed) => listed == name,
            What::Below(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
            What::Range(_) => false,
        })
    }

    /// Whether `address`, to which the destination leads, may be connected to.
    fn allows(&self, to: &Destination, address: IpAddr) -> bool {
        let address = address.to_canonical(); // ::ffff:10.0.0.1 is 10.0.0.1.
        let is_listed = self.entries(to.port).any(|what| matches!(what, What::Range(range) if range.contains(&address)));
        let by_name = || match &to.host {
            Host::Name(name) => self.lists_name(name, to.port),
            Host::Address(_) => self.entries(to.port).any(|what| *what == What::Any),
        };
        is_listed || (is_public(address) && by_name())
    }

    fn entries(&self, port: u16) -> impl Iterator<Item = &What> {
        self.allow.iter().filter(move |entry| entry.port.is_none_or(|listed| listed == port)).map(|entry| &entry.what)
    }
}

/// Whether everybody on the Internet means the same by `address`, and no tunnel hides another one in it.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    !matches!(
        (a, b, c, d),
        (0 | 10 | 127, ..) // this network, private, loopback
            | (100, 64..=127, ..) // shared by the customers of a provider; some clouds have services here
            | (169, 254, ..) // this link; most clouds give out credentials at 169.254.169.254
            | (172, 16..=31, ..) // private
            | (192, 0, 0 | 2, _) // for protocols, for documentation
            | (192, 88, 99, _) // relays into tunnels
            | (192, 168, ..) // private
            | (198, 18 | 19, ..) // for measurements
            | (198, 51, 100, _) | (203, 0, 113, _) // for documentation
            | (168, 63, 129, 16) // Azure's services inside every machine
            | (224.., ..) // multicast, reserved, broadcast
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // An IPv4 address behind a translator, as networks without IPv4 have it.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))),
        [0x2001, 0..=0x1ff, ..] // for protocols, such as the tunnels of Teredo
        | [0x2001, 0xdb8, ..] // for documentation
        | [0x2002, ..] // tunnels to IPv4 addresses (6to4)
        | [0x3fff, 0..=0xfff, ..] // for documentation
        | [_, _, _, _, 0 | 0x200, 0x5efe, ..] => false, // tunnels to IPv4 addresses (ISATAP)
        // All that is given out lies here: not loopback, private (fc00::/7), link-local and multicast addresses.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Why a text is not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{entry:?} in `allow` {why}")]
pub struct EntryError {
    entry: String,
    why: &'static str,
}

impl TryFrom<String> for Entry {
    type Error = EntryError;

    fn try_from(text: String) -> Result<Self, EntryError> {
        text.parse()
    }
}

impl FromStr for Entry {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        parse(text).map_err(|why| EntryError { entry: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<Entry, &'static str> {
    if text.contains("://") {
        return Err("must be a name or an address, without scheme and path");
    }
    if let Some(range) = range(text)? {
        return Ok(Entry { what: What::Range(range), port: None }); // Its colons, if it has any, belong to IPv6.
    }
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(None) => return Err("has a bracket that is not closed"),
        Some(Some((host, ""))) => (host, None),
        Some(Some((host, rest))) => (host, Some(rest.strip_prefix(':').ok_or("must have a colon before the port")?)),
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = match port.map(str::parse) {
        None => None,
        Some(Ok(0)) | Some(Err(_)) => return Err("must have a port from 1 to 65535 behind the colon"),
        Some(Ok(port)) => Some(port),
    };
    let what = match range(host)? {
        Some(range) => What::Range(range),
        None if host == "*" => What::Any,
        None => match host.strip_prefix("*.") {
            Some(parent) => What::Below(format!(".{}", name(parent)?)),
            None => What::Name(name(host)?),
        },
    };
    Ok(Entry { what, port })
}

fn range(text: &str) -> Result<Option<IpNet>, &'static str> {
    let range = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    match range {
        Some(IpNet::V6(range)) if range.addr().to_ipv4_mapped().is_some() => Err("must be spelled as an IPv4 address"),
        range => Ok(range),
    }
}

fn name(text: &str) -> Result<String, &'static str> {
    let name = normal(text);
    if is_localhost(&name) {
        return Err("is this machine, whatever name servers say: list its address, such as \"127.0.0.1:8080\"");
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // A last part of digits alone is the mark of an address.
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    if name.len() > 253 || !name.split('.').all(is_label) || name.rsplit('.').next().is_none_or(is_number) {
        return Err(
            "must be a name (one in other letters as xn--…), an address, a range such as \"10.1.0.0/16\", or \"*\", with or \
                    without a port; an asterisk stands for all names below one, as in \"*.example.org\"",
        );
    }
    Ok(name)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::host) fn policy(allow: &[&str]) -> Policy {
        Policy::new("Bakery".parse().unwrap(), allow.iter().map(|entry| entry.parse().unwrap()).collect())
    }

    /// Asks whether `host:port` may be reached if it leads to `address`; without one, whether it may be looked up.
    fn allows(allow: &[&str], host: &str, address: &str) -> bool {
        let (host, port) = host.rsplit_once(':').unwrap();
        let to = Destination::new(host, port.parse().unwrap());
        if address.is_empty() {
            policy(allow).check(&to).is_ok()
        } else {
            policy(allow).reachable(&to, &[address.parse().unwrap()]).is_ok()
        }
    }

    /// `cases`: entries, destination, the address that it leads to, whether that may be reached.
    fn check(cases: &[(&[&str], &str, &str, bool)]) {
        for (allow, host, address, expected) in cases {
            assert_eq!(allows(allow, host, address), *expected, "{allow:?} {host} {address}");
        }
    }

    const PUBLIC: &str = "93.184.215.14";

    #[test]
    fn nothing_may_be_reached_or_looked_up_until_it_is_listed() {
        check(&[
            (&[], "api.example.com:443", "", false),
            (&[], "api.example.com:443", PUBLIC, false),
            (&[], "93.184.215.14:443", PUBLIC, false),
            (&[], "localhost:80", "", false),
            (&["10.0.0.0/8"], "api.example.com:443", "", false),
        ]);
    }

    #[test]
    fn a_name_is_reached_at_public_addresses_and_at_listed_ones() {
        check(&[
            (&["api.example.com"], "api.example.com:443", PUBLIC, true),
            (&["api.example.com"], "API.Example.Com.:8080", PUBLIC, true),
            (&["API.example.com."], "api.example.com:443", PUBLIC, true),
            (&["api.example.com"], "www.example.com:443", "", false),
            (&["api.example.com"], "sub.api.example.com:443", "", false),
            (&["api.example.com"], "api.example.com.evil.org:443", "", false),
            (&["api.example.com"], "93.184.215.14:443", "", false),
            (&["api.example.com:443"], "api.example.com:80", "", false),
            (&["api.example.com"], "api.example.com:443", "10.1.2.3", false),
            (&["api.example.com"], "api.example.com:443", "169.254.169.254", false),
            (&["api.example.com", "10.1.0.0/16"], "api.example.com:443", "10.1.2.3", true),
            (&["api.example.com", "10.1.0.0/16:80"], "api.example.com:443", "10.1.2.3", false),
            (&["10.1.0.0/16"], "api.example.com:443", "10.1.2.3", false),
        ]);
    }

    #[test]
    fn an_asterisk_stands_for_names_below_one_or_for_all_that_is_public() {
        check(&[
            (&["*.example.org"], "a.example.org:443", PUBLIC, true),
            (&["*.example.org"], "a.b.example.org:443", PUBLIC, true),
            (&["*.example.org"], "example.org:443", "", false),
            (&["*.example.org"], ".example.org:443", "", false),
            (&["*.example.org"], "evilexample.org:443", "", false),
            (&["*.example.org:443"], "a.example.org:80", "", false),
            (&["*"], "a.example.org:443", PUBLIC, true),
            (&["*"], "93.184.215.14:443", PUBLIC, true),
            (&["*"], "[2606:4700::1111]:443", "2606:4700::1111", true),
            (&["*:443"], "a.example.org:80", "", false),
            (&["*"], "a.example.org:443", "127.0.0.1", false),
            (&["*"], "127.0.0.1:80", "", false),
            (&["*"], "localhost:80", "", false),
            // Ways to spell 127.0.0.1 that only a resolver understands.
            (&["*"], "2130706433:80", "127.0.0.1", false),
            (&["*"], "0x7f.1:80", "127.0.0.1", false),
        ]);
    }

    #[test]
    fn an_address_is_reached_as_it_is_listed() {
        check(&[
            (&["127.0.0.1:8080"], "127.0.0.1:8080", "127.0.0.1", true),
            (&["127.0.0.1:8080"], "[::ffff:127.0.0.1]:8080", "::ffff:127.0.0.1", true),
            (&["127.0.0.1:8080"], "127.0.0.1:8081", "", false),
            (&["127.0.0.1:8080"], "127.0.0.2:8080", "", false),
            (&["127.0.0.1:8080"], "localhost:8080", "127.0.0.1", true),
            (&["127.0.0.1:8080"], "oven.localhost:8080", "127.0.0.1", true),
            (&["127.0.0.1:8080"], "localhost:8080", "::1", false),
            (&["[::1]:8080"], "localhost:8080", "::1", true),
            (&["::1"], "[::1]:80", "::1", true),
            (&["10.1.0.0/16"], "10.1.255.1:80", "10.1.255.1", true),
            (&["10.1.0.0/16"], "10.2.0.1:80", "", false),
            (&["[fd00::/8]:443"], "[fd12::1]:443", "fd12::1", true),
            (&["fd00::/8"], "[fe80::1]:443", "", false),
            (&["169.254.169.254"], "169.254.169.254:80", "169.254.169.254", true),
        ]);
    }

    #[test]
    fn an_address_that_is_not_public_is_none_in_any_spelling() {
        let refused = [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:5db8:d70e::1",
            "2606:4700::5efe:10.0.0.1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for address in refused {
            assert!(!allows(&["*"], "any.example:80", address), "{address}");
        }
        let public = [
            "1.1.1.1",
            "93.184.215.14",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "198.17.0.1",
            "223.255.255.255",
        ];
        let public_v6 = ["2606:4700::1111", "2a00:1450::1", "2001:4860::8888", "::ffff:93.184.215.14", "64:ff9b::93.184.215.14"];
        for address in public.into_iter().chain(public_v6) {
            assert!(allows(&["*"], "any.example:80", address), "{address}");
        }
    }

    #[test]
    fn of_several_addresses_only_those_that_are_allowed_are_connected_to() {
        let addresses = ["10.0.0.1", PUBLIC, "127.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let reachable = |allow: &[&str]| policy(allow).reachable(&Destination::new("api.example.com", 80), &addresses);
        assert_eq!(reachable(&["api.example.com"]).unwrap(), [format!("{PUBLIC}:80").parse().unwrap()]);
        let both = ["10.0.0.2:80".parse().unwrap(), format!("{PUBLIC}:80").parse().unwrap()];
        assert!(reachable(&["*", "10.0.0.2"]).unwrap().iter().all(|address| both.contains(address)));
    }

    #[test]
    fn a_denial_names_the_setting_that_would_allow_it() {
        let to = Destination::new("api.example.com", 443);
        assert_eq!(
            policy(&[]).check(&to).unwrap_err().to_string(),
            "api.example.com:443 is not among what may be reached from this task hub: to allow it, put \"api.example.com:443\" into `allow` in \
             section [hubs.Bakery.network] of the server's configuration"
        );
        assert_eq!(
            policy(&["*"]).reachable(&to, &["10.0.0.1".parse().unwrap()]).unwrap_err().to_string(),
            "api.example.com:443 leads to 10.0.0.1, which is not a public address: to allow it, also put \"10.0.0.1:443\" into `allow` in \
             section [hubs.Bakery.network] of the server's configuration"
        );
        for (host, entry) in [("[::1]", "\"[::1]:80\""), ("localhost", "\"127.0.0.1:80\"")] {
            let denial = policy(&[]).check(&Destination::new(host, 80)).unwrap_err().to_string();
            assert!(denial.contains(entry), "{denial}");
            assert!(entry.trim_matches('"').parse::<Entry>().is_ok());
        }
    }

    #[test]
    fn what_is_no_entry_is_refused_with_what_to_write() {
        let refused = [
            ("https://api.example.com", "without scheme"),
            ("api.example.com/path", "must be a name"),
            ("", "must be a name"),
            ("api..example.com", "must be a name"),
            ("*example.com", "must be a name"),
            ("a.*.example.com", "must be a name"),
            (" api.example.com", "must be a name"),
            ("brød.example", "xn--"),
            ("10.0.0.256", "must be a name"),
            ("10.0.0.0/33", "must be a name"),
            ("1.2.3", "must be a name"),
            ("api.example.com:0", "port from 1 to 65535"),
            ("api.example.com:http", "port from 1 to 65535"),
            ("[::1", "not closed"),
            ("[::1]80", "colon before the port"),
            ("::ffff:10.0.0.1", "as an IPv4 address"),
            ("localhost:8080", "list its address"),
            ("*.localhost", "list its address"),
        ];
        for (text, reason) in refused {
            let error = text.parse::<Entry>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.starts_with(&format!("{text:?}")), "{error}");
        }
    }
}
