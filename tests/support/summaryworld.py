"""Summarizing stages on the real loop, the memory broker and a clock that a test turns by hand."""

import random
from collections.abc import Sequence

import pytest

from support.featurestages import metrics
from support.summaryoracle import Mark, Payment, Written
from support.summarystreams import PARTITIONS, as_record, stage_of, written
from tidemill import clock
from tidemill.domain.pipeline import Pipeline
from tidemill.features.process import service_spec
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.health import Health
from tidemill.runtime.loop import Loop
from tidemill.runtime.memory import MemoryBroker
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.transaction import Step


class DiedError(BaseException):
    """The process died here."""


class World:
    """A broker, and a process for each stage, which dies after a protocol step with probability `dying`."""

    def __init__(self, pipeline: Pipeline, patch: pytest.MonkeyPatch, dying: float = 0.0, seed: int = 0) -> None:
        self.pipeline = pipeline
        self.broker = MemoryBroker()
        self.deaths = 0
        self._now = 1_000.0
        self._chance = random.Random(seed)
        self._dying = dying
        patch.setattr(clock, "monotonic", lambda: self._now)
        self._entities = [stage.entity for stage in pipeline.features.stages]
        for role in ("events", "labels", "features", "dlq", *(f"by-{entity}" for entity in self._entities[1:])):
            self.broker.create_topic(pipeline.topic(role), PARTITIONS)
        for entity in self._entities:
            self.broker.create_topic(pipeline.topic(f"{entity}-state"), PARTITIONS)
            self.broker.create_topic(pipeline.topic(f"{entity}-summaries"), PARTITIONS)
        self._loops = [self._start(index) for index in range(len(self._entities))]

    def send(self, partition: int, *items: Payment | Mark) -> None:
        for item in items:
            record = as_record(item)
            self.append(record._replace(partition=partition))

    def append(self, record: Record) -> None:
        self.broker.append(OutRecord(record.topic, record.key, record.value, record.timestamp, record.partition))

    def wait(self, seconds: float, step: float = 0.25) -> None:
        """Let the stages work for so long."""
        for _ in range(int(seconds / step)):
            self._now += step
            self.turn()

    def turn(self, times: int = 2) -> None:
        for _ in range(times):
            for index, loop in enumerate(self._loops):
                try:
                    loop.turn()
                except DiedError:
                    self.deaths += 1
                    self._loops[index] = self._start(index)

    def summaries(self, entity: str = "customer") -> list[Written]:
        return written(self.broker.read(self.pipeline.topic(f"{entity}-summaries")), entity)

    def events(self) -> Sequence[Record]:
        return self.broker.read(self.pipeline.topic("events"))

    def _start(self, index: int) -> Loop:
        spec = service_spec(self.pipeline, self._entities[index])
        client = self.broker.client(spec.group)
        config = RuntimeConfig(bootstrap_servers="none", pipeline="fraud", transaction_gap_ms=0, max_poll_records=7)
        loop = Loop(client, stage_of(self.pipeline, index), spec, config, Health(spec.name, metrics(self.pipeline)))
        loop.after_step = self._after
        client.start([topic.name for topic in spec.inputs], loop)
        return loop

    def _after(self, step: Step) -> None:
        if self._chance.random() < self._dying:
            raise DiedError
