-- The inbox: which messages a consumer has handled, written in the transaction of their effect. A
-- message that is delivered again is found here.

create table @schema@.inbox (
  consumer text not null,
  message_id uuid not null,
  handled_at timestamptz not null default clock_timestamp(),
  primary key (consumer, message_id),
  constraint consumer_is_named check (octet_length(consumer) between 1 and 255
                                      and consumer !~ E'[\\x01-\\x1f\\x7f-\\x9f]')
);
-- Serves the sweep.
create index inbox_handled_at on @schema@.inbox (handled_at);

create function @schema@.check_consumer(consumer text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if consumer is null or octet_length(consumer) not between 1 and 255
     or consumer ~ E'[\\x01-\\x1f\\x7f-\\x9f]' then
    perform @schema@.refuse_field('consumer', '1 to 255 bytes without control characters', coalesce(consumer, 'null'));
  end if;
end
$$;

-- Answers true the first time that `consumer` handles the message, and false for a repeat. While
-- another transaction is handling it, this waits for the outcome: false if that one commits, true if
-- it rolls back. Above read committed, a repeat that is not in the snapshot is a serialisation
-- failure: run the transaction again, and it is a repeat.
create function @schema@.handle_once(consumer text, message_id uuid) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
  perform @schema@.check_consumer(consumer);
  if message_id is null then
    perform @schema@.refuse_field('message_id', 'a UUID', 'null');
  end if;
  insert into @schema@.inbox (consumer, message_id) values (consumer, message_id)
  on conflict do nothing;
  return found;
end
$$;

-- The same for many messages at once: answers those that are new, each once, in the order in which
-- they were given. Inserted in the order of the ids, so that two calls with the same messages wait
-- for each other, never both for both; that holds for one call in a transaction.
create function @schema@.handle_many(consumer text, message_ids uuid[]) returns setof uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
  perform @schema@.check_consumer(consumer);
  if message_ids is null or array_position(message_ids, null) is not null then
    perform @schema@.refuse_field('message_ids', 'an array of UUIDs', 'null');
  elsif cardinality(message_ids) > 10000 then
    perform @schema@.refuse_field('message_ids', 'at most 10000 in one call', cardinality(message_ids)::text);
  end if;
  return query
    with fresh as (
      insert into @schema@.inbox as i (consumer, message_id)
      -- A sub-select with an order is not merged into the query around it.
      select consumer, g.id from (select distinct u.id from unnest(message_ids) u (id) order by u.id) g
      on conflict do nothing
      returning i.message_id
    )
    select g.id
      from (select u.id, min(u.nth) as nth
              from unnest(message_ids) with ordinality u (id, nth) group by u.id) g
      join fresh on fresh.message_id = g.id
     order by g.nth;
end
$$;
