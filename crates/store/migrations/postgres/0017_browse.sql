-- Indexes for people who look for messages (`browse`). Nobody else's reads use them: the relay reads by position and by
-- xid, and compares topics and keys under the database's own collation.
--
-- Without the position, equal values share an entry: such an index takes few bytes a message, and messages come in
-- the order of their positions nearly, so that a page is sorted in no time. Longer keys and correlation ids than an
-- enqueue lets through are not indexed: they would not fit, and a message must not be refused for that.

do $$
declare
  slot regclass;
begin
  for slot in
    select inhrelid::regclass from pg_catalog.pg_inherits where inhparent = '@schema@.log'::regclass
  loop
    execute format('create index on %s (id)', slot);
    execute format('create index on %s (topic collate "C")', slot);
    execute format('create index on %s (key collate "C") where octet_length(key) <= 512', slot);
    execute format('create index on %s (correlation_id collate "C") where octet_length(correlation_id) <= 256', slot);
  end loop;
end
$$;

-- What was set aside, by position and by id.
create index failed_message_dead on @schema@.failed_message (position) where due is null;
create index failed_message_parked on @schema@.failed_message (position) where due is not null;
create index failed_message_id on @schema@.failed_message (id);
