-- What is set aside: rows only for what fails or waits. And what people do by hand.

alter table @schema@.subscription add column paused_at timestamptz;

-- A key whose messages wait in the log. Every message of the key up to the place is published, or
-- set aside in failed_message.
create table @schema@.parked_key (
  subscription int not null references @schema@.subscription on delete cascade,
  key text not null,
  base_tick bigint not null,
  base_id uuid not null,
  head_tick bigint not null,
  head_id uuid not null,
  position bigint not null,
  -- The message that failed.
  message_id uuid not null,
  attempts int not null,
  reason text not null,
  parked_at timestamptz not null default clock_timestamp(),
  -- The next attempt; null while the message is a dead letter that holds its key.
  due timestamptz,
  primary key (subscription, key)
);

-- Copies, because the log forgets.
create table @schema@.failed_message (
  subscription int not null references @schema@.subscription on delete cascade,
  position bigint not null,
  id uuid not null,
  -- The tick that closes its window: a relay that starts before it meets the message again.
  tick bigint not null,
  topic text not null,
  key text,
  payload bytea not null,
  content_type text not null,
  headers text[] not null,
  correlation_id text,
  enqueued_at timestamptz not null,
  attempts int not null,
  reason text not null,
  failed_at timestamptz not null default clock_timestamp(),
  -- The next attempt of a parked message; null for a dead letter.
  due timestamptz,
  -- Whether its key stays parked until this dead letter is published or discarded.
  holds_key boolean not null default false,
  primary key (subscription, position, id)
);
create index failed_message_due on @schema@.failed_message (subscription, due) where due is not null;

-- What people did by hand.
create table @schema@.audit (
  n bigint generated always as identity primary key,
  at timestamptz not null default clock_timestamp(),
  actor text not null default session_user,
  action text not null,
  subscription text,
  detail jsonb not null
);

-- Whether a subscription has published a message: covered by its place, and not set aside.
create function @schema@.is_published(p @schema@.place, message_xid xid8, message_position bigint,
                                      message_id uuid, message_key text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select (pg_visible_in_snapshot(message_xid, p.base_snapshot)
          or (p.head_snapshot is not null and pg_visible_in_snapshot(message_xid, p.head_snapshot)
              and message_position <= p.position))
     and not exists (select from @schema@.failed_message f
                      where f.subscription = p.subscription_id and f.position = message_position
                        and f.id = message_id)
     and not exists (
       select from @schema@.parked_key k
        where k.subscription = p.subscription_id and k.key = message_key
          and not pg_visible_in_snapshot(message_xid,
                coalesce((select t.snapshot from @schema@.tick t where t.n = k.base_tick), '1:1:'::pg_snapshot))
          and not (message_position <= k.position and pg_visible_in_snapshot(message_xid,
                coalesce((select t.snapshot from @schema@.tick t where t.n = k.head_tick), '1:1:'::pg_snapshot))))
$$;

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
       end as published_at
  from unnest((select array_agg(p) from @schema@.place p)) p
  cross join lateral (
    select l.*,
           pg_visible_in_snapshot(l.xid, p.base_snapshot)
           or (p.head_snapshot is not null and pg_visible_in_snapshot(l.xid, p.head_snapshot)
               and l.position <= p.position) as passed,
           @schema@.is_published(p, l.xid, l.position, l.id, l.key) as published
      from @schema@.log l
     where (l.topic = any (p.topics) or l.topic ^@ any (p.prefixes))
       and not pg_visible_in_snapshot(l.xid, p.start_snapshot)) m;

create or replace view @schema@.outbox as
select m.position, m.id, m.topic, m.key, m.payload, m.content_type, m.headers, m.correlation_id,
       m.enqueued_at,
       (select case when bool_and(@schema@.is_published(p, m.xid, m.position, m.id, m.key))
               then max(@schema@.settled_at(p.subscription_id, m.xid, m.position, m.enqueued_at))
               end
          from unnest((select array_agg(p) from @schema@.place p)) p
         where (m.topic = any (p.topics) or m.topic ^@ any (p.prefixes))
           and not pg_visible_in_snapshot(m.xid, p.start_snapshot)) as published_at
  from @schema@.log m;
