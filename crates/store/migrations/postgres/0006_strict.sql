-- Strict topics: their messages with a key are refused unless the transaction has locked the key
-- before. The log then holds the messages of a key in commit order, whatever else their writers
-- lock or do not lock.

create table @schema@.strict_topic (
  pattern text primary key
);

-- The number behind a key's lock. Keys that share one only wait for each other.
create function @schema@.key_lock(key text) returns int
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select hashtext('@schema@ ' || key)
$$;

-- Records locks of this transaction, and the highest position at the time. A position above it was
-- taken with the locks held; a lower one may belong to the very statement that took them, and says
-- nothing. The setting ends with the transaction or the savepoint, as the locks do.
create function @schema@.note_locks(locks int[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  noted text := nullif(current_setting('@schema@.locked_keys', true), '');
  held int[] := array(select distinct unnest(locks || coalesce(split_part(noted, ' ', 2), '{}')::int[]) order by 1);
begin
  -- Each lock takes memory that all sessions of the server share.
  if cardinality(held) > 1000 then
    perform @schema@.refuse_field('keys', 'at most 1000 in one transaction', cardinality(held)::text);
  end if;
  perform set_config('@schema@.locked_keys',
    format('%s %s', coalesce(pg_sequence_last_value('@schema@.log_position_seq'), 0), held), true);
end
$$;

-- Locks ordering keys until the transaction ends; call it in a statement of its own, before the
-- enqueues. The order of the numbers keeps two calls from waiting for each other.
create function @schema@.lock_keys(keys text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  locks int[] := array(select distinct @schema@.key_lock(k) from unnest(keys) k where k is not null order by 1);
  lock int;
begin
  if cardinality(locks) > 1000 then
    perform @schema@.refuse_field('keys', 'at most 1000 in one transaction', cardinality(locks)::text);
  end if;
  foreach lock in array locks loop
    -- "PHSK", a space of its own.
    perform pg_advisory_xact_lock(1346917195, lock);
  end loop;
  perform @schema@.note_locks(locks);
end
$$;

create function @schema@.is_strict(topic text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from @schema@.strict_topic s
                  where topic = s.pattern or (right(s.pattern, 1) = '*' and topic ^@ left(s.pattern, -1)))
$$;

-- Locks the keys of due messages on strict topics, as far as nobody else holds them, and answers
-- which: a writer that holds its key for long delays the messages of this key only.
create function @schema@.lock_due_keys(messages_max int) returns int[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  locks int[] := '{}';
  busy int[] := '{}';
  lock int;
  movable int := 0;
begin
  -- In the order of the move, until as many messages can be moved as may be.
  for lock in
    select case when s.key is not null and @schema@.is_strict(s.topic) then @schema@.key_lock(s.key) end
      from @schema@.scheduled s where s.deliver_at <= statement_timestamp()
     order by s.deliver_at, s.n
  loop
    exit when movable >= messages_max or cardinality(locks) = 1000;
    continue when lock = any (busy);
    if lock is null or lock = any (locks) then
      movable := movable + 1;
    elsif pg_try_advisory_xact_lock(1346917195, lock) then
      movable := movable + 1;
      locks := locks || lock;
    else
      busy := busy || lock;
    end if;
  end loop;
  perform @schema@.note_locks(locks);
  return locks;
end
$$;

-- The trigger of strict topics.
create function @schema@.require_key_lock() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  noted text := nullif(current_setting('@schema@.locked_keys', true), '');
begin
  if new.position > split_part(noted, ' ', 1)::bigint
     and @schema@.key_lock(new.key) = any (split_part(noted, ' ', 2)::int[]) then
    return new;
  end if;
  raise exception using
    message = format('message refused: the topic "%s" is strict: call lock_keys for its key in an earlier statement of the transaction', new.topic),
    errcode = 'PH001';
end
$$;

-- Makes the topics of a pattern (a topic, a prefix followed by *, or *) strict, or lets them be.
-- For the owner. A trigger holds every writer to it and costs other topics one comparison; without
-- strict topics there is none. Waits for transactions that have written to the log, and holds up
-- those that begin to: set a lock_timeout on a busy database.
create function @schema@.set_strict(pattern text, is_strict boolean default true) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  trigger_name text := 'strict_' || md5(pattern);
  matches text;
begin
  if pattern is null or pattern !~ '^([A-Za-z0-9][A-Za-z0-9._:/-]*[*]?|[*])$' then
    perform @schema@.refuse_field('pattern', 'a topic, a prefix followed by one *, or *', coalesce(pattern, 'null'));
  end if;
  if is_strict then
    insert into @schema@.strict_topic (pattern) values (pattern) on conflict do nothing;
    if found then
      matches := case when right(pattern, 1) = '*' then format('new.topic ^@ %L', left(pattern, -1))
                      else format('new.topic = %L', pattern) end;
      execute format('create trigger %I before insert on @schema@.log for each row '
                     'when (new.key is not null and %s) execute function @schema@.require_key_lock()',
                     trigger_name, matches);
    end if;
  else
    delete from @schema@.strict_topic s where s.pattern = pattern;
    if found then
      execute format('drop trigger %I on @schema@.log', trigger_name);
    end if;
  end if;
end
$$;
