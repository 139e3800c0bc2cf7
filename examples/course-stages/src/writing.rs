//! The work itself: a small computation on text that says the same at every run. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::messages::Style;

/// Topics of a course, and sections of its structure.
const TOPICS_MAX: usize = 4;
/// Letters of a word that says something.
const LETTERS_MIN: usize = 5;

/// A course as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Structure {
    /// The course's title.
    pub title: String,
    /// How it is written.
    pub style: Style,
    /// One for each topic.
    pub sections: Vec<Section>,
}

/// A section of a course.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Its title.
    pub title: String,
    /// What is taught.
    pub lessons: Vec<String>,
}

/// The first sentence of a document; nothing of a document without words.
pub(crate) fn summary(text: &str) -> Option<&str> {
    text.split('.').map(str::trim).find(|sentence| !sentence.is_empty())
}

/// The words that texts have most often, those of the first text before others that are as frequent.
pub(crate) fn topics(texts: &[&str]) -> Vec<String> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let words = texts.iter().flat_map(|text| text.split(|c: char| !c.is_alphanumeric()));
    let words = words.filter(|word| word.chars().count() >= LETTERS_MIN).map(str::to_lowercase);
    for (place, word) in words.enumerate() {
        counts.entry(word).or_insert((0, place)).0 += 1;
    }
    let ranked: BTreeSet<(std::cmp::Reverse<usize>, usize, String)> = counts
        .into_iter()
        .map(|(word, (count, place))| (std::cmp::Reverse(count), place, word))
        .collect();
    ranked.into_iter().map(|(_, _, word)| word).take(TOPICS_MAX).collect()
}

/// The course on its topics, or on its title if there are none.
pub(crate) fn structure(title: &str, style: Style, topics: &[String]) -> Structure {
    let title = title.to_owned();
    let topics = if topics.is_empty() { std::slice::from_ref(&title) } else { topics };
    let sections = topics.iter().map(|topic| section(style, topic)).collect();
    Structure { title, style, sections }
}

fn section(style: Style, topic: &str) -> Section {
    let lessons = match style {
        Style::Academic => ["Terms and definitions", "Theory", "Discussion"],
        Style::Conversational => ["Let us talk", "What do you think?", "In short"],
        Style::Storytelling => ["Once upon a time", "The turn", "What was learnt"],
        Style::Practical => ["Look", "Exercise", "Check yourself"],
    };
    let lessons = lessons.map(|lesson| format!("{lesson}: {topic}")).to_vec();
    Section { title: topic.to_owned(), lessons }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_are_topics_in_the_order_in_which_they_come() {
        let topics = topics(&["Selling together", "together we sell. Customers, customers"]);
        assert_eq!(topics, ["together", "customers", "selling"]);
    }

    #[test]
    fn style_shows_in_every_section_and_nowhere_else() {
        let of = |style| structure("Sales", style, &["trust".to_owned(), "price".to_owned()]);
        let (one, other) = (of(Style::Academic), of(Style::Practical));
        assert_eq!(one.title, other.title);
        for (one, other) in one.sections.iter().zip(&other.sections) {
            assert_eq!(one.title, other.title);
            assert_ne!(one.lessons, other.lessons);
        }
    }

    #[test]
    fn document_without_words_has_no_summary() {
        assert_eq!(summary(" . \n"), None);
        assert_eq!(summary("Trust. And more."), Some("Trust"));
    }
}
