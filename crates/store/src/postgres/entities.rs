//! Machines with their entities, and contracts, as people see them.

use async_trait::async_trait;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{PostgresStore, oversight::time};
use crate::{
    ContractRow, EVENTS_MAX, Entities, Entity, EntityFilter, MACHINES_MAX, Result, StateEvent,
    StoredContract, StoredMachine, VERSIONS_MAX,
};

type Values<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// What [`entity`] reads, in its order.
const ENTITY: &str = "entity_id, state, version, user_id, organization_id, started_at, changed_at";

#[async_trait]
impl Entities for PostgresStore {
    async fn machines(&self) -> Result<Vec<StoredMachine>> {
        let sql = format!(
            "select name, definition::text, pushed_at from {}.machine \
             order by name limit {MACHINES_MAX}",
            self.schema()
        );
        let rows = self.rows("read the machines", &sql, &[]).await?;
        Ok(rows.iter().map(machine).collect())
    }

    async fn machine(&self, name: &str) -> Result<Option<(StoredMachine, Vec<(String, u64)>)>> {
        let (schema, doing) = (self.schema(), "read a machine");
        let params: Values<'_> = &[(&name, Type::TEXT)];
        let own = format!(
            "select name, definition::text, pushed_at from {schema}.machine where name = $1"
        );
        let own = self.rows(doing, &own, params).await?;
        let Some(own) = own.first() else { return Ok(None) };
        // The index on machine and state serves.
        let states = format!(
            "select state, count(*) from {schema}.entity where machine = $1 \
             group by state order by state collate \"C\" limit {MACHINES_MAX}"
        );
        let states = self.rows(doing, &states, params).await?;
        let count = |row: &Row| (row.get(0), row.get::<_, i64>(1).unsigned_abs());
        Ok(Some((machine(own), states.iter().map(count).collect())))
    }

    async fn entities(
        &self,
        machine: &str,
        which: &EntityFilter<'_>,
        limit: u32,
    ) -> Result<Vec<Entity>> {
        // Each is the beginning of a range of an index (`entity_of_state`, `entity_of_organization`).
        let page = |of: &str| {
            format!(
                "select {ENTITY} from {}.entity where machine = $1 {of} \
                 and ($2::text is null or state = $2) and ($3::text is null or entity_id > $3) \
                 order by entity_id limit {limit}",
                self.schema()
            )
        };
        let sql = match which.organizations {
            None => page("and $4::text[] is null"),
            Some(_) => format!(
                "select e.* from (select distinct unnest($4::text[]) as id) o \
                 cross join lateral ({}) e order by entity_id limit {limit}",
                page("and organization_id = o.id")
            ),
        };
        let params: Values<'_> = &[
            (&machine, Type::TEXT),
            (&which.state, Type::TEXT),
            (&which.after, Type::TEXT),
            (&which.organizations, Type::TEXT_ARRAY),
        ];
        let rows = self.rows("read the entities", &sql, params).await?;
        Ok(rows.iter().map(entity).collect())
    }

    async fn entity(&self, machine: &str, id: &str) -> Result<Option<(Entity, Vec<StateEvent>)>> {
        let (schema, doing) = (self.schema(), "read an entity");
        let params: Values<'_> = &[(&machine, Type::TEXT), (&id, Type::TEXT)];
        let own =
            format!("select {ENTITY} from {schema}.entity where machine = $1 and entity_id = $2");
        let own = self.rows(doing, &own, params).await?;
        let Some(own) = own.first() else { return Ok(None) };
        let events = format!(
            "select id, version, from_state, to_state, initiated_by, correlation_id, \
             metadata::text, at from {schema}.state_event where machine = $1 and entity_id = $2 \
             order by version desc limit {EVENTS_MAX}"
        );
        let events = self.rows(doing, &events, params).await?;
        let event = |row: &Row| StateEvent {
            id: row.get(0),
            version: row.get(1),
            from: row.get(2),
            to: row.get(3),
            initiated_by: row.get(4),
            correlation_id: row.get(5),
            metadata: row.get(6),
            at: time(row, 7),
        };
        Ok(Some((entity(own), events.iter().map(event).collect())))
    }

    async fn contract_page(
        &self,
        after: Option<(&str, u32)>,
        limit: u32,
    ) -> Result<Vec<ContractRow>> {
        let sql = format!(
            "select topic, version, octet_length(schema), pushed_at from {}.contract \
             where (topic collate \"C\", version) > ($1, $2) \
             order by topic collate \"C\", version limit {limit}",
            self.schema()
        );
        let (topic, version) = after.unwrap_or_default();
        let version = i64::from(version);
        let params: Values<'_> = &[(&topic, Type::TEXT), (&version, Type::INT8)];
        let rows = self.rows("read the contracts", &sql, params).await?;
        let row = |row: &Row| ContractRow {
            topic: row.get(0),
            version: number(row.get(1)),
            schema_bytes: u64::from(row.get::<_, i32>(2).unsigned_abs()),
            pushed_at: time(row, 3),
        };
        Ok(rows.iter().map(row).collect())
    }

    async fn contract(
        &self,
        topic: &str,
        version: Option<u32>,
    ) -> Result<Option<(StoredContract, Vec<u32>)>> {
        let (schema, doing) = (self.schema(), "read a contract");
        let sql = format!(
            "select topic, version, schema, pushed_at from {schema}.contract where topic = $1 \
             and ($2::int8 is null or version = $2) order by version desc limit 1"
        );
        let wanted = version.map(i64::from);
        let params: Values<'_> = &[(&topic, Type::TEXT), (&wanted, Type::INT8)];
        let found = self.rows(doing, &sql, params).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let contract = StoredContract {
            topic: row.get(0),
            version: number(row.get(1)),
            schema: row.get(2),
            pushed_at: time(row, 3),
        };
        let versions = format!(
            "select version from {schema}.contract where topic = $1 \
             order by version desc limit {VERSIONS_MAX}"
        );
        let versions = self.rows(doing, &versions, &[(&topic, Type::TEXT)]).await?;
        Ok(Some((contract, versions.iter().map(|row| number(row.get(0))).collect())))
    }
}

fn machine(row: &Row) -> StoredMachine {
    StoredMachine { name: row.get(0), definition: row.get(1), pushed_at: time(row, 2) }
}

fn entity(row: &Row) -> Entity {
    Entity {
        id: row.get(0),
        state: row.get(1),
        version: row.get(2),
        user: row.get(3),
        organization: row.get(4),
        started_at: time(row, 5),
        changed_at: time(row, 6),
    }
}

/// A version, which the table holds to its bounds.
fn number(stored: i64) -> u32 {
    u32::try_from(stored).unwrap_or(u32::MAX)
}
