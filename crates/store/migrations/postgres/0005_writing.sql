-- What an enqueue may ask for beyond a row of the log: to happen once, later, or in order.

-- Which message a token stands for, for as long as tokens are kept.
create table @schema@.token (
  token text primary key,
  message_id uuid not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint token_is_bounded check (octet_length(token) between 1 and 256)
);
-- Serves the sweep.
create index token_created_at on @schema@.token (created_at);

-- Messages that wait until they are due. A relay then moves them into the log, in one transaction;
-- `n` orders those that are due at the same time.
create table @schema@.scheduled (
  n bigint generated always as identity primary key,
  id uuid not null,
  topic text not null,
  key text,
  payload bytea not null,
  content_type text not null,
  headers text[] not null,
  correlation_id text,
  enqueued_at timestamptz not null default clock_timestamp(),
  deliver_at timestamptz not null,
  -- As in the log: what could not be moved would wait forever.
  constraint topic_is_named check (topic <> '' and octet_length(topic) <= 255),
  constraint key_is_not_empty check (key <> ''),
  constraint headers_are_pairs check (cardinality(headers) % 2 = 0 and cardinality(headers) <= 128),
  constraint payload_is_bounded check (octet_length(payload) <= 67108864),
  constraint time_comes check (deliver_at >= 'epoch' and deliver_at < '10000-01-01 00:00:00+00')
);
-- Serves the relay's look and the order in which it moves messages.
create index scheduled_due on @schema@.scheduled (deliver_at, n);
-- Serves cancel().
create index scheduled_id on @schema@.scheduled (id);

-- Answers whether the message was still waiting. While a relay moves it, this waits for the answer.
create function @schema@.cancel(message_id uuid) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  delete from @schema@.scheduled s where s.id = message_id;
  return found;
end
$$;

-- Writes one message, already checked, and answers the id that stands for it: its own, or the
-- first message's if its token was used before.
create function @schema@.write_message(
  id uuid,
  topic text,
  key text,
  payload bytea,
  content_type text,
  headers text[],
  correlation_id text,
  token text,
  deliver_at timestamptz
) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  first_id uuid;
begin
  while token is not null loop
    -- Waits for a transaction that is writing the same token, and writes if that one rolls back.
    -- Above read committed, a token that is not in the snapshot is a serialisation failure.
    insert into @schema@.token (token, message_id) values (token, id) on conflict do nothing;
    exit when found;
    -- A statement of its own, which sees what the insert waited for.
    select t.message_id into first_id from @schema@.token t where t.token = token;
    if found then
      return first_id;
    end if;
    -- The sweep has removed it in between.
  end loop;
  if deliver_at is not null then
    insert into @schema@.scheduled (id, topic, key, payload, content_type, headers, correlation_id,
                                    deliver_at)
    values (id, topic, key, payload, content_type, headers, correlation_id, deliver_at);
  else
    insert into @schema@.log (id, topic, key, payload, content_type, headers, correlation_id)
    values (id, topic, key, payload, content_type, headers, correlation_id);
  end if;
  return id;
end
$$;

drop function @schema@.enqueue(text, json, text, json, text, text, uuid);
drop function @schema@.enqueue_bytes(text, bytea, text, json, text, text, uuid);

-- The one body behind the functions that applications call.
create function @schema@.enqueue_bytes(
  topic text,
  payload bytea,
  key text default null,
  headers json default null,
  content_type text default 'application/octet-stream',
  correlation_id text default null,
  message_id uuid default null,
  token text default null,
  deliver_at timestamptz default null
) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  limit_bytes int;
  -- Spelled out, because the members of [:cntrl:] depend on the database's locale.
  control constant text := E'[\\x01-\\x1f\\x7f-\\x9f]';
  id uuid := coalesce(message_id, @schema@.uuid_v7());
