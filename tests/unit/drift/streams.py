"""Seeded predictions and outcomes for drift's tests, and a loop in memory that commits, crashes and replays."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from ruamel.yaml import YAML

from tidemill.domain.model import Reference
from tidemill.domain.pipeline import Pipeline
from tidemill.drift.core.features import Champion
from tidemill.drift.core.monitor import Monitor, Snapshot, Stretch
from tidemill.drift.core.records import Alarm, Drift, Outcome, Prediction
from tidemill.drift.metrics import DECLARED
from tidemill.drift.river_detectors import Adwin
from tidemill.drift.shell import DriftService
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.service import OutRecord, Record

Matrix = npt.NDArray[np.float64]
Place = tuple[str, int]

DAY_MS = 86_400_000
START_MS = 17_622 * DAY_MS  # 2018-04-01
GAP_MS = 9_000
"""Event time between two events: 9,600 a day, as the handbook's stream has."""
FEATURE_SET = "0123456789ab"
PREDICTIONS, OUTCOMES = "fraud-predictions", "fraud-outcomes"


def fraud_pipeline(**drift: Any) -> Pipeline:
    """The shipped fraud pipeline with these drift settings changed; everything is sampled unless told otherwise."""
    text = files("tidemill.scenarios.fraud").joinpath("pipeline.yaml").read_text(encoding="utf-8")
    tree = YAML(typ="safe").load(text)
    tree["drift"] = {**tree["drift"], "sample_share": 1.0, **drift}
    pipeline: Pipeline = Pipeline.model_validate(tree)
    return pipeline


NAMES = fraud_pipeline().feature_names
AMOUNT = NAMES.index("amount")
NIGHT = NAMES.index("night")


def vectors(rows: int, seed: int) -> Matrix:
    """Independent rows whose columns are skewed, counts, shares with many zeros, and two calendar columns."""
    rng = np.random.default_rng(seed)
    matrix = rng.lognormal(3.0, 1.0, (rows, len(NAMES)))
    for index, name in enumerate(NAMES):
        if "count" in name:
            matrix[:, index] = rng.poisson(5, rows)
        elif "rate" in name:
            matrix[:, index] = np.where(rng.random(rows) < 0.97, 0.0, rng.random(rows))
    matrix[:, NAMES.index("weekend")] = rng.random(rows) < 2 / 7
    matrix[:, NIGHT] = rng.random(rows) < 7 / 24
    return matrix


def champion_of(training: Matrix, version: int = 1, prime_rows: int = 512) -> Champion:
    """A champion that was trained on these rows; NaN is null."""
    levels = np.linspace(0, 1, 101)
    quantiles = {}
    for index, name in enumerate(NAMES):
        present = training[:, index][~np.isnan(training[:, index])]
        quantiles[name] = tuple(np.quantile(present, levels).tolist()) if present.size else ()
    sample = np.random.default_rng(version).choice(training, prime_rows, replace=False)
    return Champion(version, FEATURE_SET, NAMES, Reference(quantiles, tuple(tuple(row) for row in nulls(sample))))


