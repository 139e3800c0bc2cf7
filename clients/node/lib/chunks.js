// Cuts a bulk enqueue into pieces that one statement carries. Pure.

/** Messages in one statement. */
const CHUNK_MESSAGES_MAX = 1_000;
/** Bytes in one statement, unless a single message is larger. */
const CHUNK_BYTES_MAX = 4 * 1024 * 1024;

/** The pieces of `prepared`, in order, none empty. */
export function* chunks(prepared) {
  let chunk = [];
  let bytes = 0;
  for (const entry of prepared) {
    const weight = weigh(entry);
    if (chunk.length === CHUNK_MESSAGES_MAX || (chunk.length > 0 && bytes + weight > CHUNK_BYTES_MAX)) {
      yield chunk;
      chunk = [];
      bytes = 0;
    }
    chunk.push(entry);
    bytes += weight;
  }
  if (chunk.length > 0) yield chunk;
}

/** Roughly the bytes; what is left out is bounded by the limits and small. */
function weigh({ payload, headers }) {
  const pairs = Object.entries(headers ?? {});
  return payload.length + pairs.reduce((sum, [name, value]) => sum + name.length + value.length, 0);
}
