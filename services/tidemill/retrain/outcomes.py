"""Labelled outcomes as columns, read from the outcomes topic by event time, and kept as immutable Parquet files."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.domain.durations import DAY_MS
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.model import digest
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import RecordError
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record

_POLL_RECORDS = 5_000
_POLL_S = 0.2
_DISORDER_MS = DAY_MS
"""Outcomes of one partition come from stages that merge several: nearly in order of time, not quite."""
NO_VERSION = -1
"""Column value of a row that the rule scored, or that no challenger did."""


class Reader(Protocol):
    """The part of TopicReader that is needed here."""

    partitions: tuple[Partition, ...]

    def poll(self, max_records: int = ..., timeout_s: float = ...) -> list[Record]: ...
    def at_end(self) -> bool: ...
    def end_offsets(self) -> dict[Partition, int]: ...
    def offsets_for_time(self, timestamp_ms: int) -> dict[Partition, int]: ...
    def close(self) -> None: ...


class OpenReader(Protocol):
    """Opens a topic from its beginning, or from the given offsets."""

    def __call__(self, topic: str, start: Mapping[Partition, int] | None = None) -> Reader: ...


_Whole = Annotated[int, msgspec.Meta(ge=0, le=1 << 52)]


class _Shadow(msgspec.Struct, frozen=True, gc=False):
    model_version: _Whole
    score: float


class _Outcome(msgspec.Struct, frozen=True, gc=False):
    """The members of an outcome that training and comparing read."""

    id: str
    event_time: _Whole
    fs: str
    features: list[float | None]
    model_version: _Whole | None
    outputs: dict[str, float]
    label: Annotated[int, msgspec.Meta(ge=0, le=1)] | None
    shadow: _Shadow | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Labelled rows, by event time then id. NaN stands for an undefined feature or a missing shadow score."""

    id: npt.NDArray[np.str_]
    event_time: npt.NDArray[np.int64]
    features: npt.NDArray[np.float64]
    label: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    model_version: npt.NDArray[np.int64]
    shadow_score: npt.NDArray[np.float64]
    shadow_version: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.label.size)

    def where(self, rows: npt.NDArray[np.bool_]) -> Self:
        """The rows for which the mask is true."""
        return type(self)(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})

    @property
    def positives(self) -> int:
        return int(self.label.sum())


class OutcomeSource:
    """Reads one pipeline's outcomes. An outcome's Kafka timestamp is its event time plus the maturity, so event times
    become offsets."""

    def __init__(self, pipeline: Pipeline, open_reader: OpenReader) -> None:
        self._pipeline = pipeline
        self._open = open_reader
        self._decoder = msgspec.json.Decoder(_Outcome)

    def read(self, from_ms: int, to_ms: int) -> tuple[Outcomes, dict[str, tuple[int, int]]]:
        """Labelled outcomes of this feature set with from ≤ event time < to, and the offsets [low, high) they came
        from. Blocks while reading. Raises RecordError on a record that is no outcome."""
        maturity = self._pipeline.outcomes.maturity
        topic = self._pipeline.topic("outcomes")
        with closing(self._open(topic)) as reader:
            low = reader.offsets_for_time(from_ms + maturity - _DISORDER_MS)
        feature_set = feature_set_hash(self._pipeline)
        high = dict(low)
        kept: list[_Outcome] = []
        with closing(self._open(topic, low)) as reader:
            for record in _until(reader, to_ms + maturity + _DISORDER_MS):
                high[record.topic, record.partition] = record.offset + 1
                row = self._row(record)
                if row.label is not None and row.fs == feature_set and from_ms <= row.event_time < to_ms:
                    kept.append(row)
        offsets = {f"{name}/{number}": (low[name, number], high[name, number]) for name, number in sorted(low)}
        return _columns(kept, len(self._pipeline.feature_names), self._pipeline.model.output), offsets

    def _row(self, record: Record) -> _Outcome:
        try:
            row = self._decoder.decode(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RecordError("schema", f"{_place(record)} is no outcome: {error}") from None
        if self._pipeline.model.output not in row.outputs:
            raise RecordError("schema", f"{_place(record)} has no output {self._pipeline.model.output!r}")
        return row

    def oldest_event_time(self) -> int | None:
        """Event time of the oldest outcome still there, or None while there is none."""
        first: dict[int, int] = {}
        with closing(self._open(self._pipeline.topic("outcomes"))) as reader:
            while len(first) < len(reader.partitions):
                for record in reader.poll(_POLL_RECORDS, _POLL_S):
                    first.setdefault(record.partition, record.timestamp)
                if reader.at_end():
                    break
        return min(first.values()) - self._pipeline.outcomes.maturity if first else None


def _place(record: Record) -> str:
    return f"{record.topic}/{record.partition} at {record.offset}"


def _until(reader: Reader, timestamp_ms: int) -> Iterator[Record]:
    """Each partition's records up to its first one that is so new, or to where it ended at the call."""
    ends = reader.end_offsets()
    unfinished = set(reader.partitions)
    while unfinished and not reader.at_end():
        for record in reader.poll(_POLL_RECORDS, _POLL_S):
            partition = (record.topic, record.partition)
            if partition in unfinished and record.timestamp < timestamp_ms and record.offset < ends[partition]:
                yield record
            # The last offset before the end may be a transaction marker, which no poll returns: then `at_end` tells.
            if record.timestamp >= timestamp_ms or record.offset >= ends[partition] - 1:
                unfinished.discard(partition)


def _columns(rows: list[_Outcome], width: int, output: str) -> Outcomes:
    rows.sort(key=lambda row: (row.event_time, row.id))
    shadows = [row.shadow for row in rows]
    features = np.array([row.features for row in rows], dtype=np.float64).reshape(len(rows), width)
    return Outcomes(
        id=np.array([row.id for row in rows], dtype=np.str_),
        event_time=np.array([row.event_time for row in rows], dtype=np.int64),
        features=features,
        label=np.array([row.label for row in rows], dtype=np.float64),
        score=np.array([row.outputs[output] for row in rows], dtype=np.float64),
        model_version=np.array(
            [NO_VERSION if row.model_version is None else row.model_version for row in rows], dtype=np.int64
        ),
        shadow_score=np.array([np.nan if shadow is None else shadow.score for shadow in shadows], dtype=np.float64),
        shadow_version=np.array(
            [NO_VERSION if shadow is None else shadow.model_version for shadow in shadows], dtype=np.int64
        ),
    )


def write_dataset(rows: Outcomes, names: tuple[str, ...], folder: Path) -> str:
    """Keep the rows as `<sha256>.parquet` and return that digest of the file. Topics expire, this stays."""
    columns: dict[str, Any] = {"id": rows.id.tolist(), "event_time": rows.event_time}
    for index, name in enumerate(names):
        columns[f"feature_{name}"] = pa.array(rows.features[:, index], from_pandas=True)
    columns["label"] = rows.label.astype(np.int8)
    columns["live_score"] = rows.score
    columns["live_model_version"] = pa.array(rows.model_version, mask=rows.model_version == NO_VERSION)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    sha256 = digest(data)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{sha256}.parquet"
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_bytes(data)
        part.replace(path)
    return sha256
