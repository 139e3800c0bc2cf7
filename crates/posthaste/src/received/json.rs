//! The members of a JSON object, with their values as they are written: numbers, white space and the
//! order of members would not survive a parser.

use std::collections::HashSet;

use serde::de::IgnoredAny;

use super::{OBJECT, ONCE, Result, STRING, STRINGS, unreadable};

/// The members of one object; each name stands once.
pub(super) struct Members<'a> {
    members: Vec<(String, &'a str)>,
}

impl<'a> Members<'a> {
    /// The members of `document`, which is called `field`.
    pub(super) fn of(field: &str, document: &'a [u8]) -> Result<Self> {
        let document = std::str::from_utf8(document).map_err(|_| unreadable(field, OBJECT))?;
        let members = scan(document).ok_or_else(|| unreadable(field, OBJECT))?;
        match repeated(&members) {
            Some(name) => Err(unreadable(name, ONCE)),
            None => Ok(Self { members }),
        }
    }

    /// The names, in their order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_str())
    }

    /// What is written between a member's colon and what follows it, with the white space.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.members.iter().find(|(member, _)| member == name).map(|(_, value)| *value)
    }

    /// The value of a member that is a string.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        serde_json::from_str(value).map(Some).map_err(|_| unreadable(name, STRING))
    }

    /// The value of a member that is an object of strings.
    pub(super) fn strings(&self, name: &str) -> Result<Option<Vec<(String, String)>>> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        strings(value).map(Some).ok_or_else(|| unreadable(name, STRINGS))
    }
}

/// The members of an object of strings, in their order.
pub(super) fn strings(document: &str) -> Option<Vec<(String, String)>> {
    let members = scan(document)?;
    if repeated(&members).is_some() {
        return None;
    }
    let text = |(name, value)| Some((name, serde_json::from_str(value).ok()?));
    members.into_iter().map(text).collect()
}

/// A name that stands twice.
pub(super) fn repeated<V>(members: &[(String, V)]) -> Option<&str> {
    let mut seen = HashSet::with_capacity(members.len());
    members.iter().map(|(name, _)| name.as_str()).find(|name| !seen.insert(*name))
}

/// The members of `document` if it is one JSON object, and nothing else.
fn scan(document: &str) -> Option<Vec<(String, &str)>> {
    // Checks all of it, however deep it is.
    serde_json::from_str::<IgnoredAny>(document).ok()?;
    if !document.trim_start().starts_with('{') {
        return None;
    }
    let letters = document.as_bytes();
    let (mut members, mut name, mut begin) = (Vec::new(), String::new(), None);
    let (mut depth, mut at) = (0_usize, 0);
    while at < letters.len() {
        let mut next = at + 1;
        match letters[at] {
            b'"' => {
                next = end_of_string(letters, at);
                if depth == 1 && begin.is_none() {
                    name = serde_json::from_str(&document[at..next]).ok()?;
                }
            }
            b':' if depth == 1 => begin = Some(next),
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 1 => depth -= 1,
            b',' | b'}' if depth == 1 => {
                if let Some(begin) = begin.take() {
                    members.push((std::mem::take(&mut name), &document[begin..at]));
                }
            }
            _ => {}
        }
        at = next;
    }
    Some(members)
}

/// Behind the quote that closes the string whose opening one stands at `at`.
fn end_of_string(letters: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < letters.len() && letters[at] != b'"' {
        at += if letters[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_whatever_stands_in_them() {
        let document = r#" { "a" : {"b":[1,{"a":"}"}],"c":"\\"} ,"\u0062":"x,\":{" , "":1e400,"d":[] }
            "#;
        let members = scan(document).unwrap();
        let expected = [
            ("a", r#" {"b":[1,{"a":"}"}],"c":"\\"} "#),
            ("b", r#""x,\":{" "#),
            ("", "1e400"),
            ("d", "[] "),
        ];
        let found: Vec<_> = members.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(found, expected);
        assert_eq!(scan("{}"), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_single_object_is_refused() {
        for document in [
            "",
            "null",
            "[]",
            "{",
            "{} {}",
            "{\"a\":1,}",
            "{\"a\":nan}",
            "{'a':1}",
            "{\"a\":\"\n\"}",
        ] {
            assert_eq!(scan(document), None, "{document}");
        }
    }

    #[test]
    fn depth_is_no_limit() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        let document = format!("{{\"a\":{deep}}}");
        assert_eq!(scan(&document).unwrap(), [("a".to_owned(), deep.as_str())]);
    }
}
