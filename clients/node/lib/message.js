// Checks a message and makes of it what the SQL functions take. Pure.
//
// The limits and texts are those of the SQL functions, which check again: here they spare the round
// trip and name the message among many. The payload's limit is the only one that a database sets.

import { InvalidMessageError } from './errors.js';

const TOPIC_BYTES_MAX = 255;
const KEY_BYTES_MAX = 512;
const CONTENT_TYPE_BYTES_MAX = 128;
const CORRELATION_ID_BYTES_MAX = 256;
const TOKEN_BYTES_MAX = 256;
const HEADERS_MAX = 64;
const HEADER_NAME_BYTES_MAX = 128;
const HEADERS_BYTES_MAX = 16 * 1024;

const FIELDS = [
  'topic', 'json', 'text', 'bytes', 'contentType', 'key', 'headers', 'correlationId', 'id', 'token', 'deliverAt',
  'traceparent', 'tracestate',
];
const JSON_TYPE = 'application/json';
const TEXT_TYPE = 'text/plain; charset=utf-8';
const BYTES_TYPE = 'application/octet-stream';

/** The first millisecond of the year 10000: the database and every language know the years before. */
const TIMES_END = 253_402_300_800_000;

/** The arguments of `enqueue_bytes`, by their names there. */
export function prepare(message, payloadBytesMax, index = null) {
  const refuse = (field, limit, value) => {
    throw new InvalidMessageError(field, limit, shown(value), index);
  };
  checkShape(message, refuse);
  checkTopic(message.topic, refuse);
  checkText('key', message.key, KEY_BYTES_MAX, refuse);
  const { payload, contentType } = payloadOf(message, refuse);
  checkContentType(contentType, refuse);
  checkText('correlation_id', message.correlationId, CORRELATION_ID_BYTES_MAX, refuse);
  checkText('token', message.token, TOKEN_BYTES_MAX, refuse);
  checkTime(message.deliverAt, refuse);
  if (isPresent(message.id) && typeof message.id !== 'string') refuse('id', 'a string', message.id);
  const headers = headersOf(message, refuse);
  const bytes = payload();
  if (bytes.length > payloadBytesMax) {
    refuse('payload', `at most ${payloadBytesMax} bytes`, `${bytes.length} bytes`);
  }
  return {
    topic: message.topic,
    payload: bytes,
    key: message.key ?? null,
    headers,
    content_type: contentType,
    correlation_id: message.correlationId ?? null,
    message_id: message.id ?? null,
    token: message.token ?? null,
    deliver_at: message.deliverAt?.toISOString() ?? null,
  };
}

function checkShape(message, refuse) {
  if (typeof message !== 'object' || message === null) refuse('message', 'an object', message);
  // A misspelt field would be a message without it.
  const unknown = Object.keys(message).find((field) => !FIELDS.includes(field));
  if (unknown !== undefined) refuse('message', `an object of ${FIELDS.join(', ')}`, unknown);
}

function checkTopic(topic, refuse) {
  const isAllowed = typeof topic === 'string' && /^[A-Za-z0-9][A-Za-z0-9._:/-]*$/.test(topic);
  if (isAllowed && topic.length <= TOPIC_BYTES_MAX) return;
  const limit = `1 to ${TOPIC_BYTES_MAX} ASCII letters, digits and . _ - : / that start with a letter or digit`;
  refuse('topic', limit, topic);
}

function checkText(field, value, bytesMax, refuse) {
  if (!isPresent(value)) return;
  if (typeof value !== 'string') refuse(field, 'a string', value);
  if (!isUnicode(value)) refuse(field, 'valid Unicode', value);
  if (value === '' || Buffer.byteLength(value) > bytesMax || /[\0-\x1f\x7f-\x9f]/.test(value)) {
    refuse(field, `1 to ${bytesMax} bytes without control characters`, value);
  }
}

function checkContentType(contentType, refuse) {
  if (typeof contentType === 'string' && /^[ -~]+$/.test(contentType)) {
    if (contentType.length <= CONTENT_TYPE_BYTES_MAX) return;
  }
  refuse('content_type', `1 to ${CONTENT_TYPE_BYTES_MAX} printable ASCII characters`, contentType);
}

