"""What a changelog holds, for people: the keys of a stage with their rows, read as the stage itself would restore them.

Rows that have expired since their chunk was written are left out, as they are at a restore.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Literal, NamedTuple, Protocol

from tidemill.domain.pipeline import Pipeline
from tidemill.features.core import rings
from tidemill.features.core.columns import Column, Condition
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.engine import CHUNK_SUFFIX, WindowEngine
from tidemill.features.core.join import OutcomeJoin
from tidemill.features.core.merging import MERGED
from tidemill.features.core.summarypartition import is_summary_entry

ColumnType = Literal["text", "integer", "number"]
Row = dict[str, str | int | float | None]
PARTITION = "partition"
"""Column in which a reader of several partitions says where a row lies; `columns` never has it."""
Entries = Mapping[bytes, bytes]
"""The latest value of each key of one changelog partition, deleted ones left out."""


class KeySummary(NamedTuple):
    """One key. Times are event times in ms; `bytes` is its share of the changelog, None where keys share records."""

    key: str
    rows: int
    oldest: int
    newest: int
    bytes: int | None


class Holdings(Protocol):
    """The state of one stage. Both methods raise StateCorrupt for entries that another definition wrote."""

    columns: Mapping[str, ColumnType]
    """Of `rows`, in their order."""

    def summaries(self, entries: Entries) -> Iterator[KeySummary]:
        """Every key of a partition, in order."""
        ...

    def rows(self, entries: Entries, key: str | None = None) -> Iterator[Row]:
        """Every row of a partition, or of one key there: by key, then by event time."""
        ...


class WindowHoldings:
    """A keyed stage: an event is a row, and so is a label or a record of a joined stream. A correction's row holds the
    difference to the label before.

    `arrival` numbers a key's rows in the order in which they came. What else a row holds is named after the field it
    came from, with the filter that it passed: numbers in units as in the event, texts as their hashes, whether a
    filter took the event as 1 or 0; of a stream's record, its `kind` says which, with the stream in front. Squares,
    which follow from the numbers, are left out, and so are the windows of summaries.

    Where a stage merges rows, a merged row has the time of its newest event, in `events` how many it stands for, and
    sums of what they had: of labels, of numbers, of what a filter took. It has no arrival, no id and no text.
    """

    def __init__(self, pipeline: Pipeline, index: int) -> None:
        self._stage = compile_stage(pipeline, index)
        self._merges = self._stage.merging is not None
        scales: dict[str | None, dict[str, int]] = {
            None: dict(zip(self._stage.numbers, self._stage.scales, strict=True))
        }
        for stream, field, scale in self._stage.stream_scales:
            scales.setdefault(stream, {})[field] = scale
        built_in: dict[str, ColumnType] = {
            "key": "text",
            "event_time": "integer",
            "arrival": "integer",
            "kind": "text",
            "id_hash": "text",
            "label": "integer",
            **({"events": "integer"} if self._merges else {}),
        }
        self._shown = [
            _Shown(rings.PREFIX + rings.NUMBERS + at, column, scales.get(column.stream, {}), {PARTITION, *built_in})
            for at, column in enumerate(self._stage.kept)
            if column.kind not in ("square_low", "square_high") and at >= len(self._stage.streams)
        ]
        self.columns: Mapping[str, ColumnType] = {**built_in, **{shown.title: shown.type for shown in self._shown}}

    def summaries(self, entries: Entries) -> Iterator[KeySummary]:
        sizes: dict[bytes, int] = {}
        for key, value in entries.items():
            name = key[:-CHUNK_SUFFIX]
            sizes[name] = sizes.get(name, 0) + len(key) + len(value)
        engine = self._restored(entries)
        for name in engine.names:
            times = engine.rows_of(name)[:, rings.TS].tolist()
            yield KeySummary(_text(name), len(times), times[0], times[-1], sizes[name])

    def rows(self, entries: Entries, key: str | None = None) -> Iterator[Row]:
        if key is not None:
            wanted = key.encode()
            entries = {entry: value for entry, value in entries.items() if entry[:-CHUNK_SUFFIX] == wanted}
        engine = self._restored(entries)
        for name in engine.names:
            for row in engine.rows_of(name).tolist():
                kind = self._kind(row)
                of, merged = None if kind in ("event", "merged") else kind, kind == "merged"
                yield {
                    "key": _text(name),
                    "event_time": row[rings.TS],
                    "arrival": None if merged else row[rings.ARRIVAL] >> 1,
                    "kind": kind,
                    "id_hash": None if merged else _hex(row[rings.ID]),
                    "label": row[rings.PREFIX + rings.LABEL] if kind in ("label", "merged") else None,
                    **({"events": row[rings.PREFIX + rings.WEIGHT]} if self._merges else {}),
                    **{
                        shown.title: None
                        if shown.stream != of or (merged and shown.type == "text")
                        else shown.value(row)
                        for shown in self._shown
                    },
                }

    def _kind(self, row: list[int]) -> str:
        """`event`, `label`, `merged`, or the name of a stream."""
        if row[rings.ARRIVAL] == MERGED:
            return "merged"
        if not row[rings.ARRIVAL] & 1:
            return "event"
        counts = row[rings.PREFIX + rings.NUMBERS :]
        return next((name for name, count in zip(self._stage.streams, counts, strict=False) if count), "label")

    def _restored(self, entries: Entries) -> WindowEngine:
        engine = WindowEngine(self._stage)
        engine.restore((key, value) for key, value in entries.items() if not is_summary_entry(key))
        return engine


class _Shown:
    """A value column of a row, for people. A field with the name of one of the other columns has `field.` in front."""

    def __init__(self, at: int, column: Column, scales: Mapping[str, int], taken: Collection[str]) -> None:
        where = " and ".join(_condition(condition, scales) for condition in column.where)
        self._at = at
        self._kind = column.kind
        self._scale = scales.get(column.field or "", 1)
        self.stream = column.stream
        name = {"taken": "taken", "label": "label"}.get(column.kind, column.field or "")
        name = name if self.stream is None else f"{self.stream}.{name}"
        title = f"{name} where {where}" if where else name
        self.title = f"field.{title}" if title in taken else title
        self.type: ColumnType = {"value": "number", "text": "text"}.get(column.kind, "integer")  # type: ignore[assignment]

    def value(self, row: list[int]) -> str | int | float:
        value = row[self._at]
        if self._kind == "value":
            return value / self._scale
        return _hex(value) if self._kind == "text" else value


def _condition(condition: Condition, scales: Mapping[str, int]) -> str:
    bound = _hex(condition.bound) if condition.of_text else f"{condition.bound / scales[condition.field]:g}"
    return f"{condition.field} {condition.operator} {bound}"


def _hex(value: int) -> str:
    return f"{value & 0xFFFF_FFFF_FFFF_FFFF:016x}"


class JoinHoldings:
    """The join of predictions with labels: what waits for its prediction. A key is an event's id."""

    columns: Mapping[str, ColumnType] = {
        "key": "text",
        "event_time": "integer",
        "kind": "text",
        "known_at": "integer",
        "label": "integer",
        "model_version": "integer",
        "score": "number",
    }

    def __init__(self, pipeline: Pipeline) -> None:
        self._rules = pipeline.outcomes

    def summaries(self, entries: Entries) -> Iterator[KeySummary]:
        times: dict[str, list[int]] = {}
        for row in self.rows(entries):
            times.setdefault(str(row["key"]), []).append(int(row["event_time"] or 0))
        for key, seen in sorted(times.items()):
            yield KeySummary(key, len(seen), min(seen), max(seen), None)

    def rows(self, entries: Entries, key: str | None = None) -> Iterator[Row]:
        join = OutcomeJoin(self._rules)
        join.restore(entries)
        labels, shadows = join.holdings()
        empty: Row = dict.fromkeys(self.columns)
        found: list[Row] = [
            {**empty, "key": at.id, "event_time": at.event_time, "kind": "label"}
            | {"known_at": at.known_at, "label": at.value}
            for at in labels
        ]
        found += [
            {**empty, "key": at.id, "event_time": at.event_time, "kind": "shadow"}
            | {"model_version": at.model_version, "score": at.score}
            for at in shadows
        ]
        yield from (
            row
            for row in sorted(found, key=lambda row: (str(row["key"]), str(row["kind"])))
            if key in (None, row["key"])
        )


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
