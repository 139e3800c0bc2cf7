-- The latest time at which a relay has written here, in microseconds. A clock that stands before it
-- was set back.
alter table @schema@_meta add column seen_at integer not null default 0;
