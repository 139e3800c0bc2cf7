//! What the database answers about ticks, windows and pages, from the model's rows.

use std::sync::Arc;

use posthaste_core::{
    MessageRef, Page, PageLimit, Position, Snapshot, Step, Tick, TickRef, Timestamp, TopicFilter,
    Window, window::main_xids,
};
use posthaste_store::{Result, StoreError, StoreErrorKind};
use rand::Rng as _;
use uuid::Uuid;

use super::{
    broken::Broken,
    contracts,
    model::Row,
    plan::Plan,
    world::{Body, State},
};

/// Commits the next tick. Its commit makes durable what its snapshot shows.
pub(crate) fn commit_tick(state: &mut State, snapshot: Snapshot) -> Tick {
    let id = Uuid::from_u128(state.dice("tick").random());
    let at = TickRef { n: state.ticks.len() as i64, id };
    let tick = Tick { at, snapshot };
    state.ticks.push(tick.clone());
    state.database.burn_xid();
    if !state.is_broken(Broken::TickNotDurable) {
        state.database.sync();
    }
    tick
}

/// The window between two ticks.
pub(crate) fn window(
    state: &mut State,
    base: TickRef,
    head: Option<TickRef>,
) -> Result<Option<Arc<Window>>> {
    let base = tick(state, base)?;
    let newest = state.ticks.last().expect("the virtual tick is there").at;
    let head = tick(state, head.unwrap_or(newest))?;
    if head.at.n <= base.at.n {
        return Ok(None);
    }
    let window = bounds(state, base, head);
    Ok(Some(Arc::new(window)))
}

fn tick(state: &State, at: TickRef) -> Result<Tick> {
    let found = state.ticks.get(at.n as usize).filter(|tick| tick.at == at);
    let rewound = || StoreError::new(StoreErrorKind::Rewound, format!("tick {} is gone", at.n));
    found.cloned().ok_or_else(rewound)
}

/// The bounds query.
pub(crate) fn bounds(state: &mut State, base: Tick, head: Tick) -> Window {
    let range = main_xids(&base.snapshot, &head.snapshot);
    let rows = state.database.rows();
    let inside = |xid: u64| range.contains(&xid) && head.snapshot.shows(xid);
    let positions = rows.iter().filter(|row| inside(row.xid)).map(|row| row.position);
    let main = positions.clone().min().zip(positions.max());
    let mut late = base.snapshot.late_at(&head.snapshot);
    late.retain(|xid| rows.iter().any(|row| row.xid == *xid));
    if state.is_broken(Broken::WindowWithoutLate) {
        late.clear();
    }
    state.tally.late += late.len() as u64;
    Window { base, head, main, late }
}

/// A page, as the store reads it; its stride varies as the store's hint does.
pub(crate) fn read(
    state: &mut State,
    window: &Window,
    after: Position,
    filter: &TopicFilter,
    limit: PageLimit,
) -> Option<Page> {
    let mut dice = state.dice(("read", window.base.at, window.head.at, after));
    let stride = dice.random_range((limit.stride / 2).max(1)..=limit.stride);
    let (after, through) = match window.step(after, stride) {
        Step::Done => return None,
        Step::Read { after, through } => (after, through),
        Step::SeekLate { after } => {
            let rows = state.database.rows().iter();
            let late = rows.filter(|row| window.late.contains(&row.xid) && row.position > after);
            let next = late.map(|row| row.position).min();
            let resumed = window.resume_at(after, next)?;
            (resumed, resumed + stride)
        }
    };
    let skips = state.is_broken(Broken::PageSkips) && dice.random_bool(0.05);
    Some(fill(state, window, after..through, filter, None, limit.bytes, skips))
}

/// The messages of one key, all that lie above `after`.
pub(crate) fn read_key(
    state: &mut State,
    window: &Window,
    after: Position,
    filter: &TopicFilter,
    key: &str,
    limit: PageLimit,
) -> Option<Page> {
    if window.is_empty() || window.step(after, limit.stride) == Step::Done {
        return None;
    }
    let all = after..Position::MAX;
    Some(fill(state, window, all, filter, Some(key), limit.bytes, false))
}

fn fill(
    state: &State,
    window: &Window,
    range: std::ops::Range<Position>,
    filter: &TopicFilter,
    key: Option<&str>,
    bytes: usize,
    skips: bool,
) -> Page {
    let main = main_xids(&window.base.snapshot, &window.head.snapshot);
    let shown = |xid: u64| main.contains(&xid) && window.head.snapshot.shows(xid);
    let mut rows: Vec<_> = state
        .database
        .rows()
        .iter()
        .filter(|row| row.position > range.start && row.position <= range.end)
        .filter(|row| filter.matches(row.body.topic))
        .filter(|row| key.is_none() || row.body.key.as_deref() == key)
        .filter(|row| shown(row.xid) || window.late.contains(&row.xid))
        .collect();
    rows.sort_by_key(|row| row.position);
    if skips {
        rows.pop();
    }
    let mut page = Page::new(range.end);
    for row in rows {
        page.push(&message(&state.plan, row));
        if page.bytes() >= bytes {
            page.cut(row.position);
            break;
        }
    }
    page
}

/// A row as a page holds it.
pub(crate) fn message<'a>(plan: &Plan, row: &'a Row<Body>) -> MessageRef<'a> {
    MessageRef {
        id: row.body.id,
        position: row.position,
        enqueued_at: Timestamp(0),
        topic: row.body.topic,
        key: row.body.key.as_deref(),
        content_type: "text/plain",
        correlation_id: None,
        headers: contracts::headers(plan, &row.body),
        payload: contracts::PAYLOAD,
    }
}
