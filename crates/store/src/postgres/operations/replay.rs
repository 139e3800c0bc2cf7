//! Messages of the log, published again beside a subscription's stream: copies that are due.

use tokio_postgres::types::{ToSql, Type};

use super::{MESSAGE_COLUMNS, Params, PostgresStore, columns_of, unknown, written_sql};
use crate::{ReplayChunk, Replayed, Request, Result, Selection};

/// Copies one piece of the messages that `which` means.
pub(in crate::postgres) async fn replay(
    store: &PostgresStore,
    which: &Selection,
    target: &str,
    chunk: &ReplayChunk,
    request: &Request,
) -> Result<Replayed> {
    let schema = store.schema();
    let exists = format!("select count(*) from {schema}.subscription where name = $1");
    for name in which.subscription.as_deref().into_iter().chain([target]) {
        if store.count("replay", &exists, &[(&name, Type::TEXT)]).await? == 0 {
            return Err(unknown(name));
        }
    }
    let through = match chunk.through {
        Some(through) => through,
        None => head(store).await?,
    };
    let chosen = chosen_sql(schema.as_str(), chunk.limit);
    let starts_in = chunk.starts_in.as_secs_f64();
    let rest: &[(&(dyn ToSql + Sync), Type)] = &[
        (&chunk.rate, Type::FLOAT8),
        (&target, Type::TEXT),
        (&starts_in, Type::FLOAT8),
        (&chunk.after, Type::INT8),
        (&through, Type::INT8),
    ];
    let params = Params::new(which);
    let (messages, reached) = if request.is_dry_run {
        let sql = format!(
            "with {chosen} select count(*), max(position) from chosen \
             where $9::float8 is null or $11::float8 is not null"
        );
        store.answer("replay", &sql, &params.with(rest)).await?
    } else {
        let change = format!(
            "{}, answer (messages, reached) as (select (select count(*) from done), \
             (select max(position) from chosen))",
            copies_sql(schema.as_str(), chunk.limit)
        );
        store.noted("replay", &change, &params, rest, request).await?
    };
    Ok(Replayed { messages, reached, through })
}

/// The messages of a piece, as `chosen`: those above `$12` up to `$13` that `$10` has published, or does not read.
fn chosen_sql(schema: &str, limit: u32) -> String {
    let written = written_sql();
    // A message that the target reads and has not published comes by itself. The slots' indexes of
    // positions serve the range and the order.
    format!(
        "chosen as (select m.*, t.subscription_id as target, \
         row_number() over (order by m.position) - 1 as n \
         from {schema}.log m cross join {schema}.place t \
         left join {schema}.place p on p.subscription = $1 \
         cross join lateral (select p.subscription as name) s \
         where t.subscription = $10 and m.position > $12 and m.position <= $13 and {written} \
         and (p.subscription is null \
         or ((m.topic = any (p.topics) or m.topic ^@ any (p.prefixes)) \
         and not pg_visible_in_snapshot(m.xid, p.start_snapshot))) \
         and (not (m.topic = any (t.topics) or m.topic ^@ any (t.prefixes)) \
         or pg_visible_in_snapshot(m.xid, t.start_snapshot) \
         or {schema}.is_published(t, m.xid, m.position, m.id, m.key)) \
         order by m.position limit {limit})"
    )
}

/// Copies them, at the rate `$9`, the first due in `$11` seconds: as `done`.
pub(in crate::postgres) fn copies_sql(schema: &str, limit: u32) -> String {
    let (chosen, columns) = (chosen_sql(schema, limit), columns_of("c"));
    format!(
        "{chosen}, done as (insert into {schema}.failed_message (subscription, \
         {MESSAGE_COLUMNS}, tick, attempts, reason, due) select c.target, {columns}, 0, 0, \
         'replay', clock_timestamp() + make_interval(secs => $11 + coalesce(c.n / $9, 0)) \
         from chosen c on conflict do nothing returning 1)"
    )
}

/// The highest position handed out.
async fn head(store: &PostgresStore) -> Result<i64> {
    let loan = store.shared.connections.lend().await?;
    let head = store.last_position(&loan).await?;
    loan.give_back();
    Ok(head)
}
