//! Messages turned into one array per column, as `insert_many` takes them. Pure.

use uuid::Uuid;

use crate::{Entry, encode::header_literal};

/// The columns of some messages; the index is the message's.
pub(super) struct Columns<'a> {
    pub(super) ids: Vec<Uuid>,
    pub(super) topics: Vec<&'a str>,
    pub(super) keys: Vec<Option<&'a str>>,
    pub(super) payloads: Vec<&'a [u8]>,
    pub(super) content_types: Vec<&'a str>,
    pub(super) headers: Vec<String>,
    pub(super) correlation_ids: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(entries: &[Entry<'a>]) -> Self {
        let messages = || entries.iter().map(|entry| entry.message);
        Self {
            ids: entries.iter().map(|entry| entry.id).collect(),
            topics: messages().map(|message| message.topic()).collect(),
            keys: messages().map(|message| message.ordering_key()).collect(),
            payloads: messages().map(|message| message.payload()).collect(),
            content_types: messages().map(|message| message.media_type()).collect(),
            headers: messages().map(header_literal).collect(),
            correlation_ids: messages().map(|message| message.correlation()).collect(),
        }
    }
}
