//! Fan-out and fan-in: the words of all chapters of a book are counted side by side, and the counts become one result.
//!
//! The input is the text of the book as a JSON string; `text/alice.txt` is one. A chapter begins with a line such as
//! `CHAPTER IV`, followed by its title.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use dacapo_guest::prelude::*;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

/// How often each word occurs.
type Counts = BTreeMap<String, u32>;

/// What is known of a book in the end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Summary {
    total_words: u32,
    chapters: usize,
    /// In the order of the book.
    words_per_chapter: Vec<(String, u32)>,
    /// The ten most frequent words, the most frequent first, words of the same count in alphabetical order.
    most_frequent: Vec<(String, u32)>,
}

/// Counts all chapters at once and sums up.
#[orchestrator(name = "WordCount")]
async fn word_count(ctx: Context, book: String) -> Result<Summary> {
    let chapters = split(&book);
    if chapters.is_empty() {
        return Err(Error::new("NoChapters", "the text has no line that begins a chapter").non_retriable());
    }
    let (titles, tasks): (Vec<_>, Vec<_>) =
        chapters.into_iter().map(|(title, text)| (title, ctx.call(count_words, text))).unzip();
    Ok(sum_up(titles, try_join_all(tasks).await?))
}

/// Counts the words of one text.
#[activity(name = "CountWords")]
async fn count_words(text: String) -> Result<Counts> {
    let mut counts = Counts::new();
    for word in text.split(|c: char| !c.is_alphabetic() && c != '\'') {
        // Apostrophes count within words only: the book uses them as quotation marks too.
        let word = word.trim_matches('\'').to_lowercase();
        if !word.is_empty() {
            *counts.entry(word).or_default() += 1;
        }
    }
    Ok(counts)
}

dacapo_guest::module!(word_count, count_words);

/// The title and text of each chapter. What stands before the first one is left out.
fn split(book: &str) -> Vec<(String, String)> {
    let mut chapters: Vec<(String, String)> = Vec::new();
    for line in book.lines() {
        if line.trim_start().starts_with("CHAPTER ") {
            chapters.push((String::new(), String::new()));
        } else if let Some((title, text)) = chapters.last_mut() {
            if title.is_empty() {
                line.trim().clone_into(title);
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    chapters
}

fn sum_up(titles: Vec<String>, chapters: Vec<Counts>) -> Summary {
    let words_per_chapter: Vec<_> = titles.into_iter().zip(chapters.iter().map(|counts| counts.values().sum())).collect();
    let mut counts = Counts::new();
    for (word, count) in chapters.into_iter().flatten() {
        *counts.entry(word).or_default() += count;
    }
    let mut most_frequent: Vec<_> = counts.into_iter().collect();
    // Stable, so that words of the same count stay in the map's order.
    most_frequent.sort_by_key(|(_, count)| Reverse(*count));
    most_frequent.truncate(10);
    Summary {
        total_words: words_per_chapter.iter().map(|(_, words)| words).sum(),
        chapters: words_per_chapter.len(),
        words_per_chapter,
        most_frequent,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dacapo_guest::testing;

    use super::*;

    const BOOK: &str = "By nobody\nCHAPTER I\nDown\nthe cat, the 'hat'\nCHAPTER II\nUp\nThe cat's cat\n";

    #[test]
    fn a_book_is_summed_up() {
        let run = testing::scenario(word_count, BOOK).real(count_words).run();
        let frequent = [("the", 3), ("cat", 2), ("cat's", 1), ("hat", 1)].map(|(word, count)| (word.to_owned(), count));
        let expected = Summary {
            total_words: 7,
            chapters: 2,
            words_per_chapter: vec![("Down".to_owned(), 4), ("Up".to_owned(), 3)],
            most_frequent: frequent.to_vec(),
        };
        assert_eq!(run.output().unwrap(), &expected);
    }

    #[test]
    fn all_chapters_are_counted_at_once() {
        let minute = Duration::from_secs(60);
        let run = testing::scenario(word_count, BOOK).real(count_words).takes(minute).run();
        assert_eq!((run.calls().len(), run.elapsed()), (2, minute));
    }

    #[test]
    fn a_text_without_chapters_is_refused() {
        let run = testing::scenario(word_count, "once upon a time").run();
        assert_eq!(run.output().unwrap_err().kind(), "NoChapters");
    }
}
