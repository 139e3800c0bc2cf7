// Records, in the transaction of a message's effect, that a consumer has handled the message.

import { InvalidConsumerError } from './errors.js';
import { answers, checkSchema, inTransaction } from './transaction.js';

const CONSUMER_BYTES_MAX = 255;

export class Inbox {
  #consumer;
  #statements;

  constructor(consumer, { schema = 'posthaste' } = {}) {
    if (!isName(consumer)) throw new InvalidConsumerError(String(consumer));
    const name = checkSchema(schema);
    this.#consumer = consumer;
    this.#statements = {
      handle: `select ${name}.handle_once($1, $2)`,
      handleMany: `select ${name}.handle_many($1, $2)`,
      refuse: `select ${name}.refuse($1)`,
    };
  }

  async handle(client, id) {
    const [isFirst] = await this.#call(client, this.#statements.handle, id);
    return isFirst;
  }

  async handleMany(client, ids) {
    return this.#call(client, this.#statements.handleMany, Array.from(ids));
  }

  #call(client, statement, value) {
    const values = [this.#consumer, value];
    return inTransaction(client, this.#statements.refuse, () => answers(client, statement, values));
  }
}

function isName(consumer) {
  if (typeof consumer !== 'string' || consumer === '' || /[\0-\x1f\x7f-\x9f]|\p{Surrogate}/u.test(consumer)) return false;
  return Buffer.byteLength(consumer) <= CONSUMER_BYTES_MAX;
}