def nulls(matrix: Matrix) -> list[list[float | None]]:
    """The matrix as lists, NaN as None."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]


def predictions_of(matrix: Matrix, scores: Sequence[float] | None = None, version: int | None = 1) -> list[Prediction]:
    """One a row, GAP_MS apart."""
    status: Any = "no_model" if version is None else "ok"
    return [
        Prediction(1, START_MS + GAP_MS * row, FEATURE_SET, vector, status, version, {"score": score})
        for row, (vector, score) in enumerate(zip(nulls(matrix), scores or [0.01] * len(matrix), strict=True))
    ]


def outcomes_of(
    scores: Iterable[float], labels: Iterable[int | None], version: int | None = 1, gap_ms: int = GAP_MS
) -> list[Outcome]:
    status: Any = "no_model" if version is None else "ok"
    return [
        Outcome(1, START_MS + gap_ms * row, status, version, {"score": score}, label)
        for row, (score, label) in enumerate(zip(scores, labels, strict=True))
    ]


def watch(
    monitor: Monitor, predictions: Sequence[Prediction] = (), outcomes: Sequence[Outcome] = (), step: int = 500
) -> list[Drift]:
    """Feed both in stretches of `step`, predictions first within each."""
    drift: list[Drift] = []
    for low in range(0, max(len(predictions), len(outcomes)), step):
        seen, matured = predictions[low : low + step], outcomes[low : low + step]
        stretch = Stretch(
            list(seen), list(range(len(seen))), list(matured), list(range(len(seen), len(seen) + len(matured)))
        )
        drift.extend(monitor.take(stretch))
    return drift


def monitor_of(pipeline: Pipeline, champion: Champion | None) -> Monitor:
    """A monitor in its first generation."""
    monitor = Monitor(pipeline, Adwin, Snapshot(), None)
    monitor.begin(champion, START_MS, "test")
    return monitor


def alarms(drift: Iterable[Drift]) -> list[Alarm]:
    return [record for record in drift if isinstance(record, Alarm)]


def prediction_record(
    offset: int, partition: int, row: int, vector: Sequence[float | None], version: int | None, score: float = 0.01
) -> Record:
    """The bytes that inference writes, as the loop hands them over."""
    time = START_MS + GAP_MS * row
    value = {
        "v": 1, "id": f"p-{row:09d}", "event_time": time, "customer": f"c-{partition:05d}", "terminal": "t-00917",
        "amount": 12.34, "fs": FEATURE_SET, "features": list(vector),
        "status": "no_model" if version is None else "ok", "model": None if version is None else "fraud-mlp",
        "model_version": version, "outputs": {"score": score}, "decision": "approve", "bucket": 32,
        "provider": "CPUExecutionProvider",
    }  # fmt: skip
    return Record(PREDICTIONS, partition, offset, time, f"c-{partition:05d}".encode(), orjson.dumps(value))


def outcome_record(prediction: Record, offset: int, label: int | None, maturity: int) -> Record:
    """The prediction with its matured label."""
    assert prediction.value is not None
    status = "censored" if label is None else "labelled"
    tail = orjson.dumps({"label": label, "label_status": status, "known_at": None, "shadow": None})
    value = prediction.value[:-1] + b"," + tail[1:]
    return Record(OUTCOMES, prediction.partition, offset, prediction.timestamp + maturity, prediction.key, value)


def merged(records: Iterable[Record]) -> list[Record]:
    """In the order in which the loop releases them."""
    return sorted(records, key=lambda r: (r.timestamp, r.topic == OUTCOMES, r.partition, r.offset))


@dataclass
class MemoryLoop:
    """Commits like the runtime's loop: outputs, state and offsets of a batch together or not at all."""

    make: Callable[[], DriftService]
    partitions: int
    committed: dict[Place, int] = field(default_factory=dict)
    changelog: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    written: list[OutRecord] = field(default_factory=list)
    dead: list[tuple[str, int, int]] = field(default_factory=list)
    service: DriftService | None = None

    def start(self, log: Sequence[Record], batch: int = 64) -> None:
        """A new process: restore, then replay what the service asks for, its outputs thrown away."""
        self.service = self.make()
        for partition in range(self.partitions):
            self.service.restore(partition, list(self.changelog.get(partition, {}).items()))
        places = [(topic, partition) for topic in (PREDICTIONS, OUTCOMES) for partition in range(self.partitions)]
        offsets = {place: self.committed.get(place, 0) for place in places}
        begin = self.service.replay_from(offsets)
        again = [r for r in log if begin[r.topic, r.partition] <= r.offset < offsets[r.topic, r.partition]]
        for chunk in chunks(again, [batch] * (len(again) // batch + 1)):
            self.service.add(chunk, 0.0)
            self.service.flush(0.0)

    def transact(self, records: Sequence[Record], *, crash: bool = False) -> None:
        """One transaction; with `crash` the process dies before it commits."""
        assert self.service is not None
        self.service.add(records, 0.0)
        output = self.service.flush(0.0)
        if crash:
            self.service = None
            return
        self.written.extend(output.records)
        self.dead.extend((dead.code, dead.record.partition, dead.record.offset) for dead in output.dead)
        for entry in output.state:
            assert entry.value is not None
            self.changelog.setdefault(entry.partition, {})[entry.key] = entry.value
        for record in records:
            self.committed[record.topic, record.partition] = record.offset + 1
        self.service.committed()

    def rest(self) -> None:
        """The stream pauses long enough for everything read to be looked at."""
        assert self.service is not None
        wake_at = self.service.wake_at()
        if wake_at is not None:
            output = self.service.flush(wake_at)
            self.written.extend(output.records)
            for entry in output.state:
                assert entry.value is not None
                self.changelog.setdefault(entry.partition, {})[entry.key] = entry.value
            self.service.committed()

    def drift(self) -> list[dict[str, Any]]:
        """What a committed reader of the drift topic sees."""
        return [orjson.loads(record.value or b"") for record in self.written]


def chunks(records: Sequence[Record], sizes: Iterable[int]) -> Iterator[Sequence[Record]]:
    low = 0
    for size in sizes:
        if low < len(records):
            yield records[low : low + size]
        low += size


def service_of(pipeline: Pipeline, champions: Mapping[int, Champion], partitions: int) -> DriftService:
    """A service with river's detectors, whose champions are known beforehand."""
    metrics = Metrics({"pipeline": "fraud", "service": "drift"}, DECLARED)
    return DriftService(pipeline, Adwin, champions.__getitem__, partitions, metrics)
