-- What is set aside: rows only for what fails or waits. And what people do by hand. Times are
-- microseconds.

alter table @schema@_subscription add column paused_at integer;

-- A key whose messages wait in the log. Every message of the key up to the place, which is
-- `through` as one number, is published, or set aside in @schema@_failed_message.
create table @schema@_parked_key (
  subscription integer not null references @schema@_subscription (id) on delete cascade,
  key text not null,
  base_tick integer not null,
  base_id blob not null,
  head_tick integer not null,
  head_id blob not null,
  position integer not null,
  through integer not null,
  -- The message that failed.
  message_id blob not null,
  attempts integer not null,
  reason text not null,
  parked_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  -- The next attempt; null while the message is a dead letter that holds its key.
  due integer,
  primary key (subscription, key)
) strict;

-- Copies, because the log forgets.
create table @schema@_failed_message (
  subscription integer not null references @schema@_subscription (id) on delete cascade,
  position integer not null,
  id blob not null,
  -- The tick that closes its window: a relay that starts before it meets the message again.
  tick integer not null,
  topic text not null,
  key text,
  content_type text not null,
  headers text not null,
  correlation_id text,
  enqueued_at integer not null,
  attempts integer not null,
  reason text not null,
  failed_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  -- The next attempt of a parked message; null for a dead letter.
  due integer,
  -- Whether its key stays parked until this dead letter is published or discarded.
  holds_key integer not null default 0,
  payload blob not null,
  primary key (subscription, position, id)
) strict;
create index @schema@_failed_message_due on @schema@_failed_message (subscription, due)
  where due is not null;

-- What people did by hand. SQLite knows no users: the actor is the caller's word.
create table @schema@_audit (
  n integer primary key,
  at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  actor text not null,
  action text not null,
  subscription text,
  detail text not null check (json_valid(detail))
) strict;

drop view @schema@_messages;
drop view @schema@_outbox;
drop view @schema@_delivery;

-- A message and each subscription that matches it. A published one is dated by the first settle
-- that covered it (a seek in @schema@_progress_by_reach). Microseconds.
create view @schema@_delivery as
select d.position as position, d.subscription as subscription, d.state as state,
       case when d.state = 'published'
            then (select p.at from @schema@_progress p
                  where p.subscription = d.subscription_id and p.through >= d.position
                  order by p.through, p.n limit 1)
       end as published_at
from (
  select l.position as position, s.id as subscription_id, s.name as subscription,
         case when l.position > r.through then 'pending'
              when exists (select 1 from @schema@_failed_message f
                           where f.subscription = s.id and f.position = l.position
                             and f.due is null)
              then 'dead'
              when exists (select 1 from @schema@_failed_message f
                           where f.subscription = s.id and f.position = l.position)
                or exists (select 1 from @schema@_parked_key k
                           where k.subscription = s.id and k.key = l.key
                             and k.through < l.position)
              then 'parked'
              else 'published' end as state
  from @schema@_log l
  join @schema@_subscription s on l.position > s.start_position
  join @schema@_settled r on r.subscription = s.id
  where exists (select 1 from json_each(s.topics) t where t.value = l.topic)
     or exists (select 1 from json_each(s.prefixes) p
                where substr(l.topic, 1, length(p.value)) = p.value)) d;

create view @schema@_outbox as
select lower(substr(hex(l.id), 1, 8) || '-' || substr(hex(l.id), 9, 4) || '-'
          || substr(hex(l.id), 13, 4) || '-' || substr(hex(l.id), 17, 4) || '-'
          || substr(hex(l.id), 21)) as id,
       l.position as position, l.topic as topic, l.key as key, l.payload as payload,
       l.content_type as content_type, l.headers as headers, l.correlation_id as correlation_id,
       strftime('%Y-%m-%dT%H:%M:%fZ', l.enqueued_at / 1000000.0, 'unixepoch') as enqueued_at,
       -- Null while a matching subscription lacks it, and when none matches.
       (select case when count(*) = count(d.published_at)
                    then strftime('%Y-%m-%dT%H:%M:%fZ', max(d.published_at) / 1000000.0, 'unixepoch')
               end
        from @schema@_delivery d where d.position = l.position) as published_at
from @schema@_log l;

create view @schema@_messages as
select lower(substr(hex(l.id), 1, 8) || '-' || substr(hex(l.id), 9, 4) || '-'
          || substr(hex(l.id), 13, 4) || '-' || substr(hex(l.id), 17, 4) || '-'
          || substr(hex(l.id), 21)) as id,
       l.position as position, l.topic as topic, l.key as key, l.payload as payload,
       l.content_type as content_type, l.headers as headers, l.correlation_id as correlation_id,
       strftime('%Y-%m-%dT%H:%M:%fZ', l.enqueued_at / 1000000.0, 'unixepoch') as enqueued_at,
       d.subscription as subscription, d.state as state,
       strftime('%Y-%m-%dT%H:%M:%fZ', d.published_at / 1000000.0, 'unixepoch') as published_at
from @schema@_log l
join @schema@_delivery d on d.position = l.position;
