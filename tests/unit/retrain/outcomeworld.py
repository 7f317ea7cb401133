"""An outcomes topic in memory, in the wire's own format, with a signal that a model can learn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from tidemill.domain.durations import DAY_MS
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.pipeline import Pipeline
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record

PARTITIONS = 2


def outcome(pipeline: Pipeline, number: int, event_time: int, **members: Any) -> dict[str, Any]:
    """One outcome record with plausible members, some replaced."""
    random = np.random.default_rng(number)
    fraud = bool(random.random() < 0.1)
    features: list[float | None] = [round(float(value), 3) for value in random.normal(50, 10, 15)]
    features[0] = round(float(random.normal(180 if fraud else 60, 25)), 2)
    features[10] = None if number % 7 == 0 else float(fraud and random.random() < 0.5)
    return {
        "v": 1,
        "id": f"p-{number:06d}",
        "event_time": event_time,
        "customer": f"c-{number % 50}",
        "terminal": "t-1",
        "amount": features[0],
        "fs": feature_set_hash(pipeline),
        "features": features,
        "status": "no_model",
        "model": None,
        "model_version": None,
        "outputs": {"score": float((features[0] or 0) > 220)},
        "decision": "approve",
        "bucket": 8,
        "provider": "rule",
        "label": int(fraud),
        "label_status": "labelled",
        "known_at": event_time + DAY_MS,
        "shadow": None,
        **members,
    }


class OutcomeLog:
    """Appends outcomes; opens readers on them, as TopicReader would."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.topic = pipeline.topic("outcomes")
        self.records: list[Record] = []

    def append(self, *documents: dict[str, Any]) -> None:
        maturity = self.pipeline.outcomes.maturity
        for document in documents:
            partition = hash_of(document["customer"])
            offset = sum(record.partition == partition for record in self.records)
            value = orjson.dumps(document)
            self.records.append(Record(self.topic, partition, offset, document["event_time"] + maturity, b"key", value))

    def open(self, topic: str, start: Mapping[Partition, int] | None = None) -> "LogReader":
        found = [record for record in self.records if record.topic == topic]
        return LogReader(topic, [r for r in found if r.offset >= (start or {}).get((topic, r.partition), 0)])


def hash_of(customer: str) -> int:
    return int(customer.partition("-")[2]) % PARTITIONS


class LogReader:
    def __init__(self, topic: str, records: list[Record]) -> None:
        self.partitions: tuple[Partition, ...] = tuple((topic, number) for number in range(PARTITIONS))
        self._all = list(records)
        self._left = list(records)
        self._ended = False

    def poll(self, max_records: int = 1_000, timeout_s: float = 0.1) -> list[Record]:
        found, self._left = self._left[:max_records], self._left[max_records:]
        self._ended = not self._left
        return found

    def at_end(self) -> bool:
        return self._ended

    def end_offsets(self) -> dict[Partition, int]:
        own = {at: [record.offset for record in self._all if record.partition == at[1]] for at in self.partitions}
        return {at: max(offsets, default=-1) + 1 for at, offsets in own.items()}

    def offsets_for_time(self, timestamp_ms: int) -> dict[Partition, int]:
        offsets = {}
        for topic, number in self.partitions:
            own = [record for record in self._all if record.partition == number]
            later = [record.offset for record in own if record.timestamp >= timestamp_ms]
            offsets[topic, number] = later[0] if later else len(own)
        return offsets

    def close(self) -> None:
        pass
