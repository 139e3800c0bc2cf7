"""Enqueues with psycopg, inside the application's own transactions."""

import base64
import os

import psycopg
from psycopg.types.json import Json

EVERY_BYTE = bytes(range(256))
HEADERS = {"note": 'say "hi" \\ ünï {},\n', "tenant": "acme"}


def create_order(cursor):
    cursor.execute("insert into orders (id) values (17)")
    cursor.execute(
        "select posthaste.enqueue(%s, %s, key => %s, headers => %s)",
        ("orders.created", Json({"order": 17, "note": "✓ ü"}), "order-17", Json(HEADERS)),
    )
    ids = cursor.fetchall()
    cursor.execute("select posthaste.enqueue(%s)", ("orders.pinged",))
    ids += cursor.fetchall()
    cursor.execute(
        "select posthaste.enqueue_bytes(%s, %s, content_type => %s, correlation_id => %s)",
        ("images.stored", EVERY_BYTE, "image/png", "request-1"),
    )
    ids += cursor.fetchall()
    messages = [
        {"topic": "audit", "payload": {"n": 1}},
        {"topic": "audit", "payload_base64": base64.b64encode(EVERY_BYTE).decode(),
         "key": "order-17", "headers": HEADERS},
    ]
    cursor.execute("select posthaste.enqueue_many(%s)", (Json(messages),))
    return ids + cursor.fetchall()


with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    with connection.transaction(), connection.cursor() as cursor:
        committed = create_order(cursor)
    with connection.transaction(), connection.cursor() as cursor:
        create_order(cursor)
        raise psycopg.Rollback

for (message_id,) in committed:
    print(message_id)
