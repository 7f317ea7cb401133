"""Between bytes and columns: decode only the fields a stage needs, and splice its features into the bytes it was given.

A stage never rebuilds an event: it cuts the closing brace (or, where an earlier stage ran, the closing `]}`) and writes
its features behind. So the event's own bytes reach the prediction unchanged, and encoding costs one join a record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.pipeline import Pipeline
from tidemill.features.core import intake
from tidemill.features.core.columns import fields_of, fill, hash_texts
from tidemill.features.core.definition import StageDefinition
from tidemill.features.core.derivation import evaluate
from tidemill.features.core.rings import NOT_A_LABEL, Int64s

EventTime = Annotated[int, msgspec.Meta(ge=0, le=1 << 52)]
"""Milliseconds since 1970 UTC."""

_Truth = Annotated[int, msgspec.Meta(ge=0, le=1)]


@dataclass(slots=True)
class Columns:
    """The readable ones of the records given. A label's numbers are 0; an event's label is NOT_A_LABEL."""

    rows: Sequence[int]
    """Which record each line came from."""
    times: Int64s
    identities: Int64s
    labels: Int64s
    raw: NDArray[np.float64]
    """float64[n, fields]: the numeric event fields as they came."""
    numbers: Int64s
    """int64[n, kept]: what each row contributes to the value columns of the engine."""
    next_keys: list[bytes]
    texts: dict[str, list[str]]
    """The text fields that become columns of 0 and 1, as they came; a label's may be empty."""
    earlier: NDArray[np.float64]
    """float64[n, earlier features]: what earlier stages made, NaN where null; no columns if nothing reads them."""
    faults: list[tuple[int, str]]
    """(record, what is wrong with it) of those left out."""
    summarized: list[list[int]]
    """For each line what it brings to the summaries; empty for a stage that has none."""


