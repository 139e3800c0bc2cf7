// Enqueues with node-postgres, inside the application's own transactions.

import pg from 'pg';

const everyByte = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
const headers = { note: 'say "hi" \\ ünï {},\n', tenant: 'acme' };

async function createOrder(client) {
  await client.query('insert into orders (id) values (17)');
  const ids = [];
  const enqueue = async (call, values) => {
    const { rows } = await client.query({ text: `select ${call}`, values, rowMode: 'array' });
    ids.push(...rows.map(([id]) => id));
  };
  await enqueue('posthaste.enqueue($1, $2, key => $3, headers => $4)', [
    'orders.created',
    { order: 17, note: '✓ ü' },
    'order-17',
    headers,
  ]);
  await enqueue('posthaste.enqueue($1)', ['orders.pinged']);
  await enqueue('posthaste.enqueue_bytes($1, $2, content_type => $3, correlation_id => $4)', [
    'images.stored',
    everyByte,
    'image/png',
    'request-1',
  ]);
  const messages = [
    { topic: 'audit', payload: { n: 1 } },
    { topic: 'audit', payload_base64: everyByte.toString('base64'), key: 'order-17', headers },
  ];
  // node-postgres makes a PostgreSQL array of a JavaScript one, so this one is made JSON here.
  await enqueue('posthaste.enqueue_many($1)', [JSON.stringify(messages)]);
  return ids;
}

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
try {
  await client.query('begin');
  const committed = await createOrder(client);
  await client.query('commit');

  await client.query('begin');
  await createOrder(client);
  await client.query('rollback');
  console.log(committed.join('\n'));
} finally {
  await client.end();
}
