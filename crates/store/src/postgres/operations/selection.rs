//! Which messages a person means, as conditions and parameters.

use posthaste_core::{Timestamp, TopicFilter};
use tokio_postgres::types::{ToSql, Type};

use crate::Selection;

/// The conditions of a selection on `m`, a message, and `s`, its subscription. `$1` to `$8`.
const CONDITIONS: &str = "($1::text is null or s.name = $1) \
     and (cardinality($2::uuid[]) = 0 or m.id = any ($2)) \
     and ($3::text[] is null or m.topic = any ($3) or m.topic ^@ any ($4::text[])) \
     and ($5::text is null or m.key = $5)";

/// A selection as parameters.
pub(in crate::postgres) struct Params<'a> {
    pub(in crate::postgres) which: &'a Selection,
    topics: Option<&'a [String]>,
    prefixes: Option<&'a [String]>,
    since: Option<f64>,
    until: Option<f64>,
}

impl<'a> Params<'a> {
    pub(in crate::postgres) fn new(which: &'a Selection) -> Self {
        let seconds = |time: Timestamp| time.0 as f64 / 1e6;
        Self {
            which,
            topics: which.topics.as_ref().map(TopicFilter::exact),
            prefixes: which.topics.as_ref().map(TopicFilter::prefixes),
            since: which.since.map(seconds),
            until: which.until.map(seconds),
        }
    }

    /// The parameters `$1` to `$8`, and `rest` behind them.
    pub(in crate::postgres) fn with<'p>(
        &'p self,
        rest: &[(&'p (dyn ToSql + Sync), Type)],
    ) -> Vec<(&'p (dyn ToSql + Sync), Type)> {
        let mut all: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&self.which.subscription, Type::TEXT),
            (&self.which.ids, Type::UUID_ARRAY),
            (&self.topics, Type::TEXT_ARRAY),
            (&self.prefixes, Type::TEXT_ARRAY),
            (&self.which.key, Type::TEXT),
            (&self.which.reason, Type::TEXT),
            (&self.since, Type::FLOAT8),
            (&self.until, Type::FLOAT8),
        ];
        all.extend(rest.iter().cloned());
        all
    }
}

/// The dead letters that a selection means, as the table expression `m` with `s`.
pub(in crate::postgres) fn dead_letters_sql(schema: impl std::fmt::Display) -> String {
    format!(
        "{schema}.failed_message m join {schema}.subscription s on s.id = m.subscription \
         where m.due is null and {CONDITIONS} \
         and ($6::text is null or position($6 in m.reason) > 0) \
         and ($7::float8 is null or m.failed_at >= to_timestamp($7)) \
         and ($8::float8 is null or m.failed_at < to_timestamp($8))"
    )
}

/// The conditions on messages of the log; their reason is not looked at.
pub(super) fn written_sql() -> String {
    format!(
        "{CONDITIONS} and ($6::text is null or $6 is not null) \
         and ($7::float8 is null or m.enqueued_at >= to_timestamp($7)) \
         and ($8::float8 is null or m.enqueued_at < to_timestamp($8))"
    )
}
