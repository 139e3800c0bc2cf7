//! A look, before a relay begins, at what would keep it from its promises or slow it down.

use std::time::{Duration, UNIX_EPOCH};

use tokio_postgres::types::{ToSql, Type};

use super::{PostgresStore, connect::Loan};
use crate::{Result, StoreError, StoreErrorKind};

/// Rights that a relay needs, each of one table that stands for its like (`roles.sql`).
const RIGHTS: [(&str, &str); 10] = [
    ("log", "select"),
    ("tick", "insert"),
    ("progress", "insert"),
    ("subscription", "insert"),
    ("lease", "update"),
    ("emptied", "update"),
    ("failed_message", "delete"),
    ("inbox", "delete"),
    ("relay", "delete"),
    ("contract", "select"),
];
/// Functions that it needs, on tables that are their functions' alone.
const FUNCTIONS: [&str; 3] = [
    "forget_commands(interval, int)",
    "forget_jobs(interval, int)",
    "note_moved_job(uuid, bigint)",
];
/// Clocks that are kept by NTP differ by less.
const SKEW_MAX: Duration = Duration::from_secs(5);

/// Refuses a server on which a promise would not hold, and names what else deserves a look.
pub(super) async fn preflight(store: &PostgresStore) -> Result<Vec<String>> {
    let loan = store.shared.connections.lend().await?;
    let ahead = refuse_unfit(store, &loan).await?;
    refuse_powerless(store, &loan).await?;
    let mut findings = Vec::new();
    if ahead.abs() > SKEW_MAX.as_secs_f64() {
        let which = if ahead > 0.0 { "ahead of" } else { "behind" };
        findings.push(format!(
            "this machine's clock is {:.0} s {which} the database's: leases go by the database's \
             alone, but ids and times in logs do not; synchronise both (NTP)",
            ahead.abs()
        ));
    }
    findings.extend(old_transactions(store, &loan).await?);
    loan.give_back();
    let described = store.shared.connections.describe();
    Ok(findings.into_iter().map(|text| format!("{described}: {text}")).collect())
}

/// Answers by how many seconds this machine's clock is ahead of the server's.
async fn refuse_unfit(store: &PostgresStore, loan: &Loan) -> Result<f64> {
    let schema = store.schema();
    let sql = "select current_setting('transaction_read_only') = 'on', \
               extract(epoch from clock_timestamp())::float8, \
               (select seqcache from pg_catalog.pg_sequence where seqrelid = to_regclass($1))";
    let sequence = format!("{schema}.log_position_seq");
    let params: &[(&(dyn ToSql + Sync), Type)] = &[(&sequence, Type::TEXT)];
    let asked = loan.client().query_typed(sql, params);
    let rows = loan.bounded("look at the server", asked).await?;
    let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
    let Some(row) = rows.first() else { return Ok(0.0) };
    if row.get(0) {
        let doing = "look at the server: transactions of this role are read-only \
                     (default_transaction_read_only)";
        return Err(StoreError::new(StoreErrorKind::Standby, doing));
    }
    match row.get::<_, Option<i64>>(2) {
        Some(cache) if cache > 1 => {
            // ORDERED: sessions would hand positions out in blocks of their own.
            let doing = format!(
                "look at the server: the sequence {sequence} has cache {cache}, which breaks the \
                 order of messages; run `alter sequence {sequence} cache 1`"
            );
            Err(StoreError::new(StoreErrorKind::Invalid, doing))
        }
        _ => Ok(now - row.get::<_, f64>(1)),
    }
}

async fn refuse_powerless(store: &PostgresStore, loan: &Loan) -> Result<()> {
    let schema = store.schema();
    let (tables, rights): (Vec<String>, Vec<&str>) =
        RIGHTS.iter().map(|(table, right)| (format!("{schema}.{table}"), *right)).unzip();
    let sql = "select t || ' (' || r || ')', current_user::text from unnest($1, $2) as _ (t, r) \
               where not has_table_privilege(t, r) \
               union all select f || ' (execute)', current_user::text from unnest($3) f \
               where not has_function_privilege(f, 'execute')";
    let functions = FUNCTIONS.map(|function| format!("{schema}.{function}")).to_vec();
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&tables, Type::TEXT_ARRAY), (&rights, Type::TEXT_ARRAY), (&functions, Type::TEXT_ARRAY)];
    let asked = loan.client().query_typed(sql, params);
    let rows = loan.bounded("look at the role's rights", asked).await?;
    let Some(first) = rows.first() else { return Ok(()) };
    let lacking: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let doing = format!(
        "look at the role's rights: the role {} lacks {}; grant it the relay's role of \
         `posthaste roles`",
        first.get::<_, String>(1),
        lacking.join(", ")
    );
    Err(StoreError::new(StoreErrorKind::Privilege, doing))
}

/// Transactions that have been open for so long that somebody has forgotten them: what they have
/// enqueued waits with them, and nothing that was changed since can be cleaned up. Of other roles'
/// sessions only privileged ones are told.
async fn old_transactions(store: &PostgresStore, loan: &Loan) -> Result<Vec<String>> {
    let sql = "select 'a transaction of pid ' || pid || ' (' || \
                 coalesce(nullif(application_name, ''), 'no application name') || ', database ' || \
                 coalesce(datname, '-') || ')', \
               extract(epoch from clock_timestamp() - xact_start)::float8, \
               'commit or roll it back, or `select pg_terminate_backend(' || pid || ')`' \
               from pg_catalog.pg_stat_activity \
               where xact_start < clock_timestamp() - make_interval(secs => $1) \
               and backend_type = 'client backend' \
               union all select 'the prepared transaction ' || quote_literal(gid), \
               extract(epoch from clock_timestamp() - prepared)::float8, \
               '`commit prepared` it or `rollback prepared` it' from pg_catalog.pg_prepared_xacts \
               where prepared < clock_timestamp() - make_interval(secs => $1) order by 2 desc";
    let limit = store.shared.options.transaction_age_max.as_secs_f64();
    let params: &[(&(dyn ToSql + Sync), Type)] = &[(&limit, Type::FLOAT8)];
    let asked = loan.client().query_typed(sql, params);
    let rows = loan.bounded("look for old transactions", asked).await?;
    let told = rows.iter().map(|row| {
        let (what, seconds, remedy): (String, f64, String) = (row.get(0), row.get(1), row.get(2));
        format!(
            "{what} has been open for {:.0} min: what it has enqueued waits with it, and no dead \
             row younger than it can go; {remedy}",
            seconds / 60.0
        )
    });
    Ok(told.collect())
}
