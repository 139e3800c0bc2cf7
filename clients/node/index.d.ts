// Enqueues messages into a Posthaste outbox, and tells first deliveries from repeats, in the caller's
// own transaction.

import type { ClientBase } from 'pg';

/**
 * One message. At most one of `json`, `text` and `bytes` is set; with none, the payload is empty.
 * `null` stands for "none" everywhere but in `json`, where it is the document `null`.
 */
export interface Message {
  /** 1 to 255 ASCII letters, digits and `. _ - : /` that start with a letter or digit. */
  topic: string;
  /** A payload that `JSON.stringify` writes. */
  json?: unknown;
  /** A payload of text, sent as UTF-8. */
  text?: string | null;
  /** A payload of bytes. */
  bytes?: Uint8Array | null;
  /**
   * 1 to 128 printable ASCII characters. By default `application/json`,
   * `text/plain; charset=utf-8` or `application/octet-stream`, after the kind of payload.
   */
  contentType?: string | null;
  /** The ordering key: messages that share it are published in their commit order. 1 to 512 bytes. */
  key?: string | null;
  /** At most 64 headers with names of ASCII letters, digits and `. _ -`; 16 KiB together. */
  headers?: Record<string, string> | null;
  /** Ties the message to the request it came from. 1 to 256 bytes. */
  correlationId?: string | null;
  /** The id, a UUIDv7; otherwise the database makes one. */
  id?: string | null;
  /** Of all messages with one token only the first is written; later ones answer its id. 1 to 256 bytes. */
  token?: string | null;
  /** When it is due: it waits beside the log until then, and can be cancelled. From 1970 to 9999. */
  deliverAt?: Date | null;
  /** W3C trace context, sent as the header of that name. */
  traceparent?: string | null;
  /** W3C trace context, sent as the header of that name unless empty. */
  tracestate?: string | null;
}

export interface OutboxOptions {
  /** The schema that `posthaste migrate` made. Default: `posthaste`. */
  schema?: string;
  /** Payload bytes at most; as set when the schema was made. Default: 262144. */
  payloadBytesMax?: number;
}

/** Enqueues messages in the caller's own transaction. One per process is enough. */
export class Outbox {
  /** @throws {InvalidSchemaNameError} */
  constructor(options?: OutboxOptions);

  /**
   * Writes one message in the transaction that `client` stands in, and answers its id; or, if its token
   * was used before, the first message's. One round trip.
   *
   * Rejects with {@link InvalidMessageError}, {@link NoTransactionError} or pg's own error. Unless
   * there was no transaction, it is aborted then: roll back, to a savepoint or altogether.
   */
  enqueue(client: ClientBase, message: Message): Promise<string>;

  /**
   * Writes messages in their order, and answers their ids in the same order. All are checked before
   * the first is written; up to 1,000 share a round trip. Rejects as {@link Outbox.enqueue}.
   */
  enqueueMany(client: ClientBase, messages: Iterable<Message>): Promise<string[]>;

  /**
   * Takes a scheduled message back in the transaction that `client` stands in, and answers whether it
   * was still waiting. Rejects with {@link NoTransactionError} or pg's own error.
   */
  cancel(client: ClientBase, id: string): Promise<boolean>;

  /**
   * Locks ordering keys until the transaction ends, as strict topics ask before an enqueue. At most
   * 1,000, better in one call. Rejects as {@link Outbox.cancel}.
   */
  lockKeys(client: ClientBase, keys: Iterable<string>): Promise<void>;
}

export interface InboxOptions {
  /** The schema that `posthaste migrate` made. Default: `posthaste`. */
  schema?: string;
}

/**
 * Tells first deliveries of messages from repeats, for one consumer. One per process is enough.
 *
 * A consumer is a name of 1 to 255 bytes: whoever must not repeat each other's effects shares one.
 */
export class Inbox {
  /** @throws {InvalidConsumerError} @throws {InvalidSchemaNameError} */
  constructor(consumer: string, options?: InboxOptions);

  /**
   * Records in the transaction that `client` stands in that the message is handled, and answers
   * whether it is the first time: its effect then belongs into this transaction. While another
   * transaction is handling it, this waits for the outcome. One round trip.
   *
   * Rejects with {@link NoTransactionError} or pg's own error. Unless there was no transaction, it is
   * aborted then: roll back, and have the message delivered again.
   */
  handle(client: ClientBase, id: string): Promise<boolean>;

  /**
   * Records that up to 10,000 messages are handled, and answers those that are new, each once, in
   * their order. One round trip; make one call in a transaction. Rejects as {@link Inbox.handle}.
   */
  handleMany(client: ClientBase, ids: Iterable<string>): Promise<string[]>;
}

/** A message as it arrived. */
export interface ReceivedMessage {
  /** The same at each delivery. */
  id: string;
  topic: string;
  /** The ordering key. */
  key: string | null;
  contentType: string;
  /** When it was written, on the database's clock; a `Date` knows milliseconds. */
  enqueuedAt: Date;
  correlationId: string | null;
  headers: Record<string, string>;
  /** Byte for byte. */
  payload: Buffer;
}

/**
 * Reads an entry of a Redis stream, of either format of the sink `redis-stream`: names and values in
 * one array, a map or an object. The payload must be bytes: have the client answer Buffers (ioredis:
 * `xreadgroupBuffer`).
 *
 * @throws {UnreadableMessageError}
 */
export function readStreamEntry(
  fields: readonly (Uint8Array | string)[] | Map<Uint8Array | string, Uint8Array | string>
    | Record<string, Uint8Array | string>,
): ReceivedMessage;

/**
 * Reads an envelope of the sinks `redis-list` and `redis-pubsub`, or a line of `stdout`.
 *
 * @throws {UnreadableMessageError}
 */
export function readEnvelope(envelope: Uint8Array | string): ReceivedMessage;

/**
 * Reads a CloudEvent of the relay's (JSON, structured mode); a JSON payload as it stands there, byte
 * for byte.
 *
 * @throws {UnreadableMessageError}
 */
export function readCloudEvent(event: Uint8Array | string): ReceivedMessage;

/** A message that may not be written. The transaction is aborted. */
export class InvalidMessageError extends Error {
  private constructor();
  /** The field at fault, as the SQL functions name it. */
  readonly field: string;
  /** What the field must be. */
  readonly limit: string;
  /** The offending value, shortened, or its size. Never a payload. */
  readonly value: string;
  /** Which message it was, counted from 0, when several were enqueued at once. */
  readonly index: number | null;
  /** Whether the transaction is certain not to commit; `false` is rare: roll back without fail then. */
  readonly transactionAborted: boolean;
}

/** A schema name that is not allowed. */
export class InvalidSchemaNameError extends Error {
  private constructor();
}

/** A consumer's name that is not allowed. */
export class InvalidConsumerError extends Error {
  private constructor();
}

/** What arrived is not a message of the relay's. Holds nothing of it. */
export class UnreadableMessageError extends Error {
  private constructor();
  /** The field at fault, as it is called on the wire; `entry`, `envelope` or `cloudevent` for the whole. */
  readonly field: string;
  /** What it must be. */
  readonly rule: string;
}

/**
 * The client is a pool, or is not inside a transaction (pg tells from 8.21 on). Nothing was written.
 */
export class NoTransactionError extends Error {
  private constructor();
}
