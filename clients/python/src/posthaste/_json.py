"""The members of a JSON object, with their values as they are written: numbers, white space and the
order of members would not survive a parser. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NoReturn


def members(document: str) -> list[tuple[str, str]] | None:
    """Names and written values, in their order; ``None`` where it is not one JSON object."""
    try:
        value = _checked(document)
    except ValueError:
        return None
    except RecursionError:
        # Deeper than Python reads; the brackets are counted all the same.
        value = {}
    return _scan(document) if isinstance(value, dict) else None


def strings(document: str) -> list[tuple[str, str]] | None:
    """The members of an object of strings, each name once; ``None`` where it is none."""
    found = members(document)
    if found is None or repeated(found) is not None:
        return None
    pairs = []
    for name, written in found:
        value = string(written)
        if value is None:
            return None
        pairs.append((name, value))
    return pairs


def string(written: str) -> str | None:
    """The string that is written so; ``None`` where it is none, or no Unicode."""
    # What begins otherwise is valid JSON too, and something else.
    if not written.lstrip().startswith('"'):
        return None
    value: str = json.loads(written)
    return value if _is_unicode(value) else None


def _is_unicode(text: str) -> bool:
    """Whether it has no lone surrogate."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def repeated(pairs: Iterable[tuple[str, Any]]) -> str | None:
    """A name that stands twice."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return None


def _checked(document: str) -> Any:
    # Numbers of any size are left as they are; NaN and Infinity are no JSON.
    return json.loads(document, parse_int=str, parse_float=str, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _scan(document: str) -> list[tuple[str, str]]:
    """``document`` is known to be one object, so that only strings and brackets have to be told
    apart.
    """
    found: list[tuple[str, str]] = []
    depth, name, begin, at = 0, "", -1, 0
    while at < len(document):
        letter, after = document[at], at + 1
        if letter == '"':
            after = _end_of_string(document, at)
            if depth == 1 and begin < 0:
                name = json.loads(document[at:after])
        elif letter == ":" and depth == 1:
            begin = after
        elif letter in "{[":
            depth += 1
        elif letter in "}]" and depth > 1:
            depth -= 1
        elif letter in ",}" and depth == 1 and begin >= 0:
            found.append((name, document[begin:at]))
            begin = -1
        at = after
    return found


def _end_of_string(document: str, at: int) -> int:
    """Behind the quote that closes the string whose opening one stands at ``at``."""
    at += 1
    while document[at] != '"':
        at += 2 if document[at] == "\\" else 1
    return at + 1
