//! Reading the log: a window's bounds once, then pages by strides of position.
//!
//! The slots are addressed by name: windows prune no partition, and planning over all of them
//! costs more than the query. Numbers and snapshots stand in the text as literals; they come from
//! parsed values and hold digits, colons and commas only.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use futures_util::{TryStreamExt, pin_mut};
use posthaste_core::{
    Message, MessageId, Page, PageLimit, Position, SchemaName, Snapshot, Step, Tick, TickRef,
    TopicFilter, Window, window::main_xids,
};
use tokio_postgres::{
    Transaction,
    types::{ToSql, Type},
};

use super::{
    PostgresStore,
    connect::{self, Loan},
    rows, strict,
};
use crate::{
    Result, StoreError, StoreErrorKind, defect,
    statements::{PostgresWriter, array_literal},
};

/// What a window's bounds query found.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) main: Option<(Position, Position)>,
    pub(super) late: Vec<u64>,
}

/// The stride that lately filled a page, shared by all readers of a store: 0 = not known yet.
#[derive(Debug, Default)]
pub(super) struct StrideHint(AtomicI64);

impl StrideHint {
    fn stride(&self, limit: PageLimit) -> i64 {
        match self.0.load(Ordering::Relaxed) {
            0 => limit.stride,
            hint => hint.clamp(1, limit.stride),
        }
    }

    /// Aims the next page at three quarters of the byte limit; a page without messages says
    /// nothing of their size.
    fn learn(&self, span: i64, bytes: usize, limit: PageLimit) {
        let per_position = bytes as i64 / span.max(1);
        let fitting = (limit.bytes as i64 * 3 / 4).checked_div(per_position).unwrap_or(0);
        self.0.store(fitting.max(i64::from(per_position > 0)), Ordering::Relaxed);
    }
}

