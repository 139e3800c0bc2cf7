//! What subscriptions have set aside: parked keys, parked messages and dead letters.
//!
//! Every change is guarded by the lease row, as a settle is, and commits together with the place
//! it belongs to.

use std::{collections::BTreeSet, time::Duration};

use posthaste_core::{Epoch, MessageId, Page, Place, Ring, TickRef, Within};
use tokio_postgres::{
    Row, Transaction,
    types::{ToSql, Type},
};

use super::{
    PostgresStore,
    connect::bounded,
    errors,
    rows::{self, MESSAGE_COLUMNS},
    subscriptions::{self, Settlement},
};
use crate::{Aside, AsideState, DueMessages, FailedMessage, ParkedKey, Result, Settled};

type Failure = tokio_postgres::Error;

/// Columns of a failed message in the order [`failed`] reads them.
const FAILED_COLUMNS: &str = "position, id, tick, attempts, reason, \
     extract(epoch from due - clock_timestamp())::float8, holds_key";

/// Writes `changes`, and `place` with them.
pub(super) async fn set_aside(
    store: &PostgresStore,
    subscription: &str,
    epoch: Epoch,
    changes: &[Aside],
    place: Option<&Place>,
) -> Result<Settled> {
    let mut loan = store.shared.connections.lend().await?;
    let settlement = match place {
        Some(place) => Some(Settlement::new(store, &loan, subscription, epoch, place).await?),
        None => None,
    };
    let ring = store.geometry(&loan).await?.log;
    let limit = loan.operation_timeout();
    let work = async {
        let transaction = loan.begin_durably().await?;
        let changing = Changing { transaction, schema: store.schema().as_str(), ring };
        // FENCED: held until the commit, so that a takeover waits for all of it.
        let Some(id) = changing.hold(subscription, epoch).await? else { return Ok(None) };
        changing.park_keys(id, changes).await?;
        changing.set_messages_aside(id, changes).await?;
        changing.retried(id, changes).await?;
        for change in changes {
            match change {
                Aside::UnparkKey(key) => changing.unpark(id, key).await?,
                Aside::Published { position, id: message } => {
                    changing.published(id, *position, *message).await?;
                }
                Aside::Counted(calls) => changing.counted(id, *calls).await?,
                Aside::ParkKey(_) | Aside::Keep(_) | Aside::Retried(_) => {}
            }
        }
        let settled = match &settlement {
            Some(settlement) => settlement.run(&changing.transaction).await?,
            None => 1,
        };
        if settled == 1 {
            changing.transaction.commit().await?;
        }
        Ok(Some(settled))
    };
    match bounded(limit, "set messages aside", work).await? {
        None => Ok(Settled::Fenced),
        Some(1) => {
            loan.give_back();
            Ok(Settled::Recorded)
        }
        Some(_) => Err(subscriptions::rewound(store, subscription)),
    }
}

/// A transaction that changes what is set aside.
struct Changing<'t> {
    transaction: Transaction<'t>,
    schema: &'t str,
    /// The log's.
    ring: Ring,
}

