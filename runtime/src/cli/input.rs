//! How is JSON given to a command? As an argument, as a file, or on standard input; checked here, so that the message can say how
//! to quote it.

use std::fs;
use std::io::{self, Read as _};

use anyhow::{Context, Result};
use serde_json::value::RawValue;

use super::exit::Exit;

/// The JSON that the argument of `flag` stands for: itself, or, behind an @, the contents of a file, or of standard input if that
/// is `-`.
pub(super) fn json(flag: &str, argument: &str) -> Result<String> {
    let (text, source) = match argument.strip_prefix('@') {
        Some("-") => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("read standard input")?;
            (text, "standard input")
        }
        Some(file) => (fs::read_to_string(file).with_context(|| format!("read {file}"))?, file),
        None => (argument.to_owned(), flag),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    match serde_json::from_str::<&RawValue>(text) {
        Ok(json) => Ok(json.get().to_owned()),
        Err(error) => {
            let quoted = if source == flag {
                format!("; a string needs double quotes, and those need single quotes around them: {flag} '{}'", example(text))
            } else {
                String::new()
            };
            Err(Exit::Usage.because(format_args!("{source} is not JSON ({error}){quoted}")))
        }
    }
}

/// `text` as a JSON string, or another one if this would be no help.
fn example(text: &str) -> String {
    let helps = |c: char| c.is_alphanumeric() || " -_.:+@/".contains(c);
    let simple = !text.is_empty() && text.chars().count() <= 40 && text.chars().all(helps);
    format!("\"{}\"", if simple { text } else { "Tokyo" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_passes_as_it_is_and_anything_else_is_told_how_to_be_quoted() {
        for text in ["null", "1.50", r#"{"a": [1,  2], "big": 123456789012345678901234567890}"#] {
            assert_eq!(json("--input", text).unwrap(), text);
        }
        assert_eq!(json("--input", "\u{feff} 1\n").unwrap(), "1");
        for (text, quoted) in
            [("Hello there", "--input '\"Hello there\"'"), ("{a:1}", "--input '\"Tokyo\"'"), ("", "'\"Tokyo\"'")]
        {
            let error = json("--input", text).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage);
            assert!(error.to_string().contains(quoted), "{error}");
        }
    }

    #[test]
    fn a_file_is_named_in_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("order.json");
        fs::write(&file, "[1, 2]\n").unwrap();
        let argument = format!("@{}", file.display());
        assert_eq!(json("--input", &argument).unwrap(), "[1, 2]");
        fs::write(&file, "[1, 2").unwrap();
        assert!(json("--input", &argument).unwrap_err().to_string().contains("order.json is not JSON (EOF"));
        assert!(format!("{:#}", json("--input", "@/nowhere").unwrap_err()).contains("read /nowhere"));
    }
}
