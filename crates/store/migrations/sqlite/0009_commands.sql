-- Requests that are executed once, and state machines of entities. SQLite has no functions: what the
-- tables of PostgreSQL leave to theirs, `posthaste` does on its side. Times are microseconds.

create table @schema@_command (
  scope text not null,
  key text not null,
  fingerprint blob not null,
  owner blob not null,
  lease_until integer,
  response blob,
  completed_at integer,
  machine text,
  entity_id text,
  created_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  primary key (scope, key),
  constraint scope_is_bounded check (length(cast(scope as blob)) between 1 and 512),
  constraint key_is_bounded check (length(cast(key as blob)) between 1 and 512),
  constraint fingerprint_is_sha256 check (length(fingerprint) = 32),
  constraint response_is_bounded check (length(response) <= 1048576),
  constraint progress_has_a_lease check (response is not null or lease_until is not null)
) strict;
-- Serves the sweep.
create index @schema@_command_created_at on @schema@_command (created_at);
-- Serves the end of an entity.
create index @schema@_command_entity on @schema@_command (machine, entity_id) where machine is not null;

create table @schema@_machine (
  name text primary key,
  definition text not null,
  pushed_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000)
) strict, without rowid;

create table @schema@_entity (
  machine text not null,
  entity_id text not null,
  state text not null,
  version integer not null default 1,
  user_id text,
  organization_id text,
  started_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  changed_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  primary key (machine, entity_id)
) strict, without rowid;
create index @schema@_entity_state on @schema@_entity (machine, state);

create table @schema@_state_event (
  machine text not null,
  entity_id text not null,
  version integer not null,
  id blob not null,
  from_state text,
  to_state text not null,
  initiated_by text,
  user_id text,
  organization_id text,
  correlation_id text,
  metadata text not null,
  at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  primary key (machine, entity_id, version)
) strict, without rowid;
create index @schema@_state_event_at on @schema@_state_event (at);

-- Foreign keys are off unless a connection turns them on.
create trigger @schema@_entity_ends after delete on @schema@_entity
begin
  delete from @schema@_state_event where machine = old.machine and entity_id = old.entity_id;
  delete from @schema@_command where machine = old.machine and entity_id = old.entity_id;
end;