function checkTime(time, refuse) {
  if (!isPresent(time)) return;
  if (!(time instanceof Date) || Number.isNaN(time.getTime())) refuse('deliver_at', 'a valid Date', time);
  const millis = time.getTime();
  if (millis >= 0 && millis < TIMES_END) return;
  refuse('deliver_at', 'a time from 1970 to 9999', `${millis * 1_000} microseconds after 1970`);
}

/** The payload's content type, and how to make its bytes: the other fields are looked at first. */
function payloadOf(message, refuse) {
  const kinds = [];
  if (message.json !== undefined) {
    kinds.push(['json', JSON_TYPE, () => jsonBytes(message.json, refuse)]);
  }
  if (isPresent(message.text)) kinds.push(['text', TEXT_TYPE, () => textBytes(message.text, refuse)]);
  if (isPresent(message.bytes)) kinds.push(['bytes', BYTES_TYPE, () => rawBytes(message.bytes, refuse)]);
  if (kinds.length > 1) {
    refuse('payload', 'one of json, text and bytes', kinds.map(([kind]) => kind).join(' and '));
  }
  const [, ownType, payload] = kinds[0] ?? ['none', BYTES_TYPE, () => Buffer.alloc(0)];
  return { payload, contentType: message.contentType ?? ownType };
}

function jsonBytes(value, refuse) {
  let text;
  try {
    text = JSON.stringify(value);
  } catch (fault) {
    // A circle is explained on several lines; the first says what it is.
    const [why] = String(fault?.message ?? fault).split('\n', 1);
    refuse('payload', `valid JSON (${why})`, 'a value that does not serialise');
  }
  // What JSON.stringify makes of a function or a symbol.
  if (text === undefined) refuse('payload', 'valid JSON', 'a value that does not serialise');
  return Buffer.from(text);
}

function textBytes(text, refuse) {
  if (typeof text !== 'string') refuse('payload', 'a string', `text of type ${typeof text}`);
  if (!isUnicode(text)) refuse('payload', 'valid Unicode', 'text with a lone surrogate');
  return Buffer.from(text);
}

function rawBytes(bytes, refuse) {
  if (!(bytes instanceof Uint8Array)) {
    refuse('payload', 'a Buffer or Uint8Array', `bytes of type ${typeof bytes}`);
  }
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** All headers in one object, or null where there are none. */
function headersOf(message, refuse) {
  const given = message.headers ?? {};
  if (typeof given !== 'object' || Array.isArray(given) || given instanceof Map) {
    refuse('headers', 'an object of strings', Object.prototype.toString.call(given));
  }
  const pairs = Object.entries(given);
  if (isPresent(message.traceparent)) pairs.push(['traceparent', message.traceparent]);
  if (isPresent(message.tracestate) && message.tracestate !== '') {
    pairs.push(['tracestate', message.tracestate]);
  }
  checkHeaders(pairs, refuse);
  return pairs.length === 0 ? null : Object.fromEntries(pairs);
}

function checkHeaders(pairs, refuse) {
  if (pairs.length > HEADERS_MAX) refuse('headers', `at most ${HEADERS_MAX} headers`, pairs.length);
  const names = new Set();
  let total = 0;
  for (const [name, value] of pairs) {
    if (!/^[A-Za-z0-9._-]+$/.test(name) || name.length > HEADER_NAME_BYTES_MAX) {
      refuse('header name', `1 to ${HEADER_NAME_BYTES_MAX} ASCII letters, digits and . _ -`, name);
    }
    if (typeof value !== 'string') refuse('header value', 'a string', value);
    if (value.includes('\0')) refuse('header value', 'no NUL character', value);
    if (!isUnicode(value)) refuse('header value', 'valid Unicode', value);
    if (names.has(name)) refuse('header name', 'each name once', name);
    names.add(name);
    total += name.length + Buffer.byteLength(value);
  }
  if (total > HEADERS_BYTES_MAX) {
    refuse('headers', `at most ${HEADERS_BYTES_MAX} bytes`, `${total} bytes`);
  }
}

/** `null` is how many callers write "none". */
function isPresent(value) {
  return value !== undefined && value !== null;
}

/** UTF-8 has no lone surrogates; Buffer would put replacement characters in their place. */
function isUnicode(text) {
  return !/\p{Surrogate}/u.test(text);
}

function shown(value) {
  // A symbol or an object without a prototype has no text of its own.
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}
