"""The engine without Kafka: both stages of the fraud pipeline, from the bytes of a record to the bytes of its output.

What is timed is what the service does with a batch: decode, look up, slide, pack the changed state, encode. CPU time of
this process, with the garbage collector tuned as the service tunes its own. The input of the second stage is made
beforehand, so no time is taken inside a measurement.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from featurebench.fraudfeed import Payments, simulated
from featurebench.ratios import figure
from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.features.core.engine import WindowEngine
from tidemill.features.metrics import FEATURES, StageMetrics
from tidemill.features.shell import KeyedStage
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.run import tune_garbage_collector
from tidemill.runtime.service import Record

HOT_SHARE = 0.9
_PREPARE = 2_000
"""Batch in which state that the measurement needs is made, unmeasured."""
_REPEATS = 3


def run(events: int, wide_keys: int, seed: int) -> dict[str, Any]:
    """Everything this module measures; a minute or two at 200,000 events."""
    pipeline = load_pipeline("fraud")
    payments = simulated(events, seed)
    plain = _Case(pipeline, payments, labels=False)
    at_512, at_8 = plain.cost(512), plain.cost(8)
    pack = plain.pack_cost(512)
    with_labels = _Case(pipeline, payments, labels=True).cost(512)
    hot = _Case(pipeline, _hot(payments, seed), labels=False).cost(512)
    wide = _Case(pipeline, _wide(payments, wide_keys, seed), labels=False, touch=wide_keys).cost(512)
    return {
        "figures": {
            "us_per_event_batch_512": figure(at_512),
            "us_per_event_batch_8": figure(at_8),
            "us_per_event_batch_512_with_labels": figure(with_labels),
            "us_per_event_batch_512_without_pack": figure(at_512 - pack),
            "pack_us_per_event_batch_512": figure(pack),
            "pack_share_batch_512": figure(pack / at_512),
            "hot_key_over_plain": figure(hot / at_512),
            "wide_keys_over_plain": figure(wide / at_512),
        },
        "settings": {
            "events": events,
            "measured_events": events - events // 2,
            "hot_share": HOT_SHARE,
            "wide_keys": wide_keys,
            "stages": "customer and terminal, one partition each; pack is included in the µs",
        },
    }


class _Case:
    """Records of one stream for both stages; each measurement begins with new state."""

    def __init__(self, pipeline: Pipeline, payments: Payments, *, labels: bool, touch: int = 0) -> None:
        self._pipeline = pipeline
        half = len(payments) // 2
        self._measured_events = len(payments) - half
        before = list(_touch(payments, touch)) if touch else []
        before += _records(payments, 0, half, labels=labels)
        measured = list(_records(payments, half, len(payments), labels=labels))
        self._parts = [(before, measured)]
        first = self._stage(0)
        self._parts.append((_through(first, before), _through(first, measured)))

    def cost(self, batch: int) -> float:
        """CPU µs an event over both stages, the median of a few repetitions."""
        return median(sum(self._timed(index, batch) for index in (0, 1)) for _ in range(_REPEATS))

    def pack_cost(self, batch: int) -> float:
        """CPU µs an event that packing changed state takes, over both stages."""
        with _pack_timer() as spent:
            for index in (0, 1):
                self._timed(index, batch, before_measuring=spent.clear)
                spent.keep()
        return 1e6 * spent.kept / self._measured_events

    def _timed(self, index: int, batch: int, before_measuring: Callable[[], None] = lambda: None) -> float:
        stage = self._stage(index)
        before, measured = self._parts[index]
        for part in _batches(before, _PREPARE):
            stage.add(part, 0.0)
            stage.flush(0.0)
        parts = list(_batches(measured, batch))
        before_measuring()
        tune_garbage_collector()
        began = time.process_time()
        for part in parts:
            stage.add(part, 0.0)
            stage.flush(0.0)
        return 1e6 * (time.process_time() - began) / self._measured_events

    def _stage(self, index: int) -> KeyedStage:
        return new_stage(self._pipeline, index)


def new_stage(pipeline: Pipeline, index: int) -> KeyedStage:
    """Built as the service builds it, and holding nothing."""
    metrics = Metrics({"pipeline": pipeline.name, "service": "features"}, FEATURES)
    stage = KeyedStage(pipeline, index, StageMetrics(metrics))
    stage.restore(0, ())
    return stage


def _records(payments: Payments, begin: int, end: int, *, labels: bool) -> Iterator[Record]:
    if not labels:
        for key, value, at in payments.events(begin, end):
            yield Record("fraud-events", 0, 0, at, key, value)
        return
    for is_label, row in payments.merged(begin, end):
        key, value, at = payments.label(row) if is_label else payments.event(row)
        yield Record("fraud-labels" if is_label else "fraud-events", 0, 0, at, key, value)


def _touch(payments: Payments, keys: int) -> Iterator[Record]:
    """One earlier event a key, so that the measured part finds every key as a running system would."""
    numbers = np.arange(keys, dtype=np.int64)
    early = np.full(keys, int(payments.times[0]) - DAY_MS, np.int64)
    touched = Payments(early, numbers, numbers, np.full(keys, 100, np.int64), np.zeros(keys, np.int64), early)
    for number, record in enumerate(_records(touched, 0, keys, labels=False)):
        value = (record.value or b"").replace(b'"id":"%d"' % number, b'"id":"touch-%d"' % number)
        yield record._replace(value=value)


def _through(stage: KeyedStage, records: Sequence[Record]) -> list[Record]:
    """What the next stage reads."""
    out: list[Record] = []
    for part in _batches(records, _PREPARE):
        stage.add(part, 0.0)
        out += [Record(r.topic, 0, 0, r.timestamp, r.key, r.value) for r in stage.flush(0.0).records]
    return out


def _batches(records: Sequence[Record], size: int) -> Iterator[Sequence[Record]]:
    for begin in range(0, len(records), size):
        yield records[begin : begin + size]


def _hot(payments: Payments, seed: int) -> Payments:
    """The same payments, 90 % of them by one customer at one terminal."""
    hot = np.random.default_rng([seed, 3]).random(len(payments)) < HOT_SHARE
    return replace(
        payments, customers=np.where(hot, 0, payments.customers), terminals=np.where(hot, 0, payments.terminals)
    )


def _wide(payments: Payments, keys: int, seed: int) -> Payments:
    """The same payments, spread evenly over so many customers and as many terminals."""
    random = np.random.default_rng([seed, 4])
    return replace(
        payments,
        customers=random.integers(0, keys, len(payments)),
        terminals=random.integers(0, keys, len(payments)),
    )


class _Spent:
    def __init__(self) -> None:
        self.seconds = self.kept = 0.0

    def clear(self) -> None:
        self.seconds = 0.0

    def keep(self) -> None:
        self.kept += self.seconds
        self.seconds = 0.0


@contextmanager
def _pack_timer() -> Iterator[_Spent]:
    """Adds up the CPU that `WindowEngine.pack` takes while the block runs."""
    spent, pack = _Spent(), WindowEngine.pack

    def timed(engine: WindowEngine) -> list[tuple[bytes, bytes | None]]:
        began = time.process_time()
        entries = pack(engine)
        spent.seconds += time.process_time() - began
        return entries

    WindowEngine.pack = timed  # type: ignore[method-assign,assignment]
    try:
        yield spent
    finally:
        WindowEngine.pack = pack  # type: ignore[method-assign]
