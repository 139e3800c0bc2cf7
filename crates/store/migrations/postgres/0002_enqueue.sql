-- Enqueue from any language, inside the caller's own transaction.
--
-- PL/pgSQL keeps its plan (a `language sql` function is planned anew for each call). The checks
-- are those of the adapters; each failure names the field, the limit and the value.

-- A UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits.
create function @schema@.uuid_v7() returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  bytes bytea := uuid_send(gen_random_uuid());
  millis bigint := (extract(epoch from clock_timestamp()) * 1000)::bigint;
begin
  bytes := overlay(bytes placing substring(int8send(millis) from 3) from 1 for 6);
  bytes := set_byte(bytes, 6, (get_byte(bytes, 6) & 15) | 112);
  return encode(bytes, 'hex')::uuid;
end
$$;

-- Escapes and shortens the value as the adapters do, so that one mistake has one text everywhere
-- and no control character reaches a log.
create function @schema@.refuse_field(field text, rule text, value text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  shown text := '';
  letter text;
begin
  foreach letter in array regexp_split_to_array(left(value, 60), '') loop
    shown := shown || case
      when letter in (E'\\', '"') then E'\\' || letter
      when letter = E'\n' then E'\\n'
      when letter = E'\r' then E'\\r'
      when letter = E'\t' then E'\\t'
      when ascii(letter) between 1 and 31 or ascii(letter) between 127 and 159
        then format(E'\\u{%s}', to_hex(ascii(letter)))
      else letter end;
  end loop;
  -- An ellipsis where the database's encoding has it. Statements of their own: an expression
  -- would be folded, and fail, before its condition is looked at.
  if length(value) > 60 and getdatabaseencoding() = 'UTF8' then
    shown := shown || chr(8230);
  elsif length(value) > 60 then
    shown := shown || '...';
  end if;
  raise exception using
    message = format('message refused: %s must be %s, not "%s"', field, rule, shown),
    errcode = 'invalid_parameter_value';
end
$$;

-- Turns a JSON object of strings into the log's flat array of names and values.
create function @schema@.header_pairs(headers json) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  pairs text[] := '{}';
  names text[] := '{}';
  header_count bigint;
  name text;
  value json;
begin
  -- A JSON null is how many clients write "none".
  if headers is null or json_typeof(headers) = 'null' then
    return pairs;
  elsif json_typeof(headers) <> 'object' then
    perform @schema@.refuse_field('headers', 'a JSON object of strings', headers::text);
  end if;
  -- Before the loop, whose cost grows with the square of the count.
  select count(*) into header_count from json_object_keys(headers);
  if header_count > 64 then
    perform @schema@.refuse_field('headers', 'at most 64 headers', header_count::text);
  end if;
  for name, value in select * from json_each(headers) loop
    if json_typeof(value) <> 'string' then
      perform @schema@.refuse_field('header value', 'a string', value::text);
    elsif name !~ '^[A-Za-z0-9._-]{1,128}$' then
      perform @schema@.refuse_field('header name', '1 to 128 ASCII letters, digits and . _ -', name);
    elsif name = any (names) then
      perform @schema@.refuse_field('header name', 'each name once', name);
    end if;
    names := names || name;
    pairs := pairs || name || (value #>> '{}');
  end loop;
  if octet_length(array_to_string(pairs, '')) > 16384 then
    perform @schema@.refuse_field('headers', 'at most 16384 bytes',
                                  octet_length(array_to_string(pairs, '')) || ' bytes');
  end if;
  return pairs;
end
$$;

-- The one body behind the functions that applications call.
create function @schema@.enqueue_bytes(
  topic text,
  payload bytea,
  key text default null,
  headers json default null,
  content_type text default 'application/octet-stream',
  correlation_id text default null,
  message_id uuid default null
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
  message_id uuid default null
) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  return @schema@.enqueue_bytes(topic, convert_to(payload::text, 'UTF8'), key, headers,
                                content_type, correlation_id, message_id);
end
$$;

-- Many messages at once: a JSON array of objects with the arguments of enqueue(), or with
-- `payload_base64` for bytes. Answers the ids in the order of the array.
create function @schema@.enqueue_many(messages json) returns setof uuid
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
                     'correlation_id', 'message_id') limit 1;
    if unknown is not null then
      perform @schema@.refuse_field('messages', 'objects with the arguments of enqueue()', unknown);
    end if;
    if message -> 'payload' is not null and message ->> 'payload_base64' is not null then
      perform @schema@.refuse_field('payload', 'either payload or payload_base64', 'both');
    elsif message ->> 'payload_base64' is not null then
      return next @schema@.enqueue_bytes(message ->> 'topic',
        decode(message ->> 'payload_base64', 'base64'), message ->> 'key', message -> 'headers',
        coalesce(message ->> 'content_type', 'application/octet-stream'),
        message ->> 'correlation_id', (message ->> 'message_id')::uuid);
    else
      return next @schema@.enqueue(message ->> 'topic', message -> 'payload', message ->> 'key',
        message -> 'headers', coalesce(message ->> 'content_type', 'application/json'),
        message ->> 'correlation_id', (message ->> 'message_id')::uuid);
    end if;
  end loop;
end
$$;
