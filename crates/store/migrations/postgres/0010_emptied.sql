-- What the log no longer holds: a sink that comes back behind it cannot be given that again.

create table @schema@.emptied (
  slot int primary key,
  -- Of the messages that were emptied last.
  first_position bigint not null,
  last_position bigint not null,
  -- The highest of all that the slot has ever held.
  max_xid xid8 not null,
  -- A tick that shows all of them.
  tick bigint not null,
  emptied_at timestamptz not null default clock_timestamp()
);