impl PostgresStore {
    /// The highest position handed out. The sequence is not transactional: this is at least the
    /// position of every message visible in a snapshot taken before.
    pub(super) async fn last_position(&self, loan: &Loan) -> Result<Position> {
        let sql = format!("select last_value from {}.log_position_seq", self.schema());
        let rows =
            loan.bounded("read the log's head", loan.client().query_typed(&sql, &[])).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    /// Reads a tick and checks that it is the one meant.
    pub(super) async fn tick(&self, loan: &Loan, at: TickRef) -> Result<Tick> {
        let [tick] = self.ticks(loan, [at]).await?;
        Ok(tick)
    }

    /// Reads ticks, in one statement, and checks that they are the ones meant.
    pub(super) async fn ticks<const N: usize>(
        &self,
        loan: &Loan,
        all: [TickRef; N],
    ) -> Result<[Tick; N]> {
        let ring = self.geometry(loan).await?.tick;
        let of_one = |(nth, at): (usize, &TickRef)| {
            let (schema, slot) = (self.schema(), ring.slot_of(at.n));
            format!("select {nth}, id, snapshot::text from {schema}.tick_{slot} where n = {}", at.n)
        };
        let asked = all.iter().enumerate().filter(|(_, at)| **at != TickRef::BEGINNING);
        let sql: Vec<String> = asked.map(of_one).collect();
        let rows = if sql.is_empty() {
            Vec::new()
        } else {
            let sql = sql.join(" union all ");
            loan.bounded("read ticks", loan.client().query_typed(&sql, &[])).await?
        };
        let mut ticks = all.map(|_| Tick::beginning());
        for (nth, (tick, at)) in ticks.iter_mut().zip(all).enumerate() {
            if at != TickRef::BEGINNING {
                let row = rows.iter().find(|row| row.get::<_, i32>(0) as usize == nth);
                *tick = self.meant(at, row.map(|row| (row.get(1), row.get(2))))?;
            }
        }
        Ok(ticks)
    }

    /// The tick, if what was found in its place, an id and a snapshot, is the one that is meant.
    fn meant(&self, at: TickRef, found: Option<(uuid::Uuid, &str)>) -> Result<Tick> {
        match found {
            Some((id, snapshot)) if id == at.id || defect::is("reused-position") => {
                Ok(Tick { at, snapshot: rows::snapshot(snapshot)? })
            }
            None if defect::is("reused-position") => {
                Err(StoreError::new(StoreErrorKind::Unavailable, "read a tick: not there yet"))
            }
            found => {
                let what = if found.is_some() { "has another id" } else { "does not exist" };
                let doing = format!("tick {} of {} {what}", at.n, self.shared.description);
                Err(StoreError::new(StoreErrorKind::Rewound, doing))
            }
        }
    }

    /// The newest tick, or the virtual one before the first.
    pub(super) async fn newest_tick(&self, loan: &Loan) -> Result<Tick> {
        let sql = format!(
            "select n, id, snapshot::text from {}.tick order by n desc limit 1",
            self.schema()
        );
        let rows =
            loan.bounded("read the newest tick", loan.client().query_typed(&sql, &[])).await?;
        rows.first().map_or_else(
            || Ok(Tick::beginning()),
            |row| {
                let at = TickRef { n: row.get(0), id: row.get(1) };
                Ok(Tick { at, snapshot: rows::snapshot(row.get(2))? })
            },
        )
    }

    /// Finds what lies between two snapshots: once per window, and before each tick.
    pub(super) async fn bounds(
        &self,
        loan: &Loan,
        base: &Snapshot,
        head: &Snapshot,
    ) -> Result<Bounds> {
        let ring = self.geometry(loan).await?.log;
        let last = self.last_position(loan).await?;
        let slots = self.live_slots(ring, base, last);
        if slots.is_empty() {
            return Ok(Bounds { main: None, late: Vec::new() });
        }
        let sql = bounds_sql(self.schema().as_str(), &slots, base, head);
        let rows =
            loan.bounded("find a window's bounds", loan.client().query_typed(&sql, &[])).await?;
        let Some(row) = rows.first() else { return Ok(Bounds { main: None, late: Vec::new() }) };
        let (low, high): (Option<i64>, Option<i64>) = (row.get(0), row.get(1));
        let late: Vec<String> = row.get(2);
        Ok(Bounds {
            main: low.zip(high),
            late: late
                .iter()
                .filter(|_| !defect::is("id-watermark"))
                .map(|xid| rows::xid(xid))
                .collect::<Result<_>>()?,
        })
    }

    /// The lowest position above `after` of the window's late transactions.
    async fn next_late(
        &self,
        loan: &Loan,
        window: &Window,
        after: Position,
    ) -> Result<Option<i64>> {
        let ring = self.geometry(loan).await?.log;
        let last = self.last_position(loan).await?;
        let mut sql = String::from("select min(position) from (");
        for (nth, slot) in self.live_slots(ring, &window.base.snapshot, last).iter().enumerate() {
            let union = if nth == 0 { "" } else { " union all " };
            // Served by (xid, position): one probe per late transaction and slot.
            let _ = write!(
                sql,
                "{union}select m.position from unnest('{{{}}}'::xid8[]) x cross join lateral \
                 (select position from {}.log_{slot} where xid = x and position > {after} \
                 order by position limit 1) m",
                list(&window.late),
                self.schema()
            );
        }
        sql.push_str(") s");
        let rows =
            loan.bounded("seek a late message", loan.client().query_typed(&sql, &[])).await?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }
}

/// The window between two ticks, with its bounds.
pub(super) async fn window(
    store: &PostgresStore,
    base: TickRef,
    head: Option<TickRef>,
) -> Result<Option<Arc<Window>>> {
    let loan = store.shared.connections.lend().await?;
    let [base, head] = match head {
        Some(head) => store.ticks(&loan, [base, head]).await?,
        None => [store.tick(&loan, base).await?, store.newest_tick(&loan).await?],
    };
    if head.at.n <= base.at.n {
        loan.give_back();
        return Ok(None);
    }
    let Bounds { main, late } = store.bounds(&loan, &base.snapshot, &head.snapshot).await?;
    loan.give_back();
    Ok(Some(Arc::new(Window { base, head, main, late })))
}

/// Which messages of a window are read.
#[derive(Clone, Copy)]
pub(super) struct Selection<'a> {
    pub(super) filter: &'a TopicFilter,
    /// The ordering key, if only one is read.
    pub(super) key: Option<&'a str>,
}

