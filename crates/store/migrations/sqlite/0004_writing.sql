-- What an enqueue may ask for beyond a row of the log: to happen once, or later. Times are microseconds.

-- Which message a token stands for, for as long as tokens are kept.
create table @schema@_token (
  token text primary key,
  message_id blob not null,
  created_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  constraint token_is_bounded check (length(cast(token as blob)) between 1 and 256),
  constraint id_is_a_uuid check (length(message_id) = 16)
) strict, without rowid;
-- Serves the sweep.
create index @schema@_token_created_at on @schema@_token (created_at);

-- Messages that wait until they are due. A relay then moves them into the log, in one transaction;
-- `n` orders those that are due at the same time.
create table @schema@_scheduled (
  n integer primary key,
  id blob not null,
  topic text not null,
  key text,
  content_type text not null,
  headers text not null,
  correlation_id text,
  enqueued_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  deliver_at integer not null,
  payload blob not null,
  -- As in the log: what could not be moved would wait forever.
  constraint id_is_a_uuid check (length(id) = 16),
  constraint topic_is_named check (topic <> '' and length(cast(topic as blob)) <= 255),
  constraint key_is_not_empty check (key <> ''),
  constraint headers_are_an_object check (
    headers = '{}' or (json_valid(headers) and json_type(headers) = 'object')),
  constraint payload_is_bounded check (length(payload) <= 67108864),
  constraint time_comes check (deliver_at >= 0 and deliver_at < 253402300800000000)
) strict;
-- Serves the relay's look and the order in which it moves messages.
create index @schema@_scheduled_due on @schema@_scheduled (deliver_at, n);
-- Serves a cancel.
create index @schema@_scheduled_id on @schema@_scheduled (id);

-- Holds no row and takes what has a token or a time: one statement that writes all of it or
-- nothing, also outside a transaction.
create view @schema@_enqueue as
select null as id, null as topic, null as key, null as payload, null as content_type,
       null as headers, null as correlation_id, null as token, null as deliver_at
where false;

create trigger @schema@_enqueue_once instead of insert on @schema@_enqueue
when new.token is null or not exists (select 1 from @schema@_token t where t.token = new.token)
begin
  insert into @schema@_log (id, topic, key, payload, content_type, headers, correlation_id)
  select new.id, new.topic, new.key, coalesce(new.payload, x''), new.content_type,
         coalesce(new.headers, '{}'), new.correlation_id
  where new.deliver_at is null;
  insert into @schema@_scheduled (id, topic, key, payload, content_type, headers, correlation_id,
                                  deliver_at)
  select new.id, new.topic, new.key, coalesce(new.payload, x''), new.content_type,
         coalesce(new.headers, '{}'), new.correlation_id, new.deliver_at
  where new.deliver_at is not null;
  insert into @schema@_token (token, message_id)
  select new.token, new.id where new.token is not null;
end;

-- As before, and the messages that wait for their time, which have no position yet.
drop view @schema@_messages;
create view @schema@_messages as
select lower(substr(hex(l.id), 1, 8) || '-' || substr(hex(l.id), 9, 4) || '-'
          || substr(hex(l.id), 13, 4) || '-' || substr(hex(l.id), 17, 4) || '-'
          || substr(hex(l.id), 21)) as id,
       l.position as position, l.topic as topic, l.key as key, l.payload as payload,
       l.content_type as content_type, l.headers as headers, l.correlation_id as correlation_id,
       strftime('%Y-%m-%dT%H:%M:%fZ', l.enqueued_at / 1000000.0, 'unixepoch') as enqueued_at,
       d.subscription as subscription, d.state as state,
       strftime('%Y-%m-%dT%H:%M:%fZ', d.published_at / 1000000.0, 'unixepoch') as published_at,
       null as deliver_at
from @schema@_log l
join @schema@_delivery d on d.position = l.position
union all
select lower(substr(hex(w.id), 1, 8) || '-' || substr(hex(w.id), 9, 4) || '-'
          || substr(hex(w.id), 13, 4) || '-' || substr(hex(w.id), 17, 4) || '-'
          || substr(hex(w.id), 21)),
       null, w.topic, w.key, w.payload, w.content_type, w.headers, w.correlation_id,
       strftime('%Y-%m-%dT%H:%M:%fZ', w.enqueued_at / 1000000.0, 'unixepoch'),
       s.name, 'scheduled', null,
       strftime('%Y-%m-%dT%H:%M:%fZ', w.deliver_at / 1000000.0, 'unixepoch')
from @schema@_scheduled w
join @schema@_subscription s
  on exists (select 1 from json_each(s.topics) t where t.value = w.topic)
  or exists (select 1 from json_each(s.prefixes) p
             where substr(w.topic, 1, length(p.value)) = p.value);
