//! The texts of a page: its conditions, and the ways to the messages that may meet them.
//!
//! What callers ask for is a parameter. Snapshots, positions and slots stand in the texts: they come from parsed values
//! and hold digits, colons and commas only.

use std::fmt::Write as _;

use posthaste_core::{TopicFilter, topics::after_prefix};
use tokio_postgres::types::{ToSql, Type};

use super::{
    super::rows::Micros,
    Found,
    places::{ParkedKeys, Reader, Readers},
    session::Param,
};
use crate::{ListedMessage, MessageFilter, MessageState};
use posthaste_core::Timestamp;
use tokio_postgres::Row;

/// Prefixes that are looked up one after the other.
const PREFIXES_MAX: usize = 16;

/// What [`found`] reads, of `m`.
pub(super) const SHOWN: &str = "m.position, m.xid::text, m.id, m.topic, m.key, m.correlation_id, \
                                m.content_type, m.payload_bytes, m.enqueued_at";

/// What a row of a table has to say, with `xid` and `deliver_at` where the table has them.
pub(super) const READ: &str = "id, topic, key, correlation_id, content_type, \
                               octet_length(payload)::int8 as payload_bytes, enqueued_at";

/// A message from a row of [`SHOWN`].
pub(super) fn found(row: &Row, at: usize, state: MessageState) -> Found {
    let xid: Option<&str> = row.get(at + 1);
    Found {
        xid: xid.and_then(|xid| xid.parse().ok()),
        message: ListedMessage {
            position: row.get(at),
            number: None,
            id: row.get(at + 2),
            topic: row.get(at + 3),
            key: row.get(at + 4),
            correlation_id: row.get(at + 5),
            content_type: row.get(at + 6),
            payload_bytes: row.get::<_, i64>(at + 7).max(0).cast_unsigned(),
            enqueued_at: Timestamp(row.get::<_, Micros>(at + 8).0),
            deliver_at: None,
            state,
        },
    }
}

/// A way to the messages of a slot that may be meant.
pub(super) struct Driver {
    /// Conditions, each served by one index, which together find them all.
    pub(super) any_of: Vec<String>,
    /// Whether every slot has the index, also one that is being filled.
    pub(super) is_always_there: bool,
}

/// The parameters of a page's statements, and what all of its messages meet.
pub(super) struct Conditions {
    pub(super) params: Vec<Param>,
    /// Begins with `true`.
    pub(super) text: String,
    /// Whether headers are asked for: nothing else reads them.
    pub(super) has_header: bool,
    alias: &'static str,
}

impl Conditions {
    /// Those of a filter on messages of the log.
    pub(super) fn new(
        which: &MessageFilter,
        readers: &Readers,
        parked: Option<&ParkedKeys>,
        alias: &'static str,
    ) -> Self {
        let mut conditions = Self::of_copies(which, alias);
        if let Some(state) = which.state {
            let text = conditions.state(state, readers, parked);
            let _ = write!(conditions.text, " and {text}");
        }
        conditions
    }

    /// The same without its state.
    pub(super) fn of_copies(which: &MessageFilter, alias: &'static str) -> Self {
        let mut own =
            Self { params: Vec::new(), text: String::from("true"), has_header: false, alias };
        for filter in which.topics.iter().filter(|filter| !filter.is_all()) {
            let text = own.topics(filter);
            let _ = write!(own.text, " and {text}");
        }
        if let Some(id) = which.id {
            own.equal("id", id, Type::UUID);
        }
        if let Some(key) = &which.key {
            own.equal("key", key.clone(), Type::TEXT);
        }
        if let Some(id) = &which.correlation_id {
            own.equal("correlation_id", id.clone(), Type::TEXT);
        }
        for (time, is) in [(which.since, ">="), (which.until, "<")] {
            if let Some(Timestamp(micros)) = time {
                let micros = own.time(micros);
                let _ = write!(own.text, " and {alias}.enqueued_at {is} {micros}");
            }
        }
        if let Some((name, value)) = &which.header {
            own.has_header = true;
            let name = own.param(name.clone(), Type::TEXT);
            let value = own.param(value.clone(), Type::TEXT);
            // The first part is cheap, and tells most apart.
            let _ = write!(
                own.text,
                " and {alias}.headers @> array[{name}, {value}] and exists (\
                 select from generate_subscripts({alias}.headers, 1) i where i % 2 = 1 \
                 and {alias}.headers[i] = {name} and {alias}.headers[i + 1] = {value})"
            );
        }
        own
    }

    /// A parameter, as it is named in a text.
    pub(super) fn param(
        &mut self,
        value: impl ToSql + Sync + Send + 'static,
        kind: Type,
    ) -> String {
        self.params.push((Box::new(value), kind));
        format!("${}", self.params.len())
    }

    /// A time as a parameter.
    pub(super) fn time(&mut self, micros: i64) -> String {
        let micros = self.param(micros, Type::INT8);
        format!("('epoch'::timestamptz + {micros} * interval '1 microsecond')")
    }

    fn equal(&mut self, column: &str, value: impl ToSql + Sync + Send + 'static, kind: Type) {
        let value = self.param(value, kind);
        let _ = write!(self.text, " and {}.{column} = {value}", self.alias);
    }

    fn topics(&mut self, filter: &TopicFilter) -> String {
        let exact = self.param(filter.exact().to_vec(), Type::TEXT_ARRAY);
        let prefixes = self.param(filter.prefixes().to_vec(), Type::TEXT_ARRAY);
        format!("({0}.topic = any ({exact}) or {0}.topic ^@ any ({prefixes}))", self.alias)
    }

