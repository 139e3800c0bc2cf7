//! Names of streams, queues and channels made from a message: `run:{key}`.

use std::fmt::Write as _;

use crate::MessageRef;

/// A parsed name template. `{topic}`, `{key}` and `{header:NAME}` are replaced, `{{` and `}}`
/// stand for braces. The text before the first placeholder is a fixed prefix that no message can
/// leave, since values are only ever appended to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Key,
    Header(String),
}

/// A template that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "name template {template:?} is not valid: {reason}; use {{topic}}, {{key}} or \
     {{header:NAME}}, and {{{{ for a brace"
)]
pub struct InvalidTemplate {
    template: String,
    reason: &'static str,
}

/// A message that a template makes no name for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("name template {template:?}: {reason}")]
pub struct Unnameable {
    template: String,
    reason: String,
}

impl Template {
    /// The longest name a template may make, in bytes.
    pub const NAME_BYTES_MAX: usize = 1024;

    /// Parses a template.
    ///
    /// # Errors
    /// When it is empty, a brace is not closed or a placeholder is unknown.
    pub fn parse(source: &str) -> Result<Self, InvalidTemplate> {
        let invalid = |reason| InvalidTemplate { template: source.to_owned(), reason };
        let part = |piece| match piece {
            Piece::Text(text) => Ok(Part::Text(text)),
            Piece::Placeholder(name) => {
                placeholder(&name).ok_or_else(|| invalid("a placeholder is unknown"))
            }
        };
        let pieces = pieces(source).map_err(invalid)?;
        let parts: Vec<Part> = pieces.into_iter().map(part).collect::<Result<_, _>>()?;
        if parts.is_empty() {
            return Err(invalid("it is empty"));
        }
        Ok(Self { source: source.to_owned(), parts })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What every name begins with: the text before the first placeholder.
    pub fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// Whether some message could get this name, as far as its beginning tells.
    pub fn may_be(&self, name: &str) -> bool {
        self.fixed().map_or_else(|| name.starts_with(self.prefix()), |fixed| fixed == name)
    }

    /// The name every message gets, when the template has no placeholder.
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Writes the name for `message` into `out`, which is cleared first.
    ///
    /// # Errors
    /// When the message lacks the key or header, or the name would hold a control character or
    /// be longer than [`Self::NAME_BYTES_MAX`].
    pub fn render(&self, message: &MessageRef<'_>, out: &mut String) -> Result<(), Unnameable> {
        out.clear();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Topic => self.append(out, message.topic)?,
                Part::Key => {
                    let key = message.key.ok_or_else(|| self.unnameable("it has no key"))?;
                    self.append(out, key)?;
                }
                Part::Header(name) => {
                    let value = message.headers.get(name);
                    let missing = || self.unnameable(&format!("it has no header {name:?}"));
                    self.append(out, value.ok_or_else(missing)?)?;
                }
            }
        }
        if out.len() > Self::NAME_BYTES_MAX {
            let mut reason = String::new();
            let _ = write!(reason, "its name is longer than {} bytes", Self::NAME_BYTES_MAX);
            return Err(self.unnameable(&reason));
        }
        Ok(())
    }

    fn append(&self, out: &mut String, value: &str) -> Result<(), Unnameable> {
        if value.is_empty() || value.chars().any(char::is_control) {
            return Err(self.unnameable("a value in its name is empty or has a control character"));
        }
        out.push_str(value);
        Ok(())
    }

    fn unnameable(&self, reason: &str) -> Unnameable {
        Unnameable {
            template: self.source.clone(),
            reason: format!("the message fits no name: {reason}"),
        }
    }
}

/// A stretch of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text that stands as it is.
    Text(String),
    /// What stands between braces.
    Placeholder(String),
}

/// Takes a template apart at its braces; `{{` and `}}` stand for braces.
///
/// # Errors
/// Says which brace has no partner.
pub fn pieces(source: &str) -> Result<Vec<Piece>, &'static str> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = source;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        let tail = &rest[at + 1..];
        if let Some(tail) = tail.strip_prefix(brace) {
            text.push_str(brace);
            rest = tail;
            continue;
        }
        if brace == "}" {
            return Err("a } has no {");
        }
        let (name, tail) = tail.split_once('}').ok_or("a { is not closed")?;
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Placeholder(name.to_owned()));
        rest = tail;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

fn placeholder(name: &str) -> Option<Part> {
    match name {
        "topic" => Some(Part::Topic),
        "key" => Some(Part::Key),
        _ => match name.strip_prefix("header:") {
            None | Some("") => None,
            Some(header) => Some(Part::Header(header.to_owned())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_come_out_share_the_prefix() {
        let template = Template::parse("run:{{x}}:{key}").unwrap();
        assert_eq!(template.prefix(), "run:{x}:");
        assert_eq!(
            ["run:{x}:7", "run:7", ""].map(|name| template.may_be(name)),
            [true, false, false]
        );
        let fixed = Template::parse("jobs").unwrap();
        assert_eq!(["jobs", "jobs2"].map(|name| fixed.may_be(name)), [true, false]);
        assert!(Template::parse("{topic}").unwrap().may_be("anything"));
    }
    use crate::{Headers, MessageId, Timestamp};

    fn message<'a>(key: Option<&'a str>, headers: &'a [u8]) -> MessageRef<'a> {
        MessageRef {
            id: MessageId::nil(),
            position: 1,
            enqueued_at: Timestamp(0),
            topic: "orders",
            key,
            content_type: "a/b",
            correlation_id: None,
            headers: Headers::packed(headers),
            payload: &[],
        }
    }

    fn name(template: &str, message: &MessageRef<'_>) -> Result<String, String> {
        let mut out = String::from("left over");
        let parsed = Template::parse(template).map_err(|error| error.to_string())?;
        parsed.render(message, &mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }

    #[test]
    fn placeholders_and_escapes() {
        let mut packed = Vec::new();
        Headers::pack(&mut packed, "tenant");
        Headers::pack(&mut packed, "acme");
        let message = message(Some("7"), &packed);
        for (template, expected) in [
            ("jobs", "jobs"),
            ("run:{key}", "run:7"),
            ("{topic}.{header:tenant}", "orders.acme"),
            ("{{{key}}}", "{7}"),
            ("a{{key}}", "a{key}"),
        ] {
            assert_eq!(name(template, &message).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn faulty_templates_are_named() {
        for template in ["", "a{", "a}", "{}", "{header:}", "{id}", "{key"] {
            let error = Template::parse(template).unwrap_err().to_string();
            assert!(error.contains(&format!("{template:?}")), "{error}");
        }
    }

    #[test]
    fn message_without_the_value_is_refused_not_renamed() {
        assert!(name("run:{key}", &message(None, &[])).unwrap_err().contains("no key"));
        assert!(name("{header:a}", &message(None, &[])).unwrap_err().contains("no header"));
        assert!(name("run:{key}", &message(Some("a\nb"), &[])).is_err());
        assert!(name("run:{key}", &message(Some(&"k".repeat(1030)), &[])).is_err());
    }

    #[test]
    fn fixed_names_are_known_before_any_message() {
        assert_eq!(Template::parse("jobs").unwrap().fixed(), Some("jobs"));
        assert_eq!(Template::parse("jobs:{key}").unwrap().fixed(), None);
    }
}
