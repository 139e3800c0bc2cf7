-- Contracts: what payloads of a topic look like, version by version, as `posthaste contracts push`
-- wrote them.

create table @schema@_contract (
  -- Never handed out again, so that count and highest number tell one state of the table from all
  -- others.
  n integer primary key autoincrement,
  topic text not null,
  version integer not null,
  pushed_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  -- Byte for byte as it was pushed. The last column: what stands before it is read without its
  -- overflow pages.
  schema text not null,
  unique (topic, version),
  constraint topic_is_valid check (
    topic glob '[A-Za-z0-9]*' and topic not glob '*[^A-Za-z0-9._:/-]*' and length(topic) <= 255),
  constraint version_is_valid check (version between 1 and 4294967295),
  constraint schema_is_bounded check (length(cast(schema as blob)) between 1 and 1048576)
) strict;

create trigger @schema@_contract_never_changes before update on @schema@_contract
begin
  select raise(abort, 'a contract that was pushed never changes: number it anew');
end;
