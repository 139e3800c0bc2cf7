//! What operators do by hand: dead letters, replay, erasure, pause, rewind, removal.
//!
//! Every function but `dead_letters` runs under the write lock, and notes what it did in the
//! audit trail.

use posthaste_core::{HeaderObject, MessageId, Place, SchemaName, Timestamp, TopicFilter};
use rusqlite::{Row, ToSql, named_params};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    aside, pages,
    session::Scope,
    status,
    subscriptions::{self, Subscription},
    ticks,
};
use crate::{
    COUNTED_MAX, DeadLetter, ReplayChunk, Replayed, Request, Result, RewindTo, Rewound, Selection,
    StoreError, StoreErrorKind, WrittenTopic, background::selection_json,
};

/// The conditions of a selection on `m`, a message, and `s`, its subscription.
const CONDITIONS: &str = "(:subscription is null or s.name = :subscription) \
    and (:ids = '[]' or hex(m.id) in (select value from json_each(:ids))) \
    and (:topics is null or m.topic in (select value from json_each(:topics)) \
         or exists (select 1 from json_each(:prefixes) p \
                    where substr(m.topic, 1, length(p.value)) = p.value)) \
    and (:key is null or m.key = :key)";

/// The dead letters that a selection means.
pub(super) fn dead() -> String {
    format!(
        "@schema@_failed_message m join @schema@_subscription s on s.id = m.subscription \
         where m.due is null and {CONDITIONS} \
         and (:reason is null or instr(m.reason, :reason) > 0) \
         and (:since is null or m.failed_at >= :since) \
         and (:until is null or m.failed_at < :until)"
    )
}

/// The conditions on messages of the log; their reason is not looked at.
fn written() -> String {
    format!(
        "{CONDITIONS} and (:reason is null or :reason is not null) \
         and (:since is null or m.enqueued_at >= :since) \
         and (:until is null or m.enqueued_at < :until)"
    )
}

/// A selection as SQLite takes it.
pub(super) struct Params {
    subscription: Option<String>,
    ids: String,
    topics: Option<String>,
    prefixes: Option<String>,
    key: Option<String>,
    reason: Option<String>,
    since: Option<i64>,
    until: Option<i64>,
}

impl Params {
    pub(super) fn new(which: &Selection) -> Self {
        let hex = |id: &MessageId| id.simple().to_string().to_uppercase();
        let ids: Vec<String> = which.ids.iter().map(hex).collect();
        let list = |list: &[String]| json!(list).to_string();
        Self {
            subscription: which.subscription.clone(),
            ids: json!(ids).to_string(),
            topics: which.topics.as_ref().map(TopicFilter::exact).map(list),
            prefixes: which.topics.as_ref().map(TopicFilter::prefixes).map(list),
            key: which.key.clone(),
            reason: which.reason.clone(),
            since: which.since.map(|Timestamp(at)| at),
            until: which.until.map(|Timestamp(at)| at),
        }
    }

    /// Every statement names all of them.
    pub(super) fn named(&self) -> Vec<(&'static str, &dyn ToSql)> {
        named_params! {
            ":subscription": self.subscription,
            ":ids": self.ids,
            ":topics": self.topics,
            ":prefixes": self.prefixes,
            ":key": self.key,
            ":reason": self.reason,
            ":since": self.since,
            ":until": self.until,
        }
        .to_vec()
    }

    /// The messages of a query for subscription, position and id.
    fn messages(&self, scope: &Scope<'_>, sql: &str) -> Result<Vec<(i64, i64, MessageId)>> {
        scope.all(sql, self.named().as_slice(), |row| {
            Ok((row.get(0)?, row.get(1)?, MessageId::from_bytes(row.get(2)?)))
        })
    }
}

pub(super) fn dead_letters(
    scope: &Scope<'_>,
    which: &Selection,
    limit: u32,
) -> Result<Vec<DeadLetter>> {
    let columns = pages::columns_of("m");
    let sql = format!(
        "select {columns}, s.name, m.attempts, m.reason, m.failed_at, m.holds_key from {} \
         order by m.failed_at, m.position limit {limit}",
        dead()
    );
    let params = Params::new(which);
    let mut statement = scope.prepare(&sql)?;
    let mut rows = statement.query(params.named().as_slice())?;
    let (mut letters, mut packed) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        letters.push(dead_letter(row, &mut packed)?);
    }
    Ok(letters)
}

fn dead_letter(row: &Row<'_>, packed: &mut Vec<u8>) -> Result<DeadLetter> {
    let message = status::owned(&pages::message(row, packed)?, None);
    let at = pages::COLUMN_COUNT;
    Ok(DeadLetter {
        message,
        subscription: row.get(at)?,
        attempts: row.get(at + 1)?,
        reason: row.get(at + 2)?,
        failed_at: Timestamp(row.get(at + 3)?),
        holds_key: row.get(at + 4)?,
    })
}

