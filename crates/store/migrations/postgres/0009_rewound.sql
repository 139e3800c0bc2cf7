-- Which database this log was written in, and which subscriptions wait for somebody to look: a
-- restored log hands positions and transaction ids out again.

-- A copy of this row in another database (a dump, a replicated table) has another `xmin` than the
-- transaction that it names, and there the log or the server is another one. What moves whole files
-- keeps all three: pg_upgrade, a base backup, a standby.
alter table @schema@.meta
  add column written_by xid8,
  add column log_oid oid,
  add column system_id bigint;
update @schema@.meta
   set written_by = pg_current_xact_id(), log_oid = '@schema@.log'::regclass,
       system_id = (select system_identifier from pg_control_system());

alter table @schema@.lease
  -- By which id sinks know the log that this subscription reads, once it was rebased; before that
  -- by the log's own.
  add column log uuid,
  -- The next relay takes the sink's places over, of whatever log they are.
  add column adopts boolean not null default false,
  -- Why it must not go on before it is rebased.
  add column rewound text;
