//! Operations in the background. Every call that changes something runs under the write lock, so that what a row says
//! of its runner cannot change before the commit.

use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::{Position, Timestamp};
use rusqlite::Row;
use serde_json::{Value, json};

use super::{
    SqliteStore, aside, clock,
    operations::{self, copy, is_there},
    oversight::{self, page, time},
    session::Scope,
    subscriptions::uuid,
};
use crate::{
    Advanced, Background, COUNTED_MAX, DeadLetterPlace, KEPT_MAX, Operation, OperationBegun,
    OperationCancelled, OperationClaim, OperationId, OperationKind, OperationSpec, OperationState,
    Order, ReplayChunk, Request, Result, StoreError, StoreErrorKind, UNFINISHED_MAX,
    background::{from_json, pace, to_json},
};

/// What [`read`] reads, in its order.
const COLUMNS: &str = "id, n, kind, spec, actor, state, is_cancel_wanted, total, done, runner, \
                       problem, began_at, ended_at";

#[async_trait]
impl Background for SqliteStore {
    async fn begin_operation(
        &self,
        spec: &OperationSpec,
        request: &Request,
    ) -> Result<OperationBegun> {
        let counted = spec.clone();
        let counting = self.observe("count messages", move |scope| concerns(scope, &counted));
        let (total, through) = counting.await?;
        if request.is_dry_run {
            return Ok(OperationBegun::WouldConcern(total));
        }
        let (spec, actor) = (spec.clone(), request.actor.clone());
        self.write("begin an operation", move |scope| begin(scope, &spec, &actor, total, through))
            .await
    }

    async fn operations(&self, before: Option<i64>, limit: u32) -> Result<Vec<Operation>> {
        self.observe("read the operations", move |scope| {
            let sql = format!(
                "select {COLUMNS} from @schema@_operation where n < ?1 order by n desc limit {limit}"
            );
            let all = scope.all(&sql, [before.unwrap_or(i64::MAX)], read)?;
            all.into_iter().map(Stored::operation).collect()
        })
        .await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        self.observe("read an operation", move |scope| find(scope, id)).await
    }

    async fn cancel_operation(
        &self,
        id: OperationId,
        request: &Request,
    ) -> Result<OperationCancelled> {
        let request = request.clone();
        self.write("cancel an operation", move |scope| {
            let Some(found) = find(scope, id)? else { return Ok(OperationCancelled::Unknown) };
            if found.state.is_over() {
                return Ok(OperationCancelled::Over(found.state));
            }
            if !request.is_dry_run {
                let sql = "update @schema@_operation set is_cancel_wanted = 1 where n = ?1";
                scope.run(sql, [found.n])?;
                let detail = json!({ "operation": id.to_string() });
                note(scope, &found, "cancel operation", &request.actor, &detail)?;
            }
            Ok(OperationCancelled::Wanted)
        })
        .await
    }

    async fn claim_operation(
        &self,
        runner: &str,
        lease: Duration,
    ) -> Result<Option<OperationClaim>> {
        let is_free = "select exists (select 1 from @schema@_operation where ended_at is null)";
        // The look waits for no lock.
        let look = self.observe("look for operations", move |scope| {
            Ok(scope.first(is_free, [], |row| row.get(0))?.unwrap_or(false))
        });
        if !look.await? {
            return Ok(None);
        }
        let runner = runner.to_owned();
        self.write("take up an operation", move |scope| claim(scope, &runner, lease)).await
    }

    async fn advance_operation(
        &self,
        claim: &OperationClaim,
        rows_max: u32,
        lease: Duration,
    ) -> Result<Advanced> {
        let claim = claim.clone();
        self.write("go on with an operation", move |scope| advance(scope, &claim, rows_max, lease))
            .await
    }

    async fn release_operation(&self, claim: &OperationClaim) -> Result<()> {
        let (id, epoch) = (claim.operation.id, claim.epoch);
        self.write("give an operation up", move |scope| {
            let sql = "update @schema@_operation set lease_until = null \
                       where id = ?1 and epoch = ?2";
            scope.run(sql, (id.as_bytes(), epoch)).map(drop)
        })
        .await
    }

