// What only JavaScript can get wrong in a message. The limits and their texts are compared with the
// Rust side's by the contract suite, through a real driver.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

import * as posthaste from '../index.js';
import { chunks } from '../lib/chunks.js';
import { prepare } from '../lib/message.js';

const MAX = 256 * 1024;
const prepared = (message) => prepare({ topic: 't', ...message }, MAX);

function refusal(message) {
  try {
    prepare(message, MAX);
  } catch (error) {
    assert.ok(error instanceof posthaste.InvalidMessageError, error);
    return error;
  }
  assert.fail('the message was not refused');
}

test('each kind of payload has its content type', () => {
  const cases = [
    [{ json: { a: 'é' } }, '{"a":"é"}', 'application/json'],
    [{ json: null }, 'null', 'application/json'],
    [{ json: undefined }, '', 'application/octet-stream'],
    [{ text: 'é' }, 'é', 'text/plain; charset=utf-8'],
    [{ text: '' }, '', 'text/plain; charset=utf-8'],
    [{ bytes: new Uint8Array([104, 105]).subarray(1) }, 'i', 'application/octet-stream'],
    [{ bytes: Buffer.from('x'), contentType: 'a/b' }, 'x', 'a/b'],
  ];
  for (const [message, payload, contentType] of cases) {
    const entry = prepared(message);
    assert.deepEqual([entry.payload.toString(), entry.content_type], [payload, contentType]);
  }
});

test('null is "none" in every field but json', () => {
  const nulls = ['text', 'bytes', 'contentType', 'key', 'headers', 'correlationId', 'id', 'token', 'deliverAt',
    'traceparent', 'tracestate'];
  const message = Object.fromEntries(nulls.map((field) => [field, null]));
  assert.deepEqual(prepared(message), prepared({}));
});

test('a field of the wrong type or name is refused', () => {
  const circle = {};
  circle.self = circle;
  const cases = [
    [null, 'message'],
    ['t', 'message'],
    [{ topic: 't', payload: {} }, 'message'],
    [{}, 'topic'],
    [{ topic: 't', key: 17 }, 'key'],
    [{ topic: 't', contentType: 17 }, 'content_type'],
    [{ topic: 't', correlationId: Symbol('x') }, 'correlation_id'],
    [{ topic: 't', id: 17 }, 'id'],
    [{ topic: 't', token: 17 }, 'token'],
    [{ topic: 't', deliverAt: '2026-01-01T00:00:00Z' }, 'deliver_at'],
    [{ topic: 't', deliverAt: new Date('no time') }, 'deliver_at'],
    [{ topic: 't', headers: ['a'] }, 'headers'],
    [{ topic: 't', headers: new Map([['a', 'b']]) }, 'headers'],
    [{ topic: 't', headers: { a: 1 } }, 'header value'],
    [{ topic: 't', headers: { a: null } }, 'header value'],
    [{ topic: 't', json: {}, text: 'x' }, 'payload'],
    [{ topic: 't', json: circle }, 'payload'],
    [{ topic: 't', json: 1n }, 'payload'],
    [{ topic: 't', json: () => {} }, 'payload'],
    [{ topic: 't', text: 17 }, 'payload'],
    [{ topic: 't', bytes: 'text' }, 'payload'],
    [{ topic: 't', bytes: [1] }, 'payload'],
  ];
  for (const [message, field] of cases) assert.equal(refusal(message).field, field);
});

test('a lone surrogate is refused, for UTF-8 cannot hold it', () => {
  const lone = 'a\ud800b';
  assert.equal(refusal({ topic: 't', text: lone }).field, 'payload');
  assert.equal(refusal({ topic: 't', headers: { a: lone } }).field, 'header value');
  const { message } = refusal({ topic: 't', key: lone });
  assert.equal(message, 'message refused: key must be valid Unicode, not "a\\u{d800}b"');
  assert.equal(prepared({ key: '🔑' }).key, '🔑');
});

test('a header named after a prototype is a header', () => {
  const headers = JSON.parse('{"__proto__":"a","constructor":"b"}');
  assert.equal(JSON.stringify(prepared({ headers }).headers), '{"__proto__":"a","constructor":"b"}');
});

test('an error shows at most sixty characters, and never a payload', () => {
  assert.equal(refusal({ topic: '🔑'.repeat(61) }).value, `${'🔑'.repeat(60)}…`);
  assert.equal(refusal({ topic: '🔑'.repeat(60) }).value, '🔑'.repeat(60));
  const secret = { toJSON: () => { throw new Error('no'); } };
  assert.equal(refusal({ topic: 't', json: { a: 'secret', secret } }).value, 'a value that does not serialise');
});

test('chunks end at the limits of messages and of bytes', () => {
  const lengths = (payloads) => {
    const entries = payloads.map((length) => ({ payload: { length }, headers: null }));
    return [...chunks(entries)].map((chunk) => chunk.length);
  };
  const half = 2 * 1024 * 1024;
  assert.deepEqual(lengths([]), []);
  assert.deepEqual(lengths(Array(2_001).fill(1)), [1_000, 1_000, 1]);
  assert.deepEqual(lengths([half, half, 1]), [2, 1]);
  assert.deepEqual(lengths([half, half + 1, 1]), [1, 2]);
  assert.deepEqual(lengths([1, 2 * half + 1, 1]), [1, 1, 1]);
});

test('the declarations name what the module exports, and every field', async () => {
  const declarations = await readFile(new URL('../index.d.ts', import.meta.url), 'utf8');
  const declared = [...declarations.matchAll(/^export (?:class|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(declared.sort(), Object.keys(posthaste).sort());
  const [, body] = declarations.match(/^export interface Message \{\n(.*?)^\}/ms);
  const fields = [...body.matchAll(/^ {2}(\w+)\??:/gm)].map(([, field]) => field);
  assert.equal(refusal({ misspelt: 1 }).limit, `an object of ${fields.join(', ')}`);
});