pub(super) fn written_topics(scope: &Scope<'_>, looked_at: u32) -> Result<Vec<WrittenTopic>> {
    let sql = "select topic, count(*), max(enqueued_at) from @schema@_log \
               where position > (select coalesce(max(position), 0) from @schema@_log) - ?1 \
               group by topic order by topic";
    scope.all(sql, [looked_at], |row| {
        Ok(WrittenTopic {
            topic: row.get(0)?,
            messages: row.get::<_, i64>(1)?.cast_unsigned(),
            newest: Timestamp(row.get(2)?),
        })
    })
}

pub(super) fn incarnation(scope: &Scope<'_>) -> Result<Uuid> {
    let sql = "select incarnation from @schema@_meta";
    Ok(scope.first(sql, [], |row| subscriptions::uuid(row, 0))?.unwrap_or_default())
}

pub(super) fn create_compatibility_view(scope: &Scope<'_>, name: &SchemaName) -> Result<()> {
    scope.run_all(&format!(
        "drop view if exists {name}; create view {name} as select id, topic, key, payload, \
         enqueued_at as created_at, published_at as processed_at from @schema@_outbox"
    ))
}

pub(super) fn replay_dead_letters(
    scope: &Scope<'_>,
    which: &Selection,
    rate: Option<f64>,
    request: &Request,
) -> Result<u64> {
    let sql = format!(
        "select m.subscription, m.position, m.id from {} order by m.failed_at, m.position",
        dead()
    );
    let chosen = Params::new(which).messages(scope, &sql)?;
    if !request.is_dry_run && !chosen.is_empty() {
        for (nth, (of, position, id)) in chosen.iter().enumerate() {
            scope.run(
                "update @schema@_failed_message set attempts = 0, due = ?4 \
                 where subscription = ?1 and position = ?2 and id = ?3",
                (of, position, id.as_bytes(), due(scope, rate, nth)?),
            )?;
        }
        note(scope, "replay dead letters", which, chosen.len(), request)?;
    }
    Ok(chosen.len() as u64)
}

pub(super) fn discard_dead_letters(
    scope: &Scope<'_>,
    which: &Selection,
    request: &Request,
) -> Result<u64> {
    let sql = format!("select m.subscription, m.position, m.id from {}", dead());
    let chosen = Params::new(which).messages(scope, &sql)?;
    if !request.is_dry_run && !chosen.is_empty() {
        for (of, position, id) in &chosen {
            aside::published(scope, *of, *position, *id)?;
        }
        note(scope, "discard dead letters", which, chosen.len(), request)?;
    }
    Ok(chosen.len() as u64)
}

pub(super) fn replay(
    scope: &Scope<'_>,
    which: &Selection,
    target: &str,
    chunk: &ReplayChunk,
    request: &Request,
) -> Result<Replayed> {
    let head = "select coalesce(max(position), 0) from @schema@_log";
    let through = match chunk.through {
        Some(through) => through,
        None => scope.first(head, [], |row| row.get(0))?.unwrap_or_default(),
    };
    let (target, chosen) = chosen(scope, which, target, (chunk.after, through), chunk.limit)?;
    let reached = chosen.last().map(|(position, _)| *position);
    if !request.is_dry_run && !chosen.is_empty() {
        let starts_in = chunk.starts_in.as_micros() as i64;
        for (nth, (position, id)) in chosen.iter().enumerate() {
            let due = due(scope, chunk.rate, nth)? + starts_in;
            copy(scope, target, *position, *id, due)?;
        }
        let detail = json!({ "messages": chosen.len(), "reached": reached });
        audit(scope, "replay", which, detail, request)?;
    }
    Ok(Replayed { messages: chosen.len() as u64, reached, through })
}

/// The target's number and, of the messages in `(after, through]`, the first `limit` that it has published, or does
/// not read.
pub(super) fn chosen(
    scope: &Scope<'_>,
    which: &Selection,
    target: &str,
    (after, through): (i64, i64),
    limit: u32,
) -> Result<(i64, Vec<(i64, MessageId)>)> {
    let target = subscriptions::by_name(scope, target)?;
    let source = match &which.subscription {
        Some(name) => Some(subscriptions::by_name(scope, name)?),
        None => None,
    };
    let sql = format!(
        "select m.position, m.id, m.topic from @schema@_log m \
         cross join (select :subscription as name) s \
         where m.position > {after} and m.position <= {through} and {} order by m.position",
        written()
    );
    let params = Params::new(which);
    let mut statement = scope.prepare(&sql)?;
    let mut rows = statement.query(params.named().as_slice())?;
    let mut chosen = Vec::new();
    while chosen.len() < limit as usize
        && let Some(row) = rows.next()?
    {
        let (position, topic): (i64, String) = (row.get(0)?, row.get(2)?);
        let is_of = |subscription: &Subscription| {
            subscription.filter.matches(&topic) && position > subscription.start_position
        };
        // A message that the target reads and has not published comes by itself.
        if source.as_ref().is_none_or(is_of)
            && (!is_of(&target) || is_published(scope, &target, position)?)
        {
            chosen.push((position, MessageId::from_bytes(row.get(1)?)));
        }
    }
    Ok((target.id, chosen))
}

