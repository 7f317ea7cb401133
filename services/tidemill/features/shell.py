"""One keyed stage as a service of the runtime: records in, records with features out, chunks of state beside them.

Everything happens in `flush`, so that a transaction is one call of the kernel a partition. State is one engine a
partition; what was packed in an aborted transaction is restored from the changelog by the loop (`drop`, `restore`).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.pipeline import Pipeline
from tidemill.features.core import kernels
from tidemill.features.core.codec import Columns, StageCodec
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.engine import WindowEngine
from tidemill.features.core.joincodec import PASSED_ON, JoinCodec
from tidemill.features.core.summarypartition import is_summary_entry
from tidemill.features.core.watermark import read_watermark
from tidemill.features.metrics import StageMetrics
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import DeadLetter, Output, OutRecord, Record, StateEntry, rows_of

ANSWERED = (("tidemill-answered", b"1"),)
"""Headers of a record on its way to a later stage that must keep its row and write nothing."""


_KEY, _VALUE = itemgetter(0), itemgetter(1)


def _of_statuses(chosen: Iterable[int]) -> NDArray[np.bool_]:
    """Whether a status is one of these, by status."""
    return np.isin(np.arange(kernels.STATUSES), list(chosen))


_OF_STREAMS = (kernels.STREAM_ACCEPTED, kernels.STREAM_PASSED)
_REFUSED = _of_statuses([kernels.LATE, kernels.STREAM_LATE, kernels.LABEL_UNMATCHED])


class KeyedStage:
    """Stage `index` of the pipeline's features, keyed by its entity (implements runtime.service.Service).

    Reads events, labels and records of second streams; writes events with this stage's features, re-keyed for what
    comes next, in their order. Labels pass on byte for byte, except behind the last stage, where they end; so do
    records of streams that a later stage joins.
    """

    def __init__(self, pipeline: Pipeline, index: int, metrics: StageMetrics) -> None:
        self._definition = compile_stage(pipeline, index)
        self._joins = bool(pipeline.streams_into(index))
        self._codec = (JoinCodec if self._joins else StageCodec)(pipeline, self._definition)
        self._output = pipeline.topic(pipeline.stage_output_role(index))
        self._last = index + 1 == len(pipeline.features.stages)
        self._kept = pipeline.features.state == "changelog"
        self._engines: dict[int, WindowEngine] = {}
        self._pending: list[Record] = []
        self._leftover: dict[int, list[bytes]] = {}
        self.origins: list[int] = []
        """For each record of the last flush's output, which of the records added before it came from."""
        self._succeeds = pipeline.features.replaces is not None
        self._answered: Mapping[Partition, int] = {}
        self._metrics = metrics
        stage = self._definition
        late = f"event_time is more than {stage.lateness} ms older than the newest of this {stage.entity}"
        if stage.streams:
            late += f", or of its joined records less {stage.lead} ms"
        self._reasons = {
            kernels.LATE: ("late", late),
            kernels.STREAM_LATE: (
                "late",
                f"event_time is {stage.retention} ms or more behind the time of this {stage.entity}",
            ),
            kernels.LABEL_UNMATCHED: (
                "unmatched_label",
                f"no event of this id and event_time is held for this {stage.entity}",
            ),
        }
        passing = [kernels.ACCEPTED, *_OF_STREAMS]
        self._passes = _of_statuses(passing if self._last else [*passing, kernels.LABEL_ACCEPTED])

    def succeed(self, answered: Mapping[Partition, int]) -> None:
        """What lies before these offsets was answered by the feature-set version that this one replaces: it enters the
        windows, nothing is written for it, and later stages are told so in a header."""
        self._answered = dict(answered)

    def add(self, records: Sequence[Record], now: float) -> None:
        self._pending += records

    def wake_at(self) -> float | None:
        """Never: the loop flushes when records were added and its pace allows."""
        return None

    def flush(self, now: float) -> Output:
        records, self._pending = self._pending, []
        output = Output()
        self.origins = []
        if not records:
            return output
        columns = self._codec.decode([record.value if record.key else None for record in records])
        for row, fault in columns.faults:
            if not records[row].key and read_watermark(records[row].value) is not None:
                continue
            message = fault if records[row].key else "has no key"
            output.dead.append(DeadLetter(records[row], "bad_record", message))
        readable = records if not columns.faults else [records[row] for row in columns.rows]
        partitions = [record.partition for record in readable]
        aggregates, status = self._slide(readable, partitions, columns)
        self._emit(readable, columns, aggregates, status, output)
        self._judged(records, columns, status, output)
        if self._kept:
            for partition in sorted(self._engines.keys() & set(partitions)):
                entries = self._engines[partition].pack()
                output.state += rows_of(StateEntry, repeat(partition), map(_KEY, entries), map(_VALUE, entries))
            for partition, names in self._leftover.items():
                output.state += (StateEntry(partition, name, None) for name in names)
            self._leftover.clear()
        if self._succeeds:
            self._hold_back(records, output)
        self._observe(status, output)
        return output

    def restore(self, partition: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        rings: list[tuple[bytes, bytes]] = []
        beside: list[tuple[bytes, bytes]] = []
        for entry in entries:
            (beside if is_summary_entry(entry[0]) else rings).append(entry)
        engine = WindowEngine(self._definition)
        engine.restore(rings)
        self._engines[partition] = engine
        self._restore_beside(partition, beside)

    def drop(self, partitions: Iterable[int]) -> None:
        gone = set(partitions)
        for partition in gone:
            self._engines.pop(partition, None)
            self._leftover.pop(partition, None)
        self._pending = [record for record in self._pending if record.partition not in gone]

    def committed(self) -> None:
        """Nothing waits for the commit: an abort is answered by `drop` and `restore`."""

    def close(self) -> None:
        self._engines.clear()

    def _restore_beside(self, partition: int, entries: list[tuple[bytes, bytes]]) -> None:
        """Entries of summaries: a stage that has none deletes those that it had once."""
        if entries:
            self._leftover[partition] = [key for key, _ in entries]

    def _judged(self, records: Sequence[Record], columns: Columns, status: NDArray[np.uint8], output: Output) -> None:
        """For a stage that does more with its records. `status` has the engine's verdict on each line of `columns`;
        watermark records are among `records` only."""

    def _slide(
        self, records: Sequence[Record], partitions: Sequence[int], columns: Columns
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Each partition's rows through its engine; the answers in the order of `records`."""
        keys = [record.key or b"" for record in records]
        times, identities, labels, numbers = columns.times, columns.identities, columns.labels, columns.numbers
        passed = self._joins and (labels == PASSED_ON).any()
        if partitions and not passed and partitions.count(partitions[0]) == len(partitions):
            return self._engine(partitions[0]).slide(keys, times, identities, labels, numbers)
        aggregates = np.empty((len(records), len(self._definition.aggregates)))
        status = np.full(len(records), kernels.STREAM_PASSED, np.uint8)
        of = np.array(partitions, np.int64)
        for partition in dict.fromkeys(partitions):
            rows = np.flatnonzero((of == partition) & (labels != PASSED_ON))
            if not len(rows):
                continue
            own = list(map(keys.__getitem__, rows.tolist()))
            aggregates[rows], status[rows] = self._engine(partition).slide(
                own, times[rows], identities[rows], labels[rows], numbers[rows]
            )
        return aggregates, status

    def _engine(self, partition: int) -> WindowEngine:
        engine = self._engines.get(partition)
        if engine is None:
            engine = self._engines[partition] = WindowEngine(self._definition)
        return engine

    def _emit(
        self,
        records: Sequence[Record],
        columns: Columns,
        aggregates: NDArray[np.float64],
        status: NDArray[np.uint8],
        out: Output,
    ) -> None:
        topic, keys, times = self._output, columns.next_keys, columns.times.tolist()
        matrix = self._codec.matrix(columns, aggregates)
        values = [record.value or b"" for record in records]
        if not np.count_nonzero(status):  # Every record is an accepted event.
            encoded = self._codec.encode(values, matrix)
            out.records = rows_of(OutRecord, repeat(topic), keys, encoded, times, repeat(-1), repeat(()))
            self.origins = list(columns.rows)
            return
        scored = np.flatnonzero(status == kernels.ACCEPTED)
        encoded = self._codec.encode([values[row] for row in scored.tolist()], matrix[scored])
        moments = [record.timestamp for record in records]
        for row, text in zip(scored.tolist(), encoded, strict=True):
            values[row], moments[row] = text, times[row]
        onward = np.flatnonzero(self._passes[status]).tolist()
        if self._joins:  # A record of a stream that no later stage joins has no key to go to.
            onward = [row for row in onward if keys[row] or status[row] not in _OF_STREAMS]
        columns_out = (list(map(column.__getitem__, onward)) for column in (keys, values, moments))
        out.records = rows_of(OutRecord, repeat(topic), *columns_out, repeat(-1), repeat(()))
        self.origins = list(map(columns.rows.__getitem__, onward))
        for row in np.flatnonzero(_REFUSED[status]).tolist():
            out.dead.append(DeadLetter(records[row], *self._reasons[int(status[row])]))

    def _hold_back(self, records: Sequence[Record], output: Output) -> None:
        """Take out of `output` what the replaced version has written already."""
        again = [self._is_answered(record) for record in records]
        if not any(again):
            return
        onward = None if self._last else self._output
        made = zip(output.records, self.origins, strict=True)
        kept = [at for at in made if not again[at[1]] or at[0].topic == onward]
        self.origins = [origin for _, origin in kept]
        output.records = [out._replace(headers=ANSWERED) if again[origin] else out for out, origin in kept]
        output.dead = [dead for dead in output.dead if not self._is_answered(dead.record)]
        self._metrics.answered(sum(again))

    def _is_answered(self, record: Record) -> bool:
        return record.offset < self._answered.get((record.topic, record.partition), 0) or ANSWERED[0] in record.headers

    def _observe(self, status: NDArray[np.uint8], output: Output) -> None:
        counts = [len(status)] if not np.count_nonzero(status) else np.bincount(status).tolist()
        counts += [0] * (kernels.STATUSES - len(counts))
        self._metrics.seen(
            events=counts[kernels.ACCEPTED],
            labels=counts[kernels.LABEL_ACCEPTED],
            joined=counts[kernels.STREAM_ACCEPTED],
            duplicate_events=counts[kernels.DUPLICATE],
            duplicate_labels=counts[kernels.LABEL_DUPLICATE],
            duplicate_joined=counts[kernels.STREAM_DUPLICATE],
        )
        engines = self._engines.values()
        self._metrics.state(
            written=len(output.state),
            keys=sum(engine.keys for engine in engines),
            evicted=sum(engine.take_evicted() for engine in engines),
            memory_bytes=sum(engine.memory_bytes for engine in engines),
        )
