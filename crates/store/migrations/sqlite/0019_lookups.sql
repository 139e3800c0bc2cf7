-- Serves lists of an organisation's entities, in the order of their names, which the index ends with.
create index @schema@_entity_of_organization on @schema@_entity (machine, organization_id)
  where organization_id is not null;
-- What one person did, and what was done to a subscription.
create index @schema@_audit_actor on @schema@_audit (actor);
create index @schema@_audit_subscription on @schema@_audit (subscription) where subscription is not null;
