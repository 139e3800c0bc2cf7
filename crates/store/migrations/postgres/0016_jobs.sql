-- Jobs: messages with a life. A job is submitted with its message in one transaction; a worker begins it,
-- and finishes it in the transaction of its effect or in one of its own.
--
-- The state `queued` is written nowhere: a job that is `created` or `failed` is queued as soon as a
-- subscription has published its message (view `jobs`). Jobs with the same key run one after the
-- other, in the order in which they were submitted.

-- Workers that run. Whatever a worker has belongs to it for as long as its row is there.
create table @schema@.worker (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  topics text[] not null,
  -- Where it takes its messages from, for people.
  sources text[] not null,
  version text not null,
  started_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz not null default clock_timestamp(),
  -- `-infinity`: it has lost what it had, but for what a transaction holds, and its lease never comes back.
  lease_until timestamptz not null,
  -- When all of its sources were last found empty, with nothing in hand.
  empty_at timestamptz,
  constraint name_is_bounded check (octet_length(name) between 1 and 255)
) with (fillfactor = 50);

create table @schema@.job (
  id uuid primary key,
  -- The order in which jobs of a key run.
  n bigint generated always as identity,
  state text not null default 'created' check (
    state in ('scheduled', 'created', 'running', 'completed', 'failed', 'dead', 'cancelled')),
  topic text not null,
  key text,
  payload bytea not null,
  content_type text not null,
  headers text[] not null,
  correlation_id text,
  -- The message that carries it at present, and where that stands in the log, if it is there.
  message_id uuid not null,
  message_xid xid8,
  message_position bigint,
  -- How often it was begun, and how often it may be; null for as often as its workers say.
  attempt int not null default 0,
  attempts_max int check (attempts_max between 1 and 1000),
  -- No two jobs that are not over share one.
  unique_key text check (octet_length(unique_key) between 1 and 256),
  -- No two jobs share one.
  token text check (octet_length(token) between 1 and 256),
  worker uuid,
  -- Waits for an earlier job of its key, which has it published again.
  is_blocked boolean not null default false,
  is_cancel_wanted boolean not null default false,
  -- Of the last attempt that did not complete it.
  reason text,
  progress jsonb,
  created_at timestamptz not null default clock_timestamp(),
  due_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  constraint worker_has_what_runs check ((state = 'running') = (worker is not null)),
  constraint what_is_over_ended check ((state in ('completed', 'dead', 'cancelled')) = (finished_at is not null))
) with (fillfactor = 70);
create unique index job_unique_key on @schema@.job (unique_key)
  where unique_key is not null and state not in ('completed', 'dead', 'cancelled');
create unique index job_token on @schema@.job (token) where token is not null;
-- Serves the order of a key.
create index job_key on @schema@.job (key, n)
  where key is not null and state not in ('completed', 'dead', 'cancelled');
-- Serve the watch, and what moves into the log.
create index job_waiting on @schema@.job (created_at) where state in ('created', 'failed', 'scheduled');
create index job_message on @schema@.job (message_id) where state in ('created', 'failed', 'scheduled');
create index job_running on @schema@.job (worker) where state = 'running';
-- Serves the sweep.
create index job_finished on @schema@.job (finished_at) where finished_at is not null;

-- Attempts that have ended.
create table @schema@.execution (
  job_id uuid not null references @schema@.job on delete cascade,
  attempt int not null,
  worker text not null,
  started_at timestamptz not null,
  ended_at timestamptz not null default clock_timestamp(),
  outcome text not null check (outcome in ('completed', 'retry', 'dead', 'snooze', 'cancelled', 'lost')),
  reason text,
  n bigint generated always as identity,
  primary key (job_id, n)
);

-- What attempts have brought back.
create table @schema@.receipt (
  job_id uuid not null references @schema@.job on delete cascade,
  n bigint generated always as identity,
  attempt int not null,
  content_type text not null,
  body bytea not null,
  at timestamptz not null default clock_timestamp(),
  primary key (job_id, n),
  constraint receipt_is_bounded check (octet_length(body) <= 67108864)
);

-- Jobs that are submitted by the clock.
create table @schema@.cron (
  name text primary key check (octet_length(name) between 1 and 255),
  -- The definition, as it was pushed.
  definition jsonb not null,
  next_at timestamptz not null,
  last_at timestamptz
);

