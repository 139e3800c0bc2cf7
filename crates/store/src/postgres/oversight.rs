//! What people look into. Every statement has a bound of its own.

use async_trait::async_trait;
use posthaste_core::{Timestamp, reason::GROUP_CHARS_MAX};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    PostgresStore,
    operations::selection::{Params, dead_letters_sql},
    rows::Micros,
};
use crate::{
    AuditEntry, AuditFilter, CENSUS_MAX, Census, DeadLetterFilter, DeadLetterGroup,
    DeadLetterGroups, DeadLetterPlace, DeadLetterRow, EntityCensus, FLEET_MAX, GROUPED_MAX,
    HeldLease, Order, Oversight, RelayStatus, Result, WorkerStatus,
};

type Values<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// Numbers and ids in a reason: of the same opinion as [`posthaste_core::reason::group`].
const NUMBERS: &str = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{8,}|\
                       [0-9][0-9a-fA-F]*";

/// The group of the reason of `m`.
fn group_sql() -> String {
    format!("regexp_replace(left(m.reason, {GROUP_CHARS_MAX}), '{NUMBERS}', '#', 'g')")
}

/// The dead letters of a filter, as the table expression `m` with `s`. `$1` to `$9`.
pub(super) fn filtered_sql(schema: impl std::fmt::Display) -> String {
    let dead = dead_letters_sql(schema);
    // What stands before the first number is the same in all of a group, and much cheaper to look at.
    format!(
        "{dead} and case when $9::text is null then true \
         when m.reason ^@ split_part($9, '#', 1) then {} = $9 else false end",
        group_sql()
    )
}

/// The time that is the parameter `$n`, in microseconds.
pub(super) fn time_sql(n: usize) -> String {
    format!("('epoch'::timestamptz + ${n}::int8 * interval '1 microsecond')")
}

/// The columns of a dead letter's place, in the order of pages.
pub(super) const PLACE: &str = "m.failed_at, m.subscription, m.position, m.id";