/// The next page of `window` above `after`.
pub(super) async fn read(
    store: &PostgresStore,
    window: &Window,
    after: Position,
    selection: Selection<'_>,
    limit: PageLimit,
) -> Result<Option<Page>> {
    // What is known of the messages' sizes says nothing of how many have one key.
    let stride = match selection.key {
        None => store.shared.stride.stride(limit),
        Some(_) => limit.stride,
    };
    let (after, through) = match window.step(after, stride) {
        Step::Done => return Ok(None),
        Step::Read { after, through } => (after, through),
        Step::SeekLate { after } => {
            let loan = store.shared.connections.lend().await?;
            let next = store.next_late(&loan, window, after).await?;
            loan.give_back();
            match window.resume_at(after, next) {
                None => return Ok(None),
                Some(resume) => (resume, resume.saturating_add(stride)),
            }
        }
    };
    let loan = store.shared.connections.lend().await?;
    let ring = store.geometry(&loan).await?.log;
    let slots = ring.slots_between(after + 1, through);
    let sql = page_sql(store.schema().as_str(), &slots, window, after..through, selection);
    let mut page = Page::new(through);
    let is_whole = fill(&loan, &sql, selection, limit, &mut page).await?;
    // A page that met its byte limit leaves rows unread: its connection is closed, not reused.
    if is_whole {
        loan.give_back();
    }
    if selection.key.is_none() {
        store.shared.stride.learn(page.through() - after, page.bytes(), limit);
    }
    Ok(Some(page))
}

/// Reads rows into `page` until its byte limit is met; false when rows were left unread.
async fn fill(
    loan: &Loan,
    sql: &str,
    selection: Selection<'_>,
    limit: PageLimit,
    page: &mut Page,
) -> Result<bool> {
    let (exact, prefixes) = (selection.filter.exact(), selection.filter.prefixes());
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&exact, Type::TEXT_ARRAY), (&prefixes, Type::TEXT_ARRAY), (&selection.key, Type::TEXT)];
    // As many as the text of the page names.
    let params = match (selection.key, selection.filter.is_all()) {
        (Some(_), _) => params,
        (None, false) => &params[..2],
        (None, true) => &[],
    };
    // One time-out for the page: a timer for each row would cost more than the row.
    let read = async {
        let rows = loan.client().query_typed_raw(sql, params.iter().cloned()).await?;
        pin_mut!(rows);
        while let Some(row) = rows.try_next().await? {
            let message = rows::message(&row)?;
            if !page.has_room_for(&message, limit.bytes) {
                page.cut(message.position - 1);
                return Ok(false);
            }
            page.push(&message);
        }
        Ok(true)
    };
    loan.bounded("read a page", read).await
}

/// Writes messages in a transaction of their own.
pub(super) async fn append(store: &PostgresStore, messages: &[Message]) -> Result<Vec<MessageId>> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let mut loan = store.shared.connections.lend().await?;
    let bound = loan.operation_timeout();
    let work = async {
        let transaction = loan.begin_impatiently().await?;
        let written = write(&transaction, store.schema(), messages).await?;
        transaction.commit().await?;
        Ok(written)
    };
    let ids = connect::bounded(bound, "append messages", work).await;
    let ids = ids.map_err(|error| strict::of_one(error, messages.len()))?;
    loan.give_back();
    Ok(ids)
}

