//! What an import says and hears: which table, which column means what, which rows do not fit.
//!
//! Pure. How the rows are read and written is each store's own matter.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use posthaste_core::{
    Message,
    template::{Piece, pieces},
};

use crate::Result;

/// Copies the rows of an outbox that an application has kept itself into the log: each once, in
/// their order, whatever is killed when.
///
/// [`check`](Import::check) and [`copy`](Import::copy) each read the table from its beginning, in
/// bounded batches.
#[async_trait]
pub trait Import: Send {
    /// The table, as SQL writes it.
    fn table(&self) -> &str;

    /// Counts the table's rows, and transactions that may still add some.
    async fn counts(&mut self) -> Result<ImportCounts>;

    /// Reads on through the rows to copy, without their payloads; `None` behind the last. Writes
    /// nothing.
    async fn check(&mut self) -> Result<Option<Vec<ImportRow>>>;

    /// Copies the next rows, in one transaction with the note that they are copied; `None` when
    /// nothing is left to copy. Rows that have become visible meanwhile come behind the others, as
    /// long as they do not come forever.
    ///
    /// # Errors
    /// `Invalid` for a row that makes no message: it names the row, and nothing of its batch is
    /// written.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the batch is copied; another import finds out.
    async fn copy(&mut self) -> Result<Option<Copied>>;
}

/// The table of an import, and what its columns mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportSource {
    /// The table.
    pub table: TableName,
    /// The column that names a row; a UUID becomes the message's id.
    pub id: String,
    /// Makes the topic.
    pub topic: TopicTemplate,
    /// The column with the ordering key.
    pub key: Option<String>,
    /// The column with the payload: `bytea`, `json`, `jsonb` or text.
    pub payload: String,
    /// The content type, in place of the one that the payload's type implies.
    pub content_type: Option<String>,
    /// The column with the headers, a JSON object of strings.
    pub headers: Option<String>,
    /// Headers from columns: name and column. A null is no header.
    pub header_columns: Vec<(String, String)>,
    /// The column with the correlation id.
    pub correlation_id: Option<String>,
    /// The column that says which rows are published: a time, null until then, or a boolean.
    pub published: Option<String>,
    /// Whether rows that are copied are marked there as published.
    pub marks_published: bool,
    /// The columns whose order the messages get; the id decides between equals.
    pub order_by: Vec<String>,
    /// The lowest value of the first of them, as text, if not all rows are meant.
    pub from: Option<String>,
    /// Columns and the values, as text, that the rows which are meant have there.
    pub conditions: Vec<(String, String)>,
    /// Whether to forget first which rows were copied before.
    pub forgets: bool,
    /// Who imports, for the audit trail.
    pub actor: String,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// Its type's name; of a domain, the type below.
    pub type_name: String,
}

/// How many rows are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportCounts {
    /// Rows of the table.
    pub rows: u64,
    /// Rows that are published, or not meant.
    pub left_out: u64,
    /// Rows of the others that were copied before.
    pub copied_before: u64,
    /// Rows to copy.
    pub waiting: u64,
    /// Open transactions that have written to the table: their rows are not counted yet.
    pub open_transactions: u64,
}

/// A row that is to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRow {
    /// What the id column says.
    pub id: String,
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// The message, or why the row makes none: which field, the rule and the value.
    pub message: Result<Message, String>,
}

/// What one batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows that were looked at.
    pub rows: u64,
    /// Messages that are in the log now.
    pub messages: u64,
    /// Rows that are marked as published now.
    pub marked: u64,
}

/// A table's name, with or without its schema: `outbox`, `public.outbox`, `"Shop"."out.box"`.
///
/// Letters stand as they are, quoted or not: what SQL folds to lower case is written in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    parts: Vec<String>,
}

/// A table's name that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a table; write schema.table, and names with dots or quotes in double \
     quotes"
)]
pub struct InvalidTableName(String);

