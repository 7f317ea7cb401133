"""A keyed stage whose windows close: summaries behind the watermark, and the watermark itself handed on.

Everything is done a record at a time in the order of the partition, behind the features of the whole batch.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.pipeline import Pipeline
from tidemill.features.core import kernels
from tidemill.features.core.codec import Columns
from tidemill.features.core.summarydefinition import compile_summaries
from tidemill.features.core.summarypartition import PartitionSummaries
from tidemill.features.core.summarywindows import Event, Summary
from tidemill.features.core.watermark import NOTHING, Policy, Watermark, read_watermark
from tidemill.features.metrics import StageMetrics, SummaryMetrics
from tidemill.features.shell import KeyedStage
from tidemill.runtime.service import Output, OutRecord, Record, StateEntry
from tidemill.runtime.topics import DEFAULT_PARTITIONS

_FINEST_GRID_MS = 1_000
_CELLS_A_SPAN = 20
"""A later window closes at most this part of its length late, and watermark records are that much fewer."""


class SummarizingStage(KeyedStage):
    """Stage `index`, if it has summaries or a later one has (implements runtime.service.Service)."""

    def __init__(self, pipeline: Pipeline, index: int, metrics: StageMetrics, summary_metrics: SummaryMetrics) -> None:
        super().__init__(pipeline, index, metrics)
        stage = pipeline.features.stages[index]
        self._summary_metrics = summary_metrics
        self._pipeline = pipeline.name
        self._feature_set = feature_set_hash(pipeline)
        self._entity = stage.entity
        self._speaker = pipeline.features.stages[index - 1].entity if index else stage.entity
        self._input = pipeline.topic(pipeline.stage_input_role(index))
        self._summaries_topic = pipeline.topic(f"{stage.entity}-summaries")
        self._partitions = pipeline.topics.partitions or DEFAULT_PARTITIONS
        self._policy = policy_of(pipeline, index)
        self._definitions = compile_summaries(pipeline, index).definitions
        self._held: dict[int, PartitionSummaries] = {}
        self._touched: set[int] = set()
        self._counts: Counter[str] = Counter()

    def wake_at(self) -> float | None:
        moments = (held.watermark.idle_at(held.windows.next_due) for held in self._held.values())
        return min((moment for moment in moments if moment is not None), default=None)

    def flush(self, now: float) -> Output:
        output = super().flush(now)
        for partition in self._touched:
            self._held[partition].watermark.quiet_since = now
        for partition, held in self._held.items():
            said = held.watermark.speak(now, held.windows.next_due)
            if said is not None:
                output.records.append(self._told(self._input, partition, partition, said[0], self._stamp(partition)))
                self._counts["idle"] += 1
        for partition in sorted(self._touched):
            entries = [StateEntry(partition, *entry) for entry in self._held[partition].pack()]
            output.state += entries if self._kept else ()
        self._touched.clear()
        self._report()
        return output

    def _restore_beside(self, partition: int, entries: list[tuple[bytes, bytes]]) -> None:
        held = self._held[partition] = PartitionSummaries(self._definitions, self._policy)
        if held.restore(entries):
            self._touched.add(partition)

    def drop(self, partitions: Iterable[int]) -> None:
        gone = set(partitions)
        super().drop(gone)
        for partition in gone:
            self._held.pop(partition, None)
        self._touched -= gone

    def close(self) -> None:
        super().close()
        self._held.clear()

    def _judged(self, records: Sequence[Record], columns: Columns, status: NDArray[np.uint8], output: Output) -> None:
        summaries: list[OutRecord] = []
        origins: list[int] = []
        told: list[tuple[int, list[OutRecord]]] = []
        for at, record, event in self._steps(records, columns, status):
            held = self._held.get(record.partition)
            if held is None:
                held = self._held[record.partition] = PartitionSummaries(self._definitions, self._policy)
            made = held.heard(event.partition, event.watermark) if isinstance(event, Watermark) else held.event(event)
            self._touched.add(record.partition)
            summaries += map(self._written, made)
            origins += [at] * len(made)
            said = held.watermark.to_hand_on()
            if said:
                told.append((at, [out for mark in said for out in self._handed_on(record, mark)]))
        if told:
            self._behind(output, told)
        output.records += summaries
        self.origins += origins

    def _steps(
        self, records: Sequence[Record], columns: Columns, status: NDArray[np.uint8]
    ) -> Iterator[tuple[int, Record, Event | Watermark]]:
        """Events and watermark records in the order in which they came, each with its place among `records`."""
        steps: list[tuple[int, Record, Event | Watermark]] = []
        verdicts = status.tolist()
        times, identities, rows = columns.times.tolist(), columns.identities.tolist(), columns.summarized
        for line, at in enumerate(columns.rows):
            verdict = verdicts[line]
            if verdict in (kernels.ACCEPTED, kernels.LATE):
                record, row = records[at], rows[line] if rows else ()
                late = verdict == kernels.LATE
                steps.append((at, record, Event(record.key or b"", times[line], identities[line], late, row)))
        marks = len(steps)
        for at, _ in columns.faults:
            record = records[at]
            mark = None if record.key else read_watermark(record.value)
            if mark is not None and self._concerns(mark, record.partition):
                steps.append((at, record, mark))
        return iter(steps if marks == len(steps) else sorted(steps, key=lambda step: step[0]))

    def _concerns(self, mark: Watermark, partition: int) -> bool:
        """In the first stage a partition speaks for itself, in a later one every partition of the stage before."""
        if mark.stage != self._speaker:
            return False
        return mark.partition < self._policy.sources if self._policy.sources else mark.partition == partition

    def _behind(self, output: Output, told: list[tuple[int, list[OutRecord]]]) -> None:
        """Put what was handed on right behind what the record led to: before that, it would call it late."""
        mixed: list[OutRecord] = []
        origins: list[int] = []
        pending = iter(told)
        place, marks = next(pending, (len(output.records), []))
        for origin, record in zip([*self.origins, None], [*output.records, None], strict=True):
            while marks and (origin is None or place < origin):
                mixed += marks
                origins += [place] * len(marks)
                place, marks = next(pending, (0, []))
            if origin is not None and record is not None:
                mixed.append(record)
                origins.append(origin)
        output.records, self.origins = mixed, origins

    def _handed_on(self, record: Record, watermark: int | None) -> Iterator[OutRecord]:
        self._counts["handed_on"] += self._partitions
        for towards in range(self._partitions):
            yield self._told(self._output, towards, record.partition, watermark, record.timestamp)

    def _told(self, topic: str, towards: int, about: int, watermark: int | None, timestamp: int) -> OutRecord:
        value = Watermark(1, self._entity, about, watermark).encode()
        return OutRecord(topic, None, value, timestamp, towards)

    def _stamp(self, partition: int) -> int:
        """A Kafka timestamp that moves nothing forward where partitions are read in time order."""
        newest = self._held[partition].watermark.newest
        if newest == NOTHING:
            newest = max(held.watermark.newest for held in self._held.values())
        return max(0, newest)

    def _written(self, summary: Summary) -> OutRecord:
        key = summary.key.decode("utf-8", "replace")
        self._counts["corrections" if summary.revision else "first"] += 1
        names = (line.name for line in summary.definition.lines)
        document = {
            "v": 1,
            "id": f"{summary.definition.name}/{key}/{summary.opened}",
            "pipeline": self._pipeline,
            "entity": self._entity,
            "key": key,
            "summary": summary.definition.name,
            "window_start": summary.start,
            "window_end": summary.end,
            "revision": summary.revision,
            "values": dict(zip(names, summary.values, strict=True)),
            "fs": self._feature_set,
        }
        return OutRecord(self._summaries_topic, summary.key, orjson.dumps(document), max(0, summary.end))

    def _report(self) -> None:
        counts, self._counts = self._counts, Counter()
        missed = 0
        for held in self._held.values():
            missed += held.windows.missed
            held.windows.missed = 0
        windows = sum(len(held.windows) for held in self._held.values())
        self._summary_metrics.written(
            first=counts["first"], corrections=counts["corrections"], missed=missed, windows=windows
        )
        self._summary_metrics.watermarks(idle=counts["idle"], handed_on=counts["handed_on"])


def policy_of(pipeline: Pipeline, index: int) -> Policy:
    """How stage `index` keeps its watermarks."""
    features = pipeline.features
    spans = [summary.span for summary in features.summaries_behind(index)]
    return Policy(
        lateness=features.allowed_lateness,
        sources=(pipeline.topics.partitions or DEFAULT_PARTITIONS) if index else 0,
        grid=max(_FINEST_GRID_MS, min(spans) // _CELLS_A_SPAN) if spans else 0,
        span=max(spans) + 1 if spans else 0,
        idle_timeout=features.idle_timeout if index == 0 else 0,
    )
