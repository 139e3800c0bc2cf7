-- The log, its ticks, subscriptions and their progress.
--
-- @schema@ stands for the validated schema name, @slots@ and @slot_size@ for the log's ring.
-- Log, ticks and progress are append-only rings: number n lives in slot (n / size) % slots, and a
-- slot whose numbers are all settled is truncated. Nothing is created or attached at run time,
-- because that would lock the parent against writers.

create table @schema@.meta (
  singleton boolean primary key default true check (singleton),
  incarnation uuid not null default gen_random_uuid(),
  log_slots bigint not null,
  log_slot_size bigint not null,
  tick_slots bigint not null,
  tick_slot_size bigint not null,
  progress_slots bigint not null,
  progress_slot_size bigint not null,
  payload_bytes_max int not null,
  created_at timestamptz not null default clock_timestamp()
);
insert into @schema@.meta (log_slots, log_slot_size, tick_slots, tick_slot_size, progress_slots,
                           progress_slot_size, payload_bytes_max)
values (@slots@, @slot_size@, 8, 32768, 8, 32768, @payload_bytes_max@);

-- Cache 1: with a larger one a session holds positions back, and order would follow sessions
-- instead of commits.
create sequence @schema@.log_position_seq as bigint cache 1;

-- `xid` stands before `position`: defaults are evaluated in column order, so no position is ever
-- handed out to a transaction that has no xid yet. The look rule rests on that.
create table @schema@.log (
  xid xid8 not null default pg_current_xact_id(),
  position bigint not null default nextval('@schema@.log_position_seq'),
  id uuid not null,
  topic text not null,
  key text,
  payload bytea not null,
  content_type text not null,
  headers text[] not null,
  correlation_id text,
  enqueued_at timestamptz not null default clock_timestamp(),
  -- The limits proper are checked by the adapters and by enqueue(), with one clear error each.
  -- These keep out what would hurt the relay if somebody writes to the table directly.
  constraint topic_is_named check (topic <> '' and octet_length(topic) <= 255),
  constraint key_is_not_empty check (key <> ''),
  constraint headers_are_pairs check (cardinality(headers) % 2 = 0 and cardinality(headers) <= 128),
  constraint payload_is_bounded check (octet_length(payload) <= 67108864)
) partition by list (((position / @slot_size@) % @slots@));
alter sequence @schema@.log_position_seq owned by @schema@.log.position;

-- Serves the main part (a range of xid) and the late part (single xids) of a window.
create index log_xid_position on @schema@.log (xid, position);

create table @schema@.tick (
  n bigint not null,
  id uuid not null default gen_random_uuid(),
  snapshot pg_snapshot not null,
  at timestamptz not null default clock_timestamp()
) partition by list (((n / 32768) % 8));

create table @schema@.subscription (
  id int generated always as identity primary key,
  name text not null unique check (name <> '' and octet_length(name) <= 128),
  topics text[] not null,
  prefixes text[] not null,
  -- What was visible here is not this subscription's to publish.
  start_snapshot pg_snapshot not null,
  created_at timestamptz not null default clock_timestamp()
);

-- One row per subscription; settle locks it `for share`, a takeover raises the epoch.
create table @schema@.lease (
  subscription int primary key references @schema@.subscription on delete cascade,
  epoch bigint not null default 0,
  holder text,
  acquired_at timestamptz
);

-- How far each subscription has come: the newest row counts, the older ones date `published_at`.
-- head_tick and position are null when everything visible at base_tick is published.
create sequence @schema@.progress_n_seq as bigint cache 1;
create table @schema@.progress (
  n bigint not null default nextval('@schema@.progress_n_seq'),
  subscription int not null,
  base_tick bigint not null,
  base_id uuid not null,
  head_tick bigint,
  head_id uuid,
  position bigint,
  message_id uuid,
  epoch bigint not null,
  at timestamptz not null default clock_timestamp(),
  constraint window_is_whole check ((head_tick is null) = (position is null)
                                and (head_tick is null) = (head_id is null))
) partition by list (((n / 32768) % 8));
alter sequence @schema@.progress_n_seq owned by @schema@.progress.n;
create index progress_newest on @schema@.progress (subscription, n);
create index progress_by_time on @schema@.progress (subscription, at);

do $$
begin
  for slot in 0 .. @slots@ - 1 loop
    execute format('create table @schema@.log_%s partition of @schema@.log for values in (%s)', slot, slot);
    execute format('create unique index on @schema@.log_%s (position)', slot);
  end loop;
  for slot in 0 .. 7 loop
    execute format('create table @schema@.tick_%s partition of @schema@.tick for values in (%s)', slot, slot);
    execute format('create unique index on @schema@.tick_%s (n)', slot);
    execute format('create table @schema@.progress_%s partition of @schema@.progress for values in (%s)', slot, slot);
    execute format('create unique index on @schema@.progress_%s (n)', slot);
  end loop;
end
$$;

-- Fails on purpose: an adapter that refuses a message on the client's side calls it, so that the
-- caller's transaction cannot commit without the message.
create function @schema@.refuse(reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using message = reason, errcode = 'invalid_parameter_value';
end
$$;