/// Whether a subscription has set a message aside.
pub(super) fn is_there(scope: &Scope<'_>, of: i64, position: i64, id: MessageId) -> Result<bool> {
    let sql = "select 1 from @schema@_failed_message \
               where subscription = ?1 and position = ?2 and id = ?3";
    Ok(scope.first(sql, (of, position, id.as_bytes()), |_| Ok(()))?.is_some())
}

/// Copies a message of the log to what a subscription has set aside, due at a time.
pub(super) fn copy(
    scope: &Scope<'_>,
    of: i64,
    position: i64,
    id: MessageId,
    due: i64,
) -> Result<()> {
    scope.run(
        "insert into @schema@_failed_message (subscription, position, id, tick, topic, \
         key, content_type, headers, correlation_id, enqueued_at, attempts, reason, due, \
         payload) select ?1, position, id, 0, topic, key, content_type, headers, \
         correlation_id, enqueued_at, 0, 'replay', ?4, payload \
         from @schema@_log where position = ?2 and id = ?3 on conflict do nothing",
        (of, position, id.as_bytes(), due),
    )?;
    Ok(())
}

pub(super) fn cancel(
    scope: &Scope<'_>,
    id: MessageId,
    number: Option<i64>,
    request: &Request,
) -> Result<bool> {
    let find = "select 1 from @schema@_scheduled where id = ?1 and n = coalesce(?2, n)";
    let is_waiting = scope.first(find, (id.as_bytes(), number), |_| Ok(()))?.is_some();
    if is_waiting && !request.is_dry_run {
        let delete = "delete from @schema@_scheduled where id = ?1 and n = coalesce(?2, n)";
        scope.run(delete, (id.as_bytes(), number))?;
        note(scope, "cancel", &Selection { ids: vec![id], ..Selection::default() }, 1, request)?;
    }
    Ok(is_waiting)
}

fn is_published(scope: &Scope<'_>, of: &Subscription, position: i64) -> Result<bool> {
    let sql = "select state = 'published' from @schema@_delivery \
               where position = ?1 and subscription = ?2";
    Ok(scope.first(sql, (position, &of.name), |row| row.get(0))?.unwrap_or(false))
}

pub(super) fn erase(scope: &Scope<'_>, which: &Selection, request: &Request) -> Result<u64> {
    if which.ids.is_empty() && which.key.is_none() {
        let doing = "erase: name message ids or a key";
        return Err(StoreError::new(StoreErrorKind::Invalid, doing));
    }
    let which = Selection { subscription: None, ..which.clone() };
    let of_log = format!(
        "select 0, m.position, m.id from @schema@_log m cross join (select null as name) s \
         where {}",
        written()
    );
    let chosen = Params::new(&which).messages(scope, &of_log)?;
    if !request.is_dry_run && !chosen.is_empty() {
        let copies = of_log.replace("@schema@_log", "@schema@_failed_message");
        let copies = Params::new(&which).messages(scope, &copies)?;
        let waiting = of_log.replace("@schema@_log", "@schema@_scheduled");
        let waiting = waiting.replace("m.position", "m.n");
        let waiting = Params::new(&which).messages(scope, &waiting)?;
        let erased = HeaderObject(&[("posthaste-erased".to_owned(), now(scope)?)]).to_string();
        for (table, at, messages) in [
            ("log", "position", &chosen),
            ("failed_message", "position", &copies),
            ("scheduled", "n", &waiting),
        ] {
            let sql = format!(
                "update @schema@_{table} set payload = x'', headers = ?3 \
                 where {at} = ?1 and id = ?2"
            );
            for (_, position, id) in messages {
                scope.run(&sql, (position, id.as_bytes(), &erased))?;
            }
        }
        note(scope, "erase", &which, chosen.len(), request)?;
    }
    Ok(chosen.len() as u64)
}

fn now(scope: &Scope<'_>) -> Result<String> {
    let sql = "select strftime('%Y-%m-%dT%H:%M:%SZ', 'now')";
    Ok(scope.first(sql, [], |row| row.get(0))?.unwrap_or_default())
}

