//! From a row of another outbox to a message, or to the reason why it makes none.

use std::fmt;

use posthaste_core::{InvalidMessage, Limits, Message, MessageId};
use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use tokio_postgres::Row;

use super::plan::Plan;
use crate::ImportRow;

/// A row's id stands in an index.
const ID_BYTES_MAX: usize = 512;

/// Reads the columns that `check` and `copy` share; the payload is added by the latter.
pub(super) fn read(
    row: &Row,
    plan: &Plan,
    limits: &Limits,
) -> Result<ImportRow, tokio_postgres::Error> {
    let id: String = row.try_get::<_, Option<String>>(0)?.unwrap_or_default();
    let fields = Fields {
        id: &id,
        topic: row.try_get(1)?,
        key: row.try_get(2)?,
        headers: row.try_get(3)?,
        header_values: row.try_get(4)?,
        correlation_id: row.try_get(5)?,
        is_placed: row.try_get(6)?,
        payload_bytes: row.try_get::<_, i64>(7)?.cast_unsigned(),
    };
    let message = fields.message(plan, limits);
    Ok(ImportRow { payload_bytes: fields.payload_bytes, message, id })
}

struct Fields<'r> {
    id: &'r str,
    topic: Vec<Option<&'r str>>,
    key: Option<&'r str>,
    headers: Option<&'r str>,
    header_values: Vec<Option<&'r str>>,
    correlation_id: Option<&'r str>,
    is_placed: bool,
    payload_bytes: u64,
}

impl Fields<'_> {
    fn message(&self, plan: &Plan, limits: &Limits) -> Result<Message, String> {
        if self.id.is_empty() || self.id.len() > ID_BYTES_MAX {
            return Err(format!("id must be 1 to {ID_BYTES_MAX} bytes"));
        }
        if !self.is_placed {
            return Err("order must be given, not null".to_owned());
        }
        let topic = plan.topic.render(&self.topic);
        let topic = topic.map_err(|column| format!("topic needs {column:?}, which is null"))?;
        let mut message = Message::new(topic).bytes(&plan.content_type, Vec::new());
        if plan.is_uuid {
            message =
                message.id(self.id.parse::<MessageId>().map_err(|error| error.to_string())?);
        }
        if let Some(key) = self.key {
            message = message.key(key);
        }
        if let Some(id) = self.correlation_id {
            message = message.correlation_id(id);
        }
        for (name, value) in plan.header_names.iter().zip(&self.header_values) {
            message = value.iter().fold(message, |message, value| message.header(name, *value));
        }
        for (name, value) in self.headers.map_or(Ok(Vec::new()), headers)? {
            message = message.header(name, value);
        }
        limits.check(&message).map_err(|error| reason(&error))?;
        let bytes = usize::try_from(self.payload_bytes).unwrap_or(usize::MAX);
        limits.check_payload(bytes).map_err(|error| reason(&error))?;
        Ok(message)
    }
}

fn reason(error: &InvalidMessage) -> String {
    format!("{} must be {}, not {:?}", error.field, error.limit, error.value)
}

/// A JSON object of strings, in the order of its text. A JSON null is no headers.
fn headers(json: &str) -> Result<Vec<(String, String)>, String> {
    if json.trim() == "null" {
        return Ok(Vec::new());
    }
    let mut source = serde_json::Deserializer::from_str(json);
    let pairs = source.deserialize_map(Pairs).and_then(|pairs| source.end().map(|()| pairs));
    pairs.map_err(|error| format!("headers must be a JSON object of strings: {error}"))
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_objects_of_strings() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(headers(r#"{"b":"1","a":"\u00f6"}"#), Ok(vec![pair("b", "1"), pair("a", "ö")]));
        assert_eq!(headers("null"), Ok(vec![]));
        for json in ["[]", "1", r#"{"a":1}"#, r#"{"a":null}"#, "{} {}", "no"] {
            let error = headers(json).unwrap_err();
            assert!(error.starts_with("headers must be a JSON object of strings"), "{error}");
        }
    }
}
