"""Calls Posthaste's SQL functions in the transaction that the caller's connection stands in.

The one place that decides what happens after a failure: whatever it was, the transaction is
aborted, so that it cannot commit the data without the message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from ._chunks import chunks
from ._errors import InvalidMessageError, NoTransactionError
from ._message import Entry, Message, prepare
from ._statements import Call, Statements

_PAYLOAD_BYTES_MAX = 256 * 1024


class _Settings:
    """What both kinds of outbox are made of."""

    def __init__(
        self, schema: str = "posthaste", *, payload_bytes_max: int = _PAYLOAD_BYTES_MAX
    ) -> None:
        """
        :param schema: The schema that ``posthaste migrate`` made.
        :param payload_bytes_max: Payload bytes at most; as set when the schema was made.
        :raises InvalidSchemaNameError: The name is not allowed.
        """
        self._statements = Statements(schema)
        self._payload_bytes_max = payload_bytes_max

    def _entry(self, message: Message) -> Entry:
        return prepare(message, self._payload_bytes_max)

    def _entries(self, messages: Iterable[Message]) -> list[Entry]:
        """All are checked before the first is written."""
        return [prepare(message, self._payload_bytes_max, n) for n, message in enumerate(messages)]


class Outbox(_Settings):
    """Enqueues messages in the caller's own transaction. One per process is enough."""

    def enqueue(self, connection: psycopg.Connection[Any], message: Message) -> UUID:
        """Writes one message in the transaction that ``connection`` stands in, and answers its id;
        or, if its token was used before, the first message's. One round trip.

        After an error the transaction is aborted, unless there was none: roll back, to a savepoint
        or altogether.

        :raises InvalidMessageError: The message is not allowed.
        :raises NoTransactionError: The connection commits each statement by itself.
        :raises psycopg.Error: What the driver reports, untouched.
        """
        _require_transaction(connection)
        try:
            return _answers(connection, self._statements.enqueue(self._entry(message)))[0]
        except Exception as error:
            self._abort(connection, error)
            raise

    def enqueue_many(
        self, connection: psycopg.Connection[Any], messages: Iterable[Message]
    ) -> list[UUID]:
        """Writes messages in their order, and answers their ids in the same order. All are checked
        before the first is written; up to 1,000 share a round trip. Raises as :meth:`enqueue`.
        """
        _require_transaction(connection)
        try:
            ids: list[UUID] = []
            for chunk in chunks(self._entries(messages)):
                ids += _answers(connection, self._statements.enqueue_many(chunk))
            return ids
        except Exception as error:
            self._abort(connection, error)
            raise

    def cancel(self, connection: psycopg.Connection[Any], message_id: UUID) -> bool:
        """Takes a scheduled message back in the transaction that ``connection`` stands in, and
        answers whether it was still waiting.

        :raises NoTransactionError: The connection commits each statement by itself.
        :raises psycopg.Error: What the driver reports, untouched; the transaction is aborted.
        """
        return self._call(connection, self._statements.cancel(message_id))[0]

    def lock_keys(self, connection: psycopg.Connection[Any], keys: Iterable[str]) -> None:
        """Locks ordering keys until the transaction ends, as strict topics ask before an enqueue.
        At most 1,000, better in one call. Raises as :meth:`cancel`.
        """
        self._call(connection, self._statements.lock_keys(list(keys)))

    def _call(self, connection: psycopg.Connection[Any], call: Call) -> list[Any]:
        _require_transaction(connection)
        try:
            return _answers(connection, call)
        except Exception as error:
            self._abort(connection, error)
            raise

    def _abort(self, connection: psycopg.Connection[Any], error: Exception) -> None:
        if _is_the_servers(error):
            return
        why: Exception | None = None
        try:
            _answers(connection, self._statements.refuse(error))
        except Exception as refusal:
            why = refusal
        _note_abort(connection, error, why)


class AsyncOutbox(_Settings):
    """:class:`Outbox` for ``psycopg.AsyncConnection``.

    A cancelled call leaves it open whether the message is in the transaction: roll back, as
    ``async with connection.transaction():`` does.
    """

    async def enqueue(self, connection: psycopg.AsyncConnection[Any], message: Message) -> UUID:
        """As :meth:`Outbox.enqueue`."""
        _require_transaction(connection)
        try:
            call = self._statements.enqueue(self._entry(message))
            return (await _async_answers(connection, call))[0]
        except Exception as error:
            await self._abort(connection, error)
            raise

    async def enqueue_many(
        self, connection: psycopg.AsyncConnection[Any], messages: Iterable[Message]
    ) -> list[UUID]:
        """As :meth:`Outbox.enqueue_many`."""
        _require_transaction(connection)
        try:
            ids: list[UUID] = []
            for chunk in chunks(self._entries(messages)):
                ids += await _async_answers(connection, self._statements.enqueue_many(chunk))
            return ids
        except Exception as error:
            await self._abort(connection, error)
            raise

    async def cancel(self, connection: psycopg.AsyncConnection[Any], message_id: UUID) -> bool:
        """As :meth:`Outbox.cancel`."""
        return (await self._call(connection, self._statements.cancel(message_id)))[0]

    async def lock_keys(
        self, connection: psycopg.AsyncConnection[Any], keys: Iterable[str]
    ) -> None:
        """As :meth:`Outbox.lock_keys`."""
        await self._call(connection, self._statements.lock_keys(list(keys)))

    async def _call(self, connection: psycopg.AsyncConnection[Any], call: Call) -> list[Any]:
        _require_transaction(connection)
        try:
            return await _async_answers(connection, call)
        except Exception as error:
            await self._abort(connection, error)
            raise

    async def _abort(self, connection: psycopg.AsyncConnection[Any], error: Exception) -> None:
        if _is_the_servers(error):
            return
        why: Exception | None = None
        try:
            await _async_answers(connection, self._statements.refuse(error))
        except Exception as refusal:
            why = refusal
        _note_abort(connection, error, why)


def _require_transaction(connection: psycopg.BaseConnection[Any]) -> None:
    """Outside autocommit mode, psycopg begins a transaction with the first statement."""
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise NoTransactionError


def _answers(connection: psycopg.Connection[Any], call: Call) -> list[Any]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return [answer for (answer,) in cursor.execute(*call)]


async def _async_answers(connection: psycopg.AsyncConnection[Any], call: Call) -> list[Any]:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(*call)
        return [answer async for (answer,) in cursor]


def _is_the_servers(error: Exception | None) -> bool:
    """Whether the server reported it, which aborts the transaction."""
    return isinstance(error, psycopg.Error) and error.sqlstate is not None


def _note_abort(
    connection: psycopg.BaseConnection[Any], error: Exception, why: Exception | None
) -> None:
    """Says so in ``error`` if the transaction may still commit, and ``why`` if that is known."""
    is_aborted = connection.closed or _is_the_servers(why)
    if isinstance(error, InvalidMessageError) and not is_aborted:
        error.transaction_aborted = False
        error.__cause__ = why
