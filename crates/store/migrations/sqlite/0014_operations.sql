-- Operations in the background: what concerns more messages than one transaction should. Times are microseconds.

-- Serves pages of dead letters, and operations that go through them.
create index @schema@_failed_message_dead on @schema@_failed_message (failed_at, subscription, position, id)
  where due is null;

create table @schema@_operation (
  n integer primary key autoincrement,
  id blob not null unique check (length(id) = 16),
  kind text not null,
  -- What it concerns, as it was asked for.
  spec text not null check (json_valid(spec)),
  actor text not null,
  state text not null default 'waiting'
    check (state in ('waiting', 'running', 'done', 'cancelled', 'failed')),
  is_cancel_wanted integer not null default 0,
  -- Messages when it began; null where they were too many to count.
  total integer,
  done integer not null default 0,
  problem text,
  -- What fails later is none of its business.
  began_at integer not null,
  ended_at integer,
  -- Who runs it, until when, and a number that keeps out whoever did before.
  runner text,
  lease_until integer,
  epoch integer not null default 0,
  -- When the first message of the next piece is due.
  next_at integer not null,
  -- Behind which message it goes on, and up to which position of the log.
  after_failed_at integer not null default 0,
  after_subscription integer not null default 0,
  after_position integer not null default 0,
  after_id blob not null default x'00000000000000000000000000000000',
  through integer not null default 0,
  constraint what_is_over_ended check ((state in ('done', 'cancelled', 'failed')) = (ended_at is not null))
) strict;
-- Serves runners that look for work, every few seconds.
create index @schema@_operation_unfinished on @schema@_operation (n) where ended_at is null;
