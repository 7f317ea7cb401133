"""Two models on the same matured events: paired by day, with a lower bound that chance seldom passes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import ShadowSpec
from tidemill.domain.quality import auc, average_precision, bootstrap_lower_bound, paired_daily_difference


@dataclass(frozen=True, slots=True)
class PairedScores:
    """Labelled rows that both models scored; arrays of one length."""

    event_time: npt.NDArray[np.int64]
    label: npt.NDArray[np.float64]
    challenger: npt.NDArray[np.float64]
    incumbent: npt.NDArray[np.float64]


def compare(rows: PairedScores, spec: ShadowSpec, *, limit: float, seed: int) -> dict[str, Any]:
    """The verdict (`better`) and every number behind it, as JSON values.

    Days are counted from the first row, so that a shadow phase of n days is n whole blocks.
    """
    first = int(rows.event_time.min())
    days = (rows.event_time - first) // DAY_MS
    daily = paired_daily_difference(days, rows.challenger, rows.incumbent, rows.label)
    lower = bootstrap_lower_bound(daily, confidence=spec.confidence, resamples=spec.resamples, seed=seed)
    return {
        "better": lower is not None and lower > limit,
        "lower_bound": lower,
        "limit": limit,
        "confidence": spec.confidence,
        "daily_difference": [round(float(value), 6) for value in daily],
        "from": first,
        "to": int(rows.event_time.max()) + 1,
        "rows": int(rows.label.size),
        "positives": int(rows.label.sum()),
        "challenger": _quality(rows.challenger, rows.label),
        "incumbent": _quality(rows.incumbent, rows.label),
    }


def _quality(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.float64]) -> dict[str, float | None]:
    return {"auc": auc(scores, labels), "average_precision": average_precision(scores, labels)}
