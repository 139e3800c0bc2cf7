-- What the log no longer holds: a sink that comes back behind it cannot be given that again.

-- The highest position that was deleted.
alter table @schema@_meta add column emptied integer not null default 0;
