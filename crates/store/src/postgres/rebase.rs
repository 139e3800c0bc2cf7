//! Accepts a log that was restored or copied as the one to go on with: what it says is settled
//! stays settled, everything else is published.
//!
//! All in one transaction. Where rows were copied from another server their transaction ids mean
//! nothing here, and may lie ahead: they are numbered anew, below every transaction of this server,
//! so that each tick that somebody stands at shows of them what it showed before. One number is
//! enough for all rows that the same ticks show, so a few numbers are enough for any log.

use std::time::Duration;

use posthaste_core::{Ring, SchemaName};
use tokio::time::timeout;
use tokio_postgres::{
    Row, Transaction,
    types::{ToSql, Type},
};

use super::{
    PostgresStore, errors, rewound,
    subscriptions::{self, PLACE_COLUMNS},
    ticker::{current_snapshot, take_xid},
};
use crate::{Rebased, Request, Result, StoreError, StoreErrorKind};

/// Every row of the log may be written: at 50,000 rows a second, 8 million take three minutes.
const LIMIT: Duration = Duration::from_hours(1);
/// The first number of a copied row: those below it have a meaning of their own in PostgreSQL.
const FIRST: u64 = 3;
const DOING: &str = "rebase";

/// What all statements of a rebase need.
struct Rebase<'a> {
    transaction: Transaction<'a>,
    schema: &'a SchemaName,
    ring: Ring,
    /// The next transaction id at the beginning.
    next: u64,
}

/// What `meta` says of where the log comes from.
struct Origin {
    is_copy: bool,
    /// The transaction that wrote the row here: every one that wrote here since is later.
    here_since: u64,
}

/// The subscription as it was.
struct Before {
    id: i32,
    holder: Option<String>,
}

/// Rebases a subscription, and the log with it if it was copied.
pub(super) async fn rebase(
    store: &PostgresStore,
    subscription: &str,
    request: &Request,
) -> Result<Rebased> {
    let mut loan = store.shared.connections.lend().await?;
    let ring = store.geometry(&loan).await?.log;
    let next = make_room(store, &loan).await?;
    let work = async {
        let transaction = loan.begin_durably().await.map_err(failed)?;
        let rebase = Rebase { transaction, schema: store.schema(), ring, next };
        rebase.run(subscription, request).await
    };
    let Ok(done) = timeout(LIMIT, work).await else {
        let doing = format!("{DOING}: not done within {LIMIT:?}");
        return Err(StoreError::new(StoreErrorKind::Timeout, doing));
    };
    let rebased = done?;
    loan.give_back();
    Ok(rebased)
}

/// Takes transaction ids until there is a number below all open transactions for each snapshot that
/// somebody stands at; answers the next id.
async fn make_room(store: &PostgresStore, loan: &super::connect::Loan) -> Result<u64> {
    let sql = format!("select count(*) from ({}) s", stands_sql(store.schema().as_str()));
    let rows = loan.bounded(DOING, loan.client().query_typed(&sql, &[])).await?;
    let stands = rows.first().map_or(0, |row| row.get::<_, i64>(0)).cast_unsigned();
    for _ in 0..=FIRST + stands {
        let fresh = current_snapshot(loan).await?;
        if fresh.xmin() > FIRST + stands {
            return Ok(fresh.xmax());
        }
        take_xid(loan).await?;
    }
    let doing = format!("{DOING}: a transaction is open that began before the log was restored");
    Err(StoreError::new(StoreErrorKind::Conflict, doing))
}

/// The snapshots that somebody stands at, each once: places, parked keys, the starts of
/// subscriptions, and the newest tick.
fn stands_sql(schema: &str) -> String {
    format!(
        "select start_snapshot::text as s from {schema}.subscription \
         union select t.snapshot::text from {schema}.place p \
         join {schema}.tick t on t.n in (p.base_tick, p.head_tick) \
         union select t.snapshot::text from {schema}.parked_key k \
         join {schema}.tick t on t.n in (k.base_tick, k.head_tick) \
         union (select snapshot::text from {schema}.tick order by n desc limit 1)"
    )
}

