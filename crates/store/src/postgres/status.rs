//! What people ask: counts, places, backlog and lag, and the newest messages.

use std::fmt::Write as _;

use posthaste_core::{MessageRef, Position, Timestamp, TopicFilter};
use tokio_postgres::Row;

use super::{
    PostgresStore,
    connect::Loan,
    errors, retention,
    rows::{self, MESSAGE_COLUMNS, Micros},
    subscriptions,
};
use crate::{LogSize, Progress, Result, SlotCounts, Status, StoredMessage, SubscriptionStatus};

/// Reads the state of the source.
pub(super) async fn status(store: &PostgresStore) -> Result<Status> {
    let loan = store.shared.connections.lend().await?;
    let schema = store.schema();
    let tick = store.newest_tick(&loan).await?.at;
    let totals = format!(
        "select (select count(*) from {schema}.log), \
         case when is_called then last_value else 0 end from {schema}.log_position_seq"
    );
    let rows = loan.bounded("count messages", loan.client().query_typed(&totals, &[])).await?;
    let (messages, head): (i64, i64) = rows.first().map_or((0, 0), |row| (row.get(0), row.get(1)));
    let slots = slot_counts(store, &loan, head).await?;
    let size = log_size(store, &loan, head, slots).await?;
    let dead_tuples = Some(dead_tuples(store, &loan).await?);
    let subscriptions = subscription_states(store, &loan).await?;
    loan.give_back();
    let (messages, slots) = (messages as u64, Some(slots));
    Ok(Status { head, tick, messages, size, slots, dead_tuples, subscriptions })
}

/// The room that the log takes and, where that is too much, why.
async fn log_size(
    store: &PostgresStore,
    loan: &Loan,
    head: Position,
    slots: SlotCounts,
) -> Result<LogSize> {
    let ring = store.geometry(loan).await?.log;
    let mut size = retention::size(store, loan, ring).await?;
    if size.over() > 0 || slots.shared > 0 {
        let needs = retention::needs(store, loan).await?;
        let is_over = size.over() > 0;
        size.pin = retention::pin(store, loan, ring, head, needs.as_ref(), is_over).await?;
    }
    Ok(size)
}

/// Which slots hold a message, and which one of an earlier lap as well: one probe of the unique
/// index on position for each question.
async fn slot_counts(store: &PostgresStore, loan: &Loan, head: Position) -> Result<SlotCounts> {
    let ring = store.geometry(loan).await?.log;
    let mut counts = SlotCounts { total: ring.slots as u32, ..SlotCounts::default() };
    let mut sql = String::new();
    for slot in 0..ring.slots {
        let Some(stretch) = ring.newest_stretch_in(slot, head) else { continue };
        let (union, schema) = (if sql.is_empty() { "" } else { " union all " }, store.schema());
        let _ = write!(
            sql,
            "{union}select exists (select from {schema}.log_{slot}), \
             exists (select from {schema}.log_{slot} where position < {})",
            ring.start_of(stretch)
        );
    }
    if sql.is_empty() {
        return Ok(counts);
    }
    for row in uncompiled(loan, "look at the slots", &sql).await? {
        counts.used += u32::from(row.get::<_, bool>(0));
        counts.shared += u32::from(row.get::<_, bool>(1));
    }
    Ok(counts)
}

/// What the statistics say of all slots; they follow the tables within seconds.
async fn dead_tuples(store: &PostgresStore, loan: &Loan) -> Result<u64> {
    let sql = format!(
        "select coalesce(sum(s.n_dead_tup), 0)::bigint from pg_stat_user_tables s \
         join pg_inherits i on i.inhrelid = s.relid where i.inhparent = '{}.log'::regclass",
        store.schema()
    );
    let rows = loan.bounded("count dead tuples", loan.client().query_typed(&sql, &[])).await?;
    Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0) as u64))
}

