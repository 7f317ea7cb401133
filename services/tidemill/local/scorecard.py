"""How good the scores were that the stream acted on: matured outcomes, by week and around each promotion. Pure."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.domain.durations import DAY_MS
from tidemill.domain.quality import auc, average_precision, card_precision

WEEK_MS = 7 * DAY_MS
RULE = -1
"""Stands for "no model" where versions are kept in an integer column."""


class Outcome(msgspec.Struct):
    """The members of an outcome that the scorecard reads."""

    id: str
    event_time: int
    outputs: dict[str, float]
    model_version: int | None
    label: int | None
    label_status: str


class Scorecard:
    """Collects outcomes; reports on any range of event time. About 40 bytes an outcome."""

    def __init__(self, output: str) -> None:
        self._decoder = msgspec.json.Decoder(Outcome)
        self._output = output
        self._cards: dict[bytes, int] = {}
        self._rows: list[tuple[int, int, float, int, int]] = []
        self.outcomes = 0

    def add(self, value: bytes, key: bytes | None) -> None:
        """Take one committed outcome; `key` is its entity, as the topic is keyed by it."""
        record = self._decoder.decode(value)
        self.outcomes += 1
        if record.label is None:
            return
        card = self._cards.setdefault(key or b"", len(self._cards))
        version = RULE if record.model_version is None else record.model_version
        self._rows.append((record.event_time, card, record.outputs[self._output], record.label, version))

    def report(self, used_from: Mapping[int, int]) -> dict[str, Any]:
        """`by_week`, and `promotions`: for each promoted model, by the event time from which it scored (`used_from`, by
        version), the 7 days `before` and what matured `after` until the next one; None where nothing matured."""
        columns = np.array(self._rows, dtype=np.float64).reshape(-1, 5)
        times = columns[:, 0]
        if times.size == 0:
            return {"promotions": [], "by_week": []}
        first = int(times.min()) // DAY_MS * DAY_MS
        last = int(times.max()) + 1
        weeks = [self._range(columns, start, min(start + WEEK_MS, last)) for start in range(first, last, WEEK_MS)]
        starts = sorted((start, version) for version, start in used_from.items())
        promotions = [
            {
                "version": version,
                "before": self._range(columns, start - WEEK_MS, start),
                "after": self._range(columns, start, stop),
            }
            for (start, version), (stop, _) in pairwise([*starts, (last, None)])
        ]
        return {"promotions": promotions, "by_week": [week for week in weeks if week is not None]}

    def _range(self, columns: npt.NDArray[np.float64], start: int, stop: int) -> dict[str, Any] | None:
        rows = columns[(columns[:, 0] >= start) & (columns[:, 0] < stop)]
        if rows.shape[0] == 0:
            return None
        times, cards, scores, labels, versions = rows.T
        return {
            "from": start,
            "to": stop,
            "rows": int(rows.shape[0]),
            "positives": int(labels.sum()),
            "auc": _rounded(auc(scores, labels)),
            "average_precision": _rounded(average_precision(scores, labels)),
            "card_precision_100": _rounded(card_precision(times // DAY_MS, cards, scores, labels, k=100)),
            "models": ["rule" if version == RULE else int(version) for version in np.unique(versions)],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