begin
  select m.payload_bytes_max into strict limit_bytes from @schema@.meta m;
  if topic is null or octet_length(topic) > 255 or topic !~ '^[A-Za-z0-9][A-Za-z0-9._:/-]*$' then
    perform @schema@.refuse_field('topic',
      '1 to 255 ASCII letters, digits and . _ - : / that start with a letter or digit', coalesce(topic, 'null'));
  elsif key = '' or octet_length(key) > 512 or key ~ control then
    perform @schema@.refuse_field('key', '1 to 512 bytes without control characters', key);
  elsif content_type is null or content_type !~ '^[ -~]{1,128}$' then
    perform @schema@.refuse_field('content_type', '1 to 128 printable ASCII characters', coalesce(content_type, 'null'));
  elsif correlation_id = '' or octet_length(correlation_id) > 256 or correlation_id ~ control then
    perform @schema@.refuse_field('correlation_id', '1 to 256 bytes without control characters', correlation_id);
  elsif octet_length(payload) > limit_bytes then
    perform @schema@.refuse_field('payload', format('at most %s bytes', limit_bytes), octet_length(payload) || ' bytes');
  end if;
  if token is not null or deliver_at is not null then
    if token = '' or octet_length(token) > 256 or token ~ control then
      perform @schema@.refuse_field('token', '1 to 256 bytes without control characters', token);
    elsif deliver_at < 'epoch' or deliver_at >= '10000-01-01 00:00:00+00' then
      perform @schema@.refuse_field('deliver_at', 'a time from 1970 to 9999', deliver_at::text);
    end if;
    return @schema@.write_message(id, topic, key, coalesce(payload, ''::bytea), content_type,
                                  @schema@.header_pairs(headers), correlation_id, token, deliver_at);
  end if;
  -- Most messages: nothing but the insert.
  insert into @schema@.log (id, topic, key, payload, content_type, headers, correlation_id)
  values (id, topic, key, coalesce(payload, ''::bytea), content_type,
          @schema@.header_pairs(headers), correlation_id);
  return id;
end
$$;

-- A JSON payload, kept byte for byte as it is written. (The type is json, not jsonb, which would
-- reorder keys and drop white space.) A null payload is zero bytes.
create function @schema@.enqueue(
  topic text,
  payload json default null,
  key text default null,
  headers json default null,
  content_type text default 'application/json',
  correlation_id text default null,
  message_id uuid default null,
  token text default null,
  deliver_at timestamptz default null
) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  return @schema@.enqueue_bytes(topic, convert_to(payload::text, 'UTF8'), key, headers,
                                content_type, correlation_id, message_id, token, deliver_at);
end
$$;

-- Many messages at once: a JSON array of objects with the arguments of enqueue(), or with
-- `payload_base64` for bytes. Answers the ids in the order of the array.
create or replace function @schema@.enqueue_many(messages json) returns setof uuid
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
        decode(message ->> 'payload_base64', 'base64'), message ->> 'key', message -> 'headers',
        coalesce(message ->> 'content_type', 'application/octet-stream'),
        message ->> 'correlation_id', (message ->> 'message_id')::uuid, message ->> 'token',
        (message ->> 'deliver_at')::timestamptz);
    else
      return next @schema@.enqueue(message ->> 'topic', message -> 'payload', message ->> 'key',
        message -> 'headers', coalesce(message ->> 'content_type', 'application/json'),
        message ->> 'correlation_id', (message ->> 'message_id')::uuid, message ->> 'token',
        (message ->> 'deliver_at')::timestamptz);
    end if;
  end loop;
end
$$;

-- As before, and the messages that wait for their time, which have no position yet.
create or replace view @schema@.messages as
select m.position, m.id, m.topic, m.key, m.payload, m.content_type, m.headers, m.correlation_id,
       m.enqueued_at, p.subscription,
       case when m.published then 'published'
            when not m.passed then 'pending'
            when exists (select from @schema@.failed_message f
                          where f.subscription = p.subscription_id and f.position = m.position
                            and f.id = m.id and f.due is null) then 'dead'
            else 'parked' end as state,
       case when m.published
            then @schema@.settled_at(p.subscription_id, m.xid, m.position, m.enqueued_at)
       end as published_at,
       null::timestamptz as deliver_at
  from unnest((select array_agg(p) from @schema@.place p)) p
  cross join lateral (
    select l.*,
           pg_visible_in_snapshot(l.xid, p.base_snapshot)
           or (p.head_snapshot is not null and pg_visible_in_snapshot(l.xid, p.head_snapshot)
               and l.position <= p.position) as passed,
           @schema@.is_published(p, l.xid, l.position, l.id, l.key) as published
      from @schema@.log l
     where (l.topic = any (p.topics) or l.topic ^@ any (p.prefixes))
       and not pg_visible_in_snapshot(l.xid, p.start_snapshot)) m
union all
select null, s.id, s.topic, s.key, s.payload, s.content_type, s.headers, s.correlation_id,
       s.enqueued_at, p.name, 'scheduled', null, s.deliver_at
  from @schema@.scheduled s
  join @schema@.subscription p on s.topic = any (p.topics) or s.topic ^@ any (p.prefixes);

-- Strict topics: their messages with a key are refused unless the transaction has locked the key
-- before. The log then holds the messages of a key in commit order, whatever else their writers
-- lock or do not lock.
create table @schema@.strict_topic (
  pattern text primary key
);

-- The number behind a key's lock. Keys that share one only wait for each other.
create function @schema@.key_lock(key text) returns int
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select hashtext('@schema@ ' || key)
$$;

