-- The log, its ticks, subscriptions and their progress.
--
-- @schema@ stands for the validated schema name, which is a prefix here. SQLite has one writer at
-- a time, so positions are handed out in commit order and one number says what a tick shows.
--
-- Times are microseconds since the Unix epoch. They come from julianday(), which every SQLite
-- version of an application has; it knows milliseconds, hence the rounding.

create table @schema@_meta (
  singleton integer primary key default 1 check (singleton = 1),
  incarnation blob not null default (randomblob(16)),
  payload_bytes_max integer not null,
  created_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000)
) strict;
insert into @schema@_meta (payload_bytes_max) values (262144);

-- `autoincrement` never hands a position out again after its message was deleted; without it the
-- log would start over once it is empty, below the ticks.
-- The payload is the last column: what stands before it is read without its overflow pages.
create table @schema@_log (
  position integer primary key autoincrement,
  id blob not null,
  topic text not null,
  key text,
  content_type text not null,
  headers text not null default '{}',
  correlation_id text,
  enqueued_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  payload blob not null,
  -- The limits proper are checked by the adapters, with one clear error each. These keep out what
  -- would hurt the relay if somebody writes to the table directly.
  constraint position_is_positive check (position > 0),
  constraint id_is_a_uuid check (length(id) = 16),
  constraint topic_is_named check (topic <> '' and length(cast(topic as blob)) <= 255),
  constraint key_is_not_empty check (key <> ''),
  constraint headers_are_an_object check (
    headers = '{}' or (json_valid(headers) and json_type(headers) = 'object')),
  constraint payload_is_bounded check (length(payload) <= 67108864)
) strict;

-- `position` is the highest one that the tick shows.
create table @schema@_tick (
  n integer primary key,
  id blob not null check (length(id) = 16),
  position integer not null,
  at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000)
) strict;

-- One row per subscription. A takeover raises the epoch; a settle compares it in the transaction
-- that records the place.
create table @schema@_subscription (
  id integer primary key,
  name text not null unique check (name <> '' and length(cast(name as blob)) <= 128),
  -- JSON arrays of strings; the prefix '' stands for every topic.
  topics text not null check (json_valid(topics)),
  prefixes text not null check (json_valid(prefixes)),
  -- Where it started. What was visible there is not this subscription's to publish.
  start_tick integer not null,
  start_id blob not null,
  start_position integer not null,
  epoch integer not null default 0,
  holder text,
  acquired_at integer,
  created_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000)
) strict;

-- How far each subscription has come: the newest row counts, the older ones date `published_at`.
-- head_tick, head_id and position are null when everything visible at base_tick is published.
-- `through` says the same as one number: every position up to it is settled.
create table @schema@_progress (
  n integer primary key,
  subscription integer not null references @schema@_subscription (id) on delete cascade,
  base_tick integer not null,
  base_id blob not null,
  head_tick integer,
  head_id blob,
  position integer,
  message_id blob,
  through integer not null,
  epoch integer not null,
  at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  constraint window_is_whole check ((head_tick is null) = (position is null)
                                and (head_tick is null) = (head_id is null))
) strict;
create index @schema@_progress_newest on @schema@_progress (subscription, n);
create index @schema@_progress_by_reach on @schema@_progress (subscription, through, n);

-- Never holds a row: an adapter that refuses a message on the client's side inserts the position
-- -1, which exists nowhere, so that the caller's transaction cannot commit without the message.
create table @schema@_refused (
  log_position integer not null
    references @schema@_log (position) deferrable initially deferred
) strict;
create index @schema@_refused_position on @schema@_refused (log_position);
