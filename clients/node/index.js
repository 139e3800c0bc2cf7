// Enqueues messages into a Posthaste outbox, and tells first deliveries from repeats, in the caller's
// own transaction.
//
// What is public; `index.d.ts` documents it. Nothing here opens a connection, begins a transaction
// or ends one.

export {
  InvalidConsumerError, InvalidMessageError, InvalidSchemaNameError, NoTransactionError, UnreadableMessageError,
} from './lib/errors.js';
export { Inbox } from './lib/inbox.js';
export { Outbox } from './lib/outbox.js';
export { readCloudEvent, readEnvelope, readStreamEntry } from './lib/received.js';
