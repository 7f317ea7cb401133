"""Durations as people write them in a pipeline file: `90s`, `15m`, `6h`, `7d`, or `1.5d`."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PATTERN = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$")

DAY_MS = _UNIT_MS["d"]


def parse_duration_ms(text: str) -> int:
    """`7d` → 604800000. Raises ValueError on anything that is not a number followed by ms, s, m, h or d."""
    match = _PATTERN.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and a unit, such as 500ms, 30s, 15m, 6h or 7d")
    milliseconds = float(match[1]) * _UNIT_MS[match[2]]
    if milliseconds != int(milliseconds):
        raise ValueError(f"{text!r} is not a whole number of milliseconds")
    return int(milliseconds)


def format_duration_ms(milliseconds: int) -> str:
    """604800000 → `7d`: in the largest unit that gives a whole number, so that `parse_duration_ms` reads it back."""
    for unit, size in reversed(_UNIT_MS.items()):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return "0ms"


def _coerce(value: object) -> object:
    return parse_duration_ms(value) if isinstance(value, str) else value


def _coerce_signed(value: object) -> object:
    text = value.strip() if isinstance(value, str) else ""
    return -parse_duration_ms(text[1:]) if text.startswith("-") else _coerce(value)


def _schema(minimum: int) -> WithJsonSchema:
    text = {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d)\s*$"}
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": minimum}, text]})


DurationMs = Annotated[int, BeforeValidator(_coerce), Field(ge=0), _schema(0)]
"""An int of milliseconds, 0 or more, that also accepts the text form."""

SignedMs = Annotated[int, BeforeValidator(_coerce_signed), _schema(0)]
"""The same, but below 0 too, so that a rule can say what to do instead; editors still ask for 0 or more."""

SpanMs = Annotated[int, BeforeValidator(_coerce), Field(gt=0), _schema(1)]
"""The same, but above 0."""
