"""Cuts a bulk enqueue into pieces that one statement carries. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ._message import Entry

CHUNK_MESSAGES_MAX = 1_000
"""Messages in one statement."""
CHUNK_BYTES_MAX = 4 * 1024 * 1024
"""Bytes in one statement, unless a single message is larger."""


def chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """The pieces of ``entries``, in order, none empty."""
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        weight = _weight(entry)
        if len(chunk) == CHUNK_MESSAGES_MAX or (chunk and size + weight > CHUNK_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += weight
    if chunk:
        yield chunk


def _weight(entry: Entry) -> int:
    """Roughly the bytes; what is left out is bounded by the limits and small."""
    headers = entry.headers or {}
    return len(entry.payload) + sum(len(name) + len(value) for name, value in headers.items())
