//! The pieces of operations. Each begins behind what the operation's row says, within that row's transaction.

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{Failure, Held, Step, Values};
use crate::{
    DeadLetterPlace, OperationKind,
    postgres::{
        aside::release_sql,
        operations::{replay::copies_sql, selection::Params},
        oversight::{PLACE, filtered_sql, time, time_sql},
    },
};

/// What a piece did.
#[derive(Default)]
pub(super) struct Piece {
    /// Messages that it came upon.
    pub(super) seen: u64,
    /// Those of them that are as the operation wants them now.
    pub(super) changed: u64,
    /// The last message that it came upon.
    pub(super) after: Option<DeadLetterPlace>,
}

impl Step<'_> {
    /// Does the next piece: at most `rows_max` messages, the first of them due in `due_in` seconds.
    pub(super) async fn piece(
        &self,
        held: &Held,
        rows_max: u32,
        due_in: f64,
    ) -> Result<Piece, Failure> {
        match self.claim.operation.spec.kind {
            OperationKind::ReplayDeadLetters => {
                let rate = &self.claim.operation.spec.rate;
                // A message that somebody else has replayed meanwhile is left to that.
                let change = format!(
                    "done as (update {}.failed_message f set attempts = 0, \
                     due = clock_timestamp() + make_interval(secs => $16 + coalesce(c.n / $15, 0)) \
                     from chosen c where f.subscription = c.subscription \
                     and f.position = c.position and f.id = c.id and f.due is null returning 1)",
                    self.schema
                );
                let rest: Values<'_> = &[(rate, Type::FLOAT8), (&due_in, Type::FLOAT8)];
                self.dead_letters(held, rows_max, &change, rest).await
            }
            OperationKind::DiscardDeadLetters => {
                let change = format!(
                    "done as (delete from {}.failed_message f using chosen c \
                     where f.subscription = c.subscription and f.position = c.position \
                     and f.id = c.id and f.due is null returning f.*), {}",
                    self.schema,
                    release_sql(self.schema, "done")
                );
                self.dead_letters(held, rows_max, &change, &[]).await
            }
            OperationKind::ReplayMessages => self.messages(held, rows_max, due_in).await,
        }
    }

    /// A piece of the dead letters that there were when the operation began, in the order of their failures. The
    /// place moves past all of them: what fails again comes no second time.
    async fn dead_letters(
        &self,
        held: &Held,
        rows_max: u32,
        change: &str,
        rest: Values<'_>,
    ) -> Result<Piece, Failure> {
        let spec = &self.claim.operation.spec;
        let sql = format!(
            "with chosen as materialized (select d.*, row_number() over (\
             order by failed_at, subscription, position, id) - 1 as n from (\
             select {PLACE} from {dead} \
             and m.failed_at <= {began_at} and ({PLACE}) > ({after}, $12, $13, $14) \
             order by {PLACE} limit {rows_max}) d), {change} \
             select failed_at, subscription, position, id, n + 1, (select count(*) from done) \
             from chosen order by n desc limit 1",
            dead = filtered_sql(self.schema),
            began_at = time_sql(10),
            after = time_sql(11)
        );
        let after = held.after;
        let subscription = i32::try_from(after.subscription).unwrap_or(i32::MAX);
        let params = Params::new(&spec.filter.which);
        let mut all: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&spec.filter.group, Type::TEXT),
            (&held.began_at.0, Type::INT8),
            (&after.failed_at.0, Type::INT8),
            (&subscription, Type::INT4),
            (&after.position, Type::INT8),
            (&after.id, Type::UUID),
        ];
        all.extend(rest.iter().cloned());
        let rows = self.transaction.query_typed(&sql, &params.with(&all)).await?;
        let piece = |row: &Row| Piece {
            seen: row.get::<_, i64>(4).unsigned_abs(),
            changed: row.get::<_, i64>(5).unsigned_abs(),
            after: Some(DeadLetterPlace {
                failed_at: time(row, 0),
                subscription: row.get::<_, i32>(1).into(),
                position: row.get(2),
                id: row.get(3),
            }),
        };
        Ok(rows.first().map(piece).unwrap_or_default())
    }

    /// A piece of the messages of the log.
    async fn messages(&self, held: &Held, rows_max: u32, due_in: f64) -> Result<Piece, Failure> {
        let sql = format!(
            "with {} select count(*), (select count(*) from done), max(position) from chosen",
            copies_sql(self.schema, rows_max)
        );
        let spec = &self.claim.operation.spec;
        let rest: Values<'_> = &[
            (&spec.rate, Type::FLOAT8),
            (&spec.target, Type::TEXT),
            (&due_in, Type::FLOAT8),
            (&held.after.position, Type::INT8),
            (&held.through, Type::INT8),
        ];
        let params = Params::new(&spec.filter.which);
        let rows = self.transaction.query_typed(&sql, &params.with(rest)).await?;
        let piece = |row: &Row| Piece {
            seen: row.get::<_, i64>(0).unsigned_abs(),
            changed: row.get::<_, i64>(1).unsigned_abs(),
            after: row
                .get::<_, Option<i64>>(2)
                .map(|position| DeadLetterPlace { position, ..DeadLetterPlace::default() }),
        };
        Ok(rows.first().map(piece).unwrap_or_default())
    }
}
