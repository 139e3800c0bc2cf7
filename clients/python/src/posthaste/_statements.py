"""The calls of Posthaste's SQL functions, with their parameters. Pure."""

from __future__ import annotations

import base64
import json
import re
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.sql import SQL, Composed, Identifier

from ._errors import InvalidMessageError, InvalidSchemaNameError
from ._message import Entry


class Call(NamedTuple):
    """A statement and its parameters."""

    statement: Composed
    parameters: dict[str, Any]


class Statements:
    """The calls into one schema."""

    def __init__(self, schema: str) -> None:
        if not isinstance(schema, str) or not re.fullmatch("(?!pg_)[a-z][a-z0-9_]{0,39}", schema):
            raise InvalidSchemaNameError(str(schema))
        arguments = SQL(", ").join(SQL(f"{name} => %({name})s") for name in Entry._fields)
        name = Identifier(schema)
        self._enqueue = SQL("select {}.enqueue_bytes({})").format(name, arguments)
        self._enqueue_many = SQL("select {}.enqueue_many(%(messages)s)").format(name)
        self._cancel = SQL("select {}.cancel(%(id)s)").format(name)
        self._lock_keys = SQL("select {}.lock_keys(%(keys)s::text[])").format(name)
        self._handle_once = SQL("select {}.handle_once(%(consumer)s, %(id)s)").format(name)
        self._handle_many = SQL("select {}.handle_many(%(consumer)s, %(ids)s::uuid[])").format(name)
        self._refuse = SQL("select {}.refuse(%(reason)s)").format(name)

    def enqueue(self, entry: Entry) -> Call:
        """Answers one row with the message's id."""
        headers = None if entry.headers is None else json.dumps(entry.headers)
        return Call(self._enqueue, {**entry._asdict(), "headers": headers})

    def enqueue_many(self, entries: list[Entry]) -> Call:
        """Answers one row with the id of each message, in order."""
        messages = json.dumps([_to_json(entry) for entry in entries])
        return Call(self._enqueue_many, {"messages": messages})

    def cancel(self, message_id: UUID) -> Call:
        """Answers one row that says whether the message was still waiting."""
        return Call(self._cancel, {"id": message_id})

    def lock_keys(self, keys: list[str]) -> Call:
        """Answers one row without a value."""
        return Call(self._lock_keys, {"keys": keys})

    def handle_once(self, consumer: str, message_id: UUID) -> Call:
        """Answers one row that says whether it is the first time."""
        return Call(self._handle_once, {"consumer": consumer, "id": message_id})

    def handle_many(self, consumer: str, message_ids: list[UUID]) -> Call:
        """Answers one row with the id of each message that is new, in order."""
        return Call(self._handle_many, {"consumer": consumer, "ids": message_ids})

    def refuse(self, error: Exception) -> Call:
        """Fails on purpose, which aborts the transaction."""
        is_invalid = isinstance(error, InvalidMessageError)
        return Call(self._refuse, {"reason": str(error) if is_invalid else "call failed"})


def _to_json(entry: Entry) -> dict[str, Any]:
    fields = entry._asdict()
    # As base64, so that each payload arrives as these very bytes.
    fields["payload_base64"] = base64.b64encode(fields.pop("payload")).decode()
    if entry.message_id is not None:
        fields["message_id"] = str(entry.message_id)
    if entry.deliver_at is not None:
        fields["deliver_at"] = entry.deliver_at.isoformat()
    return fields
