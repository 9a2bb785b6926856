//! Where in its own source was a guest when it ended?
//!
//! A backtrace, as people want to read it: the frames of the user's own code, without those of the standard library and of the
//! SDK between them, and with paths that say nothing of the machine on which the module was built. Called by `fault`.

use std::fmt::Write as _;

use wasmtime::WasmBacktrace;

use super::text::{TEXT_BYTES_MAX, cut};

/// What a backtrace has to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// One frame a line, the innermost first; `None` if nothing is known.
    pub text: Option<String>,
    /// File, line and column of the innermost frame that is the user's own.
    pub place: Option<String>,
}

/// What stands for the name of a function that has none.
const UNKNOWN: &str = "a function without a name";

/// One function that was being called.
struct Frame<'a> {
    name: &'a str,
    source: Option<Source<'a>>,
}

#[derive(Clone, Copy)]
struct Source<'a> {
    file: &'a str,
    line: u32,
    /// 0 if it is not known.
    column: u32,
}

impl Trace {
    /// Reads the backtrace that wasmtime attaches to the end of a call.
    pub(super) fn of(error: &wasmtime::Error) -> Self {
        let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Self::default() };
        let mut demangled = Vec::new();
        for frame in backtrace.frames() {
            if frame.symbols().is_empty() {
                demangled.push((demangle(frame.func_name().unwrap_or(UNKNOWN)), None));
            }
            for symbol in frame.symbols() {
                let name = symbol.name().or(frame.func_name()).unwrap_or(UNKNOWN);
                let source = symbol.file().zip(symbol.line());
                let source = source.map(|(file, line)| Source { file, line, column: symbol.column().unwrap_or(0) });
                demangled.push((demangle(name), source));
            }
        }
        let frames = demangled.iter().map(|(name, source)| Frame { name, source: *source });
        Self::from_frames(&frames.collect::<Vec<_>>())
    }

    fn from_frames(frames: &[Frame<'_>]) -> Self {
        let shown: Vec<_> = frames.iter().filter(|frame| !frame.is_machinery()).collect();
        let own = shown.iter().find(|frame| frame.source.is_some_and(|source| !is_dependency(source.file)));
        let place = own.or(shown.first()).and_then(|frame| frame.place());
        // A module without names: better a trace of numbers than none.
        let lines: Vec<String> = if shown.is_empty() {
            frames.iter().map(Frame::line).collect()
        } else {
            shown.iter().map(|frame| frame.line()).collect()
        };
        let text = (!lines.is_empty()).then(|| cut(folded(&lines), TEXT_BYTES_MAX));
        Self { text, place }
    }
}

impl Frame<'_> {
    /// Whether it belongs to what runs the user's code, not to that code.
    fn is_machinery(&self) -> bool {
        const CRATES: [&str; 7] = ["core::", "alloc::", "std::", "dacapo_guest::", "wit_bindgen", "__rust", "dlmalloc"];
        const PARTS: [&str; 3] = [" as dacapo_guest::", "__export_", "dacapo:guest/"];
        let name = self.name.trim_start_matches(['<', '&']);
        CRATES.iter().any(|known| name.starts_with(known))
            || PARTS.iter().any(|part| self.name.contains(part))
            || match self.source {
                // Nobody writes code in the first column; what stands there was written by an attribute or by `module!`.
                Some(source) => is_of_the_toolchain(source.file) || source.column == 1,
                // The C library below std: it has names, and files of a machine that nobody has seen.
                None => !self.name.contains("::"),
            }
    }

    fn place(&self) -> Option<String> {
        let Source { file, line, column } = self.source?;
        let column = if column == 0 { String::new() } else { format!(":{column}") };
        Some(format!("{}:{line}{column}", shortened(file)))
    }

    fn line(&self) -> String {
        match (plain_name(self.name), self.place()) {
            (name, None) => format!("at {name}"),
            (name, Some(place)) if name.is_empty() => format!("at {place}"),
            (name, Some(place)) => format!("at {name} ({place})"),
        }
    }
}

/// Puts `place`, as a panic hook writes it, in words that are the same on every machine. `None` if it is not in the user's code.
pub(super) fn own_place(place: &str) -> Option<String> {
    (!place.is_empty() && !is_of_the_toolchain(place) && !is_dependency(place)).then(|| shortened(place))
}

/// The standard library, the C library below it, and the SDK.
fn is_of_the_toolchain(file: &str) -> bool {
    const FOLDERS: [&str; 5] = ["/rustc/", "/rustlib/src/", "/wasi-libc/", "/guest-sdk/src/", "/dacapo-guest-"];
    FOLDERS.iter().any(|folder| file.contains(folder)) || file.ends_with(".c")
}

/// Cargo's folders for the source of other crates.
fn is_dependency(file: &str) -> bool {
    file.contains("/registry/src/") || file.contains("/git/checkouts/")
}

/// A file from its crate's folder on: `bakery/src/lib.rs` wherever that lies.
fn shortened(file: &str) -> String {
    let file = file.replace('\\', "/");
    let crate_start = file.rfind("/src/").map(|src| file[..src].rfind('/').map_or(0, |slash| slash + 1));
    match crate_start {
        Some(start) => file[start..].to_owned(),
        None => {
            // `src/lib.rs`, or a file elsewhere: its folder and its name.
            let tail: Vec<&str> = file.rsplit('/').take(2).collect();
            tail.into_iter().rev().collect::<Vec<_>>().join("/")
        }
    }
}

