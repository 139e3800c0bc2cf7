-- Indexes for people who look for messages (`browse`). A slot gets them when it is sealed: from then on nobody writes
-- to it, so that no writer ever pays for them, and to build one from the whole slot costs a fraction of what the
-- entries would cost one by one. They go when the slot is emptied. What is not indexed yet is read from end to end.
--
-- Nobody else's reads use them: the relay reads by position and by xid, and compares topics and keys under the
-- database's own collation. Equal values share an entry, so that they take few bytes a message. Keys and correlation
-- ids that are longer than an enqueue lets through are not indexed: they would not fit.

-- Indexes a slot that nobody writes to any more, unless the head has come round to `until` meanwhile. For the sweep.
-- The lock is that of the slot's table alone, and lets readers be.
create function @schema@.index_slot(slot int, until bigint) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $$
begin
  execute format('lock table @schema@.log_%s in share mode', slot);
  if (select s.last_value >= until from @schema@.log_position_seq s) then
    return false;
  end if;
  execute format('create index if not exists log_%1$s_by_id on @schema@.log_%1$s (id)', slot);
  execute format('create index if not exists log_%1$s_by_topic on @schema@.log_%1$s (topic collate "C")', slot);
  execute format('create index if not exists log_%1$s_by_key on @schema@.log_%1$s (key collate "C")'
                 ' where octet_length(key) <= 512', slot);
  execute format('create index if not exists log_%1$s_by_correlation_id on @schema@.log_%1$s (correlation_id collate "C")'
                 ' where octet_length(correlation_id) <= 256', slot);
  return true;
end
$$;

-- Before a slot that was emptied is written to again.
create function @schema@.unindex_slot(slot int) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $$
begin
  execute format('drop index if exists @schema@.log_%1$s_by_id, @schema@.log_%1$s_by_topic, '
                 '@schema@.log_%1$s_by_key, @schema@.log_%1$s_by_correlation_id', slot);
  return true;
end
$$;

revoke execute on function @schema@.index_slot(int, bigint), @schema@.unindex_slot(int) from public;

-- What was set aside, by position and by id.
create index failed_message_dead_position on @schema@.failed_message (position) where due is null;
create index failed_message_parked_position on @schema@.failed_message (position) where due is not null;
create index failed_message_id on @schema@.failed_message (id);
