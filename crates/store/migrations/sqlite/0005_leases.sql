-- Places that sinks keep: how many calls the sink had counted when a place was settled, and when
-- what its second lane had published was written down.

-- Null where a person or the configuration chose the place, or the sink keeps none.
alter table @schema@_progress add column calls integer;
alter table @schema@_subscription add column retry_calls integer not null default 0;
