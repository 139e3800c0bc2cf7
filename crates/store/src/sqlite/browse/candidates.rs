//! Ways to the messages that may be meant, the highest position first.

use std::iter;

use posthaste_core::{MessageId, Position, Timestamp, TopicFilter, topics::after_prefix};
use rusqlite::{Row, ToSql, params_from_iter};

use super::{super::session::Scope, Part, detail::pairs, states::Readers};
use crate::{ListedMessage, MessageFilter, MessageState, Result};

/// Rows that one page may look at, one behind the other.
const EXAMINED_MAX: usize = 50_000;
/// Rows that one page may look at where an index names them: each is found by a search of its own.
const NAMED_MAX: usize = 20_000;
/// Rows that are counted to tell which of two conditions names fewer.
const COUNTED_MAX: usize = 2_000;
/// Positions that are collected from indexes and sorted: above it, reading by position finds a page sooner.
const COLLECTED_MAX: usize = 20_000;
/// A time is read after the position is handed out: so far apart may two messages' times and positions be.
const SLACK_MICROS: i64 = 5_000_000;

/// What [`listed`] reads behind the position.
pub(super) const COLUMNS: &str =
    "id, topic, key, correlation_id, content_type, length(payload), enqueued_at";

/// A message from a row of its position and [`COLUMNS`].
pub(super) fn listed(row: &Row<'_>, state: MessageState) -> rusqlite::Result<ListedMessage> {
    Ok(ListedMessage {
        position: Some(row.get(0)?),
        number: None,
        id: MessageId::from_bytes(row.get(1)?),
        topic: row.get(2)?,
        key: row.get(3)?,
        correlation_id: row.get(4)?,
        content_type: row.get(5)?,
        payload_bytes: row.get::<_, i64>(6)?.max(0).cast_unsigned(),
        enqueued_at: Timestamp(row.get(7)?),
        deliver_at: None,
        state,
    })
}

/// One look for a page.
pub(super) struct Candidates<'a> {
    pub(super) scope: &'a Scope<'a>,
    pub(super) which: &'a MessageFilter,
    pub(super) readers: &'a Readers,
}

