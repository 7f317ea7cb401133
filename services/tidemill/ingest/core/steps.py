"""One declared field, compiled: from → trim → cast → unit → multiply → default → range."""

import math
from typing import Any, NamedTuple

from tidemill.domain.pipeline import Pipeline, SourceField
from tidemill.ingest.core import casting
from tidemill.ingest.core.casting import Convert
from tidemill.ingest.core.faults import FieldError, Place, shown

TIME_FIELDS = ("event_time", "known_at")
"""The canonical fields that say when; `known_at` in labels only."""


class Step(NamedTuple):
    """How one canonical field is made."""

    place: Place
    convert: Convert
    """The source's value, never None, to the canonical one. Raises FieldError."""
    default: object
    """Taken where the source says nothing or null; None if there is no default."""
    required: bool


class _Limits(NamedTuple):
    """Inclusive limits; what is outside is moved to the nearer one or refused."""

    low: float
    high: float
    clamp: bool


def compile_step(pipeline: Pipeline, name: str, field: SourceField, *, required: bool) -> Step:
    """Raises ValueError with what is wrong with `field`."""
    place = Place(name, field.source or name)
    if name == "id" or name in pipeline.event.entities:
        convert = _text(place, field)
    elif name in TIME_FIELDS or field.cast == "timestamp":
        convert = _timestamp(place, field)
    elif name in pipeline.event.numbers or field.cast in ("number", "integer"):
        declared = pipeline.event.numbers.get(name)
        convert = _number(place, field, declared.min if declared else None, declared.max if declared else None)
    else:
        convert = _other(place, field)
        if name == pipeline.label.field and field.cast == "boolean":
            convert = _as_digit(convert)
    return Step(place, convert, _default(pipeline, name, field, place), required)


def _default(pipeline: Pipeline, name: str, field: SourceField, place: Place) -> object:
    """The default as a canonical value: trim, unit and multiply come before it, the range after it."""
    if field.default is None:
        return None
    bare = field.model_copy(update={"unit": "ms", "multiply": None, "trim": False, "default": None})
    try:
        return compile_step(pipeline, name, bare, required=True).convert(field.default)
    except FieldError as fault:
        raise ValueError(f"the default would itself be refused, because {fault.message}") from None


def _text(place: Place, field: SourceField) -> Convert:
    """An id or an entity: a string that is not empty."""
    if field.cast not in (None, "string"):
        raise ValueError(f"cast {field.cast} cannot be used; ids and entities are strings")
    _refuse(field, "multiply", "min", "max", "unit")
    slow = _trimmed(casting.to_string(place, cast=field.cast is not None), trim=field.trim)
    trim = field.trim

    def convert(value: object) -> object:
        text = (value.strip() if trim else value) if type(value) is str else slow(value)
        if text:
            return text
        raise place.fault("missing_id" if place.name == "id" else "missing_field", "is empty")

    return convert


def _timestamp(place: Place, field: SourceField) -> Convert:
    if field.cast not in (None, "timestamp", "integer"):
        raise ValueError(f"cast {field.cast} cannot be used; {place.name} is a timestamp")
    _refuse(field, "multiply", *(() if field.cast == "timestamp" else ("unit",)))
    limits = _limits(field, 0, casting.MAX_TIMESTAMP_MS, whole=True)
    convert = casting.to_timestamp(place, field.unit, cast=field.cast is not None)
    slow = _trimmed(_limited(convert, place, limits), trim=field.trim)
    return _quick(int, limits, slow) if field.unit == "ms" else slow


def _number(place: Place, field: SourceField, low: float | None, high: float | None) -> Convert:
    """`low` and `high`: what the event's own declaration allows, whatever the source says."""
    if field.cast not in (None, "number", "integer"):
        raise ValueError(f"cast {field.cast} cannot give the number that event.numbers declares")
    _refuse(field, "unit")
    whole = field.cast == "integer"
    widest = casting.MAX_INTEGER if whole else casting.MAX_EXACT
    limits = _limits(field, -widest if low is None else low, widest if high is None else high, whole=whole)
    convert = (casting.to_integer if whole else casting.to_number)(place, cast=field.cast is not None)
    if field.multiply is not None:
        return _trimmed(
            _limited(_multiplied(convert, place, field.multiply, whole=whole), place, limits), trim=field.trim
        )
    return _quick(int if whole else float, limits, _trimmed(_limited(convert, place, limits), trim=field.trim))


def _other(place: Place, field: SourceField) -> Convert:
    if field.cast is None and (field.min is not None or field.max is not None or field.multiply is not None):
        raise ValueError("min, max and multiply need a cast: number or integer")
    _refuse(field, "multiply", "min", "max", "unit")
    if field.cast is None:
        return _trimmed(casting.as_it_is(place), trim=field.trim)
    convert = casting.to_string if field.cast == "string" else casting.to_boolean
    return _trimmed(convert(place, cast=True), trim=field.trim)


def _as_digit(convert: Convert) -> Convert:
    """A label's truth is 0 or 1 from here on, however the source says it."""
    return lambda value: 1 if convert(value) else 0


def _refuse(field: SourceField, *names: str) -> None:
    given = [name for name in names if getattr(field, name) != type(field).model_fields[name].default]
    if given:
        raise ValueError(f"{' and '.join(given)} cannot be used with cast {field.cast or 'left out'}")


def _limits(field: SourceField, low: float, high: float, *, whole: bool) -> _Limits:
    """The source's limits within the field's own; a limit of whole numbers is whole."""
    low = low if field.min is None else max(low, field.min)
    high = high if field.max is None else min(high, field.max)
    if whole:
        low, high = math.ceil(low), math.floor(high)
    if not low <= high:
        raise ValueError(f"min {low} and max {high} leave no value")
    return _Limits(low, high, field.out_of_range == "clamp")


def _trimmed(convert: Convert, *, trim: bool) -> Convert:
    if not trim:
        return convert
    return lambda value: convert(value.strip() if type(value) is str else value)


def _quick(kind: type[int] | type[float], limits: _Limits, slow: Convert) -> Convert:
    """`slow`, skipped for a value that is right as it stands. A NaN is within no limits, a bool is no int."""
    low, high = limits.low, limits.high

    def convert(value: Any) -> object:
        if type(value) is kind and low <= value <= high:
            return value
        return slow(value)

    return convert


def _limited(convert: Convert, place: Place, limits: _Limits) -> Convert:
    low, high, clamp = limits

    def apply(value: object) -> object:
        made: Any = convert(value)
        if low <= made <= high:
            return made
        if clamp:
            return low if made < low else high
        raise place.fault("out_of_range", f"is {shown(made)}, outside [{low:g}, {high:g}]")

    return apply


def _multiplied(convert: Convert, place: Place, factor: float, *, whole: bool) -> Convert:
    """Where 1/factor is whole (0.01 for cents), divide by it instead: 57 × 0.01 is not 0.57, 57 / 100 is."""
    if not math.isfinite(factor) or factor == 0:
        raise ValueError(f"multiply {factor} is not a finite factor other than 0")
    exact = casting.exact_integer if whole else casting.exact_float
    divisor = round(1 / factor) if abs(factor) < 1 else 0
    if divisor and 1 / divisor == factor:
        return lambda value: exact(place, casting.exact_float(place, convert(value)) / divisor)
    return lambda value: exact(place, casting.exact_float(place, convert(value)) * factor)
