-- Operations in the background: what concerns more messages than one transaction should.

-- Serves pages of dead letters, and operations that go through them.
create index failed_message_dead on @schema@.failed_message (failed_at, subscription, position, id)
  where due is null;

create table @schema@.operation (
  id uuid primary key default gen_random_uuid(),
  n bigint generated always as identity unique,
  kind text not null,
  -- What it concerns, as it was asked for.
  spec jsonb not null,
  actor text not null,
  state text not null default 'waiting'
    check (state in ('waiting', 'running', 'done', 'cancelled', 'failed')),
  is_cancel_wanted boolean not null default false,
  -- Messages when it began; null where they were too many to count.
  total bigint,
  done bigint not null default 0,
  problem text,
  -- What fails later is none of its business.
  began_at timestamptz not null default clock_timestamp(),
  ended_at timestamptz,
  -- Who runs it, until when, and a number that keeps out whoever did before.
  runner text,
  lease_until timestamptz,
  epoch bigint not null default 0,
  -- When the first message of the next piece is due.
  next_at timestamptz not null default clock_timestamp(),
  -- Behind which message it goes on, and up to which position of the log.
  after_failed_at timestamptz not null default 'epoch',
  after_subscription int not null default 0,
  after_position bigint not null default 0,
  after_id uuid not null default '00000000-0000-0000-0000-000000000000',
  through bigint not null default 0,
  constraint what_is_over_ended check ((state in ('done', 'cancelled', 'failed')) = (ended_at is not null))
) with (fillfactor = 50);
-- Serves runners that look for work, every few seconds.
create index operation_unfinished on @schema@.operation (n) where ended_at is null;

-- Serves whoever reads the audit trail of a subscription.
create index audit_subscription on @schema@.audit (subscription, n) where subscription is not null;
