//! Machines with their entities, and contracts, as people see them.

use async_trait::async_trait;
use posthaste_core::Timestamp;
use rusqlite::{Row, named_params};

use super::{SqliteStore, subscriptions::uuid};
use crate::{
    ContractRow, EVENTS_MAX, Entities, Entity, EntityFilter, MACHINES_MAX, Result, StateEvent,
    StoredContract, StoredMachine, VERSIONS_MAX,
};

/// What [`entity`] reads, in its order.
const ENTITY: &str = "entity_id, state, version, user_id, organization_id, started_at, changed_at";

/// The statement of a page: each is the beginning of a range of an index, which is named because the database, which
/// knows nothing of the values, may prefer the primary key. An entity's name is not empty.
fn entities_sql(has_state: bool, has_organizations: bool, limit: u32) -> String {
    let of_state = if has_state { "and state = :state" } else { "and :state is null" };
    let page = |columns: &str, index: &str, of: &str| {
        format!(
            "select {columns} from @schema@_entity {index} where machine = :machine {of} {of_state} \
             and entity_id > :after order by entity_id limit {limit}"
        )
    };
    if !has_organizations {
        let index = if has_state { "indexed by @schema@_entity_state" } else { "" };
        return page(ENTITY, index, "and :organizations is null");
    }
    let index = "indexed by @schema@_entity_of_organization";
    format!(
        "select {ENTITY} from (select distinct value from json_each(:organizations)) o \
         cross join @schema@_entity where machine = :machine and entity_id in ({}) \
         order by entity_id limit {limit}",
        page("entity_id", index, "and organization_id = o.value")
    )
}

#[async_trait]
impl Entities for SqliteStore {
    async fn machines(&self) -> Result<Vec<StoredMachine>> {
        self.observe("read the machines", |scope| {
            let sql = format!(
                "select name, definition, pushed_at from @schema@_machine \
                 order by name limit {MACHINES_MAX}"
            );
            scope.all(&sql, [], machine)
        })
        .await
    }

    async fn machine(&self, name: &str) -> Result<Option<(StoredMachine, Vec<(String, u64)>)>> {
        let name = name.to_owned();
        self.observe("read a machine", move |scope| {
            let own = "select name, definition, pushed_at from @schema@_machine where name = ?1";
            let Some(own) = scope.first(own, [&name], machine)? else { return Ok(None) };
            let states = format!(
                "select state, count(*) from @schema@_entity where machine = ?1 \
                 group by state order by state limit {MACHINES_MAX}"
            );
            let states = scope.all(&states, [&name], |row| {
                Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs()))
            })?;
            Ok(Some((own, states)))
        })
        .await
    }

    async fn entities(
        &self,
        machine: &str,
        which: &EntityFilter<'_>,
        limit: u32,
    ) -> Result<Vec<Entity>> {
        let (machine, state) = (machine.to_owned(), which.state.map(str::to_owned));
        let after = which.after.map(str::to_owned);
        let organizations = which.organizations.map(|all| serde_json::Value::from(all).to_string());
        self.observe("read the entities", move |scope| {
            let sql = entities_sql(state.is_some(), organizations.is_some(), limit);
            let values = named_params! {
                ":machine": machine,
                ":state": state,
                ":after": after.unwrap_or_default(),
                ":organizations": organizations,
            };
            scope.all(&sql, values, entity)
        })
        .await
    }

    async fn entity(&self, machine: &str, id: &str) -> Result<Option<(Entity, Vec<StateEvent>)>> {
        let (machine, id) = (machine.to_owned(), id.to_owned());
        self.observe("read an entity", move |scope| {
            let own = format!(
                "select {ENTITY} from @schema@_entity where machine = ?1 and entity_id = ?2"
            );
            let Some(own) = scope.first(&own, (&machine, &id), entity)? else { return Ok(None) };
            let events = format!(
                "select id, version, from_state, to_state, initiated_by, correlation_id, \
                 metadata, at from @schema@_state_event where machine = ?1 and entity_id = ?2 \
                 order by version desc limit {EVENTS_MAX}"
            );
            let events = scope.all(&events, (&machine, &id), |row| {
                Ok(StateEvent {
                    id: uuid(row, 0)?,
                    version: row.get(1)?,
                    from: row.get(2)?,
                    to: row.get(3)?,
                    initiated_by: row.get(4)?,
                    correlation_id: row.get(5)?,
                    metadata: row.get(6)?,
                    at: Timestamp(row.get(7)?),
                })
            })?;
            Ok(Some((own, events)))
        })
        .await
    }

    async fn contract_page(
        &self,
        after: Option<(&str, u32)>,
        limit: u32,
    ) -> Result<Vec<ContractRow>> {
        let (topic, version) = after.unwrap_or_default();
        let topic = topic.to_owned();
        self.observe("read the contracts", move |scope| {
            let sql = format!(
                "select topic, version, length(cast(schema as blob)), pushed_at \
                 from @schema@_contract where (topic, version) > (?1, ?2) \
                 order by topic, version limit {limit}"
            );
            scope.all(&sql, (&topic, version), |row| {
                Ok(ContractRow {
                    topic: row.get(0)?,
                    version: row.get(1)?,
                    schema_bytes: row.get::<_, i64>(2)?.unsigned_abs(),
                    pushed_at: Timestamp(row.get(3)?),
                })
            })
        })
        .await
    }

    async fn contract(
        &self,
        topic: &str,
        version: Option<u32>,
    ) -> Result<Option<(StoredContract, Vec<u32>)>> {
        let topic = topic.to_owned();
        self.observe("read a contract", move |scope| {
            let sql = "select topic, version, schema, pushed_at from @schema@_contract \
                       where topic = ?1 and (?2 is null or version = ?2) \
                       order by version desc limit 1";
            let found = scope.first(sql, (&topic, version), |row| {
                Ok(StoredContract {
                    topic: row.get(0)?,
                    version: row.get(1)?,
                    schema: row.get(2)?,
                    pushed_at: Timestamp(row.get(3)?),
                })
            })?;
            let Some(found) = found else { return Ok(None) };
            let versions = format!(
                "select version from @schema@_contract where topic = ?1 \
                 order by version desc limit {VERSIONS_MAX}"
            );
            Ok(Some((found, scope.all(&versions, [&topic], |row| row.get(0))?)))
        })
        .await
    }
}

