-- State machines of entities. What a machine allows stands in its definition, in the JSON form of
-- posthaste-core's `Machine`; the decisions here are those of `Machine::start` and `Machine::step`,
-- with the same words.
--
-- Error codes: PH010 illegal step, PH011 the entity has moved, PH012 the idempotency key stands for
-- another request, PH013 no such machine, state or entity, PH014 the step asks for more, PH015 the
-- entity has begun already.

create table @schema@.machine (
  name text primary key,
  definition jsonb not null,
  pushed_at timestamptz not null default clock_timestamp()
);

-- Where each entity is.
create table @schema@.entity (
  machine text not null,
  entity_id text not null,
  state text not null,
  -- Counts its steps, from 1.
  version bigint not null default 1,
  user_id text,
  organization_id text,
  started_at timestamptz not null default clock_timestamp(),
  changed_at timestamptz not null default clock_timestamp(),
  primary key (machine, entity_id)
) with (fillfactor = 80);
-- Serves "which entities are in this state".
create index entity_state on @schema@.entity (machine, state);

-- What happened to it, never changed; it goes with the entity.
create table @schema@.state_event (
  machine text not null,
  entity_id text not null,
  version bigint not null,
  id uuid not null,
  -- Null where the entity began.
  from_state text,
  to_state text not null,
  initiated_by text,
  user_id text,
  organization_id text,
  correlation_id text,
  metadata jsonb not null,
  at timestamptz not null default clock_timestamp(),
  primary key (machine, entity_id, version),
  foreign key (machine, entity_id) references @schema@.entity on delete cascade
);
-- Serves "what happened lately" and the order across entities.
create index state_event_at on @schema@.state_event (at);

alter table @schema@.command
  add foreign key (machine, entity_id) references @schema@.entity on delete cascade;
-- Serves the cascade.
create index command_entity on @schema@.command (machine, entity_id) where machine is not null;

alter table @schema@.entity enable row level security;
alter table @schema@.state_event enable row level security;

-- Forgets an entity whose row in the application's table was deleted: its arguments are the machine
-- and the key's column.
create function @schema@.forget_entity() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from @schema@.entity e where e.machine = tg_argv[0];
  else
    delete from @schema@.entity e
     where e.machine = tg_argv[0] and e.entity_id = to_jsonb(old) ->> tg_argv[1];
  end if;
  return null;
end
$$;
revoke execute on function @schema@.forget_entity() from public;

-- The application's table of a machine, quoted; null if it has none.
create function @schema@.entity_table(definition jsonb) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  name text := definition #>> '{entity,table}';
begin
  if name is null then
    return null;
  end if;
  return format('%I.%I', split_part(name, '.', 1), split_part(name, '.', 2));
end
$$;

