//! Headers as PostgreSQL takes them. Pure; called by the adapters.

use posthaste_core::Message;

/// `name, value, name, value …`: one `text[]` parameter.
pub(crate) fn header_pairs(message: &Message) -> Vec<&str> {
    let pairs = message.header_pairs().iter();
    pairs.flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect()
}
