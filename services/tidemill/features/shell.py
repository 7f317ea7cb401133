"""One keyed stage as a service of the runtime: records in, records with features out, chunks of state beside them.

Everything happens in `flush`, so that a transaction is one call of the kernel a partition. State is one engine a
partition; what was packed in an aborted transaction is restored from the changelog by the loop (`drop`, `restore`).
"""

from collections.abc import Iterable, Mapping, Sequence

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
from tidemill.runtime.service import DeadLetter, Output, OutRecord, Record, StateEntry

ANSWERED = (("tidemill-answered", b"1"),)
"""Headers of a record on its way to a later stage that must keep its row and write nothing."""


class KeyedStage:
    """Stage `index` of the pipeline's features, keyed by its entity (implements runtime.service.Service).

    Reads events, labels and records of second streams; writes events with this stage's features, re-keyed for what
    comes next, in their order. Labels pass on byte for byte, except behind the last stage, where they end; so do
    records of streams that a later stage joins.
    """

    def __init__(self, pipeline: Pipeline, index: int, metrics: StageMetrics) -> None:
        self._definition = compile_stage(pipeline, index)
        codec = JoinCodec if pipeline.streams_into(index) else StageCodec
        self._codec = codec(pipeline, self._definition)
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
        self._late = f"event_time is more than {stage.lateness} ms older than the newest of this {stage.entity}"
        if stage.streams:
            self._late += f", or of its joined records less {stage.lead} ms"
        self._stream_late = f"event_time is {stage.retention} ms or more behind the time of this {stage.entity}"
        self._unmatched = f"no event of this id and event_time is held for this {stage.entity}"

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
        aggregates, status = self._slide(readable, columns)
        self._emit(readable, columns, aggregates, status.tolist(), output)
        self._judged(records, columns, status, output)
        if self._kept:
            for partition in sorted({record.partition for record in readable} & self._engines.keys()):
                for key, value in self._engines[partition].pack():
                    output.state.append(StateEntry(partition, key, value))
            for partition, keys in self._leftover.items():
                output.state += (StateEntry(partition, key, None) for key in keys)
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

    def _slide(self, records: Sequence[Record], columns: Columns) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Each partition's rows through its engine; the answers in the order of `records`."""
        keys = [record.key or b"" for record in records]
        partitions = np.fromiter((record.partition for record in records), np.int64, len(records))
        order = np.argsort(partitions, kind="stable")
        status = np.full(len(records), kernels.STREAM_PASSED, np.uint8)
        if (columns.labels == PASSED_ON).any():
            order = order[columns.labels[order] != PASSED_ON]
        keys = list(map(keys.__getitem__, order.tolist()))
        times, identities = columns.times[order], columns.identities[order]
        labels, numbers = columns.labels[order], columns.numbers[order]
        aggregates = np.empty((len(records), len(self._definition.aggregates)))
        begin = 0
        for partition, count in enumerate(np.bincount(partitions[order]).tolist()):
            if count == 0:
                continue
            part = slice(begin, begin + count)
            begin += count
            engine = self._engines.get(partition)
            if engine is None:
                engine = self._engines[partition] = WindowEngine(self._definition)
            rows = order[part]
            aggregates[rows], status[rows] = engine.slide(
                keys[part], times[part], identities[part], labels[part], numbers[part]
            )
        return aggregates, status

    def _emit(
        self,
        records: Sequence[Record],
        columns: Columns,
        aggregates: NDArray[np.float64],
        status: list[int],
        out: Output,
    ) -> None:
        scored = [row for row, verdict in enumerate(status) if verdict == kernels.ACCEPTED]
        matrix = self._codec.matrix(columns, aggregates)[scored]
        encoded = iter(self._codec.encode([records[row].value or b"" for row in scored], matrix))
        topic, keys, times = self._output, columns.next_keys, columns.times.tolist()
        write, refuse = out.records.append, out.dead.append
        for row, verdict in enumerate(status):
            if verdict == kernels.ACCEPTED:
                self.origins.append(columns.rows[row])
                write(OutRecord(topic, keys[row], next(encoded), times[row]))
            elif verdict == kernels.LABEL_ACCEPTED:
                if not self._last:
                    self.origins.append(columns.rows[row])
                    write(OutRecord(topic, keys[row], records[row].value, records[row].timestamp))
            elif verdict in (kernels.STREAM_ACCEPTED, kernels.STREAM_PASSED):
                if keys[row]:
                    self.origins.append(columns.rows[row])
                    write(OutRecord(topic, keys[row], records[row].value, records[row].timestamp))
            elif verdict == kernels.STREAM_LATE:
                refuse(DeadLetter(records[row], "late", self._stream_late))
            elif verdict == kernels.LATE:
                refuse(DeadLetter(records[row], "late", self._late))
            elif verdict == kernels.LABEL_UNMATCHED:
                refuse(DeadLetter(records[row], "unmatched_label", self._unmatched))

    def _hold_back(self, records: Sequence[Record], output: Output) -> None:
        """Take out of `output` what the replaced version has written already."""
        again = [self._is_answered(record) for record in records]
        if not any(again):
            return
        kept = [at for at in zip(output.records, self.origins, strict=True) if not (self._last and again[at[1]])]
        self.origins = [origin for _, origin in kept]
        output.records = [out._replace(headers=ANSWERED) if again[origin] else out for out, origin in kept]
        output.dead = [dead for dead in output.dead if not self._is_answered(dead.record)]
        self._metrics.answered(sum(again))

    def _is_answered(self, record: Record) -> bool:
        return record.offset < self._answered.get((record.topic, record.partition), 0) or ANSWERED[0] in record.headers

    def _observe(self, status: NDArray[np.uint8], output: Output) -> None:
        counts = np.bincount(status, minlength=kernels.STATUSES)
        self._metrics.seen(
            events=int(counts[kernels.ACCEPTED]),
            labels=int(counts[kernels.LABEL_ACCEPTED]),
            joined=int(counts[kernels.STREAM_ACCEPTED]),
            duplicate_events=int(counts[kernels.DUPLICATE]),
            duplicate_labels=int(counts[kernels.LABEL_DUPLICATE]),
            duplicate_joined=int(counts[kernels.STREAM_DUPLICATE]),
        )
        engines = self._engines.values()
        self._metrics.state(
            written=len(output.state),
            keys=sum(engine.keys for engine in engines),
            evicted=sum(engine.take_evicted() for engine in engines),
            memory_bytes=sum(engine.memory_bytes for engine in engines),
        )
