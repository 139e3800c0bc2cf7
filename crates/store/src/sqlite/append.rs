//! Writes messages with the texts that applications send, for the command line and for tests.

use posthaste_core::{HeaderObject, Message, MessageId};

use super::session::Scope;
use crate::{Result, statements::SqliteWriter};

/// Appends `messages` in their order and answers the ids that stand for them.
pub(super) fn append(scope: &Scope<'_>, messages: &[Message]) -> Result<Vec<MessageId>> {
    let writer = SqliteWriter::new(scope.schema());
    let mut write = scope.prepare(&writer.write_one)?;
    let mut first = scope.prepare(&writer.token_id)?;
    let mut ids = Vec::with_capacity(messages.len());
    for message in messages {
        let id = message.message_id().unwrap_or_else(MessageId::now_v7);
        let headers = HeaderObject(message.header_pairs()).to_string();
        let token = message.idempotency_token();
        write.execute((
            id.as_bytes(),
            message.topic(),
            message.ordering_key(),
            message.payload(),
            message.media_type(),
            headers,
            message.correlation(),
            token,
            message.due().map(|due| due.0),
        ))?;
        ids.push(match token {
            None => id,
            Some(token) => first.query_row([token], |row| row.get(0).map(MessageId::from_bytes))?,
        });
    }
    Ok(ids)
}
