"""Why something was refused before the database was asked. Pure.

What the database or its driver reports comes through untouched and has no class here.
"""

from __future__ import annotations

import re

_SHOWN_CHARACTERS = 60
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}


class InvalidMessageError(ValueError):
    """A message that may not be written: which field, what the limit is, and what it was."""

    field: str
    """The field at fault, as the SQL functions name it."""
    limit: str
    """What the field must be."""
    value: str
    """The offending value, shortened, or its size. Never a payload."""
    index: int | None
    """Which message it was, counted from 0, when several were enqueued at once."""
    transaction_aborted: bool
    """Whether the transaction is certain not to commit; ``False`` is rare: roll back then."""

    def __init__(self, field: str, limit: str, value: str, index: int | None = None) -> None:
        super().__init__(field, limit, value, index)
        self.field, self.limit, self.value = field, limit, _shorten(value)
        self.index, self.transaction_aborted = index, True

    def __str__(self) -> str:
        place = "" if self.index is None else f"messages[{self.index}]: "
        text = f"{place}message refused: {self.field} must be {self.limit}, not {_quote(self.value)}"
        if self.transaction_aborted:
            return text
        return f"{text}; the transaction can still commit without the message: roll it back"


class InvalidSchemaNameError(ValueError):
    """A schema name that is not allowed."""

    def __init__(self, schema: str) -> None:
        super().__init__(
            f"schema name {_quote(_shorten(schema))} is not allowed: use a lower-case letter "
            "followed by up to 39 lower-case letters, digits or underscores, not starting with "
            'pg_, for example "posthaste"'
        )


class InvalidConsumerError(ValueError):
    """A consumer's name that is not allowed."""

    def __init__(self, consumer: str) -> None:
        super().__init__(
            "message refused: consumer must be 1 to 255 bytes without control characters, not "
            f"{_quote(_shorten(consumer))}"
        )


class UnreadableMessageError(ValueError):
    """What arrived is not a message of the relay's. Holds nothing of it."""

    field: str
    """The field at fault, as it is called on the wire; ``entry``, ``envelope`` or ``cloudevent`` for
    the whole."""
    rule: str
    """What it must be."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(field, rule)
        self.field, self.rule = field, rule

    def __str__(self) -> str:
        return f"message unreadable: {_quote(self.field)[1:-1]} must be {self.rule}"


class NoTransactionError(RuntimeError):
    """The connection is in autocommit mode and not inside a transaction. Nothing was written."""

    def __init__(self) -> None:
        super().__init__(
            "nothing was sent: the connection is in autocommit mode and not inside a "
            "transaction; use `with connection.transaction():` around the data and the message"
        )


def _shorten(value: str) -> str:
    return value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}…"


def _quote(text: str) -> str:
    """Quotes as the SQL functions and the Rust adapters do, so that one mistake has one text."""

    def escape(match: re.Match[str]) -> str:
        character = match.group()
        return _SHORT_ESCAPES.get(character) or f"\\u{{{ord(character):x}}}"

    return '"' + re.sub(r'["\\]|[\0-\x1f\x7f-\x9f]|[\ud800-\udfff]', escape, text) + '"'