-- Adds a machine or replaces its definition, which must be the JSON of a checked machine. For the owner of
-- the schema, who must also own the application's table where the machine has one. Entities that are in a
-- state which the new definition lacks are a fault, and nothing is changed.
create function @schema@.push_machine(definition jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  name text := definition ->> 'name';
  target text := @schema@.entity_table(definition);
  before jsonb;
  stranded @schema@.entity;
  missing text;
begin
  -- Nobody takes a step while the rules change.
  perform pg_advisory_xact_lock(1346917197, hashtext('@schema@ ' || name));
  select m.definition into before from @schema@.machine m where m.name = name;
  select e.* into stranded from @schema@.entity e
   where e.machine = name and not definition -> 'states' ? e.state limit 1;
  if found then
    raise exception using
      message = format('machine %s: entity "%s" is in state %s, which the new definition lacks: keep the state, or move such entities first', name, stranded.entity_id, stranded.state),
      errcode = 'PH013';
  end if;
  insert into @schema@.machine (name, definition) values (name, definition)
      on conflict on constraint machine_pkey do update set definition = excluded.definition, pushed_at = clock_timestamp();
  if @schema@.entity_table(before) is distinct from target and @schema@.entity_table(before) is not null then
    execute format('drop trigger if exists %I on %s', 'posthaste_' || name, @schema@.entity_table(before));
    execute format('drop trigger if exists %I on %s', 'posthaste_' || name || '_all', @schema@.entity_table(before));
  end if;
  if target is null then
    return;
  end if;
  if to_regclass(target) is null then
    raise exception using
      message = format('machine %s: there is no table %s', name, target), errcode = 'PH013';
  end if;
  select c into missing
    from unnest(array[definition #>> '{entity,key}', definition #>> '{entity,organization}']) c
   where c is not null and not exists (
     select from pg_attribute a where a.attrelid = target::regclass and a.attname = c and a.attnum > 0 and not a.attisdropped);
  if missing is not null then
    raise exception using
      message = format('machine %s: the table %s has no column "%s"', name, target, missing), errcode = 'PH013';
  end if;
  execute format('drop trigger if exists %I on %s', 'posthaste_' || name, target);
  execute format('create trigger %I after delete on %s for each row execute function @schema@.forget_entity(%L, %L)',
    'posthaste_' || name, target, name, definition #>> '{entity,key}');
  execute format('drop trigger if exists %I on %s', 'posthaste_' || name || '_all', target);
  execute format('create trigger %I after truncate on %s for each statement execute function @schema@.forget_entity(%L)',
    'posthaste_' || name || '_all', target, name);
end
$$;
revoke execute on function @schema@.push_machine(jsonb) from public;

create function @schema@.check_step(entity_id text, fields jsonb, metadata jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  control constant text := E'[\\x01-\\x1f\\x7f-\\x9f]';
  name text;
  value text;
begin
  if entity_id is null or entity_id = '' or octet_length(entity_id) > 256 or entity_id ~ control then
    perform @schema@.refuse_field('entity_id', '1 to 256 bytes without control characters', coalesce(entity_id, 'null'));
  elsif metadata is null or jsonb_typeof(metadata) <> 'object' then
    perform @schema@.refuse_field('metadata', 'a JSON object', coalesce(metadata::text, 'null'));
  elsif octet_length(metadata::text) > 65536 then
    perform @schema@.refuse_field('metadata', 'at most 65536 bytes', octet_length(metadata::text) || ' bytes');
  end if;
  for name, value in select * from jsonb_each_text(fields) loop
    if value = '' or octet_length(value) > 256 or value ~ control then
      perform @schema@.refuse_field(name, '1 to 256 bytes without control characters', value);
    end if;
  end loop;
end
$$;

-- The definition of a machine, which nobody changes before the transaction has ended. ("PHSM"; a lock
-- on its row, a foreign key's included, would be written for every step, and by all at once.)
create function @schema@.machine_definition(machine text, state text) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  found_definition jsonb;
begin
  perform pg_advisory_xact_lock_shared(1346917197, hashtext('@schema@ ' || machine));
  select m.definition into found_definition from @schema@.machine m where m.name = machine;
  if not found then
    raise exception using
      message = format('there is no machine "%s": push its definition with `posthaste machines push`', machine),
      errcode = 'PH013';
  elsif state is null or not found_definition -> 'states' ? state then
    raise exception using message = format('machine %s has no state "%s"', machine, coalesce(state, 'null')), errcode = 'PH013';
  end if;
  return found_definition;
end
$$;

-- Fails unless the application's table, where the machine has one, holds the entity, of this
-- organisation where that is told apart. The row stays until the transaction has ended.
create function @schema@.require_entity(definition jsonb, entity_id text, organization_id text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  is_there boolean;
  own text := case when definition #>> '{entity,organization}' is null then ''
                   else format(' and %I::text = $2', definition #>> '{entity,organization}') end;
begin
  if definition -> 'entity' is null then
    return;
  end if;
  -- The column's own type, so that its index serves.
  execute format('select true from %s where %I = $1::%s%s for key share',
                 @schema@.entity_table(definition), definition #>> '{entity,key}',
                 (select format_type(a.atttypid, a.atttypmod) from pg_attribute a
                   where a.attrelid = @schema@.entity_table(definition)::regclass
                     and a.attname = definition #>> '{entity,key}'), own)
     into is_there using entity_id, organization_id;
  if is_there is null then
    perform @schema@.refuse_entity(definition ->> 'name', entity_id);
  end if;
exception
  -- An id that the column's type does not take.
  when invalid_text_representation or numeric_value_out_of_range then
    perform @schema@.refuse_entity(definition ->> 'name', entity_id);
end
$$;

-- Says the same of an entity that is not there and of one of another organisation.
create function @schema@.refuse_entity(machine text, entity_id text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using message = format('machine %s has no entity "%s"', machine, entity_id), errcode = 'PH013';
end
$$;

-- `a, b` or `nothing`.
create function @schema@.listed(names jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select coalesce(nullif((select string_agg(n, ', ' order by n collate "C") from jsonb_array_elements_text(names) n), ''), 'nothing')
$$;

-- What a step from one state to another asks for, if it may be taken.
create function @schema@.decide_step(
  definition jsonb, current text, expected text, target text, initiated_by text, metadata jsonb
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  steps jsonb := coalesce(definition -> 'steps' -> current, '{}');
  allowed jsonb := (select coalesce(jsonb_agg(k), '[]') from jsonb_object_keys(steps) k);
  rule jsonb := steps -> target;
  lacking text;
begin
  if expected <> current then
    raise exception using
      message = format('the entity is in %s, not in %s; allowed from there: %s', current, expected, @schema@.listed(allowed)),
      errcode = 'PH011';
  elsif rule is null then
    raise exception using
      message = format('machine %s does not go from %s to %s; allowed: %s', definition ->> 'name', current, target, @schema@.listed(allowed)),
      errcode = 'PH010';
  elsif rule -> 'by' is not null and not coalesce(rule -> 'by' ? initiated_by, false) then
    raise exception using
      message = format('the step from %s to %s is for %s', current, target, @schema@.listed(rule -> 'by')),
      errcode = 'PH014';
  end if;
  select n into lacking from jsonb_array_elements_text(rule -> 'requires') n
   where metadata ->> n is null order by n collate "C" limit 1;
  if lacking is null then
    select format('%s = %s', e.key, e.value) into lacking from jsonb_each(rule -> 'equals') e
     where metadata -> e.key is distinct from e.value order by e.key collate "C" limit 1;
  end if;
  if lacking is not null then
    raise exception using
      message = format('the step from %s to %s asks for %s in its metadata', current, target, lacking),
      errcode = 'PH014';
  end if;
  return rule;
end
$$;

-- The scope of a machine's idempotency keys: an organisation never meets another's.
create function @schema@.machine_scope(machine text, organization_id text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return 'machine ' || machine || coalesce(' of ' || organization_id, '');
end
$$;

-- Writes the event of a step, its messages and those of the caller, and the answer.
create function @schema@.record_step(
  entity @schema@.entity, from_state text, topics jsonb, messages json, initiated_by text,
  metadata jsonb, correlation_id text, idempotency_key text, owner uuid
) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  event_id uuid := @schema@.uuid_v7();
  happened_at timestamptz := clock_timestamp();
  entries jsonb := '[]';
  topic text;
  message_id uuid;
  answer jsonb;
begin
  insert into @schema@.state_event (machine, entity_id, version, id, from_state, to_state,
                                    initiated_by, user_id, organization_id, correlation_id, metadata, at)
  values (entity.machine, entity.entity_id, entity.version, event_id, from_state, entity.state,
          initiated_by, entity.user_id, entity.organization_id, correlation_id, metadata, happened_at);
  for topic in select value from jsonb_array_elements_text(topics) with ordinality t (value, nth) order by nth loop
    message_id := @schema@.enqueue(topic, json_build_object(
      'machine', entity.machine, 'entity_id', entity.entity_id, 'event_id', event_id,
      'version', entity.version, 'from', from_state, 'to', entity.state,
      'initiated_by', initiated_by, 'user_id', entity.user_id,
      'organization_id', entity.organization_id, 'metadata', metadata, 'at', happened_at),
      entity.entity_id, correlation_id => correlation_id);
    entries := entries || jsonb_build_object('outbox_id', message_id, 'topic', topic);
  end loop;
  if json_array_length(messages) > 0 then
    -- In the order in which they were handed over; their key is the entity unless they say otherwise.
    select entries || jsonb_agg(jsonb_build_object('outbox_id', i.id, 'topic', messages -> i.nth::int - 1 ->> 'topic') order by i.nth)
      into entries
      from @schema@.write_messages(messages, entity.entity_id, correlation_id) with ordinality i (id, nth);
  end if;
  answer := jsonb_build_object('machine', entity.machine, 'entityId', entity.entity_id,
    'fsmState', entity.state, 'version', entity.version, 'eventId', event_id, 'outboxEntries', entries);
  if idempotency_key is not null then
    update @schema@.command c
       set response = convert_to(answer::text, 'UTF8'), completed_at = clock_timestamp(), lease_until = null,
           machine = entity.machine, entity_id = entity.entity_id
     where c.scope = @schema@.machine_scope(entity.machine, entity.organization_id)
       and c.key = idempotency_key and c.owner = owner;
  end if;
  return answer;
end
$$;

-- The messages of one call: the array of enqueue_many(), whose entries may leave their key and their
-- correlation id to the caller of this.
create function @schema@.write_messages(messages json, default_key text, default_correlation_id text) returns setof uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  message json;
  unknown text;
begin
  if messages is null or json_typeof(messages) <> 'array' then
    perform @schema@.refuse_field('messages', 'a JSON array of objects', coalesce(messages::text, 'null'));
  end if;
  for message in select value from json_array_elements(messages) loop
    if json_typeof(message) <> 'object' then
      perform @schema@.refuse_field('messages', 'a JSON array of objects', message::text);
    end if;
    select k into unknown from json_object_keys(message) k
     where k not in ('topic', 'payload', 'payload_base64', 'key', 'headers', 'content_type',
                     'correlation_id', 'message_id', 'token', 'deliver_at') limit 1;
    if unknown is not null then
      perform @schema@.refuse_field('messages', 'objects with the arguments of enqueue()', unknown);
    end if;
    if message -> 'payload' is not null and message ->> 'payload_base64' is not null then
      perform @schema@.refuse_field('payload', 'either payload or payload_base64', 'both');
    elsif message ->> 'payload_base64' is not null then
      return next @schema@.enqueue_bytes(message ->> 'topic',
        decode(message ->> 'payload_base64', 'base64'), coalesce(message ->> 'key', default_key), message -> 'headers',
        coalesce(message ->> 'content_type', 'application/octet-stream'),
        coalesce(message ->> 'correlation_id', default_correlation_id), (message ->> 'message_id')::uuid,
        message ->> 'token', (message ->> 'deliver_at')::timestamptz);
    else
      return next @schema@.enqueue(message ->> 'topic', message -> 'payload', coalesce(message ->> 'key', default_key),
        message -> 'headers', coalesce(message ->> 'content_type', 'application/json'),
        coalesce(message ->> 'correlation_id', default_correlation_id), (message ->> 'message_id')::uuid,
        message ->> 'token', (message ->> 'deliver_at')::timestamptz);
    end if;
  end loop;
end
$$;

create or replace function @schema@.enqueue_many(messages json) returns setof uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  return query select * from @schema@.write_messages(messages, null, null);
end
$$;

-- On strict topics the keys are locked before the entity, as everybody else does it.
create function @schema@.lock_step_keys(entity_id text, messages json) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from @schema@.strict_topic) then
    perform @schema@.lock_keys(array[entity_id] || array(
      select m ->> 'key' from json_array_elements(
        case when json_typeof(messages) = 'array' then messages else '[]' end) m));
  end if;
end
$$;

-- Begins an entity: its state, its first event, its messages and its idempotency key, all in the
-- caller's transaction or none. `messages` is a JSON array of objects with the arguments of enqueue(),
-- whose key is the entity unless they have one. A repeat under the same key gets the first answer.
create function @schema@.start_machine(
  machine text,
  entity_id text,
  state text,
  idempotency_key text default null,
  initiated_by text default null,
  user_id text default null,
  organization_id text default null,
  messages json default '[]',
  metadata jsonb default '{}',
  correlation_id text default null
) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  owner uuid := gen_random_uuid();
  repeated jsonb;
  definition jsonb;
  entity @schema@.entity;
begin
  repeated := @schema@.begin_step('start', machine, entity_id, null, state, idempotency_key, initiated_by,
                                  user_id, organization_id, messages, metadata, correlation_id, owner);
  if repeated is not null then
    return repeated;
  end if;
  definition := @schema@.machine_definition(machine, state);
  if not definition -> 'initial' ? state then
    raise exception using
      message = format('machine %s does not begin in %s; allowed: %s', machine, state, @schema@.listed(definition -> 'initial')),
      errcode = 'PH010';
  end if;
  perform @schema@.require_entity(definition, entity_id, organization_id);
  perform @schema@.lock_step_keys(entity_id, messages);
  -- Waits for a transaction that begins the same entity.
  insert into @schema@.entity (machine, entity_id, state, user_id, organization_id)
  values (machine, entity_id, state, user_id, organization_id) on conflict do nothing returning * into entity;
  if not found then
    select e.* into entity from @schema@.entity e where e.machine = machine and e.entity_id = entity_id;
    if entity.organization_id is distinct from organization_id then
      perform @schema@.refuse_entity(machine, entity_id);
    end if;
    raise exception using
      message = format('entity "%s" of machine %s has begun already and is in %s', entity_id, machine, entity.state),
      errcode = 'PH015';
  end if;
  return @schema@.record_step(entity, null, '[]', messages, initiated_by, metadata, correlation_id, idempotency_key, owner);
end
$$;

-- Takes an entity from one state to the next, with its event, its messages and its idempotency key, all in
-- the caller's transaction or none. With `from_state` the step is refused where somebody was faster.
create function @schema@.transition(
  machine text,
  entity_id text,
  to_state text,
  from_state text default null,
  idempotency_key text default null,
  initiated_by text default null,
  user_id text default null,
  organization_id text default null,
  messages json default '[]',
  metadata jsonb default '{}',
  correlation_id text default null
) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  owner uuid := gen_random_uuid();
  repeated jsonb;
  definition jsonb;
  entity @schema@.entity;
  rule jsonb;
  before text;
begin
  repeated := @schema@.begin_step('transition', machine, entity_id, from_state, to_state, idempotency_key, initiated_by,
                                  user_id, organization_id, messages, metadata, correlation_id, owner);
  if repeated is not null then
    return repeated;
  end if;
  definition := @schema@.machine_definition(machine, to_state);
  perform @schema@.lock_step_keys(entity_id, messages);
  -- Steps of an entity follow each other, and so do their messages.
  select e.* into entity from @schema@.entity e
   where e.machine = machine and e.entity_id = entity_id
     and e.organization_id is not distinct from organization_id for no key update;
  if not found then
    perform @schema@.refuse_entity(machine, entity_id);
  end if;
  rule := @schema@.decide_step(definition, entity.state, from_state, to_state, initiated_by, metadata);
  before := entity.state;
  update @schema@.entity e
     set state = to_state, version = e.version + 1, changed_at = clock_timestamp()
   where e.machine = machine and e.entity_id = entity_id returning * into entity;
  entity.user_id := coalesce(user_id, entity.user_id);
  return @schema@.record_step(entity, before, coalesce(rule -> 'messages', '[]'), messages, initiated_by,
                              metadata, correlation_id, idempotency_key, owner);
end
$$;

-- Checks what a step is called with, and begins its idempotency key: answers the first answer of a
-- repeat, and null for a request that is to be executed.
create function @schema@.begin_step(
  kind text, machine text, entity_id text, from_state text, to_state text, idempotency_key text, initiated_by text,
  user_id text, organization_id text, messages json, metadata jsonb, correlation_id text, owner uuid
) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  begun record;
begin
  perform @schema@.check_step(entity_id, jsonb_build_object('machine', coalesce(machine, ''), 'idempotency_key', idempotency_key,
    'initiated_by', initiated_by, 'user_id', user_id, 'organization_id', organization_id, 'correlation_id', correlation_id), metadata);
  if messages is null or json_typeof(messages) <> 'array' then
    perform @schema@.refuse_field('messages', 'a JSON array of objects', coalesce(messages::text, 'null'));
  elsif idempotency_key is null then
    return null;
  end if;
  select * into begun from @schema@.begin_command(@schema@.machine_scope(machine, organization_id), idempotency_key,
    sha256(convert_to(jsonb_build_object('kind', kind, 'entity_id', entity_id, 'from', from_state, 'to', to_state,
      'initiated_by', initiated_by, 'user_id', user_id, 'messages', messages::jsonb, 'metadata', metadata)::text, 'UTF8')), owner);
  if begun.outcome = 'in progress' then
    raise exception using
      message = format('the request with the key "%s" is in progress elsewhere', idempotency_key), errcode = 'PH016';
  end if;
  return convert_from(begun.response, 'UTF8')::jsonb;
end
$$;

revoke execute on function
  @schema@.start_machine(text, text, text, text, text, text, text, json, jsonb, text),
  @schema@.transition(text, text, text, text, text, text, text, text, json, jsonb, text) from public;
