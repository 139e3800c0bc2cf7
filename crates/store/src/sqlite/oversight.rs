//! What people look into. Every statement has a bound of its own; reasons are grouped here, where they are read.

use std::{collections::BTreeMap, fmt::Write as _};

use async_trait::async_trait;
use posthaste_core::{MessageId, Timestamp, reason};
use rusqlite::{Row, ToSql, named_params};

use super::{
    SqliteStore,
    operations::{Params, dead},
    session::Scope,
    subscriptions::{self, uuid},
};
use crate::{
    AuditEntry, AuditFilter, CENSUS_MAX, Census, DeadLetterFilter, DeadLetterGroup,
    DeadLetterGroups, DeadLetterPlace, DeadLetterRow, EntityCensus, FLEET_MAX, GROUPED_MAX,
    HeldLease, Order, Oversight, RelayStatus, Result, WorkerStatus,
};

/// The columns of a dead letter's place, in the order of pages.
const PLACE: &str = "m.failed_at, m.subscription, m.position, m.id";

/// What [`dead_letter`] reads, in its order.
fn columns() -> String {
    format!(
        "{PLACE}, s.name, m.topic, m.key, m.content_type, m.correlation_id, length(m.payload), \
         m.enqueued_at, m.attempts, m.reason, m.holds_key"
    )
}

#[async_trait]
impl Oversight for SqliteStore {
    async fn dead_letter_page(
        &self,
        which: &DeadLetterFilter,
        order: Order,
        after: Option<&DeadLetterPlace>,
        limit: u32,
    ) -> Result<Vec<DeadLetterRow>> {
        let (which, after) = (which.clone(), after.copied());
        self.observe("read the dead letters", move |scope| {
            page(scope, &which, order, after.as_ref(), None, limit)
        })
        .await
    }

    async fn count_dead_letters(&self, which: &DeadLetterFilter) -> Result<u64> {
        let which = which.clone();
        self.observe("count the dead letters", move |scope| count(scope, &which)).await
    }

    async fn dead_letter_groups(
        &self,
        which: &DeadLetterFilter,
        limit: u32,
    ) -> Result<DeadLetterGroups> {
        let which = which.clone();
        self.observe("group the dead letters", move |scope| groups(scope, &which, limit)).await
    }

    async fn audit(&self, which: &AuditFilter, limit: u32) -> Result<Vec<AuditEntry>> {
        let which = which.clone();
        self.observe("read the audit trail", move |scope| audit(scope, &which, limit)).await
    }

    async fn relays(&self) -> Result<Vec<RelayStatus>> {
        self.observe("read the relays", relays).await
    }

    async fn workers(&self) -> Result<Vec<WorkerStatus>> {
        self.observe("read the workers", workers).await
    }

    async fn census(&self) -> Result<Census> {
        self.observe("count jobs, entities and commands", census).await
    }
}

fn census(scope: &Scope<'_>) -> Result<Census> {
    let count = |row: &Row<'_>, at: usize| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let jobs = "select state, count(*) from @schema@_job group by state order by state";
    let jobs = scope.all(jobs, [], |row| Ok((row.get(0)?, count(row, 1)?)))?;
    let entities = format!(
        "select machine, state, count(*), sum(version) from @schema@_entity \
         group by machine, state order by machine, state limit {CENSUS_MAX}"
    );
    let entities = scope.all(&entities, [], |row| {
        Ok(EntityCensus {
            machine: row.get(0)?,
            state: row.get(1)?,
            entities: count(row, 2)?,
            steps: count(row, 3)?,
        })
    })?;
    let commands =
        "select count(completed_at), count(*) - count(completed_at) from @schema@_command";
    let commands = scope.first(commands, [], |row| Ok((count(row, 0)?, count(row, 1)?)))?;
    let (commands_completed, commands_in_progress) = commands.unwrap_or_default();
    Ok(Census { jobs, entities, commands_completed, commands_in_progress })
}

