-- When a process saw last that the condition holds: what another one does not see is not over because of that.
alter table @schema@_incident add column seen_at integer;