-- Records locks of this transaction, and the highest position at the time. A position above it was
-- taken with the locks held; a lower one may belong to the very statement that took them, and says
-- nothing. The setting ends with the transaction or the savepoint, as the locks do.
create function @schema@.note_locks(locks int[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  noted text := nullif(current_setting('@schema@.locked_keys', true), '');
  held int[] := array(select distinct unnest(locks || coalesce(split_part(noted, ' ', 2), '{}')::int[]) order by 1);
begin
  -- Each lock takes memory that all sessions of the server share.
  if cardinality(held) > 1000 then
    perform @schema@.refuse_field('keys', 'at most 1000 in one transaction', cardinality(held)::text);
  end if;
  perform set_config('@schema@.locked_keys',
    format('%s %s', coalesce(pg_sequence_last_value('@schema@.log_position_seq'), 0), held), true);
end
$$;

-- Locks ordering keys until the transaction ends; call it in a statement of its own, before the
-- enqueues. The order of the numbers keeps two calls from waiting for each other.
create function @schema@.lock_keys(keys text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  locks int[] := array(select distinct @schema@.key_lock(k) from unnest(keys) k where k is not null order by 1);
  lock int;
begin
  if cardinality(locks) > 1000 then
    perform @schema@.refuse_field('keys', 'at most 1000 in one transaction', cardinality(locks)::text);
  end if;
  foreach lock in array locks loop
    -- "PHSK", a space of its own.
    perform pg_advisory_xact_lock(1346917195, lock);
  end loop;
  perform @schema@.note_locks(locks);
end
$$;

create function @schema@.is_strict(topic text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from @schema@.strict_topic s
                  where topic = s.pattern or (right(s.pattern, 1) = '*' and topic ^@ left(s.pattern, -1)))
$$;

-- Locks the keys of due messages on strict topics, as far as nobody else holds them, and answers
-- which: a writer that holds its key for long delays the messages of this key only.
create function @schema@.lock_due_keys(messages_max int) returns int[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  locks int[] := '{}';
  busy int[] := '{}';
  lock int;
  movable int := 0;
begin
  -- In the order of the move, until as many messages can be moved as may be.
  for lock in
    select case when s.key is not null and @schema@.is_strict(s.topic) then @schema@.key_lock(s.key) end
      from @schema@.scheduled s where s.deliver_at <= statement_timestamp()
     order by s.deliver_at, s.n
  loop
    exit when movable >= messages_max or cardinality(locks) = 1000;
    continue when lock = any (busy);
    if lock is null or lock = any (locks) then
      movable := movable + 1;
    elsif pg_try_advisory_xact_lock(1346917195, lock) then
      movable := movable + 1;
      locks := locks || lock;
    else
      busy := busy || lock;
    end if;
  end loop;
  perform @schema@.note_locks(locks);
  return locks;
end
$$;

-- The trigger of strict topics.
create function @schema@.require_key_lock() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  noted text := nullif(current_setting('@schema@.locked_keys', true), '');
begin
  if new.position > split_part(noted, ' ', 1)::bigint
     and @schema@.key_lock(new.key) = any (split_part(noted, ' ', 2)::int[]) then
    return new;
  end if;
  raise exception using
    message = format('message refused: the topic "%s" is strict: call lock_keys for its key in an earlier statement of the transaction', new.topic),
    errcode = 'PH001';
end
$$;

-- Makes the topics of a pattern (a topic, a prefix followed by *, or *) strict, or lets them be.
-- For the owner. A trigger holds every writer to it and costs other topics one comparison; without
-- strict topics there is none. Waits for transactions that have written to the log, and holds up
-- those that begin to: set a lock_timeout on a busy database.
create function @schema@.set_strict(pattern text, is_strict boolean default true) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  trigger_name text := 'strict_' || md5(pattern);
  matches text;
begin
  if pattern is null or pattern !~ '^([A-Za-z0-9][A-Za-z0-9._:/-]*[*]?|[*])$' then
    perform @schema@.refuse_field('pattern', 'a topic, a prefix followed by one *, or *', coalesce(pattern, 'null'));
  end if;
  if is_strict then
    insert into @schema@.strict_topic (pattern) values (pattern) on conflict do nothing;
    if found then
      matches := case when right(pattern, 1) = '*' then format('new.topic ^@ %L', left(pattern, -1))
                      else format('new.topic = %L', pattern) end;
      execute format('create trigger %I before insert on @schema@.log for each row '
                     'when (new.key is not null and %s) execute function @schema@.require_key_lock()',
                     trigger_name, matches);
    end if;
  else
    delete from @schema@.strict_topic s where s.pattern = pattern;
    if found then
      execute format('drop trigger %I on @schema@.log', trigger_name);
    end if;
  end if;
end
$$;
