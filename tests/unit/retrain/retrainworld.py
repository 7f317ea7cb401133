"""Builders for retrain tests: a fraud pipeline with short times, drift records, and a loop around fakes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tidemill.domain.durations import DAY_MS
from tidemill.domain.model import Golden, Reference, TensorSpec, digest
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.signing import public_key_of
from tidemill.retrain.core.gates import Measurements
from tidemill.retrain.core.records import Alarm, Decision, Statistics, decode_decision
from tidemill.retrain.journal import Journal, read_journal
from tidemill.retrain.messages import (
    Artefact,
    CompareJob,
    CompareReport,
    Job,
    Report,
    TrainJob,
    TrainReport,
)
from tidemill.retrain.metrics import RETRAIN
from tidemill.retrain.publishing import Publisher
from tidemill.retrain.recorder import Recorder
from tidemill.retrain.shell import LearningLoop
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import OutRecord, Record

START = 1_522_540_800_000
PRIVATE = bytes(range(32))
PUBLIC = public_key_of(PRIVATE)


def pipeline(**retrain: Any) -> Pipeline:
    """The shipped pipeline with some members of its retrain section changed."""
    fraud = load_pipeline("fraud")
    changed = type(fraud.retrain).model_validate({**fraud.retrain.model_dump(), **retrain})
    return fraud.model_copy(update={"retrain": changed})


def day(number: float) -> int:
    return START + int(number * DAY_MS)


def statistics(number: float, positives: int = 500) -> Statistics:
    """Outcomes of events before day `number` have matured."""
    at = day(number)
    return Statistics(id=f"statistics/{at}", at=at, watermark=at, outcomes=positives * 100, positives=positives)


def alarm(version: int | None, detector: str = "feature:amount", policy: Any = "drift", name: str = "") -> Alarm:
    identifier = name or f"alarm/{version}/{detector}"
    return Alarm(id=identifier, at=0, policy=policy, detector=detector, model_version=version, reason="moved")


class Topics:
    """The topics that retrain writes and reads back, in memory; a write may be made to fail."""

    def __init__(self) -> None:
        self.records: dict[str, list[Record]] = {}
        self.writes_until_crash: int | None = None

    def write(self, records: list[OutRecord]) -> None:
        for record in records:
            if self.writes_until_crash is not None:
                if self.writes_until_crash == 0:
                    raise Crash
                self.writes_until_crash -= 1
            log = self.records.setdefault(record.topic, [])
            log.append(Record(record.topic, 0, len(log), record.timestamp, record.key, record.value))

    def open(self, topic: str, start: dict[Partition, int] | None = None) -> "MemoryReader":
        return MemoryReader(topic, list(self.records.get(topic, [])))

    def decisions(self, pipeline: Pipeline) -> list[Decision]:
        return [decode_decision(record.value or b"") for record in self.records.get(pipeline.topic("decisions"), [])]


class Crash(Exception):
    """The process died in the middle of a write."""


class MemoryReader:
    def __init__(self, topic: str, records: list[Record]) -> None:
        self.partitions: tuple[Partition, ...] = ((topic, 0),)
        self._records = records
        self._ended = False

    def poll(self, max_records: int = 1_000, timeout_s: float = 0.1) -> list[Record]:
        found, self._records = self._records[:max_records], self._records[max_records:]
        self._ended = not self._records
        return found

    def at_end(self) -> bool:
        return self._ended

    def end_offsets(self) -> dict[Partition, int]:
        raise AssertionError("not used here")

    def offsets_for_time(self, timestamp_ms: int) -> dict[Partition, int]:
        raise AssertionError("not used here")

    def close(self) -> None:
        pass


@dataclass
class FakeJobs:
    """Answers jobs at once; `answer` may be replaced."""

    folder: Path
    asked: list[Job] = field(default_factory=list)
    gain: float = 0.1
    better: bool = True
    answer: Callable[[Job], Report] | None = None

    async def run(self, job: Job) -> Report:
        self.asked.append(job)
        if self.answer is not None:
            return self.answer(job)
        return self.trained(job) if isinstance(job, TrainJob) else self.compared(job)

    def trained(self, job: TrainJob) -> TrainReport:
        data = f"model {job.version} of seed {job.seed}".encode() * 10
        path = self.folder / f"{job.version}.onnx"
        path.write_bytes(data)
        artefact = Artefact(
            str(path),
            digest(data),
            len(data),
            20,
            (TensorSpec("features", "float32", (-1, 15)),),
            (TensorSpec("score", "float32", (-1,)),),
            Golden(((0.0,) * 15,), (0.5,), 1e-4),
            Reference({}, ()),
        )
        return TrainReport(
            rows=1_000,
            positives=100,
            dataset_sha256="d" * 64,
            offsets={"fraud-outcomes/0": (0, 10)},
            measured=Measurements(100, True, 1e-6, 0.2, self.gain),
            metrics={},
            artefact=artefact,
        )

    def compared(self, job: CompareJob) -> CompareReport:
        quality = {"auc": 0.9, "average_precision": 0.5}
        bound = 0.02 if self.better else -0.05
        comparison = {"better": bound > job.limit, "lower_bound": bound, "limit": job.limit}
        return CompareReport(comparison={**comparison, "challenger": quality, "incumbent": quality})


class World:
    """One retrain instance after another on the same topics."""

    def __init__(self, folder: Path, fraud: Pipeline) -> None:
        self.pipeline = fraud
        self.topics = Topics()
        self.jobs = FakeJobs(folder)
        self.metrics = Metrics({"pipeline": "fraud", "service": "retrain"}, RETRAIN)
        self.journal: Journal
        self.loop: LearningLoop
        self.start()

    def start(self) -> None:
        """A new instance: it knows what the topics say."""
        self.journal = read_journal(self.pipeline, PUBLIC, self.topics.open)
        metrics = Metrics({"pipeline": "fraud", "service": "retrain"}, RETRAIN)
        recorder = Recorder(self.pipeline, self.journal, Publisher(self.pipeline, PRIVATE, self.topics.write), metrics)
        self.recorder = recorder
        self.loop = LearningLoop(self.pipeline, recorder, self.jobs, lambda: START, 3)

    def feed(self, *records: Alarm | Statistics) -> None:
        """Append to the drift topic, deliver, and do the work that is due."""
        asyncio.run(self.feed_async(*records))

    async def feed_async(self, *records: Alarm | Statistics) -> None:
        for record in records:
            topic = self.pipeline.topic("drift")
            kind = "alarm" if isinstance(record, Alarm) else "statistics"
            value = orjson.dumps({"v": 1, **_plain(record), "kind": kind})
            offset = len(self.topics.records.get(topic, []))
            self.topics.write([OutRecord(topic, None, value, 0)])
            await self.loop.take(value, offset)
            await self.loop.settle()

    def kinds(self) -> list[str]:
        return [decision.id for decision in self.topics.decisions(self.pipeline)]


def _plain(record: Alarm | Statistics) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
