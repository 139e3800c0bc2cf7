"""What only Python can get wrong in a message.

The limits and their texts are compared with the Rust side's by the contract suite, through a real
driver.
"""

import unittest
from datetime import datetime
from types import SimpleNamespace

from posthaste import InvalidMessageError, Message
from posthaste._chunks import chunks
from posthaste._message import prepare

MAX = 256 * 1024
LONE = "a\ud800b"


class MessageTest(unittest.TestCase):
    def refusal(self, message):
        with self.assertRaises(InvalidMessageError) as caught:
            prepare(message, MAX)
        # A text that goes to the server.
        str(caught.exception).encode()
        return caught.exception

    def test_each_kind_of_payload_has_its_content_type(self):
        cases = [
            ({"json": {"a": "é"}}, '{"a":"é"}', "application/json"),
            ({"json": None}, "null", "application/json"),
            ({}, "", "application/octet-stream"),
            ({"text": "é"}, "é", "text/plain; charset=utf-8"),
            ({"text": ""}, "", "text/plain; charset=utf-8"),
            ({"data": memoryview(b"hi")[1:]}, "i", "application/octet-stream"),
            ({"data": b"x", "content_type": "a/b"}, "x", "a/b"),
        ]
        for fields, payload, content_type in cases:
            with self.subTest(fields):
                entry = prepare(Message("t", **fields), MAX)
                self.assertEqual((entry.payload, entry.content_type), (payload.encode(), content_type))

    def test_a_field_of_the_wrong_type_is_refused(self):
        circle = []
        circle.append(circle)
        cases = [
            (None, {}, "topic"),
            ("t", {"key": 17}, "key"),
            ("t", {"content_type": 17}, "content_type"),
            ("t", {"correlation_id": b"x"}, "correlation_id"),
            ("t", {"token": 17}, "token"),
            ("t", {"deliver_at": "2026-01-01T00:00:00Z"}, "deliver_at"),
            ("t", {"deliver_at": datetime(2026, 1, 1)}, "deliver_at"),
            ("t", {"headers": [("a", "b")]}, "headers"),
            ("t", {"headers": {"a": 1}}, "header value"),
            ("t", {"headers": {1: "a"}}, "header name"),
            ("t", {"json": {}, "text": ""}, "payload"),
            ("t", {"json": float("nan")}, "payload"),
            ("t", {"json": object()}, "payload"),
            ("t", {"json": circle}, "payload"),
            ("t", {"text": b"x"}, "payload"),
            ("t", {"data": "x"}, "payload"),
            ("t", {"data": 17}, "payload"),
        ]
        for topic, fields, field in cases:
            with self.subTest(fields):
                self.assertEqual(self.refusal(Message(topic, **fields)).field, field)

    def test_a_lone_surrogate_is_refused_for_utf_8_cannot_hold_it(self):
        self.assertEqual(self.refusal(Message("t", text=LONE)).field, "payload")
        self.assertEqual(self.refusal(Message("t", json=[LONE])).field, "payload")
        self.assertEqual(self.refusal(Message("t", headers={"a": LONE})).field, "header value")
        self.assertEqual(
            str(self.refusal(Message("t", key=LONE))),
            'message refused: key must be valid Unicode, not "a\\u{d800}b"',
        )

    def test_an_error_shows_at_most_sixty_characters(self):
        self.assertEqual(self.refusal(Message("🔑" * 61)).value, "🔑" * 60 + "…")
        self.assertEqual(self.refusal(Message("🔑" * 60)).value, "🔑" * 60)

    def test_neither_an_error_nor_a_message_shows_a_payload(self):
        message = Message("t", json=["secret", LONE])
        self.assertNotIn("secret", repr(message))
        self.assertNotIn("secret", str(self.refusal(message)))

    def test_chunks_end_at_the_limits_of_messages_and_of_bytes(self):
        def lengths(payloads):
            entries = [SimpleNamespace(payload=bytes(n), headers=None) for n in payloads]
            return [len(chunk) for chunk in chunks(entries)]

        half = 2 * 1024 * 1024
        self.assertEqual(lengths([]), [])
        self.assertEqual(lengths([1] * 2_001), [1_000, 1_000, 1])
        self.assertEqual(lengths([half, half, 1]), [2, 1])
        self.assertEqual(lengths([half, half + 1, 1]), [1, 2])
        self.assertEqual(lengths([1, 2 * half + 1, 1]), [1, 1, 1])


if __name__ == "__main__":
    unittest.main()