#[async_trait]
impl Oversight for PostgresStore {
    async fn dead_letter_page(
        &self,
        which: &DeadLetterFilter,
        order: Order,
        after: Option<&DeadLetterPlace>,
        limit: u32,
    ) -> Result<Vec<DeadLetterRow>> {
        let (than, towards) = match order {
            Order::NewestFirst => ("<", "desc"),
            Order::OldestFirst => (">", "asc"),
        };
        // Without a place the comparison is left out: a parameter that may be null would keep the index from being
        // entered in its middle.
        let behind = match after {
            Some(_) => format!("and ({PLACE}) {than} ({}, $11, $12, $13)", time_sql(10)),
            None => "and $10::int8 is not null and $11::int4 is not null \
                     and $12::int8 is not null and $13::uuid is not null"
                .to_owned(),
        };
        let ordered = PLACE.replace(',', &format!(" {towards},"));
        let sql = format!(
            "select {PLACE}, s.name, m.topic, m.key, m.content_type, m.correlation_id, \
             octet_length(m.payload), m.enqueued_at, m.attempts, m.reason, m.holds_key \
             from {} {behind} order by {ordered} {towards} limit {limit}",
            filtered_sql(self.schema())
        );
        let place = after.copied().unwrap_or_default();
        let subscription = i32::try_from(place.subscription).unwrap_or(i32::MAX);
        let rest: Values<'_> = &[
            (&which.group, Type::TEXT),
            (&place.failed_at.0, Type::INT8),
            (&subscription, Type::INT4),
            (&place.position, Type::INT8),
            (&place.id, Type::UUID),
        ];
        let params = Params::new(&which.which);
        let rows = self.rows("read the dead letters", &sql, &params.with(rest)).await?;
        Ok(rows.iter().map(dead_letter).collect())
    }

    async fn count_dead_letters(&self, which: &DeadLetterFilter) -> Result<u64> {
        let sql = format!("select count(*) from {}", filtered_sql(self.schema()));
        let params = Params::new(&which.which);
        let rest: Values<'_> = &[(&which.group, Type::TEXT)];
        let rows = self.rows("count the dead letters", &sql, &params.with(rest)).await?;
        Ok(rows.first().map_or(0, |row| count(row, 0)))
    }

    async fn dead_letter_groups(
        &self,
        which: &DeadLetterFilter,
        limit: u32,
    ) -> Result<DeadLetterGroups> {
        let sql = format!(
            "with looked as materialized (select s.name, {} as reason, m.failed_at, m.id \
             from {} order by m.failed_at desc, m.subscription desc, m.position desc, m.id desc \
             limit {GROUPED_MAX}), \
             grouped as materialized (select name, reason, count(*) as n, min(failed_at) as first, \
             max(failed_at) as last, (array_agg(id order by failed_at desc, id desc))[1] as example \
             from looked group by name, reason) \
             select name, reason, n, first, last, example, (select count(*) from grouped), \
             (select count(*) from looked) from grouped \
             order by n desc, name collate \"C\", reason collate \"C\" limit {limit}",
            group_sql(),
            filtered_sql(self.schema())
        );
        let params = Params::new(&which.which);
        let rest: Values<'_> = &[(&which.group, Type::TEXT)];
        let rows = self.rows("group the dead letters", &sql, &params.with(rest)).await?;
        let group = |row: &Row| DeadLetterGroup {
            subscription: row.get(0),
            reason: row.get(1),
            count: count(row, 2),
            first: time(row, 3),
            last: time(row, 4),
            example: row.get(5),
        };
        Ok(DeadLetterGroups {
            groups: rows.iter().map(group).collect(),
            groups_total: rows.first().map_or(0, |row| count(row, 6)),
            looked_at: rows.first().map_or(0, |row| count(row, 7)),
        })
    }

    async fn audit(&self, which: &AuditFilter, limit: u32) -> Result<Vec<AuditEntry>> {
        let sql = format!(
            "select n, at, actor, action, subscription, detail::text from {}.audit \
             where ($1::text is null or actor = $1) and ($2::text is null or action = $2) \
             and ($3::text is null or subscription = $3) \
             and ($4::int8 is null or at >= {}) and ($5::int8 is null or at < {}) \
             and n < $6 order by n desc limit {limit}",
            self.schema(),
            time_sql(4),
            time_sql(5)
        );
        let micros = |time: Option<Timestamp>| time.map(|Timestamp(at)| at);
        let (since, until) = (micros(which.since), micros(which.until));
        let before = which.before.unwrap_or(i64::MAX);
        let params: Values<'_> = &[
            (&which.actor, Type::TEXT),
            (&which.action, Type::TEXT),
            (&which.subscription, Type::TEXT),
            (&since, Type::INT8),
            (&until, Type::INT8),
            (&before, Type::INT8),
        ];
        let rows = self.rows("read the audit trail", &sql, params).await?;
        let entry = |row: &Row| AuditEntry {
            n: row.get(0),
            at: time(row, 1),
            actor: row.get(2),
            action: row.get(3),
            subscription: row.get(4),
            detail: row.get(5),
        };
        Ok(rows.iter().map(entry).collect())
    }

    async fn relays(&self) -> Result<Vec<RelayStatus>> {
        let schema = self.schema();
        // One row for each lease of a relay, and one for a relay without any. A holder that has not said that it is
        // alive is told of as well.
        let sql = format!(
            "select coalesce(r.holder, l.holder), r.version, r.started_at, r.seen_at, \
             (extract(epoch from clock_timestamp() - r.seen_at) * 1000000)::int8, \
             coalesce(r.subscriptions, '{{}}'), s.name, l.epoch, l.acquired_at, l.expires_at \
             from (select * from {schema}.relay order by seen_at desc limit {FLEET_MAX}) r \
             full join (select * from {schema}.lease where expires_at > clock_timestamp()) l \
             on l.holder = r.holder left join {schema}.subscription s on s.id = l.subscription \
             order by 1, s.name"
        );
        let rows = self.rows("read the relays", &sql, &[]).await?;
        let mut relays: Vec<RelayStatus> = Vec::new();
        for row in &rows {
            let holder: &str = row.get(0);
            if relays.last().is_none_or(|last| last.holder != holder) {
                relays.push(relay(row));
            }
            if let (Some(relay), Some(subscription)) = (relays.last_mut(), row.get(6)) {
                relay.holds.push(HeldLease {
                    subscription,
                    epoch: row.get(7),
                    since: maybe_time(row, 8),
                    until: time(row, 9),
                });
            }
        }
        Ok(relays)
    }

    async fn workers(&self) -> Result<Vec<WorkerStatus>> {
        let schema = self.schema();
        // The index on workers of jobs serves the count.
        let sql = format!(
            "select w.id, w.name, w.topics, w.sources, w.version, w.started_at, w.seen_at, \
             case when w.lease_until > 'epoch' then w.lease_until end, \
             w.lease_until > clock_timestamp(), \
             (select count(*) from {schema}.job j where j.worker = w.id) \
             from {schema}.worker w order by w.name, w.id limit {FLEET_MAX}"
        );
        let rows = self.rows("read the workers", &sql, &[]).await?;
        let worker = |row: &Row| WorkerStatus {
            id: row.get(0),
            name: row.get(1),
            topics: row.get(2),
            sources: row.get(3),
            version: row.get(4),
            started_at: time(row, 5),
            seen_at: time(row, 6),
            lease_until: maybe_time(row, 7),
            is_alive: row.get(8),
            running: count(row, 9),
        };
        Ok(rows.iter().map(worker).collect())
    }

    async fn census(&self) -> Result<Census> {
        let (schema, doing) = (self.schema(), "count jobs, entities and commands");
        let jobs = format!(
            "select state, count(*) from {schema}.job group by state order by state collate \"C\""
        );
        let jobs = self.rows(doing, &jobs, &[]).await?;
        let entities = format!(
            "select machine, state, count(*), sum(version)::int8 from {schema}.entity \
             group by machine, state order by machine collate \"C\", state collate \"C\" \
             limit {CENSUS_MAX}"
        );
        let entities = self.rows(doing, &entities, &[]).await?;
        let commands = format!(
            "select count(completed_at), count(*) - count(completed_at) from {schema}.command"
        );
        let commands = self.rows(doing, &commands, &[]).await?;
        let commands = commands.first().map(|row| (count(row, 0), count(row, 1)));
        let (commands_completed, commands_in_progress) = commands.unwrap_or_default();
        let entity = |row: &Row| EntityCensus {
            machine: row.get(0),
            state: row.get(1),
            entities: count(row, 2),
            steps: count(row, 3),
        };
        Ok(Census {
            jobs: jobs.iter().map(|row| (row.get(0), count(row, 1))).collect(),
            entities: entities.iter().map(entity).collect(),
            commands_completed,
            commands_in_progress,
        })
    }
}

