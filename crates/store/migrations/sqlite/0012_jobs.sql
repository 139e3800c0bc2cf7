-- Jobs: messages with a life. Times are microseconds. See 0016_jobs.sql of PostgreSQL for what they mean; what
-- that does in functions is done here by triggers on views that hold no row, and by the library.

create table @schema@_worker (
  id blob primary key check (length(id) = 16),
  name text not null,
  -- JSON arrays of strings.
  topics text not null check (json_valid(topics)),
  sources text not null check (json_valid(sources)),
  version text not null,
  started_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  seen_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  lease_until integer not null,
  empty_at integer,
  constraint name_is_bounded check (length(cast(name as blob)) between 1 and 255)
) strict;

create table @schema@_job (
  n integer primary key autoincrement,
  id blob not null unique check (length(id) = 16),
  state text not null check (
    state in ('scheduled', 'created', 'running', 'completed', 'failed', 'dead', 'cancelled')),
  topic text not null,
  key text,
  content_type text not null,
  headers text not null,
  correlation_id text,
  message_id blob not null check (length(message_id) = 16),
  message_position integer,
  attempt integer not null default 0,
  attempts_max integer check (attempts_max between 1 and 1000),
  unique_key text check (length(cast(unique_key as blob)) between 1 and 256),
  token text check (length(cast(token as blob)) between 1 and 256),
  worker blob,
  is_blocked integer not null default 0,
  is_cancel_wanted integer not null default 0,
  reason text,
  progress text check (progress is null or json_valid(progress)),
  created_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  due_at integer,
  started_at integer,
  finished_at integer,
  payload blob not null,
  constraint worker_has_what_runs check ((state = 'running') = (worker is not null)),
  constraint what_is_over_ended check ((state in ('completed', 'dead', 'cancelled')) = (finished_at is not null))
) strict;
create unique index @schema@_job_unique_key on @schema@_job (unique_key)
  where unique_key is not null and finished_at is null;
create unique index @schema@_job_token on @schema@_job (token) where token is not null;
-- Serves the order of a key.
create index @schema@_job_key on @schema@_job (key, n) where key is not null and finished_at is null;
-- Serve the watch, and what moves into the log.
create index @schema@_job_waiting on @schema@_job (created_at)
  where state in ('created', 'failed', 'scheduled');
create index @schema@_job_message on @schema@_job (message_id);
create index @schema@_job_running on @schema@_job (worker) where worker is not null;
-- Serves the sweep.
create index @schema@_job_finished on @schema@_job (finished_at) where finished_at is not null;

create table @schema@_execution (
  n integer primary key,
  job_id blob not null references @schema@_job (id) on delete cascade,
  attempt integer not null,
  worker text not null,
  started_at integer not null,
  ended_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  outcome text not null check (outcome in ('completed', 'retry', 'dead', 'snooze', 'cancelled', 'lost')),
  reason text
) strict;
create index @schema@_execution_job on @schema@_execution (job_id, n);

create table @schema@_receipt (
  n integer primary key,
  job_id blob not null references @schema@_job (id) on delete cascade,
  attempt integer not null,
  content_type text not null,
  at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  body blob not null check (length(body) <= 67108864)
) strict;
create index @schema@_receipt_job on @schema@_receipt (job_id, n);
-- Where foreign keys are off, too.
create trigger @schema@_job_goes_with_all_of_it after delete on @schema@_job
begin
  delete from @schema@_execution where job_id = old.id;
  delete from @schema@_receipt where job_id = old.id;
end;

-- Jobs that are submitted by the clock.
create table @schema@_cron (
  name text primary key check (length(cast(name as blob)) between 1 and 255),
  definition text not null check (json_valid(definition)),
  next_at integer not null,
  last_at integer
) strict, without rowid;

-- Takes a job and writes it with its message, unless another one has its token, or its unique key while it is not
-- over.
create view @schema@_submit_job as
select null as id, null as topic, null as key, null as payload, null as content_type, null as headers,
       null as correlation_id, null as token, null as unique_key, null as attempts_max, null as deliver_at
where false;

create trigger @schema@_submit_job_once instead of insert on @schema@_submit_job
when not exists (select 1 from @schema@_job j where j.token = new.token)
 and not exists (select 1 from @schema@_job j where j.unique_key = new.unique_key and j.finished_at is null)
 and not exists (select 1 from @schema@_job j where j.id = new.id)
begin
  insert into @schema@_log (id, topic, key, payload, content_type, headers, correlation_id)
  select new.id, new.topic, new.key, coalesce(new.payload, x''), new.content_type,
         json_set(coalesce(new.headers, '{}'), '$."posthaste-job"',
           lower(substr(hex(new.id), 1, 8) || '-' || substr(hex(new.id), 9, 4) || '-'
             || substr(hex(new.id), 13, 4) || '-' || substr(hex(new.id), 17, 4) || '-'
             || substr(hex(new.id), 21))), new.correlation_id
  where new.deliver_at is null;
  insert into @schema@_scheduled (id, topic, key, payload, content_type, headers, correlation_id, deliver_at)
  select new.id, new.topic, new.key, coalesce(new.payload, x''), new.content_type,
         json_set(coalesce(new.headers, '{}'), '$."posthaste-job"',
           lower(substr(hex(new.id), 1, 8) || '-' || substr(hex(new.id), 9, 4) || '-'
             || substr(hex(new.id), 13, 4) || '-' || substr(hex(new.id), 17, 4) || '-'
             || substr(hex(new.id), 21))), new.correlation_id, new.deliver_at
  where new.deliver_at is not null;
  insert into @schema@_job (id, state, topic, key, payload, content_type, headers, correlation_id, message_id,
                            message_position, unique_key, token, attempts_max, due_at)
  values (new.id, case when new.deliver_at is null then 'created' else 'scheduled' end, new.topic, new.key,
          coalesce(new.payload, x''), new.content_type, coalesce(new.headers, '{}'), new.correlation_id, new.id,
          -- Of the insert just now: nobody else writes.
          case when new.deliver_at is null then (select max(position) from @schema@_log) end,
          new.unique_key, new.token, new.attempts_max, new.deliver_at);
