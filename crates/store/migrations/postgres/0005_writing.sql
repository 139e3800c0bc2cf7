-- What an enqueue may ask for beyond a row of the log: to happen once.

-- Which message a token stands for, for as long as tokens are kept.
create table @schema@.token (
  token text primary key,
  message_id uuid not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint token_is_bounded check (octet_length(token) between 1 and 256)
);
-- Serves the sweep.
create index token_created_at on @schema@.token (created_at);

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
  token text
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
  insert into @schema@.log (id, topic, key, payload, content_type, headers, correlation_id)
  values (id, topic, key, payload, content_type, headers, correlation_id);
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
  token text default null
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
  if token is not null then
    if token = '' or octet_length(token) > 256 or token ~ control then
      perform @schema@.refuse_field('token', '1 to 256 bytes without control characters', token);
    end if;
    return @schema@.write_message(id, topic, key, coalesce(payload, ''::bytea), content_type,
                                  @schema@.header_pairs(headers), correlation_id, token);
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
  token text default null
) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  return @schema@.enqueue_bytes(topic, convert_to(payload::text, 'UTF8'), key, headers,
                                content_type, correlation_id, message_id, token);
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
                     'correlation_id', 'message_id', 'token') limit 1;
    if unknown is not null then
      perform @schema@.refuse_field('messages', 'objects with the arguments of enqueue()', unknown);
    end if;
    if message -> 'payload' is not null and message ->> 'payload_base64' is not null then
      perform @schema@.refuse_field('payload', 'either payload or payload_base64', 'both');
    elsif message ->> 'payload_base64' is not null then
      return next @schema@.enqueue_bytes(message ->> 'topic',
        decode(message ->> 'payload_base64', 'base64'), message ->> 'key', message -> 'headers',
        coalesce(message ->> 'content_type', 'application/octet-stream'),
        message ->> 'correlation_id', (message ->> 'message_id')::uuid, message ->> 'token');
    else
      return next @schema@.enqueue(message ->> 'topic', message -> 'payload', message ->> 'key',
        message -> 'headers', coalesce(message ->> 'content_type', 'application/json'),
        message ->> 'correlation_id', (message ->> 'message_id')::uuid, message ->> 'token');
    end if;
  end loop;
end
$$;
