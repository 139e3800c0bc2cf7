//! Which topics a subscription reads.

use std::fmt;

/// A set of topic patterns: exact names, `prefix*`, or `*` for every topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicFilter {
    exact: Vec<String>,
    prefixes: Vec<String>,
}

/// A topic pattern that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "topic pattern {pattern:?} is not allowed: use an exact topic, a prefix followed by one *, \
     or * for every topic"
)]
pub struct InvalidTopicPattern {
    pattern: String,
}

impl TopicFilter {
    /// Every topic.
    pub fn all() -> Self {
        Self { exact: Vec::new(), prefixes: vec![String::new()] }
    }

    /// The topics that match any of `patterns`.
    ///
    /// # Errors
    /// For the first pattern that is empty or has a `*` anywhere but at its end.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, InvalidTopicPattern> {
        let mut filter = Self { exact: Vec::new(), prefixes: Vec::new() };
        for pattern in patterns.iter().map(AsRef::as_ref) {
            let (stem, list) = match pattern.strip_suffix('*') {
                Some(stem) => (stem, &mut filter.prefixes),
                None => (pattern, &mut filter.exact),
            };
            if pattern.is_empty() || stem.contains('*') || !stem.chars().all(is_topic_char) {
                return Err(InvalidTopicPattern { pattern: pattern.to_owned() });
            }
            list.push(stem.to_owned());
        }
        Ok(filter.normalised())
    }

    /// Rebuilds a filter from its stored halves.
    pub fn from_parts(exact: Vec<String>, prefixes: Vec<String>) -> Self {
        Self { exact, prefixes }.normalised()
    }

    /// The filter that matches what any of `filters` matches.
    pub fn union<'a>(filters: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self { exact: Vec::new(), prefixes: Vec::new() };
        for filter in filters {
            all.exact.extend_from_slice(&filter.exact);
            all.prefixes.extend_from_slice(&filter.prefixes);
        }
        all.normalised()
    }

    /// Exact topic names.
    pub fn exact(&self) -> &[String] {
        &self.exact
    }

    /// Prefixes; the empty one stands for every topic.
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    /// Whether every topic matches.
    pub fn is_all(&self) -> bool {
        self.prefixes.iter().any(String::is_empty)
    }

    /// Whether `topic` matches.
    pub fn matches(&self, topic: &str) -> bool {
        self.prefixes.iter().any(|prefix| topic.starts_with(prefix.as_str()))
            || self.exact.iter().any(|exact| exact == topic)
    }

    fn normalised(mut self) -> Self {
        if self.is_all() {
            return Self::all();
        }
        for list in [&mut self.exact, &mut self.prefixes] {
            list.sort_unstable();
            list.dedup();
        }
        self
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes = self.prefixes.iter().map(|prefix| format!("{prefix}*"));
        let patterns: Vec<String> = self.exact.iter().cloned().chain(prefixes).collect();
        f.write_str(&patterns.join(", "))
    }
}

/// What sorts behind all topics that begin with `prefix`, byte by byte; `None` where that is not as simple.
pub fn after_prefix(prefix: &str) -> Option<String> {
    let last = prefix.chars().last().filter(|&last| is_topic_char(last))?;
    let stem = prefix.strip_suffix(last)?;
    // ASCII, below its last character.
    let next = char::from(u8::try_from(last).ok()? + 1);
    Some(format!("{stem}{next}"))
}

/// The characters a topic may hold.
pub(crate) fn is_topic_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_prefix_and_all() {
        let filter = TopicFilter::new(&["orders.created", "run:*"]).unwrap();
        for (topic, expected) in
            [("orders.created", true), ("orders.created.v2", false), ("run:7", true), ("ru", false)]
        {
            assert_eq!(filter.matches(topic), expected, "{topic}");
        }
        assert!(TopicFilter::new(&["a", "*"]).unwrap().is_all());
        assert_eq!(filter.to_string(), "orders.created, run:*");
    }

    #[test]
    fn all_topics_of_a_prefix_lie_before_what_follows_it() {
        let after = after_prefix("run:z").unwrap();
        assert_eq!(after, "run:{");
        for topic in ["run:z", "run:zz", "run:z/9"] {
            assert!("run:z" <= topic && topic < after.as_str(), "{topic}");
        }
        assert!(
            "run:{" > "run:z" && after_prefix("").is_none() && after_prefix("\u{e4}").is_none()
        );
    }

    #[test]
    fn no_pattern_matches_no_topic() {
        assert!(!TopicFilter::new::<&str>(&[]).unwrap().matches("a"));
    }

    #[test]
    fn star_in_the_middle_is_refused() {
        for pattern in ["", "a*b", "**", "a b"] {
            assert!(TopicFilter::new(&[pattern]).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn union_matches_what_any_matches() {
        let union = TopicFilter::union([
            &TopicFilter::new(&["a"]).unwrap(),
            &TopicFilter::new(&["b*", "a"]).unwrap(),
        ]);
        assert_eq!(union.to_string(), "a, b*");
        assert!(TopicFilter::union([&union, &TopicFilter::all()]).is_all());
    }
}
