//! In a SQLite file.

use std::sync::Arc;

use posthaste_store::{Operations, sqlite::SqliteOptions};
use posthaste_testkit::failure::{During, Result};
use rusqlite::Connection;
use tempfile::TempDir;

use super::{BEGINS, COLUMNS, RETENTION, SPACING_MS};
use crate::servers::Log;

/// Messages of the log.
pub(super) const MESSAGES: u64 = 1_000_000;

/// As on PostgreSQL.
const ASIDE: &str = "\
    insert into posthaste_failed_message (subscription, position, id, tick, topic, key, payload, content_type, headers, \
        correlation_id, enqueued_at, attempts, reason, due) \
    select s.id, l.position, l.id, 1, l.topic, l.key, l.payload, l.content_type, l.headers, l.correlation_id, \
           l.enqueued_at, 3, 'no', case when l.position % 4 = 0 then 4000000000000000 end \
      from posthaste_subscription s cross join posthaste_log l \
     where s.name = 'everything' and l.position % 1999 = 0 and l.position < ?1";
const PARKED: &str = "\
    insert into posthaste_parked_key (subscription, key, base_tick, base_id, head_tick, head_id, position, through, \
        message_id, attempts, reason) \
    with recursive numbers (n) as (values (1) union all select n + 1 from numbers where n < 500), \
         rare as (select p.* from posthaste_progress p join posthaste_subscription s on s.id = p.subscription \
                   where s.name = 'rare' order by p.n desc limit 1) \
    select s.id, 'key-' || numbers.n, r.base_tick, r.base_id, r.base_tick, r.base_id, 0, r.through, randomblob(16), 1, 'no' \
      from posthaste_subscription s, rare r, numbers where s.name = 'orders'";

/// A log and a connection that writes to it.
pub(super) struct Filling {
    pub(super) store: Arc<dyn Operations>,
    pub(super) directory: TempDir,
    connection: Connection,
}

impl Filling {
    pub(super) async fn begin() -> Result<Self> {
        let directory = tempfile::tempdir().during("make a directory for the log")?;
        let file = directory.path().join("log.db");
        let options = SqliteOptions { retention: RETENTION, ..SqliteOptions::default() };
        let Log { store, .. } = Log::in_file(&file, &options).await?;
        let connection = Connection::open(&file).during("open the file")?;
        Ok(Self { store, directory, connection })
    }

    pub(super) fn write(&self, from: u64, to: u64) -> Result<()> {
        let sql = format!(
            "insert into posthaste_log (topic, key, correlation_id, id, payload, content_type, headers, enqueued_at) \
             with recursive numbers (n) as (values ({from}) union all select n + 1 from numbers where n < {to}) \
             select {COLUMNS}, \
                    unhex(printf('%012x', {BEGINS} * 1000 + n * {SPACING_MS}) || hex(randomblob(10))), \
                    randomblob(192), 'application/octet-stream', \
                    '{{\"tenant\":\"t' || (n % 1000) || '\",\"common\":\"yes\"}}', \
                    ({BEGINS} * 1000 + n * {SPACING_MS}) * 1000 \
               from numbers"
        );
        self.connection.execute(&sql, []).during("write messages").map(drop)
    }

    pub(super) fn set_aside(&self, below: u64) -> Result<()> {
        let below = i64::try_from(below).during("count messages")?;
        self.connection.execute(ASIDE, [below]).during("set messages aside")?;
        self.connection.execute(PARKED, []).during("park keys").map(drop)
    }
}
