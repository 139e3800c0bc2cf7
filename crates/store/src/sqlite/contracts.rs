//! Contracts: pushed and removed by operators, read by whoever checks payloads.

use posthaste_core::Timestamp;
use rusqlite::Row;
use serde_json::json;

use super::{operations::audit, session::Scope};
use crate::{
    ContractSet, ContractText, ContractsMark, Request, Result, Selection, StoredContract,
    contracts::News,
};

/// All contracts, unless they are those of `known`, in the snapshot of the count.
pub(super) fn contracts(scope: &Scope<'_>, known: &ContractsMark) -> Result<Option<ContractSet>> {
    // Read from the index of (topic, version) and from the end of the table.
    let sql = "select (select count(*) from @schema@_contract), n, pushed_at \
               from @schema@_contract order by n desc limit 1";
    let mark = scope.first(sql, [], |row| {
        Ok(ContractsMark { count: row.get(0)?, newest: row.get(1)?, pushed_at: row.get(2)? })
    })?;
    let mark = mark.unwrap_or_default();
    if mark == *known {
        return Ok(None);
    }
    let sql = "select topic, version, schema, pushed_at from @schema@_contract \
               order by topic, version";
    let contracts = scope.all(sql, [], |row| {
        Ok(StoredContract {
            topic: row.get(0)?,
            version: row.get(1)?,
            schema: row.get(2)?,
            pushed_at: Timestamp(row.get(3)?),
        })
    })?;
    Ok(Some(ContractSet { mark, contracts }))
}

/// Writes what is new of contracts that were checked, and notes it; answers what that is.
pub(super) fn push(
    scope: &Scope<'_>,
    contracts: &[ContractText],
    request: &Request,
) -> Result<Vec<bool>> {
    let mut stored = Vec::new();
    for ContractText { topic, version, .. } in contracts {
        let sql = "select schema from @schema@_contract where topic = ?1 and version = ?2";
        let schema = scope.first(sql, (topic, version), |row| row.get(0))?;
        stored.extend(schema.map(|schema| (topic.clone(), *version, schema)));
    }
    let all =
        "select count(*), coalesce(sum(length(cast(schema as blob))), 0) from @schema@_contract";
    let of_all = |row: &Row<'_>| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?));
    let (count, bytes) = scope.first(all, [], of_all)?.unwrap_or_default();
    let news = News::of(contracts, stored, count as usize, bytes as usize)?;
    if !request.is_dry_run {
        for ContractText { topic, version, schema } in news.chosen(contracts) {
            scope.run(
                "insert into @schema@_contract (topic, version, schema) values (?1, ?2, ?3)",
                (topic, version, schema),
            )?;
            note(scope, "push-contract", topic, *version, request)?;
        }
    }
    Ok(news.is_new)
}

/// Removes one and notes it; answers whether it was there.
pub(super) fn remove(
    scope: &Scope<'_>,
    topic: &str,
    version: u32,
    request: &Request,
) -> Result<bool> {
    let of = "@schema@_contract where topic = ?1 and version = ?2";
    let is_there = format!("select 1 from {of}");
    let is_there = scope.first(&is_there, (topic, version), |_| Ok(()))?.is_some();
    if is_there && !request.is_dry_run {
        scope.run(&format!("delete from {of}"), (topic, version))?;
        note(scope, "remove-contract", topic, version, request)?;
    }
    Ok(is_there)
}

fn note(
    scope: &Scope<'_>,
    action: &str,
    topic: &str,
    version: u32,
    request: &Request,
) -> Result<()> {
    let detail = json!({ "topic": topic, "version": version });
    audit(scope, action, &Selection::default(), detail, request)
}
