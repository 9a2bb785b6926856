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

/// Longer names, in bytes, and more of them are not compared: a guest must not keep us busy with its mistakes.
const COMPARED_BYTES_MAX: usize = 64;
const COMPARED_NAMES_MAX: usize = 100;

/// The one of `names` that somebody most likely meant who wrote `name`: all that differs is a third of its characters or less.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > COMPARED_BYTES_MAX {
        return None;
    }
    let lower = |name: &str| name.chars().flat_map(char::to_lowercase).collect::<Vec<_>>();
    let meant = lower(name);
    let names = names.into_iter().take(COMPARED_NAMES_MAX).filter(|known| known.len() <= COMPARED_BYTES_MAX);
    let distances = names.map(|known| (distance(&meant, &lower(known)), known));
    distances.filter(|(distance, _)| *distance <= meant.len().div_ceil(3)).min().map(|(_, known)| known)
}

/// How many characters have to be put in, left out or replaced to make one of the other.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (count, c) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], count + 1);
        for (column, d) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(c != d);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_one_that_may_have_been_meant() {
        let names = ["ChargeCard", "Charge", "BakeBread"];
        assert_eq!(nearest("chargecart", names), Some("ChargeCard"));
        assert_eq!(nearest("Bake_Bread", names), Some("BakeBread"));
        assert_eq!(nearest("Chrge", names), Some("Charge"));
        assert_eq!(nearest("Deliver", names), None);
        assert_eq!(nearest("", names), None);
        let long = "x".repeat(COMPARED_BYTES_MAX + 1);
        assert_eq!(nearest(&long, [long.as_str()]), None);
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(cut("brød".into(), 5), "brød");
        assert_eq!(cut("brød".into(), 4), "brø…");
        assert_eq!(cut("brød".into(), 3), "br…");
    }
}
