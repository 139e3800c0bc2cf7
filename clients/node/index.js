// Enqueues messages into a Posthaste outbox, in the caller's own transaction.
//
// What is public; `index.d.ts` documents it. Nothing here opens a connection, begins a transaction
// or ends one.

export { InvalidMessageError, InvalidSchemaNameError, NoTransactionError } from './lib/errors.js';
export { Outbox } from './lib/outbox.js';
