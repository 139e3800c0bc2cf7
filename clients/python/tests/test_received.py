"""What tests/vectors says of each wire, and what only Python can be handed."""

import base64
import json
import unittest
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

from posthaste import ReceivedMessage, UnreadableMessageError

VECTORS = Path(__file__).parents[3] / "tests" / "vectors"
ENTRY = {
    b"id": b"01920000-0000-7000-8000-000000000001", b"topic": b"t", b"content_type": b"a/b",
    b"enqueued_at": b"2026-01-02T03:04:05.000006Z",
}
ENVELOPE = (
    '{"id":"01920000-0000-7000-8000-000000000001","topic":"t","content_type":"a/b",'
    '"enqueued_at":"2026-01-02T03:04:05.000006Z","headers":{},"payload":"%s"}'
)


def cases(name):
    found = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))["cases"]
    assert len(found) > 30
    return found


def to_message(fields):
    micros = timedelta(microseconds=fields["enqueued_at_micros"])
    return ReceivedMessage(
        id=UUID(fields["id"]),
        topic=fields["topic"],
        key=fields["key"],
        content_type=fields["content_type"],
        enqueued_at=datetime(1970, 1, 1, tzinfo=timezone.utc) + micros,
        correlation_id=fields["correlation_id"],
        headers=dict(fields["headers"]),
        payload=base64.b64decode(fields["payload"]),
    )


class ReceivedTest(unittest.TestCase):
    def check(self, case, read, wire):
        with self.subTest(case["name"]):
            if "message" in case:
                self.assertEqual(read(wire), to_message(case["message"]))
                return
            error = self.refusal(read, wire)
            self.assertEqual({"field": error.field, "rule": error.rule}, case["refused"])

    def refusal(self, read, wire):
        with self.assertRaises(UnreadableMessageError) as caught:
            read(wire)
        return caught.exception

    def test_stream_entries_mean_what_the_vectors_say(self):
        for case in cases("redis-stream"):
            wire = {name: base64.b64decode(value) for name, value in case["wire"]}
            self.check(case, ReceivedMessage.from_stream_entry, wire)
            wire = {name.encode(): value for name, value in wire.items()}
            self.check(case, ReceivedMessage.from_stream_entry, wire)

    def test_envelopes_mean_what_the_vectors_say(self):
        for case in cases("envelope"):
            self.check(case, ReceivedMessage.from_envelope, base64.b64decode(case["wire"]))

    def test_events_mean_what_the_vectors_say_also_as_stream_entries(self):
        for case in cases("cloudevents"):
            wire = base64.b64decode(case["wire"])
            self.check(case, ReceivedMessage.from_cloudevent, wire)
            self.check(case, ReceivedMessage.from_stream_entry, {b"cloudevent": wire})

    def test_text_will_do_for_everything_but_a_payload(self):
        text = {name.decode(): value.decode() for name, value in ENTRY.items()}
        message = ReceivedMessage.from_stream_entry({**text, "h:a": "ö", "payload": b"p"})
        self.assertEqual((message.headers, message.payload), ({"a": "ö"}, b"p"))
        # It may be what is left of other bytes.
        error = self.refusal(ReceivedMessage.from_stream_entry, {**text, "payload": "p"})
        self.assertEqual(error.field, "payload")
        self.assertIn("decode_responses", error.rule)
        self.assertEqual(ReceivedMessage.from_envelope(ENVELOPE % "ö").payload, "ö".encode())

    def test_lone_surrogate_is_no_string(self):
        error = self.refusal(ReceivedMessage.from_envelope, ENVELOPE % "\\ud800")
        self.assertEqual((error.field, error.rule), ("payload", "a string"))

    def test_depth_and_size_of_a_payload_are_no_limit(self):
        for payload in ["[" * 100_000 + "]" * 100_000, "1" * 5_000]:
            event = (
                '{"specversion":"1.0","id":"01920000-0000-7000-8000-000000000001","type":"t",'
                '"time":"2026-01-02T03:04:05.000006Z","datacontenttype":"application/json",'
                f'"data":{payload}}}'
            )
            self.assertEqual(ReceivedMessage.from_cloudevent(event).payload, payload.encode())

    def test_error_shows_nothing_but_the_field_and_what_it_must_be(self):
        error = self.refusal(ReceivedMessage.from_stream_entry, {b"id": b"secret"})
        text = "message unreadable: id must be a UUID in lower case with hyphens"
        self.assertEqual(str(error), text)
        fields = {**ENTRY, b"h:\n": b"\xff", b"payload": b"p"}
        error = self.refusal(ReceivedMessage.from_stream_entry, fields)
        self.assertEqual(str(error), "message unreadable: h:\\n must be valid UTF-8")
        message = ReceivedMessage.from_stream_entry({**ENTRY, b"payload": b"secret"})
        self.assertNotIn("secret", repr(message))


if __name__ == "__main__":
    unittest.main()
