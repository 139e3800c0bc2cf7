//! Payloads as answers and streams show them: JSON as it is, with every digit and in its order, and other bytes under
//! names that say what they are.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A payload, in one of three fields; in none for whoever may not see it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = Payload)]
pub(crate) struct ShownPayload<'a> {
    /// The payload, with the scope `payloads`: JSON, as it was enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) payload: Option<Cow<'a, RawValue>>,
    /// The payload, with the scope `payloads`: other text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) payload_text: Option<Cow<'a, str>>,
    /// The payload, with the scope `payloads`: other bytes, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload_base64: Option<String>,
}

impl<'a> ShownPayload<'a> {
    pub(crate) fn of(content_type: &str, bytes: &'a [u8]) -> Self {
        let json = is_json(content_type).then(|| serde_json::from_slice(bytes).ok()).flatten();
        if let Some(json) = json {
            return Self { payload: Some(Cow::Borrowed(json)), ..Self::default() };
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { payload_text: Some(text.into()), ..Self::default() },
            Err(_) => Self { payload_base64: Some(STANDARD.encode(bytes)), ..Self::default() },
        }
    }

    /// The same, for an answer that outlives the bytes.
    pub(crate) fn owned(content_type: &str, bytes: &[u8]) -> ShownPayload<'static> {
        let ShownPayload { payload, payload_text, payload_base64 } =
            ShownPayload::of(content_type, bytes);
        ShownPayload {
            payload: payload.map(|json| Cow::Owned(json.into_owned())),
            payload_text: payload_text.map(|text| Cow::Owned(text.into_owned())),
            payload_base64,
        }
    }
}

/// `application/json` and what is built on it (RFC 6839), whatever parameters follow.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_shown_as_what_they_are() {
        let shown = |content_type, bytes| {
            serde_json::to_string(&ShownPayload::owned(content_type, bytes)).unwrap()
        };
        for (content_type, bytes, json) in [
            (
                "application/json",
                &br#"{"b":123456789012345678901234567890.12, "a":1.10}"#[..],
                r#"{"payload":{"b":123456789012345678901234567890.12, "a":1.10}}"#,
            ),
            ("application/problem+json; charset=utf-8", b"null", r#"{"payload":null}"#),
            ("application/json", br#""/wA=""#, r#"{"payload":"/wA="}"#),
            ("application/json", b"{", r#"{"payload_text":"{"}"#),
            ("text/plain", b"7", r#"{"payload_text":"7"}"#),
            ("application/octet-stream", b"", r#"{"payload_text":""}"#),
            ("application/octet-stream", b"\xff\0", r#"{"payload_base64":"/wA="}"#),
            ("application/json", b"\xff\0", r#"{"payload_base64":"/wA="}"#),
        ] {
            assert_eq!(shown(content_type, bytes), json);
        }
        assert_eq!(serde_json::to_string(&ShownPayload::default()).unwrap(), "{}");
    }
}
