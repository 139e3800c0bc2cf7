//! Messages as they arrive: reads what the relay's sinks write. Pure; knows no broker's client.
//!
//! What stands on the wire is fixed by `tests/vectors`, which the relay's tests write and every
//! client library reads. A field that is not known is passed over: a relay may be newer than its
//! consumers.

mod json;

use std::{borrow::Cow, error::Error, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
#[cfg(feature = "contracts")]
use posthaste_core::contract::{Breach, CONTRACT_HEADER, Checked, Contracts};
use posthaste_core::{MessageId, Timestamp};

use self::json::Members;
use crate::time;

/// A message as it arrived at a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The id, the same at each delivery.
    pub id: MessageId,
    /// The topic.
    pub topic: String,
    /// The ordering key.
    pub key: Option<String>,
    /// The payload's content type.
    pub content_type: String,
    /// When it was written to the log, on the database's clock.
    pub enqueued_at: Timestamp,
    /// Ties the message to the request it came from.
    pub correlation_id: Option<String>,
    /// The headers; each name stands once. In their order, except in an event.
    pub headers: Vec<(String, String)>,
    /// The payload, byte for byte.
    pub payload: Vec<u8>,
}

/// An entry, envelope or event that is not one of the relay's: which field is at fault, and what it
/// must be. Holds nothing of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableMessage {
    /// The field as it is called on the wire; `entry`, `envelope` or `cloudevent` for the whole.
    pub field: String,
    /// What it must be.
    pub rule: &'static str,
}

type Result<T> = std::result::Result<T, UnreadableMessage>;

const ONCE: &str = "present once";
const PRESENT: &str = "present";
const NOT_EMPTY: &str = "not empty";
const TEXT: &str = "valid UTF-8";
const STRING: &str = "a string";
const STRINGS: &str = "an object of strings";
const OBJECT: &str = "one JSON object in UTF-8";
const UUID: &str = "a UUID in lower case with hyphens";
const TIME: &str = "a time in UTC such as 2026-01-02T03:04:05.000006Z";
const BASE64: &str = "base64";

/// Attributes of an event that are no headers.
const ATTRIBUTES: [&str; 12] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
    "correlationid",
    HEADERS_ATTRIBUTE,
];
/// The attribute with the headers whose names are no attribute names.
const HEADERS_ATTRIBUTE: &str = "posthasteheaders";

impl Received {
    /// Reads an entry of a Redis stream, of either format of the sink `redis-stream`, from the names
    /// and values of its fields.
    ///
    /// # Errors
    /// The entry is not one that the sink writes.
    ///
    /// # Examples
    /// ```
    /// use posthaste::Received;
    ///
    /// let entry = [
    ///     ("id", "01920000-0000-7000-8000-000000000001"),
    ///     ("topic", "orders.paid"),
    ///     ("content_type", "application/json"),
    ///     ("enqueued_at", "2026-01-02T03:04:05.000006Z"),
    ///     ("h:tenant", "acme"),
    ///     ("payload", "{\"order\":17}"),
    /// ];
    /// let message = Received::from_stream_entry(entry)?;
    /// assert_eq!((message.topic.as_str(), message.header("tenant")), ("orders.paid", Some("acme")));
    /// # Ok::<_, posthaste::UnreadableMessage>(())
    /// ```
    pub fn from_stream_entry<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        fields: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self> {
        let fields: Vec<(N, V)> = fields.into_iter().collect();
        let mut entry = Fields::default();
        for (name, value) in &fields {
            entry.take(name.as_ref(), value.as_ref())?;
        }
        if let Some(header) = json::repeated(&entry.headers) {
            return Err(unreadable(&format!("h:{header}"), ONCE));
        }
        if let Some(event) = entry.event {
            return Self::from_cloudevent(event);
        }
        Ok(Self {
            id: id("id", required("id", entry.id)?)?,
            topic: filled("topic", required("topic", entry.topic)?)?,
            key: entry.key.map(|key| filled("key", key)).transpose()?,
            content_type: required("content_type", entry.content_type)?.to_owned(),
            enqueued_at: enqueued_at("enqueued_at", required("enqueued_at", entry.enqueued_at)?)?,
            correlation_id: entry.correlation_id.map(str::to_owned),
            headers: entry.headers,
            payload: required("payload", entry.payload)?.to_vec(),
        })
    }

