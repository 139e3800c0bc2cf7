//! Scheduled messages: moved into the log once they are due.
//!
//! One relay moves at a time. Others find the lock taken and leave it to that one: two moves side
//! by side could commit the messages of one key in the wrong order.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::{PostgresStore, connect};
use crate::{Moved, Result};

/// Lock space of the moves ("PHSM"); the second number tells schemas apart.
const LOCK_SPACE: i32 = 0x5048_534d;

/// What a look found.
struct Waiting {
    is_due: bool,
    /// Until the first message that is not due yet.
    next_in: Option<Duration>,
}

/// Moves due messages, at most `limit`, in the order in which they are due.
pub(super) async fn move_due(store: &PostgresStore, limit: u32) -> Result<Moved> {
    let Waiting { is_due, next_in } = look(store).await?;
    if !is_due {
        return Ok(Moved { count: 0, next_in });
    }
    let count = move_chunk(store, limit).await?;
    let next_in = if count == u64::from(limit) { Some(Duration::ZERO) } else { next_in };
    Ok(Moved { count, next_in })
}

/// Two probes of (`deliver_at`, n), without a transaction id.
async fn look(store: &PostgresStore) -> Result<Waiting> {
    // `statement_timestamp` and not `clock_timestamp`, which no index can serve.
    let sql = format!(
        "select exists (select from {0}.scheduled where deliver_at <= statement_timestamp()), \
         extract(epoch from (select min(deliver_at) from {0}.scheduled \
         where deliver_at > statement_timestamp()) - statement_timestamp())::float8",
        store.schema()
    );
    let loan = store.shared.connections.lend().await?;
    let look = loan.client().query_typed(&sql, &[]);
    let rows = loan.bounded("look for due messages", look).await?;
    loan.give_back();
    Ok(rows.first().map_or(Waiting { is_due: false, next_in: None }, |row| Waiting {
        is_due: row.get(0),
        next_in: row.get::<_, Option<f64>>(1).map(seconds),
    }))
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// One transaction: a message is among the scheduled ones or in the log at any moment.
async fn move_chunk(store: &PostgresStore, limit: u32) -> Result<u64> {
    let schema = store.schema();
    // An earlier statement than the one that moves, whose snapshot then shows what the holder
    // before has moved.
    let lock = format!(
        "select pg_try_advisory_xact_lock({LOCK_SPACE}, hashtext('{schema}')), \
         exists (select from {schema}.strict_topic)"
    );
    let lock_keys = format!("select {schema}.lock_due_keys({limit})");
    let columns = "id, topic, key, payload, content_type, headers, correlation_id";
    // A range of (deliver_at, n) from its start, then rows by their primary key. `skip locked`
    // passes by messages that are being cancelled: an application may take its time to commit.
    let sql = |which: &str| {
        format!(
            "with moved as (delete from {schema}.scheduled where n = any (array(\
             select n from {schema}.scheduled where deliver_at <= statement_timestamp() {which} \
             order by deliver_at, n limit {limit} for update skip locked)) returning *), \
             written as (insert into {schema}.log ({columns}) select {columns} from moved \
             order by deliver_at, n returning id, position) \
             select {schema}.note_moved_job(id, position) from written"
        )
    };
    // On strict topics only the keys that are locked: the log refuses the others.
    let (all, locked) = (
        sql(""),
        sql(&format!(
            "and (key is null or not {schema}.is_strict(topic) \
             or {schema}.key_lock(key) = any ($1::int4[]))"
        )),
    );
    let mut loan = store.shared.connections.lend().await?;
    let bound = loan.operation_timeout();
    let work = async {
        let transaction = loan.begin().await?;
        let rows = transaction.query_typed(&lock, &[]).await?;
        let found = rows.first().map(|row| (row.get(0), row.get(1)));
        let count = match found {
            Some((true, false)) => transaction.execute_typed(&all, &[]).await?,
            Some((true, true)) => {
                let rows = transaction.query_typed(&lock_keys, &[]).await?;
                let locks: Vec<i32> = rows.first().map_or_else(Vec::new, |row| row.get(0));
                transaction.execute_typed(&locked, &[(&locks, Type::INT4_ARRAY)]).await?
            }
            _ => 0,
        };
        transaction.commit().await?;
        Ok(count)
    };
    let count = connect::bounded(bound, "move due messages", work).await?;
    loan.give_back();
    Ok(count)
}
