-- Which rows of other outboxes have been copied into the log.
--
-- One row for each, because nothing shorter tells them apart: a place in the table's order would
-- miss rows that commit late with a lower value.

create table @schema@.import_source (
  id int generated always as identity primary key,
  -- Schema and table as SQL writes them.
  name text not null unique,
  -- Tells a table that was created anew under the name from the one before.
  relation oid not null,
  created_at timestamptz not null default clock_timestamp()
);

-- Written in the transaction that writes the message. No foreign key: it would be checked for each
-- row; rows go together with their source.
create table @schema@.imported_row (
  source int not null,
  row_id text not null,
  primary key (source, row_id)
);
