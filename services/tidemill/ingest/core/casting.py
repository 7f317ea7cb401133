"""Strict conversions of one JSON value: what cannot be converted without loss is refused, never guessed.

Each function here compiles a `Place` into a converter `value → canonical value` that raises `FieldError`. Converters
never see None. A JSON boolean is not a number, a number written as text is one only where the pipeline file says
`cast`, and whole numbers beyond ±(2^53 − 1) are refused where a double would lose their last digits.
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

from tidemill.ingest.core.faults import FieldError, Place, shown

Convert = Callable[[object], object]

MAX_EXACT = 2**53 - 1
"""Largest whole number of which every neighbour is a double too (JavaScript's MAX_SAFE_INTEGER)."""
MAX_INTEGER = 2**63 - 1
MAX_TIMESTAMP_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

_INTEGER_TEXT = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER_TEXT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NON_FINITE_TEXT = frozenset({"nan", "inf", "infinity"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MAX_DEPTH = 64


def to_string(place: Place, *, cast: bool) -> Convert:
    """Text as it is; with `cast` an integer too, in decimal. A float has no one spelling and is refused."""

    def convert(value: object) -> object:
        if type(value) is str:
            return value
        if cast and type(value) is int:
            return str(value)
        raise place.fault("wrong_type", f"is {shown(value)}, not a string")

    return convert


def to_number(place: Place, *, cast: bool) -> Convert:
    """A finite float within ±MAX_EXACT; with `cast` its decimal text too."""

    def convert(value: object) -> object:
        if cast and type(value) is str:
            value = _number_of_text(place, value)
        return exact_float(place, value)

    return convert


def exact_float(place: Place, value: object) -> float:
    """`value` as a float that lost nothing, or FieldError."""
    if type(value) is not float and type(value) is not int:
        raise place.fault("wrong_type", f"is {shown(value)}, not a number")
    if value != value or value in (math.inf, -math.inf):
        raise place.fault("non_finite", f"is {value}, not a finite number")
    if not -MAX_EXACT <= value <= MAX_EXACT:
        raise place.fault("out_of_range", f"is {shown(value)}: beyond ±(2^53 − 1) digits would be lost")
    return float(value)


def to_integer(place: Place, *, cast: bool) -> Convert:
    """A 64-bit integer, also one spelt 3.0; with `cast` its decimal text too."""

    def convert(value: object) -> object:
        if cast and type(value) is str:
            value = _integer_of_text(place, value)
        return exact_integer(place, value)

    return convert


def exact_integer(place: Place, value: object) -> int:
    """`value` as an int that lost nothing, or FieldError."""
    if type(value) is int:
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return value
        raise place.fault("out_of_range", f"is {shown(value)}: beyond 64 bits")
    if type(value) is not float:
        raise place.fault("wrong_type", f"is {shown(value)}, not an integer")
    number = exact_float(place, value)
    if number != int(number):
        raise place.fault("wrong_type", f"is {shown(value)}: it has a fraction, so it is not an integer")
    return int(number)


def to_boolean(place: Place, *, cast: bool) -> Convert:
    """true or false; with `cast` also 0, 1 and the texts `true` and `false`."""
    known: dict[object, bool] = {"true": True, "false": False, 0: False, 1: True} if cast else {}

    def convert(value: object) -> object:
        if type(value) is bool:
            return value
        if type(value) in (str, int) and value in known:
            return known[value]
        raise place.fault("wrong_type", f"is {shown(value)}, not a boolean")

    return convert


def to_timestamp(place: Place, unit: Literal["ms", "s", "iso8601"], *, cast: bool) -> Convert:
    """Milliseconds since 1970 UTC, 1970 to 9999. Seconds may have a fraction, rounded to the millisecond.

    ISO 8601 text must carry its offset (`Z` or `+02:00`): a local time of nowhere names no instant.
    """
    if unit == "iso8601":

        def read(value: object) -> int:
            return _iso8601_ms(place, value)

    elif unit == "s":

        def read(value: object) -> int:
            if type(value) is int:
                return value * 1_000
            text = cast and type(value) is str
            return round(exact_float(place, _number_of_text(place, value) if text else value) * 1_000)

    else:

        def read(value: object) -> int:
            return exact_integer(place, _integer_of_text(place, value) if cast and type(value) is str else value)

    def convert(value: object) -> object:
        moment = read(value)
        if not 0 <= moment <= MAX_TIMESTAMP_MS:
            raise place.fault("out_of_range", f"is {shown(value)}: not an instant between 1970 and 9999")
        return moment

    return convert


def as_it_is(place: Place) -> Convert:
    """Any JSON value unchanged, for the event's schema to judge; yet every number in it finite and exact."""

    def convert(value: object) -> object:
        pending = [(value, 0)]
        while pending:
            item, depth = pending.pop()
            if type(item) is float:
                exact_float(place, item)
            elif type(item) is int:
                exact_integer(place, item)
            elif isinstance(item, (dict, list)):
                if depth == _MAX_DEPTH:
                    raise place.fault("wrong_type", f"is nested deeper than {_MAX_DEPTH} levels")
                pending.extend((inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item))
        return value

    return convert


def _number_of_text(place: Place, text: object) -> float:
    assert isinstance(text, str)
    if _NUMBER_TEXT.fullmatch(text):
        return float(text)
    raise _not_a_number(place, text, "a number")


def _integer_of_text(place: Place, text: object) -> int:
    assert isinstance(text, str)
    if _INTEGER_TEXT.fullmatch(text):
        return int(text)
    raise _not_a_number(place, text, "an integer")


def _not_a_number(place: Place, text: str, wanted: str) -> FieldError:
    if text.lstrip("+-").lower() in _NON_FINITE_TEXT:
        return place.fault("non_finite", f"is {shown(text)}, not a finite number")
    return place.fault("wrong_type", f"is {shown(text)}, not {wanted}")


def _iso8601_ms(place: Place, value: object) -> int:
    if type(value) is not str:
        raise place.fault("wrong_type", f"is {shown(value)}, not ISO 8601 text")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise place.fault("wrong_type", f"is {shown(value)}, not an ISO 8601 date and time") from None
    if moment.tzinfo is None:
        raise place.fault("wrong_type", f"is {shown(value)}: it has no UTC offset; write Z or +hh:mm")
    return (moment - _EPOCH) // _MILLISECOND
