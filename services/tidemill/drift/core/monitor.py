"""The drift service without its clients: predictions and outcomes in stream order go in, drift records come out.

A pure state machine: the same records in the same order give the same drift records with the same ids, however they
are cut into stretches. Detectors live for one generation, which starts at each promotion and after each
`generation_events` predictions; what a generation needs to start is a `Snapshot`, so a restart replays from there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from tidemill.domain.pipeline import Pipeline
from tidemill.drift.core.detectors import DetectorFactory
from tidemill.drift.core.features import Champion, FeatureWatches, Found, vectors
from tidemill.drift.core.ledger import Crossing, Ledger, LedgerState, made_by
from tidemill.drift.core.performance import Performance
from tidemill.drift.core.records import Alarm, Drift, Generation, Outcome, Prediction, Statistics, Version, Window
from tidemill.drift.core.watch import MIN_LEARNING_ROWS, LearningWatch, Sensitivity


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Where a generation starts: all that must be known besides the records after it."""

    v: Literal[1] = 1
    generation: int = 0
    version: Version = None
    ledger: LedgerState = LedgerState()


@dataclass(slots=True)
class Stretch:
    """Records of one generation in stream order. The positions say where each stood among all, from 0 up."""

    predictions: list[Prediction] = field(default_factory=list)
    prediction_positions: list[int] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    outcome_positions: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.predictions) + len(self.outcomes)


class _Raised(msgspec.Struct, frozen=True):
    """A record with its place: by the input that caused it, then as listed in `Monitor.take`."""

    position: int
    record: Drift


