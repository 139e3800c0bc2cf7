-- Leases that run out, and places that sinks keep.

-- A relay holds a subscription until then, on this database's clock; null when nobody does.
alter table @schema@.lease add column expires_at timestamptz;
-- How many calls of its second lane are written down here.
alter table @schema@.lease add column retry_calls bigint not null default 0;

-- How many calls the sink had counted when a place was settled. Null where a person or the
-- configuration chose the place, or the sink keeps none.
alter table @schema@.progress add column calls bigint;

-- Relays that run, and which subscriptions they could hold.
create table @schema@.relay (
  holder text primary key,
  subscriptions text[] not null,
  version text not null,
  started_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
