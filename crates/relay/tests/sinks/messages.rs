//! Messages to publish, and what is read back of them.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use posthaste_core::{Headers, MessageId, MessageRef, Page, Timestamp};
use posthaste_relay::sink::{Batch, Lane, Marks, Outcome, Receipt, Sink, SinkError};
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

/// A message to publish.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) id: MessageId,
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) content_type: String,
    pub(crate) correlation_id: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Vec<u8>,
}

/// What arrived of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) id: MessageId,
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) payload: Vec<u8>,
}

impl Sample {
    pub(crate) fn new(topic: &str, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            id: MessageId::now_v7(),
            topic: topic.to_owned(),
            key: None,
            content_type: "application/octet-stream".to_owned(),
            correlation_id: None,
            headers: Vec::new(),
            payload: payload.into(),
        }
    }

    pub(crate) fn key(self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self }
    }

    pub(crate) fn content_type(self, content_type: &str) -> Self {
        Self { content_type: content_type.to_owned(), ..self }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn arrived(&self) -> Arrived {
        Arrived {
            id: self.id,
            topic: self.topic.clone(),
            key: self.key.clone(),
            headers: self.headers.iter().cloned().collect(),
            payload: self.payload.clone(),
        }
    }
}

pub(crate) fn arrivals<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Vec<Arrived> {
    samples.into_iter().map(Sample::arrived).collect()
}

/// Publishes the samples as one batch.
pub(crate) async fn publish(
    sink: &mut dyn Sink,
    samples: &[Sample],
) -> Result<Vec<Outcome>, SinkError> {
    let mut page = Page::new(samples.len() as i64);
    for (index, sample) in samples.iter().enumerate() {
        let mut headers = Vec::new();
        for (name, value) in &sample.headers {
            Headers::pack(&mut headers, name);
            Headers::pack(&mut headers, value);
        }
        page.push(&MessageRef {
            id: sample.id,
            position: index as i64 + 1,
            enqueued_at: Timestamp(1_767_323_045_000_006 + index as i64),
            topic: &sample.topic,
            key: sample.key.as_deref(),
            content_type: &sample.content_type,
            correlation_id: sample.correlation_id.as_deref(),
            headers: Headers::packed(&headers),
            payload: &sample.payload,
        });
    }
    let indices: Vec<u32> = (0..samples.len() as u32).collect();
    match sink.publish(&Batch::new(&page, &indices, &ByPosition)).await? {
        Receipt::AllAccepted => Ok(vec![Outcome::Accepted; samples.len()]),
        Receipt::Each(outcomes) => {
            assert_eq!(outcomes.len(), samples.len(), "one outcome per message");
            Ok(outcomes)
        }
    }
}

/// Writes down how far a lane has come by position.
pub(crate) struct ByPosition;

impl Marks for ByPosition {
    fn text(&self, message: &MessageRef<'_>) -> String {
        message.position.to_string()
    }
}

/// The lane of a first holder.
pub(crate) fn lane(name: &str) -> Lane {
    Lane { name: name.to_owned(), epoch: 1, log: Uuid::nil(), adopts: false }
}

/// The payload a JSON member stands for.
fn decode_base64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

/// Reads an envelope back.
pub(crate) fn read_envelope(envelope: &[u8]) -> Arrived {
    let envelope: Value = serde_json::from_slice(envelope).unwrap();
    let text = |name: &str| envelope[name].as_str().map(str::to_owned);
    let payload = text("payload").map(String::into_bytes);
    Arrived {
        id: text("id").unwrap().parse().unwrap(),
        topic: text("topic").unwrap(),
        key: text("key"),
        headers: serde_json::from_value(envelope["headers"].clone()).unwrap(),
        payload: payload.unwrap_or_else(|| decode_base64(&text("payload_base64").unwrap())),
    }
}

/// Reads an event back, by the JSON format's rules alone.
pub(crate) fn read_event(event: &[u8]) -> Arrived {
    const OF_EVENTS: [&str; 6] =
        ["specversion", "source", "time", "datacontenttype", "correlationid", "posthasteheaders"];
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(event).unwrap();
    let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).unwrap();
    let content_type = text(&members["datacontenttype"]);
    let mut take = |name: &str| members.remove(name);
    let payload = match (take("data"), take("data_base64")) {
        (Some(json), None) if content_type.contains("json") => json.get().as_bytes().to_vec(),
        (Some(string), None) => text(&string).into_bytes(),
        (None, Some(bytes)) => decode_base64(&text(&bytes)),
        other => panic!("exactly one of data and data_base64: {other:?}"),
    };
    let id = text(&take("id").unwrap()).parse().unwrap();
    let topic = text(&take("type").unwrap());
    let key = take("subject").map(|key| text(&key));
    let mut headers: BTreeMap<String, String> = take("posthasteheaders")
        .map(|others| serde_json::from_str(&text(&others)).unwrap())
        .unwrap_or_default();
    members.retain(|name, _| !OF_EVENTS.contains(&name.as_str()));
    headers.extend(members.into_iter().map(|(name, value)| (name, text(&value))));
    Arrived { id, topic, key, headers, payload }
}
