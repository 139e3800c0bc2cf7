"""Records, in the transaction of a message's effect, that a consumer has handled the message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import psycopg

from ._errors import InvalidConsumerError
from ._statements import Call, Statements
from ._transaction import answers, async_answers, async_in_transaction, in_transaction

_CONSUMER_BYTES_MAX = 255


class _Settings:
    """What both kinds of inbox are made of."""

    def __init__(self, consumer: str, schema: str = "posthaste") -> None:
        """
        :param consumer: A name of 1 to 255 bytes: whoever must not repeat each other's effects
            shares one.
        :param schema: The schema that ``posthaste migrate`` made.
        :raises InvalidConsumerError: The consumer's name is not allowed.
        :raises InvalidSchemaNameError: The schema's name is not allowed.
        """
        if not _is_name(consumer):
            raise InvalidConsumerError(str(consumer))
        self._consumer, self._statements = consumer, Statements(schema)

    def _once(self, message_id: UUID) -> Call:
        return self._statements.handle_once(self._consumer, message_id)

    def _many(self, message_ids: Iterable[UUID]) -> Call:
        return self._statements.handle_many(self._consumer, list(message_ids))


class Inbox(_Settings):
    """Tells first deliveries of messages from repeats, for one consumer. One per process is
    enough.
    """

    def handle(self, connection: psycopg.Connection[Any], message_id: UUID) -> bool:
        """Records in the transaction that ``connection`` stands in that the message is handled, and
        answers whether it is the first time: its effect then belongs into this transaction. While
        another transaction is handling it, this waits for the outcome. One round trip.

        After an error the transaction is aborted, unless there was none: roll back, and have the
        message delivered again.

        :raises NoTransactionError: The connection commits each statement by itself.
        :raises psycopg.Error: What the driver reports, untouched.
        """
        with in_transaction(connection, self._statements):
            return answers(connection, self._once(message_id))[0]

    def handle_many(
        self, connection: psycopg.Connection[Any], message_ids: Iterable[UUID]
    ) -> list[UUID]:
        """Records that up to 10,000 messages are handled, and answers those that are new, each
        once, in their order. One round trip; make one call in a transaction. Raises as
        :meth:`handle`.
        """
        with in_transaction(connection, self._statements):
            return answers(connection, self._many(message_ids))


class AsyncInbox(_Settings):
    """:class:`Inbox` for ``psycopg.AsyncConnection``.

    A cancelled call leaves it open whether the record is in the transaction: roll back, as
    ``async with connection.transaction():`` does.
    """

    async def handle(self, connection: psycopg.AsyncConnection[Any], message_id: UUID) -> bool:
        """As :meth:`Inbox.handle`."""
        async with async_in_transaction(connection, self._statements):
            return (await async_answers(connection, self._once(message_id)))[0]

    async def handle_many(
        self, connection: psycopg.AsyncConnection[Any], message_ids: Iterable[UUID]
    ) -> list[UUID]:
        """As :meth:`Inbox.handle_many`."""
        async with async_in_transaction(connection, self._statements):
            return await async_answers(connection, self._many(message_ids))


def _is_name(consumer: str) -> bool:
    if not isinstance(consumer, str) or re.search("[\0-\x1f\x7f-\x9f\ud800-\udfff]", consumer):
        return False
    return 1 <= len(consumer.encode()) <= _CONSUMER_BYTES_MAX
