"""Sends calls of Posthaste's SQL functions in the transaction that the caller's connection stands in.

The one place that decides what happens after a failure: whatever it was, the transaction is
aborted, so that it cannot commit the data without the message, or an effect without its record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from ._errors import InvalidMessageError, NoTransactionError
from ._statements import Call, Statements


@contextmanager
def in_transaction(
    connection: psycopg.Connection[Any], statements: Statements
) -> Iterator[None]:
    """Work that fails aborts the transaction."""
    _require_transaction(connection)
    try:
        yield
    except Exception as error:
        if not _is_the_servers(error):
            why: Exception | None = None
            try:
                answers(connection, statements.refuse(error))
            except Exception as refusal:
                why = refusal
            _note_abort(connection, error, why)
        raise


@asynccontextmanager
async def async_in_transaction(
    connection: psycopg.AsyncConnection[Any], statements: Statements
) -> AsyncIterator[None]:
    """:func:`in_transaction` for ``psycopg.AsyncConnection``."""
    _require_transaction(connection)
    try:
        yield
    except Exception as error:
        if not _is_the_servers(error):
            why: Exception | None = None
            try:
                await async_answers(connection, statements.refuse(error))
            except Exception as refusal:
                why = refusal
            _note_abort(connection, error, why)
        raise


def answers(connection: psycopg.Connection[Any], call: Call) -> list[Any]:
    """The first column of the answer."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        return [answer for (answer,) in cursor.execute(*call)]


async def async_answers(connection: psycopg.AsyncConnection[Any], call: Call) -> list[Any]:
    """:func:`answers` for ``psycopg.AsyncConnection``."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(*call)
        return [answer async for (answer,) in cursor]


def _require_transaction(connection: psycopg.BaseConnection[Any]) -> None:
    """Outside autocommit mode, psycopg begins a transaction with the first statement."""
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise NoTransactionError


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