/// A function's name without what the compiler and the attributes add to it. Empty if nothing is left.
fn plain_name(name: &str) -> String {
    let name = match name.strip_prefix('<').and_then(|name| name.rsplit_once(">::")) {
        // A method: `<Oven as Heat>::heat` is `Oven::heat`.
        Some((of, method)) => format!("{}::{method}", of.split(" as ").next().unwrap_or(of)),
        None => name.to_owned(),
    };
    let mut depth = 0;
    let without_parameters: String = name
        .chars()
        .filter(|c| {
            depth += i32::from(*c == '<') - i32::from(*c == '>');
            depth == 0 && *c != '>'
        })
        .collect();
    let mut parts: Vec<&str> = Vec::new();
    for part in without_parameters.split("::") {
        // Such as `{async_fn#0}`, and the type within which an attribute puts a function.
        let is_added = part.is_empty() || part.starts_with('{') || part == "__Definition";
        if !is_added && parts.last() != Some(&part) {
            parts.push(part);
        }
    }
    parts.join("::")
}

/// Also drops the hash at the end.
fn demangle(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// The same line many times, as a recursion makes it, once and with a count.
fn folded(lines: &[String]) -> String {
    let mut text = String::new();
    for run in lines.chunk_by(|one, next| one == next) {
        let times = if run.len() > 1 { format!(", {} times", run.len()) } else { String::new() };
        let end = if text.is_empty() { "" } else { "\n" };
        let _ = write!(text, "{end}{}{times}", run[0]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frames: &[(&'static str, Option<&'static str>)], text: &str, place: Option<&str>) {
        let frame = |(name, file): &(&'static str, Option<&'static str>)| Frame {
            name,
            source: file.map(|file| Source { file, line: 7, column: 5 }),
        };
        let trace = Trace::from_frames(&frames.iter().map(frame).collect::<Vec<_>>());
        assert_eq!((trace.text.as_deref(), trace.place.as_deref()), (Some(text), place));
    }

    #[test]
    fn only_the_users_own_frames_are_left() {
        let frames = [
            ("__rustc::rust_begin_unwind", Some("/rustc/59807616/library/std/src/panicking.rs")),
            ("core::panicking::panic_fmt", None),
            ("bakery::oven::heat", Some("/home/anna/bakery/src/oven.rs")),
            ("bakery::bake::__Definition::bake::{{closure}}", Some("/home/anna/bakery/src/lib.rs")),
            ("{async_fn#0}", Some("/home/anna/bakery/src/lib.rs")),
            (
                "<bakery::bake::__Definition as dacapo_guest::function::Orchestrator>::run::{{closure}}",
                Some("/home/anna/bakery/src/lib.rs"),
            ),
            ("advance", Some("/home/anna/.cargo/registry/src/index-1/dacapo-guest-0.1.0/src/executor.rs")),
            ("dacapo:guest/orchestrator@0.1.0#advance", None),
        ];
        let text =
            "at bakery::oven::heat (bakery/src/oven.rs:7:5)\nat bakery::bake (bakery/src/lib.rs:7:5)\nat bakery/src/lib.rs:7:5";
        check(&frames, text, Some("bakery/src/oven.rs:7:5"));
    }

    #[test]
    fn the_place_is_the_users_own_even_if_a_dependency_was_called() {
        let frames = [
            ("toml::parse", Some("/home/anna/.cargo/registry/src/index-1/toml-1.2.1/src/parse.rs")),
            ("bakery::bake", Some("/home/anna/bakery/src/lib.rs")),
        ];
        let text = "at toml::parse (toml-1.2.1/src/parse.rs:7:5)\nat bakery::bake (bakery/src/lib.rs:7:5)";
        check(&frames, text, Some("bakery/src/lib.rs:7:5"));
    }

    #[test]
    fn a_recursion_is_one_line() {
        let descend = ("bakery::descend", Some("/bakery/src/lib.rs"));
        check(&[descend; 20], "at bakery::descend (bakery/src/lib.rs:7:5), 20 times", Some("bakery/src/lib.rs:7:5"));
    }

    #[test]
    fn a_name_is_what_its_author_wrote() {
        assert_eq!(plain_name("bakery::bake::__Definition::bake::{{closure}}"), "bakery::bake");
        assert_eq!(plain_name("descend<alloc::vec::Vec<u8>, u32>"), "descend");
        assert_eq!(plain_name("<bakery::Oven<u8> as bakery::Heat>::heat"), "bakery::Oven::heat");
        assert_eq!(plain_name("{async_fn#0}"), "");
    }

    #[test]
    fn a_module_without_names_shows_what_there_is() {
        check(&[(UNKNOWN, None)], "at a function without a name", None);
    }

    #[test]
    fn a_place_says_nothing_of_the_machine_that_built_the_module() {
        assert_eq!(own_place("src/lib.rs:3:5").as_deref(), Some("src/lib.rs:3:5"));
        assert_eq!(own_place("/home/anna/bakery/src/oven/door.rs:3:5").as_deref(), Some("bakery/src/oven/door.rs:3:5"));
        assert_eq!(own_place("examples/order/src/lib.rs:3:5").as_deref(), Some("order/src/lib.rs:3:5"));
        assert_eq!(own_place("C:\\work\\bakery\\src\\lib.rs:3:5").as_deref(), Some("bakery/src/lib.rs:3:5"));
        assert_eq!(own_place("/rustc/59807616/library/std/src/thread/mod.rs:3:5"), None);
        assert_eq!(own_place(""), None);
    }
}
