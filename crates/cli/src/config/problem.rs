//! A mistake in the configuration, and where each value came from.

use std::fmt;

use serde_json::{Value, json};

use super::secret;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A line of the configuration file.
    File {
        /// The file as it was named.
        path: String,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// An option of the command line.
    Flag(&'static str),
    /// Nowhere: built in.
    Default,
}

impl Source {
    /// The layer, one word.
    pub(crate) const fn layer(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Env(_) => "env",
            Self::Flag(_) => "flag",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Env(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One mistake: the thing, where it stands, its value unless that is a secret, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Dotted key; empty when the file or a variable as a whole is at fault.
    pub(super) key: String,
    /// The value, ready to be shown.
    pub(super) value: Option<String>,
    /// Where it stands; `None` for a key that stands nowhere.
    pub(super) at: Option<Source>,
    /// What is wrong and what to write instead.
    pub(super) message: String,
}

impl Problem {
    /// A mistake at a key, without its value.
    pub(super) fn at(key: &[String], at: &Source, message: impl Into<String>) -> Self {
        Self { key: dotted(key), value: None, at: Some(at.clone()), message: message.into() }
    }

    /// A key that is missing; `at` is where its table begins, if that is known.
    pub(crate) fn missing(key: &[String], at: Option<&Source>, remedy: &str) -> Self {
        let message = format!("is missing; {remedy}");
        Self { key: dotted(key), value: None, at: at.cloned(), message }
    }

    /// Whether this is about the dotted key.
    pub(crate) fn is_at(&self, key: &str) -> bool {
        self.key == key
    }

    /// A mistake of a whole file or variable.
    pub(super) fn whole(at: Source, message: impl Into<String>) -> Self {
        Self { key: String::new(), value: None, at: Some(at), message: message.into() }
    }

    /// The same problem with the value, which must be ready to be shown.
    pub(super) fn with(mut self, value: String) -> Self {
        self.value = Some(value);
        self
    }

    /// As a reader meets them: files by line, then variables and options, then what is missing.
    pub(super) fn order(&self) -> (u8, usize, String) {
        let (rank, line) = match &self.at {
            Some(Source::File { line, .. }) => (0, *line),
            Some(Source::Env(_)) => (1, 0),
            Some(Source::Flag(_)) => (2, 0),
            Some(Source::Default) | None => (3, 0),
        };
        (rank, line, self.key.clone())
    }

    /// The object for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "key": self.key,
            "at": self.at.as_ref().map(ToString::to_string),
            "value": self.value,
            "message": self.message,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) if self.key.is_empty() => return write!(f, "{at}: {}", self.message),
            _ => f.write_str(&self.key)?,
        }
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        match &self.at {
            Some(at) => write!(f, " ({at}): {}", self.message),
            None => write!(f, " {}", self.message),
        }
    }
}

/// A key as a TOML file would write it.
pub(super) fn dotted(key: &[String]) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let part = |part: &String| {
        if !part.is_empty() && part.chars().all(bare) { part.clone() } else { format!("{part:?}") }
    };
    key.iter().map(part).collect::<Vec<_>>().join(".")
}

/// A value as it may be shown: masked where it is a secret, cut where it is long.
pub(super) fn shown(value: &toml::Value, is_secret: bool) -> String {
    const SHOWN_CHARS: usize = 120;
    if is_secret {
        return secret::MASK.to_owned();
    }
    let text = match value {
        toml::Value::String(text) => format!("{:?}", secret::masked_url(text)),
        other => secret::masked_url(&other.to_string()),
    };
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `; did you mean "x"?` for the candidate nearest to `word`, or nothing when none is near.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(word, known) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    }
}

/// The candidate within a third of its length (at least two edits) of `word`.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let distance = |candidate: &&str| strsim::damerau_levenshtein(&word, &candidate.to_lowercase());
    let near = |candidate: &&str| distance(candidate) <= (candidate.chars().count() / 3).max(2);
    known.into_iter().filter(near).min_by_key(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_or_absent() {
        assert_eq!(nearest("urll", ["url", "schema"]), Some("url"));
        assert_eq!(
            nearest("bacth_messages", ["batch_bytes", "batch_messages"]),
            Some("batch_messages")
        );
        assert_eq!(nearest("zebra", ["url", "schema"]), None);
    }

    #[test]
    fn key_is_quoted_where_toml_needs_it() {
        let key = ["subscriptions", "a b", "sink"].map(str::to_owned);
        assert_eq!(dotted(&key), "subscriptions.\"a b\".sink");
    }
}
