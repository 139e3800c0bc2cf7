-- Which subscriptions wait for somebody to look: a restored file hands positions out again.

-- By which id sinks know the log that this subscription reads, once it was rebased; before that by
-- the log's own.
alter table @schema@_subscription add column log blob check (length(log) = 16);
-- The next relay takes the sink's places over, of whatever log they are.
alter table @schema@_subscription add column adopts integer not null default 0;
-- Why it must not go on before it is rebased.
alter table @schema@_subscription add column rewound text;
