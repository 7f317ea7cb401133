"""Two sketches over the rows of a window: quantiles by logarithmic buckets, distinct values by HyperLogLog.

Both are the same for any order of the rows, and two of them could be merged by adding or by taking maxima.

Quantiles: C. Masson, J. E. Rim, H. K. Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error
Guarantees", PVLDB 12(12), 2019. The buckets here are of integers: small ones are exact, and bounds need no logarithm.

Distinct: O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", 2017: the improved estimator, which
needs neither bias tables nor a switch between ranges.
"""

from fractions import Fraction
from math import floor, sqrt

import numpy as np
from numba import njit

from tidemill.features.core.rings import Floats, Int64s, Integer, value_at

LARGEST = 1 << 53


def _buckets() -> tuple[Int64s, Floats]:
    """First integer of each bucket, and the value that stands for it: no member of the bucket differs by over 1 %."""
    lows: list[int] = []
    middles: list[float] = []
    low = 1
    while low <= LARGEST:
        high = max(low, low * 101 // 99)
        lows.append(low)
        middles.append(float(Fraction(2 * low * high, low + high)))
        low = high + 1
    return np.array(lows, np.int64), np.array(middles)


_LOWS, _MIDDLES = _buckets()
BUCKETS = len(_LOWS)

DISTINCT_EXACT = 4_096
_TABLE = 2 * DISTINCT_EXACT
_PRECISION = 12
_REGISTERS = 1 << _PRECISION
_LAST_RANK = 64 - _PRECISION + 1
_ALPHA = 0.7213475204444817  # 1 / (2 ln 2)

_GENERATION = 0
_KEYS = 1
_STAMPS = _KEYS + _TABLE
_RANKS = _STAMPS + _TABLE
_COUNTS = _RANKS + _REGISTERS
SCRATCH = _COUNTS + 2 * BUCKETS + 1
"""Length of the int64 array, zero at first, that the kernels here write to; it carries nothing from call to call."""


@njit(cache=True)
def _bucket(magnitude: Integer) -> Integer:
    low, high = 0, BUCKETS
    while high - low > 1:
        middle = (low + high) >> 1
        if _LOWS[middle] <= magnitude:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True)
def quantile(
    arena: Int64s,
    line: Int64s,
    far: Integer,
    near: Integer,
    column: Integer,
    taken: Integer,
    millionths: Integer,
    scratch: Int64s,
) -> float:
    """About the value of rank ⌊q·(n − 1)⌋ among the rows taken in [far, near); NaN of none."""
    count = 0
    lowest, highest = 2 * BUCKETS, 0
    for position in range(far, near):
        if value_at(arena, line, position, taken) != 0:
            value = value_at(arena, line, position, column)
            at = BUCKETS
            if value > 0:
                at = BUCKETS + 1 + _bucket(value)
            elif value < 0:
                at = BUCKETS - 1 - _bucket(-value)
            scratch[_COUNTS + at] += 1
            lowest, highest = min(lowest, at), max(highest, at)
            count += 1
    if count == 0:
        return np.nan
    rank = millionths * (count - 1) // 1_000_000
    found, before = -1, 0
    for at in range(lowest, highest + 1):
        before += scratch[_COUNTS + at]
        scratch[_COUNTS + at] = 0
        if found < 0 and before > rank:
            found = at
    if found == BUCKETS:
        return 0.0
    return float(_MIDDLES[found - BUCKETS - 1]) if found > BUCKETS else -float(_MIDDLES[BUCKETS - 1 - found])


@njit(cache=True)
def _mixed(value: Integer) -> Integer:
    """A bijection of 64 bits in which every bit depends on all (the finaliser of splitmix64)."""
    bits = np.uint64(value)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@njit(cache=True)
def _register(scratch: Int64s, value: Integer) -> None:
    bits = _mixed(value)
    at = _RANKS + np.int64(bits >> np.uint64(64 - _PRECISION))
    rank = 1
    probe = np.uint64(1) << np.uint64(64 - _PRECISION - 1)
    while rank < _LAST_RANK and (bits & probe) == np.uint64(0):
        probe = probe >> np.uint64(1)
        rank += 1
    if scratch[at] < rank:
        scratch[at] = rank


@njit(cache=True)
def _sigma(x: float) -> float:
    if x == 1.0:
        return np.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x = x * x
        before = z
        z += x * y
        y += y
    return z


@njit(cache=True)
def _tau(x: float) -> float:
    if x == 0.0 or x == 1.0:
        return 0.0
    y, z, before = 1.0, 1.0 - x, -1.0
    while z != before:
        x = sqrt(x)
        before = z
        y *= 0.5
        z -= (1.0 - x) * (1.0 - x) * y
    return z / 3.0


@njit(cache=True)
def _estimate(scratch: Int64s) -> float:
    counts = np.zeros(_LAST_RANK + 1, np.int64)
    for at in range(_RANKS, _RANKS + _REGISTERS):
        counts[scratch[at]] += 1
    z = _REGISTERS * _tau(1.0 - float(counts[_LAST_RANK]) / _REGISTERS)
    for rank in range(_LAST_RANK - 1, 0, -1):
        z = 0.5 * (z + float(counts[rank]))
    z += _REGISTERS * _sigma(float(counts[0]) / _REGISTERS)
    return float(floor(_ALPHA * _REGISTERS * _REGISTERS / z + 0.5))


@njit(cache=True)
def distinct(
    arena: Int64s, line: Int64s, far: Integer, near: Integer, column: Integer, taken: Integer, scratch: Int64s
) -> float:
    """How many different values stand in `column` of the rows taken in [far, near)."""
    scratch[_GENERATION] += 1
    generation = scratch[_GENERATION]
    count = 0
    for position in range(far, near):
        if value_at(arena, line, position, taken) == 0:
            continue
        value = value_at(arena, line, position, column)
        if count > DISTINCT_EXACT:
            _register(scratch, value)
            continue
        at = np.int64(_mixed(value) & np.uint64(_TABLE - 1))
        while scratch[_STAMPS + at] == generation and scratch[_KEYS + at] != value:
            at = (at + 1) & (_TABLE - 1)
        if scratch[_STAMPS + at] == generation:
            continue
        count += 1
        if count <= DISTINCT_EXACT:
            scratch[_STAMPS + at] = generation
            scratch[_KEYS + at] = value
            continue
        scratch[_RANKS : _RANKS + _REGISTERS] = 0
        for held in range(_TABLE):
            if scratch[_STAMPS + held] == generation:
                _register(scratch, scratch[_KEYS + held])
        _register(scratch, value)
    return float(count) if count <= DISTINCT_EXACT else _estimate(scratch)
