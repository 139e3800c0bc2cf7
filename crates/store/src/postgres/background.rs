//! Operations in the background: rows that say what is to be done, and pieces of it.
//!
//! A piece holds its operation's row from its first statement to its commit. Whoever looks for work passes over rows
//! that are held, so a lease matters between pieces alone.

mod pieces;

use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::{Position, Timestamp};
use tokio_postgres::{
    Row, Transaction,
    types::{ToSql, Type},
};

use self::pieces::Piece;
use super::{
    PostgresStore,
    connect::bounded,
    operations,
    oversight::{maybe_time, time},
};
use crate::{
    Advanced, Background, COUNTED_MAX, DeadLetterPlace, KEPT_MAX, Operation, OperationBegun,
    OperationCancelled, OperationClaim, OperationId, OperationKind, OperationSpec, OperationState,
    Oversight as _, ReplayChunk, Request, Result, Selection, StoreError, StoreErrorKind,
    UNFINISHED_MAX,
    background::{from_json, pace, to_json},
};

type Failure = tokio_postgres::Error;
type Values<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// Lock space ("PHOP") of operations that begin: they are counted one after the other.
const LOCK_SPACE: i32 = 0x5048_4f50;

/// What [`operation`] reads, in its order.
const COLUMNS: &str = "id, n, kind, spec::text, actor, state, is_cancel_wanted, total, done, \
                       runner, problem, began_at, ended_at";

impl PostgresStore {
    /// How many messages an operation concerns now, and up to which position of the log.
    async fn concerns(&self, spec: &OperationSpec) -> Result<(Option<u64>, i64)> {
        if spec.kind != OperationKind::ReplayMessages {
            return Ok((Some(self.count_dead_letters(&spec.filter).await?), 0));
        }
        let target = spec.target.as_deref().unwrap_or_default();
        let chunk = ReplayChunk { limit: COUNTED_MAX, ..ReplayChunk::default() };
        let preview = Request { actor: String::new(), is_dry_run: true, is_forced: false };
        let which: &Selection = &spec.filter.which;
        let counted =
            super::operations::replay::replay(self, which, target, &chunk, &preview).await?;
        let is_whole = counted.messages < u64::from(COUNTED_MAX);
        Ok((is_whole.then_some(counted.messages), counted.through))
    }
}

