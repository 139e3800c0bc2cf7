"""Reads messages as they arrive: what the relay's sinks write. Pure; knows no broker's client.

What stands on the wire is fixed by ``tests/vectors``, which the relay's tests write. A field that is
not known is passed over: a relay may be newer than its consumers.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Final, NoReturn, TypeVar
from uuid import UUID

from ._errors import UnreadableMessageError
from ._json import members, repeated, string, strings

_ONCE = "present once"
_PRESENT = "present"

_HEADERS_ATTRIBUTE = "posthasteheaders"
_ATTRIBUTES: Final = {
    "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema",
    "data", "data_base64", "correlationid", _HEADERS_ATTRIBUTE,
}
"""Attributes of an event that are no headers."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class ReceivedMessage:
    """A message as it arrived."""

    id: UUID
    """The same at each delivery."""
    topic: str
    key: str | None
    """The ordering key."""
    content_type: str
    enqueued_at: datetime
    """When it was written, on the database's clock."""
    correlation_id: str | None
    headers: dict[str, str]
    payload: bytes = field(repr=False)
    """Byte for byte."""

    @classmethod
    def from_stream_entry(cls, fields: Mapping[bytes | str, bytes | str]) -> ReceivedMessage:
        """Reads an entry of a Redis stream, of either format of the sink ``redis-stream``. The
        payload must be bytes: leave ``decode_responses`` of the client off.

        :raises UnreadableMessageError: The entry is not one that the sink writes.
        """
        entry = {_name(name): value for name, value in fields.items()}
        if "cloudevent" in entry:
            return cls.from_cloudevent(entry["cloudevent"])

        def read(name: str) -> str | None:
            return _text(name, entry[name]) if name in entry else None

        return cls(
            id=_id("id", _required("id", read("id"))),
            topic=_filled("topic", _required("topic", read("topic"))),
            key=_optional_filled("key", read("key")),
            content_type=_required("content_type", read("content_type")),
            enqueued_at=_time("enqueued_at", _required("enqueued_at", read("enqueued_at"))),
            correlation_id=read("correlation_id"),
            headers={
                name[2:]: _text(name, value)
                for name, value in entry.items()
                if name.startswith("h:")
            },
            payload=_payload(_required("payload", entry.get("payload"))),
        )

    @classmethod
    def from_envelope(cls, envelope: bytes | str) -> ReceivedMessage:
        """Reads an envelope of the sinks ``redis-list`` and ``redis-pubsub``, or a line of
        ``stdout``.

        :raises UnreadableMessageError: It is not an envelope.
        """
        document = _Document("envelope", envelope)
        read = document.read
        payload, encoded = read("payload"), read("payload_base64")
        if payload is not None and encoded is not None:
            _refuse("payload", _ONCE)
        headers = strings(_required("headers", document.written.get("headers")))
        if headers is None:
            _refuse("headers", "an object of strings")
        return cls(
            id=_id("id", _required("id", read("id"))),
            topic=_filled("topic", _required("topic", read("topic"))),
            key=_optional_filled("key", read("key")),
            content_type=_required("content_type", read("content_type")),
            enqueued_at=_time("enqueued_at", _required("enqueued_at", read("enqueued_at"))),
            correlation_id=read("correlation_id"),
            headers=dict(headers),
            payload=(
                _required("payload", payload).encode()
                if encoded is None
                else _bytes("payload_base64", encoded)
            ),
        )

    @classmethod
    def from_cloudevent(cls, event: bytes | str) -> ReceivedMessage:
        """Reads a CloudEvent of the relay's (JSON, structured mode); a JSON payload as it stands
        there, byte for byte.

        :raises UnreadableMessageError: It is not such an event.
        """
        document = _Document("cloudevent", event)
        read = document.read
        if _required("specversion", read("specversion")) != "1.0":
            _refuse("specversion", "1.0")
        content_type = _required("datacontenttype", read("datacontenttype"))
        return cls(
            id=_id("id", _required("id", read("id"))),
            topic=_filled("type", _required("type", read("type"))),
            key=_optional_filled("subject", read("subject")),
            content_type=content_type,
            enqueued_at=_time("time", _required("time", read("time"))),
            correlation_id=read("correlationid"),
            headers=_event_headers(document),
            payload=_event_payload(document, content_type),
        )


class _Document:
    """The members of a JSON object as they are written; each name stands once."""

    def __init__(self, name: str, document: bytes | str) -> None:
        try:
            text = document if isinstance(document, str) else document.decode()
            found = members(text)
        except UnicodeDecodeError:
            found = None
        if found is None:
            _refuse(name, "one JSON object in UTF-8")
        twice = repeated(found)
        if twice is not None:
            _refuse(twice, _ONCE)
        self.written = dict(found)

    def read(self, name: str) -> str | None:
        """The value of a member that is a string."""
        if name not in self.written:
            return None
        value = string(self.written[name])
        return _refuse(name, "a string") if value is None else value


def _event_headers(document: _Document) -> dict[str, str]:
    others = document.read(_HEADERS_ATTRIBUTE)
    headers = [] if others is None else strings(others)
    if headers is None:
        _refuse(_HEADERS_ATTRIBUTE, "an object of strings, as JSON")
    for name in document.written:
        if name not in _ATTRIBUTES:
            headers.append((name, _required(name, document.read(name))))
    twice = repeated(headers)
    if twice is not None:
        _refuse(twice, _ONCE)
    return dict(headers)


def _event_payload(document: _Document, content_type: str) -> bytes:
    encoded = document.read("data_base64")
    if encoded is not None:
        if "data" in document.written:
            _refuse("data", _ONCE)
        return _bytes("data_base64", encoded)
    data = _required("data", document.written.get("data"))
    if _is_json(content_type):
        return data.encode()
    return _required("data", document.read("data")).encode()


def _is_json(content_type: str) -> bool:
    """Whether the relay puts a payload of this type into an event as it is."""
    essence = content_type.split(";", 1)[0].strip().lower()
    return essence == "application/json" or (len(essence) > 5 and essence.endswith("+json"))


def _name(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode(errors="replace")


def _text(name: str, value: bytes | str) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        _refuse(name, "valid UTF-8")


def _payload(value: bytes | str) -> bytes:
    """A client that answers text has refused or replaced what is no UTF-8 already."""
    if isinstance(value, str):
        _refuse("payload", "bytes: leave decode_responses of the client off")
    return bytes(value)


def _required(name: str, value: _T | None) -> _T:
    return _refuse(name, _PRESENT) if value is None else value


def _filled(name: str, value: str) -> str:
    return value or _refuse(name, "not empty")


def _optional_filled(name: str, value: str | None) -> str | None:
    return None if value is None else _filled(name, value)


def _id(name: str, value: str) -> UUID:
    if not re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
        _refuse(name, "a UUID in lower case with hyphens")
    return UUID(value)


def _time(name: str, value: str) -> datetime:
    form = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
    try:
        if re.fullmatch(form, value):
            return datetime.fromisoformat(value[:-1]).replace(tzinfo=timezone.utc)
    except ValueError:
        pass  # No such day or hour.
    _refuse(name, "a time in UTC such as 2026-01-02T03:04:05.000006Z")


def _bytes(name: str, value: str) -> bytes:
    try:
        read = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        _refuse(name, "base64")
    # The decoder passes over bits that belong to no byte.
    return read if base64.b64encode(read).decode() == value else _refuse(name, "base64")


def _refuse(name: str, rule: str) -> NoReturn:
    raise UnreadableMessageError(name, rule)
