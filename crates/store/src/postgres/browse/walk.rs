//! From the newest slot to the oldest, until a page is full or enough was looked at.

use std::{collections::VecDeque, fmt::Write as _};

use futures_util::future::try_join_all;
use posthaste_core::{Position, Ring, Timestamp};
use tokio_postgres::{Row, types::Type};

use super::{
    super::rows::{self, Micros},
    Found, Part,
    places::{ParkedKeys, Readers},
    session::{Param, Session},
    texts::{Conditions, Driver, READ, SHOWN, found},
};
use crate::{MessageFilter, MessageState, Result};

/// Rows that an index may name in one slot: above it, reading by position finds a page sooner.
const DRIVEN_MAX: i64 = 4_000;
/// Rows that one page may look at, wherever they are.
const EXAMINED_MAX: i64 = 50_000;
/// Slots that are asked at once, at most: one first, then two, then four.
const SLOTS_AT_ONCE: usize = 8;
/// A time is read after the position is handed out: so far apart may two messages' times and positions be.
const SLACK_MICROS: i64 = 5_000_000;
/// Positions between which a time needs no closer look.
const NEAR: i64 = 64;
/// Positions that one look at times compares.
const LOOKS: i64 = 15;

/// One look for a page.
pub(super) struct Walk<'a> {
    pub(super) session: &'a Session,
    pub(super) which: &'a MessageFilter,
    pub(super) readers: &'a Readers,
    pub(super) conditions: Conditions,
    pub(super) drivers: Vec<Driver>,
    /// Only messages of these are looked for.
    pub(super) parked: Option<&'a ParkedKeys>,
}

/// Positions of one slot that follow each other.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    slot: i64,
    low: Position,
    high: Position,
    /// When its messages were written, if that is known.
    written: Option<(Timestamp, Timestamp)>,
    /// Whether it has the indexes of `0019_browse.sql`; without them it is read by position.
    is_indexed: bool,
}

impl Stretch {
    const fn serves(&self, driver: &Driver) -> bool {
        self.is_indexed || driver.is_always_there
    }
}

/// What a slot holds.
struct Outline {
    slot: i64,
    first: Position,
    last: Position,
    /// When its first and its last message were written, if that matters.
    written: Option<(Timestamp, Timestamp)>,
    /// Its lowest transaction and its highest, if they matter.
    xids: Option<(u64, u64)>,
    is_indexed: bool,
}

impl Outline {
    fn is_one_lap(&self, ring: Ring) -> bool {
        ring.stretch_of(self.first) == ring.stretch_of(self.last)
    }
}

/// How far a walk has come.
struct Progress {
    found: Vec<Found>,
    wanted: usize,
    /// Rows that may still be looked at.
    left: i64,
    /// The drivers, those that named too many in some slot behind those that did not.
    order: Vec<usize>,
}

impl Progress {
    fn is_full(&self) -> bool {
        self.found.len() >= self.wanted
    }

    fn demote(&mut self, driver: usize) {
        self.order.retain(|other| *other != driver);
        self.order.push(driver);
    }
}

