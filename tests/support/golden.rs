//! Golden files: what an answer looked like when we last agreed on it.
//!
//! `DACAPO_GOLDEN=write cargo test` writes them anew; the difference is then for people to read.

use std::fs;
use std::path::Path;

/// Compares `json` with `golden/{name}.json`, its times and what `secrets` lists masked: each text and the mask for it.
#[track_caller]
pub(crate) fn check(name: &str, json: &str, secrets: &[(&str, &str)]) {
    let mut shown = mask_times(json);
    for (text, mask) in secrets {
        shown = shown.replace(text, mask);
    }
    check_text(&format!("{name}.json"), &indented(&shown));
}

/// Compares `shown` with the file `golden/{name}`.
#[track_caller]
pub(crate) fn check_text(name: &str, shown: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("DACAPO_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&path, shown).expect("write a golden file");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(shown, golden, "{} has changed; if that is meant to be, run with DACAPO_GOLDEN=write", path.display());
}

/// Puts `<time>` for every time in whole seconds, and `<exact time>` for every one with a fraction or without.
///
/// Whether an exact time has a fraction is chance, so it is the key before it that tells which it is.
fn mask_times(json: &str) -> String {
    const EXACT: [&str; 3] = ["\"Timestamp\":", "\"ScheduledTime\":", "\"FireAt\":"];
    const LENGTH: usize = "2026-03-01T08:00:00".len();
    let mut masked = String::new();
    let mut rest = json;
    while let Some(quote) = rest.find('"') {
        masked.push_str(&rest[..=quote]);
        rest = &rest[quote + 1..];
        let Some(time) = rest.get(..LENGTH).filter(|text| is_time(text)) else { continue };
        let tail = &rest[time.len()..];
        let zone = tail.find('"').expect("a JSON string ends");
        let fraction = tail[..zone].strip_suffix('Z').unwrap_or_else(|| panic!("time {time}{} has no Z", &tail[..zone]));
        if EXACT.iter().any(|key| masked.strip_suffix('"').is_some_and(|before| before.ends_with(key))) {
            let is_fraction =
                fraction.strip_prefix('.').is_some_and(|digits| digits.parse::<u64>().is_ok() && !digits.ends_with('0'));
            assert!(fraction.is_empty() || is_fraction, "time {time}{fraction}Z");
            masked.push_str("<exact time>");
        } else {
            assert_eq!(fraction, "", "a time in whole seconds has a fraction: {time}{fraction}Z");
            masked.push_str("<time>");
        }
        rest = &tail[zone..];
    }
    masked + rest
}

fn is_time(text: &str) -> bool {
    text.bytes().zip("0000-00-00T00:00:00".bytes()).all(|(seen, form)| match form {
        b'0' => seen.is_ascii_digit(),
        _ => seen == form,
    })
}

/// The same JSON with a line per member, nothing else changed.
fn indented(json: &str) -> String {
    let mut out = String::new();
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    let new_line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    for c in json.chars() {
        match c {
            _ if in_text => {
                in_text = escaped || c != '"';
                escaped = c == '\\' && !escaped;
                out.push(c);
            }
            '{' | '[' => {
                depth += 1;
                out.push(c);
                new_line(&mut out, depth);
            }
            '}' | ']' => {
                depth -= 1;
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            _ => {
                in_text = c == '"';
                out.push(c);
            }
        }
    }
    out + "\n"
}
