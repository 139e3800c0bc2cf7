// Why something was refused before the database was asked. Pure. What the database or its driver
// reports comes through untouched and has no class here.

const SHOWN_CHARACTERS = 60;

/** A message that may not be written: which field, what the limit is, and what it was. */
export class InvalidMessageError extends Error {
  constructor(field, limit, value, index = null) {
    const shown = shorten(value);
    const place = index === null ? '' : `messages[${index}]: `;
    super(`${place}message refused: ${field} must be ${limit}, not ${quote(shown)}`);
    this.name = 'InvalidMessageError';
    this.field = field;
    this.limit = limit;
    this.value = shown;
    this.index = index;
    this.transactionAborted = true;
  }

  /** Records that the transaction could not be aborted, and why, if the driver said so. */
  notAborted(why) {
    this.transactionAborted = false;
    this.message += '; the transaction can still commit without the message: roll it back';
    if (why !== undefined) this.cause = why;
  }
}

/** A schema name that is not allowed. */
export class InvalidSchemaNameError extends Error {
  constructor(schema) {
    super(
      `schema name ${quote(shorten(schema))} is not allowed: use a lower-case letter followed by ` +
        'up to 39 lower-case letters, digits or underscores, not starting with pg_, for example "posthaste"',
    );
    this.name = 'InvalidSchemaNameError';
  }
}

/** A consumer's name that is not allowed. */
export class InvalidConsumerError extends Error {
  constructor(consumer) {
    const limit = '1 to 255 bytes without control characters';
    super(`message refused: consumer must be ${limit}, not ${quote(shorten(consumer))}`);
    this.name = 'InvalidConsumerError';
  }
}

/** What arrived is not a message of the relay's: which field, and what it must be. */
export class UnreadableMessageError extends Error {
  constructor(field, rule) {
    const [, shown] = quote(field).match(/^"(.*)"$/);
    super(`message unreadable: ${shown} must be ${rule}`);
    this.name = 'UnreadableMessageError';
    this.field = field;
    this.rule = rule;
  }
}

/** The connection is not inside a transaction, so the call would not share one with the data. */
export class NoTransactionError extends Error {
  constructor(remedy) {
    super(`nothing was sent: ${remedy}`);
    this.name = 'NoTransactionError';
  }
}

function shorten(value) {
  // Two code units at most for each character, and one character more to see that there is more.
  const characters = [...value.slice(0, 2 * (SHOWN_CHARACTERS + 1))];
  if (characters.length <= SHOWN_CHARACTERS) return value;
  return `${characters.slice(0, SHOWN_CHARACTERS).join('')}…`;
}

/** Quotes as the SQL functions and the Rust adapters do, so that one mistake has one text. */
function quote(text) {
  return `"${text.replace(/["\\]|[\0-\x1f\x7f-\x9f]|\p{Surrogate}/gu, escape)}"`;
}

function escape(character) {
  const short = { '"': '\\"', '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t', '\0': '\\0' };
  return short[character] ?? `\\u{${character.charCodeAt(0).toString(16)}}`;
}
