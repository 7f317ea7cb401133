"""The codec of a stage that records of second streams reach: they are taken out, read by declarations of their own, and
put back into their places. A stream's record names its stream in a member that events and labels do not have."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill.domain.pipeline import Pipeline
from tidemill.domain.streamrules import STREAM_FIELD
from tidemill.features.core.codec import Columns, EventTime, StageCodec
from tidemill.features.core.columns import fields_of, fill, hash_texts
from tidemill.features.core.definition import StageDefinition
from tidemill.features.core.rings import OF_A_STREAM

_Line = TypeVar("_Line")

PASSED_ON = -3
"""The label of a record whose stream only a later stage joins."""


class JoinCodec(StageCodec):
    """Stateless between calls. A record of a stream has its label OF_A_STREAM or PASSED_ON; its next key is empty where
    no later stage joins the stream."""

    def __init__(self, pipeline: Pipeline, definition: StageDefinition) -> None:
        super().__init__(pipeline, definition)
        names = pipeline.streams_into(definition.index)
        self._streams = {name: _StreamCodec(pipeline, definition, name) for name in names}
        member = msgspec.defstruct("Kind", [("stream", str | None, None)], rename={"stream": STREAM_FIELD}, gc=False)
        self._kind: Any = msgspec.json.Decoder(member).decode

    def decode(self, values: Sequence[bytes | None]) -> Columns:
        kinds = self._kinds(values)
        if not any(kind is not None for kind in kinds):
            return super().decode(values)
        places: dict[str | None, list[int]] = {}
        for at, kind in enumerate(kinds):
            places.setdefault(kind, []).append(at)
        unknown = [(at, kind) for kind, found in places.items() if kind not in (None, *self._streams) for at in found]
        own = places.get(None, [])
        parts = [_at(own, super().decode([values[at] for at in own]))]
        for name, stream in self._streams.items():
            found = places.get(name, [])
            parts.append(_at(found, stream.decode([values[at] or b"" for at in found])))
        merged = _merged(parts)
        merged.faults += [(at, f"no stage behind this topic joins the stream {kind!r}") for at, kind in unknown]
        return merged

    def _kinds(self, values: Sequence[bytes | None]) -> list[str | None]:
        """The stream of each; None for an event, a label, and what cannot be read."""
        try:
            return [self._kind(value).stream for value in values]
        except (TypeError, ValueError):
            return [self._one_kind(value) for value in values]

    def _one_kind(self, value: bytes | None) -> str | None:
        try:
            kind: str | None = self._kind(value).stream
        except (TypeError, ValueError):
            return None
        return kind


class _StreamCodec:
    """Reads records of one stream, as far as one stage needs them."""

    def __init__(self, pipeline: Pipeline, definition: StageDefinition, name: str) -> None:
        self._name = name
        self._definition = definition
        self._label = OF_A_STREAM if name in definition.streams else PASSED_ON
        self._salt = hash_texts([f"{STREAM_FIELD} {name}"])
        numbers = fields_of(definition.kept, texts=False, stream=name)
        texts = fields_of(definition.kept, texts=True, stream=name)
        following = definition.index + 1
        onward = name in pipeline.streams_into(following)
        entity = pipeline.features.stages[following].entity if onward else None
        read = dict.fromkeys((*texts, *((entity,) if entity else ())))
        # Attributes are numbered because a field of the pipeline may be a Python keyword.
        attributes = {field: f"text_{at}" for at, field in enumerate(read)}
        of_numbers = {field: f"number_{at}" for at, field in enumerate(numbers)}
        members: list[tuple[str, Any] | tuple[str, Any, Any]] = [
            ("identity", str),
            ("time", EventTime),
            *((attribute, str) for attribute in attributes.values()),
            *((attribute, float, np.nan) for attribute in of_numbers.values()),
        ]
        names = {"identity": "id", "time": "event_time"}
        names |= {attribute: field for field, attribute in (attributes | of_numbers).items()}
        row = msgspec.defstruct("StreamRow", members, rename=names, gc=False)
        self._decode: Any = msgspec.json.Decoder(row).decode
        self._texts = {field: attrgetter(attributes[field]) for field in texts}
        self._numbers = {field: attrgetter(attribute) for field, attribute in of_numbers.items()}
        self._next_key = attrgetter(attributes[entity]) if entity else None
        self._declared = pipeline.streams[name].numbers

    def decode(self, values: Sequence[bytes]) -> Columns:
        rows: list[Any] = []
        kept: list[int] = []
        faults: list[tuple[int, str]] = []
        for at, value in enumerate(values):
            try:
                row = self._decode(value)
            except ValueError as error:
                faults.append((at, f"stream {self._name!r}: {error}"))
                continue
            fault = self._fault(row)
            if fault is not None:
                faults.append((at, fault))
                continue
            rows.append(row)
            kept.append(at)
        count = len(rows)
        return Columns(
            rows=kept,
            times=np.array([row.time for row in rows], np.int64),
            identities=hash_texts([row.identity for row in rows]) ^ self._salt,
            labels=np.full(count, self._label, np.int64),
            raw=np.zeros((count, len(self._definition.fields))),
            numbers=fill(self._definition.kept, *self._fields(rows), count, self._name),
            texts={},
            next_keys=[self._next_key(row).encode() if self._next_key else b"" for row in rows],
            earlier=np.full((count, len(self._definition.earlier)), np.nan),
            faults=faults,
            summarized=[],
        )

    def _fault(self, row: Any) -> str | None:
        for field, number in self._numbers.items():
            value, declared = number(row), self._declared[field]
            if value != value:
                return f"field {field!r} of stream {self._name!r} is missing"
            if not declared.min <= value <= declared.max:
                bounds = f"{declared.min:g} to {declared.max:g} is declared"
                return f"field {field!r} of stream {self._name!r} is {value:g}, out of range: {bounds}"
        if self._next_key is not None and not self._next_key(row):
            return f"stream {self._name!r}: the key of the next stage is empty"
        return None

    def _fields(self, rows: Sequence[Any]) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.int64]]]:
        """(numbers in fixed point, hashes of texts) by field."""
        numbers = {
            field: np.rint(np.fromiter(map(number, rows), np.float64, len(rows)) * self._declared[field].scale)
            for field, number in self._numbers.items()
        }
        texts = {field: hash_texts([text(row) for row in rows]) for field, text in self._texts.items()}
        return {field: values.astype(np.int64) for field, values in numbers.items()}, texts


def _at(places: Sequence[int], columns: Columns) -> Columns:
    """`columns` of records that stand at `places` among all."""
    columns.rows = [places[at] for at in columns.rows]
    columns.faults = [(places[at], fault) for at, fault in columns.faults]
    return columns


def _merged(parts: Sequence[Columns]) -> Columns:
    """The lines of all parts in the order of their records."""
    rows = [row for part in parts for row in part.rows]
    order = np.argsort(np.array(rows, np.int64), kind="stable")
    keys = [key for part in parts for key in part.next_keys]
    return Columns(
        rows=[rows[at] for at in order.tolist()],
        times=np.concatenate([part.times for part in parts])[order],
        identities=np.concatenate([part.identities for part in parts])[order],
        labels=np.concatenate([part.labels for part in parts])[order],
        raw=np.concatenate([part.raw for part in parts])[order],
        numbers=np.concatenate([part.numbers for part in parts])[order],
        texts={name: _in_places([part.texts.get(name) for part in parts], parts, "", order) for name in parts[0].texts},
        next_keys=[keys[at] for at in order.tolist()],
        earlier=np.concatenate([part.earlier for part in parts])[order],
        faults=[fault for part in parts for fault in part.faults],
        summarized=_in_places([part.summarized for part in parts], parts, [], order) if parts[0].summarized else [],
    )


def _in_places(
    found: Sequence[Sequence[_Line] | None], parts: Sequence[Columns], nothing: _Line, order: NDArray[np.int64]
) -> list[_Line]:
    """What only events bring, in the order of all records: `nothing` for each line of a part that brings none."""
    lines = [line for one, part in zip(found, parts, strict=True) for line in one or [nothing] * len(part.rows)]
    return [lines[at] for at in order.tolist()]
