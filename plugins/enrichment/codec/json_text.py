"""Texts in; why one is not JSON, and whether every strict reader accepts it, out.

The slow, exact reading of `enrichment.codec.decode` and `enrichment.dead_letters.writer`. Python's own reader parses,
but neither its limits (digits of an integer, depth of its stack) nor its messages, which differ by release, decide
anything here: the same text gets the same answer on every Python.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

DEPTH = 512  # a reader of the output must be able to parse it: Python's json, msgspec and PHP manage this depth
# The longest number that is written where any reader must take it: what Jackson reads unless told otherwise.
NUMBER_CHARACTERS = 1000
# A string that does not end is one, too: looked for again at each of its quotes, it would take hours.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
# How each byte outside of strings changes the depth.
_STEPS = np.zeros(256, np.int8)
_STEPS[np.frombuffer(b"[{", np.uint8)], _STEPS[np.frombuffer(b"]}", np.uint8)] = 1, -1
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_WHOLE = re.compile("-?[0-9]+")
_SPACE = re.compile(r"[ \t\n\r]*")


class NotJson(Exception):
    """A text that is not JSON; the message says where, and what is wrong there."""


class TooDeep(Exception):
    """JSON as far as it was read, but nested deeper than `DEPTH`; the message says how deep."""


def check_depth(value: bytes, limit: int = DEPTH) -> None:
    """Raises `TooDeep` for JSON that is nested deeper than the limit."""
    if value.count(b"[") + value.count(b"{") > limit and (depth := _nesting(value, limit)[0]) > limit:
        raise TooDeep(f"nested {depth} deep; {limit} at most")


def parse(value: bytes) -> Any:
    """The value of a JSON text (UTF-8), except that its numbers are all 0. Lone surrogates stay in its strings.

    Raises `UnicodeDecodeError`, `NotJson` and `TooDeep`.
    """
    text, depth, too_deep_at = value.decode(), 0, None
    if value.count(b"[") + value.count(b"{") > DEPTH:
        depth, too_deep_at = _nesting(value, DEPTH)
    readable = text if too_deep_at is None else value[:too_deep_at].decode()
    try:
        return _DECODER.decode(readable)
    except json.JSONDecodeError as bad:
        if too_deep_at is not None and bad.pos >= len(readable):
            raise TooDeep(f"nested {depth} deep; {DEPTH} at most") from bad
        raise NotJson(_described(bad)) from bad
    except ValueError as bad:  # NaN and infinities
        raise NotJson(str(bad)) from bad
    except RecursionError as bad:  # the caller is deep in Python's stack
        raise TooDeep("nested deeper than a JSON reader manages") from bad


def _nesting(value: bytes, limit: int) -> tuple[int, int | None]:
    """How deep a text is nested, and where it has become deeper than the limit."""
    steps = _STEPS[np.frombuffer(value, np.uint8)]
    for string in _STRING.finditer(value):
        steps[string.start() : string.end()] = 0
    depths = np.cumsum(steps, dtype=np.int64)
    beyond = np.flatnonzero(depths > limit)[:1]
    return max(0, int(depths.max(initial=0))), int(beyond[0]) + 1 if len(beyond) else None


def _described(bad: json.JSONDecodeError) -> str:
    """What is wrong, as one Python release says it: 3.13 and later point to the comma before a closing bracket, earlier
    ones to the bracket, where a value should stand."""
    if not bad.msg.startswith("Illegal trailing comma"):
        return str(bad)
    behind = _SPACE.match(bad.doc, bad.pos + 1)
    at = bad.pos + 1 if behind is None else behind.end()
    expected = "value" if bad.doc[at : at + 1] == "]" else "property name enclosed in double quotes"
    return str(json.JSONDecodeError(f"Expecting {expected}", bad.doc, at))


def lone_surrogate(value: bytes) -> str | None:
    """The first escape of half a surrogate pair in a JSON text, and where it is; None without one."""
    found = next(_lone_surrogates(value), None)
    if found is None:
        return None
    return (
        f"the escape {found[0].decode()} at byte {found.start()} is half of a surrogate pair without the other half: "
        "no character"
    )


def without_lone_surrogates(value: bytes) -> bytes:
    """The same text with the replacement character for each of them: it has as many bytes, and any reader takes it."""
    readable = bytearray(value)
    for found in _lone_surrogates(value):
        readable[found.start() : found.end()] = rb"\ufffd"
    return bytes(readable)


def _lone_surrogates(value: bytes) -> Any:
    return (found for found in _ESCAPE.finditer(value) if found["lone"])


def is_strict(value: bytes) -> bool:
    """Whether every reader accepts this as a JSON value, also inside another one.

    No reader has to accept half a surrogate pair, a duplicate key in an object, or a number beyond doubles; some
    (pandas) accept no number whose whole part has more than 64 bits, and many limit depth and length.
    """
    try:
        check_depth(value, DEPTH - 1)
        if lone_surrogate(value) is None:
            _STRICT_DECODER.decode(value.decode())
            return True
    except (ValueError, TooDeep, RecursionError):
        pass
    return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _common_number(digits: str) -> int:
    whole = _WHOLE.match(digits)
    if len(digits) > NUMBER_CHARACTERS or whole is None or len(whole[0]) > 20 or math.isinf(float(digits)):
        raise ValueError("a number that not every reader takes")
    if not -(2**63) <= int(whole[0]) < 2**64:
        raise ValueError("an integer that not every reader takes")
    return 0


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")


_DECODER = json.JSONDecoder(parse_int=lambda _: 0, parse_float=lambda _: 0, parse_constant=_refuse_constant)
_STRICT_DECODER = json.JSONDecoder(
    parse_int=_common_number, parse_float=_common_number, parse_constant=_refuse_constant, object_pairs_hook=_distinct
)
