-- Serve lists of entities in the order of their names: those in a state, and those of an organisation.
drop index @schema@.entity_state;
create index entity_of_state on @schema@.entity (machine, state, entity_id);
create index entity_of_organization on @schema@.entity (machine, organization_id, entity_id)
  where organization_id is not null;
-- What one person did.
create index audit_actor on @schema@.audit (actor, n);
