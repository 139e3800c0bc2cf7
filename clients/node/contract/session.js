// Does what the contract suite asks for (crates/posthaste/tests/clients): one JSON command a line, one
// JSON answer a line. The suite sees to it that `posthaste` and `pg` are found.

import { createInterface } from 'node:readline';

import pg from 'pg';
import {
  Inbox, InvalidConsumerError, InvalidMessageError, InvalidSchemaNameError, NoTransactionError, Outbox,
} from 'posthaste';

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
let outbox = new Outbox();
let inbox = new Inbox('mail');

const commands = {
  outbox({ schema, payload_bytes_max: payloadBytesMax }) {
    outbox = new Outbox({ schema, payloadBytesMax });
    return {};
  },
  async execute({ sql }) {
    await client.query(sql);
    return {};
  },
  begin: () => commands.execute({ sql: 'begin' }),
  commit: () => commands.execute({ sql: 'commit' }),
  rollback: () => commands.execute({ sql: 'rollback' }),
  async enqueue({ message }) {
    return { ids: [await outbox.enqueue(client, toMessage(message))] };
  },
  async enqueue_many({ messages }) {
    return { ids: await outbox.enqueueMany(client, messages.map(toMessage)) };
  },
  async cancel({ id }) {
    return { found: await outbox.cancel(client, id) };
  },
  async lock_keys({ keys }) {
    await outbox.lockKeys(client, keys);
    return {};
  },
  inbox({ consumer, schema }) {
    inbox = new Inbox(consumer, { schema });
    return {};
  },
  async handle({ id }) {
    return { found: await inbox.handle(client, id) };
  },
  async handle_many({ ids }) {
    return { ids: await inbox.handleMany(client, ids) };
  },
  // What only this driver can be asked.
  async enqueue_behind_begin({ message }) {
    const begun = client.query('begin');
    const id = await outbox.enqueue(client, toMessage(message));
    await begun;
    return { ids: [id] };
  },
  async enqueue_through_pool({ message }) {
    const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
    try {
      return { ids: [await outbox.enqueue(pool, toMessage(message))] };
    } finally {
      await pool.end();
    }
  },
};

function toMessage({
  bytes, content_type: contentType, correlation_id: correlationId, deliver_at_micros: micros, ...message
}) {
  const payload = bytes === undefined ? {} : { bytes: Buffer.from(bytes, 'base64') };
  const deliverAt = micros === undefined ? undefined : new Date(micros / 1_000);
  return { ...message, ...payload, contentType, correlationId, deliverAt };
}

function toAnswer(error) {
  const { message: text, field, limit, value, index, transactionAborted: aborted } = error;
  if (error instanceof InvalidMessageError) {
    return { kind: 'invalid_message', text, field, limit, value, index, aborted };
  }
  if (error instanceof InvalidConsumerError) return { kind: 'invalid_consumer', text };
  if (error instanceof InvalidSchemaNameError) return { kind: 'invalid_schema_name', text };
  if (error instanceof NoTransactionError) return { kind: 'no_transaction', text };
  if (error instanceof pg.DatabaseError) return { kind: 'database', text, sqlstate: error.code };
  throw error;
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    answer = await commands[command.do](command);
  } catch (error) {
    answer = { error: toAnswer(error) };
  }
  console.log(JSON.stringify(answer));
}
await client.end();
