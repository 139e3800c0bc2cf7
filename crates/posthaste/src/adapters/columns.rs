//! Messages turned into one array per column, as `insert_many` and `write_each` take them. Pure.

use posthaste_core::Message;
use posthaste_store::statements::array_literal;
use uuid::Uuid;

use crate::Entry;

/// The columns of some messages; the index is the message's.
pub(super) struct Columns<'a> {
    pub(super) ids: Vec<Uuid>,
    pub(super) topics: Vec<&'a str>,
    pub(super) keys: Vec<Option<&'a str>>,
    pub(super) payloads: Vec<&'a [u8]>,
    pub(super) content_types: Vec<&'a str>,
    pub(super) headers: Vec<String>,
    pub(super) correlation_ids: Vec<Option<&'a str>>,
    /// For `write_each` only.
    pub(super) tokens: Vec<Option<&'a str>>,
    /// For `write_each` only: microseconds since the Unix epoch.
    pub(super) dues: Vec<Option<i64>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(entries: &[Entry<'a>]) -> Self {
        let messages = || entries.iter().map(|entry| entry.message);
        Self {
            ids: entries.iter().map(|entry| entry.id).collect(),
            topics: messages().map(Message::topic).collect(),
            keys: messages().map(Message::ordering_key).collect(),
            payloads: messages().map(Message::payload).collect(),
            content_types: messages().map(Message::media_type).collect(),
            headers: messages().map(|message| array_literal(message.header_pairs())).collect(),
            correlation_ids: messages().map(Message::correlation).collect(),
            tokens: messages().map(Message::idempotency_token).collect(),
            dues: messages().map(|message| message.due().map(|due| due.0)).collect(),
        }
    }
}
