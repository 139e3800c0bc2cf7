-- Contracts: what payloads of a topic look like, version by version, as `posthaste contracts push`
-- wrote them.

create table @schema@.contract (
  topic text not null,
  -- A number of the caller's, from 1; what fits a u32.
  version bigint not null,
  -- Never handed out again, so that count and highest number tell one state of the table from all
  -- others.
  n bigint generated always as identity unique,
  pushed_at timestamptz not null default clock_timestamp(),
  -- Byte for byte as it was pushed.
  schema text not null,
  primary key (topic, version),
  constraint topic_is_valid check (topic ~ '^[A-Za-z0-9][A-Za-z0-9._:/-]*$' and octet_length(topic) <= 255),
  constraint version_is_valid check (version between 1 and 4294967295),
  constraint schema_is_bounded check (octet_length(schema) between 1 and 1048576)
);

create function @schema@.refuse_contract_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using
    message = format('contract "%s" version %s was pushed, and a contract never changes: number it anew', old.topic, old.version),
    errcode = '23000';
end
$$;
create trigger contract_never_changes before update on @schema@.contract
  for each row execute function @schema@.refuse_contract_change();
