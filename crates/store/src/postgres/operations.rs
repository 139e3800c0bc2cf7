//! What operators do by hand: dead letters, replay, erasure, pause, rewind, removal.
//!
//! Each change and its row in the audit trail are one statement.

pub(super) mod replay;
pub(super) mod selection;

use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::{Machine, MessageId, Place, Position, SchemaName, TickRef, Timestamp};
use tokio_postgres::{
    Row,
    error::SqlState,
    types::{ToSql, Type},
};

use self::selection::{Params, dead_letters_sql, written_sql};
use super::{
    PostgresStore, application,
    connect::bounded,
    contracts, errors, import, leases, machines, rebase,
    rows::{self, MESSAGE_COLUMNS, Micros},
    status::owned,
    subscriptions::{PLACE_COLUMNS, place},
};
use crate::{
    COUNTED_MAX, ContractText, DeadLetter, Import, ImportSource, Note, Operations, Rebased,
    ReplayChunk, Replayed, Request, Result, RewindTo, Rewound, RoleNames, Selection, Store,
    StoreError, StoreErrorKind, TableColumn, TableName, Work, WrittenTopic,
    background::selection_json,
};

/// Longest count of what a rewind would publish again.
const COUNT_MAX: Duration = Duration::from_secs(5);

impl PostgresStore {
    /// Runs a statement that answers one number.
    async fn count(
        &self,
        doing: &str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64> {
        self.answer(doing, sql, params).await.map(|(count, _)| count)
    }

    /// Runs a statement that answers a number and perhaps a position.
    async fn answer(
        &self,
        doing: &str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<(u64, Option<Position>)> {
        let loan = self.shared.connections.lend().await?;
        let rows = loan.bounded(doing, loan.client().query_typed(sql, params)).await?;
        loan.give_back();
        let Some(row) = rows.first() else { return Ok((0, None)) };
        let position = if row.len() > 1 { row.get(1) } else { None };
        Ok((row.get::<_, i64>(0).cast_unsigned(), position))
    }

    /// Runs `change`, which returns a row for each message, unless only `count` is asked for; and
    /// notes it.
    async fn change(
        &self,
        action: &str,
        count: &str,
        change: &str,
        params: &Params<'_>,
        rest: &[(&(dyn ToSql + Sync), Type)],
        request: &Request,
    ) -> Result<u64> {
        if request.is_dry_run {
            return self.count(action, count, &params.with(rest)).await;
        }
        let change = format!(
            "{change}, answer (messages, reached) as (select count(*), null::int8 from done)"
        );
        self.noted(action, &change, params, rest, request).await.map(|(count, _)| count)
    }

    /// Runs `change`, notes what it has `done`, and reads its `answer`.
    async fn noted(
        &self,
        action: &str,
        change: &str,
        params: &Params<'_>,
        rest: &[(&(dyn ToSql + Sync), Type)],
        request: &Request,
    ) -> Result<(u64, Option<Position>)> {
        let detail = selection_json(params.which).to_string();
        let (actor, at) = (8 + rest.len() + 1, 8 + rest.len() + 2);
        let sql = format!(
            "with {change}, noted as (insert into {}.audit (actor, action, subscription, detail) \
             select ${actor}, '{action}', $1, jsonb_strip_nulls(jsonb_build_object(\
             'selection', ${at}::text::jsonb, 'messages', a.messages, 'reached', a.reached)) \
             from answer a where exists (select from done)) \
             select * from answer",
            self.schema()
        );
        let mut rest = rest.to_vec();
        rest.push((&request.actor, Type::TEXT));
        rest.push((&detail, Type::TEXT));
        self.answer(action, &sql, &params.with(&rest)).await
    }

    /// The subscription's number, if no relay holds it or the request says that this is no matter.
    async fn unheld(&self, subscription: &str, is_forced: bool) -> Result<i32> {
        let schema = self.schema();
        let sql = format!(
            "select s.id, case when l.expires_at > clock_timestamp() then l.holder end \
             from {schema}.subscription s join {schema}.lease l on l.subscription = s.id where s.name = $1"
        );
        let loan = self.shared.connections.lend().await?;
        let name: &[(&(dyn ToSql + Sync), Type)] = &[(&subscription, Type::TEXT)];
        let rows = loan.bounded("read a lease", loan.client().query_typed(&sql, name)).await?;
        loan.give_back();
        let Some(row) = rows.first() else { return Err(unknown(subscription)) };
        match row.get::<_, Option<&str>>(1) {
            None => Ok(row.get(0)),
            Some(_) if is_forced => Ok(row.get(0)),
            Some(holder) => {
                let doing =
                    format!("the relay {holder} holds {subscription:?}; stop that relay first");
                Err(StoreError::new(StoreErrorKind::Conflict, doing))
            }
        }
    }
}

#[async_trait]
impl Operations for PostgresStore {
    async fn work(&self, work: Box<dyn Work>, note: &Note, request: &Request) -> Result<()> {
        application::work(self, work, note, request).await
    }

    async fn dead_letters(&self, which: &Selection, limit: u32) -> Result<Vec<DeadLetter>> {
        let columns = columns_of("m");
        let sql = format!(
            "select {columns}, s.name, m.attempts, m.reason, m.failed_at, m.holds_key \
             from {} order by m.failed_at, m.position limit {limit}",
            dead_letters_sql(self.schema())
        );
        let params = Params::new(which);
        let loan = self.shared.connections.lend().await?;
        let doing = "read the dead letters";
        let rows = loan.bounded(doing, loan.client().query_typed(&sql, &params.with(&[]))).await?;
        loan.give_back();
        rows.iter().map(dead_letter).collect()
    }

    async fn written_topics(&self, looked_at: u32) -> Result<Vec<WrittenTopic>> {
        let schema = self.schema();
        let sql = format!(
            "select topic, count(*), max(enqueued_at) from {schema}.log \
             where position > (select last_value from {schema}.log_position_seq) - {looked_at} \
             group by topic order by topic"
        );
        let loan = self.shared.connections.lend().await?;
        let rows = loan.bounded("read the topics", loan.client().query_typed(&sql, &[])).await?;
        loan.give_back();
        let topic = |row: &Row| WrittenTopic {
            topic: row.get(0),
            messages: row.get::<_, i64>(1).cast_unsigned(),
            newest: Timestamp(row.get::<_, Micros>(2).0),
        };
        Ok(rows.iter().map(topic).collect())
    }

    async fn create_compatibility_view(&self, name: &SchemaName) -> Result<()> {
        let sql = format!(
            "create or replace view {name} as select id, topic, key, payload, \
             enqueued_at as created_at, published_at as processed_at from {}.outbox",
            self.schema()
        );
        let loan = self.shared.connections.lend().await?;
        loan.bounded("create a view", loan.client().batch_execute(&sql)).await?;
        loan.give_back();
        Ok(())
    }

    async fn create_compatibility_function(&self, machine: &str) -> Result<()> {
        machines::create_compatibility_function(self, machine).await
    }

    fn roles_sql(&self, names: &RoleNames) -> Result<String> {
        let parts = [
            ("@schema@", self.schema()),
            ("@writer@", &names.writer),
            ("@relay@", &names.relay),
            ("@worker@", &names.worker),
            ("@viewer@", &names.viewer),
        ];
        let fill =
            |sql: String, (part, name): (&str, &SchemaName)| sql.replace(part, name.as_str());
        Ok(parts.into_iter().fold(include_str!("roles.sql").to_owned(), fill))
    }

    async fn create_roles(&self, names: &RoleNames) -> Result<()> {
        let sql = format!("begin; {} commit", self.roles_sql(names)?);
        let loan = self.shared.connections.lend().await?;
        loan.bounded("create the roles", loan.client().batch_execute(&sql)).await?;
        loan.give_back();
        Ok(())
    }

    async fn replay_dead_letters(
        &self,
        which: &Selection,
        rate: Option<f64>,
        request: &Request,
    ) -> Result<u64> {
        let (schema, dead) = (self.schema(), dead_letters_sql(self.schema()));
        let change = format!(
            "done as (update {schema}.failed_message f set attempts = 0, \
             due = clock_timestamp() + make_interval(secs => coalesce(c.n / $9, 0)) \
             from (select m.subscription, m.position, m.id, \
             row_number() over (order by m.failed_at, m.position) - 1 as n from {dead}) c \
             where f.subscription = c.subscription and f.position = c.position and f.id = c.id \
             returning 1)"
        );
        let count = format!("select count(*) from {dead} and coalesce($9, 0) is not null");
        let rate: &[(&(dyn ToSql + Sync), Type)] = &[(&rate, Type::FLOAT8)];
        let params = Params::new(which);
        self.change("replay dead letters", &count, &change, &params, rate, request).await
    }

    async fn discard_dead_letters(&self, which: &Selection, request: &Request) -> Result<u64> {
        let (schema, dead) = (self.schema(), dead_letters_sql(self.schema()));
        let change = format!(
            "done as (delete from {schema}.failed_message f using \
             (select m.subscription, m.position, m.id from {dead}) c \
             where f.subscription = c.subscription and f.position = c.position and f.id = c.id \
             returning f.*), {}",
            super::aside::release_sql(schema.as_str(), "done")
        );
        let count = format!("select count(*) from {dead}");
        let params = Params::new(which);
        self.change("discard dead letters", &count, &change, &params, &[], request).await
    }

    async fn replay(
        &self,
        which: &Selection,
        target: &str,
        chunk: &ReplayChunk,
        request: &Request,
    ) -> Result<Replayed> {
        replay::replay(self, which, target, chunk, request).await
    }

    async fn cancel(&self, id: MessageId, number: Option<i64>, request: &Request) -> Result<bool> {
        let schema = self.schema();
        let params: &[(&(dyn ToSql + Sync), Type)] =
            &[(&id, Type::UUID), (&request.actor, Type::TEXT), (&number, Type::INT8)];
        let which = "id = $1 and n = coalesce($3, n)";
        let sql = if request.is_dry_run {
            format!(
                "select count(*) from {schema}.scheduled where {which} and $2::text is not null"
            )
        } else {
            // Waits for a relay that moves it.
            format!(
                "with done as (delete from {schema}.scheduled where {which} returning topic), \
                 noted as (insert into {schema}.audit (actor, action, detail) select $2, 'cancel', \
                 jsonb_build_object('id', $1, 'topic', topic) from done) select count(*) from done"
            )
        };
        Ok(self.count("cancel a message", &sql, params).await? > 0)
    }

    async fn erase(&self, which: &Selection, request: &Request) -> Result<u64> {
        if which.ids.is_empty() && which.key.is_none() {
            let doing = "erase: name message ids or a key";
            return Err(StoreError::new(StoreErrorKind::Invalid, doing));
        }
        let schema = self.schema();
        let written = written_sql();
        let erased = "payload = '', headers = array['posthaste-erased', \
             to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')]";
        let change = format!(
            "done as (update {schema}.log m set {erased} \
             from (select null::text as name) s where {written} returning 1), \
             copies as (update {schema}.failed_message m set {erased} \
             from (select null::text as name) s where {written} returning 1), \
             waiting as (update {schema}.scheduled m set {erased} \
             from (select null::text as name) s where {written} returning 1)"
        );
        let count = format!(
            "select count(*) from {schema}.log m cross join (select null::text as name) s \
             where {written}"
        );
        let which = Selection { subscription: None, ..which.clone() };
        self.change("erase", &count, &change, &Params::new(&which), &[], request).await
    }

    async fn push_machine(&self, machine: &Machine, request: &Request) -> Result<()> {
        machines::push(self, machine, request).await
    }

    async fn push_contracts(
        &self,
        contracts: &[ContractText],
        request: &Request,
    ) -> Result<Vec<bool>> {
        contracts::push(self, contracts, request).await
    }

    async fn remove_contract(&self, topic: &str, version: u32, request: &Request) -> Result<bool> {
        contracts::remove(self, topic, version, request).await
    }

    async fn table_columns(&self, table: &TableName) -> Result<Vec<TableColumn>> {
        import::columns(self, table).await
    }

    async fn import(&self, source: &ImportSource) -> Result<Box<dyn Import>> {
        import::open(self, source).await
    }

    async fn pause(&self, subscription: &str, paused: bool, request: &Request) -> Result<()> {
        let schema = self.schema();
        let action = if paused { "pause" } else { "resume" };
        let which =
            Selection { subscription: Some(subscription.to_owned()), ..Selection::default() };
        let exists = format!("select count(*) from {schema}.subscription s where {}", named());
        let change = format!(
            "done as (update {schema}.subscription s set paused_at = \
             case when $9 then coalesce(paused_at, clock_timestamp()) end where {} returning 1)",
            named()
        );
        let exists = format!("{exists} and $9 is not null");
        let rest: &[(&(dyn ToSql + Sync), Type)] = &[(&paused, Type::BOOL)];
        let changed =
            self.change(action, &exists, &change, &Params::new(&which), rest, request).await?;
        if changed == 0 { Err(unknown(subscription)) } else { Ok(()) }
    }

    async fn reserve(&self, subscription: &str, time: Duration) -> Result<Option<String>> {
        let holder = leases::reserve(self, subscription, time).await?;
        holder.ok_or_else(|| unknown(subscription))
    }

    async fn rewind(&self, subscription: &str, to: RewindTo, request: &Request) -> Result<Rewound> {
        let id = self.unheld(subscription, request.is_dry_run).await?;
        let schema = self.schema();
        let base = match to {
            RewindTo::Beginning => TickRef::BEGINNING,
            RewindTo::Time(time) => self.tick_before(time).await?,
        };
        let standing = self.standing(id).await?;
        if Place::at(base).covers(&standing) {
            let (messages, oldest) = (Some(0), None);
            return Ok(Rewound { place: standing, is_moved: false, messages, oldest });
        }
        let (messages, oldest) = self.count_behind(id, base).await?;
        if !request.is_dry_run {
            // The epoch is raised: a relay that was on its way in starts anew.
            let sql = format!(
                "with lease as (update {schema}.lease set epoch = epoch + 1 \
                 where subscription = {id} and (expires_at > clock_timestamp()) is not true \
                 and (select ($1, 0) < (p.base_tick, coalesce(p.position, 0)) \
                 from {schema}.progress p where p.subscription = {id} order by p.n desc limit 1) \
                 returning epoch), \
                 done as (insert into {schema}.progress (subscription, {PLACE_COLUMNS}, epoch) \
                 select {id}, $1, $2, null, null, null, null, null, epoch from lease returning 1), \
                 noted as (insert into {schema}.audit (actor, action, subscription, detail) \
                 select $3, 'rewind', $4, jsonb_build_object('tick', $1::bigint, \
                 'messages', $5::bigint) from done) select count(*) from done"
            );
            let counted = messages.map(u64::cast_signed);
            let params: &[(&(dyn ToSql + Sync), Type)] = &[
                (&base.n, Type::INT8),
                (&base.id, Type::UUID),
                (&request.actor, Type::TEXT),
                (&subscription, Type::TEXT),
                (&counted, Type::INT8),
            ];
            if self.count("rewind", &sql, params).await? == 0 {
                let doing = format!("a relay has taken {subscription:?}; stop that relay first");
                return Err(StoreError::new(StoreErrorKind::Conflict, doing));
            }
        }
        Ok(Rewound { place: Place::at(base), is_moved: true, messages, oldest })
    }

    async fn rebase(&self, subscription: &str, request: &Request) -> Result<Rebased> {
        rebase::rebase(self, subscription, request).await
    }

    async fn remove(&self, subscription: &str, request: &Request) -> Result<()> {
        let id = self.unheld(subscription, request.is_forced).await?;
        if request.is_dry_run {
            return Ok(());
        }
        let schema = self.schema();
        let sql = format!(
            "with done as (delete from {schema}.subscription where id = {id} returning name), \
             noted as (insert into {schema}.audit (actor, action, subscription, detail) \
             select $1, 'remove', name, '{{}}' from done) select count(*) from done"
        );
        let actor: &[(&(dyn ToSql + Sync), Type)] = &[(&request.actor, Type::TEXT)];
        self.count("remove a subscription", &sql, actor).await.map(drop)
    }
}

impl PostgresStore {
    /// Where a subscription stands.
    async fn standing(&self, id: i32) -> Result<Place> {
        let sql = format!(
            "select {PLACE_COLUMNS} from {}.progress where subscription = {id} \
             order by n desc limit 1",
            self.schema()
        );
        let rows = self.rows("read a place", &sql, &[]).await?;
        let unknown = || StoreError::new(StoreErrorKind::Unexpected, "read a place: there is none");
        rows.first().map(place).ok_or_else(unknown)
    }

    /// How many messages behind a tick a subscription has published, and the first of them.
    async fn count_behind(
        &self,
        id: i32,
        base: TickRef,
    ) -> Result<(Option<u64>, Option<(Position, Timestamp)>)> {
        let schema = self.schema();
        let snapshot = self.tick_snapshot(base).await?;
        let sql = format!(
            "select count(*), min(position), min(enqueued_at) from (\
             select l.position, l.enqueued_at \
             from {schema}.log l join {schema}.place p on p.subscription_id = {id} \
             where (l.topic = any (p.topics) or l.topic ^@ any (p.prefixes)) \
             and not pg_visible_in_snapshot(l.xid, p.start_snapshot) \
             and not pg_visible_in_snapshot(l.xid, '{snapshot}') \
             and {schema}.is_published(p, l.xid, l.position, l.id, l.key) \
             limit {COUNTED_MAX} + 1) behind"
        );
        let mut loan = self.shared.connections.lend().await?;
        let limit = loan.operation_timeout();
        let count = async {
            let transaction = loan.begin().await?;
            let patience = format!("set local statement_timeout = {}", COUNT_MAX.as_millis());
            transaction.batch_execute(&patience).await?;
            let counted = match transaction.query_typed(&sql, &[]).await {
                Ok(rows) => rows,
                Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Vec::new(),
                Err(error) => return Err(error),
            };
            transaction.rollback().await?;
            Ok(counted)
        };
        let counted = bounded(limit, "count messages", count).await?;
        loan.give_back();
        let Some(row) = counted.first() else { return Ok((None, None)) };
        let messages = row.get::<_, i64>(0).cast_unsigned();
        if messages > COUNTED_MAX.into() {
            return Ok((None, None));
        }
        let at: Option<Micros> = row.get(2);
        let oldest = row.get::<_, Option<Position>>(1).zip(at.map(|at| Timestamp(at.0)));
        Ok((Some(messages), oldest))
    }

    /// A tick's snapshot as text; that of the virtual tick shows nothing.
    async fn tick_snapshot(&self, at: TickRef) -> Result<String> {
        let loan = self.shared.connections.lend().await?;
        let tick = self.tick(&loan, at).await?;
        loan.give_back();
        Ok(tick.snapshot.to_string())
    }
}

/// The columns of a message with an alias before each.
fn columns_of(alias: &str) -> String {
    let columns: Vec<String> =
        MESSAGE_COLUMNS.split(", ").map(|column| format!("{alias}.{column}")).collect();
    columns.join(", ")
}

/// The one condition of a selection that names a subscription, with all of `$1` to `$8` in it.
fn named() -> &'static str {
    "s.name = $1 and cardinality($2::uuid[]) = 0 and $3::text[] is null and $4::text[] is null \
     and $5::text is null and $6::text is null and $7::float8 is null and $8::float8 is null"
}

fn dead_letter(row: &Row) -> Result<DeadLetter> {
    let doing = "read a dead letter";
    let message = rows::message(row).map_err(|error| errors::classify(doing, error))?;
    Ok(DeadLetter {
        message: owned(&message, None),
        subscription: row.get(9),
        attempts: row.get::<_, i32>(10).cast_unsigned(),
        reason: row.get(11),
        failed_at: Timestamp(row.get::<_, Micros>(12).0),
        holds_key: row.get(13),
    })
}

pub(super) fn unknown(subscription: &str) -> StoreError {
    let doing = format!(
        "the subscription {subscription:?} does not exist here; `posthaste status` lists those \
         that do"
    );
    StoreError::new(StoreErrorKind::Invalid, doing)
}