class StageCodec:
    """Decodes the input of one stage and encodes its output. Stateless between calls."""

    def __init__(self, pipeline: Pipeline, definition: StageDefinition) -> None:
        stages = pipeline.features.stages
        following = definition.index + 1
        entity = stages[following].entity if following < len(stages) else pipeline.primary_entity
        fields = definition.fields
        # Attributes are numbered because a field of the pipeline may be a Python keyword.
        numbers = [f"number_{at}" for at in range(len(fields))]
        texts = {name: "next_key" if name == entity else f"text_{at}" for at, name in enumerate(definition.texts)}
        further = {name: attribute for name, attribute in texts.items() if name != entity}
        members: list[tuple[str, Any] | tuple[str, Any, Any]] = [
            ("identity", str),
            ("time", EventTime),
            ("next_key", str),
            ("label", _Truth | None, None),
            ("feature_set", str, ""),
            *((name, float, np.nan) for name in numbers),
            *((name, str | None, None) for name in further.values()),
        ]
        if definition.earlier:
            members.append(("made", list[float | None], []))
        names = {"identity": "id", "time": "event_time", "next_key": entity, "feature_set": "fs"}
        names |= {"label": pipeline.label.field, **dict(zip(numbers, fields, strict=True))}
        names |= {attribute: name for name, attribute in further.items()}
        names |= {"made": "features"} if definition.earlier else {}
        row = msgspec.defstruct("Row", members, rename=names, gc=False)
        self._decode: Any = msgspec.json.Decoder(row).decode
        self._definition = definition
        self._first = definition.index == 0
        self._hash = feature_set_hash(pipeline)
        self._opening = b',"fs":"%b","features":[' % self._hash.encode()
        self._numbers = [attrgetter(name) for name in numbers]
        self._scales = np.array(definition.scales, np.float64)
        bounds = [pipeline.event.numbers[name] for name in fields]
        self._field_scales = np.array([number.scale for number in bounds], np.float64)
        self._least = np.array([number.min for number in bounds], np.float64)
        self._largest = np.array([number.max for number in bounds], np.float64)
        self._plan = _plan(definition)
        self._shown = {one.field for one in definition.one_hots}
        self._texts = [(name, attrgetter(attribute)) for name, attribute in texts.items()]

    def decode(self, values: Sequence[bytes | None]) -> Columns:
        """Columns of the readable records among `values`, in their order."""
        kept: Sequence[int] = range(len(values))
        faults: list[tuple[int, str]] = []
        try:
            rows = list(map(self._decode, values))
        except (TypeError, ValueError):
            rows, kept, faults = self._decode_each(values)
        labels = np.array([NOT_A_LABEL if row.label is None else row.label for row in rows], np.int64)
        raw = np.empty((len(rows), len(self._numbers)))
        for column, field in enumerate(self._numbers):
            raw[:, column] = list(map(field, rows))
        fixed = np.empty((len(rows), len(self._scales)), np.int64)
        missed = intake.take(raw, labels, self._least, self._largest, self._scales, fixed)
        wrong = self._wrong(rows, [values[at] for at in kept])
        earlier = self._earlier(rows, wrong)
        if missed or wrong:
            good = ((raw >= self._least) & (raw <= self._largest)).all(axis=1) | (labels != NOT_A_LABEL)
            good[list(wrong)] = False
            faults += [(kept[at], self._fault(rows[at], raw[at])) for at in np.flatnonzero(~good).tolist()]
            chosen = np.flatnonzero(good)
            rows, kept = [rows[at] for at in chosen.tolist()], [kept[at] for at in chosen.tolist()]
            labels, raw, fixed, earlier = labels[chosen], raw[chosen], fixed[chosen], earlier[chosen]
        stage = self._definition
        return Columns(
            rows=kept,
            times=np.array([row.time for row in rows], np.int64),
            identities=hash_texts([row.identity for row in rows]),
            labels=labels,
            raw=raw,
            numbers=fixed if stage.kept_as_read else self._contributions(rows, fixed),
            texts={name: [text(row) or "" for row in rows] for name, text in self._texts if name in self._shown},
            next_keys=[row.next_key.encode() for row in rows],
            earlier=earlier,
            faults=faults,
            summarized=self._summarized(rows, raw) if stage.summarized else [],
        )

    def _wrong(self, rows: Sequence[Any], values: Sequence[bytes | None]) -> set[int]:
        """Events that lack a text, or were not written by the stage before this one."""
        wrong: set[int] = set()
        for _, text in self._texts:
            wrong.update(at for at, row in enumerate(rows) if row.label is None and text(row) is None)
        if not self._first:
            ours = self._hash
            strange = [
                row.label is None and (row.feature_set != ours or value is None or value[-2:] != b"]}")
                for row, value in zip(rows, values, strict=True)
            ]
            if True in strange:
                wrong.update(at for at, is_strange in enumerate(strange) if is_strange)
        return wrong

    def _contributions(self, rows: Sequence[Any], fixed: Int64s) -> Int64s:
        """int64[n, kept]."""
        stage = self._definition
        numbers = {name: fixed[:, at] for at, name in enumerate(stage.numbers)}
        texts = {name: hash_texts([text(row) or "" for row in rows]) for name, text in self._texts}
        return fill(stage.kept, numbers, texts, len(rows))

    def _summarized(self, rows: Sequence[Any], raw: NDArray[np.float64]) -> list[list[int]]:
        stage = self._definition
        fixed = np.rint(raw * self._field_scales).astype(np.int64)
        numbers = {field: fixed[:, at] for at, field in enumerate(stage.fields)}
        read = fields_of(stage.summarized, texts=True)
        texts = {name: hash_texts([text(row) or "" for row in rows]) for name, text in self._texts if name in read}
        lines: list[list[int]] = fill(stage.summarized, numbers, texts, len(rows)).tolist()
        return lines

    def _earlier(self, rows: Sequence[Any], wrong: set[int]) -> NDArray[np.float64]:
        """Adds to `wrong` the events that do not hold as many features as earlier stages make."""
        width = len(self._definition.earlier)
        found = np.empty((len(rows), width))
        if width:
            found[:] = np.nan
            for at, row in enumerate(rows):
                if row.label is not None:
                    continue
                if len(row.made) == width:
                    found[at] = row.made
                else:
                    wrong.add(at)
        return found

    def _decode_each(self, values: Sequence[bytes | None]) -> tuple[list[Any], list[int], list[tuple[int, str]]]:
        rows: list[Any] = []
        kept: list[int] = []
        faults: list[tuple[int, str]] = []
        for at, value in enumerate(values):
            if value is None:
                faults.append((at, "has no value"))
                continue
            try:
                rows.append(self._decode(value))
            except ValueError as error:
                faults.append((at, str(error)))
            else:
                kept.append(at)
        return rows, kept, faults

    def _fault(self, row: Any, raw: NDArray[np.float64]) -> str:
        for at, (field, value) in enumerate(zip(self._definition.fields, raw.tolist(), strict=True)):
            if value != value:
                return f"event field {field!r} is missing"
            least, largest = self._least[at], self._largest[at]
            if not least <= value <= largest:
                return f"event field {field!r} is {value:g}, out of range: {least:g} to {largest:g} is declared"
        for field, text in self._texts:
            if text(row) is None:
                return f"event field {field!r} is missing"
        if row.feature_set != self._hash:
            return f"feature set is {row.feature_set!r}, this stage continues {self._hash!r}"
        return "`features` is not the last member"

    def matrix(self, columns: Columns, aggregates: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64[n, features of the stage] in the order of the file."""
        stage = self._definition
        if len(stage.aggregates) == len(stage.names):
            return aggregates
        out = np.empty((len(columns.rows), len(stage.names)))
        intake.assemble(columns.times, columns.raw, aggregates, self._plan, out)
        for one in stage.one_hots:
            places = dict(zip(one.values, range(len(one.values)), strict=True))
            found = np.array([places.get(text, len(places)) for text in columns.texts[one.field]], np.int64)
            for place in range(len(places) + one.other):
                out[:, one.column + place] = found == place
        if stage.derived:
            self._derive(columns, out)
        return out

    def _derive(self, columns: Columns, out: NDArray[np.float64]) -> None:
        stage = self._definition
        known = {field: columns.raw[:, at] for at, field in enumerate(stage.fields)}
        own = {at for at, _ in stage.derived}
        made = {name: columns.earlier[:, at] for at, name in enumerate(stage.earlier)}
        made |= {name: out[:, at] for at, name in enumerate(stage.names) if at not in own}
        for at, expression in stage.derived:
            # Not made yet, its own name means the event's field.
            out[:, at] = evaluate(expression, {**known, **made}, len(out))
            made[stage.names[at]] = out[:, at]

    def encode(self, values: Sequence[bytes], matrix: NDArray[np.float64]) -> list[bytes]:
        """Each input with its row of features spliced in; NaN becomes null. `features` stays the last member."""
        if not values:
            return []
        text = orjson.dumps(np.ascontiguousarray(matrix), option=orjson.OPT_SERIALIZE_NUMPY)
        parts = text[2:-2].split(b"],[")
        if self._first:
            opening = self._opening
            return [
                (value if value[-1] == 125 else value.rstrip())[:-1] + opening + part + b"]}"
                for value, part in zip(values, parts, strict=True)
            ]
        return [value[:-2] + b"," + part + b"]}" for value, part in zip(values, parts, strict=True)]


def _plan(stage: StageDefinition) -> Int64s:
    """For `intake.assemble`: all columns but those of texts and expressions."""
    lines = [(intake.OF_AGGREGATES, place, at) for place, at in enumerate(stage.aggregates)]
    lines += [(intake.OF_NUMBERS, stage.fields.index(field), at) for at, field in stage.values]
    lines += [(intake.WEEKEND if kind == "weekend" else intake.NIGHT, 0, at) for at, kind in stage.calendar]
    return np.array(lines, np.int64).reshape(-1, 3)
