//! Where does a `Location` point? Resolves it against the URI that was asked, as RFC 3986 (5.2) says.
//!
//! A whole URL crate would make every guest larger by its tables. The host parses what comes out of this once more, and strictly.

/// The absolute URI, without a fragment, to which `location` points in an answer from `base`.
pub(super) fn resolve(base: &str, location: &str) -> String {
    let location = location.trim();
    let location = location.split_once('#').map_or(location, |(before, _)| before);
    if has_scheme(location) {
        return location.to_owned();
    }
    let base = Parts::of(base);
    if location.starts_with("//") {
        return format!("{}:{location}", base.scheme);
    }
    let (path, query) = cut(location, '?');
    let origin = format!("{}://{}", base.scheme, base.authority);
    match path {
        "" if query.is_empty() => format!("{origin}{}{}", base.path, base.query),
        "" => format!("{origin}{}{query}", base.path),
        absolute if absolute.starts_with('/') => format!("{origin}{}{query}", without_dots(absolute)),
        relative => {
            let folder = base.path.rfind('/').map_or("/", |slash| &base.path[..=slash]);
            format!("{origin}{}{query}", without_dots(&format!("{folder}{relative}")))
        }
    }
}

/// Scheme, host and port, in lower case: what decides whether two URIs are the same service.
pub(super) fn origin(uri: &str) -> (String, String) {
    let Parts { scheme, authority, .. } = Parts::of(uri);
    let (scheme, host) = (scheme.to_ascii_lowercase(), authority.rsplit('@').next().unwrap_or_default().to_ascii_lowercase());
    let default_port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let host = host.strip_suffix(default_port).unwrap_or(&host).trim_end_matches(':').to_owned();
    (scheme, host)
}

/// An absolute URI, taken apart.
struct Parts<'a> {
    scheme: &'a str,
    authority: &'a str,
    path: &'a str,
    /// With its `?`, if there is one.
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn of(uri: &'a str) -> Self {
        let (uri, _fragment) = cut(uri.trim(), '#');
        let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
        let (rest, query) = cut(rest, '?');
        let (authority, path) = cut(rest, '/');
        Self { scheme, authority, path, query }
    }
}

/// What stands before the first `at`, and what begins with it.
fn cut(text: &str, at: char) -> (&str, &str) {
    text.split_at(text.find(at).unwrap_or(text.len()))
}

/// Whether a reference begins with a scheme, such as `https:`.
fn has_scheme(reference: &str) -> bool {
    let Some((scheme, _)) = reference.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// `/a/./b/../c` is `/a/c`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments = path.split('/').skip(1);
    for segment in segments.clone() {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    // A path that ends with dots is a folder.
    if matches!(segments.last(), Some("." | "..")) {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 3986 (5.4) that a service may send, and what else is seen.
    #[test]
    fn a_location_is_resolved_against_the_uri_that_was_asked() {
        const BASE: &str = "http://a/b/c/d;p?q";
        let cases = [
            ("https://other/x", "https://other/x"),
            ("https://other/x#part", "https://other/x"),
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g"),
            ("//g:81/x?y", "http://g:81/x?y"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("g?y/./x", "http://a/b/c/g?y/./x"),
            ("g#s", "http://a/b/c/g"),
            (";x", "http://a/b/c/;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g.", "http://a/b/c/g."),
            ("..g", "http://a/b/c/..g"),
            ("g;x=1/../y", "http://a/b/c/y"),
            ("jobs/7:status", "http://a/b/c/jobs/7:status"),
            ("/jobs/7?at=10:30", "http://a/jobs/7?at=10:30"),
            (" /jobs/7 ", "http://a/jobs/7"),
        ];
        for (location, expected) in cases {
            assert_eq!(resolve(BASE, location), expected, "{location:?}");
        }
        assert_eq!(resolve("https://a:8443", "jobs/7"), "https://a:8443/jobs/7");
        assert_eq!(resolve("https://a?x=/y", "jobs/7"), "https://a/jobs/7");
        assert_eq!(resolve("https://a?x=/y", "?z"), "https://a?z");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = [("http://A/x", "http://a:80/y"), ("https://u:p@a/", "HTTPS://a:443?x"), ("http://a", "http://a:/#x")];
        for (one, other) in same {
            assert_eq!(origin(one), origin(other), "{one} {other}");
        }
        let differ = [
            ("http://a/", "https://a/"),
            ("http://a/", "http://a:8080/"),
            ("http://a/", "http://b/"),
            ("http://a/", "http://a.b/"),
            ("http://a/", "http://a@b/"),
            ("http://a/", "http://b?@a/"),
            ("http://a/", "http://b/@a/"),
            ("https://a:80/", "https://a/"),
        ];
        for (one, other) in differ {
            assert_ne!(origin(one), origin(other), "{one} {other}");
        }
    }
}
