// Calls Posthaste's SQL functions in the transaction that the caller's client stands in.
//
// The one place that decides what happens after a failure: whatever it was, the transaction is
// aborted, so that it cannot commit the data without the message.

import { chunks } from './chunks.js';
import { InvalidMessageError, InvalidSchemaNameError, NoTransactionError } from './errors.js';
import { prepare } from './message.js';

const PAYLOAD_BYTES_MAX = 256 * 1024;
const NAMES = [
  'topic', 'payload', 'key', 'headers', 'content_type', 'correlation_id', 'message_id', 'token', 'deliver_at',
];

export class Outbox {
  #statements;
  #payloadBytesMax;

  constructor({ schema = 'posthaste', payloadBytesMax = PAYLOAD_BYTES_MAX } = {}) {
    if (typeof schema !== 'string' || !/^(?!pg_)[a-z][a-z0-9_]{0,39}$/.test(schema)) {
      throw new InvalidSchemaNameError(String(schema));
    }
    const named = NAMES.map((name, index) => `${name} => $${index + 1}`).join(', ');
    this.#statements = {
      enqueue: `select "${schema}".enqueue_bytes(${named})`,
      enqueueMany: `select "${schema}".enqueue_many($1)`,
      cancel: `select "${schema}".cancel($1)`,
      lockKeys: `select "${schema}".lock_keys($1)`,
      refuse: `select "${schema}".refuse($1)`,
    };
    this.#payloadBytesMax = payloadBytesMax;
  }

  async enqueue(client, message) {
    await requireTransaction(client);
    try {
      const entry = prepare(message, this.#payloadBytesMax);
      const headers = entry.headers && JSON.stringify(entry.headers);
      const values = NAMES.map((name) => (name === 'headers' ? headers : entry[name]));
      const [id] = await answers(client, this.#statements.enqueue, values);
      return id;
    } catch (error) {
      await this.#abort(client, error);
      throw error;
    }
  }

  async enqueueMany(client, messages) {
    await requireTransaction(client);
    try {
      // All are checked before the first is written.
      const entries = Array.from(messages, (message, index) =>
        prepare(message, this.#payloadBytesMax, index));
      const ids = [];
      for (const chunk of chunks(entries)) {
        const values = [JSON.stringify(chunk.map(toJson))];
        ids.push(...(await answers(client, this.#statements.enqueueMany, values)));
      }
      return ids;
    } catch (error) {
      await this.#abort(client, error);
      throw error;
    }
  }

  async cancel(client, id) {
    const [wasWaiting] = await this.#call(client, this.#statements.cancel, id);
    return wasWaiting;
  }

  async lockKeys(client, keys) {
    await this.#call(client, this.#statements.lockKeys, Array.from(keys));
  }

  async #call(client, statement, value) {
    await requireTransaction(client);
    try {
      return await answers(client, statement, [value]);
    } catch (error) {
      await this.#abort(client, error);
      throw error;
    }
  }

  /** Makes the transaction fail, unless the server has: it aborts at each error of its own. */
  async #abort(client, error) {
    if (isServers(error)) return;
    const isInvalid = error instanceof InvalidMessageError;
    let why;
    try {
      await client.query(this.#statements.refuse, [isInvalid ? error.message : 'call failed']);
    } catch (refusal) {
      if (isServers(refusal)) return;
      why = refusal;
    }
    if (isInvalid) error.notAborted(why);
  }
}

/** Refuses a connection that is known to be outside a transaction. */
async function requireTransaction(client) {
  if (typeof client.totalCount === 'number') {
    throw new NoTransactionError('each query of a pool may use another connection; check one out with pool.connect()');
  }
  // pg has it from 8.21 on; an older one cannot tell.
  if (client.getTransactionStatus?.() !== 'I') return;
  // That is the state after the last answer. A `begin` that nobody waited for may be on its way, so
  // look again behind it.
  await client.query('select 1');
  if (client.getTransactionStatus() === 'I') {
    throw new NoTransactionError("the client is not inside a transaction; send 'begin' before the data is written");
  }
}

async function answers(client, text, values) {
  const { rows } = await client.query({ text, values, rowMode: 'array' });
  return rows.map(([id]) => id);
}

/** As base64, so that each payload arrives as these very bytes. */
function toJson({ payload, ...rest }) {
  return { ...rest, payload_base64: payload.toString('base64') };
}

/** Whether the server reported it: only its errors have a severity. */
function isServers(error) {
  return error?.severity !== undefined && error.code !== undefined;
}