impl Rebase<'_> {
    async fn run(self, subscription: &str, request: &Request) -> Result<Rebased> {
        let origin = self.origin().await?;
        let before = self.subscription(subscription).await?;
        if let Some(holder) =
            before.holder.as_ref().filter(|_| !origin.is_copy && !request.is_forced)
        {
            let doing = format!("the relay {holder} holds {subscription:?}; stop that relay first");
            return Err(StoreError::new(StoreErrorKind::Conflict, doing));
        }
        let rewritten = self.renumber(&origin).await?;
        if origin.is_copy {
            self.make_it_ours(before.id).await?;
        }
        let place = self.take_place(before.id).await?;
        let pending = self.pending(before.id).await?;
        let rebased = Rebased { place, pending, was_copied: origin.is_copy, rewritten };
        self.note(subscription, &rebased, request).await?;
        if request.is_dry_run {
            self.transaction.rollback().await.map_err(failed)?;
        } else {
            self.pass_positions().await?;
            self.transaction.commit().await.map_err(failed)?;
        }
        Ok(rebased)
    }

    /// Reads where the log comes from, and keeps tickers out until the end.
    async fn origin(&self) -> Result<Origin> {
        let sql = format!(
            "select {}, {} from {}.meta m for update",
            rewound::is_copy_sql(self.schema.as_str()),
            self.whole("m.xmin"),
            self.schema
        );
        let row = self.one(&sql, &[]).await?;
        let (is_copy, here_since): (bool, i64) = (row.get(0), row.get(1));
        Ok(Origin { is_copy, here_since: here_since.cast_unsigned() })
    }

    async fn subscription(&self, name: &str) -> Result<Before> {
        let sql = format!(
            "select s.id, case when l.expires_at > clock_timestamp() then l.holder end \
             from {0}.subscription s join {0}.lease l \
             on l.subscription = s.id where s.name = $1 for update of l",
            self.schema
        );
        let rows = self.rows(&sql, &[(&name, Type::TEXT)]).await?;
        let row = rows.first().ok_or_else(|| super::operations::unknown(name))?;
        Ok(Before { id: row.get(0), holder: row.get(1) })
    }

    /// Gives the rows that were copied numbers below every transaction of this server, if one of
    /// them, or a snapshot that somebody stands at, is ahead. Answers how many rows.
    async fn renumber(&self, origin: &Origin) -> Result<u64> {
        let bound = if origin.is_copy { origin.here_since } else { self.next };
        // The first look is a probe of the indexes, and mostly the last.
        if !self.is_ahead(bound, "true").await? {
            return Ok(0);
        }
        let is_foreign = self.is_foreign(origin).await?;
        if !self.is_ahead(bound, &is_foreign).await? {
            return Ok(0);
        }
        let stands = self.rows(&stands_sql(self.schema.as_str()), &[]).await?;
        let stands: Vec<String> = stands.iter().map(|row| row.get(0)).collect();
        let mut rewritten = 0;
        for slot in 0..self.ring.slots {
            // The ticks of one log show more and more, so the number of those that do not show a
            // row tells exactly which ones do.
            let sql = format!(
                "update {}.log_{slot} l set xid = ({FIRST} + (select count(*) \
                 from unnest($1::text[]) s where not pg_visible_in_snapshot(l.xid, \
                 s::pg_snapshot)))::text::xid8 where {is_foreign}",
                self.schema
            );
            rewritten += self.execute(&sql, &[(&stands, Type::TEXT_ARRAY)]).await?;
        }
        self.renumber_snapshots(&stands).await?;
        Ok(rewritten)
    }

    /// Whether a snapshot that somebody stands at, or a row for which `condition` holds, is of
    /// transactions from `bound` on.
    async fn is_ahead(&self, bound: u64, condition: &str) -> Result<bool> {
        let rows = (0..self.ring.slots).map(|slot| {
            format!(
                "exists (select from {}.log_{slot} l where xid >= '{bound}'::xid8 and {condition})",
                self.schema
            )
        });
        let sql = format!(
            "select {} or exists (select from ({}) t \
             where pg_snapshot_xmax(t.s::pg_snapshot) > '{bound}'::xid8)",
            rows.collect::<Vec<_>>().join(" or "),
            stands_sql(self.schema.as_str())
        );
        Ok(self.one(&sql, &[]).await?.get(0))
    }

    /// Has each tick, and each start, show the copied rows that it showed before; one at which
    /// nobody stands may show fewer.
    async fn renumber_snapshots(&self, stands: &[String]) -> Result<()> {
        // Two snapshots of one log: the later one has not less of either bound, and where both are
        // the same, fewer transactions in progress.
        let age = |snapshot: &str| {
            format!(
                "(pg_snapshot_xmin({snapshot}), pg_snapshot_xmax({snapshot}), \
                 -(select count(*) from pg_snapshot_xip({snapshot})))"
            )
        };
        for (table, column) in [("tick", "snapshot"), ("subscription", "start_snapshot")] {
            let shown = format!(
                "(select {FIRST} + count(*) from unnest($1::text[]) s where {} <= {})",
                age("s::pg_snapshot"),
                age(&format!("t.{column}"))
            );
            let sql = format!(
                "update {}.{table} t set {column} = ({shown} || ':' || {shown} || ':')::pg_snapshot \
                 where t.{column}::text <> '1:1:'",
                self.schema
            );
            self.execute(&sql, &[(&stands, Type::TEXT_ARRAY)]).await?;
        }
        Ok(())
    }

    /// A condition for rows `l` of the log that no transaction of this server has written. Rows
    /// written here lie above all others, and the transaction that wrote the row itself is theirs,
    /// or a part of it.
    async fn is_foreign(&self, origin: &Origin) -> Result<String> {
        let sql = format!(
            "select coalesce(max(position), 0) from {}.log l where l.xid::text::bigint > {}",
            self.schema,
            self.whole("l.xmin")
        );
        let highest: i64 = self.one(&sql, &[]).await?.get(0);
        Ok(format!(
            "not (l.position > {highest} and l.xid > '{}'::xid8 and l.xid::text::bigint <= {})",
            origin.here_since,
            self.whole("l.xmin")
        ))
    }

    /// A row's 32-bit transaction id as a whole one, the nearest to the next of this server.
    fn whole(&self, xmin: &str) -> String {
        let latest = self.next + (1 << 31);
        format!("({latest} - (({latest} - {xmin}::text::bigint) & 4294967295))")
    }

    /// Makes the copied log one of its own, in which every subscription has to be rebased.
    async fn make_it_ours(&self, subscription: i32) -> Result<()> {
        let schema = self.schema;
        let meta = format!(
            "update {schema}.meta set incarnation = gen_random_uuid(), \
             written_by = pg_current_xact_id(), log_oid = '{schema}.log'::regclass, \
             system_id = (select system_identifier from pg_control_system())"
        );
        self.execute(&meta, &[]).await?;
        let others = format!(
            "update {schema}.lease set holder = null, expires_at = null, rewound = \
             'the log was copied from another database' where subscription <> {subscription}"
        );
        self.execute(&others, &[]).await.map(drop)
    }

    /// Lets a relay begin at the settled place, and take the sink's places over. A place whose ticks
    /// are not there is moved back to the newest tick before it: rather twice than never.
    async fn take_place(&self, subscription: i32) -> Result<posthaste_core::Place> {
        let schema = self.schema;
        // FENCED: the epoch keeps out whoever held the subscription.
        let lease = format!(
            "update {schema}.lease set epoch = epoch + 1, holder = null, expires_at = null, \
             rewound = null, \
             adopts = true, log = gen_random_uuid(), retry_calls = 0 \
             where subscription = {subscription} returning epoch"
        );
        let epoch: i64 = self.one(&lease, &[]).await?.get(0);
        // Without a count: what the sink has counted belongs to the log before.
        let place = format!(
            "insert into {schema}.progress (subscription, {PLACE_COLUMNS}, epoch) \
             select p.subscription_id, coalesce(b.n, 0), \
             coalesce(b.id, '00000000-0000-0000-0000-000000000000'), \
             h.n, h.id, case when h.n is not null then p.position end, \
             case when h.n is not null then p.message_id end, null, {epoch} from {schema}.place p \
             left join lateral (select n, id from {schema}.tick where n <= p.base_tick \
             and (n < p.base_tick or id = p.base_id) order by n desc limit 1) b on true \
             left join {schema}.tick h on h.n = p.head_tick and h.id = p.head_id \
             and b.n is not distinct from nullif(p.base_tick, 0) \
             where p.subscription_id = {subscription} returning {PLACE_COLUMNS}"
        );
        Ok(subscriptions::place(&self.one(&place, &[]).await?))
    }

    /// How many messages the subscription has before it.
    async fn pending(&self, subscription: i32) -> Result<u64> {
        let sql = format!(
            "select count(*) from {0}.log l join {0}.place p on p.subscription_id = {subscription} \
             where (l.topic = any (p.topics) or l.topic ^@ any (p.prefixes)) \
             and not pg_visible_in_snapshot(l.xid, p.start_snapshot) \
             and not {0}.is_published(p, l.xid, l.position, l.id, l.key)",
            self.schema
        );
        Ok(self.one(&sql, &[]).await?.get::<_, i64>(0).cast_unsigned())
    }

    async fn note(&self, name: &str, rebased: &Rebased, request: &Request) -> Result<()> {
        let sql = format!(
            "insert into {}.audit (actor, action, subscription, detail) values ($1, 'rebase', $2, \
             jsonb_build_object('tick', $3::bigint, 'messages', $4::bigint, 'copied', $5::bool, \
             'rewritten', $6::bigint))",
            self.schema
        );
        let (pending, rewritten) = (rebased.pending.cast_signed(), rebased.rewritten.cast_signed());
        let params: &[(&(dyn ToSql + Sync), Type)] = &[
            (&request.actor, Type::TEXT),
            (&name, Type::TEXT),
            (&rebased.place.base.n, Type::INT8),
            (&pending, Type::INT8),
            (&rebased.was_copied, Type::BOOL),
            (&rewritten, Type::INT8),
        ];
        self.execute(&sql, params).await.map(drop)
    }

    /// Moves the sequence beyond every position that is taken. It does not roll back: last.
    async fn pass_positions(&self) -> Result<()> {
        let sql = format!(
            "select setval('{0}.log_position_seq', m.position) from (select max(position) as \
             position from {0}.log) m where m.position > (select last_value from {0}.log_position_seq)",
            self.schema
        );
        self.rows(&sql, &[]).await.map(drop)
    }

    async fn execute(&self, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<u64> {
        self.transaction.execute_typed(sql, params).await.map_err(failed)
    }

    async fn rows(&self, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>> {
        self.transaction.query_typed(sql, params).await.map_err(failed)
    }

    /// The one row of a statement that has one.
    async fn one(&self, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Row> {
        self.rows(sql, params).await?.into_iter().next().ok_or_else(|| {
            StoreError::new(StoreErrorKind::Unexpected, format!("{DOING}: a row is missing"))
        })
    }
}

fn failed(error: tokio_postgres::Error) -> StoreError {
    errors::classify(DOING, error)
}