/// A page of dead letters, of those that had failed at `until` if given.
pub(super) fn page(
    scope: &Scope<'_>,
    which: &DeadLetterFilter,
    order: Order,
    after: Option<&DeadLetterPlace>,
    until: Option<Timestamp>,
    limit: u32,
) -> Result<Vec<DeadLetterRow>> {
    let (than, towards) = match order {
        Order::NewestFirst => ("<", "desc"),
        Order::OldestFirst => (">", "asc"),
    };
    let mut sql = format!("select {} from {}", columns(), dead());
    let place = after.copied().unwrap_or_default();
    let (params, bounds) = (Params::new(&which.which), Bounds::new(place, until));
    let mut named = params.named();
    if after.is_some() {
        let _ = write!(sql, " and ({PLACE}) {than} (:failed_at, :of, :position, :id)");
        named.extend(bounds.after());
    }
    if until.is_some() {
        sql.push_str(" and m.failed_at <= :at_most");
        named.extend(bounds.until());
    }
    let ordered = PLACE.replace(',', &format!(" {towards},"));
    let _ = write!(sql, " order by {ordered} {towards}");
    let mut statement = scope.prepare(&sql)?;
    let mut rows = statement.query(named.as_slice())?;
    let mut letters = Vec::new();
    while letters.len() < limit as usize
        && let Some(row) = rows.next()?
    {
        let letter = dead_letter(row)?;
        if is_of(which, &letter.reason) {
            letters.push(letter);
        }
    }
    Ok(letters)
}

/// What bounds a page, as SQLite takes it.
struct Bounds {
    failed_at: i64,
    of: i64,
    position: i64,
    id: [u8; 16],
    at_most: i64,
}

impl Bounds {
    fn new(after: DeadLetterPlace, until: Option<Timestamp>) -> Self {
        Self {
            failed_at: after.failed_at.0,
            of: after.subscription,
            position: after.position,
            id: *after.id.as_bytes(),
            at_most: until.map_or(i64::MAX, |Timestamp(at)| at),
        }
    }

