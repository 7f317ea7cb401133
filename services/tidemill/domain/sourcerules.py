"""What must hold for the sources of a pipeline file: each must be able to make a canonical record."""

import math
from collections.abc import Iterator

from tidemill.domain.pipeline import EventSpec, NumberField, Pipeline, SourceField, SourceSpec, StreamSpec
from tidemill.domain.pipelinerules import EXACT_LIMIT, Mistake, Path, listed, repeated
from tidemill.domain.streamrules import STREAM_FIELD

_NUMERIC = ("integer", "number")
_PYTHON: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "timestamp": int,
}
_WIDEST: dict[str, tuple[float, float]] = {
    "integer": (-(1 << 63) + 1, (1 << 63) - 1),
    "number": (1 - EXACT_LIMIT, EXACT_LIMIT - 1),
    "timestamp": (0, 253_402_300_799_999),
}
"""What ingest takes for each, whatever is declared: 64 bits, exact floats, and times to the end of the year 9999."""

_LARGEST_FACTOR = 1e15


def source_mistakes(pipeline: Pipeline) -> Iterator[Mistake]:
    """Everything wrong with `ingest.sources`."""
    sources = pipeline.ingest.sources
    for position, name in repeated(source.name for source in sources):
        yield Mistake(("ingest", "sources", position, "name"), f"a second source called {name!r}")
    for kind in ("event", "label"):
        if not any(source.kind == kind for source in sources):
            yield Mistake(("ingest", "sources"), f"no source of kind {kind}: the pipeline would never see an {kind}")
    topics: dict[str, str] = {}
    for position, source in enumerate(sources):
        path: Path = ("ingest", "sources", position)
        if source.topic is not None:
            if source.topic in topics:
                yield Mistake(
                    (*path, "topic"), f"{source.topic!r} is read by the source {topics[source.topic]!r} already"
                )
            topics.setdefault(source.topic, source.name)
        elif not source.http:
            yield Mistake(path, f"the source {source.name!r} has neither a topic nor http, so nothing can reach it")
        if not source.versions or len(set(source.versions)) != len(source.versions):
            yield Mistake((*path, "versions"), "versions must name at least one version, each once")
        stream = pipeline.streams.get(source.stream or "")
        if (source.kind == "stream") != (source.stream is not None) or (source.stream is not None and stream is None):
            yield from _of_no_stream(pipeline, source, path)
            continue
        yield from _missing(pipeline, source, path)
        if stream is not None:
            yield from _foreign(source, stream, path)
        event = pipeline.fields_of(source.stream)
        kinds = _kinds(event, pipeline.label.field)
        for name, field in source.fields.items():
            where = (*path, "fields", name)
            yield from _canonical(name, field, kinds.get(name), where)
            implied = None if name == pipeline.label.field else kinds.get(name, (None,))[0]
            yield from _steps(name, field, where, cast=field.cast or implied)
            yield from _range(name, field, event.numbers.get(name), where, cast=field.cast or implied)
            if name in event.entities and field.default == "":
                yield Mistake((*where, "default"), f"{name} keys records; an empty default is no key")


def _missing(pipeline: Pipeline, source: SourceSpec, path: Path) -> Iterator[Mistake]:
    fields = pipeline.fields_of(source.stream)
    needed = ["id", "event_time", *fields.entities]
    if source.kind != "label":
        needed += [*fields.numbers, *fields.categories]
    else:
        needed += ["known_at", pipeline.label.field]
    missing = [name for name in needed if name not in source.fields]
    if missing:
        yield Mistake(
            (*path, "fields"),
            f"the {source.kind} source {source.name!r} does not say where {listed(missing)} come from",
        )


def _of_no_stream(pipeline: Pipeline, source: SourceSpec, path: Path) -> Iterator[Mistake]:
    known = listed(pipeline.streams)
    if source.kind != "stream":
        yield Mistake((*path, "stream"), f"stream is for sources of kind stream; {source.name!r} is of {source.kind}s")
    elif source.stream is None:
        yield Mistake(path, f"the source {source.name!r} does not say of which stream it is; streams has {known}")
    else:
        yield Mistake((*path, "stream"), f"unknown stream {source.stream!r}; streams has {known}")


