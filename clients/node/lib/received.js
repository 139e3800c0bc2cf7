// Reads messages as they arrive: what the relay's sinks write. Pure; knows no broker's client.
//
// What stands on the wire is fixed by tests/vectors, which the relay's tests write. A field that is
// not known is passed over: a relay may be newer than its consumers.

import { UnreadableMessageError } from './errors.js';
import { members, repeated, string, strings } from './json.js';

const ONCE = 'present once';
const PRESENT = 'present';

const HEADERS_ATTRIBUTE = 'posthasteheaders';
/** Attributes of an event that are no headers. */
const ATTRIBUTES = new Set([
  'specversion', 'id', 'source', 'type', 'subject', 'time', 'datacontenttype', 'dataschema', 'data',
  'data_base64', 'correlationid', HEADERS_ATTRIBUTE,
]);

/** Keeps a byte order mark, which is as much part of a text as any other character. */
const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const LENIENT_UTF8 = new TextDecoder('utf-8', { ignoreBOM: true });

export function readStreamEntry(fields) {
  const entry = new Map();
  for (const [key, value] of pairsOf(fields)) {
    const name = typeof key === 'string' ? key : LENIENT_UTF8.decode(key);
    if (entry.has(name)) refuse(name, ONCE);
    entry.set(name, value);
  }
  if (entry.has('cloudevent')) return readCloudEvent(entry.get('cloudevent'));
  const read = (field) => (entry.has(field) ? text(field, entry.get(field)) : undefined);
  const headers = [...entry.keys()].filter((name) => name.startsWith('h:'));
  return {
    id: id('id', required('id', read('id'))),
    topic: filled('topic', required('topic', read('topic'))),
    key: optional(read('key'), (key) => filled('key', key)),
    contentType: required('content_type', read('content_type')),
    enqueuedAt: time('enqueued_at', required('enqueued_at', read('enqueued_at'))),
    correlationId: read('correlation_id') ?? null,
    headers: Object.fromEntries(headers.map((name) => [name.slice(2), read(name)])),
    payload: payloadOf(required('payload', entry.get('payload'))),
  };
}

export function readEnvelope(envelope) {
  const { written, read } = documentOf('envelope', envelope);
  const [payload, base64] = [read('payload'), read('payload_base64')];
  if (payload !== undefined && base64 !== undefined) refuse('payload', ONCE);
  return {
    id: id('id', required('id', read('id'))),
    topic: filled('topic', required('topic', read('topic'))),
    key: optional(read('key'), (key) => filled('key', key)),
    contentType: required('content_type', read('content_type')),
    enqueuedAt: time('enqueued_at', required('enqueued_at', read('enqueued_at'))),
    correlationId: read('correlation_id') ?? null,
    headers: Object.fromEntries(
      strings(required('headers', written.get('headers'))) ?? refuse('headers', 'an object of strings'),
    ),
    payload: base64 === undefined
      ? Buffer.from(required('payload', payload))
      : bytes('payload_base64', base64),
  };
}

export function readCloudEvent(event) {
  const { written, read } = documentOf('cloudevent', event);
  if (required('specversion', read('specversion')) !== '1.0') refuse('specversion', '1.0');
  const contentType = required('datacontenttype', read('datacontenttype'));
  return {
    id: id('id', required('id', read('id'))),
    topic: filled('type', required('type', read('type'))),
    key: optional(read('subject'), (key) => filled('subject', key)),
    contentType,
    enqueuedAt: time('time', required('time', read('time'))),
    correlationId: read('correlationid') ?? null,
    headers: eventHeaders(written, read),
    payload: eventPayload(written, read, contentType),
  };
}

function eventHeaders(written, read) {
  const others = optional(read(HEADERS_ATTRIBUTE), (json) =>
    strings(json) ?? refuse(HEADERS_ATTRIBUTE, 'an object of strings, as JSON'));
  const names = [...written.keys()].filter((name) => !ATTRIBUTES.has(name));
  const headers = [...(others ?? []), ...names.map((name) => [name, read(name)])];
  const twice = repeated(headers);
  if (twice !== undefined) refuse(twice, ONCE);
  return Object.fromEntries(headers);
}

function eventPayload(written, read, contentType) {
  const base64 = read('data_base64');
  if (base64 !== undefined) {
    return written.has('data') ? refuse('data', ONCE) : bytes('data_base64', base64);
  }
  const data = required('data', written.get('data'));
  return Buffer.from(isJson(contentType) ? data : read('data'));
}

/** Whether the relay puts a payload of this type into an event as it is. */
function isJson(contentType) {
  const essence = contentType.split(';', 1)[0].trim().toLowerCase();
  return essence === 'application/json' || (essence.length > 5 && essence.endsWith('+json'));
}

/** The members of a JSON object as they are written, and how to read one that is a string. */
function documentOf(field, document) {
  let pairs;
  try {
    pairs = members(typeof document === 'string' ? document : UTF8.decode(document));
  } catch {
    // No UTF-8.
  }
  if (pairs === undefined) refuse(field, 'one JSON object in UTF-8');
  const twice = repeated(pairs);
  if (twice !== undefined) refuse(twice, ONCE);
  const written = new Map(pairs);
  const read = (name) =>
    (written.has(name) ? (string(written.get(name)) ?? refuse(name, 'a string')) : undefined);
  return { written, read };
}

/** Names and values, whichever way a client of Redis answers them. */
function pairsOf(fields) {
  if (Array.isArray(fields)) {
    return Array.from({ length: fields.length / 2 }, (_, n) => [fields[2 * n], fields[2 * n + 1]]);
  }
  if (fields instanceof Map) return fields;
  return Object.entries(fields ?? {});
}

function text(field, value) {
  if (typeof value === 'string') return value;
  try {
    return UTF8.decode(value);
  } catch {
    return refuse(field, 'valid UTF-8');
  }
}

/** A client that answers text has replaced what is no UTF-8 already. */
function payloadOf(value) {
  if (!(value instanceof Uint8Array)) refuse('payload', 'a Buffer: have the client answer bytes');
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}

function required(field, value) {
  return value ?? refuse(field, PRESENT);
}

function optional(value, read) {
  return value === undefined ? null : read(value);
}

function filled(field, value) {
  return value === '' ? refuse(field, 'not empty') : value;
}

function id(field, value) {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value)) return value;
  return refuse(field, 'a UUID in lower case with hyphens');
}

function time(field, value) {
  if (/^(?!0000)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/.test(value)) {
    const millis = value.slice(0, 23);
    const read = new Date(`${millis}Z`);
    // A 30th of February would be read as one of March.
    if (!Number.isNaN(read.getTime()) && read.toISOString().startsWith(millis)) return read;
  }
  return refuse(field, 'a time in UTC such as 2026-01-02T03:04:05.000006Z');
}

function bytes(field, value) {
  const read = Buffer.from(value, 'base64');
  // The decoder passes over what is no base64.
  return read.toString('base64') === value ? read : refuse(field, 'base64');
}

function refuse(field, rule) {
  throw new UnreadableMessageError(field, rule);
}
