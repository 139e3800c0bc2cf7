// Enqueues messages: checks them, and calls the SQL functions that write them.

import { chunks } from './chunks.js';
import { prepare } from './message.js';
import { answers, checkSchema, inTransaction } from './transaction.js';

const PAYLOAD_BYTES_MAX = 256 * 1024;
const NAMES = [
  'topic', 'payload', 'key', 'headers', 'content_type', 'correlation_id', 'message_id', 'token', 'deliver_at',
];

export class Outbox {
  #statements;
  #payloadBytesMax;

  constructor({ schema = 'posthaste', payloadBytesMax = PAYLOAD_BYTES_MAX } = {}) {
    const name = checkSchema(schema);
    const named = NAMES.map((argument, index) => `${argument} => $${index + 1}`).join(', ');
    this.#statements = {
      enqueue: `select ${name}.enqueue_bytes(${named})`,
      enqueueMany: `select ${name}.enqueue_many($1)`,
      cancel: `select ${name}.cancel($1)`,
      lockKeys: `select ${name}.lock_keys($1)`,
      refuse: `select ${name}.refuse($1)`,
    };
    this.#payloadBytesMax = payloadBytesMax;
  }

  async enqueue(client, message) {
    return inTransaction(client, this.#statements.refuse, async () => {
      const entry = prepare(message, this.#payloadBytesMax);
      const headers = entry.headers && JSON.stringify(entry.headers);
      const values = NAMES.map((name) => (name === 'headers' ? headers : entry[name]));
      const [id] = await answers(client, this.#statements.enqueue, values);
      return id;
    });
  }

  async enqueueMany(client, messages) {
    return inTransaction(client, this.#statements.refuse, async () => {
      // All are checked before the first is written.
      const entries = Array.from(messages, (message, index) =>
        prepare(message, this.#payloadBytesMax, index));
      const ids = [];
      for (const chunk of chunks(entries)) {
        const values = [JSON.stringify(chunk.map(toJson))];
        ids.push(...(await answers(client, this.#statements.enqueueMany, values)));
      }
      return ids;
    });
  }

  async cancel(client, id) {
    const [wasWaiting] = await this.#call(client, this.#statements.cancel, id);
    return wasWaiting;
  }

  async lockKeys(client, keys) {
    await this.#call(client, this.#statements.lockKeys, Array.from(keys));
  }

  #call(client, statement, value) {
    return inTransaction(client, this.#statements.refuse, () => answers(client, statement, [value]));
  }
}

/** As base64, so that each payload arrives as these very bytes. */
function toJson({ payload, ...rest }) {
  return { ...rest, payload_base64: payload.toString('base64') };
}
