//! The texts that applications send inside their own transactions. Pure: no connection here.

mod commands;
mod jobs;
mod machines;

use posthaste_core::SchemaName;

#[cfg(feature = "sqlite")]
pub(crate) use self::machines::sqlite_table;
pub use self::{
    commands::{PostgresCommands, SqliteCommands},
    jobs::{PostgresJobs, SqliteJobs},
    machines::{PostgresMachines, SqliteMachines},
};

/// The time on SQLite's clock, in microseconds since the Unix epoch, as the defaults of the tables
/// read it.
const NOW: &str = "cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000";

/// The statements that write messages to PostgreSQL, and record those that a consumer has handled.
#[derive(Clone, Debug)]
pub struct PostgresWriter {
    /// Writes one message: `$1 id uuid, $2 topic text, $3 key text, $4 payload bytea,
    /// $5 content_type text, $6 headers text[]` (name, value, …)`, $7 correlation_id text`.
    pub insert: String,
    /// Writes many messages from arrays in the order of [`Self::insert`], except that `$6` is a
    /// `text[]` of array literals (an array of arrays cannot be ragged). Positions follow the
    /// order of the arrays.
    pub insert_many: String,
    /// Writes messages that have tokens or are scheduled and answers an id for each, in their
    /// order: from arrays as [`Self::insert_many`], then `$8 text[]` of tokens and `$9 int8[]` of
    /// times in microseconds since the Unix epoch, each of which may be null.
    pub write_each: String,
    /// Cancels the scheduled message `$1 uuid` and answers whether it was still waiting.
    pub cancel: String,
    /// Locks the ordering keys `$1 text[]` until the transaction ends.
    pub lock_keys: String,
    /// Records that the consumer `$1 text` handles the message `$2 uuid`, and answers whether it is
    /// the first time.
    pub handle_once: String,
    /// The same for the messages `$2 uuid[]`: answers those that are new, in their order.
    pub handle_many: String,
    /// [`Self::handle_once`] as one row of three columns: a text, bytes, and 1 if it is the first time.
    pub handle_over: String,
    /// Fails on purpose with `$1 text` as its message, which leaves the caller's transaction
    /// aborted.
    pub refuse: String,
}

impl PostgresWriter {
    /// The error code with which a strict topic refuses a message whose key is not locked.
    pub const KEY_NOT_LOCKED: &str = "PH001";

    /// The statements for one schema.
    pub fn new(schema: &SchemaName) -> Self {
        let columns = "id, topic, key, payload, content_type, headers, correlation_id";
        Self {
            // The plain insert: `xid` and `position` come from their defaults, in column order.
            insert: format!(
                "insert into {schema}.log ({columns}) values ($1, $2, $3, $4, $5, $6, $7)"
            ),
            // `with ordinality` and `order by` fix the order in which positions are handed out.
            insert_many: format!(
                "insert into {schema}.log ({columns}) \
                 select id, topic, key, payload, content_type, headers::text[], correlation_id \
                 from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::text[], \
                 $6::text[], $7::text[]) with ordinality \
                 as m (id, topic, key, payload, content_type, headers, correlation_id, nth) \
                 order by nth"
            ),
            // A sub-select with an order is not merged into the query around it, so the function is
            // called in that order.
            write_each: format!(
                "select {schema}.write_message(id, topic, key, payload, content_type, \
                 headers::text[], correlation_id, token, \
                 'epoch'::timestamptz + deliver_at * interval '1 microsecond') \
                 from (select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], \
                 $5::text[], $6::text[], $7::text[], $8::text[], $9::int8[]) with ordinality \
                 as m (id, topic, key, payload, content_type, headers, correlation_id, token, \
                 deliver_at, nth) order by nth) m"
            ),
            cancel: format!("select {schema}.cancel($1::uuid)"),
            lock_keys: format!("select {schema}.lock_keys($1::text[])"),
            handle_once: format!("select {schema}.handle_once($1::text, $2::uuid)"),
            handle_many: format!("select {schema}.handle_many($1::text, $2::uuid[])"),
            handle_over: format!(
                "select null::text, null::bytea, \
                 {schema}.handle_once($1::text, $2::uuid)::int::int8"
            ),
            refuse: format!("select {schema}.refuse($1::text)"),
        }
    }
}

/// The statements that write messages to SQLite, and record those that a consumer has handled.
#[derive(Clone, Debug)]
pub struct SqliteWriter {
    /// Writes one message: `?1 id blob, ?2 topic, ?3 key, ?4 payload blob, ?5 content_type,
    /// ?6 headers` (a JSON object of strings, as text)`, ?7 correlation_id`.
    pub insert: String,
    /// Writes one message that has a token or is scheduled, unless the token was used before: as
    /// [`Self::insert`], then `?8 token, ?9 deliver_at` in microseconds since the Unix epoch.
    pub write_one: String,
    /// Cancels the scheduled message `?1 id blob`: a row if it was still waiting.
    pub cancel: String,
    /// Answers the id of the message that the token `?1` stands for.
    pub token_id: String,
    /// Records that the consumer `?1` handles the message `?2 blob`: a row if it is the first time.
    pub handle_once: String,
    /// Whether the consumer `?1` has handled the message `?2 blob`: 1 in the third of three columns if it has.
    pub handled: String,
    /// Poisons the caller's transaction: after it, `commit` fails on a deferred foreign key.
    /// Needs `pragma foreign_keys` on; where it is off, send [`Self::ROLLBACK`] instead.
    pub refuse: String,
}

