"""Enqueues messages: checks them, and calls the SQL functions that write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import psycopg

from ._chunks import chunks
from ._message import Entry, Message, prepare
from ._statements import Call, Statements
from ._transaction import answers, async_answers, async_in_transaction, in_transaction

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
        with in_transaction(connection, self._statements):
            return answers(connection, self._statements.enqueue(self._entry(message)))[0]

    def enqueue_many(
        self, connection: psycopg.Connection[Any], messages: Iterable[Message]
    ) -> list[UUID]:
        """Writes messages in their order, and answers their ids in the same order. All are checked
        before the first is written; up to 1,000 share a round trip. Raises as :meth:`enqueue`.
        """
        with in_transaction(connection, self._statements):
            ids: list[UUID] = []
            for chunk in chunks(self._entries(messages)):
                ids += answers(connection, self._statements.enqueue_many(chunk))
            return ids

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
        with in_transaction(connection, self._statements):
            return answers(connection, call)


class AsyncOutbox(_Settings):
    """:class:`Outbox` for ``psycopg.AsyncConnection``.

    A cancelled call leaves it open whether the message is in the transaction: roll back, as
    ``async with connection.transaction():`` does.
    """

    async def enqueue(self, connection: psycopg.AsyncConnection[Any], message: Message) -> UUID:
        """As :meth:`Outbox.enqueue`."""
        async with async_in_transaction(connection, self._statements):
            call = self._statements.enqueue(self._entry(message))
            return (await async_answers(connection, call))[0]

    async def enqueue_many(
        self, connection: psycopg.AsyncConnection[Any], messages: Iterable[Message]
    ) -> list[UUID]:
        """As :meth:`Outbox.enqueue_many`."""
        async with async_in_transaction(connection, self._statements):
            ids: list[UUID] = []
            for chunk in chunks(self._entries(messages)):
                ids += await async_answers(connection, self._statements.enqueue_many(chunk))
            return ids

    async def cancel(self, connection: psycopg.AsyncConnection[Any], message_id: UUID) -> bool:
        """As :meth:`Outbox.cancel`."""
        return (await self._call(connection, self._statements.cancel(message_id)))[0]

    async def lock_keys(
        self, connection: psycopg.AsyncConnection[Any], keys: Iterable[str]
    ) -> None:
        """As :meth:`Outbox.lock_keys`."""
        await self._call(connection, self._statements.lock_keys(list(keys)))

    async def _call(self, connection: psycopg.AsyncConnection[Any], call: Call) -> list[Any]:
        async with async_in_transaction(connection, self._statements):
            return await async_answers(connection, call)