    async fn fail_operation(&self, claim: &OperationClaim, problem: &str) -> Result<()> {
        let (claim, problem) = (claim.clone(), problem.to_owned());
        self.write("end an operation", move |scope| {
            if hold(scope, &claim)?.is_some() {
                end(scope, &claim, OperationState::Failed, Some(&problem))?;
            }
            Ok(())
        })
        .await
    }
}

/// How many messages an operation concerns now, and up to which position of the log.
fn concerns(scope: &Scope<'_>, spec: &OperationSpec) -> Result<(Option<u64>, Position)> {
    if spec.kind != OperationKind::ReplayMessages {
        return Ok((Some(oversight::count(scope, &spec.filter)?), 0));
    }
    let preview = Request { actor: String::new(), is_dry_run: true, is_forced: false };
    let chunk = ReplayChunk { limit: COUNTED_MAX, ..ReplayChunk::default() };
    let target = spec.target.as_deref().unwrap_or_default();
    let counted = operations::replay(scope, &spec.filter.which, target, &chunk, &preview)?;
    let is_whole = counted.messages < u64::from(COUNTED_MAX);
    Ok((is_whole.then_some(counted.messages), counted.through))
}

fn begin(
    scope: &Scope<'_>,
    spec: &OperationSpec,
    actor: &str,
    total: Option<u64>,
    through: Position,
) -> Result<OperationBegun> {
    let unfinished = "select count(*) from @schema@_operation where ended_at is null";
    let unfinished = scope.first(unfinished, [], |row| row.get::<_, u32>(0))?.unwrap_or_default();
    if unfinished >= UNFINISHED_MAX {
        return Ok(OperationBegun::TooMany);
    }
    let forget = format!(
        "delete from @schema@_operation where ended_at is not null and n <= (\
         select n from @schema@_operation where ended_at is not null \
         order by n desc limit 1 offset {KEPT_MAX})"
    );
    scope.run(&forget, [])?;
    let (id, now, text) = (OperationId::now_v7(), clock::look(scope)?, to_json(spec));
    scope.run(
        "insert into @schema@_operation (id, kind, spec, actor, total, through, began_at, next_at) \
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
        (
            id.as_bytes(),
            spec.kind.as_str(),
            &text,
            actor,
            total.map(u64::cast_signed),
            through,
            now,
        ),
    )?;
    let Some(begun) = find(scope, id)? else { return Err(gone()) };
    let filter: Value = serde_json::from_str(&text).unwrap_or_default();
    let detail = json!({
        "operation": id.to_string(), "state": "begun", "filter": filter, "messages": total,
    });
    note(scope, &begun, spec.kind.action(), actor, &detail)?;
    Ok(OperationBegun::Begun(Box::new(begun)))
}

fn claim(scope: &Scope<'_>, runner: &str, lease: Duration) -> Result<Option<OperationClaim>> {
    let now = clock::look(scope)?;
    let free = "select n from @schema@_operation where ended_at is null \
                and (lease_until is null or lease_until <= ?1) order by n limit 1";
    let Some(n) = scope.first(free, [now], |row| row.get::<_, i64>(0))? else { return Ok(None) };
    scope.run(
        "update @schema@_operation set epoch = epoch + 1, runner = ?2, state = 'running', \
         lease_until = ?3 where n = ?1",
        (n, runner, now.saturating_add(micros(lease))),
    )?;
    let sql = format!("select {COLUMNS}, epoch from @schema@_operation where n = ?1");
    let claimed = scope.first(&sql, [n], |row| Ok((read(row)?, row.get(13)?)))?;
    let Some((stored, epoch)) = claimed else { return Ok(None) };
    Ok(Some(OperationClaim { operation: stored.operation()?, epoch }))
}

/// What an operation's row says.
struct Held {
    is_cancel_wanted: bool,
    next_at: i64,
    began_at: Timestamp,
    /// Behind which message it goes on.
    after: DeadLetterPlace,
    /// Up to which position of the log.
    through: Position,
}

/// What a piece did.
#[derive(Default)]
struct Piece {
    /// Messages that it came upon.
    seen: u64,
    /// Those of them that are as the operation wants them now.
    changed: u64,
    /// The last message that it came upon.
    after: Option<DeadLetterPlace>,
}

