"""What the models of this harness say, as a formula that the feed writes into graphs and the audit computes again.

Half of a score tells the version, half the row: version n says `(share(n) + wave(row · WEIGHTS)) / 2`, where wave rises
from 0 to 1 and falls again over each unit. Everything is float64 but the row, which inference hands over in float32,
and the result, which is float32: so both sides agree to a last bit of float32, and a payment that is dearer by a cent
has another score. A missing feature counts as −1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-6
"""Sums may be added in any order; neighbouring versions differ by 500 times as much."""
MISSING = -1.0
_VERSIONS = 997


def share(version: int) -> float:
    """In (0, 1), another for each of 997 versions in a row."""
    return (version % _VERSIONS + 1) / 1000


def weights(width: int) -> NDArray[np.float64]:
    """One a feature, in (0.1, 1.1), no two alike."""
    return 0.1 + np.modf(np.arange(1, width + 1) * 0.6180339887498949)[0]


def scores(versions: Sequence[int], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows [n, features] in float64, NaN where a feature is missing → [n]."""
    seen = rows.astype(np.float32).astype(np.float64)
    seen[np.isnan(seen)] = MISSING
    place = seen @ weights(rows.shape[1])
    wave = 1 - np.abs(2 * (place - np.floor(place)) - 1)
    found: NDArray[np.float64] = (np.array([share(version) for version in versions]) + wave) / 2
    return found
