-- An entity has one id: what a column's type reads alike ("017" of a number, a UUID in capitals) is no
-- entity, or one row of the application would be several entities, and outlive itself.

-- Fails unless the application's table, where the machine has one, holds the entity, of this
-- organisation where that is told apart. The row stays until the transaction has ended.
create or replace function @schema@.require_entity(definition jsonb, entity_id text, organization_id text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  is_there boolean;
  key text := definition #>> '{entity,key}';
  own text := case when definition #>> '{entity,organization}' is null then ''
                   else format(' and %I::text = $2', definition #>> '{entity,organization}') end;
begin
  if definition -> 'entity' is null then
    return;
  end if;
  -- A literal takes the column's own type, so that its index serves.
  execute format('select true from %s where %I = %L and %I::text = $1%s for key share',
                 @schema@.entity_table(definition), key, entity_id, key, own)
     into is_there using entity_id, organization_id;
  if is_there is null then
    perform @schema@.refuse_entity(definition ->> 'name', entity_id);
  end if;
exception
  -- An id that the column's type does not take.
  when invalid_text_representation or numeric_value_out_of_range then
    perform @schema@.refuse_entity(definition ->> 'name', entity_id);
end
$$;
