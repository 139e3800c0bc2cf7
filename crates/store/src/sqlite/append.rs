//! Writes messages with the texts that applications send, for the command line and for tests.

use posthaste_core::{Message, MessageId};

use super::{headers, session::Scope};
use crate::{Result, StoreError, StoreErrorKind, statements::SqliteWriter};

/// Appends `messages` in their order and answers their ids.
pub(super) fn append(scope: &Scope<'_>, messages: &[Message]) -> Result<Vec<MessageId>> {
    let mut insert = scope.prepare(&SqliteWriter::new(scope.schema()).insert)?;
    let mut ids = Vec::with_capacity(messages.len());
    for message in messages {
        let id = message.message_id().unwrap_or_else(MessageId::now_v7);
        let headers = headers::to_json(message.header_pairs()).map_err(|cause| {
            StoreError::caused(StoreErrorKind::Invalid, "write the headers as JSON", cause)
        })?;
        insert.execute((
            id.as_bytes(),
            message.topic(),
            message.ordering_key(),
            message.payload(),
            message.media_type(),
            headers,
            message.correlation(),
        ))?;
        ids.push(id);
    }
    Ok(ids)
}