async fn subscription_states(
    store: &PostgresStore,
    loan: &Loan,
) -> Result<Vec<SubscriptionStatus>> {
    // `xid >= xmin` of the base snapshot is what (xid, position) serves; nothing that is pending
    // lies below it.
    let sql = format!(
        "select base_tick, base_id, head_tick, head_id, position, message_id, null::bigint, \
         p.settled_at, p.subscription, p.topics, p.prefixes, p.epoch, \
         (select case when l.expires_at > clock_timestamp() then l.holder end \
         from {schema}.lease l where l.subscription = p.subscription_id), \
         w.backlog, coalesce(w.lag, 0)::bigint, \
         k.parked, f.parked, f.dead, \
         (select paused_at is not null from {schema}.subscription where id = p.subscription_id), \
         coalesce(extract(epoch from clock_timestamp() - least(k.oldest, f.oldest)) * 1000000, 0)::bigint \
         from {schema}.place p cross join lateral (\
           select count(*) as backlog, \
                  extract(epoch from clock_timestamp() - min(l.enqueued_at)) * 1000000 as lag \
             from {schema}.log l \
            where l.xid >= pg_snapshot_xmin(p.base_snapshot) \
              and not pg_visible_in_snapshot(l.xid, p.base_snapshot) \
              and not pg_visible_in_snapshot(l.xid, p.start_snapshot) \
              and not (p.head_snapshot is not null and l.position <= p.position \
                       and pg_visible_in_snapshot(l.xid, p.head_snapshot)) \
              and (l.topic = any (p.topics) or l.topic ^@ any (p.prefixes))) w \
         cross join lateral (\
           select count(*) as parked, min(parked_at) filter (where due is not null) as oldest \
             from {schema}.parked_key k where k.subscription = p.subscription_id) k \
         cross join lateral (\
           select count(due) as parked, count(*) - count(due) as dead, \
                  min(failed_at) filter (where due is not null and reason <> 'replay') as oldest \
             from {schema}.failed_message f where f.subscription = p.subscription_id) f \
         order by p.subscription",
        schema = store.schema()
    );
    let rows = uncompiled(loan, "read the subscriptions", &sql).await?;
    Ok(rows.iter().map(subscription_state).collect())
}

/// Runs a query over all slots without just-in-time compilation. The planner takes a log that was
/// never analysed for a dear one and would compile an expression per slot: measured 8 s of
/// compiling for 2 ms of work.
pub(super) async fn uncompiled(loan: &Loan, doing: &str, sql: &str) -> Result<Vec<Row>> {
    let begin =
        format!("begin isolation level read committed; set local jit = off; {}", loan.idle_limit());
    loan.bounded(doing, loan.client().simple_query(&begin)).await?;
    let rows = loan.bounded(doing, loan.client().query_typed(sql, &[])).await?;
    loan.bounded(doing, loan.client().simple_query("commit")).await?;
    Ok(rows)
}

fn subscription_state(row: &Row) -> SubscriptionStatus {
    SubscriptionStatus {
        progress: Progress {
            place: subscriptions::place(row),
            at: row.get::<_, Option<Micros>>(7).map(|micros| Timestamp(micros.0)),
        },
        name: row.get(8),
        filter: TopicFilter::from_parts(row.get(9), row.get(10)),
        epoch: row.get(11),
        holder: row.get(12),
        backlog: row.get::<_, i64>(13) as u64,
        lag_micros: row.get::<_, i64>(14).max(0),
        parked_keys: row.get::<_, i64>(15) as u64,
        parked_messages: row.get::<_, i64>(16) as u64,
        dead_letters: row.get::<_, i64>(17) as u64,
        is_paused: row.get(18),
        aside_micros: row.get::<_, i64>(19).max(0),
    }
}

/// The newest messages, or those above a position.
pub(super) async fn recent(
    store: &PostgresStore,
    after: Option<i64>,
    limit: u32,
) -> Result<Vec<StoredMessage>> {
    let (range, order) = match after {
        Some(after) => (format!("where position > {after}"), "asc"),
        None => (String::new(), "desc"),
    };
    let sql = format!(
        "select {MESSAGE_COLUMNS}, published_at from {}.outbox {range} \
         order by position {order} limit {limit}",
        store.schema()
    );
    let loan = store.shared.connections.lend().await?;
    let rows = uncompiled(&loan, "read messages", &sql).await?;
    loan.give_back();
    let mut messages = rows.iter().map(stored).collect::<Result<Vec<_>>>()?;
    messages.sort_unstable_by_key(|message| message.position);
    Ok(messages)
}

fn stored(row: &Row) -> Result<StoredMessage> {
    let message = rows::message(row).map_err(|error| errors::classify("read a message", error))?;
    let published_at = row.get::<_, Option<Micros>>(9).map(|micros| Timestamp(micros.0));
    Ok(owned(&message, published_at))
}

/// A message that outlives its row.
pub(super) fn owned(message: &MessageRef<'_>, published_at: Option<Timestamp>) -> StoredMessage {
    let pairs = message.headers.iter();
    StoredMessage {
        position: message.position,
        id: message.id,
        topic: message.topic.to_owned(),
        key: message.key.map(str::to_owned),
        payload: message.payload.to_vec(),
        content_type: message.content_type.to_owned(),
        headers: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        correlation_id: message.correlation_id.map(str::to_owned),
        enqueued_at: message.enqueued_at,
        published_at,
    }
}
