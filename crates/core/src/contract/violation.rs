//! What is wrong with a payload, without a word of what it says.

use std::fmt;

/// Longest path of a violation, in bytes.
pub const PATH_BYTES_MAX: usize = 256;
/// Most characters that are shown of a name that may come from a payload.
pub(super) const NAME_CHARS_MAX: usize = 60;
/// Most characters that are shown of a value that a schema names.
const VALUE_CHARS_MAX: usize = 80;

/// The first thing in a payload that its contract does not allow.
///
/// It may be logged and shown: it holds names and limits of the contract, and at most names of
/// properties from the payload (shortened, control characters escaped); never a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// A JSON pointer (RFC 6901) into the payload, empty for the whole; at most
    /// [`PATH_BYTES_MAX`] bytes, shortened at its beginning.
    pub path: String,
    /// What the contract says of that place, such as `less than the minimum of 1`.
    pub rule: String,
}

impl Violation {
    pub(super) fn new(path: &str, rule: impl Into<String>) -> Self {
        Self { path: shortened_path(path), rule: rule.into() }
    }
}

impl fmt::Display for Violation {
    /// The whole payload is called `payload`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "payload" } else { &self.path };
        write!(f, "{path}: {}", self.rule)
    }
}

/// Each name shortened, the end of the path kept.
fn shortened_path(pointer: &str) -> String {
    let mut kept = Vec::new();
    let mut bytes = 0;
    for token in pointer.split('/').skip(1).collect::<Vec<_>>().into_iter().rev() {
        let token = shown(token, NAME_CHARS_MAX);
        // One more for the slash, and "/…" when something is left out.
        if bytes + token.len() + 1 > PATH_BYTES_MAX - "/…".len() {
            kept.push("…".to_owned());
            break;
        }
        bytes += token.len() + 1;
        kept.push(token);
    }
    kept.iter().rev().fold(String::new(), |path, token| path + "/" + token)
}

/// A name in quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", shown(name, NAME_CHARS_MAX))
}

/// A value of a schema as JSON, shortened.
pub(super) fn json(value: &serde_json::Value) -> String {
    shown(&value.to_string(), VALUE_CHARS_MAX)
}

/// At most `chars` characters of `text`; what a terminal or a log would not show as it is, is
/// escaped.
pub(super) fn shown(text: &str, chars: usize) -> String {
    let mut shown = String::new();
    for c in text.chars().take(chars) {
        if is_unseen(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    if text.chars().nth(chars).is_some() {
        shown.push('…');
    }
    shown
}

/// Control characters, and those that change a line's direction, end it or take no room.
pub(super) fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_a_payload_are_shortened_and_cannot_write_a_log_line() {
        let violation = Violation::new("/a\nb\u{202e}/x", "too long");
        assert_eq!(violation.to_string(), "/a\\u{a}b\\u{202e}/x: too long");
        let long = Violation::new(&format!("/{}/end", "k".repeat(100)), "too long");
        assert_eq!(long.path, format!("/{}…/end", "k".repeat(NAME_CHARS_MAX)));
    }

    #[test]
    fn path_keeps_its_end_and_its_limit() {
        for name in ["k", "kkkkkkkkkkkkkk", "ö", "\n"] {
            let violation = Violation::new(&format!("{}/end", format!("/{name}").repeat(300)), "r");
            assert!(violation.path.len() <= PATH_BYTES_MAX, "{}", violation.path);
            assert!(violation.path.starts_with("/…/") && violation.path.ends_with("/end"));
        }
    }

    #[test]
    fn whole_payload_has_an_empty_path_and_a_name() {
        let violation = Violation::new("", "is not JSON");
        assert_eq!(
            (violation.path.as_str(), violation.to_string().as_str()),
            ("", "payload: is not JSON")
        );
    }
}
