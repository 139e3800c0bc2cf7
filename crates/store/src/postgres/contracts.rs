//! Contracts: pushed and removed by operators, read by whoever checks payloads.

use posthaste_core::Timestamp;
use tokio_postgres::{
    Row, Transaction,
    types::{ToSql, Type},
};

use super::{PostgresStore, connect::bounded, rows::Micros};
use crate::{
    ContractSet, ContractText, ContractsMark, Request, Result, StoredContract,
    contracts::{News, check},
};

const PUSHING: &str = "push contracts";

/// All contracts, unless they are those of `known`: one statement, so count and rows are of one
/// snapshot. Where nothing is new no row of them is read.
pub(super) async fn contracts(
    store: &PostgresStore,
    known: &ContractsMark,
) -> Result<Option<ContractSet>> {
    let schema = store.schema();
    // The count reads the smallest index, the newest is the end of the one on n. `offset 0` keeps the
    // comparison of the marks before the scan of the table, which it then saves.
    let sql = format!(
        "with mark as materialized (select (select count(*) from {schema}.contract) as count, \
           coalesce(l.n, 0) as newest, coalesce(l.pushed_at, 'epoch') as pushed_at \
           from (select) one left join lateral ( \
             select n, pushed_at from {schema}.contract order by n desc limit 1) l on true) \
         select m.count, m.newest, m.pushed_at, c.topic, c.version, c.schema, c.pushed_at \
         from mark m left join lateral ( \
           select topic, version, schema, pushed_at from {schema}.contract \
           where (m.count, m.newest, m.pushed_at) \
             <> ($1, $2, timestamptz 'epoch' + $3 * interval '1 microsecond') offset 0) c on true \
         order by c.topic collate \"C\", c.version"
    );
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&known.count, Type::INT8), (&known.newest, Type::INT8), (&known.pushed_at, Type::INT8)];
    let loan = store.shared.connections.lend().await?;
    let rows = loan.bounded("read the contracts", loan.client().query_typed(&sql, params)).await?;
    loan.give_back();
    let Some(first) = rows.first() else { return Ok(None) };
    let mark = ContractsMark {
        count: first.get(0),
        newest: first.get(1),
        pushed_at: first.get::<_, Micros>(2).0,
    };
    if mark == *known {
        return Ok(None);
    }
    // Without any contract there is one row, of the mark alone.
    let contracts = rows.iter().filter_map(|row| contract(row, row.get(3))).collect();
    Ok(Some(ContractSet { mark, contracts }))
}

fn contract(row: &Row, topic: Option<String>) -> Option<StoredContract> {
    Some(StoredContract {
        topic: topic?,
        version: version(row.get(4)),
        schema: row.get(5),
        pushed_at: Timestamp(row.get::<_, Micros>(6).0),
    })
}

/// A version, which the table holds to its bounds.
fn version(stored: i64) -> u32 {
    u32::try_from(stored).unwrap_or(u32::MAX)
}

/// Writes what is new and notes it, in one transaction; answers what that is.
pub(super) async fn push(
    store: &PostgresStore,
    contracts: &[ContractText],
    request: &Request,
) -> Result<Vec<bool>> {
    check(contracts)?;
    let mut loan = store.shared.connections.lend().await?;
    let limit = loan.operation_timeout();
    let transaction = bounded(limit, PUSHING, loan.begin_durably()).await?;
    let schema = store.schema();
    // Two pushes at once would each find room for its own, and numbers have to be handed out in the
    // order of the commits, or a reader could know the higher one and miss the lower. Who
    // reads does not wait.
    let lock = format!("lock table {schema}.contract in share row exclusive mode");
    bounded(limit, PUSHING, transaction.batch_execute(&lock)).await?;
    let news = bounded(limit, PUSHING, found(&transaction, schema.as_str(), contracts)).await?;
    let (stored, count, bytes) = news;
    let news = News::of(contracts, stored, count, bytes)?;
    let end = async {
        if request.is_dry_run {
            return transaction.rollback().await;
        }
        write(&transaction, schema.as_str(), news.chosen(contracts), request).await?;
        transaction.commit().await
    };
    bounded(limit, PUSHING, end).await?;
    loan.give_back();
    Ok(news.is_new)
}

type Found = (Vec<(String, u32, String)>, usize, usize);

/// What the database has of these topics and versions, and the count and bytes of all.
async fn found(
    transaction: &Transaction<'_>,
    schema: &str,
    contracts: &[ContractText],
) -> Result<Found, tokio_postgres::Error> {
    let topics: Vec<&str> = contracts.iter().map(|it| it.topic.as_str()).collect();
    let versions: Vec<i64> = contracts.iter().map(|it| it.version.into()).collect();
    let same = format!(
        "select topic, version, schema from {schema}.contract \
         join unnest($1, $2) as pushed (topic, version) using (topic, version)"
    );
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&topics, Type::TEXT_ARRAY), (&versions, Type::INT8_ARRAY)];
    let rows = transaction.query_typed(&same, params).await?;
    let stored = rows.iter().map(|row| (row.get(0), version(row.get(1)), row.get(2))).collect();
    let all = format!(
        "select count(*), coalesce(sum(octet_length(schema)), 0)::int8 from {schema}.contract"
    );
    let rows = transaction.query_typed(&all, &[]).await?;
    let number = |n| rows.first().map_or(0, |row| row.get::<_, i64>(n).unsigned_abs() as usize);
    Ok((stored, number(0), number(1)))
}

async fn write(
    transaction: &Transaction<'_>,
    schema: &str,
    news: impl Iterator<Item = &ContractText>,
    request: &Request,
) -> Result<(), tokio_postgres::Error> {
    let (mut topics, mut versions, mut schemas) = (Vec::new(), Vec::new(), Vec::new());
    for contract in news {
        topics.push(contract.topic.as_str());
        versions.push(i64::from(contract.version));
        schemas.push(contract.schema.as_str());
    }
    let sql = format!(
        "with done as (insert into {schema}.contract (topic, version, schema) \
         select * from unnest($1, $2, $3) returning n, topic, version) \
         insert into {schema}.audit (actor, action, detail) select $4, 'push-contract', \
         jsonb_build_object('topic', topic, 'version', version) from done order by n"
    );
    let params: [(&(dyn ToSql + Sync), Type); 4] = [
        (&topics, Type::TEXT_ARRAY),
        (&versions, Type::INT8_ARRAY),
        (&schemas, Type::TEXT_ARRAY),
        (&request.actor, Type::TEXT),
    ];
    transaction.execute_typed(&sql, &params).await.map(drop)
}

/// Removes one and notes it; answers whether it was there.
pub(super) async fn remove(
    store: &PostgresStore,
    topic: &str,
    version: u32,
    request: &Request,
) -> Result<bool> {
    let schema = store.schema();
    let sql = if request.is_dry_run {
        format!(
            "select from {schema}.contract \
             where topic = $1 and version = $2 and $3::text is not null"
        )
    } else {
        format!(
            "with done as (delete from {schema}.contract where topic = $1 and version = $2 \
             returning topic, version) \
             insert into {schema}.audit (actor, action, detail) select $3, 'remove-contract', \
             jsonb_build_object('topic', topic, 'version', version) from done"
        )
    };
    let version = i64::from(version);
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&topic, Type::TEXT), (&version, Type::INT8), (&request.actor, Type::TEXT)];
    let loan = store.shared.connections.lend().await?;
    let doing = "remove a contract";
    let removed = loan.bounded(doing, loan.client().execute_typed(&sql, params)).await?;
    loan.give_back();
    Ok(removed > 0)
}