alter table @schema@.job enable row level security;
alter table @schema@.execution enable row level security;
alter table @schema@.receipt enable row level security;

-- Whether a subscription has published the message that carries a job. Not inlined, and not compiled: what the
-- planner expects of 32 slots would make it compile for longer than it runs.
create function @schema@.is_job_published(topic text, message_xid xid8, message_position bigint, message_id uuid,
                                          key text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set jit = off as $$
begin
  return exists (
    select from @schema@.place p
     where (is_job_published.topic = any (p.topics) or is_job_published.topic ^@ any (p.prefixes))
       and not pg_visible_in_snapshot(message_xid, p.start_snapshot)
       and @schema@.is_published(p, message_xid, message_position, is_job_published.message_id, is_job_published.key));
end
$$;

-- Each job with its state as people see it.
create view @schema@.jobs as
select j.id, j.n, s.state, j.topic, j.key, j.content_type, j.correlation_id, j.message_id, j.attempt, j.attempts_max,
       j.unique_key, j.token, w.name as worker, j.is_blocked, j.is_cancel_wanted, j.reason, j.progress,
       j.created_at, j.due_at, j.started_at, j.finished_at
  from @schema@.job j
  left join @schema@.worker w on w.id = j.worker
  cross join lateral (
    select case when j.state in ('created', 'failed') and j.message_position is not null
                 and @schema@.is_job_published(j.topic, j.message_xid, j.message_position, j.message_id, j.key)
                then 'queued' else j.state end as state) s;

-- One body behind the functions that applications call. Answers the job's id: another one's if the
-- token was used before, or if a job that is not over has the unique key.
create function @schema@.submit_job_bytes(
  topic text,
  payload bytea,
  key text default null,
  headers json default null,
  content_type text default 'application/octet-stream',
  correlation_id text default null,
  job_id uuid default null,
  token text default null,
  unique_key text default null,
  attempts_max int default null,
  deliver_at timestamptz default null
) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  id uuid := coalesce(job_id, @schema@.uuid_v7());
  own_headers text[] := @schema@.header_pairs(headers);
  -- Answered instead of another one's id.
  first_id uuid;
  place bigint;
  sent json;
begin
  if attempts_max not between 1 and 1000 then
    perform @schema@.refuse_field('attempts_max', 'from 1 to 1000', attempts_max::text);
  elsif token = '' or octet_length(token) > 256 then
    perform @schema@.refuse_field('token', '1 to 256 bytes', token);
  elsif unique_key = '' or octet_length(unique_key) > 256 then
    perform @schema@.refuse_field('unique_key', '1 to 256 bytes', unique_key);
  end if;
  if token is not null or unique_key is not null or job_id is not null then
    loop
      -- Waits for a transaction that is submitting the same, and submits if that one rolls back.
      insert into @schema@.job (id, state, topic, key, payload, content_type, headers, correlation_id, message_id,
                                unique_key, token, attempts_max, due_at)
      values (id, case when deliver_at is null then 'created' else 'scheduled' end, topic, key, coalesce(payload, ''),
              content_type, own_headers, correlation_id, id, unique_key, token, attempts_max, deliver_at)
      on conflict do nothing;
      exit when found;
      -- A statement of its own, which sees what the insert waited for.
      select j.id into first_id from @schema@.job j where j.token = token
       union all
      select j.id from @schema@.job j
       where j.unique_key = unique_key and j.state not in ('completed', 'dead', 'cancelled')
       union all
      select j.id from @schema@.job j where j.id = id
       limit 1;
      if found then
        return first_id;
      end if;
      -- The job is over, or forgotten, in between.
    end loop;
  end if;
  sent := @schema@.job_headers(own_headers, id);
  perform @schema@.enqueue_bytes(topic, payload, key, sent, content_type, correlation_id, id, null, deliver_at);
  if deliver_at is null then
    -- Of the insert just now.
    place := currval('@schema@.log_position_seq');
  end if;
  if token is not null or unique_key is not null or job_id is not null then
    update @schema@.job j
       set message_position = place, message_xid = case when place is not null then pg_current_xact_id() end
     where j.id = id;
  else
    insert into @schema@.job (id, state, topic, key, payload, content_type, headers, correlation_id, message_id,
                              message_xid, message_position, attempts_max, due_at)
    values (id, case when deliver_at is null then 'created' else 'scheduled' end, topic, key, coalesce(payload, ''),
            content_type, own_headers, correlation_id, id, case when place is not null then pg_current_xact_id() end,
            place, attempts_max, deliver_at);
  end if;
  return id;
end
$$;

-- A JSON payload, kept byte for byte as it is written.
create function @schema@.submit_job(
  topic text,
  payload json default null,
  key text default null,
  headers json default null,
  correlation_id text default null,
  job_id uuid default null,
  token text default null,
  unique_key text default null,
  attempts_max int default null,
  deliver_at timestamptz default null
) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  return @schema@.submit_job_bytes(topic, convert_to(payload::text, 'UTF8'), key, headers, 'application/json',
                                   correlation_id, job_id, token, unique_key, attempts_max, deliver_at);
end
$$;

-- The headers of a job's message: the job's own, which job it is, and who wrote it.
create function @schema@.job_headers(own text[], job_id uuid) returns json
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  return json_object(own || array['posthaste-job', job_id::text, 'posthaste-xid', pg_current_xact_id()::text]);
end
$$;

-- Locks keys until the transaction ends, so that whoever begins a job of a key and whoever finishes the
-- one before it see each other. Answers whether there are any. ("PHJK")
create function @schema@.lock_job_keys(job_ids uuid[]) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  perform pg_advisory_xact_lock(1346914891, k.hash)
     from (select distinct hashtext('@schema@ ' || j.key) as hash
             from @schema@.job j where j.id = any (job_ids) and j.key is not null order by 1) k;
  return found;
end
$$;

-- Has jobs published anew, by messages of their own: now, or when they are due. On strict topics whoever moves
-- scheduled messages locks their keys, so these go that way.
create function @schema@.publish_jobs(job_ids uuid[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  with again as (
    -- The row is this transaction's before its position is handed out: it has an xid by then.
    update @schema@.job j
       set message_id = @schema@.uuid_v7(), is_blocked = false,
           state = case when w.is_now and j.state = 'scheduled' then 'created' else j.state end,
           message_xid = case when w.is_now then pg_current_xact_id() end,
           message_position = case when w.is_now then nextval('@schema@.log_position_seq') end
      from (select d.id, (d.due_at is null or d.due_at <= clock_timestamp())
                         and (d.key is null or not @schema@.is_strict(d.topic)) as is_now
              from @schema@.job d where d.id = any (job_ids) order by d.n for no key update) w
     where j.id = w.id returning j.*
  ), now_due as (
    insert into @schema@.log (position, id, topic, key, payload, content_type, headers, correlation_id)
    select a.message_position, a.message_id, a.topic, a.key, a.payload, a.content_type,
           a.headers || array['posthaste-job', a.id::text, 'posthaste-xid', pg_current_xact_id()::text], a.correlation_id
      from again a where a.message_position is not null
  )
  insert into @schema@.scheduled (id, topic, key, payload, content_type, headers, correlation_id, deliver_at)
  select a.message_id, a.topic, a.key, a.payload, a.content_type,
         a.headers || array['posthaste-job', a.id::text, 'posthaste-xid', pg_current_xact_id()::text],
         a.correlation_id, greatest(coalesce(a.due_at, clock_timestamp()), clock_timestamp())
    from again a where a.message_position is null order by a.n;
end
$$;

-- A scheduled message has moved into the log, in this transaction.
create function @schema@.note_moved_job(message_id uuid, message_position bigint) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
  update @schema@.job j
     set message_xid = pg_current_xact_id(), message_position = message_position,
         state = case j.state when 'scheduled' then 'created' else j.state end
   where j.message_id = message_id and j.state in ('created', 'failed', 'scheduled');
end
$$;

-- Adds a worker, or gives it more time: until when nobody takes its jobs from it. False if it is gone:
-- all that it had is somebody else's, or waits.
create function @schema@.register_worker(name text, topics text[], sources text[], version text, lease interval) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  id uuid;
begin
  insert into @schema@.worker (name, topics, sources, version, lease_until)
  values (name, topics, sources, version, clock_timestamp() + lease) returning worker.id into id;
  return id;
end
$$;

-- `cancelled`: jobs of this worker that somebody wants to have stopped.
create function @schema@.renew_worker(
  worker uuid, lease interval, is_empty boolean, out is_registered boolean, out cancelled uuid[]
)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  update @schema@.worker w
     set seen_at = clock_timestamp(), lease_until = clock_timestamp() + lease,
         empty_at = case when is_empty then clock_timestamp() else w.empty_at end
   where w.id = renew_worker.worker and w.lease_until > '-infinity';
  is_registered := found;
  cancelled := array(select j.id from @schema@.job j
                      where j.worker = renew_worker.worker and j.state = 'running' and j.is_cancel_wanted);
end
$$;

-- Takes from workers what they have, and forgets them: this one, or, where it is null, those whose lease has
-- run out. `attempts_max` is for jobs that bring no limit of their own. Answers how many jobs it was.
--
-- Waits for nobody: what somebody holds is left for the next call, such as a job whose worker was cut off in the
-- middle of its transaction, which the server has not noticed yet.
create function @schema@.retire_workers(worker uuid, attempts_max int) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  gone @schema@.worker;
  ids uuid[];
  taken bigint;
  total bigint := 0;
begin
  for gone in
    select * from @schema@.worker w
     where case when retire_workers.worker is null then w.lease_until < clock_timestamp()
                else w.id = retire_workers.worker end
     order by w.id for update skip locked
  loop
    -- Keys before rows, as everywhere.
    ids := array(select j.id from @schema@.job j
                  where j.worker = gone.id and j.state = 'running'
                    and (j.key is null or pg_try_advisory_xact_lock(1346914891, hashtext('@schema@ ' || j.key))));
    ids := array(select j.id from @schema@.job j
                  where j.id = any (ids) and j.worker = gone.id and j.state = 'running'
                  order by j.id for no key update skip locked);
    select count(*) into taken from (
      select @schema@.finish_jobs(gone.id, g.ids, g.attempts, g.outcomes, g.reasons, g.waits, g.receipts, g.types)
        from (select array_agg(j.id) as ids, array_agg(j.attempt) as attempts,
                     array_agg(case when j.is_cancel_wanted then 'cancelled'
                                    when j.attempt >= coalesce(j.attempts_max, retire_workers.attempts_max) then 'dead'
                                    else 'lost' end) as outcomes,
                     array_agg(format('the worker "%s" was lost or stopped', gone.name)) as reasons,
                     array_agg(0::bigint) as waits, array_agg(null::bytea) as receipts, array_agg(null::text) as types
                from @schema@.job j where j.id = any (ids)) g
       where g.ids is not null) f;
    total := total + taken;
    delete from @schema@.worker w
     where w.id = gone.id
       and not exists (select from @schema@.job j where j.worker = gone.id and j.state = 'running');
    if not found then
      update @schema@.worker w set lease_until = '-infinity' where w.id = gone.id;
    end if;
  end loop;
  return total;
end
$$;

-- Begins jobs whose messages a worker was handed. `verdict`: `begun` (run it, under this attempt; again the same
-- where the worker asks again),
-- `over` (it is final), `running` (somebody has it), `stale` (another message carries it by now),
-- `blocked` (an earlier job of its key is not over, or a later one runs, and will have it published again), `unknown` (not here,
-- or not visible yet). All but `begun` and `unknown` have nothing left to do. One row `unregistered` where the
-- worker's lease has run out. Here and below no table is read from end to end: a plan that was made while there were few
-- jobs would do that for as long as the connection lasts. And none waits long for what a transaction holds: a call
-- that its client has given up on would go on to wait, and hold all that it has locked by then.
create function @schema@.begin_jobs(
  worker uuid, job_ids uuid[], message_ids uuid[],
  out nth bigint, out verdict text, out attempt int, out attempts_max int
) returns setof record
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
  has_keys boolean;
begin
  -- What a worker begins after its row is gone would never end.
  perform from @schema@.worker w
    where w.id = begin_jobs.worker and w.lease_until > '-infinity' for key share;
  if not found then
    return query select 0::bigint, 'unregistered', null::int, null::int;
    return;
  end if;
  has_keys := @schema@.lock_job_keys(job_ids);
  -- By their ids: `case` keeps the planner from the indexes of states, which it may believe to be empty, and so does
  -- `|| ''` below.
  update @schema@.job j
     set state = 'running', worker = begin_jobs.worker, attempt = j.attempt + 1, started_at = clock_timestamp()
    from (select * from unnest(job_ids, message_ids) a (job_id, message_id) order by a.job_id) a
   where j.id = a.job_id and j.message_id = a.message_id
     and case when j.state in ('created', 'failed') and not j.is_blocked then not (j.key is not null and exists (
           -- Or a later one that runs: this one was dead, and a person retries it.
           select from @schema@.job e
            where e.key = j.key and (e.n < j.n or e.state || '' = 'running')
              and e.state not in ('completed', 'dead', 'cancelled'))) else false end;
  if has_keys then
    update @schema@.job j set is_blocked = true
      from (select * from unnest(job_ids, message_ids) a (job_id, message_id) order by a.job_id) a
     where j.id = a.job_id and j.message_id = a.message_id
       and case when j.state in ('created', 'failed') and not j.is_blocked then exists (
             select from @schema@.job e
              where e.key = j.key and (e.n < j.n or e.state || '' = 'running')
                and e.state not in ('completed', 'dead', 'cancelled')) else false end;
  end if;
  -- The rows tell what was done. A join to what the updates return would be a loop in a loop: the planner expects
  -- one row of them.
  return query
    select a.nth,
           case when j.id is null then 'unknown'
                when j.state in ('completed', 'dead', 'cancelled') then 'over'
                when j.message_id <> a.message_id then 'stale'
                -- Just begun, or its answer was lost. Of several deliveries of one message, one.
                when j.state = 'running' and j.worker = begin_jobs.worker and a.delivery = 1 then 'begun'
                when j.state in ('created', 'failed') and j.is_blocked then 'blocked'
                -- It was not visible a moment ago.
                when j.state in ('created', 'failed') then 'unknown'
                else 'running' end,
           j.attempt, j.attempts_max
      from (select u.job_id, u.message_id, u.nth,
                   row_number() over (partition by u.job_id, u.message_id order by u.nth) as delivery
              from unnest(job_ids, message_ids) with ordinality u (job_id, message_id, nth)) a
      left join @schema@.job j on j.id = a.job_id;
end
$$;

-- Ends attempts, and answers the jobs that the worker still had: all else is not its own any more, and
-- nothing of it is written. `outcomes`: `completed`, `retry` (after `waits_ms`), `dead`, `snooze` (for
-- `waits_ms`, and the attempt does not count), `cancelled`, `lost`.
create function @schema@.finish_jobs(
  worker uuid, job_ids uuid[], attempts int[], outcomes text[], reasons text[], waits_ms bigint[],
  receipts bytea[], receipt_types text[]
) returns setof uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
  held uuid[];
  again uuid[];
  over uuid[];
begin
  perform @schema@.lock_job_keys(job_ids);
  with given as (
    select * from unnest(job_ids, attempts, outcomes, reasons, waits_ms, receipts, receipt_types)
      g (job_id, attempt, outcome, reason, wait_ms, receipt, receipt_type) order by g.job_id
  ), ended as (
    update @schema@.job j
       set state = case g.outcome when 'completed' then 'completed' when 'retry' then 'failed' when 'lost' then 'failed'
                                  when 'snooze' then 'scheduled' when 'cancelled' then 'cancelled' else 'dead' end,
           worker = null,
           attempt = case g.outcome when 'snooze' then j.attempt - 1 else j.attempt end,
           reason = case g.outcome when 'completed' then null else left(g.reason, 4096) end,
           is_cancel_wanted = j.is_cancel_wanted and g.outcome in ('retry', 'lost', 'snooze'),
           due_at = case when g.outcome in ('retry', 'lost', 'snooze')
                         then clock_timestamp() + g.wait_ms * interval '1 millisecond' end,
           finished_at = case when g.outcome in ('completed', 'dead', 'cancelled') then clock_timestamp() end
      from given g
     -- What has a worker is running. To say so would have the planner read all that has been: the index of what runs,
     -- which looks empty.
     where j.id = g.job_id and j.worker = finish_jobs.worker and j.attempt = g.attempt
    returning j.id, g.attempt, g.outcome, left(g.reason, 4096) as reason, g.receipt, g.receipt_type, j.started_at, j.key
  ), executed as (
    insert into @schema@.execution (job_id, attempt, worker, started_at, outcome, reason)
    select e.id, e.attempt, coalesce((select w.name from @schema@.worker w where w.id = finish_jobs.worker), 'gone'),
           e.started_at, e.outcome, e.reason
      from ended e
  ), received as (
    insert into @schema@.receipt (job_id, attempt, content_type, body)
    select e.id, e.attempt, coalesce(e.receipt_type, 'application/json'), e.receipt
      from ended e where e.receipt is not null
  )
  select array_agg(e.id),
         array_agg(e.id) filter (where e.outcome in ('retry', 'lost', 'snooze')),
         array_agg(e.id) filter (where e.key is not null and e.outcome in ('completed', 'dead', 'cancelled'))
    into held, again, over from ended e;
  if again is not null then
    perform @schema@.publish_jobs(again);
  end if;
  if over is not null then
    perform @schema@.release_keys(over);
  end if;
  return query select * from unnest(held);
end
$$;

-- The next job of the keys of jobs that are over is published again, where it waits for that.
create function @schema@.release_keys(job_ids uuid[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  next uuid[];
begin
  -- A statement of its own: it sees who has been blocked meanwhile.
  select array_agg(f.id) into next
    from (select distinct j.key from @schema@.job j where j.id = any (job_ids) and j.key is not null) k
   cross join lateral (
     select j.id, j.is_blocked from @schema@.job j
      where j.key = k.key and j.state not in ('completed', 'dead', 'cancelled') order by j.n limit 1) f
   where f.is_blocked;
  if next is not null then
    perform @schema@.publish_jobs(next);
  end if;
end
$$;

-- Those of some messages that a consumer has handled. Each is looked up by itself, by its index: a plan that was made
-- while the inbox was small would read all of it, for as long as the connection lasts.
create function @schema@.handled_messages(consumer text, message_ids uuid[]) returns setof uuid
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return query select h.message_id
                 from unnest(message_ids) u (id)
                cross join lateral (
                  select i.message_id from @schema@.inbox i
                   where i.consumer = handled_messages.consumer and i.message_id = u.id offset 0) h;
end
$$;

-- Keeps how far running jobs have come. What a worker does not have any more is passed over, and what somebody holds.
create function @schema@.note_progress(worker uuid, job_ids uuid[], attempts int[], progress jsonb[]) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  update @schema@.job j set progress = g.progress
    from (select * from unnest(job_ids, attempts, progress) g (job_id, attempt, progress)) g
   where j.id = g.job_id and j.attempt = g.attempt and j.worker = note_progress.worker
     and j.id = any (array(select h.id from @schema@.job h where h.id = any (job_ids)
                            order by h.id for no key update skip locked));
end
$$;

-- Takes a job back: `cancelled`, `wanted` (it runs; its worker is told), `over` or `unknown`.
create function @schema@.cancel_job(job_id uuid) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  job @schema@.job;
begin
  perform @schema@.lock_job_keys(array[job_id]);
  select * into job from @schema@.job j where j.id = job_id for no key update;
  if not found then
    return 'unknown';
  elsif job.finished_at is not null then
    return 'over';
  elsif job.state = 'running' then
    update @schema@.job j set is_cancel_wanted = true where j.id = job_id;
    return 'wanted';
  end if;
  delete from @schema@.scheduled s where s.id = job.message_id;
  update @schema@.job j
     set state = 'cancelled', finished_at = clock_timestamp(), due_at = null, is_blocked = false
   where j.id = job_id;
  perform @schema@.release_keys(array[job_id]);
  return 'cancelled';
end
$$;

-- Runs a job again that is dead, cancelled or waits for its next attempt, with so many more attempts:
-- `published`, `over` (it is completed, or another one has its unique key), `unknown`, or the state in which
-- it waits or runs already.
create function @schema@.retry_job(job_id uuid, attempts int default 1) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  job @schema@.job;
begin
  perform @schema@.lock_job_keys(array[job_id]);
  select * into job from @schema@.job j where j.id = job_id for no key update;
  if not found then
    return 'unknown';
  elsif job.state in ('running', 'created', 'scheduled') then
    return job.state;
  elsif job.state = 'completed' or (job.finished_at is not null and exists (
    select from @schema@.job j where j.unique_key = job.unique_key and j.finished_at is null)) then
    return 'over';
  end if;
  delete from @schema@.scheduled s where s.id = job.message_id;
  update @schema@.job j
     set state = 'created', finished_at = null, due_at = null, is_cancel_wanted = false,
         attempts_max = least(job.attempt + greatest(attempts, 1), 1000)
   where j.id = job_id;
  perform @schema@.publish_jobs(array[job_id]);
  return 'published';
end
$$;

-- Publishes jobs again that wait and that no worker has had, and answers which. A message that is still to be
-- published is enough.
create function @schema@.republish_jobs(job_ids uuid[]) returns setof uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  held uuid[];
begin
  perform @schema@.lock_job_keys(job_ids);
  held := array(select j.id from @schema@.job j
                 where j.id = any (job_ids) and j.state in ('created', 'failed')
                   and not exists (select from @schema@.scheduled s where s.id = j.message_id)
                   and (j.message_position is null
                        or @schema@.is_job_published(j.topic, j.message_xid, j.message_position, j.message_id, j.key)
                        or not exists (select from @schema@.subscription s
                                        where j.topic = any (s.topics) or j.topic ^@ any (s.prefixes)))
                 order by j.id for no key update);
  -- Due at once.
  update @schema@.job j set state = 'created', due_at = null where j.id = any (held);
  perform @schema@.publish_jobs(held);
  return query select * from unnest(held);
end
$$;

-- Ends jobs that never come to a worker, and answers which.
create function @schema@.refuse_jobs(job_ids uuid[], reasons text[]) returns setof uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  held uuid[];
begin
  perform @schema@.lock_job_keys(job_ids);
  with refused as (
    update @schema@.job j
       set state = 'dead', reason = left(g.reason, 4096), finished_at = clock_timestamp(), due_at = null,
           is_blocked = false
      from (select * from unnest(job_ids, reasons) g (job_id, reason) order by g.job_id) g
     where j.id = g.job_id and j.state in ('created', 'failed')
    returning j.id
  )
  select array_agg(r.id) into held from refused r;
  if held is not null then
    perform @schema@.release_keys(held);
  end if;
  return query select * from unnest(held);
end
$$;

-- Jobs that have waited for that long to be begun, the oldest first, with what is known of the reason.
create function @schema@.waiting_jobs(
  age interval, rows_max int,
  out job_id uuid, out topic text, out waited_ms bigint, out is_written boolean, out is_blocked boolean,
  -- Of the subscriptions that read its topic: all, those that a relay holds, those that are paused.
  out subscriptions bigint, out held bigint, out paused bigint,
  -- What a subscription says of its message, if it was set aside; and whether as a dead letter.
  out refusal text, out is_dead_letter boolean,
  out is_published boolean,
  -- Workers that run jobs of its topic; and those of them that had nothing left after it was published.
  out workers bigint, out idle_workers bigint,
  -- A job of its topic runs that was submitted a while after it was published. Queues keep their order but for
  -- priorities, and workers that of a key.
  out is_overtaken boolean
) returns setof record
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set jit = off as $$
#variable_conflict use_column
begin
  return query
    with running as materialized (
      select r.topic, max(r.created_at) as newest from @schema@.job r
       where r.state = 'running' and r.attempt = 1 and 'bullmq-priority' <> all (r.headers) group by r.topic)
    select j.id, j.topic, (extract(epoch from clock_timestamp() - coalesce(j.due_at, j.created_at)) * 1000)::bigint,
           j.message_position is not null or exists (select from @schema@.scheduled s where s.id = j.message_id),
           j.is_blocked and exists (
             select from @schema@.job e
              where e.key = j.key and (e.n < j.n or e.state || '' = 'running')
                and e.state not in ('completed', 'dead', 'cancelled')),
           p.all_of_them, p.held, p.paused, f.reason, coalesce(f.is_dead, false),
           p.published_at is not null, w.all_of_them, w.idle,
           coalesce(r.newest > p.published_at + interval '2 seconds', false)
             and 'bullmq-priority' <> all (j.headers)
             and (j.key is null or not exists (
               select from @schema@.job e
                where e.key = j.key and e.n < j.n and e.state not in ('completed', 'dead', 'cancelled')))
      from @schema@.job j
     cross join lateral (
       select count(*) as all_of_them,
              count(*) filter (where l.expires_at > clock_timestamp()) as held,
              count(*) filter (where s.paused_at is not null) as paused,
              min(@schema@.settled_at(p.subscription_id, j.message_xid, j.message_position, j.created_at))
                filter (where j.message_position is not null
                          and @schema@.is_published(p, j.message_xid, j.message_position, j.message_id, j.key)) as published_at
         from @schema@.place p
         join @schema@.subscription s on s.id = p.subscription_id
         join @schema@.lease l on l.subscription = s.id
        where j.topic = any (p.topics) or j.topic ^@ any (p.prefixes)) p
      left join lateral (
        select f.reason, f.due is null as is_dead from @schema@.failed_message f
         where f.position = j.message_position and f.id = j.message_id order by f.due nulls first limit 1) f on true
     cross join lateral (
       select count(*) as all_of_them, count(*) filter (where w.empty_at > p.published_at + interval '2 seconds') as idle
         from @schema@.worker w
        where w.lease_until > clock_timestamp() and j.topic = any (w.topics)) w
      left join running r on r.topic = j.topic
     where j.state in ('created', 'failed') and coalesce(j.due_at, j.created_at) <= clock_timestamp() - age
     order by j.created_at limit rows_max;
end
$$;

-- Adds a job that the clock submits, or replaces it where it is another one; `next_at` is when it is due first.
create function @schema@.push_cron(name text, definition jsonb, next_at timestamptz) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
  insert into @schema@.cron as c (name, definition, next_at) values (name, definition, next_at)
      on conflict on constraint cron_pkey do update
         set definition = excluded.definition, next_at = excluded.next_at
       where c.definition <> excluded.definition;
end
$$;

-- Submits what is due by the clock, unless somebody else has. `next_at` is the time after this one.
create function @schema@.tick_cron(name text, this_at timestamptz, next_at timestamptz) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  wanted jsonb;
begin
  update @schema@.cron c set next_at = next_at, last_at = this_at
   where c.name = name and c.next_at = this_at and c.next_at <= clock_timestamp()
  returning c.definition into wanted;
  if not found then
    return null;
  end if;
  return @schema@.submit_job_bytes(
    wanted ->> 'topic', convert_to(wanted ->> 'payload', 'UTF8'), wanted ->> 'key', null, 'application/json', null, null,
    format('cron %s %s', name, extract(epoch from this_at)::bigint), wanted ->> 'unique_key',
    (wanted ->> 'attempts')::int, null);
end
$$;

-- Forgets jobs that were over that long ago, at most so many, and answers how many it was.
create function @schema@.forget_jobs(age interval, rows_max int) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  forgotten bigint;
begin
  delete from @schema@.job j
   using (select o.id from @schema@.job o
           where o.finished_at <= clock_timestamp() - age
           order by o.finished_at limit rows_max for update skip locked) old
   where j.id = old.id;
  get diagnostics forgotten = row_count;
  return forgotten;
end
$$;

revoke execute on function
  @schema@.submit_job_bytes(text, bytea, text, json, text, text, uuid, text, text, int, timestamptz),
  @schema@.note_moved_job(uuid, bigint),
  @schema@.register_worker(text, text[], text[], text, interval),
  @schema@.renew_worker(uuid, interval, boolean),
  @schema@.retire_workers(uuid, int),
  @schema@.begin_jobs(uuid, uuid[], uuid[]),
  @schema@.finish_jobs(uuid, uuid[], int[], text[], text[], bigint[], bytea[], text[]),
  @schema@.handled_messages(text, uuid[]),
  @schema@.note_progress(uuid, uuid[], int[], jsonb[]),
  @schema@.cancel_job(uuid),
  @schema@.retry_job(uuid, int),
  @schema@.republish_jobs(uuid[]),
  @schema@.refuse_jobs(uuid[], text[]),
  @schema@.waiting_jobs(interval, int),
  @schema@.push_cron(text, jsonb, timestamptz),
  @schema@.tick_cron(text, timestamptz, timestamptz),
  @schema@.forget_jobs(interval, int) from public;
