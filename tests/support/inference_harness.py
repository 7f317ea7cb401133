"""The inference service without Kafka: a models topic in memory, and everything else as it runs in production."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import orjson

from support.inference_models import (
    PRIVATE_KEY,
    PUBLIC_KEY,
    WIDTH,
    activation,
    activation_record,
    chunk_records,
    fraud_pipeline,
    manifest,
    manifest_record,
)
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.model import Manifest
from tidemill.domain.pipeline import Pipeline
from tidemill.inference.catalogue import Catalogue, Selection
from tidemill.inference.core.active import Active
from tidemill.inference.core.artefact import expectation
from tidemill.inference.core.batcher import Batcher
from tidemill.inference.core.blocks import Batch, limits
from tidemill.inference.core.model import Model
from tidemill.inference.core.registry import Refusal, Registry
from tidemill.inference.delivery import Delivery
from tidemill.inference.onnx import OnnxLoader
from tidemill.inference.shell import InferenceService
from tidemill.inference.worker import ModelWorker
from tidemill.runtime.service import Output, Record


class MemorySource:
    """A models topic and its chunks; what is published is seen by the next poll."""

    def __init__(self) -> None:
        self.pending: list[Record] = []
        self.stored: dict[bytes, bytes] = {}
        self.fetches = 0

    def publish(self, made: Manifest, data: bytes, key: bytes = PRIVATE_KEY) -> None:
        self.stored.update(chunk_records(made, data))
        self.pending.append(manifest_record(made, key))

    def poll(self) -> Sequence[Record]:
        polled, self.pending = self.pending, []
        return polled

    def at_end(self) -> bool:
        return not self.pending

    def chunks(self, made: Manifest) -> dict[int, bytes]:
        self.fetches += 1
        prefix = f"{made.name}/{made.version}/".encode()
        return {int(key[len(prefix) :]): value for key, value in self.stored.items() if key.startswith(prefix)}

    def close(self) -> None:
        pass


@dataclass
class Recorder:
    """Every observer at once."""

    batches: list[Batch] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    loads: list[int] = field(default_factory=list)
    offers: list[Selection] = field(default_factory=list)
    switches: list[tuple[int, Active]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    challenger_failures: int = 0
    predictions: list[tuple[int, int, int]] = field(default_factory=list)
    read: bool = False

    def batch_scored(self, batch: Batch, seconds: float, poison_rows: int) -> None:
        self.batches.append(batch)

    def queue_changed(self, stream_rows: int, http_rows: int) -> None:
        pass

    def challenger_failed(self, rows: int) -> None:
        self.challenger_failures += rows

    def model_broken(self, model: Model, message: str) -> None:
        self.broken.append(message)

    def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def loaded(self, model: Model, seconds: float) -> None:
        self.loads.append(model.version)

    def offered(self, selection: Selection) -> None:
        self.offers.append(selection)

    def caught_up(self) -> None:
        self.read = True

    def switched(self, partition: int, active: Active, provider: str) -> None:
        pass

    def recorded(self, partition: int, active: Active) -> None:
        self.switches.append((partition, active))

    def predicted(self, by_model: int, by_rule: int, shadow: int) -> None:
        self.predictions.append((by_model, by_rule, shadow))


class Stage:
    """One inference process without its loop; `deliver` stands for the delivery thread."""

    def __init__(self, pipeline: Pipeline | None = None, model_wait_s: float = 5.0, start: bool = True) -> None:
        self.pipeline = pipeline or fraud_pipeline()
        feature_set = feature_set_hash(self.pipeline)
        batching = self.pipeline.model.batching
        bounds = limits(batching.max_size, batching.max_wait_ms, batching.buckets, batching.queue_limit)
        self.recorder = Recorder()
        self.catalogue = Catalogue()
        self.source = MemorySource()
        self.batcher = Batcher(bounds)
        self.worker = ModelWorker(self.batcher, WIDTH, bounds.buckets, self.recorder)
        loader = OnnxLoader(expectation(self.pipeline, feature_set), bounds.buckets, "auto", lambda: None)
        self.key: bytes | None = PUBLIC_KEY
        registry = Registry(self.pipeline.model.name)
        self.delivery = Delivery(registry, loader, self.catalogue, self.recorder, lambda: self.key)
        self.service = InferenceService(
            self.pipeline, feature_set, self.worker, self.catalogue, self.recorder, model_wait_s
        )
        if start:
            self.worker.start()

    def deliver(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.delivery.step(self.source)

    def publish(self, version: int, data: bytes, **changes: object) -> Manifest:
        made = manifest(self.pipeline, version, data, **changes)
        self.source.publish(made, data)
        return made

    def activate(self, epoch: int, champion: int | None, challenger: int | None = None) -> None:
        self.source.pending.append(activation_record(activation(self.pipeline, epoch, champion, challenger)))

    def go_live(self, version: int, data: bytes, epoch: int | None = None) -> None:
        """Publish, activate and deliver one version."""
        self.publish(version, data)
        self.activate(version if epoch is None else epoch, version)
        self.deliver()

    def score(self, records: Sequence[Record]) -> Output:
        self.service.add(records, 0.0)
        return self.service.flush(0.0)

    def restore(self, partition: int, active: Active | None) -> None:
        entries = [] if active is None else [(b"active", orjson.dumps({"v": 1, **_fields(active)}))]
        self.service.restore(partition, entries)

    def close(self) -> None:
        self.service.close()


def _fields(active: Active) -> dict[str, int | None]:
    return {name: getattr(active, name) for name in ("champion", "challenger", "epoch", "from_offset")}


def feature_record(
    offset: int,
    features: Iterable[float | None] | None = None,
    *,
    partition: int = 0,
    pipeline: Pipeline | None = None,
    **changes: object,
) -> Record:
    """A feature record as the last feature stage writes it."""
    customer = f"c-{offset % 7:05d}"
    vector = list(np.round(np.linspace(0, 1, WIDTH), 3).tolist() if features is None else features)
    event = {
        "v": 1,
        "id": f"p-{offset:09d}",
        "event_time": 1_522_540_800_000 + offset,
        "customer": customer,
        "terminal": "t-00001",
        "amount": 12.5,
        "fs": _feature_set() if pipeline is None else feature_set_hash(pipeline),
        "features": vector,
        **changes,
    }
    return Record(
        "fraud-features", partition, offset, 1_522_540_800_000 + offset, customer.encode(), orjson.dumps(event)
    )


@cache
def _feature_set() -> str:
    return feature_set_hash(fraud_pipeline())


def started(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread
