// The members of a JSON object, with their values as they are written: numbers, white space and the
// order of members would not survive JSON.parse. Pure.

/** Names and written values, in their order; undefined where `document` is not one JSON object. */
export function members(document) {
  let value;
  try {
    value = JSON.parse(document);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  return scan(document);
}

/** The members of an object of strings, each name once; undefined where it is none. */
export function strings(document) {
  const pairs = members(document)?.map(([name, written]) => [name, string(written)]);
  if (pairs === undefined || pairs.some(([, value]) => value === undefined)) return undefined;
  return repeated(pairs) === undefined ? pairs : undefined;
}

/** The string that is written so; undefined where it is none, or no Unicode. */
export function string(written) {
  const value = JSON.parse(written);
  return typeof value === 'string' && !/\p{Surrogate}/u.test(value) ? value : undefined;
}

/** A name that stands twice. */
export function repeated(pairs) {
  const seen = new Set();
  return pairs.find(([name]) => seen.size === seen.add(name).size)?.[0];
}

/** `document` is known to be one object, so that only strings and brackets have to be told apart. */
function scan(document) {
  const found = [];
  let depth = 0;
  let name;
  let begin;
  for (let at = 0; at < document.length; at += 1) {
    const letter = document[at];
    if (letter === '"') {
      const end = endOfString(document, at);
      if (depth === 1 && begin === undefined) name = JSON.parse(document.slice(at, end));
      at = end - 1;
    } else if (letter === ':' && depth === 1) {
      begin = at + 1;
    } else if (letter === '{' || letter === '[') {
      depth += 1;
    } else if ((letter === '}' || letter === ']') && depth > 1) {
      depth -= 1;
    } else if ((letter === ',' || letter === '}') && depth === 1 && begin !== undefined) {
      found.push([name, document.slice(begin, at)]);
      begin = undefined;
    }
  }
  return found;
}

/** Behind the quote that closes the string whose opening one stands at `at`. */
function endOfString(document, at) {
  let end = at + 1;
  while (document[end] !== '"') end += document[end] === '\\' ? 2 : 1;
  return end + 1;
}