/// The row, if the operation is still the runner's and not over.
fn hold(scope: &Scope<'_>, claim: &OperationClaim) -> Result<Option<Held>> {
    let sql = "select is_cancel_wanted, next_at, began_at, after_failed_at, after_subscription, \
               after_position, after_id, through from @schema@_operation \
               where id = ?1 and epoch = ?2 and ended_at is null";
    scope.first(sql, (claim.operation.id.as_bytes(), claim.epoch), |row| {
        Ok(Held {
            is_cancel_wanted: row.get(0)?,
            next_at: row.get(1)?,
            began_at: Timestamp(row.get(2)?),
            after: DeadLetterPlace {
                failed_at: Timestamp(row.get(3)?),
                subscription: row.get(4)?,
                position: row.get(5)?,
                id: uuid(row, 6)?,
            },
            through: row.get(7)?,
        })
    })
}

fn advance(
    scope: &Scope<'_>,
    claim: &OperationClaim,
    rows_max: u32,
    lease: Duration,
) -> Result<Advanced> {
    let now = clock::look(scope)?;
    let Some(held) = hold(scope, claim)? else { return Ok(Advanced::Lost) };
    if held.is_cancel_wanted {
        return end(scope, claim, OperationState::Cancelled, None);
    }
    let spec = &claim.operation.spec;
    let until = now.saturating_add(micros(lease));
    if let Some(wait) = pace::wait((held.next_at - now) as f64 / 1e6) {
        let sql = "update @schema@_operation set lease_until = ?2 where id = ?1";
        scope.run(sql, (claim.operation.id.as_bytes(), until))?;
        return Ok(Advanced::Going(wait));
    }
    let rows_max = pace::rows(spec.rate, rows_max);
    let first_due = held.next_at.max(now);
    let piece = match spec.kind {
        OperationKind::ReplayMessages => messages(scope, spec, &held, rows_max, first_due)?,
        _ => dead_letters(scope, spec, &held, rows_max, first_due)?,
    };
    let next_at = first_due.saturating_add((pace::seconds(spec.rate, piece.changed) * 1e6) as i64);
    let after = piece.after.unwrap_or(held.after);
    scope.run(
        "update @schema@_operation set done = done + ?2, lease_until = ?3, next_at = ?4, \
         after_failed_at = ?5, after_subscription = ?6, after_position = ?7, after_id = ?8 \
         where id = ?1",
        (
            claim.operation.id.as_bytes(),
            piece.changed.cast_signed(),
            until,
            next_at,
            after.failed_at.0,
            after.subscription,
            after.position,
            after.id.as_bytes(),
        ),
    )?;
    if piece.seen < u64::from(rows_max) {
        return end(scope, claim, OperationState::Done, None);
    }
    Ok(Advanced::Going(Duration::ZERO))
}

/// A piece of the dead letters that there were when the operation began, in the order of their failures. The place
/// moves past all of them: what fails again comes no second time.
fn dead_letters(
    scope: &Scope<'_>,
    spec: &OperationSpec,
    held: &Held,
    rows_max: u32,
    first_due: i64,
) -> Result<Piece> {
    let (oldest, began_at) = (Order::OldestFirst, Some(held.began_at));
    let chosen = page(scope, &spec.filter, oldest, Some(&held.after), began_at, rows_max)?;
    for (nth, letter) in chosen.iter().enumerate() {
        let DeadLetterPlace { subscription, position, id, .. } = letter.place;
        if spec.kind == OperationKind::DiscardDeadLetters {
            aside::published(scope, subscription, position, id)?;
            continue;
        }
        let wait = pace::seconds(spec.rate, nth as u64) * 1e6;
        scope.run(
            "update @schema@_failed_message set attempts = 0, due = ?4 \
             where subscription = ?1 and position = ?2 and id = ?3",
            (subscription, position, id.as_bytes(), first_due.saturating_add(wait as i64)),
        )?;
    }
    let seen = chosen.len() as u64;
    Ok(Piece { seen, changed: seen, after: chosen.last().map(|letter| letter.place) })
}