pub(super) fn pause(scope: &Scope<'_>, name: &str, paused: bool, request: &Request) -> Result<()> {
    let subscription = subscriptions::by_name(scope, name)?;
    if request.is_dry_run {
        return Ok(());
    }
    let at = paused.then(|| scope.now_micros()).transpose()?;
    scope.run(
        "update @schema@_subscription set paused_at = \
         case when ?2 is null then null else coalesce(paused_at, ?2) end where id = ?1",
        (subscription.id, at),
    )?;
    let which = Selection { subscription: Some(name.to_owned()), ..Selection::default() };
    note(scope, if paused { "pause" } else { "resume" }, &which, 0, request)
}

pub(super) fn rewind(
    scope: &Scope<'_>,
    name: &str,
    to: RewindTo,
    request: &Request,
) -> Result<Rewound> {
    let subscription = unheld(scope, name, request.is_dry_run)?;
    let base = match to {
        RewindTo::Beginning => ticks::StoredTick::BEGINNING,
        RewindTo::Time(time) => ticks::before(scope, time)?,
    };
    let standing = subscriptions::progress(scope, &subscription)?.place;
    if Place::at(base.at).covers(&standing) {
        let (messages, oldest) = (Some(0), None);
        return Ok(Rewound { place: standing, is_moved: false, messages, oldest });
    }
    let sql = format!(
        "select count(*), min(position), min(enqueued_at) from (\
         select d.position as position, l.enqueued_at as enqueued_at from @schema@_delivery d \
         join @schema@_log l on l.position = d.position \
         where d.subscription = ?1 and d.state = 'published' and d.position > ?2 \
         limit {COUNTED_MAX} + 1)"
    );
    let counted = scope.first(&sql, (name, base.position), |row| {
        let (first, at): (Option<i64>, Option<i64>) = (row.get(1)?, row.get(2)?);
        Ok((row.get::<_, i64>(0)?.cast_unsigned(), first.zip(at.map(Timestamp))))
    })?;
    let (messages, oldest) = match counted.unwrap_or_default() {
        (messages, _) if messages > COUNTED_MAX.into() => (None, None),
        (messages, oldest) => (Some(messages), oldest),
    };
    let place = Place::at(base.at);
    if !request.is_dry_run {
        scope.run(
            "update @schema@_subscription set epoch = epoch + 1 where id = ?1",
            [subscription.id],
        )?;
        subscriptions::settle(scope, name, subscription.epoch + 1, &place)?;
        let which = Selection { subscription: Some(name.to_owned()), ..Selection::default() };
        note(scope, "rewind", &which, messages.unwrap_or_default() as usize, request)?;
    }
    Ok(Rewound { place, is_moved: true, messages, oldest })
}

pub(super) fn remove(scope: &Scope<'_>, name: &str, request: &Request) -> Result<()> {
    let subscription = unheld(scope, name, request.is_forced)?;
    if request.is_dry_run {
        return Ok(());
    }
    for table in ["parked_key", "failed_message", "progress"] {
        let sql = format!("delete from @schema@_{table} where subscription = ?1");
        scope.run(&sql, [subscription.id])?;
    }
    scope.run("delete from @schema@_subscription where id = ?1", [subscription.id])?;
    let which = Selection { subscription: Some(name.to_owned()), ..Selection::default() };
    note(scope, "remove", &which, 0, request)
}

pub(super) fn unheld(scope: &Scope<'_>, name: &str, is_forced: bool) -> Result<Subscription> {
    let subscription = subscriptions::by_name(scope, name)?;
    let now = scope.now_micros()?;
    if let Some((holder, _)) = subscription.held(now).filter(|_| !is_forced) {
        let doing = format!("the relay {holder} holds {name:?}; stop that relay first");
        return Err(StoreError::new(StoreErrorKind::Conflict, doing));
    }
    Ok(subscription)
}

/// When the `nth` message of a replay is due.
fn due(scope: &Scope<'_>, rate: Option<f64>, nth: usize) -> Result<i64> {
    let wait = rate.map_or(0.0, |rate| nth as f64 / rate * 1e6);
    Ok(scope.now_micros()?.saturating_add(wait as i64))
}

fn note(
    scope: &Scope<'_>,
    action: &str,
    which: &Selection,
    messages: usize,
    request: &Request,
) -> Result<()> {
    audit(scope, action, which, json!({ "messages": messages }), request)
}

pub(super) fn audit(
    scope: &Scope<'_>,
    action: &str,
    which: &Selection,
    mut detail: Value,
    request: &Request,
) -> Result<()> {
    detail["selection"] = selection_json(which);
    let detail = detail.to_string();
    scope.run(
        "insert into @schema@_audit (actor, action, subscription, detail) values (?1, ?2, ?3, ?4)",
        (&request.actor, action, &which.subscription, detail),
    )?;
    Ok(())
}
