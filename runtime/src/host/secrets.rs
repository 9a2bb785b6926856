//! How do secrets stay out of what people and programs read? Pure.
//!
//! Activities get secrets as variables of their environment. What they print and how they fail is searched for those values, and a
//! result that has one is refused. That is a guard against mistakes: whoever writes an activity can always spell a secret in another way.

use std::fmt;
use std::sync::Arc;

/// Shorter values are not looked for, in characters: they would be found everywhere.
pub(super) const CHARACTERS_MIN: usize = 6;

/// The secrets of one hub. Cheap to clone. Prints their names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Secrets(Arc<[Secret]>);

/// A secret value, with what to look for.
#[derive(PartialEq, Eq)]
struct Secret {
    name: String,
    value: String,
    /// The value, and its lines, if it has several; as it is, and as it stands in JSON. Empty if it is too short.
    marks: Vec<String>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|secret| &secret.name)).finish()
    }
}

impl Secrets {
    /// Names and values.
    pub(super) fn new(values: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut secrets: Vec<Secret> = values.into_iter().map(|(name, value)| Secret::new(name, value)).collect();
        // One that is part of another must not leave the rest of it to be read.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.value.len()));
        Self(secrets.into())
    }

    /// Names and values, for the environment of an activity.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|secret| (secret.name.as_str(), secret.value.as_str()))
    }

    /// `text` with `[secret NAME]` where a secret stood.
    pub(super) fn conceal(&self, mut text: String) -> String {
        for secret in self.0.iter() {
            for mark in &secret.marks {
                if text.contains(mark.as_str()) {
                    text = text.replace(mark.as_str(), &format!("[secret {}]", secret.name));
                }
            }
        }
        text
    }

    /// The name of a secret that stands in `json`, however the text is escaped.
    pub(super) fn found_in(&self, json: &str) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        let plain = if json.contains('\\') { unescaped(json) } else { String::new() };
        let has = |secret: &&Secret| secret.marks.iter().any(|mark| json.contains(mark) || plain.contains(mark));
        self.0.iter().find(has).map(|secret| secret.name.as_str())
    }
}

impl Secret {
    fn new(name: String, value: String) -> Self {
        let mut secret = Self { name, value, marks: Vec::new() };
        if secret.is_looked_for() {
            // What frames a key, such as `-----BEGIN PRIVATE KEY-----`, is no secret.
            let is_secret = |line: &&str| line.chars().count() >= CHARACTERS_MIN && !line.starts_with("-----");
            let lines = secret.value.lines().map(str::trim).filter(is_secret);
            let plain: Vec<&str> = std::iter::once(secret.value.as_str()).chain(lines).collect();
            let escaped = plain.iter().map(|text| in_json(text)).collect::<Vec<_>>();
            secret.marks = plain.into_iter().map(str::to_owned).chain(escaped).collect();
            secret.marks.sort_by_key(|mark| std::cmp::Reverse(mark.len()));
            secret.marks.dedup();
        }
        secret
    }

    fn is_looked_for(&self) -> bool {
        self.value.chars().count() >= CHARACTERS_MIN
    }
}

/// As it stands inside a JSON string, and mostly in what `{:?}` prints.
fn in_json(text: &str) -> String {
    let quoted = serde_json::to_string(text).expect("text is JSON");
    quoted[1..quoted.len() - 1].to_owned()
}

/// `json` with all escapes resolved. No longer JSON, but what its strings say stands in it.
fn unescaped(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(kind) = rest.chars().next() else { break };
        rest = &rest[kind.len_utf8()..];
        match kind {
            'n' => plain.push('\n'),
            't' => plain.push('\t'),
            'r' => plain.push('\r'),
            'b' => plain.push('\u{8}'),
            'f' => plain.push('\u{c}'),
            'u' => {
                // A character beyond the first 65,536 is two escapes.
                let mut units = vec![unit(&mut rest)];
                if matches!(units[0], 0xd800..0xdc00) && rest.starts_with("\\u") {
                    rest = &rest[2..];
                    units.push(unit(&mut rest));
                }
                plain.push_str(&String::from_utf16_lossy(&units));
            }
            other => plain.push(other),
        }
    }
    plain.push_str(rest);
    plain
}

/// Takes four hex digits.
fn unit(rest: &mut &str) -> u16 {
    let Some((digits, after)) = rest.split_at_checked(4) else { return 0 };
    *rest = after;
    u16::from_str_radix(digits, 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[(&str, &str)]) -> Secrets {
        Secrets::new(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn a_secret_is_concealed_wherever_it_stands() {
        let secrets =
            secrets(&[("PART", "rye-bread"), ("KEY", "rye-bread-and-salt"), ("QUOTED", "say \"cheese\""), ("SHORT", "salt!")]);
        let conceal = |text: &str| secrets.conceal(text.to_owned());
        assert_eq!(conceal("key=rye-bread-and-salt, rye-bread"), "key=[secret KEY], [secret PART]");
        assert_eq!(conceal("say \"cheese\""), "[secret QUOTED]");
        assert_eq!(conceal(r#"{"a":"say \"cheese\""}"#), r#"{"a":"[secret QUOTED]"}"#);
        assert_eq!(conceal("salt! and pepper"), "salt! and pepper", "too short to be looked for");
    }

    #[test]
    fn a_secret_of_several_lines_is_concealed_line_by_line() {
        let secrets = secrets(&[("PEM", "-----BEGIN-----\nc2VjcmV0\nab\n-----END-----")]);
        assert_eq!(secrets.conceal("it is c2VjcmV0".into()), "it is [secret PEM]");
        assert_eq!(secrets.conceal("-----BEGIN-----\nc2VjcmV0\nab\n-----END-----".into()), "[secret PEM]");
        assert_eq!(secrets.conceal("ab".into()), "ab");
        assert_eq!(secrets.conceal("it starts with -----BEGIN-----".into()), "it starts with -----BEGIN-----");
    }

    #[test]
    fn one_line_of_a_secret_is_found_too() {
        let secrets = secrets(&[("PEM", "-----BEGIN-----\n c2Vj/cmV0\nab\n-----END-----\n")]);
        for (json, expected) in [
            (r#""c2Vj/cmV0""#, Some("PEM")),
            (r#"{"line":"it is c2Vj\/cmV0."}"#, Some("PEM")),
            (r#""ab""#, None),
            (r#""-----BEGIN-----""#, None),
        ] {
            assert_eq!(secrets.found_in(json), expected, "{json}");
        }
    }

    #[test]
    fn a_secret_is_found_in_json_however_it_is_escaped() {
        let secrets = secrets(&[("KEY", "rye/\"bread\"\n🍞"), ("PIN", "271828"), ("SHORT", "salt!")]);
        let key = r#""rye\/\"bread\"\n\ud83c\udf5e""#;
        assert_eq!(serde_json::from_str::<String>(key).unwrap(), "rye/\"bread\"\n🍞");
        for (json, expected) in [
            (key, Some("KEY")),
            (r#"["\u0072ye\u002f\u0022bread\"\u000a🍞"]"#, Some("KEY")),
            ("{\"pin\":271828}", Some("PIN")),
            ("\"salt!\"", None),
            ("\"rye bread\"", None),
            (r#""\ud83c""#, None),
        ] {
            assert_eq!(secrets.found_in(json), expected, "{json}");
        }
    }

    #[test]
    fn secrets_print_their_names_only() {
        assert_eq!(format!("{:?}", secrets(&[("KEY", "rye-bread")])), r#"{"KEY"}"#);
    }
}
