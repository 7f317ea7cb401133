"""Events, labels and records of second streams from Parquet files, as ingest would have made them.

Each file is in the order in which its rows arrived; several files are merged by arrival. An event arrives as its
`arrival` column says, a label when it becomes known, a record of a stream at its event time.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from tidemill.domain.pipeline import Pipeline
from tidemill.domain.streamrules import STREAM_FIELD
from tidemill.errors import ConfigurationError
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.holdings import ColumnType
from tidemill.features.offline.bounds import Bound
from tidemill.features.offline.items import Item, lane, merged
from tidemill.features.offline.spill import SpillWriter, read_spill
from tidemill.features.parquet import read_batches
from tidemill.runtime.partitioner import partition_of

EVENT_TIME, KNOWN_AT = "event_time", "known_at"
_ROWS_AT_ONCE = 20_000
_LARGEST = 1 << 52

_Row = tuple[int, int, int, dict[str, Any]]
"""(arrival, file, row number from 0, the record's members); the first three order rows."""


@dataclass(frozen=True, slots=True)
class Files:
    """Of each kind there may be several. `arrival` is a column of the events, possibly `event_time` itself."""

    events: tuple[Path, ...]
    labels: tuple[Path, ...]
    arrival: str
    streams: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """By stream, those that the pipeline joins."""

    def of(self, role: str) -> tuple[Path, ...]:
        if role in ("events", "labels"):
            return self.events if role == "events" else self.labels
        return self.streams.get(_stream(role), ())


@dataclass(frozen=True, slots=True)
class FileInput:
    """What `split` made. Travels to other processes."""

    folder: Path
    partitions: int
    roles: tuple[str, ...]

    def open(self, partition: int, stopped_at: dict[str, int]) -> Iterator[Item]:
        """Files end at rows, not at offsets: `split` says where."""
        lanes = [
            lane(read_spill(_spill(self.folder, role, partition)), rank, partition)
            for rank, role in enumerate(self.roles)
        ]
        return merged(lanes)


def split(
    pipeline: Pipeline, files: Files, partitions: int, folder: Path, bounds: tuple[Bound | None, Bound | None]
) -> tuple[FileInput, dict[str, int]]:
    """Write the rows into one file a partition and kind, in order of arrival. Blocks; memory is a few row batches.

    An end by time takes what arrives before the first event (label) of that time. Returns the input, and by file the
    number of rows that were used. Raises ConfigurationError for files that do not fit.
    """
    start, end = bounds
    if (start is not None and start.time is None) or (end is not None and end.time is None):
        raise ConfigurationError("--from and --to must be event times here", hint="Files have rows, not offsets.")
    until = _LARGEST if end is None or end.time is None else end.time
    since = 0 if start is None or start.time is None else start.time
    used: dict[str, int] = {}
    roles = tuple(pipeline.first_topics())
    _complete(pipeline, files)
    for role in roles:
        paths = files.of(role)
        timestamp = KNOWN_AT if role == "labels" else EVENT_TIME
        arrival = files.arrival if role == "events" else timestamp
        marker = {STREAM_FIELD: _stream(role)} if role not in ("events", "labels") else {}
        members_kept = _columns(pipeline, role)
        columns: dict[str, ColumnType] = {**members_kept, arrival: "integer"}
        used |= dict.fromkeys(map(str, paths), 0)
        sources = [_rows(path, number, columns, arrival) for number, path in enumerate(paths)]
        passed = False
        with ExitStack() as opened:
            out = [opened.enter_context(SpillWriter(_spill(folder, role, number))) for number in range(partitions)]
            for _, file, row, members in heapq.merge(*sources):
                moment = _time(members[timestamp], timestamp, paths[file], row)
                if moment >= until:
                    break
                passed = passed or moment >= since
                used[str(paths[file])] = row + 1
                key = str(members[pipeline.primary_entity]).encode()
                out[partition_of(key, partitions)].write(
                    Item(0, 0, 0, passed, moment, key, _encoded(marker, members, members_kept))
                )
    return FileInput(folder, partitions, roles), used


def _complete(pipeline: Pipeline, files: Files) -> None:
    joined = pipeline.streams_into(0)
    if missing := [name for name in joined if name not in files.streams]:
        raise ConfigurationError(
            f"features join the stream {missing[0]!r}, and no file of its records is given",
            hint=f"Add --stream {missing[0]}=FILE.",
        )
    if unknown := sorted(files.streams.keys() - set(joined)):
        raise ConfigurationError(
            f"no feature of pipeline {pipeline.name} joins a stream {unknown[0]!r}",
            hint=f"Streams that it joins: {', '.join(joined) or 'none'}.",
        )


def _columns(pipeline: Pipeline, role: str) -> dict[str, ColumnType]:
    columns: dict[str, ColumnType] = {"id": "text", EVENT_TIME: "integer"}
    if role not in ("events", "labels"):
        spec = pipeline.streams[_stream(role)]
        return columns | dict.fromkeys(spec.entities, "text") | dict.fromkeys(spec.numbers, "number")
    columns |= dict.fromkeys(pipeline.event.entities, "text")
    if role == "labels":
        columns |= {KNOWN_AT: "integer", pipeline.label.field: "integer"}
    else:
        stages = [compile_stage(pipeline, index) for index in range(len(pipeline.features.stages))]
        columns |= dict.fromkeys(chain.from_iterable(stage.fields for stage in stages), "number")
        columns |= dict.fromkeys(chain.from_iterable(stage.texts for stage in stages), "text")
    return columns


def _rows(path: Path, file: int, columns: dict[str, ColumnType], arrival: str) -> Iterator[_Row]:
    number, newest = 0, -1
    for batch in read_batches(path, columns, _ROWS_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            members = dict(zip(batch, values, strict=True))
            arrived = _time(members[arrival], arrival, path, number)
            if arrived < newest:
                raise ConfigurationError(
                    f"row {number} of {path} has {arrival} {arrived}, after a row with {newest}",
                    hint=f"Rows must stand in the order in which they arrived: sort the file by {arrival}.",
                )
            newest = arrived
            yield arrived, file, number, members
            number += 1


def _time(value: object, name: str, path: Path, row: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise ConfigurationError(
            f"row {row} of {path}: {name} is {value!r}, not a time", hint="Times are milliseconds since 1970 UTC."
        )
    return value


def _stream(role: str) -> str:
    return role.removeprefix("stream-")


def _encoded(marker: Mapping[str, str], members: dict[str, Any], kept: Iterable[str]) -> bytes:
    return orjson.dumps({"v": 1, **marker, **{name: members[name] for name in kept}})


def _spill(folder: Path, role: str, partition: int) -> Path:
    return folder / f"input-{role}-{partition}.spill"