fn machine(row: &Row<'_>) -> rusqlite::Result<StoredMachine> {
    let pushed_at = Timestamp(row.get(2)?);
    Ok(StoredMachine { name: row.get(0)?, definition: row.get(1)?, pushed_at })
}

fn entity(row: &Row<'_>) -> rusqlite::Result<Entity> {
    Ok(Entity {
        id: row.get(0)?,
        state: row.get(1)?,
        version: row.get(2)?,
        user: row.get(3)?,
        organization: row.get(4)?,
        started_at: Timestamp(row.get(5)?),
        changed_at: Timestamp(row.get(6)?),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::SqliteOptions, *};
    use crate::Store as _;

    /// Whatever a table holds: without statistics a plan hangs on the statement and the indexes alone.
    #[tokio::test]
    async fn page_of_entities_is_a_range_of_an_index() {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteOptions { create: true, ..SqliteOptions::default() };
        let store = SqliteStore::open(directory.path().join("log.db"), &options).await.unwrap();
        store.migrate().await.unwrap();
        let key = "PRIMARY KEY (machine=? AND entity_id>?)";
        let of_state = "entity_state (machine=? AND state=? AND entity_id>?)";
        let of_organization =
            "entity_of_organization (machine=? AND organization_id=? AND entity_id>?)";
        for (has_state, has_organizations, expected) in [
            (false, false, key),
            (true, false, of_state),
            (false, true, of_organization),
            (true, true, of_organization),
        ] {
            let sql =
                format!("explain query plan {}", entities_sql(has_state, has_organizations, 9));
            let plan = store.observe("explain", move |scope| {
                let values = named_params! {
                    ":machine": "m", ":state": "new", ":after": "", ":organizations": "[]",
                };
                scope.all(&sql, values, |row| row.get::<_, String>(3))
            });
            let plan = plan.await.unwrap();
            assert!(plan.iter().any(|line| line.ends_with(expected)), "{plan:?}");
            let sorts = plan.iter().any(|line| line.contains("ORDER BY"));
            assert_eq!(sorts, has_organizations, "{plan:?}");
        }
    }
}
