"""Durations as people write them in a pipeline file: `90s`, `15m`, `6h`, `7d`, or `1.5d`."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PATTERN = re.compile(r"([0-9]+)(?:\.([0-9]+))?\s*(ms|s|m|h|d)")

HOUR_MS = _UNIT_MS["h"]
DAY_MS = _UNIT_MS["d"]

LONGEST_MS = 3_650 * DAY_MS
"""The longest duration of a pipeline file: ten years. Sums of several stay far below what an int64 holds."""

_MOST_DIGITS = 15
"""Of a text's whole part: more than any duration needs, and few enough that an exact product is cheap."""

_LONGEST = "3650d, the longest duration that can be said"

_MOST_DECIMALS = 10
"""A day has 2^10 · 3^3 · 5^5 ms, so with more than 10 decimals, the last not 0, none is a whole number of them."""


def parse_duration_ms(text: str) -> int:
    """`7d` → 604800000, exactly. Raises ValueError on anything that is not a number followed by ms, s, m, h or d, on
    what is no whole number of milliseconds, and on more than 15 digits before the point."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{_shown(text)} is not a duration; write a number and a unit, such as 500ms, 30s, 15m, 6h or 7d"
        )
    whole, decimals = match[1].lstrip("0"), (match[2] or "").rstrip("0")
    if len(whole) > _MOST_DIGITS:
        raise ValueError(f"{_shown(text)} is longer than {_LONGEST}")
    if len(decimals) <= _MOST_DECIMALS:
        parts: int = 10 ** len(decimals)
        milliseconds, rest = divmod(int(f"0{whole}{decimals}") * _UNIT_MS[match[3]], parts)
        if not rest:
            return milliseconds
    raise ValueError(f"{_shown(text)} is not a whole number of milliseconds")


def format_duration_ms(milliseconds: int) -> str:
    """604800000 → `7d`: in the largest unit that gives a whole number, so that `parse_duration_ms` reads it back."""
    for unit, size in reversed(_UNIT_MS.items()):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return "0ms"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _bounded(value: int) -> int:
    if not -LONGEST_MS <= value <= LONGEST_MS:
        shown = f"{value} ms is" if abs(value) < 1 << 63 else "it is"
        raise ValueError(f"{shown} longer than {_LONGEST}")
    return value


def _coerce(value: object) -> object:
    if not isinstance(value, str):
        return value
    milliseconds = parse_duration_ms(value)
    if milliseconds > LONGEST_MS:
        raise ValueError(f"{_shown(value)} is longer than {_LONGEST}")
    return milliseconds


def _coerce_signed(value: object) -> object:
    text = value.strip() if isinstance(value, str) else ""
    return -parse_duration_ms(text[1:]) if text.startswith("-") else _coerce(value)


def _schema(minimum: int) -> WithJsonSchema:
    text = {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)\s*$"}
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": minimum, "maximum": LONGEST_MS}, text]})


DurationMs = Annotated[int, BeforeValidator(_coerce), AfterValidator(_bounded), Field(ge=0), _schema(0)]
"""An int of milliseconds, from 0 to `LONGEST_MS`, that also accepts the text form."""

SignedMs = Annotated[int, BeforeValidator(_coerce_signed), AfterValidator(_bounded), _schema(0)]
"""The same, but below 0 too, so that a rule can say what to do instead; editors still ask for 0 or more."""

SpanMs = Annotated[int, BeforeValidator(_coerce), AfterValidator(_bounded), Field(gt=0), _schema(1)]
"""The same, but above 0."""
