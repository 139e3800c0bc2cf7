-- Leases that run out, and places that sinks keep. Times are microseconds.

-- A relay holds a subscription until then; null when nobody does.
alter table @schema@_subscription add column expires_at integer;
-- How many calls of its second lane are written down here.
alter table @schema@_subscription add column retry_calls integer not null default 0;
-- How many calls the sink had counted when a place was settled. Null where a person or the
-- configuration chose the place, or the sink keeps none.
alter table @schema@_progress add column calls integer;

-- Relays that run, and which subscriptions they could hold.
create table @schema@_relay (
  holder text primary key,
  -- A JSON array of names.
  subscriptions text not null check (json_valid(subscriptions)),
  version text not null,
  started_at integer not null,
  seen_at integer not null
) strict;