impl Changing<'_> {
    /// The subscription's number if `epoch` is its lease's.
    async fn hold(&self, subscription: &str, epoch: Epoch) -> Result<Option<i32>, Failure> {
        let sql = format!(
            "select l.subscription from {0}.lease l where l.epoch = $2 and l.subscription = \
             (select id from {0}.subscription where name = $1) for share",
            self.schema
        );
        let params: &[(&(dyn ToSql + Sync), Type)] =
            &[(&subscription, Type::TEXT), (&epoch, Type::INT8)];
        let rows = self.transaction.query_typed(&sql, params).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    async fn park_keys(&self, id: i32, changes: &[Aside]) -> Result<(), Failure> {
        for change in changes {
            let Aside::ParkKey(parked) = change else { continue };
            let Place { base, within, .. } = parked.place;
            let (head, position) =
                within.map_or((base, 0), |within| (within.head, within.position));
            let sql = format!(
                "insert into {}.parked_key (subscription, key, base_tick, base_id, head_tick, \
                 head_id, position, message_id, attempts, reason, due) \
                 values ({id}, $1, $2, $3, $4, $5, $6, $7, $8, $9, \
                 clock_timestamp() + make_interval(secs => $10)) \
                 on conflict (subscription, key) do update set base_tick = excluded.base_tick, \
                 base_id = excluded.base_id, head_tick = excluded.head_tick, \
                 head_id = excluded.head_id, position = excluded.position, \
                 message_id = excluded.message_id, attempts = excluded.attempts, \
                 reason = excluded.reason, due = excluded.due",
                self.schema
            );
            let attempts = parked.attempts.cast_signed();
            let due = parked.retry_in.map(|wait| wait.as_secs_f64());
            let params: &[(&(dyn ToSql + Sync), Type)] = &[
                (&parked.key, Type::TEXT),
                (&base.n, Type::INT8),
                (&base.id, Type::UUID),
                (&head.n, Type::INT8),
                (&head.id, Type::UUID),
                (&position, Type::INT8),
                (&parked.message, Type::UUID),
                (&attempts, Type::INT4),
                (&parked.reason, Type::TEXT),
                (&due, Type::FLOAT8),
            ];
            self.transaction.execute_typed(&sql, params).await?;
        }
        Ok(())
    }

    async fn unpark(&self, id: i32, key: &str) -> Result<(), Failure> {
        let sql = format!(
            "delete from {}.parked_key where subscription = {id} and key = $1",
            self.schema
        );
        self.transaction.execute_typed(&sql, &[(&key, Type::TEXT)]).await?;
        Ok(())
    }

    /// Copies messages out of the log, all in one statement. A message that stands there already
    /// (its relay ended before the place had passed it) keeps its copy.
    async fn set_messages_aside(&self, id: i32, changes: &[Aside]) -> Result<(), Failure> {
        let failed: Vec<&FailedMessage> = changes
            .iter()
            .filter_map(|change| match change {
                Aside::Keep(failed) => Some(failed),
                _ => None,
            })
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        // By name: planning over all slots costs more than the copies.
        let slots: BTreeSet<i64> =
            failed.iter().map(|failed| self.ring.slot_of(failed.position)).collect();
        let slots: Vec<String> =
            slots.iter().map(|slot| format!("select * from {}.log_{slot}", self.schema)).collect();
        let sql = format!(
            "insert into {0}.failed_message (subscription, {MESSAGE_COLUMNS}, tick, attempts, \
             reason, due, holds_key) \
             select {id}, {columns}, f.tick, f.attempts, f.reason, \
             clock_timestamp() + make_interval(secs => f.due), f.holds_key \
             from unnest($1::bigint[], $2::uuid[], $3::int[], $4::text[], $5::float8[], \
             $6::boolean[], $7::bigint[]) f (at, message, attempts, reason, due, holds_key, tick) \
             join lateral (select * from ({slots}) l where position = f.at and id = f.message) l \
             on true \
             on conflict (subscription, position, id) do update set attempts = excluded.attempts, \
             reason = excluded.reason, due = excluded.due, holds_key = excluded.holds_key",
            self.schema,
            columns = MESSAGE_COLUMNS,
            slots = slots.join(" union all "),
        );
        self.execute_for(&sql, &failed).await
    }

    async fn retried(&self, id: i32, changes: &[Aside]) -> Result<(), Failure> {
        let failed: Vec<&FailedMessage> = changes
            .iter()
            .filter_map(|change| match change {
                Aside::Retried(failed) => Some(failed),
                _ => None,
            })
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "update {}.failed_message m set attempts = f.attempts, reason = f.reason, \
             due = clock_timestamp() + make_interval(secs => f.due), holds_key = f.holds_key \
             from unnest($1::bigint[], $2::uuid[], $3::int[], $4::text[], $5::float8[], \
             $6::boolean[], $7::bigint[]) f (at, message, attempts, reason, due, holds_key, tick) \
             where m.subscription = {id} and m.position = f.at and m.id = f.message",
            self.schema
        );
        self.execute_for(&sql, &failed).await
    }

    async fn execute_for(&self, sql: &str, failed: &[&FailedMessage]) -> Result<(), Failure> {
        let positions: Vec<i64> = failed.iter().map(|failed| failed.position).collect();
        let ids: Vec<MessageId> = failed.iter().map(|failed| failed.id).collect();
        let attempts: Vec<i32> =
            failed.iter().map(|failed| failed.attempts.cast_signed()).collect();
        let reasons: Vec<&str> = failed.iter().map(|failed| failed.reason.as_str()).collect();
        let due: Vec<Option<f64>> =
            failed.iter().map(|failed| failed.retry_in.map(|wait| wait.as_secs_f64())).collect();
        let holds: Vec<bool> = failed.iter().map(|failed| failed.holds_key).collect();
        let ticks: Vec<i64> = failed.iter().map(|failed| failed.tick).collect();
        let params: &[(&(dyn ToSql + Sync), Type)] = &[
            (&positions, Type::INT8_ARRAY),
            (&ids, Type::UUID_ARRAY),
            (&attempts, Type::INT4_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
            (&due, Type::FLOAT8_ARRAY),
            (&holds, Type::BOOL_ARRAY),
            (&ticks, Type::INT8_ARRAY),
        ];
        self.transaction.execute_typed(sql, params).await?;
        Ok(())
    }

    async fn published(&self, id: i32, position: i64, message: MessageId) -> Result<(), Failure> {
        let sql = format!(
            "with gone as (delete from {}.failed_message where subscription = {id} \
             and position = $1 and id = $2 returning *), {} select from gone",
            self.schema,
            release_sql(self.schema, "gone")
        );
        let params: &[(&(dyn ToSql + Sync), Type)] =
            &[(&position, Type::INT8), (&message, Type::UUID)];
        self.transaction.execute_typed(&sql, params).await?;
        Ok(())
    }

    async fn counted(&self, id: i32, calls: i64) -> Result<(), Failure> {
        let sql =
            format!("update {}.lease set retry_calls = $1 where subscription = {id}", self.schema);
        self.transaction.execute_typed(&sql, &[(&calls, Type::INT8)]).await?;
        Ok(())
    }
}

