// Calls Posthaste's SQL functions in the transaction that the caller's client stands in.
//
// The one place that decides what happens after a failure: whatever it was, the transaction is
// aborted, so that it cannot commit the data without the message, or an effect without its record.

import { InvalidMessageError, InvalidSchemaNameError, NoTransactionError } from './errors.js';

/** The schema's name as it stands in statements. */
export function checkSchema(schema) {
  if (typeof schema !== 'string' || !/^(?!pg_)[a-z][a-z0-9_]{0,39}$/.test(schema)) {
    throw new InvalidSchemaNameError(String(schema));
  }
  return `"${schema}"`;
}

/** Does `work` in the client's transaction; `refuse` is the statement that makes that fail. */
export async function inTransaction(client, refuse, work) {
  await requireTransaction(client);
  try {
    return await work();
  } catch (error) {
    await abort(client, refuse, error);
    throw error;
  }
}

/** The first column of the answer. */
export async function answers(client, text, values) {
  const { rows } = await client.query({ text, values, rowMode: 'array' });
  return rows.map(([answer]) => answer);
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

/** Makes the transaction fail, unless the server has: it aborts at each error of its own. */
async function abort(client, refuse, error) {
  if (isServers(error)) return;
  const isInvalid = error instanceof InvalidMessageError;
  let why;
  try {
    await client.query(refuse, [isInvalid ? error.message : 'call failed']);
  } catch (refusal) {
    if (isServers(refusal)) return;
    why = refusal;
  }
  if (isInvalid) error.notAborted(why);
}

/** Whether the server reported it: only its errors have a severity. */
function isServers(error) {
  return error?.severity !== undefined && error.code !== undefined;
}