fn dead_letter(row: &Row) -> DeadLetterRow {
    DeadLetterRow {
        place: DeadLetterPlace {
            failed_at: time(row, 0),
            subscription: row.get::<_, i32>(1).into(),
            position: row.get(2),
            id: row.get(3),
        },
        subscription: row.get(4),
        topic: row.get(5),
        key: row.get(6),
        content_type: row.get(7),
        correlation_id: row.get(8),
        payload_bytes: u64::from(row.get::<_, i32>(9).unsigned_abs()),
        enqueued_at: time(row, 10),
        attempts: row.get::<_, i32>(11).cast_unsigned(),
        reason: row.get(12),
        holds_key: row.get(13),
    }
}

fn relay(row: &Row) -> RelayStatus {
    RelayStatus {
        holder: row.get(0),
        version: row.get(1),
        started_at: maybe_time(row, 2),
        seen_at: maybe_time(row, 3),
        silent_micros: row.get(4),
        subscriptions: row.get(5),
        holds: Vec::new(),
    }
}

fn count(row: &Row, at: usize) -> u64 {
    row.get::<_, i64>(at).unsigned_abs()
}

pub(super) fn time(row: &Row, at: usize) -> Timestamp {
    Timestamp(row.get::<_, Micros>(at).0)
}

pub(super) fn maybe_time(row: &Row, at: usize) -> Option<Timestamp> {
    row.get::<_, Option<Micros>>(at).map(|at| Timestamp(at.0))
}