impl SqliteWriter {
    /// Answers 1 when [`Self::refuse`] works on this connection.
    pub const FOREIGN_KEYS: &str = "pragma foreign_keys";
    /// Ends the caller's transaction where it cannot be poisoned.
    pub const ROLLBACK: &str = "rollback";

    /// The statements for one schema name, which SQLite has as a prefix of table names.
    pub fn new(schema: &SchemaName) -> Self {
        Self {
            insert: format!(
                "insert into {schema}_log (id, topic, key, payload, content_type, headers, \
                 correlation_id) values (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
            ),
            write_one: format!(
                "insert into {schema}_enqueue (id, topic, key, payload, content_type, headers, \
                 correlation_id, token, deliver_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
            ),
            cancel: format!("delete from {schema}_scheduled where id = ?1"),
            token_id: format!("select message_id from {schema}_token where token = ?1"),
            // Not `or ignore`, which would pass over a broken check as well.
            handle_once: format!(
                "insert into {schema}_inbox (consumer, message_id) values (?1, ?2) \
                 on conflict (consumer, message_id) do nothing"
            ),
            handled: format!(
                "select null, null, count(*) from {schema}_inbox \
                 where consumer = ?1 and message_id = ?2"
            ),
            refuse: format!("insert into {schema}_refused (log_position) values (-1)"),
        }
    }
}

/// The statements with which tests of applications read what was enqueued on PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresReader {
    /// Answers the highest position that was handed out, or 0.
    pub position: String,
    /// The messages of the log behind position `$1 int8`, in their order, then the scheduled ones
    /// in the order in which they are due: `id, topic, key, payload, content_type, headers` (name,
    /// value, …)`, correlation_id, deliver_at` in microseconds since the Unix epoch, null for those
    /// of the log. At most `$2 int8`.
    pub enqueued: String,
}

impl PostgresReader {
    /// The statements for one schema.
    pub fn new(schema: &SchemaName) -> Self {
        let columns = "id, topic, key, payload, content_type, headers, correlation_id";
        Self {
            position: format!(
                "select coalesce(pg_sequence_last_value('{schema}.log_position_seq'), 0)"
            ),
            enqueued: format!(
                "select {columns}, due from \
                 (select false as waits, position as nth, {columns}, null::int8 as due \
                 from {schema}.log where position > $1::int8 \
                 union all select true, n, {columns}, \
                 (extract(epoch from deliver_at) * 1000000)::int8 from {schema}.scheduled) m \
                 order by waits, due, nth limit $2::int8"
            ),
        }
    }
}

/// The statements with which tests of applications read what was enqueued on SQLite.
#[derive(Clone, Debug)]
pub struct SqliteReader {
    /// Answers the highest position that was handed out, or 0.
    pub position: String,
    /// As [`PostgresReader::enqueued`], with `?1` and `?2`; `headers` are a JSON object of strings.
    pub enqueued: String,
}

impl SqliteReader {
    /// The statements for one schema name, which SQLite has as a prefix of table names.
    pub fn new(schema: &SchemaName) -> Self {
        let columns = "id, topic, key, payload, content_type, headers, correlation_id";
        Self {
            position: format!(
                "select coalesce(max(seq), 0) from sqlite_sequence where name = '{schema}_log'"
            ),
            enqueued: format!(
                "select {columns}, due from \
                 (select 0 as waits, position as nth, {columns}, null as due \
                 from {schema}_log where position > ?1 \
                 union all select 1, n, {columns}, deliver_at from {schema}_scheduled) \
                 order by waits, due, nth limit ?2"
            ),
        }
    }
}

/// A PostgreSQL array literal (`{"name","value",…}`) of header names and values.
pub fn array_literal(headers: &[(String, String)]) -> String {
    nullable_array_literal(headers.iter().flat_map(|(name, value)| [Some(name), Some(value)]))
}

/// A PostgreSQL array literal of texts, some of which may be null.
///
/// Every element is quoted, so that commas, braces, white space, an empty string and the word NULL
/// are what they are; inside quotes only the quote and the backslash are special (PostgreSQL
/// manual, 8.15.6).
pub fn nullable_array_literal(
    elements: impl IntoIterator<Item = Option<impl AsRef<str>>>,
) -> String {
    let mut literal = String::from("{");
    for element in elements {
        if literal.len() > 1 {
            literal.push(',');
        }
        match element {
            Some(text) => push_quoted(&mut literal, text.as_ref()),
            None => literal.push_str("NULL"),
        }
    }
    literal.push('}');
    literal
}

fn push_quoted(literal: &mut String, text: &str) {
    literal.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            literal.push('\\');
        }
        literal.push(character);
    }
    literal.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_literal_quotes_every_element_and_escapes_quotes_and_backslashes() {
        let cases: [(&[(&str, &str)], &str); 5] = [
            (&[], "{}"),
            (&[("a", "")], r#"{"a",""}"#),
            (&[("a", "1"), ("b", "x,\"y\\}NULL")], r#"{"a","1","b","x,\"y\\}NULL"}"#),
            (&[("a", r#"q" b\ "#)], r#"{"a","q\" b\\ "}"#),
            (&[("NULL", "}, {\n")], "{\"NULL\",\"}, {\n\"}"),
        ];
        for (headers, literal) in cases {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(array_literal(&headers), literal);
        }
    }

    #[test]
    fn null_in_an_array_literal_is_not_the_text_null() {
        let elements = [Some("NULL"), None, Some("")];
        assert_eq!(nullable_array_literal(elements), r#"{"NULL",NULL,""}"#);
        assert_eq!(nullable_array_literal([None::<&str>]), "{NULL}");
    }
}
