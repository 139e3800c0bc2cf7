//! The texts with which applications submit jobs, and end attempts in the transaction of their effect.
//! Each answers at most one row of three columns, any of which may be null: a text, bytes, and a number.

use posthaste_core::SchemaName;

/// What bounds a transaction whose client is silent.
const IDLE: &str = "'idle_in_transaction_session_timeout'";

/// The statements of jobs on PostgreSQL: its functions do all of it.
#[derive(Clone, Debug)]
pub struct PostgresJobs {
    /// Submits a job: `$1 topic text, $2 payload bytea, $3 key text, $4 headers` (a JSON object, as
    /// text)`, $5 content_type text, $6 correlation_id text, $7 id uuid` (nil for one of
    /// the database's)`, $8 token text, $9 unique_key text, $10 attempts_max int8` (0 for none)`, $11 deliver_at int8` in microseconds since
    /// the Unix epoch (0 for now). The id of the job that now stands for it, as text.
    pub submit: String,
    /// Ends the attempt `$3 int8` of the worker `$1 uuid` at the job `$2 uuid`, as completed, with the
    /// receipt `$4 bytea` of the type `$5 text`, if that is not null: 1 if it was still the worker's. The transaction holds
    /// the job, so from here on it may be idle for a minute at most: a client that is gone without a word would hold it
    /// for ever.
    pub complete: String,
    /// Whether a snapshot that is taken after this shows what the transaction `$1 text` (an xid8) has written: 1 if
    /// it does. Also on a standby, whose snapshots do not list what is in progress; a transaction of which it has
    /// not heard is above its newest one.
    pub visible: String,
    /// Takes the job `$1 uuid` back: what became of it, as text.
    pub cancel: String,
    /// Fails on purpose with `$1 text` as its message, which leaves the caller's transaction aborted.
    pub refuse: String,
}

impl PostgresJobs {
    /// The statements for one schema.
    pub fn new(schema: &SchemaName) -> Self {
        Self {
            submit: format!(
                "select {schema}.submit_job_bytes($1::text, $2::bytea, $3::text, $4::text::json, \
                 $5::text, $6::text, \
                 nullif($7::uuid, '00000000-0000-0000-0000-000000000000'), $8::text, $9::text, nullif($10::int8, 0)::int, \
                 'epoch'::timestamptz + nullif($11::int8, 0) * interval '1 microsecond')::text, \
                 null::bytea, null::int8"
            ),
            complete: format!(
                "select null::text, null::bytea, count(*) from {schema}.finish_jobs($1::uuid, \
                 array[$2::uuid], array[$3::int8::int], array['completed'], array[null::text], \
                 array[null::int8], array[case when $5::text is not null then $4::bytea end], \
                 array[$5::text]), \
                 (select set_config({IDLE}, case when current_setting({IDLE})::interval \
                 between '1ms' and '1min' then current_setting({IDLE}) else '1min' end, true)) bound"
            ),
            visible: "select null::text, null::bytea, case when $1::text::xid8 \
                      < pg_snapshot_xmax(pg_current_snapshot()) then \
                      case when coalesce(pg_xact_status($1::text::xid8), 'committed') = 'committed' \
                      then 1::int8 else 0::int8 end else 0::int8 end"
                .to_owned(),
            cancel: format!("select {schema}.cancel_job($1::uuid), null::bytea, null::int8"),
            refuse: format!(
                "select null::text, null::bytea, 0::int8 from {schema}.refuse($1::text)"
            ),
        }
    }
}

/// The statements of jobs on SQLite.
#[derive(Clone, Debug)]
pub struct SqliteJobs {
    /// Submits a job, unless another one has its token or its unique key: `?1 id blob, ?2 topic, ?3 key,
    /// ?4 payload blob, ?5 content_type, ?6 headers` (a JSON object)`, ?7 correlation_id, ?8 token,
    /// ?9 unique_key, ?10 attempts_max, ?11 deliver_at` in microseconds since the Unix epoch; 0 in the last
    /// two is none.
    pub submit: String,
    /// The job that stands for one with the id `?1 blob`, the token `?2` and the unique key `?3`: its id, as
    /// bytes.
    pub submitted: String,
    /// Ends an attempt, if it is still the worker's: `?1 worker blob, ?2 id blob, ?3 attempt, ?4 outcome,
    /// ?5 reason, ?6 wait` in microseconds`, ?7 receipt blob, ?8 receipt_type, ?9 next_id blob`.
    pub finish: String,
    /// Whether the attempt `?3` of the worker `?1 blob` at the job `?2 blob` is still its: 1 if it is.
    pub held: String,
}

impl SqliteJobs {
    /// The statements for one schema name, which SQLite has as a prefix of table names.
    pub fn new(schema: &SchemaName) -> Self {
        Self {
            submit: format!(
                "insert into {schema}_submit_job (id, topic, key, payload, content_type, headers, \
                 correlation_id, token, unique_key, attempts_max, deliver_at) values (?1, ?2, ?3, \
                 ?4, ?5, ?6, ?7, ?8, ?9, nullif(?10, 0), nullif(?11, 0))"
            ),
            submitted: format!(
                "select null, id, null from {schema}_job where id = ?1 or token = ?2 \
                 or (unique_key = ?3 and finished_at is null) \
                 order by token is not ?2, unique_key is not ?3 limit 1"
            ),
            finish: format!(
                "insert into {schema}_finish_job (worker, id, attempt, outcome, reason, wait, \
                 receipt, receipt_type, next_id) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
            ),
            held: format!(
                "select null, null, count(*) from {schema}_job \
                 where worker = ?1 and id = ?2 and attempt = ?3"
            ),
        }
    }
}