    fn after(&self) -> [(&'static str, &dyn ToSql); 4] {
        [
            (":failed_at", &self.failed_at),
            (":of", &self.of),
            (":position", &self.position),
            (":id", &self.id),
        ]
    }

    fn until(&self) -> [(&'static str, &dyn ToSql); 1] {
        [(":at_most", &self.at_most)]
    }
}

fn is_of(which: &DeadLetterFilter, of: &str) -> bool {
    which.group.as_ref().is_none_or(|group| reason::group(of) == *group)
}

pub(super) fn count(scope: &Scope<'_>, which: &DeadLetterFilter) -> Result<u64> {
    let params = Params::new(&which.which);
    if which.group.is_none() {
        let sql = format!("select count(*) from {}", dead());
        let count = scope.first(&sql, params.named().as_slice(), |row| row.get::<_, i64>(0))?;
        return Ok(count.unwrap_or_default().unsigned_abs());
    }
    let mut statement = scope.prepare(&format!("select m.reason from {}", dead()))?;
    let mut rows = statement.query(params.named().as_slice())?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += u64::from(is_of(which, row.get_ref(0)?.as_str().unwrap_or_default()));
    }
    Ok(count)
}

fn groups(scope: &Scope<'_>, which: &DeadLetterFilter, limit: u32) -> Result<DeadLetterGroups> {
    let sql = format!(
        "select s.name, m.reason, m.failed_at, m.id from {} order by m.failed_at desc, \
         m.subscription desc, m.position desc, m.id desc",
        dead()
    );
    let params = Params::new(&which.which);
    let mut statement = scope.prepare(&sql)?;
    let mut rows = statement.query(params.named().as_slice())?;
    let mut groups: BTreeMap<(String, String), DeadLetterGroup> = BTreeMap::new();
    let mut looked_at = 0;
    while looked_at < u64::from(GROUPED_MAX)
        && let Some(row) = rows.next()?
    {
        let name: String = row.get(0)?;
        let reason = reason::group(row.get_ref(1)?.as_str().unwrap_or_default());
        if which.group.as_ref().is_some_and(|group| *group != reason) {
            continue;
        }
        looked_at += 1;
        let (at, id) = (Timestamp(row.get(2)?), uuid(row, 3)?);
        // The newest comes first, and so is the example.
        let group = groups.entry((name, reason)).or_insert_with_key(|(name, reason)| {
            let (subscription, reason) = (name.clone(), reason.clone());
            DeadLetterGroup { subscription, reason, count: 0, first: at, last: at, example: id }
        });
        group.count += 1;
        group.first = at;
    }
    let groups_total = groups.len() as u64;
    let mut groups: Vec<DeadLetterGroup> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups.truncate(limit as usize);
    Ok(DeadLetterGroups { groups, groups_total, looked_at })
}

fn audit(scope: &Scope<'_>, which: &AuditFilter, limit: u32) -> Result<Vec<AuditEntry>> {
    // An index serves what is asked for only where the statement says so.
    let is = |column: &str, asked: &Option<String>| match asked {
        Some(_) => format!("{column} = :{column}"),
        None => format!(":{column} is null"),
    };
    let sql = format!(
        "select n, at, actor, action, subscription, detail from @schema@_audit \
         where {} and {} and (:action is null or action = :action) \
         and (:since is null or at >= :since) and (:until is null or at < :until) \
         and n < :before order by n desc limit {limit}",
        is("actor", &which.actor),
        is("subscription", &which.subscription)
    );
    let micros = |time: Option<Timestamp>| time.map(|Timestamp(at)| at);
    let values = named_params! {
        ":actor": which.actor,
        ":action": which.action,
        ":subscription": which.subscription,
        ":since": micros(which.since),
        ":until": micros(which.until),
        ":before": which.before.unwrap_or(i64::MAX),
    };
    scope.all(&sql, values, |row| {
        Ok(AuditEntry {
            n: row.get(0)?,
            at: Timestamp(row.get(1)?),
            actor: row.get(2)?,
            action: row.get(3)?,
            subscription: row.get(4)?,
            detail: row.get(5)?,
        })
    })
}

fn relays(scope: &Scope<'_>) -> Result<Vec<RelayStatus>> {
    let now = scope.now_micros()?;
    let sql = format!(
        "select holder, version, started_at, seen_at, ?1 - seen_at, subscriptions \
         from @schema@_relay order by seen_at desc limit {FLEET_MAX}"
    );
    let known = scope.all(&sql, [now], |row| {
        Ok(RelayStatus {
            holder: row.get(0)?,
            version: row.get(1)?,
            started_at: time(row, 2)?,
            seen_at: time(row, 3)?,
            silent_micros: row.get(4)?,
            subscriptions: subscriptions::strings(row, 5)?,
            holds: Vec::new(),
        })
    })?;
    let mut relays: BTreeMap<String, RelayStatus> =
        known.into_iter().map(|relay| (relay.holder.clone(), relay)).collect();
    let leases = "select holder, name, epoch, acquired_at, expires_at from @schema@_subscription \
                  where holder is not null and expires_at > ?1 order by name";
    let leases = scope.all(leases, [now], |row| {
        let lease = HeldLease {
            subscription: row.get(1)?,
            epoch: row.get(2)?,
            since: time(row, 3)?,
            until: Timestamp(row.get(4)?),
        };
        Ok((row.get::<_, String>(0)?, lease))
    })?;
    for (holder, lease) in leases {
        // One that has not said that it is alive holds what it holds.
        let relay = relays.entry(holder).or_insert_with_key(|holder| RelayStatus {
            holder: holder.clone(),
            version: None,
            started_at: None,
            seen_at: None,
            silent_micros: None,
            subscriptions: Vec::new(),
            holds: Vec::new(),
        });
        relay.holds.push(lease);
    }
    Ok(relays.into_values().collect())
}

fn workers(scope: &Scope<'_>) -> Result<Vec<WorkerStatus>> {
    let sql = format!(
        "select w.id, w.name, w.topics, w.sources, w.version, w.started_at, w.seen_at, \
         case when w.lease_until > 0 then w.lease_until end, w.lease_until > ?1, \
         (select count(*) from @schema@_job j where j.worker = w.id) \
         from @schema@_worker w order by w.name, w.id limit {FLEET_MAX}"
    );
    scope.all(&sql, [scope.now_micros()?], |row| {
        Ok(WorkerStatus {
            id: uuid(row, 0)?,
            name: row.get(1)?,
            topics: subscriptions::strings(row, 2)?,
            sources: subscriptions::strings(row, 3)?,
            version: row.get(4)?,
            started_at: Timestamp(row.get(5)?),
            seen_at: Timestamp(row.get(6)?),
            lease_until: time(row, 7)?,
            is_alive: row.get(8)?,
            running: row.get::<_, i64>(9)?.unsigned_abs(),
        })
    })
}

fn dead_letter(row: &Row<'_>) -> rusqlite::Result<DeadLetterRow> {
    Ok(DeadLetterRow {
        place: DeadLetterPlace {
            failed_at: Timestamp(row.get(0)?),
            subscription: row.get(1)?,
            position: row.get(2)?,
            id: MessageId::from_bytes(row.get(3)?),
        },
        subscription: row.get(4)?,
        topic: row.get(5)?,
        key: row.get(6)?,
        content_type: row.get(7)?,
        correlation_id: row.get(8)?,
        payload_bytes: row.get::<_, i64>(9)?.unsigned_abs(),
        enqueued_at: Timestamp(row.get(10)?),
        attempts: row.get(11)?,
        reason: row.get(12)?,
        holds_key: row.get(13)?,
    })
}

pub(super) fn time(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Timestamp>> {
    row.get::<_, Option<i64>>(at).map(|at| at.map(Timestamp))
}
