"""Average precision of what was live over a sliding window of matured outcomes, in fixed memory.

Scores are counted in 1,476 bins, narrow at both ends as log-odds are: 32 bins per halving of p below ½ and of 1 − p
above it, down to 2⁻²⁴, the step of a float32 at 1. Scores in one bin count as tied; two scores closer than 3 % in p
(or 1 − p) may share one, which moved the figure by 0.001 at most on the fraud stream, saturated models included. The
window is made of buckets of event time, so that it slides in whole buckets and can be written down in a few kilobytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_SHIFT = 18  # of a float32's bits: keeps the exponent and 5 bits of the fraction
_HALF = int(np.float32(0.5).view(np.uint32)) >> _SHIFT
_FLOOR = (int(np.float32(2**-24).view(np.uint32)) >> _SHIFT) - 1
BINS = 2 * (_HALF - _FLOOR + 1)


def score_bins(scores: FloatArray) -> IntArray:
    """The bin of each score in [0,1]; a greater score never has a lower bin."""
    single = np.clip(scores, 0.0, 1.0).astype(np.float32)
    lower = single < np.float32(0.5)
    tail = np.where(lower, single, np.float32(1.0) - single)
    code = np.clip(tail.view(np.uint32).astype(np.int64) >> _SHIFT, _FLOOR, _HALF) - _FLOOR
    bins: IntArray = np.where(lower, code, BINS - 1 - code)
    return bins


def binned_average_precision(negatives: IntArray, positives: IntArray) -> float | None:
    """Σ (R_n − R_{n−1}) P_n over the bins from the highest score down; None without a positive."""
    total = int(positives.sum())
    if total == 0:
        return None
    hits = np.cumsum(positives[::-1])
    rows = hits + np.cumsum(negatives[::-1])
    precision = hits / np.maximum(rows, 1)
    return min(1.0, float((positives[::-1] * precision).sum() / total))


class Bucket(msgspec.Struct, frozen=True):
    """The non-empty bins of one bucket, as written to the changelog."""

    start: int
    bins: list[int]
    negatives: list[int]
    positives: list[int]


@dataclass(frozen=True, slots=True)
class Performance:
    """Labelled outcomes with event times in [from_ms, to_ms), and how well they were ranked."""

    from_ms: int
    to_ms: int
    rows: int
    positives: int
    average_precision: float | None


class OutcomeWindow:
    """Counts of labelled outcomes by score bin, in the `buckets` most recent buckets of `bucket_ms` event time."""

    def __init__(self, bucket_ms: int, buckets: int, restored: Iterable[Bucket] = ()) -> None:
        self._bucket_ms = bucket_ms
        self._buckets = buckets
        self._counts: dict[int, IntArray] = {}
        for bucket in restored:
            counts = self._bucket(bucket.start)
            counts[0, bucket.bins] = bucket.negatives
            counts[1, bucket.bins] = bucket.positives

    def add(self, times: IntArray, scores: FloatArray, labels: IntArray) -> None:
        """Outcomes by event time, score and label 0/1, in any order."""
        starts = times // self._bucket_ms * self._bucket_ms
        cells = labels * BINS + score_bins(scores)
        for start in np.unique(starts).tolist():
            counted = np.bincount(cells[starts == start], minlength=2 * BINS)
            self._bucket(start)[:] += counted.reshape(2, BINS)

    def slide(self, to_ms: int) -> Performance:
        """The window that ends at `to_ms`, a multiple of the bucket; what lies before it is forgotten."""
        from_ms = to_ms - self._buckets * self._bucket_ms
        for start in [start for start in self._counts if start < from_ms]:
            del self._counts[start]
        total = np.zeros((2, BINS), dtype=np.int64)
        for start, counts in self._counts.items():
            if start < to_ms:
                total += counts
        ranked = binned_average_precision(total[0], total[1])
        return Performance(max(0, from_ms), to_ms, int(total.sum()), int(total[1].sum()), ranked)

    def dump(self) -> list[Bucket]:
        """The window in a form that `restored` takes back."""
        return [self._dump_bucket(start) for start in sorted(self._counts)]

    def _dump_bucket(self, start: int) -> Bucket:
        counts = self._counts[start]
        filled = np.flatnonzero(counts.any(axis=0))
        return Bucket(start, filled.tolist(), counts[0, filled].tolist(), counts[1, filled].tolist())

    def _bucket(self, start: int) -> IntArray:
        return self._counts.setdefault(start, np.zeros((2, BINS), dtype=np.int64))
