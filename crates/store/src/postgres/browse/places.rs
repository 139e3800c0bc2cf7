//! Where subscriptions stand, and what they have set aside: the state of a message, as the view `messages` tells it.

use std::collections::HashMap;

use posthaste_core::{MessageId, Position, Snapshot, Timestamp, TopicFilter};
use tokio_postgres::{Row, types::Type};

use super::{
    super::rows::{self, Micros},
    Found,
    session::{Param, Session},
};
use crate::{ListedMessage, MessageDelivery, MessageFailure, MessageState, Result};

/// A subscription and its place.
pub(super) struct Reader {
    pub(super) id: i32,
    pub(super) name: String,
    pub(super) filter: TopicFilter,
    /// What was visible here is not its own.
    pub(super) start: Snapshot,
    pub(super) base: Snapshot,
    /// Inside a window: what it shows up to a position.
    pub(super) within: Option<(Snapshot, Position)>,
}

impl Reader {
    fn reads(&self, message: &ListedMessage, xid: u64) -> bool {
        self.filter.matches(&message.topic) && !self.start.shows(xid)
    }

    fn has_passed(&self, position: Position, xid: u64) -> bool {
        let is_within =
            |(head, reach): &(Snapshot, Position)| head.shows(xid) && position <= *reach;
        self.base.shows(xid) || self.within.as_ref().is_some_and(is_within)
    }

    /// It has passed nothing of this transaction or a later one.
    pub(super) fn end(&self) -> u64 {
        self.within.as_ref().map_or(0, |(head, _)| head.xmax()).max(self.base.xmax())
    }
}

/// All subscriptions, by name.
pub(super) struct Readers {
    pub(super) all: Vec<Reader>,
    has_failed: bool,
    has_parked: bool,
}

/// A key that is parked.
struct ParkedKey {
    base: Snapshot,
    head: Snapshot,
    position: Position,
    failure: MessageFailure,
}

/// What is set aside of some messages.
#[derive(Default)]
pub(super) struct SetAside {
    failed: HashMap<(i32, Position, MessageId), MessageFailure>,
    parked: HashMap<(i32, String), ParkedKey>,
}

impl Readers {
    pub(super) async fn read(session: &Session) -> Result<Self> {
        let sql = format!(
            "select p.subscription_id, p.subscription, p.topics, p.prefixes, p.start_snapshot::text, \
             p.base_snapshot::text, p.head_snapshot::text, p.position, \
             exists (select from {0}.failed_message), exists (select from {0}.parked_key) \
             from {0}.place p order by p.subscription",
            session.schema
        );
        let found = session.rows(&sql, &[]).await?;
        let reader = |row: &Row| -> Result<Reader> {
            let head = row.get::<_, Option<&str>>(6).map(rows::snapshot).transpose()?;
            Ok(Reader {
                id: row.get(0),
                name: row.get(1),
                filter: TopicFilter::from_parts(row.get(2), row.get(3)),
                start: rows::snapshot(row.get(4))?,
                base: rows::snapshot(row.get(5))?,
                within: head.zip(row.get(7)),
            })
        };
        Ok(Self {
            has_failed: found.first().is_some_and(|row| row.get(8)),
            has_parked: found.first().is_some_and(|row| row.get(9)),
            all: found.iter().map(reader).collect::<Result<_>>()?,
        })
    }

    /// Says of messages of the log in which state they are.
    pub(super) async fn judge(&self, session: &Session, found: &mut [Found]) -> Result<()> {
        let aside = self.set_aside(session, found).await?;
        for Found { message, xid } in found {
            let Some(xid) = *xid else { continue };
            let each = self.all.iter().filter_map(|reader| aside.state(reader, message, xid));
            message.state = MessageState::over(each.map(|(state, _)| state));
        }
        Ok(())
    }

    /// The message at each subscription that reads it, without the time of its publishing.
    pub(super) fn deliveries(
        &self,
        aside: &SetAside,
        message: &ListedMessage,
        xid: u64,
    ) -> Vec<(i32, MessageDelivery)> {
        let delivery = |reader: &Reader| {
            let (state, failure) = aside.state(reader, message, xid)?;
            let delivery = MessageDelivery {
                subscription: reader.name.clone(),
                state,
                published_at: None,
                failure: failure.cloned(),
            };
            Some((reader.id, delivery))
        };
        self.all.iter().filter_map(delivery).collect()
    }

    pub(super) async fn set_aside(&self, session: &Session, found: &[Found]) -> Result<SetAside> {
        let mut aside = SetAside::default();
        if found.is_empty() {
            return Ok(aside);
        }
        let ids: Vec<i32> = self.all.iter().map(|reader| reader.id).collect();
        if self.has_failed {
            aside.failed = failed(session, ids.clone(), found).await?;
        }
        if self.has_parked {
            aside.parked = parked(session, ids, found).await?;
        }
        Ok(aside)
    }
}

impl SetAside {
    /// `None` where the subscription does not read it.
    fn state(
        &self,
        reader: &Reader,
        message: &ListedMessage,
        xid: u64,
    ) -> Option<(MessageState, Option<&MessageFailure>)> {
        let position = message.position?;
        if !reader.reads(message, xid) {
            return None;
        }
        if !reader.has_passed(position, xid) {
            return Some((MessageState::Pending, None));
        }
        if let Some(failure) = self.failed.get(&(reader.id, position, message.id)) {
            let is_dead = failure.next_attempt_at.is_none();
            let state = if is_dead { MessageState::Dead } else { MessageState::Parked };
            return Some((state, Some(failure)));
        }
        let key = message.key.clone().map(|key| (reader.id, key));
        let parked = key.and_then(|key| self.parked.get(&key)).filter(|key| {
            let is_behind = position <= key.position && key.head.shows(xid);
            !key.base.shows(xid) && !is_behind
        });
        Some(parked.map_or((MessageState::Published, None), |key| {
            (MessageState::Parked, Some(&key.failure))
        }))
    }
}