impl FromStr for TableName {
    type Err = InvalidTableName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidTableName(text.chars().take(130).collect());
        let (mut parts, mut part) = (Vec::new(), String::new());
        let mut letters = text.chars().peekable();
        let (mut is_quoted, mut is_closed) = (false, false);
        while let Some(letter) = letters.next() {
            match letter {
                '"' if is_quoted && letters.peek() == Some(&'"') => {
                    part.push('"');
                    letters.next();
                }
                '"' if is_quoted => (is_quoted, is_closed) = (false, true),
                '.' if !is_quoted => {
                    parts.push(std::mem::take(&mut part));
                    is_closed = false;
                }
                _ if is_closed => return Err(invalid()),
                '"' if !is_quoted && part.is_empty() => is_quoted = true,
                '"' | '\0' => return Err(invalid()),
                other => part.push(other),
            }
        }
        parts.push(part);
        if is_quoted || parts.len() > 2 || parts.iter().any(String::is_empty) {
            return Err(invalid());
        }
        Ok(Self { parts })
    }
}

impl fmt::Display for TableName {
    /// As SQL writes it, every part in quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.parts.iter().map(|part| quoted(part)).collect();
        f.write_str(&quoted.join("."))
    }
}

/// An identifier in double quotes.
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A topic made from columns: `{topic}`, `outbox.event.{aggregatetype}`; `{{` is a brace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate {
    source: String,
    pieces: Vec<Piece>,
}

/// A topic template that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("topic template {template:?} is not valid: {reason}; write columns as {{column}}")]
pub struct InvalidTopicTemplate {
    template: String,
    reason: &'static str,
}

impl FromStr for TopicTemplate {
    type Err = InvalidTopicTemplate;

    fn from_str(source: &str) -> Result<Self, Self::Err> {
        let invalid = |reason| InvalidTopicTemplate { template: source.to_owned(), reason };
        let pieces = pieces(source).map_err(invalid)?;
        if pieces.is_empty() || pieces.contains(&Piece::Placeholder(String::new())) {
            return Err(invalid("a name is empty"));
        }
        Ok(Self { source: source.to_owned(), pieces })
    }
}

impl TopicTemplate {
    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The columns it needs, in their order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Placeholder(column) => Some(column.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The topic for values in the order of [`Self::columns`]; the name of the column that is null
    /// if one is.
    #[cfg(any(feature = "postgres", test))]
    pub(crate) fn render(&self, values: &[Option<&str>]) -> Result<String, &str> {
        let mut values = values.iter();
        let mut topic = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => topic.push_str(text),
                Piece::Placeholder(column) => {
                    topic.push_str(values.next().copied().flatten().ok_or(column.as_str())?);
                }
            }
        }
        Ok(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named_as_in_sql() {
        for (text, sql) in [
            ("outbox", r#""outbox""#),
            ("public.Outbox", r#""public"."Outbox""#),
            (r#""a.b"."c""d""#, r#""a.b"."c""d""#),
            ("drop table x; --", r#""drop table x; --""#),
        ] {
            assert_eq!(text.parse::<TableName>().unwrap().to_string(), sql, "{text}");
        }
        for text in ["", ".", "a.", "a.b.c", r#""a"#, r#"a"b"#, r#""a"b"#, r#""""#, "a\0b"] {
            let error = text.parse::<TableName>().unwrap_err().to_string();
            assert!(error.contains("double quotes"), "{text}: {error}");
        }
    }

    #[test]
    fn topics_are_made_from_columns() {
        let template: TopicTemplate = "outbox.{{{kind}}}.{Odd name}".parse().unwrap();
        assert_eq!(template.columns().collect::<Vec<_>>(), ["kind", "Odd name"]);
        let topic = template.render(&[Some("order"), Some("x")]);
        assert_eq!(topic.as_deref(), Ok("outbox.{order}.x"));
        assert_eq!(template.render(&[Some("order"), None]), Err("Odd name"));
        for text in ["", "{", "a}", "{}"] {
            assert!(text.parse::<TopicTemplate>().is_err(), "{text}");
        }
    }
}
