-- Requests that are executed once: a key, what was asked under it, and the answer.
--
-- Atomic: begin_command, the effect and complete_command stand in one transaction. A twin waits on
-- the primary key, and then gets the answer, or begins itself if the first one rolled back.
-- Guarded, for effects outside the database: begin_command commits first, with an owner and a lease;
-- a twin is told that it is in progress; an owner whose lease has run out is taken over.

create table @schema@.command (
  scope text not null,
  key text not null,
  -- SHA-256 of the request.
  fingerprint bytea not null,
  -- Who executes it or did, and until when nobody else may begin.
  owner uuid not null,
  lease_until timestamptz,
  -- Null while it is in progress.
  response bytea,
  completed_at timestamptz,
  -- The entity that it belongs to, and with which it goes.
  machine text,
  entity_id text,
  created_at timestamptz not null default clock_timestamp(),
  primary key (scope, key),
  constraint scope_is_bounded check (octet_length(scope) between 1 and 512),
  constraint key_is_bounded check (octet_length(key) between 1 and 512),
  constraint fingerprint_is_sha256 check (octet_length(fingerprint) = 32),
  constraint response_is_bounded check (octet_length(response) <= 1048576),
  constraint progress_has_a_lease check (response is not null or lease_until is not null)
  -- Room for the one update in the row's own page.
) with (fillfactor = 60);
-- Serves the sweep.
create index command_created_at on @schema@.command (created_at);
-- Serves those who look for what hangs.
create index command_in_progress on @schema@.command (lease_until) where response is null;
-- For the schema's owner, the functions below, and the roles that get a policy of their own.
alter table @schema@.command enable row level security;

create function @schema@.check_command(scope text, key text, fingerprint bytea, lease interval) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  control constant text := E'[\\x01-\\x1f\\x7f-\\x9f]';
begin
  if scope is null or scope = '' or octet_length(scope) > 512 or scope ~ control then
    perform @schema@.refuse_field('scope', '1 to 512 bytes without control characters', coalesce(scope, 'null'));
  elsif key is null or key = '' or octet_length(key) > 512 or key ~ control then
    perform @schema@.refuse_field('key', '1 to 512 bytes without control characters', coalesce(key, 'null'));
  elsif fingerprint is null or octet_length(fingerprint) <> 32 then
    perform @schema@.refuse_field('fingerprint', 'the 32 bytes of a SHA-256', coalesce(octet_length(fingerprint) || ' bytes', 'null'));
  elsif lease is null or lease not between interval '1 second' and interval '1 day' then
    perform @schema@.refuse_field('lease', 'from 1 second to 1 day', coalesce(lease::text, 'null'));
  end if;
end
$$;

-- Begins a request, or says what became of it. `outcome`: `first` (execute it), `taken over` (execute
-- it; a former owner may have begun), `repeat` (with the answer), `in progress` (with the
-- milliseconds that its lease still has). Another request under the same key fails with PH012.
create function @schema@.begin_command(
  scope text,
  key text,
  fingerprint bytea,
  owner uuid,
  lease interval default '1 minute',
  out outcome text,
  out response bytea,
  out lease_ms bigint
)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  held @schema@.command;
begin
  perform @schema@.check_command(scope, key, fingerprint, lease);
  loop
    -- Waits for a transaction that has begun the same request and has not ended.
    insert into @schema@.command (scope, key, fingerprint, owner, lease_until)
    values (scope, key, fingerprint, owner, clock_timestamp() + lease) on conflict do nothing;
    if found then
      outcome := 'first';
      return;
    end if;
    -- A statement of its own, which sees what the insert waited for. Above read committed, a row that
    -- is not in the snapshot is a serialisation failure of the insert.
    select * into held from @schema@.command c where c.scope = scope and c.key = key;
    continue when not found;
    if held.fingerprint <> fingerprint then
      raise exception using
        message = format('the key "%s" stands for another request in scope "%s": use a new key for a new request', key, scope),
        errcode = 'PH012';
    elsif held.response is not null then
      outcome := 'repeat';
      response := held.response;
      return;
    elsif held.owner <> owner and held.lease_until > clock_timestamp() then
      outcome := 'in progress';
      lease_ms := ceil(extract(epoch from held.lease_until - clock_timestamp()) * 1000);
      return;
    end if;
    -- Its own, whose answer was lost; or one whose lease has run out.
    update @schema@.command c set owner = owner, lease_until = clock_timestamp() + lease
     where c.scope = scope and c.key = key and c.response is null
       and c.owner = held.owner and c.lease_until = held.lease_until;
    if found then
      outcome := case when held.owner = owner then 'first' else 'taken over' end;
      return;
    end if;
  end loop;
end
$$;

-- Keeps the answer for repeats. False if the request is not this owner's any more: somebody has taken
-- it over, and its answer counts. Completing it twice with one answer is no fault.
create function @schema@.complete_command(scope text, key text, owner uuid, response bytea) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
  if response is null or octet_length(response) > 1048576 then
    perform @schema@.refuse_field('response', 'at most 1048576 bytes, and not null', coalesce(octet_length(response) || ' bytes', 'null'));
  end if;
  update @schema@.command c
     set response = response, completed_at = clock_timestamp(), lease_until = null
   where c.scope = scope and c.key = key and c.owner = owner and c.response is null;
  return found or exists (select from @schema@.command c
                           where c.scope = scope and c.key = key and c.owner = owner and c.response = response);
end
$$;

-- Gives the owner more time. False if the request is not its own any more, or is completed.
create function @schema@.renew_command(scope text, key text, owner uuid, lease interval) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
  perform @schema@.check_command(scope, key, sha256(''), lease);
  update @schema@.command c set lease_until = clock_timestamp() + lease
   where c.scope = scope and c.key = key and c.owner = owner and c.response is null;
  return found;
end
$$;

-- Frees the key of a request that had no effect, so that the next one under it is the first. False if
-- the request is not its own any more, or is completed.
create function @schema@.abandon_command(scope text, key text, owner uuid) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
  delete from @schema@.command c
   where c.scope = scope and c.key = key and c.owner = owner and c.response is null;
  return found;
end
$$;

-- Forgets commands that began longer ago than that, at most so many, and answers how many it was. One in
-- progress stays while its lease runs.
create function @schema@.forget_commands(age interval, rows_max int) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  forgotten bigint;
begin
  -- What somebody is about to complete is not waited for. A range of the index on `created_at`.
  delete from @schema@.command c
   using (select o.scope, o.key from @schema@.command o
           where o.created_at <= clock_timestamp() - age
             and (o.response is not null or o.lease_until < clock_timestamp())
           order by o.created_at limit rows_max for update skip locked) old
   where c.scope = old.scope and c.key = old.key;
  get diagnostics forgotten = row_count;
  return forgotten;
end
$$;

revoke execute on function
  @schema@.forget_commands(interval, int),
  @schema@.begin_command(text, text, bytea, uuid, interval),
  @schema@.complete_command(text, text, uuid, bytea),
  @schema@.renew_command(text, text, uuid, interval),
  @schema@.abandon_command(text, text, uuid) from public;