    /// What must hold in a state, but for what is set aside.
    fn state(
        &mut self,
        state: MessageState,
        readers: &Readers,
        parked: Option<&ParkedKeys>,
    ) -> String {
        if let Some(parked) = parked {
            return self.parked(readers, parked);
        }
        let each: Vec<(String, String)> =
            readers.all.iter().map(|reader| (self.reads(reader), self.passed(reader))).collect();
        let any_reads: Vec<&str> = each.iter().map(|(reads, _)| reads.as_str()).collect();
        let any_reads = or(&any_reads);
        match state {
            MessageState::Unread => format!("not {any_reads}"),
            MessageState::Pending => {
                let pending: Vec<String> = each
                    .iter()
                    .map(|(reads, passed)| format!("({reads} and not {passed})"))
                    .collect();
                or(&pending.iter().map(String::as_str).collect::<Vec<_>>())
            }
            MessageState::Published => {
                let mut text = any_reads;
                for (reads, passed) in &each {
                    let _ = write!(text, " and (not {reads} or {passed})");
                }
                text
            }
            // Somebody has passed it, at least.
            MessageState::Parked | MessageState::Dead | MessageState::Scheduled => any_reads,
        }
    }

    /// A subscription that has parked keys has passed it: a message of such a key that it has yet to come to is pending.
    fn parked(&mut self, readers: &Readers, parked: &ParkedKeys) -> String {
        let of = readers.all.iter().filter(|reader| parked.subscriptions.contains(&reader.id));
        let each: Vec<String> = of
            .map(|reader| format!("({} and {})", self.reads(reader), self.passed(reader)))
            .collect();
        or(&each.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn reads(&mut self, reader: &Reader) -> String {
        let topics =
            if reader.filter.is_all() { "true".to_owned() } else { self.topics(&reader.filter) };
        format!("({topics} and not pg_visible_in_snapshot({}.xid, '{}'))", self.alias, reader.start)
    }

    fn passed(&self, reader: &Reader) -> String {
        let Reader { base, within, .. } = reader;
        let alias = self.alias;
        let base = format!("pg_visible_in_snapshot({alias}.xid, '{base}')");
        match within {
            None => base,
            Some((head, reach)) => format!(
                "({base} or (pg_visible_in_snapshot({alias}.xid, '{head}') \
                 and {alias}.position <= {reach}))"
            ),
        }
    }
}

fn or(texts: &[&str]) -> String {
    if texts.is_empty() { "(false)".to_owned() } else { format!("({})", texts.join(" or ")) }
}

/// The ways to what is meant, the best one first. `keys`: only messages of these are meant.
///
/// The texts repeat the conditions of the indexes of `0019_browse.sql`, or those would not serve them.
pub(super) fn drivers(
    conditions: &mut Conditions,
    which: &MessageFilter,
    readers: &Readers,
    keys: Option<Vec<String>>,
) -> Vec<Driver> {
    let mut drivers = Vec::new();
    let mut one = |text: String| {
        let is_always_there = text.starts_with("xid ");
        drivers.push(Driver { any_of: vec![text], is_always_there });
    };
    if let Some(id) = which.id {
        one(format!("id = {}", conditions.param(id, Type::UUID)));
    }
    if let Some(id) = &which.correlation_id {
        let id = conditions.param(id.clone(), Type::TEXT);
        one(format!("correlation_id collate \"C\" = {id} and octet_length(correlation_id) <= 256"));
    }
    if let Some(key) = &which.key {
        let key = conditions.param(key.clone(), Type::TEXT);
        one(format!("key collate \"C\" = {key} and octet_length(key) <= 512"));
    }
    if let Some(keys) = keys {
        let keys = conditions.param(keys, Type::TEXT_ARRAY);
        one(format!("key collate \"C\" = any ({keys}) and octet_length(key) <= 512"));
    }
    if which.state == Some(MessageState::Pending)
        && let Some(from) = readers.all.iter().map(|reader| reader.base.xmin()).min()
    {
        one(format!("xid >= '{from}'::xid8"));
    }
    let narrow = which.topics.iter().find(|filter| !filter.is_all()).cloned();
    let narrow = narrow.or_else(|| {
        let is_pending = which.state == Some(MessageState::Pending);
        is_pending.then(|| TopicFilter::union(readers.all.iter().map(|reader| &reader.filter)))
    });
    let by_index =
        |filter: &TopicFilter| !filter.is_all() && filter.prefixes().len() <= PREFIXES_MAX;
    if let Some(filter) = narrow.filter(by_index) {
        drivers.push(by_topics(conditions, &filter));
    }
    drivers
}

fn by_topics(conditions: &mut Conditions, filter: &TopicFilter) -> Driver {
    let has_prefix = |topic: &str| filter.prefixes().iter().any(|prefix| topic.starts_with(prefix));
    let exact: Vec<String> =
        filter.exact().iter().filter(|topic| !has_prefix(topic)).cloned().collect();
    let mut any_of = Vec::new();
    if !exact.is_empty() || filter.prefixes().is_empty() {
        let exact = conditions.param(exact, Type::TEXT_ARRAY);
        any_of.push(format!("topic collate \"C\" = any ({exact})"));
    }
    for prefix in filter.prefixes() {
        let is_covered = |other: &&String| *other != prefix && prefix.starts_with(other.as_str());
        if filter.prefixes().iter().any(|other| is_covered(&other)) {
            continue;
        }
        let from = conditions.param(prefix.clone(), Type::TEXT);
        let mut text = format!("topic collate \"C\" >= {from}");
        if let Some(to) = after_prefix(prefix) {
            let to = conditions.param(to, Type::TEXT);
            let _ = write!(text, " and topic collate \"C\" < {to}");
        }
        any_of.push(text);
    }
    Driver { any_of, is_always_there: false }
}
