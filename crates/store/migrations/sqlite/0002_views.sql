-- What people look at: one row per message, and one per message and subscription.

-- How far each subscription is settled. Seeks in @schema@_progress_newest.
create view @schema@_settled as
select s.id as subscription,
       coalesce((select p.through from @schema@_progress p
                 where p.subscription = s.id order by p.n desc limit 1),
                s.start_position) as through
from @schema@_subscription s;

-- A message and each subscription that matches it, dated by the first settle that covered it
-- (a seek in @schema@_progress_by_reach). Microseconds.
create view @schema@_delivery as
select l.position as position,
       s.name as subscription,
       case when l.position <= r.through
            then (select p.at from @schema@_progress p
                  where p.subscription = s.id and p.through >= l.position
                  order by p.through, p.n limit 1)
       end as published_at
from @schema@_log l
join @schema@_subscription s on l.position > s.start_position
join @schema@_settled r on r.subscription = s.id
where exists (select 1 from json_each(s.topics) t where t.value = l.topic)
   or exists (select 1 from json_each(s.prefixes) p
              where substr(l.topic, 1, length(p.value)) = p.value);

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
       d.subscription as subscription,
       case when d.published_at is null then 'pending' else 'published' end as state,
       strftime('%Y-%m-%dT%H:%M:%fZ', d.published_at / 1000000.0, 'unixepoch') as published_at
from @schema@_log l
join @schema@_delivery d on d.position = l.position;