class Monitor:
    """One generation after another over one pipeline's stream. Not thread-safe."""

    def __init__(
        self, pipeline: Pipeline, detectors: DetectorFactory, snapshot: Snapshot, champion: Champion | None
    ) -> None:
        """Stands at the start of `snapshot`'s generation; `champion` is its version's (None: no model is active)."""
        self._spec = pipeline.drift
        self._output = pipeline.model.output
        self._model = pipeline.model.name
        self._maturity = pipeline.outcomes.maturity
        self._detectors = detectors
        self._ledger = Ledger(pipeline, snapshot.ledger)
        self.generation = snapshot.generation
        self.version: Version = snapshot.version
        self.performance: Performance | None = None
        self._watch(champion)

    def snapshot(self) -> Snapshot:
        """The state to write at the start of a generation, before any record of it was taken."""
        return Snapshot(generation=self.generation, version=self.version, ledger=self._ledger.state())

    def begin(self, champion: Champion | None, at: int, reason: str) -> Generation:
        """End this generation and start the next, with `champion` serving. `at` is stream time."""
        version = champion.version if champion else None
        if version != self.version:
            self._ledger.new_champion()
        self.generation += 1
        self.version = version
        self._watch(champion)
        return Generation(
            id=self._identifier("generation", 1),
            at=at,
            generation=self.generation,
            model_version=version,
            watched=sum(1 for _ in self.means()),
            reason=reason,
        )

    def take(self, stretch: Stretch) -> list[Drift]:
        """The next records; what they lead to, in the order of the inputs that caused it.

        Of one input's records those of the features come first, then score, loss, floor, and the statistics last.
        """
        raised = [*self._feature_alarms(stretch), *self._score_alarms(stretch), *self._loss_alarms(stretch)]
        places = [item.position for item in raised]
        for crossing in self._ledger.take(stretch.outcomes, self.version):
            position = stretch.outcome_positions[crossing.row]
            floor = self._floor_alarm(crossing)
            if floor is not None:
                raised.append(_Raised(position, floor))
            before = self.alarms + sum(place < position for place in places) + self._floor_alarmed
            raised.append(_Raised(position, self._statistics(crossing, before)))
        self.alarms += len(places)
        return [item.record for item in sorted(raised, key=lambda item: item.position)]

    def means(self) -> Iterator[tuple[str, float | None]]:
        """Each detector that runs on a mean, with its recent one."""
        if self._features is not None:
            yield from self._features.means()
        if self._score is not None:
            yield "score", self._score.mean
        if self._loss is not None:
            yield "loss", self._loss.mean

    def _watch(self, champion: Champion | None) -> None:
        self.alarms = 0  # of this generation, the floor's apart
        self._floor_alarmed = False
        self._champion = champion if self._spec.enabled else None
        self._features: FeatureWatches | None = None
        self._score: LearningWatch | None = None
        self._loss: LearningWatch | None = None
        if self._champion is not None:
            self._features = FeatureWatches(self._champion, self._spec, self._detectors)
            two_sided = self._features.sensitivity
            self._score = self._learning(two_sided)
            self._loss = self._learning(Sensitivity(two_sided.delta, two_sided.min_effect, rising_only=True))

    def _learning(self, sensitivity: Sensitivity) -> LearningWatch:
        rows = max(MIN_LEARNING_ROWS, self._spec.prime_rows)
        return LearningWatch(rows, self._spec.statistics_every, sensitivity, self._detectors)

    def _feature_alarms(self, stretch: Stretch) -> Iterator[_Raised]:
        champion, watches = self._champion, self._features
        if champion is None or watches is None:
            return
        width = len(champion.features)
        rows = [
            row
            for row, seen in enumerate(stretch.predictions)
            if seen.fs == champion.feature_set and len(seen.features) == width
        ]
        if not rows:
            return
        times = [stretch.predictions[row].event_time for row in rows]
        matrix = vectors([stretch.predictions[row].features for row in rows], width)
        for found in watches.take(times, matrix):
            row = found.finding.row
            yield _Raised(stretch.prediction_positions[rows[row]], self._alarm(found, times[row], "drift"))

    def _score_alarms(self, stretch: Stretch) -> Iterator[_Raised]:
        if self._score is None:
            return
        rows = [
            row
            for row, seen in enumerate(stretch.predictions)
            if seen.model_version == self.version and seen.status == "ok" and self._output in seen.outputs
        ]
        times = [stretch.predictions[row].event_time for row in rows]
        scores = [min(1.0, max(0.0, stretch.predictions[row].outputs[self._output])) for row in rows]
        finding = self._score.take(times, scores)
        if finding:
            position = stretch.prediction_positions[rows[finding.row]]
            yield _Raised(position, self._alarm(Found("score", finding), times[finding.row], "drift"))

    def _loss_alarms(self, stretch: Stretch) -> Iterator[_Raised]:
        if self._loss is None:
            return
        times: list[int] = []
        losses: list[float] = []
        positions: list[int] = []
        for outcome, position in zip(stretch.outcomes, stretch.outcome_positions, strict=True):
            if outcome.label is not None and made_by(outcome, self.version) and self._output in outcome.outputs:
                times.append(outcome.event_time + self._maturity)
                losses.append((min(1.0, max(0.0, outcome.outputs[self._output])) - outcome.label) ** 2)
                positions.append(position)
        finding = self._loss.take(times, losses)
        if finding:
            alarm = self._alarm(Found("loss", finding), times[finding.row], "performance")
            yield _Raised(positions[finding.row], alarm)

    def _floor_alarm(self, crossing: Crossing) -> Alarm | None:
        limit, seen = self._spec.min_average_precision, crossing.champion
        if limit is None or self._champion is None or self._floor_alarmed or seen.average_precision is None:
            return None
        if seen.positives < self._spec.min_positives or seen.average_precision >= limit:
            return None
        self._floor_alarmed = True
        return Alarm(
            id=self._identifier("floor", 1),
            at=crossing.watermark + self._maturity,
            policy="performance",
            detector="floor",
            generation=self.generation,
            model_version=self.version,
            reference=limit,
            current=seen.average_precision,
            effect=limit - seen.average_precision,
            rows=seen.rows,
            reason=f"average precision {seen.average_precision:.3f} over {seen.rows} matured outcomes "
            f"({seen.positives} positive) is below the floor of {limit:g}",
        )

    def _statistics(self, crossing: Crossing, alarms: int) -> Statistics:
        seen = self.performance = crossing.live
        return Statistics(
            id=self._identifier("statistics", crossing.watermark // self._spec.statistics_every),
            at=crossing.watermark + self._maturity,
            watermark=crossing.watermark,
            outcomes=crossing.outcomes,
            positives=crossing.positives,
            model_version=self.version,
            window=Window(seen.from_ms, seen.to_ms, seen.rows, seen.positives, seen.average_precision),
            alarms=alarms,
        )

    def _alarm(self, found: Found, at: int, policy: Literal["drift", "performance"]) -> Alarm:
        detector, finding = found
        return Alarm(
            id=self._identifier(detector, 1),
            at=at,
            policy=policy,
            detector=detector,
            generation=self.generation,
            model_version=self.version,
            reference=finding.reference,
            current=finding.current,
            effect=finding.effect,
            rows=finding.rows,
            reason=f"{detector} averages {finding.current:.4f} where {finding.reference:.4f} is usual, "
            f"a shift of {finding.effect:.2f} (limit {self._spec.min_effect:g}), after {finding.rows} rows",
        )

    def _identifier(self, detector: str, number: int) -> str:
        version = "none" if self.version is None else self.version
        return f"{self._model}/{version}/g{self.generation}/{detector}/{number}"