/// Writes messages in `transaction`, with their keys locked where a topic is strict, and answers
/// the ids that stand for them.
pub(super) async fn write(
    transaction: &Transaction<'_>,
    schema: &SchemaName,
    messages: &[Message],
) -> Result<Vec<MessageId>, tokio_postgres::Error> {
    let ids: Vec<MessageId> =
        messages.iter().map(|m| m.message_id().unwrap_or_else(uuid::Uuid::now_v7)).collect();
    let topics: Vec<&str> = messages.iter().map(Message::topic).collect();
    let keys: Vec<Option<&str>> = messages.iter().map(Message::ordering_key).collect();
    let payloads: Vec<&[u8]> = messages.iter().map(Message::payload).collect();
    let types: Vec<&str> = messages.iter().map(Message::media_type).collect();
    let headers: Vec<String> = messages.iter().map(|m| array_literal(m.header_pairs())).collect();
    let correlations: Vec<Option<&str>> = messages.iter().map(Message::correlation).collect();
    let tokens: Vec<Option<&str>> = messages.iter().map(Message::idempotency_token).collect();
    let dues: Vec<Option<i64>> =
        messages.iter().map(|message| message.due().map(|due| due.0)).collect();
    let params: &[(&(dyn ToSql + Sync), Type)] = &[
        (&ids, Type::UUID_ARRAY),
        (&topics, Type::TEXT_ARRAY),
        (&keys, Type::TEXT_ARRAY),
        (&payloads, Type::BYTEA_ARRAY),
        (&types, Type::TEXT_ARRAY),
        (&headers, Type::TEXT_ARRAY),
        (&correlations, Type::TEXT_ARRAY),
        (&tokens, Type::TEXT_ARRAY),
        (&dues, Type::INT8_ARRAY),
    ];
    let writer = PostgresWriter::new(schema);
    // A statement of its own, as `lock_keys` asks; nothing where no topic is strict.
    let lock_keys =
        format!("{} where exists (select from {schema}.strict_topic)", writer.lock_keys);
    transaction.execute_typed(&lock_keys, &[(&keys, Type::TEXT_ARRAY)]).await?;
    if tokens.iter().all(Option::is_none) && dues.iter().all(Option::is_none) {
        transaction.execute_typed(&writer.insert_many, &params[..7]).await?;
        return Ok(ids);
    }
    let rows = transaction.query_typed(&writer.write_each, params).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The bounds of a window over `slots`.
fn bounds_sql(schema: &str, slots: &[i64], base: &Snapshot, head: &Snapshot) -> String {
    let main = main_xids(base, head);
    let mut sql = String::from("select min(s.position), max(s.position), ");
    let late = list(&base.late_at(head));
    if late.is_empty() {
        sql.push_str("'{}'::text[]");
    } else {
        // One probe of (xid, position) per late transaction and slot.
        let _ = write!(
            sql,
            "(select coalesce(array_agg(x::text), '{{}}') from unnest('{{{late}}}'::xid8[]) x where "
        );
        for (nth, slot) in slots.iter().enumerate() {
            let or = if nth == 0 { "" } else { " or " };
            let _ = write!(sql, "{or}exists (select from {schema}.log_{slot} where xid = x)");
        }
        sql.push(')');
    }
    sql.push_str(" from (");
    for (nth, slot) in slots.iter().enumerate() {
        let union = if nth == 0 { "" } else { " union all " };
        // A range of (xid, position).
        let _ = write!(
            sql,
            "{union}select position from {schema}.log_{slot} where xid >= '{}'::xid8 \
             and xid < '{}'::xid8 and pg_visible_in_snapshot(xid, '{head}')",
            main.start, main.end
        );
    }
    // `offset 0` fences the aggregate: with a plain `min(position)` the planner may walk every
    // retained row in position order until the first one of the window.
    sql.push_str(" offset 0) s");
    sql
}

/// One page, `range.start` exclusive, `range.end` inclusive, with `$1` exact topics and `$2`
/// prefixes unless all topics are read, and `$3` the key if one is.
fn page_sql(
    schema: &str,
    slots: &[i64],
    window: &Window,
    range: std::ops::Range<Position>,
    selection: Selection<'_>,
) -> String {
    let main = main_xids(&window.base.snapshot, &window.head.snapshot);
    let head = &window.head.snapshot;
    let topics = match (selection.key, selection.filter.is_all()) {
        (None, true) => "",
        (None, false) => " and (topic = any($1::text[]) or topic ^@ any($2::text[]))",
        (Some(_), _) => " and key = $3 and (topic = any($1::text[]) or topic ^@ any($2::text[]))",
    };
    let (mut columns, mut order) = (rows::MESSAGE_COLUMNS.to_owned(), "1");
    if defect::is("order-by-xid") {
        columns.push_str(", xid");
        order = "xid";
    }
    let mut sql = String::with_capacity(1_024);
    for slot in slots {
        let union = if sql.is_empty() { "" } else { " union all " };
        // A range of the unique index on position.
        let _ = write!(
            sql,
            "{union}select {columns} from {schema}.log_{slot} where position > {} \
             and position <= {} and xid >= '{}'::xid8 and xid < '{}'::xid8 \
             and pg_visible_in_snapshot(xid, '{head}'){topics}",
            range.start, range.end, main.start, main.end
        );
        if !window.late.is_empty() {
            let _ = write!(
                sql,
                " union all select {columns} from {schema}.log_{slot} \
                 where xid = any('{{{}}}'::xid8[]) and position > {} and position <= {}{topics}",
                list(&window.late),
                range.start,
                range.end
            );
        }
    }
    let _ = write!(sql, " order by {order}");
    sql
}

fn list(xids: &[u64]) -> String {
    let texts: Vec<String> = xids.iter().map(u64::to_string).collect();
    texts.join(",")
}