/// The part of a statement that makes keys due which waited for the deleted messages `gone`.
pub(super) fn release_sql(schema: &str, gone: &str) -> String {
    format!(
        "due as (update {schema}.parked_key k set position = {gone}.position, attempts = 0, \
         due = clock_timestamp() from {gone} where {gone}.holds_key \
         and k.subscription = {gone}.subscription and k.key = {gone}.key \
         and k.message_id = {gone}.id)"
    )
}

/// All that a subscription has set aside.
pub(super) async fn aside(store: &PostgresStore, subscription: &str) -> Result<AsideState> {
    let loan = store.shared.connections.lend().await?;
    let schema = store.schema();
    let name: &[(&(dyn ToSql + Sync), Type)] = &[(&subscription, Type::TEXT)];
    let of = format!("subscription = (select id from {schema}.subscription where name = $1)");
    let keys = format!(
        "select key, base_tick, base_id, head_tick, head_id, position, message_id, attempts, \
         reason, extract(epoch from due - clock_timestamp())::float8, \
         extract(epoch from clock_timestamp() - parked_at)::float8 \
         from {schema}.parked_key where {of}"
    );
    let keys = loan.bounded("read the parked keys", loan.client().query_typed(&keys, name)).await?;
    let messages = format!("select {FAILED_COLUMNS} from {schema}.failed_message where {of}");
    let doing = "read the failed messages";
    let messages = loan.bounded(doing, loan.client().query_typed(&messages, name)).await?;
    let of_all = format!(
        "select s.paused_at is not null, l.retry_calls from {schema}.subscription s \
         join {schema}.lease l on l.subscription = s.id where s.name = $1"
    );
    let of_all = loan.bounded(doing, loan.client().query_typed(&of_all, name)).await?;
    loan.give_back();
    Ok(AsideState {
        is_paused: of_all.first().is_some_and(|row| row.get(0)),
        retry_calls: of_all.first().map_or(0, |row| row.get(1)),
        keys: keys.iter().map(parked).collect(),
        messages: messages.iter().map(|row| failed(row, 0)).collect(),
    })
}

/// Messages whose next attempt is due.
pub(super) async fn due_messages(
    store: &PostgresStore,
    subscription: &str,
    limit: u32,
) -> Result<DueMessages> {
    let loan = store.shared.connections.lend().await?;
    let schema = store.schema();
    let sql = format!(
        "select {MESSAGE_COLUMNS}, {FAILED_COLUMNS} from (select * from {schema}.failed_message \
         where subscription = (select id from {schema}.subscription where name = $1) \
         and due <= clock_timestamp() order by due limit {limit}) f order by position, id"
    );
    let name: &[(&(dyn ToSql + Sync), Type)] = &[(&subscription, Type::TEXT)];
    let doing = "read the due messages";
    let rows = loan.bounded(doing, loan.client().query_typed(&sql, name)).await?;
    loan.give_back();
    let mut page = Page::default();
    for row in &rows {
        page.push(&rows::message(row).map_err(|error| errors::classify(doing, error))?);
    }
    // The message's columns stand before.
    Ok(DueMessages { page, failures: rows.iter().map(|row| failed(row, 9)).collect() })
}

fn parked(row: &Row) -> ParkedKey {
    let tick = |at| TickRef { n: row.get(at), id: row.get(at + 1) };
    let (base, within) = (tick(1), Within { head: tick(3), position: row.get(5) });
    ParkedKey {
        key: row.get(0),
        place: Place { within: (within.head != base).then_some(within), ..Place::at(base) },
        message: row.get(6),
        attempts: row.get::<_, i32>(7).cast_unsigned(),
        reason: row.get(8),
        retry_in: row.get::<_, Option<f64>>(9).map(seconds),
        parked_for: seconds(row.get(10)),
    }
}

/// A failed message from the columns at `at`.
fn failed(row: &Row, at: usize) -> FailedMessage {
    FailedMessage {
        position: row.get(at),
        id: row.get(at + 1),
        tick: row.get(at + 2),
        attempts: row.get::<_, i32>(at + 3).cast_unsigned(),
        reason: row.get(at + 4),
        retry_in: row.get::<_, Option<f64>>(at + 5).map(seconds),
        holds_key: row.get(at + 6),
    }
}

/// A wait; one that is over has no length.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
