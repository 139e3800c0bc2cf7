//! On PostgreSQL, slot by slot.

use std::sync::Arc;

use posthaste_store::{
    Operations, RingSizes,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::failure::{During, Result};
use tokio_postgres::Client;

use super::{BEGINS, COLUMNS, RETENTION, SPACING_MS};
use crate::{
    progress,
    servers::{Log, Servers, connect},
};

/// Messages of the log.
pub(super) const MESSAGES: u64 = 10_000_000;
/// Positions of a slot.
const SLOT_SIZE: u32 = 262_144;

/// What a sink did not take: of the newest hundredth, and of all the log.
const ASIDE: &str = "\
    insert into posthaste.failed_message (subscription, position, id, tick, topic, key, payload, content_type, headers, \
        correlation_id, enqueued_at, attempts, reason, due) \
    select s.id, l.position, l.id, 1, l.topic, l.key, l.payload, l.content_type, l.headers, l.correlation_id, \
           l.enqueued_at, 3, 'no', case when l.position % 4 = 0 then now() + interval '1 hour' end \
      from posthaste.subscription s cross join posthaste.log l \
     where s.name = 'everything' and l.position % 1999 = 0 and l.position < $1; \
";
const PARKED: &str = "\
    insert into posthaste.parked_key (subscription, key, base_tick, base_id, head_tick, head_id, position, message_id, \
        attempts, reason) \
    select o.subscription_id, 'key-' || g, r.base_tick, r.base_id, r.base_tick, r.base_id, 0, gen_random_uuid(), 1, 'no' \
      from posthaste.place o cross join posthaste.place r cross join generate_series(1, 500) g \
     where o.subscription = 'orders' and r.subscription = 'rare'";

/// A log and a connection that writes to it.
pub(super) struct Filling {
    pub(super) store: Arc<dyn Operations>,
    client: Client,
    slots: u32,
}

impl Filling {
    pub(super) async fn begin(servers: &Servers, count: u64) -> Result<Self> {
        let slots = count.div_ceil(u64::from(SLOT_SIZE));
        let slots = u32::try_from(slots).during("count the slots")? + 2;
        let rings = RingSizes { slots: slots.max(32), slot_size: SLOT_SIZE };
        let Log { url, .. } = servers.log_with(rings).await?;
        let options = PostgresOptions { retention: RETENTION, rings, ..PostgresOptions::default() };
        let store = PostgresStore::connect(&url, &options).during("open the store")?;
        Ok(Self { store: Arc::new(store), client: connect(&url).await?, slots })
    }

    pub(super) async fn write(&self, from: u64, to: u64) -> Result<()> {
        let sql = format!(
            "insert into posthaste.log (topic, key, correlation_id, id, payload, content_type, headers, enqueued_at) \
             select {COLUMNS}, \
                    encode(overlay(uuid_send(gen_random_uuid()) placing \
                      substring(int8send({BEGINS}::int8 * 1000 + n * {SPACING_MS}) from 3) from 1 for 6), 'hex')::uuid, \
                    decode(repeat(md5(n::text), 6), 'hex') || decode(repeat(md5((n + 1)::text), 6), 'hex'), \
                    'application/octet-stream', array['tenant', 't' || (n % 1000), 'common', 'yes'], \
                    to_timestamp({BEGINS}) + n * {SPACING_MS} * interval '1 millisecond' \
               from generate_series({from}::int8, {to}::int8) n"
        );
        self.client.batch_execute(&sql).await.during("write messages")
    }

    pub(super) async fn set_aside(&self, below: u64) -> Result<()> {
        let below = i64::try_from(below).during("count messages")?;
        self.client.execute(ASIDE, &[&below]).await.during("set messages aside")?;
        self.client.execute(PARKED, &[]).await.during("park keys").map(drop)
    }

    /// Has all slots indexed but the one that is being filled, and brings the tables to rest.
    pub(super) async fn finish(self, count: u64) -> Result<()> {
        for number in 1..=self.slots {
            progress(format_args!("sweep {number}"));
            self.store.sweep().await.during("index the slots")?;
            let sql = "select count(*) from pg_indexes \
                       where schemaname = 'posthaste' and indexname like 'log%by_id'";
            let indexed: i64 =
                self.client.query_one(sql, &[]).await.during("count indexes")?.get(0);
            if indexed.unsigned_abs() >= count / u64::from(SLOT_SIZE) {
                break;
            }
        }
        progress(format_args!("vacuum"));
        self.client.batch_execute("vacuum analyze").await.during("vacuum")
    }
}
