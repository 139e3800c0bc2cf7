"""Enqueues messages into a Posthaste outbox, and tells first deliveries from repeats, in the
caller's own transaction.

Nothing here opens a connection, begins a transaction or ends one.
"""

from ._errors import (
    InvalidConsumerError,
    InvalidMessageError,
    InvalidSchemaNameError,
    NoTransactionError,
    UnreadableMessageError,
)
from ._inbox import AsyncInbox, Inbox
from ._message import Message
from ._outbox import AsyncOutbox, Outbox
from ._received import ReceivedMessage

__all__ = [
    "AsyncInbox",
    "AsyncOutbox",
    "Inbox",
    "InvalidConsumerError",
    "InvalidMessageError",
    "InvalidSchemaNameError",
    "Message",
    "NoTransactionError",
    "Outbox",
    "ReceivedMessage",
    "UnreadableMessageError",
]