#[async_trait]
impl Background for PostgresStore {
    async fn begin_operation(
        &self,
        spec: &OperationSpec,
        request: &Request,
    ) -> Result<OperationBegun> {
        let (total, through) = self.concerns(spec).await?;
        if request.is_dry_run {
            return Ok(OperationBegun::WouldConcern(total));
        }
        let schema = self.schema();
        let lock = format!("select pg_advisory_xact_lock({LOCK_SPACE}, hashtext('{schema}'))");
        let forget = format!(
            "delete from {schema}.operation where n <= (select n from {schema}.operation \
             where ended_at is not null order by n desc offset {KEPT_MAX} limit 1) \
             and ended_at is not null"
        );
        let begin = format!(
            "with begun as (insert into {schema}.operation (kind, spec, actor, total, through) \
             select $1, $2::text::jsonb, $3, $4, $5 where (select count(*) \
             from {schema}.operation where ended_at is null) < {UNFINISHED_MAX} returning *), \
             noted as (insert into {schema}.audit (actor, action, subscription, detail) \
             select actor, $6, $7, jsonb_strip_nulls(jsonb_build_object('operation', id, \
             'state', 'begun', 'filter', spec, 'messages', total)) from begun) \
             select {COLUMNS} from begun"
        );
        let (kind, text) = (spec.kind.as_str(), to_json(spec));
        let (action, counted) = (spec.kind.action(), total.map(u64::cast_signed));
        let params: Values<'_> = &[
            (&kind, Type::TEXT),
            (&text, Type::TEXT),
            (&request.actor, Type::TEXT),
            (&counted, Type::INT8),
            (&through, Type::INT8),
            (&action, Type::TEXT),
            (&spec.filter.which.subscription, Type::TEXT),
        ];
        let mut loan = self.shared.connections.lend().await?;
        let limit = loan.operation_timeout();
        let work = async {
            let transaction = loan.begin_durably().await?;
            transaction.query_typed(&lock, &[]).await?;
            transaction.execute_typed(&forget, &[]).await?;
            let rows = transaction.query_typed(&begin, params).await?;
            transaction.commit().await?;
            Ok(rows)
        };
        let rows = bounded(limit, "begin an operation", work).await?;
        loan.give_back();
        match rows.first() {
            Some(row) => Ok(OperationBegun::Begun(Box::new(operation(row)?))),
            None => Ok(OperationBegun::TooMany),
        }
    }

    async fn operations(&self, before: Option<i64>, limit: u32) -> Result<Vec<Operation>> {
        let sql = format!(
            "select {COLUMNS} from {}.operation where n < $1 order by n desc limit {limit}",
            self.schema()
        );
        let before = before.unwrap_or(i64::MAX);
        let rows = self.rows("read the operations", &sql, &[(&before, Type::INT8)]).await?;
        rows.iter().map(operation).collect()
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        let sql = format!("select {COLUMNS} from {}.operation where id = $1", self.schema());
        let rows = self.rows("read an operation", &sql, &[(&id, Type::UUID)]).await?;
        rows.first().map(operation).transpose()
    }

    async fn cancel_operation(
        &self,
        id: OperationId,
        request: &Request,
    ) -> Result<OperationCancelled> {
        let schema = self.schema();
        // Waits for the piece that is being done.
        let sql = format!(
            "with found as (select id, state, ended_at from {schema}.operation where id = $1 \
             for update), \
             wanted as (update {schema}.operation o set is_cancel_wanted = true from found f \
             where o.id = f.id and f.ended_at is null and not $2 returning o.id, o.spec), \
             noted as (insert into {schema}.audit (actor, action, subscription, detail) \
             select $3, 'cancel operation', spec ->> 'subscription', \
             jsonb_build_object('operation', id) from wanted) \
             select state from found"
        );
        let params: Values<'_> =
            &[(&id, Type::UUID), (&request.is_dry_run, Type::BOOL), (&request.actor, Type::TEXT)];
        let rows = self.rows("cancel an operation", &sql, params).await?;
        let Some(row) = rows.first() else { return Ok(OperationCancelled::Unknown) };
        Ok(match state(row, 0)? {
            over if over.is_over() => OperationCancelled::Over(over),
            _ => OperationCancelled::Wanted,
        })
    }

    async fn claim_operation(
        &self,
        runner: &str,
        lease: Duration,
    ) -> Result<Option<OperationClaim>> {
        let schema = self.schema();
        let look = format!(
            "select exists (select from {schema}.operation where ended_at is null \
             and (lease_until > clock_timestamp()) is not true)"
        );
        let found = self.rows("look for operations", &look, &[]).await?;
        if !found.first().is_some_and(|row| row.get(0)) {
            return Ok(None);
        }
        let sql = format!(
            "update {schema}.operation o set epoch = epoch + 1, runner = $1, state = 'running', \
             lease_until = clock_timestamp() + make_interval(secs => $2) \
             from (select id as free from {schema}.operation where ended_at is null \
             and (lease_until > clock_timestamp()) is not true \
             order by n limit 1 for update skip locked) f where o.id = f.free \
             returning {COLUMNS}, epoch"
        );
        let seconds = lease.as_secs_f64();
        let params: Values<'_> = &[(&runner, Type::TEXT), (&seconds, Type::FLOAT8)];
        let mut loan = self.shared.connections.lend().await?;
        let limit = loan.operation_timeout();
        // Durable: an epoch that a crash undid would be handed out twice.
        let work = async {
            let transaction = loan.begin_durably().await?;
            let rows = transaction.query_typed(&sql, params).await?;
            transaction.commit().await?;
            Ok(rows)
        };
        let rows = bounded(limit, "take up an operation", work).await?;
        loan.give_back();
        let claim =
            |row: &Row| Ok(OperationClaim { operation: operation(row)?, epoch: row.get(13) });
        rows.first().map(claim).transpose()
    }

    async fn advance_operation(
        &self,
        claim: &OperationClaim,
        rows_max: u32,
        lease: Duration,
    ) -> Result<Advanced> {
        let mut loan = self.shared.connections.lend().await?;
        let limit = loan.operation_timeout();
        let work = async {
            let transaction = loan.begin_durably().await?;
            let step = Step { transaction: &transaction, schema: self.schema().as_str(), claim };
            let advanced = step.advance(rows_max, lease).await?;
            transaction.commit().await?;
            Ok(advanced)
        };
        let advanced = bounded(limit, "go on with an operation", work).await?;
        loan.give_back();
        Ok(advanced)
    }

    async fn release_operation(&self, claim: &OperationClaim) -> Result<()> {
        let sql = format!(
            "update {}.operation set lease_until = null where id = $1 and epoch = $2",
            self.schema()
        );
        let params: Values<'_> = &[(&claim.operation.id, Type::UUID), (&claim.epoch, Type::INT8)];
        self.rows("give an operation up", &sql, params).await.map(drop)
    }

    async fn fail_operation(&self, claim: &OperationClaim, problem: &str) -> Result<()> {
        let mut loan = self.shared.connections.lend().await?;
        let limit = loan.operation_timeout();
        let problem = problem.replace('\0', "\u{fffd}");
        let work = async {
            let transaction = loan.begin_durably().await?;
            let step = Step { transaction: &transaction, schema: self.schema().as_str(), claim };
            if step.hold().await?.is_some() {
                step.end(OperationState::Failed, Some(&problem)).await?;
            }
            transaction.commit().await
        };
        bounded(limit, "end an operation", work).await?;
        loan.give_back();
        Ok(())
    }
}

