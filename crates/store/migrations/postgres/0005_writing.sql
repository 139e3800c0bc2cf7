-- What an enqueue may ask for beyond a row of the log: to happen once, or later.

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