/// Copies of messages, by the primary key of each.
async fn failed(
    session: &Session,
    ids: Vec<i32>,
    found: &[Found],
) -> Result<HashMap<(i32, Position, MessageId), MessageFailure>> {
    let sql = format!(
        "select f.subscription, f.position, f.id, f.attempts, f.reason, f.id, f.failed_at, f.due \
         from unnest($1::int4[]) s (id) cross join unnest($2::int8[], $3::uuid[]) m (position, id) \
         cross join lateral (select * from {}.failed_message f where f.subscription = s.id \
           and f.position = m.position and f.id = m.id offset 0) f",
        session.schema
    );
    let of_log = || found.iter().filter_map(|it| Some((it.message.position?, it.message.id)));
    let (positions, messages): (Vec<Position>, Vec<MessageId>) = of_log().unzip();
    let params: [Param; 3] = [
        (Box::new(ids), Type::INT4_ARRAY),
        (Box::new(positions), Type::INT8_ARRAY),
        (Box::new(messages), Type::UUID_ARRAY),
    ];
    let found = session.rows(&sql, &params).await?;
    let of = |row: &Row| ((row.get(0), row.get(1), row.get(2)), failure(row, 3));
    Ok(found.iter().map(of).collect())
}

/// Keys that are parked, by the primary key of each.
async fn parked(
    session: &Session,
    ids: Vec<i32>,
    found: &[Found],
) -> Result<HashMap<(i32, String), ParkedKey>> {
    let mut keys: Vec<String> = found.iter().filter_map(|it| it.message.key.clone()).collect();
    keys.sort_unstable();
    keys.dedup();
    let sql = format!(
        "select k.subscription, k.key, coalesce(b.snapshot, '1:1:')::text, \
         coalesce(h.snapshot, '1:1:')::text, k.position, k.attempts, k.reason, k.message_id, \
         k.parked_at, k.due \
         from unnest($1::int4[]) s (id) cross join unnest($2::text[]) u (key) \
         cross join lateral (select * from {0}.parked_key k where k.subscription = s.id \
           and k.key = u.key offset 0) k \
         left join lateral (select snapshot from {0}.tick t where t.n = k.base_tick) b on true \
         left join lateral (select snapshot from {0}.tick t where t.n = k.head_tick) h on true",
        session.schema
    );
    let params: [Param; 2] =
        [(Box::new(ids), Type::INT4_ARRAY), (Box::new(keys), Type::TEXT_ARRAY)];
    let mut parked = HashMap::new();
    for row in session.rows(&sql, &params).await? {
        let key = ParkedKey {
            base: rows::snapshot(row.get(2))?,
            head: rows::snapshot(row.get(3))?,
            position: row.get(4),
            failure: failure(&row, 5),
        };
        parked.insert((row.get(0), row.get(1)), key);
    }
    Ok(parked)
}

/// Attempts, reason, message, time and next attempt from five columns.
pub(super) fn failure(row: &Row, at: usize) -> MessageFailure {
    MessageFailure {
        attempts: row.get::<_, i32>(at).max(0).cast_unsigned(),
        reason: row.get(at + 1),
        message: row.get(at + 2),
        since: Timestamp(row.get::<_, Micros>(at + 3).0),
        next_attempt_at: row.get::<_, Option<Micros>>(at + 4).map(|due| Timestamp(due.0)),
    }
}

/// The keys that are parked, and where their messages are.
pub(super) struct ParkedKeys {
    pub(super) keys: Vec<String>,
    /// Subscriptions that have parked some.
    pub(super) subscriptions: Vec<i32>,
    /// Of no earlier transaction than this one.
    pub(super) from: u64,
    /// Of an earlier one than this: the subscriptions have come no further.
    pub(super) until: u64,
}

impl Readers {
    /// The keys that some subscription has parked.
    pub(super) async fn parked_keys(&self, session: &Session) -> Result<ParkedKeys> {
        // PostgreSQL 13 has no `min` of transaction ids.
        let sql = format!(
            "select coalesce(array_agg(distinct k.key), '{{}}'), \
             coalesce(array_agg(distinct k.subscription), '{{}}'), \
             coalesce(min(pg_snapshot_xmin(coalesce(b.snapshot, '1:1:'))::text::numeric)::text, '0') \
             from {0}.parked_key k \
             left join lateral (select snapshot from {0}.tick t where t.n = k.base_tick) b on true",
            session.schema
        );
        let rows = session.rows(&sql, &[]).await?;
        let Some(row) = rows.first() else {
            let (keys, subscriptions) = (Vec::new(), Vec::new());
            return Ok(ParkedKeys { keys, subscriptions, from: 0, until: 0 });
        };
        let subscriptions: Vec<i32> = row.get(1);
        let of = self.all.iter().filter(|reader| subscriptions.contains(&reader.id));
        Ok(ParkedKeys {
            keys: row.get(0),
            from: rows::xid(row.get(2))?,
            until: of.map(Reader::end).max().unwrap_or(0),
            subscriptions,
        })
    }
}