    /// Reads an envelope, as the sinks `redis-list` and `redis-pubsub` write it with `format =
    /// "envelope"`, and `stdout` on each line.
    ///
    /// # Errors
    /// The bytes are not an envelope.
    pub fn from_envelope(envelope: &[u8]) -> Result<Self> {
        let members = Members::of("envelope", envelope)?;
        let payload = match (members.text("payload")?, members.text("payload_base64")?) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => bytes("payload_base64", &text)?,
            (None, None) => return Err(unreadable("payload", PRESENT)),
            (Some(_), Some(_)) => return Err(unreadable("payload", ONCE)),
        };
        Ok(Self {
            id: id("id", &required("id", members.text("id")?)?)?,
            topic: filled("topic", required("topic", members.text("topic")?)?)?,
            key: members.text("key")?.map(|key| filled("key", key)).transpose()?,
            content_type: required("content_type", members.text("content_type")?)?,
            enqueued_at: enqueued_at(
                "enqueued_at",
                &required("enqueued_at", members.text("enqueued_at")?)?,
            )?,
            correlation_id: members.text("correlation_id")?,
            headers: required("headers", members.strings("headers")?)?,
            payload,
        })
    }

    /// Reads an event of the relay's (CloudEvents in JSON, structured content mode), from whichever
    /// sink. JSON payloads are taken as they stand in the event, byte for byte.
    ///
    /// # Errors
    /// The bytes are not an event, or one of somebody else's that lacks what each of the relay's has.
    pub fn from_cloudevent(event: &[u8]) -> Result<Self> {
        let members = Members::of("cloudevent", event)?;
        if required("specversion", members.text("specversion")?)? != "1.0" {
            return Err(unreadable("specversion", "1.0"));
        }
        let content_type = required("datacontenttype", members.text("datacontenttype")?)?;
        Ok(Self {
            id: id("id", &required("id", members.text("id")?)?)?,
            topic: filled("type", required("type", members.text("type")?)?)?,
            key: members.text("subject")?.map(|key| filled("subject", key)).transpose()?,
            enqueued_at: enqueued_at("time", &required("time", members.text("time")?)?)?,
            correlation_id: members.text("correlationid")?,
            headers: event_headers(&members)?,
            payload: event_payload(&members, &content_type)?,
            content_type,
        })
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Checks the message against the contract of its topic and of the version that it names; a
    /// worker does so before it runs.
    ///
    /// # Errors
    /// The message breaks its contract, or none of its version is known here. What is to be done
    /// with it is the consumer's: the same bytes break it at each delivery, but an unknown version
    /// may be known after the next deployment.
    ///
    /// # Examples
    /// ```
    /// use posthaste::{Received, contract::{Contract, Contracts}};
    ///
    /// let schema = serde_json::json!({ "type": "object", "required": ["order"] });
    /// let contracts = Contracts::new([Contract::new("orders.paid", 1, schema)?])?;
    /// let entry = [
    ///     ("id", "01920000-0000-7000-8000-000000000001"),
    ///     ("topic", "orders.paid"),
    ///     ("content_type", "application/json"),
    ///     ("enqueued_at", "2026-01-02T03:04:05.000006Z"),
    ///     ("h:posthaste-contract", "1"),
    ///     ("payload", "{}"),
    /// ];
    /// let breach = Received::from_stream_entry(entry)?.check(&contracts).unwrap_err();
    /// assert_eq!(breach.code(), "violation");
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "contracts")]
    pub fn check(&self, contracts: &Contracts) -> std::result::Result<Checked, Breach> {
        contracts.check(&self.topic, self.header(CONTRACT_HEADER), &self.payload)
    }
}