/// A piece of the messages of the log.
fn messages(
    scope: &Scope<'_>,
    spec: &OperationSpec,
    held: &Held,
    rows_max: u32,
    first_due: i64,
) -> Result<Piece> {
    let target = spec.target.as_deref().unwrap_or_default();
    let range = (held.after.position, held.through);
    let (target, chosen) = operations::chosen(scope, &spec.filter.which, target, range, rows_max)?;
    let mut changed = 0;
    for (position, id) in &chosen {
        if is_there(scope, target, *position, *id)? {
            continue;
        }
        let wait = pace::seconds(spec.rate, changed) * 1e6;
        copy(scope, target, *position, *id, first_due.saturating_add(wait as i64))?;
        changed += 1;
    }
    let place = |(position, _): &(Position, _)| DeadLetterPlace {
        position: *position,
        ..DeadLetterPlace::default()
    };
    Ok(Piece { seen: chosen.len() as u64, changed, after: chosen.last().map(place) })
}

/// Ends the operation and notes it.
fn end(
    scope: &Scope<'_>,
    claim: &OperationClaim,
    state: OperationState,
    problem: Option<&str>,
) -> Result<Advanced> {
    scope.run(
        "update @schema@_operation set state = ?2, problem = ?3, ended_at = ?4, \
         lease_until = null where id = ?1",
        (claim.operation.id.as_bytes(), state.as_str(), problem, clock::look(scope)?),
    )?;
    let Some(ended) = find(scope, claim.operation.id)? else { return Err(gone()) };
    let mut detail = json!({
        "operation": ended.id.to_string(), "state": state.as_str(), "messages": ended.done,
    });
    if let Some(problem) = problem {
        detail["problem"] = problem.into();
    }
    note(scope, &ended, ended.spec.kind.action(), &ended.actor, &detail)?;
    Ok(Advanced::Over(state))
}

fn note(
    scope: &Scope<'_>,
    operation: &Operation,
    action: &str,
    actor: &str,
    detail: &Value,
) -> Result<()> {
    let subscription = &operation.spec.filter.which.subscription;
    scope.run(
        "insert into @schema@_audit (actor, action, subscription, detail) values (?1, ?2, ?3, ?4)",
        (actor, action, subscription, detail.to_string()),
    )?;
    Ok(())
}

fn find(scope: &Scope<'_>, id: OperationId) -> Result<Option<Operation>> {
    let sql = format!("select {COLUMNS} from @schema@_operation where id = ?1");
    scope.first(&sql, [id.as_bytes()], read)?.map(Stored::operation).transpose()
}

/// A row whose texts have yet to be read.
struct Stored {
    operation: Operation,
    kind: String,
    spec: String,
    state: String,
}

fn read(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let count = |at| row.get::<_, Option<i64>>(at).map(|n| n.map(i64::unsigned_abs));
    let unread = OperationSpec {
        kind: OperationKind::ReplayMessages,
        filter: crate::DeadLetterFilter::default(),
        rate: None,
        target: None,
    };
    let operation = Operation {
        id: uuid(row, 0)?,
        n: row.get(1)?,
        spec: unread,
        actor: row.get(4)?,
        state: OperationState::Waiting,
        is_cancel_wanted: row.get(6)?,
        total: count(7)?,
        done: count(8)?.unwrap_or_default(),
        runner: row.get(9)?,
        problem: row.get(10)?,
        began_at: Timestamp(row.get(11)?),
        ended_at: time(row, 12)?,
    };
    Ok(Stored { operation, kind: row.get(2)?, spec: row.get(3)?, state: row.get(5)? })
}

impl Stored {
    fn operation(self) -> Result<Operation> {
        let state = self.state.parse().map_err(|_| {
            let doing = format!("read an operation: it is {:?}", self.state);
            StoreError::new(StoreErrorKind::Unexpected, doing)
        })?;
        let spec = from_json(&self.kind, &self.spec)?;
        Ok(Operation { spec, state, ..self.operation })
    }
}

fn gone() -> StoreError {
    StoreError::new(StoreErrorKind::Unexpected, "the operation is gone")
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
