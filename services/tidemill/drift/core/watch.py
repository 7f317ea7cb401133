"""One watched quantity: a change detector, what it is compared with, and the rule that turns a change into an alarm.

Two questions, asked one after the other. Is there a change at all: ADWIN's, for its δ. Is it large enough to matter:
the effect, measured on values after the change only, since the window in which a change was just declared still holds
older ones and understates it. A change too small is set aside and the detector primed again with the reference, so a
live stream goes on being compared with the training data, not with itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple, Protocol

from tidemill.drift.core.detectors import ChangeDetector, DetectorFactory

CONFIRM_ROWS = 256
"""Values after a declared change on which a doubtful effect is measured: a uniform's mean to ±0.018."""


MIN_LEARNING_ROWS = 512
"""Fewest live values that may stand for a baseline: a uniform's mean to ±0.013."""

MIN_UNIT = 0.01
"""Least spread that a learnt baseline is credited with: a score that was constant may move by 0.001 unnoticed."""


class Finding(NamedTuple):
    """A change worth an alarm; `row` is the value that settled it within the call, `rows` the values seen so far."""

    row: int
    reference: float
    current: float
    effect: float
    rows: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the live values are compared with. `unit` turns a difference of means into an effect; `prime` are values
    that the detector takes first, in this order."""

    mean: float
    unit: float
    prime: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """δ of each detector; the smallest effect worth an alarm; whether only a rise is one (a loss that falls is not)."""

    delta: float
    min_effect: float
    rising_only: bool = False


class Watched(Protocol):
    """What the monitor needs of a watch, primed or still learning its baseline."""

    def take(self, times: Sequence[int], values: Sequence[float]) -> Finding | None:
        """The next values, in order, with their stream times; a Finding at most once in the life of a watch."""
        ...

    @property
    def mean(self) -> float | None:
        """Recent mean, or None before there is one."""
        ...


class Watch:
    """Compares live values with a baseline known from the start."""

    def __init__(self, baseline: Baseline, sensitivity: Sensitivity, detectors: DetectorFactory) -> None:
        self._baseline = baseline
        self._sensitivity = sensitivity
        self._detectors = detectors
        self._rows = 0
        self._alarmed = False
        self._confirming = False
        self._count = 0
        self._sum = 0.0
        self._detector = self._primed()

    @property
    def mean(self) -> float:
        if self._rows == 0:
            return self._baseline.mean
        return self._sum / self._count if self._confirming and self._count else self._detector.mean

    def take(self, times: Sequence[int], values: Sequence[float]) -> Finding | None:
        index = 0
        finding: Finding | None = None
        while index < len(values):
            if self._confirming:
                index, found = self._confirm(values, index)
            else:
                index, found = self._look(values, index)
            finding = finding or found
        self._rows += len(values)
        return finding

    def _look(self, values: Sequence[float], start: int) -> tuple[int, Finding | None]:
        changed = self._detector.feed(values, start)
        if changed < 0:
            return len(values), None
        finding = self._judge(self._detector.mean, changed)
        if finding is None and not self._alarmed:
            self._confirming, self._count, self._sum = True, 0, 0.0
        return changed + 1, finding

    def _confirm(self, values: Sequence[float], start: int) -> tuple[int, Finding | None]:
        end = min(len(values), start + CONFIRM_ROWS - self._count)
        for index in range(start, end):  # not sum(): how the values are split into calls must not change the rounding
            self._sum += values[index]
        self._count += end - start
        if self._count < CONFIRM_ROWS:
            return end, None
        finding = self._judge(self._sum / self._count, end - 1)
        self._confirming = False
        self._detector = self._primed()
        return end, finding

    def _judge(self, current: float, index: int) -> Finding | None:
        shift = current - self._baseline.mean
        effect = (shift if self._sensitivity.rising_only else abs(shift)) / self._baseline.unit
        if self._alarmed or effect < self._sensitivity.min_effect:
            return None
        self._alarmed = True
        return Finding(index, self._baseline.mean, current, effect, self._rows + index + 1)

    def _primed(self) -> ChangeDetector:
        detector = self._detectors(self._sensitivity.delta)
        declared = detector.feed(self._baseline.prime, 0)
        while declared >= 0:  # a change within the sample itself is chance: go on with the rest of it
            declared = detector.feed(self._baseline.prime, declared + 1)
        return detector


class LearningWatch:
    """A quantity that training says nothing about (live scores, matured losses): its first stretch is the baseline.

    That stretch has at least `rows` values and covers at least `span_ms` of stream time. The effect is counted in units
    of √12 standard deviations of the baseline, which is 1 for a quantity spread evenly over [0,1]: so `min_effect`
    means the same here as on a scaled feature, and a rare event's score, whose mean is small, can reach it.
    """

    def __init__(self, rows: int, span_ms: int, sensitivity: Sensitivity, detectors: DetectorFactory) -> None:
        self._rows = rows
        self._span_ms = span_ms
        self._sensitivity = sensitivity
        self._detectors = detectors
        self._first_ms: int | None = None
        self._count = 0
        self._sum = 0.0
        self._squares = 0.0
        self._kept: list[float] = []
        self._keep_every = 1
        self._watch: Watch | None = None

    @property
    def mean(self) -> float | None:
        if self._watch is not None:
            return self._watch.mean
        return self._sum / self._count if self._count else None

    def take(self, times: Sequence[int], values: Sequence[float]) -> Finding | None:
        learned = 0
        while self._watch is None and learned < len(values):
            self._learn(times[learned], values[learned])
            learned += 1
        if self._watch is None or learned == len(values):
            return None
        found = self._watch.take(times[learned:], values[learned:])
        return found and found._replace(row=found.row + learned, rows=found.rows + self._count)

    def _learn(self, time: int, value: float) -> None:
        if self._first_ms is None:
            self._first_ms = time
        if self._count % self._keep_every == 0:
            self._kept.append(value)
            if len(self._kept) >= 2 * self._rows:  # thin evenly: the span is bounded by time, the memory is not
                self._kept = self._kept[::2]
                self._keep_every *= 2
        self._count += 1
        self._sum += value
        self._squares += value * value
        if self._count >= self._rows and time - self._first_ms >= self._span_ms:
            self._watch = Watch(self._baseline(), self._sensitivity, self._detectors)

    def _baseline(self) -> Baseline:
        mean = self._sum / self._count
        spread = sqrt(max(0.0, self._squares / self._count - mean * mean))
        return Baseline(mean, max(sqrt(12) * spread, MIN_UNIT), tuple(self._kept))
