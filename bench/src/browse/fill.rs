//! A large log with a history: topics, keys and ids that are common, rare and gathered in bursts; subscriptions at the
//! end, in the middle and at the beginning; some of it parked and dead.

use posthaste_core::{Place, TopicFilter};
use posthaste_store::{
    Acquired, RingSizes, Start, Store, SubscriptionSpec,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::failure::{During, Failure, Result};
use std::{sync::Arc, time::Duration};

use crate::{
    progress,
    servers::{Log, Servers, connect},
};

/// Messages of the log.
pub(super) const MESSAGES: u64 = 10_000_000;
/// Positions of a slot.
const SLOT_SIZE: u32 = 262_144;
/// Messages of one statement.
const CHUNK: u64 = 250_000;
/// Milliseconds between two messages: ten million take 28 hours.
pub(super) const SPACING_MS: u64 = 10;
/// When the first of them was written, in seconds.
pub(super) const BEGINS: u64 = 1_700_000_000;
const LEASE: Duration = Duration::from_hours(1);

/// Subscriptions, and how much of the log they have published, in percent. Relays that are at the end are a second
/// behind.
const SUBSCRIPTIONS: [(&str, &str, u64); 4] = [
    ("everything", "*", 99),
    ("orders", "orders.*", 50),
    ("mail", "mail.*", 99),
    ("rare", "rare.*", 10),
];

/// A chunk of messages, numbered from `$1` to `$2`.
const INSERT: &str = "insert into posthaste.log (id, topic, key, payload, content_type, headers, correlation_id, \
                      enqueued_at) \
    select encode(overlay(uuid_send(gen_random_uuid()) placing \
             substring(int8send($3::int8 * 1000 + n * $4) from 3) from 1 for 6), 'hex')::uuid, \
           case when n % 500000 = 17 then 'rare.one' when n % 250000 < 8000 then 'burst.job' \
                when n % 100 < 60 then 'orders.created' when n % 100 < 85 then 'orders.' || n % 20 \
                when n % 100 < 99 then 'mail.sent' else 'audit.' || n % 3000 end, \
           case when n % 20 = 3 then 'hot' when n % 1000000 = 77 then 'rare' when n % 10 = 9 then null \
                else 'key-' || (n * 7919) % 100000 end, \
           decode(repeat(md5(n::text), 6), 'hex') || decode(repeat(md5((n + 1)::text), 6), 'hex'), \
           'application/octet-stream', \
           array['tenant', 't' || n % 1000, 'common', 'yes'], \
           case when n % 10 < 9 then 'c-' || n / 10 end, \
           to_timestamp($3) + n * $4 * interval '1 millisecond' \
      from generate_series($1::int8, $2::int8) n";

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

pub(super) async fn log(servers: &Servers, count: u64) -> Result<Log> {
    let slots = u32::try_from(count.div_ceil(u64::from(SLOT_SIZE))).during("count the slots")? + 2;
    let rings = RingSizes { slots: slots.max(32), slot_size: SLOT_SIZE };
    let Log { url, .. } = servers.log_with(rings).await?;
    // What is settled stays, whatever its age.
    let retention = Duration::from_hours(24 * 365 * 100);
    let options = PostgresOptions { retention, rings, ..PostgresOptions::default() };
    let store = PostgresStore::connect(&url, &options).during("open the store")?;
    let log = Log { url, store: Arc::new(store) };
    let specs = SUBSCRIPTIONS.map(|(name, pattern, _)| SubscriptionSpec {
        name: name.to_owned(),
        filter: TopicFilter::new(&[pattern]).unwrap_or_else(|_| TopicFilter::all()),
        start: Start::Beginning,
    });
    log.store.reconcile(&specs).await.during("create subscriptions")?;
    let mut written = 0;
    let mut percents: Vec<u64> = SUBSCRIPTIONS.iter().map(|(.., percent)| *percent).collect();
    percents.sort_unstable();
    percents.dedup();
    for percent in percents.into_iter().chain([100]) {
        write(&log, &mut written, count * percent / 100).await?;
        for (name, _, _) in SUBSCRIPTIONS.iter().filter(|(.., until)| *until >= percent) {
            settle(&*log.store, name).await?;
        }
    }
    let client = connect(&log.url).await?;
    let until = i64::try_from(count * 99 / 100).during("count messages")?;
    client.execute(ASIDE, &[&until]).await.during("set messages aside")?;
    client.execute(PARKED, &[]).await.during("park keys")?;
    for number in 1..=slots {
        progress(format_args!("sweep {number}"));
        log.store.sweep().await.during("index the slots")?;
        let sql = "select count(*) from pg_indexes where schemaname = 'posthaste' and indexname like 'log%by_id'";
        let indexed: i64 = client.query_one(sql, &[]).await.during("count indexes")?.get(0);
        // All but the one that is being filled.
        if indexed.unsigned_abs() >= count / u64::from(SLOT_SIZE) {
            break;
        }
    }
    progress(format_args!("vacuum"));
    client.batch_execute("vacuum analyze").await.during("vacuum")?;
    Ok(log)
}

async fn write(log: &Log, written: &mut u64, until: u64) -> Result<()> {
    let client = connect(&log.url).await?;
    let number = |n: u64| i64::try_from(n).during("count messages");
    while *written < until {
        let last = (*written + CHUNK).min(until);
        let (from, to) = (number(*written + 1)?, number(last)?);
        let sql = INSERT.replace("$3", &BEGINS.to_string()).replace("$4", &SPACING_MS.to_string());
        client.execute(&sql, &[&from, &to]).await.during("write messages")?;
        *written = last;
        progress(format_args!("{last} messages written"));
    }
    Ok(())
}

/// Takes a tick and settles the subscription there.
async fn settle(store: &dyn Store, name: &str) -> Result<()> {
    let mut ticker = store.ticker();
    let mut tick = ticker.advance().await.during("tick")?.tick;
    for _ in 0..3 {
        tick = ticker.advance().await.during("tick")?.tick;
    }
    match store.acquire(name, "bench", LEASE).await.during("take a subscription")? {
        Acquired::Taken(epoch, _) => {
            store.settle(name, epoch, &Place::at(tick)).await.during("settle")?;
            store.release(name, epoch).await.during("release a subscription")
        }
        Acquired::Held { .. } => Err(Failure::new("a relay holds the subscription")),
    }
}
