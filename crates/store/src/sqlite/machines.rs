//! Machines, as operators push them; the steps of entities are the applications'.

use posthaste_core::{Machine, machine::EntityTable};
use rusqlite::types::Value;
use serde_json::json;

use super::{operations::audit, session::Scope};
use crate::{
    Request, Result, Selection, StoreError, StoreErrorKind, import::quoted,
    statements::sqlite_table,
};

/// Writes the definition, and has the application's table, where there is one, forget entities with
/// their rows.
pub(super) fn push(scope: &Scope<'_>, machine: &Machine, request: &Request) -> Result<()> {
    refuse_stranded(scope, machine)?;
    if let Some(entity) = machine.entity() {
        refuse_missing(scope, machine, entity)?;
    }
    if request.is_dry_run {
        return Ok(());
    }
    let definition = serde_json::to_string(machine).map_err(|error| {
        StoreError::caused(StoreErrorKind::Unexpected, "write a machine's definition", error)
    })?;
    scope.run(
        "insert into @schema@_machine (name, definition) values (?1, ?2) on conflict (name) \
         do update set definition = excluded.definition, pushed_at = excluded.pushed_at",
        (machine.name(), definition),
    )?;
    let trigger = quoted(&format!("posthaste_{}", machine.name()));
    scope.run_all(&format!("drop trigger if exists {trigger}"))?;
    if let Some(entity) = machine.entity() {
        let (table, key) = (quoted(sqlite_table(entity)), quoted(&entity.key));
        // The name of a machine holds nothing that would end a literal.
        scope.run_all(&format!(
            "create trigger {trigger} after delete on {table} begin \
             delete from @schema@_entity \
             where machine = '{}' and entity_id = cast(old.{key} as text); end",
            machine.name()
        ))?;
    }
    let detail = json!({ "machine": machine.name() });
    audit(scope, "push-machine", &Selection::default(), detail, request)
}

fn refuse_stranded(scope: &Scope<'_>, machine: &Machine) -> Result<()> {
    let entities = "select entity_id, state from @schema@_entity where machine = ?1 group by state";
    let found = scope.all(entities, [machine.name()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?;
    let has = |state: &str| machine.states().any(|known| known == state);
    let Some((entity, state)) = found.into_iter().find(|(_, state)| !has(state)) else {
        return Ok(());
    };
    let doing = format!(
        "machine {}: entity {entity:?} is in state {state}, which the new definition lacks: keep \
         the state, or move such entities first",
        machine.name()
    );
    Err(StoreError::new(StoreErrorKind::Invalid, doing))
}

fn refuse_missing(scope: &Scope<'_>, machine: &Machine, entity: &EntityTable) -> Result<()> {
    for column in [Some(&entity.key), entity.organization.as_ref()].into_iter().flatten() {
        let sql = "select 1 from pragma_table_info(?1) where name = ?2";
        let arguments = [sqlite_table(entity), column].map(|text| Value::Text(text.to_owned()));
        if scope.first(sql, arguments, |_| Ok(()))?.is_none() {
            let doing = format!(
                "machine {}: the table {} has no column {column:?}, or is not in this file",
                machine.name(),
                entity.table
            );
            return Err(StoreError::new(StoreErrorKind::Invalid, doing));
        }
    }
    Ok(())
}
