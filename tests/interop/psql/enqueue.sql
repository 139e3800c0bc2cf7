-- Enqueues with psql, inside its own transactions. `psql --file enqueue.sql --variable …`
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned
\set headers '{"note":"say \\"hi\\" \\\\ ünï {},\\n","tenant":"acme"}'
\set messages '[{"topic":"audit","payload":{"n":1}},{"topic":"audit","payload_base64":"':every_byte'","key":"order-17","headers":':headers'}]'

begin;
insert into orders (id) values (17);
select posthaste.enqueue('orders.created', :'payload', key => :'key', headers => :'headers');
select posthaste.enqueue('orders.pinged');
select posthaste.enqueue_bytes('images.stored', decode(:'every_byte', 'base64'), content_type => 'image/png',
                               correlation_id => 'request-1');
select posthaste.enqueue_many(:'messages');
commit;

\o /dev/null
begin;
insert into orders (id) values (17);
select posthaste.enqueue('orders.created', :'payload', key => :'key', headers => :'headers');
select posthaste.enqueue('orders.pinged');
select posthaste.enqueue_bytes('images.stored', decode(:'every_byte', 'base64'), content_type => 'image/png',
                               correlation_id => 'request-1');
select posthaste.enqueue_many(:'messages');
rollback;
