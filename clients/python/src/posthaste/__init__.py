"""Enqueues messages into a Posthaste outbox, in the caller's own transaction.

Nothing here opens a connection, begins a transaction or ends one.
"""

from ._errors import InvalidMessageError, InvalidSchemaNameError, NoTransactionError
from ._message import Message
from ._outbox import AsyncOutbox, Outbox

__all__ = [
    "AsyncOutbox",
    "InvalidMessageError",
    "InvalidSchemaNameError",
    "Message",
    "NoTransactionError",
    "Outbox",
]
