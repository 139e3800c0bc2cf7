"""Does what the contract suite asks for (crates/posthaste/tests/clients): one JSON command a line,
one JSON answer a line. ``session.py sync|async``; the suite sees to it that ``posthaste`` and
psycopg are found.
"""

import asyncio
import base64
import json
import os
import sys
from datetime import datetime, timedelta, timezone
from uuid import UUID

import psycopg

from posthaste import (
    AsyncInbox,
    AsyncOutbox,
    Inbox,
    InvalidConsumerError,
    InvalidMessageError,
    InvalidSchemaNameError,
    Message,
    NoTransactionError,
    Outbox,
)


def to_message(fields):
    fields = dict(fields)
    if "bytes" in fields:
        fields["data"] = base64.b64decode(fields.pop("bytes"))
    if "deliver_at_micros" in fields:
        micros = timedelta(microseconds=fields.pop("deliver_at_micros"))
        fields["deliver_at"] = datetime(1970, 1, 1, tzinfo=timezone.utc) + micros
    if "id" in fields:
        fields["id"] = UUID(fields["id"])
    return Message(**fields)


def to_answer(error):
    if isinstance(error, InvalidMessageError):
        return {
            "kind": "invalid_message", "text": str(error), "field": error.field,
            "limit": error.limit, "value": error.value, "index": error.index,
            "aborted": error.transaction_aborted,
        }
    if isinstance(error, InvalidConsumerError):
        return {"kind": "invalid_consumer", "text": str(error)}
    if isinstance(error, InvalidSchemaNameError):
        return {"kind": "invalid_schema_name", "text": str(error)}
    if isinstance(error, NoTransactionError):
        return {"kind": "no_transaction", "text": str(error)}
    if isinstance(error, psycopg.Error):
        return {"kind": "database", "text": str(error), "sqlstate": error.sqlstate}
    raise error


def options(command):
    return {name: value for name, value in command.items() if name != "do"}


class AsyncSession:
    """One connection, in autocommit mode unless told otherwise."""

    def __init__(self, connection):
        self.connection, self.posthaste = connection, AsyncOutbox()
        self.handled = AsyncInbox("mail")

    async def outbox(self, command):
        self.posthaste = AsyncOutbox(**options(command))

    async def execute(self, command):
        await self.connection.execute(command["sql"])

    async def enqueue(self, command):
        return [await self.posthaste.enqueue(self.connection, to_message(command["message"]))]

    async def enqueue_many(self, command):
        messages = map(to_message, command["messages"])
        return await self.posthaste.enqueue_many(self.connection, messages)

    async def cancel(self, command):
        return await self.posthaste.cancel(self.connection, UUID(command["id"]))

    async def lock_keys(self, command):
        await self.posthaste.lock_keys(self.connection, command["keys"])

    async def inbox(self, command):
        self.handled = AsyncInbox(**options(command))

    async def handle(self, command):
        return await self.handled.handle(self.connection, UUID(command["id"]))

    async def handle_many(self, command):
        return await self.handled.handle_many(self.connection, map(UUID, command["ids"]))

    # What only this driver can be asked.

    async def leave_autocommit(self, command):
        await self.connection.set_autocommit(False)

    async def enqueue_in_a_pipeline(self, command):
        async with self.connection.pipeline(), self.connection.transaction():
            await self.connection.execute("insert into orders (id) values (17)")
            return await self.enqueue(command)


class SyncSession:
    """The same with the blocking connection."""

    def __init__(self, connection):
        self.connection, self.posthaste = connection, Outbox()
        self.handled = Inbox("mail")

    async def outbox(self, command):
        self.posthaste = Outbox(**options(command))

    async def execute(self, command):
        self.connection.execute(command["sql"])

    async def enqueue(self, command):
        return [self.posthaste.enqueue(self.connection, to_message(command["message"]))]

    async def enqueue_many(self, command):
        return self.posthaste.enqueue_many(self.connection, map(to_message, command["messages"]))

    async def cancel(self, command):
        return self.posthaste.cancel(self.connection, UUID(command["id"]))

    async def lock_keys(self, command):
        self.posthaste.lock_keys(self.connection, command["keys"])

    async def inbox(self, command):
        self.handled = Inbox(**options(command))

    async def handle(self, command):
        return self.handled.handle(self.connection, UUID(command["id"]))

    async def handle_many(self, command):
        return self.handled.handle_many(self.connection, map(UUID, command["ids"]))

    async def leave_autocommit(self, command):
        self.connection.autocommit = False

    async def enqueue_in_a_pipeline(self, command):
        with self.connection.pipeline(), self.connection.transaction():
            self.connection.execute("insert into orders (id) values (17)")
            return await self.enqueue(command)


async def answer(session, command):
    name = command["do"]
    if name in ("begin", "commit", "rollback"):
        name, command = "execute", {"sql": name}
    try:
        answered = await getattr(session, name)(command)
    except Exception as error:
        return {"error": to_answer(error)}
    if isinstance(answered, bool):
        return {"found": answered}
    return {} if answered is None else {"ids": [str(message_id) for message_id in answered]}


async def main():
    url = os.environ["DATABASE_URL"]
    if sys.argv[1] == "async":
        session = AsyncSession(await psycopg.AsyncConnection.connect(url, autocommit=True))
    else:
        session = SyncSession(psycopg.connect(url, autocommit=True))
    # Reading blocks the loop, which has nothing else to do then.
    for line in sys.stdin:
        print(json.dumps(await answer(session, json.loads(line))), flush=True)


asyncio.run(main())