end;

-- Ends an attempt, if the worker still has it. `next_id` is the id of the message that carries the job's next
-- attempt, or the next job of its key. `wait` is in microseconds.
create view @schema@_finish_job as
select null as worker, null as id, null as attempt, null as outcome, null as reason, null as wait, null as receipt,
       null as receipt_type, null as next_id
where false;

create trigger @schema@_finish_job_of_its_worker instead of insert on @schema@_finish_job
when exists (select 1 from @schema@_job j
              where j.id = new.id and j.worker = new.worker and j.attempt = new.attempt and j.state = 'running')
begin
  insert into @schema@_execution (job_id, attempt, worker, started_at, outcome, reason)
  select j.id, j.attempt, coalesce((select w.name from @schema@_worker w where w.id = new.worker), 'gone'),
         j.started_at, new.outcome, substr(new.reason, 1, 4096)
    from @schema@_job j where j.id = new.id;
  insert into @schema@_receipt (job_id, attempt, content_type, body)
  select new.id, new.attempt, coalesce(new.receipt_type, 'application/json'), new.receipt
   where new.receipt is not null;
  update @schema@_job
     set state = case new.outcome when 'completed' then 'completed' when 'retry' then 'failed' when 'lost' then 'failed'
                                  when 'snooze' then 'scheduled' when 'cancelled' then 'cancelled' else 'dead' end,
         worker = null,
         attempt = attempt - (new.outcome = 'snooze'),
         reason = case new.outcome when 'completed' then null else substr(new.reason, 1, 4096) end,
         is_cancel_wanted = is_cancel_wanted and new.outcome in ('retry', 'lost', 'snooze'),
         due_at = case when new.outcome in ('retry', 'lost', 'snooze')
                       then cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000
                            + coalesce(new.wait, 0) end,
         finished_at = case when new.outcome in ('completed', 'dead', 'cancelled')
                            then cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000 end,
         message_id = case when new.outcome in ('retry', 'lost', 'snooze') then new.next_id else message_id end,
         message_position = case when new.outcome in ('retry', 'lost', 'snooze') then null else message_position end
   where id = new.id;
  -- The next job of its key, where it waits for that.
  update @schema@_job set message_id = new.next_id, message_position = null, is_blocked = 0
   where new.outcome in ('completed', 'dead', 'cancelled') and is_blocked
     and n = (select f.n from @schema@_job f
               where f.key = (select j.key from @schema@_job j where j.id = new.id) and f.finished_at is null
               order by f.n limit 1);
  insert into @schema@_log (id, topic, key, payload, content_type, headers, correlation_id)
  select j.message_id, j.topic, j.key, j.payload, j.content_type,
         json_set(j.headers, '$."posthaste-job"',
           lower(substr(hex(j.id), 1, 8) || '-' || substr(hex(j.id), 9, 4) || '-' || substr(hex(j.id), 13, 4)
             || '-' || substr(hex(j.id), 17, 4) || '-' || substr(hex(j.id), 21))),
         j.correlation_id
    from @schema@_job j
   where j.message_id = new.next_id
     and coalesce(j.due_at, 0) <= cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000;
  -- Of the insert just now, if there was one: nobody else writes.
  update @schema@_job
     set message_position = (select l.position from @schema@_log l
                              where l.position = (select max(position) from @schema@_log) and l.id = new.next_id)
   where message_id = new.next_id;
  update @schema@_job set state = 'created'
   where message_id = new.next_id and state = 'scheduled' and message_position is not null;
  insert into @schema@_scheduled (id, topic, key, payload, content_type, headers, correlation_id, deliver_at)
  select j.message_id, j.topic, j.key, j.payload, j.content_type,
         json_set(j.headers, '$."posthaste-job"',
           lower(substr(hex(j.id), 1, 8) || '-' || substr(hex(j.id), 9, 4) || '-' || substr(hex(j.id), 13, 4)
             || '-' || substr(hex(j.id), 17, 4) || '-' || substr(hex(j.id), 21))),
         j.correlation_id, j.due_at
    from @schema@_job j where j.message_id = new.next_id and j.message_position is null;
end;

-- Each job with its state as people see it.
create view @schema@_jobs as
select j.n as n,
       lower(substr(hex(j.id), 1, 8) || '-' || substr(hex(j.id), 9, 4) || '-' || substr(hex(j.id), 13, 4)
         || '-' || substr(hex(j.id), 17, 4) || '-' || substr(hex(j.id), 21)) as id,
       -- What the log has forgotten was published before.
       case when j.state in ('created', 'failed') and j.message_position is not null
             and (exists (select 1 from @schema@_delivery d
                           where d.position = j.message_position and d.state = 'published')
                  or not exists (select 1 from @schema@_log l where l.position = j.message_position))
            then 'queued' else j.state end as state,
       j.topic as topic, j.key as key, j.content_type as content_type, j.correlation_id as correlation_id,
       j.message_id as message_id, j.attempt as attempt, j.attempts_max as attempts_max,
       j.unique_key as unique_key, j.token as token,
       (select w.name from @schema@_worker w where w.id = j.worker) as worker, j.is_blocked as is_blocked,
       j.is_cancel_wanted as is_cancel_wanted, j.reason as reason, j.progress as progress, j.created_at as created_at,
       j.due_at as due_at, j.started_at as started_at, j.finished_at as finished_at
from @schema@_job j;