def _foreign(source: SourceSpec, stream: StreamSpec, path: Path) -> Iterator[Mistake]:
    known = ["id", "event_time", *stream.entities, *stream.numbers]
    for name in source.fields:
        if name not in known and name not in ("v", STREAM_FIELD):
            message = f"the stream {source.stream!r} has no field {name!r}; it has {listed(known)}"
            yield Mistake((*path, "fields", name), message)


def _kinds(event: EventSpec, label: str) -> dict[str, tuple[str, ...]]:
    """Casts allowed for the fields that every pipeline has; but for the label, the first is what the field is
    without a cast."""
    kinds: dict[str, tuple[str, ...]] = {"id": ("string",)}
    kinds |= dict.fromkeys(("event_time", "known_at"), ("timestamp", "integer"))
    kinds |= dict.fromkeys(event.texts, ("string",))
    kinds |= dict.fromkeys(event.numbers, _NUMERIC)
    kinds[label] = ("integer", "boolean")
    return kinds


def _canonical(name: str, field: SourceField, kinds: tuple[str, ...] | None, path: Path) -> Iterator[Mistake]:
    if name == "v":
        yield Mistake(path, "v is written by ingest itself; leave it out")
    if kinds is not None and field.cast is not None and field.cast not in kinds:
        yield Mistake((*path, "cast"), f"{name} must be {' or '.join(kinds)}, not {field.cast}")
    if name in ("id", "event_time", "known_at") and field.default is not None:
        yield Mistake((*path, "default"), f"{name} tells records apart; it cannot have a default")


def _steps(name: str, field: SourceField, path: Path, *, cast: str | None) -> Iterator[Mistake]:
    numeric = cast in _NUMERIC
    if field.unit != "ms" and field.cast != "timestamp":
        yield Mistake((*path, "unit"), "unit is for times (cast: timestamp)")
    if field.multiply is not None and not numeric:
        yield Mistake((*path, "multiply"), "multiply is for numbers (cast: integer or number)")
    if field.multiply is not None and not 1 / _LARGEST_FACTOR <= abs(field.multiply) <= _LARGEST_FACTOR:
        message = f"{field.multiply:g} is no factor between units; one is between 1e-15 and 1e15, or minus that"
        yield Mistake((*path, "multiply"), message)
    if field.min is not None and field.max is not None and field.min > field.max:
        yield Mistake(path, f"min {field.min:g} of {name} is above max {field.max:g}")
    bounded = field.min is not None or field.max is not None
    if bounded and not numeric and cast != "timestamp":
        yield Mistake(path, f"min and max of {name} are for numbers and times (cast: integer, number or timestamp)")
    if field.out_of_range == "clamp" and not bounded:
        yield Mistake((*path, "out_of_range"), "clamp needs min or max")
    if field.default is not None and cast is not None:
        wrong = isinstance(field.default, bool) != (cast == "boolean")
        if wrong or not isinstance(field.default, _PYTHON[cast]):
            yield Mistake((*path, "default"), f"the default {field.default!r} is no {cast}")


def _range(
    name: str, field: SourceField, number: NumberField | None, path: Path, *, cast: str | None
) -> Iterator[Mistake]:
    """A range that no value is in, and a default that would itself be refused."""
    if cast not in _WIDEST or (field.min is not None and field.max is not None and field.min > field.max):
        return
    low, high = _WIDEST[cast]
    for least in (field.min, None if number is None else number.min):
        low = low if least is None else max(low, least)
    for most in (field.max, None if number is None else number.max):
        high = high if most is None else min(high, most)
    if cast != "number":
        low, high = math.ceil(low), math.floor(high)
    if low > high:
        yield Mistake(path, f"no value of {name} is right: {cast}s from {low:g} to {high:g} are left")
    elif isinstance(field.default, int | float) and field.out_of_range == "reject" and not low <= field.default <= high:
        yield Mistake((*path, "default"), f"the default {field.default:g} is outside {low:g} to {high:g}")