impl Walk<'_> {
    /// The newest `wanted` messages below `before`.
    pub(super) async fn run(&self, before: Position, wanted: usize) -> Result<Part> {
        let mut stretches = self.stretches(before).await?;
        let order = (0..self.drivers.len()).collect();
        let mut progress = Progress { found: Vec::new(), wanted, left: EXAMINED_MAX, order };
        let mut at_once = 1;
        while !stretches.is_empty() && !progress.is_full() {
            let mut some: Vec<Stretch> = stretches.drain(..at_once.min(stretches.len())).collect();
            at_once = (2 * at_once).min(SLOTS_AT_ONCE);
            for stretch in &mut some {
                self.narrow(stretch).await?;
            }
            if let Some(next) = self.read(&some, &mut progress).await? {
                return self.part(progress, Some(next)).await;
            }
        }
        self.part(progress, None).await
    }

    async fn part(&self, mut progress: Progress, mut next: Option<Position>) -> Result<Part> {
        if progress.is_full() {
            next = progress.found.last().and_then(|last| last.message.position);
        }
        if self.which.state.is_none() {
            self.readers.judge(self.session, &mut progress.found).await?;
        }
        Ok(Part { found: progress.found, next })
    }

    /// What the page may be found in, the newest first.
    async fn stretches(&self, before: Position) -> Result<VecDeque<Stretch>> {
        let ring = self.session.geometry.log;
        let mut stretches = Vec::new();
        for outline in self.outlines().await? {
            if !self.may_hold(&outline) {
                continue;
            }
            let (first, last) = (outline.first, outline.last.min(before.saturating_sub(1)));
            let mut lap = ring.stretch_of(outline.last);
            while ring.end_of(lap) >= first && lap >= 0 {
                let (low, high) = (ring.start_of(lap).max(first), ring.end_of(lap).min(last));
                if low <= high {
                    let written = outline.written.filter(|_| outline.is_one_lap(ring));
                    let Outline { slot, is_indexed, .. } = outline;
                    stretches.push(Stretch { slot, low, high, written, is_indexed });
                }
                lap -= ring.slots;
            }
        }
        stretches.sort_by_key(|stretch| std::cmp::Reverse(stretch.low));
        Ok(stretches.into())
    }

    /// Whether a message of the slot may be in the state and of the time that is asked for.
    fn may_hold(&self, outline: &Outline) -> bool {
        outline.xids.is_none_or(|(min, max)| self.may_be_in_state(min, max))
            && outline.written.is_none_or(|(first, last)| {
                !outline.is_one_lap(self.session.geometry.log) || self.may_be_in_time(first, last)
            })
    }

    fn may_be_in_state(&self, min_xid: u64, max_xid: u64) -> bool {
        let readers = &self.readers.all;
        match self.which.state {
            Some(MessageState::Pending) => {
                readers.iter().any(|reader| max_xid >= reader.base.xmin())
            }
            // Where one that reads everything has not come to yet, nothing is published.
            Some(MessageState::Published) => {
                !readers.iter().any(|reader| reader.filter.is_all() && min_xid >= reader.end())
            }
            Some(MessageState::Unread) => !readers
                .iter()
                .any(|reader| reader.filter.is_all() && min_xid >= reader.start.xmax()),
            Some(MessageState::Parked) => {
                self.parked.is_none_or(|parked| max_xid >= parked.from && min_xid < parked.until)
            }
            _ => true,
        }
    }

    fn may_be_in_time(&self, first: Timestamp, last: Timestamp) -> bool {
        let is_before = |at: Timestamp, time: Timestamp| at.0.saturating_add(SLACK_MICROS) < time.0;
        !(self.which.since.is_some_and(|since| is_before(last, since))
            || self.which.until.is_some_and(|until| is_before(until, first)))
    }

    /// Leaves out the ends of a stretch that are of another time.
    async fn narrow(&self, stretch: &mut Stretch) -> Result<()> {
        if let Some(Timestamp(until)) = self.which.until {
            let time = until.saturating_add(SLACK_MICROS);
            if stretch.written.is_none_or(|(_, last)| last.0 >= time) {
                stretch.high = self.around(*stretch, time).await?.1;
            }
        }
        if let Some(Timestamp(since)) = self.which.since {
            let time = since.saturating_sub(SLACK_MICROS);
            if stretch.written.is_none_or(|(first, _)| first.0 < time) {
                stretch.low = self.around(*stretch, time).await?.0;
            }
        }
        Ok(())
    }

    /// Two positions between which messages begin to be of this time or later. Times follow positions, more or less.
    async fn around(&self, stretch: Stretch, micros: i64) -> Result<(Position, Position)> {
        let (mut low, mut high) = (stretch.low, stretch.high);
        let sql = format!(
            "select p, coalesce((select l.enqueued_at >= 'epoch'::timestamptz + $2 * interval '1 microsecond' \
             from {}.log_{} l where l.position <= p and l.position >= {} \
             order by l.position desc limit 1), false) from unnest($1::int8[]) p order by p",
            self.session.schema, stretch.slot, stretch.low
        );
        while high - low > NEAR {
            let step = (high - low) / (LOOKS + 1);
            let looks: Vec<i64> = (1..=LOOKS).map(|nth| low + nth * step.max(1)).collect();
            let params: [Param; 2] =
                [(Box::new(looks), Type::INT8_ARRAY), (Box::new(micros), Type::INT8)];
            for row in self.session.rows(&sql, &params).await? {
                let position: i64 = row.get(0);
                if row.get::<_, bool>(1) {
                    high = high.min(position);
                    break;
                }
                low = low.max(position);
            }
        }
        Ok((low, high))
    }

    /// Reads some stretches. Answers where to go on if enough was looked at before their end.
    async fn read(&self, some: &[Stretch], progress: &mut Progress) -> Result<Option<Position>> {
        let first = progress.order.first().copied();
        let (driver, wanted) = (first.map(|first| &self.drivers[first]), progress.wanted);
        let driven = try_join_all(some.iter().map(|stretch| async move {
            match driver.filter(|driver| stretch.serves(driver)) {
                Some(driver) => self.driven(driver, *stretch, wanted).await.map(Some),
                None => Ok(None),
            }
        }))
        .await?;
        for (stretch, driven) in some.iter().zip(driven) {
            if progress.left <= 0 {
                return Ok(Some(stretch.high.saturating_add(1)));
            }
            if let Some(next) = self.read_one(*stretch, first, driven, progress).await? {
                return Ok(Some(next));
            }
            if progress.is_full() {
                break;
            }
        }
        Ok(None)
    }

    /// By an index that names few enough, else by position. `driven` is what the driver `first` has named.
    async fn read_one(
        &self,
        mut stretch: Stretch,
        first: Option<usize>,
        mut driven: Option<(i64, Vec<Found>)>,
        progress: &mut Progress,
    ) -> Result<Option<Position>> {
        let others = progress.order.iter().copied().filter(|nth| Some(*nth) != first);
        let order: Vec<usize> = first.into_iter().chain(others).collect();
        for nth in order {
            let driver = &self.drivers[nth];
            if !stretch.serves(driver) {
                continue;
            }
            loop {
                let (named, found) = match driven.take() {
                    Some(driven) => driven,
                    None => self.driven(driver, stretch, progress.wanted).await?,
                };
                progress.left -= named;
                if named > DRIVEN_MAX {
                    progress.demote(nth);
                    break;
                }
                let is_all = found.len() < progress.wanted;
                let last = found.last().and_then(|last| last.message.position);
                self.keep(found, progress).await?;
                match last {
                    Some(last) if !is_all && !progress.is_full() => stretch.high = last - 1,
                    _ => return Ok(None),
                }
            }
        }
        self.scan(stretch, progress).await
    }

    /// Reads a stretch by position, the highest first.
    async fn scan(&self, stretch: Stretch, progress: &mut Progress) -> Result<Option<Position>> {
        let mut high = stretch.high;
        while high >= stretch.low {
            if progress.left <= 0 {
                return Ok(Some(high.saturating_add(1)));
            }
            let low = stretch.low.max(high.saturating_sub(progress.left - 1));
            let found = self.scanned(Stretch { low, high, ..stretch }, progress.wanted).await?;
            let is_all = found.len() < progress.wanted;
            let last = found.last().and_then(|last| last.message.position).unwrap_or(low);
            self.keep(found, progress).await?;
            if progress.is_full() {
                return Ok(None);
            }
            let reached = if is_all { low } else { last };
            progress.left -= high - reached + 1;
            high = reached - 1;
        }
        Ok(None)
    }

    /// Adds what is in the state that is asked for.
    async fn keep(&self, mut found: Vec<Found>, progress: &mut Progress) -> Result<()> {
        if let Some(state) = self.which.state {
            self.readers.judge(self.session, &mut found).await?;
            found.retain(|it| it.message.state == state);
        }
        progress.found.append(&mut found);
        Ok(())
    }

    /// What an index names in a slot, how many up to one more than may be, and those of them that are meant.
    async fn driven(
        &self,
        driver: &Driver,
        stretch: Stretch,
        wanted: usize,
    ) -> Result<(i64, Vec<Found>)> {
        let Stretch { slot, low, high, .. } = stretch;
        let schema = &self.session.schema;
        let columns = self.columns();
        let most = DRIVEN_MAX + 1;
        let mut named = String::new();
        for condition in &driver.any_of {
            let union = if named.is_empty() { "" } else { " union all " };
            let _ = write!(
                named,
                "{union}(select {columns} from {schema}.log_{slot} where {condition} limit {most})"
            );
        }
        let sql = format!(
            "with c as materialized (select * from ({named}) n limit {most}) \
             select n.named, {SHOWN} from (select count(*) as named from c) n \
             left join lateral (select * from c m where m.position >= {low} and m.position <= {high} \
               and {} order by m.position desc limit {wanted}) m on true",
            self.conditions.text
        );
        let rows = self.session.rows(&sql, &self.conditions.params).await?;
        let named = rows.first().map_or(0, |row| row.get(0));
        Ok((named, rows.iter().filter_map(|row| shown(row, 1)).collect()))
    }

    async fn scanned(&self, stretch: Stretch, wanted: usize) -> Result<Vec<Found>> {
        let Stretch { slot, low, high, .. } = stretch;
        // The fence keeps the planner from another index, which it may believe to be better.
        let sql = format!(
            "select {SHOWN} from (select {} from {}.log_{slot} where position >= {low} \
             and position <= {high} order by position desc offset 0) m \
             where {} order by m.position desc limit {wanted}",
            self.columns(),
            self.session.schema,
            self.conditions.text
        );
        let rows = self.session.rows(&sql, &self.conditions.params).await?;
        Ok(rows.iter().filter_map(|row| shown(row, 0)).collect())
    }

    /// What the slots hold, those that hold something: two or four probes of indexes for each. To plan them takes
    /// longer than to run them, so there are no more than are needed.
    async fn outlines(&self) -> Result<Vec<Outline>> {
        let Session { schema, geometry, .. } = self.session;
        let has_times = self.which.since.is_some() || self.which.until.is_some();
        let (time, times) = if has_times {
            (", enqueued_at", "f.enqueued_at, l.enqueued_at")
        } else {
            ("", "null::timestamptz, null::timestamptz")
        };
        let mut sql = String::new();
        for slot in 0..geometry.log.slots {
            let log = format!("{schema}.log_{slot}");
            let (xids, of_xids) = if self.which.state.is_some() {
                let of_xids = format!(
                    ", (select xid from {log} g order by g.xid limit 1) x, \
                     (select xid from {log} g order by g.xid desc limit 1) y"
                );
                ("x.xid::text, y.xid::text", of_xids)
            } else {
                ("null::text, null::text", String::new())
            };
            let union = if slot == 0 { "" } else { " union all " };
            let _ = write!(
                sql,
                "{union}select {slot}::int8, f.position, l.position, \
                 to_regclass('{log}_by_id') is not null, {times}, {xids} \
                 from (select position{time} from {log} order by position limit 1) f, \
                 (select position{time} from {log} order by position desc limit 1) l{of_xids}"
            );
        }
        self.session.rows(&sql, &[]).await?.iter().map(outline).collect()
    }

    fn columns(&self) -> String {
        let headers = if self.conditions.has_header { ", headers" } else { "" };
        format!("position, xid, {READ}{headers}")
    }
}

/// `None` for the row that stands for none.
fn shown(row: &Row, at: usize) -> Option<Found> {
    row.get::<_, Option<i64>>(at)?;
    Some(found(row, at, MessageState::Unread))
}

fn outline(row: &Row) -> Result<Outline> {
    let time = |at| row.get::<_, Option<Micros>>(at).map(|time| Timestamp(time.0));
    let xid = |at| row.get::<_, Option<&str>>(at).map(rows::xid).transpose();
    Ok(Outline {
        slot: row.get(0),
        first: row.get(1),
        last: row.get(2),
        is_indexed: row.get(3),
        written: time(4).zip(time(5)),
        xids: xid(6)?.zip(xid(7)?),
    })
}
