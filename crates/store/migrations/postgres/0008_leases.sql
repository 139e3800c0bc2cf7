-- Places that sinks keep: how many calls the sink had counted when a place was settled, and when
-- what its second lane had published was written down.

-- Null where a person or the configuration chose the place, or the sink keeps none.
alter table @schema@.progress add column calls bigint;
alter table @schema@.lease add column retry_calls bigint not null default 0;
