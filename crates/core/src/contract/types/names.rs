//! Names of types and the text of comments and strings, safe in every language.

use std::collections::HashSet;

use serde_json::Value;

use super::text::Text;
use crate::contract::violation::is_unseen;

/// `jobs.submitted` as `JobsSubmitted`: ASCII letters and digits, empty when there are none.
pub(super) fn pascal(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect()
}

/// The part of a type's name that stands for a property.
pub(super) fn pascal_part(text: &str) -> String {
    let part = pascal(text);
    if part.is_empty() { "Other".to_owned() } else { part }
}

/// Gives each name once, counting where one is taken.
#[derive(Default)]
pub(super) struct Names(HashSet<String>);

impl Names {
    pub(super) fn take(&mut self, wanted: &str) -> String {
        let counted = (2_u32..).map(|count| format!("{wanted}{count}"));
        let mut free = std::iter::once(wanted.to_owned()).chain(counted);
        // There are more numbers than names.
        let name = free.find(|name| !self.0.contains(name)).unwrap_or_default();
        self.0.insert(name.clone());
        name
    }
}

/// A name that is an identifier in every language, apart from their reserved words.
pub(super) fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Text as lines of a comment, of which none ends a comment or a line of its own accord.
pub(super) fn comment_lines(text: &str) -> Vec<String> {
    let is_line_end =
        |c: char| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let shown = |line: &str| {
        let mut shown = String::new();
        for c in line.trim().replace("*/", "* /").chars() {
            if is_unseen(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
        }
        shown
    };
    text.split(is_line_end).map(shown).filter(|line| !line.is_empty()).collect()
}

/// A string in quotes, with escapes that JSON, TypeScript, Python and Go share.
pub(super) fn string(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    let mut safe = Text::default();
    for c in quoted.chars() {
        if is_unseen(c) {
            safe.add(format_args!("\\u{:04x}", u32::from(c)));
        } else {
            safe.add(format_args!("{c}"));
        }
    }
    safe.done()
}