/// The fields of a stream entry as far as they were seen.
#[derive(Default)]
struct Fields<'a> {
    id: Option<&'a str>,
    topic: Option<&'a str>,
    key: Option<&'a str>,
    content_type: Option<&'a str>,
    enqueued_at: Option<&'a str>,
    correlation_id: Option<&'a str>,
    headers: Vec<(String, String)>,
    payload: Option<&'a [u8]>,
    event: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<()> {
        let name = String::from_utf8_lossy(name);
        if let Some(header) = name.strip_prefix("h:") {
            self.headers.push((header.to_owned(), text(&name, value)?.to_owned()));
            return Ok(());
        }
        let place = match name.as_ref() {
            "payload" => return once(&name, &mut self.payload, value),
            "cloudevent" => return once(&name, &mut self.event, value),
            "id" => &mut self.id,
            "topic" => &mut self.topic,
            "key" => &mut self.key,
            "content_type" => &mut self.content_type,
            "enqueued_at" => &mut self.enqueued_at,
            "correlation_id" => &mut self.correlation_id,
            _ => return Ok(()),
        };
        once(&name, place, text(&name, value)?)
    }
}

fn once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(unreadable(name, ONCE)),
    }
}

fn text<'a>(field: &str, value: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(value).map_err(|_| unreadable(field, TEXT))
}

fn required<T>(field: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| unreadable(field, PRESENT))
}

fn filled<'a>(field: &str, value: impl Into<Cow<'a, str>>) -> Result<String> {
    let value = value.into();
    if value.is_empty() { Err(unreadable(field, NOT_EMPTY)) } else { Ok(value.into_owned()) }
}

fn id(field: &str, text: &str) -> Result<MessageId> {
    // The parser knows other forms as well.
    let id = text.parse::<MessageId>().ok();
    let id = id.filter(|id| id.hyphenated().encode_lower(&mut [0; 36]) == text);
    id.ok_or_else(|| unreadable(field, UUID))
}

fn enqueued_at(field: &str, text: &str) -> Result<Timestamp> {
    time::parse_utc(text).ok_or_else(|| unreadable(field, TIME))
}

fn bytes(field: &str, text: &str) -> Result<Vec<u8>> {
    // With padding, and only in the one form that encoders write.
    STANDARD.decode(text).map_err(|_| unreadable(field, BASE64))
}

fn event_headers(members: &Members<'_>) -> Result<Vec<(String, String)>> {
    let others = members.text(HEADERS_ATTRIBUTE)?;
    let mut headers = match &others {
        None => Vec::new(),
        Some(others) => json::strings(others)
            .ok_or_else(|| unreadable(HEADERS_ATTRIBUTE, "an object of strings, as JSON"))?,
    };
    for name in members.names().filter(|name| !ATTRIBUTES.contains(name)) {
        headers.push((name.to_owned(), required(name, members.text(name)?)?));
    }
    match json::repeated(&headers) {
        Some(name) => Err(unreadable(name, ONCE)),
        None => Ok(headers),
    }
}

fn event_payload(members: &Members<'_>, content_type: &str) -> Result<Vec<u8>> {
    match (members.raw("data"), members.text("data_base64")?) {
        (Some(data), None) if is_json(content_type) => Ok(data.as_bytes().to_vec()),
        (Some(_), None) => required("data", members.text("data")?).map(String::into_bytes),
        (None, Some(text)) => bytes("data_base64", &text),
        (None, None) => Err(unreadable("data", PRESENT)),
        (Some(_), Some(_)) => Err(unreadable("data", ONCE)),
    }
}

/// Whether the relay puts a payload of this type into an event as it is.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split_once(';').map_or(content_type, |(essence, _)| essence).trim();
    let essence = essence.to_ascii_lowercase();
    essence == "application/json" || essence.len() > 5 && essence.ends_with("+json")
}

fn unreadable(field: &str, rule: &'static str) -> UnreadableMessage {
    UnreadableMessage { field: field.to_owned(), rule }
}

impl fmt::Display for UnreadableMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name of somebody else's may hold anything.
        write!(f, "message unreadable: {} must be {}", self.field.escape_debug(), self.rule)
    }
}

impl Error for UnreadableMessage {}

#[cfg(test)]
mod tests;