/// A column, and what it must be.
type Equal = (&'static str, Box<dyn ToSql>);

/// Positions in which messages may be meant.
#[derive(Clone, Copy)]
struct Range {
    low: Position,
    high: Position,
}

impl Candidates<'_> {
    /// The newest `limit` messages below `before`.
    pub(super) fn page(&self, before: Position, limit: usize) -> Result<Part> {
        let high = before.saturating_sub(1);
        match self.which.state {
            Some(MessageState::Dead) => self.copies("due is null", MessageState::Dead, high, limit),
            Some(MessageState::Parked) => self.parked(high, limit),
            _ => self.of_log(high, limit),
        }
    }

    fn of_log(&self, high: Position, limit: usize) -> Result<Part> {
        let Some(range) = self.range(high)? else { return Ok(Part::default()) };
        if let Some((column, value)) = self.equal(range)? {
            // The index's order is that of the positions.
            let sql = format!(
                "select position, {COLUMNS}, headers from @schema@_log where {column} = ?1 \
                 and position >= ?2 and position <= ?3 order by position desc"
            );
            let params: [&dyn ToSql; 3] = [&value, &range.low, &range.high];
            return self.judged(&sql, &params, (range, NAMED_MAX), limit);
        }
        if let Some(positions) = self.by_topics(range)? {
            return self.at(&positions, limit);
        }
        let sql = format!(
            "select position, {COLUMNS}, headers from @schema@_log \
             where position >= ?1 and position <= ?2 order by position desc"
        );
        self.judged(&sql, &[&range.low, &range.high], (range, EXAMINED_MAX), limit)
    }

    /// The condition that an index serves and that says most.
    fn equal(&self, range: Range) -> Result<Option<Equal>> {
        let mut all = self.equals();
        if all.len() > 1 && self.which.id.is_none() {
            let mut counted = Vec::new();
            for (column, value) in all {
                let sql = format!(
                    "select count(*) from (select 1 from @schema@_log where {column} = ?1 \
                     and position >= ?2 and position <= ?3 limit {COUNTED_MAX})"
                );
                let params: [&dyn ToSql; 3] = [&value, &range.low, &range.high];
                let count: Option<i64> = self.scope.first(&sql, &params[..], |row| row.get(0))?;
                counted.push((count, (column, value)));
            }
            counted.sort_by_key(|(count, _)| *count);
            all = counted.into_iter().map(|(_, equal)| equal).collect();
        }
        Ok(all.into_iter().next())
    }

    /// The conditions that an index serves, those first that usually say most.
    fn equals(&self) -> Vec<Equal> {
        let MessageFilter { id, correlation_id, key, topics, .. } = self.which;
        let text = |text: &String| Box::new(text.clone()) as Box<dyn ToSql>;
        let topic = topics.iter().find_map(|filter| match (filter.exact(), filter.prefixes()) {
            ([one], []) => Some(one),
            _ => None,
        });
        let id = id.map(|id| Box::new(id.as_bytes().to_vec()) as Box<dyn ToSql>);
        let all = [
            ("id", id),
            ("correlation_id", correlation_id.as_ref().map(text)),
            ("key", key.as_ref().map(text)),
            ("topic", topic.map(text)),
        ];
        all.into_iter().filter_map(|(column, value)| Some((column, value?))).collect()
    }

    /// Positions of messages of several topics, the highest first, unless they are many.
    fn by_topics(&self, range: Range) -> Result<Option<Vec<Position>>> {
        let narrow = self.which.topics.iter().find(|filter| !filter.is_all()).cloned();
        let narrow = narrow.or_else(|| {
            let is_pending = self.which.state == Some(MessageState::Pending);
            let all = self.readers.all.iter().map(|reader| &reader.filter);
            is_pending.then(|| TopicFilter::union(all)).filter(|filter| !filter.is_all())
        });
        let Some(filter) = narrow else { return Ok(None) };
        let (mut positions, mut most) = (Vec::new(), COLLECTED_MAX + 1);
        let exact = filter.exact().iter().map(|topic| (topic.clone(), Some(format!("{topic}\0"))));
        let prefixes =
            filter.prefixes().iter().map(|prefix| (prefix.clone(), after_prefix(prefix)));
        for (from, to) in exact.chain(prefixes) {
            // Nothing but the index is read.
            let sql = "select position from @schema@_log where topic >= ?1 \
                       and (?2 is null or topic < ?2) and position >= ?3 and position <= ?4 limit ?5";
            let to_end = "select position from @schema@_log where topic >= ?1 and topic < ?2 \
                          and position >= ?3 and position <= ?4 limit ?5";
            let sql = if to.is_some() { to_end } else { sql };
            let found: Vec<Position> =
                self.scope
                    .all(sql, (from, to, range.low, range.high, most as i64), |row| row.get(0))?;
            most = most.saturating_sub(found.len());
            if most == 0 {
                return Ok(None);
            }
            positions.extend(found);
        }
        positions.sort_unstable_by_key(|position| std::cmp::Reverse(*position));
        positions.dedup();
        Ok(Some(positions))
    }

    /// Judges messages at positions, one by one.
    fn at(&self, positions: &[Position], limit: usize) -> Result<Part> {
        let sql =
            format!("select position, {COLUMNS}, headers from @schema@_log where position = ?1");
        let mut statement = self.scope.prepare(&sql)?;
        let mut part = Part::default();
        for position in positions {
            let mut rows = statement.query([position])?;
            if let Some(row) = rows.next()?
                && self.judge(row, &mut part, limit)?
            {
                break;
            }
        }
        Ok(part)
    }

    /// Judges the rows of a query, down to the end of the range, and no more than `most`.
    fn judged(
        &self,
        sql: &str,
        params: &[&dyn ToSql],
        (range, most): (Range, usize),
        limit: usize,
    ) -> Result<Part> {
        let mut statement = self.scope.prepare(sql)?;
        let mut rows = statement.query(params)?;
        let (mut part, mut examined) = (Part::default(), 0);
        while let Some(row) = rows.next()? {
            if self.judge(row, &mut part, limit)? {
                break;
            }
            examined += 1;
            if examined == most {
                let reached: Position = row.get(0)?;
                part.next = Some(reached).filter(|reached| *reached > range.low);
                break;
            }
        }
        Ok(part)
    }

    /// Adds a message of the log if it is meant; `true` once the page is full.
    fn judge(&self, row: &Row<'_>, part: &mut Part, limit: usize) -> Result<bool> {
        let mut message = listed(row, MessageState::Unread)?;
        let may_be = self.which.state.is_none_or(|state| self.readers.may_be(state, &message));
        if !may_be || !is_meant(self.which, &message, row)? {
            return Ok(false);
        }
        // The one behind the last is only to be there, but in the state.
        message.state = self.readers.state(self.scope, &message)?;
        let is_in_state = self.which.state.is_none_or(|state| state == message.state);
        Ok(is_in_state && part.add(message, limit))
    }

    /// Where messages in the state and of the time that is asked for may be.
    fn range(&self, high: Position) -> Result<Option<Range>> {
        let mut range = Range { low: 0, high };
        let of_all = || self.readers.all.iter().filter(|reader| reader.filter.is_all());
        match self.which.state {
            Some(MessageState::Pending) => {
                let behind = self.readers.all.iter().map(|reader| reader.through).min();
                let Some(behind) = behind else { return Ok(None) };
                range.low = behind.saturating_add(1);
            }
            Some(MessageState::Published) => {
                for reader in of_all() {
                    range.high = range.high.min(reader.through.max(reader.start));
                }
            }
            Some(MessageState::Unread) => {
                for reader in of_all() {
                    range.high = range.high.min(reader.start);
                }
            }
            _ => {}
        }
        if let Some(Timestamp(since)) = self.which.since {
            range.low = range.low.max(self.first_at(since.saturating_sub(SLACK_MICROS))?);
        }
        if let Some(Timestamp(until)) = self.which.until {
            range.high = range.high.min(self.first_at(until.saturating_add(SLACK_MICROS))?);
        }
        Ok(Some(range).filter(|range| range.low <= range.high))
    }

    /// The position at which messages begin to be of this time or later. Times follow positions, more or less.
    fn first_at(&self, micros: i64) -> Result<Position> {
        let ends = "select (select position from @schema@_log order by position limit 1), \
                    (select position from @schema@_log order by position desc limit 1)";
        let ends: Option<(Option<Position>, Option<Position>)> =
            self.scope.first(ends, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let Some((Some(mut low), Some(last))) = ends else { return Ok(0) };
        let mut high = last + 1;
        let sql = "select enqueued_at >= ?2 from @schema@_log where position >= ?1 \
                   order by position limit 1";
        while low < high {
            let middle = low + (high - low) / 2;
            if self.scope.first(sql, (middle, micros), |row| row.get(0))?.unwrap_or(true) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// Copies of messages that were set aside.
    fn copies(&self, due: &str, state: MessageState, high: Position, limit: usize) -> Result<Part> {
        let sql = format!(
            "select position, {COLUMNS}, headers from @schema@_failed_message f \
             where {due} and position <= ?1 order by position desc"
        );
        let mut statement = self.scope.prepare(&sql)?;
        let mut rows = statement.query([high])?;
        let (mut part, mut examined) = (Part::default(), 0);
        while let Some(row) = rows.next()? {
            let message = listed(row, state)?;
            if is_meant(self.which, &message, row)? && part.add(message, limit) {
                break;
            }
            examined += 1;
            if examined == EXAMINED_MAX {
                part.next = Some(row.get(0)?);
                break;
            }
        }
        Ok(part)
    }

    /// Copies that wait for their next attempt, and messages whose keys are parked.
    fn parked(&self, high: Position, limit: usize) -> Result<Part> {
        let alone = "due is not null and not exists (select 1 from @schema@_failed_message d \
                     where d.due is null and d.position = f.position and d.id = f.id)";
        let copies = self.copies(alone, MessageState::Parked, high, limit)?;
        let keys = "select distinct key, min(through) from @schema@_parked_key group by key";
        let keys: Vec<(String, Position)> =
            self.scope.all(keys, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (mut positions, mut cut) = (Vec::new(), None);
        let most = COLLECTED_MAX.checked_div(keys.len()).unwrap_or(0).max(2 * limit);
        for (key, through) in keys {
            let sql = "select position from @schema@_log where key = ?1 and position > ?2 \
                       and position <= ?3 order by position desc limit ?4";
            let found: Vec<Position> =
                self.scope.all(sql, (key, through, high, most as i64), |row| row.get(0))?;
            if found.len() == most {
                // Below it nothing is known of the key.
                cut = cut.max(found.last().copied());
            }
            positions.extend(found);
        }
        positions.retain(|position| Some(*position) >= cut);
        positions.sort_unstable_by_key(|position| std::cmp::Reverse(*position));
        let mut followers = self.at(&positions, limit)?;
        followers.next = followers.next.or(cut);
        Ok(merged(copies, followers, limit))
    }
}

/// Both parts as one, each message once.
fn merged(one: Part, other: Part, limit: usize) -> Part {
    let bound = one.next.max(other.next);
    let mut all: Vec<ListedMessage> = one.found.into_iter().chain(other.found).collect();
    all.retain(|message| message.position >= bound);
    all.sort_by_key(|message| std::cmp::Reverse((message.position, message.id)));
    let mut part = Part::default();
    for message in all {
        if part.add(message, limit) {
            return part;
        }
    }
    Part { next: bound, ..part }
}

/// Scheduled messages below a number, the last one written first. Their numbers stand where positions do.
pub(super) fn scheduled(
    scope: &Scope<'_>,
    which: &MessageFilter,
    before: i64,
    limit: usize,
) -> Result<Part> {
    let sql = format!(
        "select n, {COLUMNS}, headers, deliver_at from @schema@_scheduled where n < ?1 order by n desc"
    );
    let mut statement = scope.prepare(&sql)?;
    let mut rows = statement.query(params_from_iter(iter::once(before)))?;
    let (mut part, mut examined) = (Part::default(), 0);
    while let Some(row) = rows.next()? {
        let mut message = listed(row, MessageState::Scheduled)?;
        message.deliver_at = Some(Timestamp(row.get(9)?));
        if is_meant(which, &message, row)? && part.add(message, limit) {
            break;
        }
        examined += 1;
        if examined == EXAMINED_MAX {
            part.next = Some(row.get(0)?);
            break;
        }
    }
    Ok(part)
}

/// Whether a message meets every condition but that of its state. Its headers stand behind [`COLUMNS`].
fn is_meant(which: &MessageFilter, message: &ListedMessage, row: &Row<'_>) -> Result<bool> {
    let MessageFilter { topics, key, id, correlation_id, since, until, header, .. } = which;
    let is_meant = topics.iter().all(|filter| filter.matches(&message.topic))
        && (key.is_none() || *key == message.key)
        && id.is_none_or(|id| id == message.id)
        && (correlation_id.is_none() || *correlation_id == message.correlation_id)
        && since.is_none_or(|since| message.enqueued_at.0 >= since.0)
        && until.is_none_or(|until| message.enqueued_at.0 < until.0);
    match header {
        Some(wanted) if is_meant => {
            Ok(pairs(row.get_ref(8)?.as_str().unwrap_or("{}"))?.contains(wanted))
        }
        _ => Ok(is_meant),
    }
}
