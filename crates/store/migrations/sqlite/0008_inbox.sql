-- The inbox: which messages a consumer has handled, written in the transaction of their effect. A
-- message that is delivered again is found here. Times are microseconds.

create table @schema@_inbox (
  consumer text not null,
  message_id blob not null,
  handled_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  primary key (consumer, message_id),
  constraint consumer_is_named check (
    length(cast(consumer as blob)) between 1 and 255
    and instr(cast(consumer as blob), x'00') = 0
    and consumer not glob '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*'),
  constraint id_is_a_uuid check (length(message_id) = 16)
) strict, without rowid;
-- Serves the sweep.
create index @schema@_inbox_handled_at on @schema@_inbox (handled_at);
