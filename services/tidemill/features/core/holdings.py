"""What a changelog holds, for people: the keys of a stage with their rows, read as the stage itself would restore them.

Rows that have expired since their chunk was written are left out, as they are at a restore.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np

from tidemill.domain.pipeline import Pipeline
from tidemill.features.core import kernels
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.engine import CHUNK_SUFFIX, WindowEngine
from tidemill.features.core.join import OutcomeJoin

ColumnType = Literal["text", "integer", "number"]
Row = dict[str, str | int | float | None]
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
    """A keyed stage: an event is a row, a label another. A correction's row holds the difference to the label before.

    `arrival` numbers a key's rows in the order in which they came; number fields are in units, as in the event.
    """

    def __init__(self, pipeline: Pipeline, index: int) -> None:
        self._stage = compile_stage(pipeline, index)
        self.columns: Mapping[str, ColumnType] = {
            "key": "text",
            "event_time": "integer",
            "arrival": "integer",
            "kind": "text",
            "id_hash": "text",
            "label": "integer",
            **dict.fromkeys(self._stage.numbers, "number"),
        }

    def summaries(self, entries: Entries) -> Iterator[KeySummary]:
        sizes: dict[bytes, int] = {}
        for key, value in entries.items():
            name = key[:-CHUNK_SUFFIX]
            sizes[name] = sizes.get(name, 0) + len(key) + len(value)
        engine = self._restored(entries)
        for name in engine.names:
            times = engine.rows_of(name)[:, kernels.TS]
            yield KeySummary(_text(name), len(times), int(times[0]), int(times[-1]), sizes[name])

    def rows(self, entries: Entries, key: str | None = None) -> Iterator[Row]:
        if key is not None:
            wanted = key.encode()
            entries = {entry: value for entry, value in entries.items() if entry[:-CHUNK_SUFFIX] == wanted}
        engine = self._restored(entries)
        first_number = kernels.PREFIX + kernels.NUMBERS
        for name in engine.names:
            held = engine.rows_of(name)
            hashes = held[:, kernels.ID].astype(np.uint64).tolist()
            numbers = (held[:, first_number:] / np.array(self._stage.scales, np.float64)).tolist()
            for row, id_hash, values in zip(held.tolist(), hashes, numbers, strict=True):
                is_label = row[kernels.ARRIVAL] & 1
                yield {
                    "key": _text(name),
                    "event_time": row[kernels.TS],
                    "arrival": row[kernels.ARRIVAL] >> 1,
                    "kind": "label" if is_label else "event",
                    "id_hash": f"{id_hash:016x}",
                    "label": row[kernels.PREFIX + kernels.LABEL] if is_label else None,
                    **dict(zip(self._stage.numbers, [None] * len(values) if is_label else values, strict=True)),
                }

    def _restored(self, entries: Entries) -> WindowEngine:
        engine = WindowEngine(self._stage)
        engine.restore(entries.items())
        return engine


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
