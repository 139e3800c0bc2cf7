-- The tables that people expect to see: what is pending, what was published and when.

-- Each subscription with its newest settled place and the snapshots that it stands for.
create view @schema@.place as
select s.id as subscription_id, s.name as subscription, s.topics, s.prefixes, s.start_snapshot,
       l.epoch, l.holder, p.n, p.base_tick, p.base_id, p.head_tick, p.head_id, p.position,
       p.message_id, p.epoch as settled_epoch,
       -- The row with epoch 0 is the start, which nobody settled.
       case when p.epoch > 0 then p.at end as settled_at,
       coalesce(b.snapshot, '1:1:'::pg_snapshot) as base_snapshot,
       h.snapshot as head_snapshot
  from @schema@.subscription s
  join @schema@.lease l on l.subscription = s.id
  -- Served by (subscription, n).
  cross join lateral (select * from @schema@.progress p where p.subscription = s.id
                      order by p.n desc limit 1) p
  left join lateral (select snapshot from @schema@.tick t where t.n = p.base_tick) b on true
  left join lateral (select snapshot from @schema@.tick t where t.n = p.head_tick) h on true;

-- When a published message was settled: the earliest progress row that covers it, as far as the
-- history reaches, else the newest row. Rows settled before the message was written are skipped.
create function @schema@.settled_at(subscription_id int, message_xid xid8, message_position bigint,
                                    written_at timestamptz) returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(
    (select p.at
       from @schema@.progress p
       left join @schema@.tick b on b.n = p.base_tick
       left join @schema@.tick h on h.n = p.head_tick
      where p.subscription = subscription_id and p.at >= written_at
        and (pg_visible_in_snapshot(message_xid, b.snapshot)
             or (pg_visible_in_snapshot(message_xid, h.snapshot) and message_position <= p.position))
      order by p.at limit 1),
    (select p.at from @schema@.progress p where p.subscription = subscription_id
      order by p.n desc limit 1))
$$;

-- One row for each message and subscription that reads its topic. The places are collected into an
-- array first: an uncorrelated subquery runs once for a whole statement, where the view itself
-- would be evaluated (and its cost estimated) for every message.
create view @schema@.messages as
select m.position, m.id, m.topic, m.key, m.payload, m.content_type, m.headers, m.correlation_id,
       m.enqueued_at, p.subscription,
       case when m.published then 'published' else 'pending' end as state,
       case when m.published
            then @schema@.settled_at(p.subscription_id, m.xid, m.position, m.enqueued_at)
       end as published_at
  from unnest((select array_agg(p) from @schema@.place p)) p
  cross join lateral (
    select l.*,
           pg_visible_in_snapshot(l.xid, p.base_snapshot)
           or (p.head_snapshot is not null and pg_visible_in_snapshot(l.xid, p.head_snapshot)
               and l.position <= p.position) as published
      from @schema@.log l
     where (l.topic = any (p.topics) or l.topic ^@ any (p.prefixes))
       and not pg_visible_in_snapshot(l.xid, p.start_snapshot)) m;

-- One row for each message. `published_at` is null until every subscription that reads its topic
-- has published it, and while no subscription reads it.
create view @schema@.outbox as
select m.position, m.id, m.topic, m.key, m.payload, m.content_type, m.headers, m.correlation_id,
       m.enqueued_at,
       (select case when bool_and(pg_visible_in_snapshot(m.xid, p.base_snapshot)
                    or (p.head_snapshot is not null
                        and pg_visible_in_snapshot(m.xid, p.head_snapshot)
                        and m.position <= p.position))
               then max(@schema@.settled_at(p.subscription_id, m.xid, m.position, m.enqueued_at))
               end
          from unnest((select array_agg(p) from @schema@.place p)) p
         where (m.topic = any (p.topics) or m.topic ^@ any (p.prefixes))
           and not pg_visible_in_snapshot(m.xid, p.start_snapshot)) as published_at
  from @schema@.log m;
