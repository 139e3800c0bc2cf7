"""A message, and what the SQL functions take for it. Pure.

The limits and texts are those of the SQL functions, which check again: here they spare the round
trip and name the message among many. The payload's limit is the only one that a database sets.
"""

from __future__ import annotations

import json as jsonlib
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Final, NamedTuple, NoReturn
from uuid import UUID

from ._errors import InvalidMessageError

_TOPIC_BYTES_MAX = 255
_KEY_BYTES_MAX = 512
_CONTENT_TYPE_BYTES_MAX = 128
_CORRELATION_ID_BYTES_MAX = 256
_TOKEN_BYTES_MAX = 256
_HEADERS_MAX = 64
_HEADER_NAME_BYTES_MAX = 128
_HEADERS_BYTES_MAX = 16 * 1024

_JSON_TYPE = "application/json"
_TEXT_TYPE = "text/plain; charset=utf-8"
_BYTES_TYPE = "application/octet-stream"


class _Absent:
    """No JSON payload: ``None`` is the document ``null``."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


@dataclass(frozen=True)
class Message:
    """One message. At most one of ``json``, ``text`` and ``data`` is given; with none, the payload
    is empty. The limits are checked when the message is enqueued.
    """

    topic: str
    """1 to 255 ASCII letters, digits and ``. _ - : /`` that start with a letter or digit."""
    _: KW_ONLY
    json: Any = field(default=ABSENT, repr=False)
    """A payload that ``json.dumps`` writes; ``None`` is the document ``null``."""
    text: str | None = field(default=None, repr=False)
    """A payload of text, sent as UTF-8."""
    data: bytes | bytearray | memoryview | None = field(default=None, repr=False)
    """A payload of bytes."""
    content_type: str | None = None
    """1 to 128 printable ASCII characters. By default ``application/json``,
    ``text/plain; charset=utf-8`` or ``application/octet-stream``, after the kind of payload."""
    key: str | None = None
    """The ordering key: messages that share it are published in their commit order. 1 to 512
    bytes."""
    headers: Mapping[str, str] | None = None
    """At most 64 headers with names of ASCII letters, digits and ``. _ -``; 16 KiB together."""
    correlation_id: str | None = None
    """Ties the message to the request it came from. 1 to 256 bytes."""
    id: UUID | None = None
    """The id, a UUIDv7; otherwise the database makes one."""
    token: str | None = None
    """Of all messages with one token only the first is written; later ones answer its id. 1 to 256
    bytes."""
    deliver_at: datetime | None = None
    """When it is due, with a time zone: it waits beside the log until then, and can be cancelled.
    From 1970 on."""
    traceparent: str | None = None
    """W3C trace context, sent as the header of that name."""
    tracestate: str | None = None
    """W3C trace context, sent as the header of that name unless empty."""


class Entry(NamedTuple):
    """The arguments of ``enqueue_bytes``, by their names there."""

    topic: str
    payload: bytes
    key: str | None
    headers: dict[str, str] | None
    content_type: str
    correlation_id: str | None
    message_id: UUID | None
    token: str | None
    deliver_at: datetime | None


def prepare(message: Message, payload_bytes_max: int, index: int | None = None) -> Entry:
    """Checks ``message``, the ``index``-th of several."""
    refuse = _Refuse(index)
    _check_topic(message.topic, refuse)
    _check_text("key", message.key, _KEY_BYTES_MAX, refuse)
    content_type = _content_type(message, refuse)
    _check_text("correlation_id", message.correlation_id, _CORRELATION_ID_BYTES_MAX, refuse)
    _check_text("token", message.token, _TOKEN_BYTES_MAX, refuse)
    _check_time(message.deliver_at, refuse)
    headers = _headers(message, refuse)
    payload = _payload(message, refuse)
    if len(payload) > payload_bytes_max:
        refuse("payload", f"at most {payload_bytes_max} bytes", f"{len(payload)} bytes")
    return Entry(
        topic=message.topic,
        payload=payload,
        key=message.key,
        headers=headers or None,
        content_type=content_type,
        correlation_id=message.correlation_id,
        message_id=message.id,
        token=message.token,
        deliver_at=message.deliver_at,
    )


class _Refuse:
    """Raises for the message at ``index``."""

    def __init__(self, index: int | None) -> None:
        self._index = index

    def __call__(self, field: str, limit: str, value: object) -> NoReturn:
        raise InvalidMessageError(field, limit, str(value), self._index)


def _check_topic(topic: str, refuse: _Refuse) -> None:
    is_allowed = isinstance(topic, str) and re.fullmatch("[A-Za-z0-9][A-Za-z0-9._:/-]*", topic)
    if not is_allowed or len(topic) > _TOPIC_BYTES_MAX:
        refuse(
            "topic",
            f"1 to {_TOPIC_BYTES_MAX} ASCII letters, digits and . _ - : / "
            "that start with a letter or digit",
            topic,
        )


def _check_text(field: str, value: str | None, bytes_max: int, refuse: _Refuse) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        refuse(field, "a string", value)
    size = _utf8_size(field, value, refuse)
    if not 1 <= size <= bytes_max or re.search("[\0-\x1f\x7f-\x9f]", value):
        refuse(field, f"1 to {bytes_max} bytes without control characters", value)


def _check_time(time: datetime | None, refuse: _Refuse) -> None:
    """No ``datetime`` is later than the year 9999."""
    if time is None:
        return
    if not isinstance(time, datetime) or time.utcoffset() is None:
        refuse("deliver_at", "a datetime with a time zone", time)
    micros = (time - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)
    if micros < 0:
        refuse("deliver_at", "a time from 1970 to 9999", f"{micros} microseconds after 1970")


def _utf8_size(field: str, value: str, refuse: _Refuse) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError:  # A lone surrogate.
        refuse(field, "valid Unicode", value)


def _content_type(message: Message, refuse: _Refuse) -> str:
    content_type = message.content_type
    if content_type is None:
        content_type = _own_content_type(message)
    is_allowed = isinstance(content_type, str) and re.fullmatch("[ -~]+", content_type)
    if not is_allowed or len(content_type) > _CONTENT_TYPE_BYTES_MAX:
        limit = f"1 to {_CONTENT_TYPE_BYTES_MAX} printable ASCII characters"
        refuse("content_type", limit, content_type)
    return content_type


def _own_content_type(message: Message) -> str:
    if message.json is not ABSENT:
        return _JSON_TYPE
    return _BYTES_TYPE if message.text is None else _TEXT_TYPE


def _headers(message: Message, refuse: _Refuse) -> dict[str, str]:
    if not isinstance(message.headers, Mapping | None):
        refuse("headers", "a mapping of strings", type(message.headers).__name__)
    headers = dict(message.headers or {})
    trace = {"traceparent": message.traceparent, "tracestate": message.tracestate or None}
    for name, value in trace.items():
        if value is not None and name in headers:
            refuse("header name", "each name once", name)
        if value is not None:
            headers[name] = value
    if len(headers) > _HEADERS_MAX:
        refuse("headers", f"at most {_HEADERS_MAX} headers", len(headers))
    total = sum(_header_size(name, value, refuse) for name, value in headers.items())
    if total > _HEADERS_BYTES_MAX:
        refuse("headers", f"at most {_HEADERS_BYTES_MAX} bytes", f"{total} bytes")
    return headers


def _header_size(name: str, value: str, refuse: _Refuse) -> int:
    is_allowed = isinstance(name, str) and re.fullmatch("[A-Za-z0-9._-]+", name)
    if not is_allowed or len(name) > _HEADER_NAME_BYTES_MAX:
        limit = f"1 to {_HEADER_NAME_BYTES_MAX} ASCII letters, digits and . _ -"
        refuse("header name", limit, name)
    if not isinstance(value, str):
        refuse("header value", "a string", value)
    if "\0" in value:
        refuse("header value", "no NUL character", value)
    return len(name) + _utf8_size("header value", value, refuse)


def _payload(message: Message, refuse: _Refuse) -> bytes:
    given = {"json": message.json is not ABSENT, "text": message.text is not None,
             "data": message.data is not None}
    kinds = [kind for kind, is_given in given.items() if is_given]
    if len(kinds) > 1:
        refuse("payload", "one of json, text and data", " and ".join(kinds))
    if given["json"]:
        return _json_bytes(message.json, refuse)
    if message.text is not None:
        return _text_bytes(message.text, refuse)
    return _raw_bytes(message.data, refuse)


def _json_bytes(value: Any, refuse: _Refuse) -> bytes:
    try:
        # NaN and Infinity are no JSON.
        text = jsonlib.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as fault:
        # A text that is no Unicode stands whole in the error: not for a log.
        why = "lone surrogate" if isinstance(fault, UnicodeError) else fault
        refuse("payload", f"valid JSON ({why})", "a value that does not serialise")


def _text_bytes(text: str, refuse: _Refuse) -> bytes:
    if not isinstance(text, str):
        refuse("payload", "a string", f"text of type {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        refuse("payload", "valid Unicode", "text with a lone surrogate")


def _raw_bytes(data: bytes | bytearray | memoryview | None, refuse: _Refuse) -> bytes:
    if data is None:
        return b""
    if not isinstance(data, bytes | bytearray | memoryview):
        # bytes(17) would be 17 zeros.
        refuse("payload", "bytes", f"data of type {type(data).__name__}")
    return bytes(data)
