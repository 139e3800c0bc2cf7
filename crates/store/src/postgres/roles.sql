-- Roles with no more than their task needs. Safe to run again; never drops or alters a role that
-- is there. @writer@, @relay@, @worker@ and @viewer@ are group roles: grant them to login roles.
do $$
declare
  wanted text;
begin
  foreach wanted in array array['@writer@', '@relay@', '@worker@', '@viewer@'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
      execute format('create role %I nologin', wanted);
    end if;
  end loop;
end
$$;

grant usage on schema @schema@ to @writer@, @relay@, @worker@, @viewer@;
-- Contracts are read by all who check payloads, and pushed by the owner.
grant select on @schema@.meta, @schema@.contract to @writer@, @relay@, @worker@, @viewer@;

-- Writers: the payload columns alone. Who could set xid could hide messages; who could read the
-- log could read the payloads of others.
grant insert (id, topic, key, payload, content_type, headers, correlation_id) on @schema@.log to @writer@;
grant usage on sequence @schema@.log_position_seq to @writer@;
-- Tokens and scheduled messages; to cancel one takes its id.
grant insert (token, message_id), select (token, message_id) on @schema@.token to @writer@;
grant insert (id, topic, key, payload, content_type, headers, correlation_id, deliver_at),
  select (id), delete on @schema@.scheduled to @writer@;

-- Workers: they consume. `select` is for the answer of handle_many; the time is the database's.
grant insert (consumer, message_id), select (message_id) on @schema@.inbox to @worker@;

-- The relay: reads the log, and writes what it keeps beside it.
grant select on all tables in schema @schema@ to @relay@;
grant select on sequence @schema@.log_position_seq to @relay@;
grant usage, select on sequence @schema@.progress_n_seq to @relay@;
grant insert on @schema@.tick, @schema@.progress to @relay@;
-- Its row is locked while a tick is committed; `singleton` can be nothing but true.
grant update (singleton) on @schema@.meta to @relay@;
grant insert, update on @schema@.subscription, @schema@.lease, @schema@.emptied to @relay@;
grant insert, update, delete on @schema@.parked_key, @schema@.failed_message, @schema@.relay,
  @schema@.incident to @relay@;
-- Scheduled messages move into the log; tokens and handled messages are forgotten.
grant insert (id, topic, key, payload, content_type, headers, correlation_id)
  on @schema@.log to @relay@;
grant usage on sequence @schema@.log_position_seq to @relay@;
grant update, delete on @schema@.scheduled to @relay@;
grant update, delete on @schema@.token, @schema@.inbox to @relay@;
do $$
declare
  slot regclass;
begin
  for slot in
    select inhrelid::regclass from pg_catalog.pg_inherits
     where inhparent in ('@schema@.log'::regclass, '@schema@.tick'::regclass, '@schema@.progress'::regclass)
  loop
    execute format('grant truncate on %s to @relay@', slot);
  end loop;
end
$$;

-- The indexes of slots are the owner's: the sweep asks for them.
grant execute on function @schema@.index_slot(int, bigint), @schema@.unindex_slot(int) to @relay@;

-- Viewers: everything but payloads and headers. What is pending and what pins the log is told by
-- xid, slot by slot.
do $$
declare
  slot regclass;
begin
  for slot in
    select inhrelid::regclass from pg_catalog.pg_inherits where inhparent = '@schema@.log'::regclass
  loop
    execute format('grant select (position, xid) on %s to @viewer@', slot);
  end loop;
end
$$;
grant select on sequence @schema@.log_position_seq to @viewer@;
grant select on @schema@.subscription, @schema@.lease, @schema@.tick, @schema@.progress,
  @schema@.parked_key, @schema@.audit, @schema@.place, @schema@.relay, @schema@.emptied, @schema@.inbox,
  @schema@.incident, @schema@.operation to @viewer@;
grant select (position, xid, id, topic, key, content_type, correlation_id, enqueued_at)
  on @schema@.log to @viewer@;
grant select (n, id, topic, key, content_type, correlation_id, enqueued_at, deliver_at)
  on @schema@.scheduled to @viewer@;
grant select (subscription, position, id, tick, topic, key, content_type, correlation_id,
  enqueued_at, attempts, reason, failed_at, due, holds_key) on @schema@.failed_message to @viewer@;
grant select (position, id, topic, key, content_type, correlation_id, enqueued_at, published_at)
  on @schema@.outbox to @viewer@;
grant select (position, id, topic, key, content_type, correlation_id, enqueued_at, subscription,
  state, published_at) on @schema@.messages to @viewer@;

-- Commands and machines: through their functions alone, which run as the owner.
grant execute on function
  @schema@.begin_command(text, text, bytea, uuid, interval),
  @schema@.complete_command(text, text, uuid, bytea),
  @schema@.renew_command(text, text, uuid, interval),
  @schema@.abandon_command(text, text, uuid),
  @schema@.start_machine(text, text, text, text, text, text, text, json, jsonb, text),
  @schema@.transition(text, text, text, text, text, text, text, text, json, jsonb, text)
  to @writer@, @worker@;
grant execute on function @schema@.forget_commands(interval, int) to @relay@;
-- Jobs, likewise: writers submit them, workers run them (and submit others), and the relay notes that
-- their messages have moved into the log.
grant execute on function
  @schema@.submit_job_bytes(text, bytea, text, json, text, text, uuid, text, text, int, timestamptz),
  @schema@.cancel_job(uuid)
  to @writer@, @worker@;
grant execute on function
  @schema@.handled_messages(text, uuid[]),
  @schema@.register_worker(text, text[], text[], text, interval),
  @schema@.renew_worker(uuid, interval, boolean),
  @schema@.retire_workers(uuid, int),
  @schema@.begin_jobs(uuid, uuid[], uuid[]),
  @schema@.finish_jobs(uuid, uuid[], int[], text[], text[], bigint[], bytea[], text[]),
  @schema@.note_progress(uuid, uuid[], int[], jsonb[]),
  @schema@.republish_jobs(uuid[]),
  @schema@.refuse_jobs(uuid[], text[]),
  @schema@.waiting_jobs(interval, int),
  @schema@.push_cron(text, jsonb, timestamptz),
  @schema@.tick_cron(text, timestamptz, timestamptz)
  to @worker@;
grant select on @schema@.cron to @worker@;
grant execute on function @schema@.note_moved_job(uuid, bigint), @schema@.forget_jobs(interval, int) to @relay@;
-- Viewers see who did what, and neither what was asked nor what was answered.
grant select on @schema@.machine, @schema@.entity, @schema@.worker, @schema@.jobs, @schema@.execution to @viewer@;
grant select (machine, entity_id, version, id, from_state, to_state, initiated_by, user_id,
  organization_id, correlation_id, at) on @schema@.state_event to @viewer@;
grant select (scope, key, owner, lease_until, completed_at, machine, entity_id, created_at)
  on @schema@.command to @viewer@;
do $$
declare
  seen text;
begin
  foreach seen in array array['entity', 'state_event', 'command', 'execution'] loop
    execute format('drop policy if exists viewers_see on @schema@.%I', seen);
    execute format('create policy viewers_see on @schema@.%I for select to @viewer@ using (true)', seen);
  end loop;
end
$$;