/// A transaction that moves an operation on.
struct Step<'t> {
    transaction: &'t Transaction<'t>,
    schema: &'t str,
    claim: &'t OperationClaim,
}

/// What an operation's row says while it is held.
struct Held {
    is_cancel_wanted: bool,
    /// Seconds until the first message of the next piece is due.
    due_in: f64,
    began_at: Timestamp,
    /// Behind which message it goes on.
    after: DeadLetterPlace,
    /// Up to which position of the log.
    through: Position,
}

impl Step<'_> {
    /// Holds the operation until the commit, if it is still the runner's and not over.
    async fn hold(&self) -> Result<Option<Held>, Failure> {
        let sql = format!(
            "select is_cancel_wanted, \
             extract(epoch from next_at - clock_timestamp())::float8, began_at, \
             after_failed_at, after_subscription, after_position, after_id, through \
             from {}.operation where id = $1 and epoch = $2 and ended_at is null for update",
            self.schema
        );
        let params: Values<'_> =
            &[(&self.claim.operation.id, Type::UUID), (&self.claim.epoch, Type::INT8)];
        let rows = self.transaction.query_typed(&sql, params).await?;
        let held = |row: &Row| Held {
            is_cancel_wanted: row.get(0),
            due_in: row.get(1),
            began_at: time(row, 2),
            after: DeadLetterPlace {
                failed_at: time(row, 3),
                subscription: row.get::<_, i32>(4).into(),
                position: row.get(5),
                id: row.get(6),
            },
            through: row.get(7),
        };
        Ok(rows.first().map(held))
    }

    async fn advance(&self, rows_max: u32, lease: Duration) -> Result<Advanced, Failure> {
        let Some(held) = self.hold().await? else { return Ok(Advanced::Lost) };
        if held.is_cancel_wanted {
            return self.end(OperationState::Cancelled, None).await;
        }
        let spec = &self.claim.operation.spec;
        if let Some(wait) = pace::wait(held.due_in) {
            self.note(&Piece::default(), 0.0, lease).await?;
            return Ok(Advanced::Going(wait));
        }
        if let Some(gone) = self.gone().await? {
            return self
                .end(OperationState::Failed, Some(operations::unknown(&gone).doing()))
                .await;
        }
        let rows_max = pace::rows(spec.rate, rows_max);
        let due_in = held.due_in.max(0.0);
        let piece = self.piece(&held, rows_max, due_in).await?;
        let takes = due_in + pace::seconds(spec.rate, piece.changed);
        self.note(&piece, takes, lease).await?;
        if piece.seen < u64::from(rows_max) {
            return self.end(OperationState::Done, None).await;
        }
        Ok(Advanced::Going(Duration::ZERO))
    }

    /// The first subscription whose messages are replayed, or to which, that was removed meanwhile.
    async fn gone(&self) -> Result<Option<String>, Failure> {
        let spec = &self.claim.operation.spec;
        if spec.kind != OperationKind::ReplayMessages {
            return Ok(None);
        }
        let names: Vec<&String> =
            spec.filter.which.subscription.iter().chain(&spec.target).collect();
        let sql = format!(
            "select n.name from unnest($1::text[]) n (name) \
             where not exists (select from {}.subscription s where s.name = n.name)",
            self.schema
        );
        let rows = self.transaction.query_typed(&sql, &[(&names, Type::TEXT_ARRAY)]).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// Writes down how far the operation has come, and until when it is the runner's.
    async fn note(&self, piece: &Piece, takes: f64, lease: Duration) -> Result<(), Failure> {
        let after = piece.after.unwrap_or_default();
        let sql = format!(
            "update {}.operation set done = done + $2, \
             lease_until = clock_timestamp() + make_interval(secs => $3), \
             next_at = case when $5 then clock_timestamp() + make_interval(secs => $4) \
             else next_at end, \
             after_failed_at = case when $5 then {} else after_failed_at end, \
             after_subscription = case when $5 then $7 else after_subscription end, \
             after_position = case when $5 then $8 else after_position end, \
             after_id = case when $5 then $9 else after_id end where id = $1",
            self.schema,
            super::oversight::time_sql(6)
        );
        let (seconds, moved) = (lease.as_secs_f64(), piece.after.is_some());
        let changed = piece.changed.cast_signed();
        let subscription = i32::try_from(after.subscription).unwrap_or(i32::MAX);
        let params: Values<'_> = &[
            (&self.claim.operation.id, Type::UUID),
            (&changed, Type::INT8),
            (&seconds, Type::FLOAT8),
            (&takes, Type::FLOAT8),
            (&moved, Type::BOOL),
            (&after.failed_at.0, Type::INT8),
            (&subscription, Type::INT4),
            (&after.position, Type::INT8),
            (&after.id, Type::UUID),
        ];
        self.transaction.execute_typed(&sql, params).await.map(drop)
    }

    /// Ends the operation and notes it.
    async fn end(&self, state: OperationState, problem: Option<&str>) -> Result<Advanced, Failure> {
        let sql = format!(
            "with ended as (update {0}.operation set state = $2, problem = $3, \
             ended_at = clock_timestamp(), lease_until = null where id = $1 returning *) \
             insert into {0}.audit (actor, action, subscription, detail) \
             select actor, $4, spec ->> 'subscription', jsonb_strip_nulls(jsonb_build_object(\
             'operation', id, 'state', state, 'messages', done, 'problem', problem)) from ended",
            self.schema
        );
        let operation = &self.claim.operation;
        let (word, action) = (state.as_str(), operation.spec.kind.action());
        let params: Values<'_> = &[
            (&operation.id, Type::UUID),
            (&word, Type::TEXT),
            (&problem, Type::TEXT),
            (&action, Type::TEXT),
        ];
        self.transaction.execute_typed(&sql, params).await?;
        Ok(Advanced::Over(state))
    }
}

fn operation(row: &Row) -> Result<Operation> {
    let count = |at| row.get::<_, Option<i64>>(at).map(i64::unsigned_abs);
    Ok(Operation {
        id: row.get(0),
        n: row.get(1),
        spec: from_json(row.get(2), row.get(3))?,
        actor: row.get(4),
        state: state(row, 5)?,
        is_cancel_wanted: row.get(6),
        total: count(7),
        done: count(8).unwrap_or_default(),
        runner: row.get(9),
        problem: row.get(10),
        began_at: time(row, 11),
        ended_at: maybe_time(row, 12),
    })
}

fn state(row: &Row, at: usize) -> Result<OperationState> {
    let text: &str = row.get(at);
    text.parse().map_err(|_| {
        let doing = format!("read an operation: it is {text:?}");
        StoreError::new(StoreErrorKind::Unexpected, doing)
    })
}
