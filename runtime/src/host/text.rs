//! How long may what a guest says be? Bounds of texts that are no payloads, which payloads' limit does not hold.
//!
//! They go into histories, logs and answers, and people read them: what is longer is cut rather than refused.

/// A failure's kind, a log line's target: in bytes, a generous type name.
pub(super) const NAME_BYTES_MAX: usize = 256;

/// A message or a stack trace, in bytes: a deep trace of a large module.
pub(super) const TEXT_BYTES_MAX: usize = 64 << 10;

/// The reason why a module is refused, in bytes. It is an answer to a request and may quote the module.
pub(super) const REASON_BYTES_MAX: usize = 4 << 10;

/// The chain behind a failure.
pub(super) const CAUSES_MAX: usize = 32;

/// A function's name, in characters: what the contract says.
pub(super) const FUNCTION_CHARACTERS_MAX: usize = 256;

/// The name of what made a module, in characters. Every history has it.
pub(super) const GENERATOR_CHARACTERS_MAX: usize = 200;

/// `text`, or its beginning up to a character that ends within `bytes_max`, and "…".
pub(super) fn cut(text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max { text } else { format!("{}…", &text[..text.floor_char_boundary(bytes_max)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(cut("brød".into(), 5), "brød");
        assert_eq!(cut("brød".into(), 4), "brø…");
        assert_eq!(cut("brød".into(), 3), "br…");
    }
}
