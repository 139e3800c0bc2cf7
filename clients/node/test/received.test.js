// What tests/vectors says of each wire, and what only JavaScript can be handed.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

import { readCloudEvent, readEnvelope, readStreamEntry, UnreadableMessageError } from '../index.js';

const bytes = (base64) => Buffer.from(base64, 'base64');

async function casesOf(name) {
  const url = new URL(`../../../tests/vectors/${name}.json`, import.meta.url);
  const { cases } = JSON.parse(await readFile(url, 'utf8'));
  assert.ok(cases.length > 30);
  return cases;
}

function toMessage({ enqueued_at_micros: micros, content_type: contentType, correlation_id: correlationId, ...rest }) {
  const { headers, payload } = rest;
  const enqueuedAt = new Date(Math.floor(micros / 1_000));
  return {
    ...rest, contentType, correlationId, enqueuedAt, headers: Object.fromEntries(headers), payload: bytes(payload),
  };
}

function check({ name, message, refused }, read) {
  if (message) {
    const found = read();
    assert.deepEqual(found, toMessage(message), name);
    assert.deepEqual(Object.keys(found.headers).sort(), message.headers.map(([header]) => header).sort(), name);
  } else {
    assert.throws(read, { name: 'UnreadableMessageError', ...refused }, name);
  }
}

test('stream entries mean what the vectors say, whichever way they are answered', async () => {
  for (const each of await casesOf('redis-stream')) {
    const pairs = each.wire.map(([field, value]) => [field, bytes(value)]);
    check(each, () => readStreamEntry(pairs.flat()));
    check(each, () => readStreamEntry(pairs.flatMap(([field, value]) => [Buffer.from(field), value])));
    check(each, () => readStreamEntry(new Map(pairs)));
    check(each, () => readStreamEntry(Object.fromEntries(pairs)));
  }
});

test('envelopes mean what the vectors say', async () => {
  for (const each of await casesOf('envelope')) check(each, () => readEnvelope(bytes(each.wire)));
});

test('events mean what the vectors say, also as stream entries', async () => {
  for (const each of await casesOf('cloudevents')) {
    check(each, () => readCloudEvent(bytes(each.wire)));
    check(each, () => readStreamEntry(['cloudevent', bytes(each.wire)]));
  }
});

const ENTRY = [
  'id', '01920000-0000-7000-8000-000000000001', 'topic', 't', 'content_type', 'a/b',
  'enqueued_at', '2026-01-02T03:04:05.000006Z',
];

test('text will do for everything but a payload', () => {
  const entry = [...ENTRY, 'h:a', 'ö'];
  const message = readStreamEntry([...entry, 'payload', Buffer.from('p')]);
  assert.deepEqual([message.headers, message.payload.toString()], [{ a: 'ö' }, 'p']);
  // It may be what is left of other bytes.
  assert.throws(() => readStreamEntry([...entry, 'payload', 'p']), { field: 'payload', rule: /have the client answer bytes/ });
  const part = new Uint8Array([1, 2, 3]).subarray(1);
  assert.deepEqual([...readStreamEntry([...entry, 'payload', part]).payload], [2, 3]);
  assert.equal(readEnvelope('{"id":"01920000-0000-7000-8000-000000000001","topic":"t","content_type":"a/b",'
    + '"enqueued_at":"2026-01-02T03:04:05.000006Z","headers":{},"payload":"ö"}').payload.toString(), 'ö');
});

test('field that stands twice is refused', () => {
  const entry = [...ENTRY, 'payload', Buffer.from('p')];
  for (let at = 0; at < entry.length; at += 2) {
    assert.throws(() => readStreamEntry([...entry, entry[at], entry[at + 1]]), { field: entry[at], rule: 'present once' });
  }
});

test('lone surrogate is no string', () => {
  const envelope = '{"id":"01920000-0000-7000-8000-000000000001","topic":"t","content_type":"a/b",'
    + '"enqueued_at":"2026-01-02T03:04:05.000006Z","headers":{},"payload":"\\ud800"}';
  assert.throws(() => readEnvelope(envelope), { field: 'payload', rule: 'a string' });
});

test('error shows nothing but the field and what it must be', () => {
  const read = () => readStreamEntry(['id', 'secret']);
  assert.throws(read, { message: 'message unreadable: id must be a UUID in lower case with hyphens' });
  assert.throws(() => readStreamEntry([...ENTRY, 'h:\n', Buffer.from([255]), 'payload', Buffer.from('p')]), {
    message: 'message unreadable: h:\\n must be valid UTF-8',
  });
  assert.ok(new UnreadableMessageError('a', 'b') instanceof Error);
});
