"""Matured outcomes counted as they come: totals since the stream began, and how well they were ranked lately.

The watermark is the newest event time seen (the loop releases outcomes in timestamp order). Whenever it crosses a
multiple of `statistics_every`, what came before is summed up: that crossing is the learning loop's clock.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from tidemill.domain.pipeline import Pipeline
from tidemill.drift.core.performance import Bucket, OutcomeWindow, Performance
from tidemill.drift.core.records import Outcome, Version


class LedgerState(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger between two outcomes, small enough for a changelog record."""

    v: Literal[1] = 1
    outcomes: int = 0
    positives: int = 0
    boundary: int | None = None
    bucket_ms: int = 0
    live: list[Bucket] = []
    champion: list[Bucket] = []


class Crossing(NamedTuple):
    """The watermark reached a boundary with the outcome at `row`, which is not counted here yet."""

    row: int
    watermark: int
    outcomes: int
    positives: int
    live: Performance
    champion: Performance


class Ledger:
    """Counts labelled outcomes: of everything that was live, and of the champion's own predictions apart."""

    def __init__(self, pipeline: Pipeline, state: LedgerState) -> None:
        self._output = pipeline.model.output
        self._every = pipeline.drift.statistics_every
        self._buckets = max(1, pipeline.drift.floor_window // self._every)
        self._outcomes = state.outcomes
        self._positives = state.positives
        # after a change of statistics_every the old buckets do not fit: the window fills anew
        fits = state.bucket_ms == self._every
        self._boundary = state.boundary if fits else None
        self._live = self._window(state.live if fits else ())
        self._champion = self._window(state.champion if fits else ())

    def state(self) -> LedgerState:
        return LedgerState(
            outcomes=self._outcomes,
            positives=self._positives,
            boundary=self._boundary,
            bucket_ms=self._every,
            live=self._live.dump(),
            champion=self._champion.dump(),
        )

    def new_champion(self) -> None:
        """From here on another version's outcomes are the champion's."""
        self._champion = self._window(())

    def take(self, outcomes: Sequence[Outcome], version: Version) -> Iterator[Crossing]:
        """The next outcomes in stream order, `version` being live; consume the iterator to its end."""
        start = 0
        for row, outcome in enumerate(outcomes):
            time = outcome.event_time
            if self._boundary is None:
                self._boundary = time // self._every * self._every + self._every
            if time < self._boundary:
                continue
            self._count(outcomes[start:row], version)
            start = row
            watermark = time // self._every * self._every
            self._boundary = watermark + self._every
            live, champion = self._live.slide(watermark), self._champion.slide(watermark)
            yield Crossing(row, watermark, self._outcomes, self._positives, live, champion)
        self._count(outcomes[start:], version)

    def _count(self, outcomes: Sequence[Outcome], version: Version) -> None:
        rows = [outcome for outcome in outcomes if outcome.label is not None and self._output in outcome.outputs]
        if not rows:
            return
        times = np.array([outcome.event_time for outcome in rows], dtype=np.int64)
        scores = np.array([outcome.outputs[self._output] for outcome in rows], dtype=np.float64)
        labels = np.array([outcome.label for outcome in rows], dtype=np.int64)
        self._outcomes += len(rows)
        self._positives += int(labels.sum())
        self._live.add(times, scores, labels)
        own = np.array([made_by(outcome, version) for outcome in rows], dtype=np.bool_)
        self._champion.add(times[own], scores[own], labels[own])

    def _window(self, buckets: Sequence[Bucket]) -> OutcomeWindow:
        return OutcomeWindow(self._every, self._buckets, buckets)


def made_by(outcome: Outcome, version: Version) -> bool:
    """The model `version` scored it: not the rule, not another version."""
    return outcome.status == "ok" and version is not None and outcome.model_version == version
