"""Arithmetic with the same bits everywhere: standard deviations through 128-bit integers, weights without `exp`."""

from decimal import Decimal, localcontext
from math import ldexp, sqrt

import numpy as np
from numba import njit

from tidemill.features.core.rings import Floats, Int64s, Integer

LIMB = 31
_MASK = (1 << LIMB) - 1

_STEPS = 64
_LN_2 = 0.6931471805599453


def _powers() -> Floats:
    """2^(−i/64), each rounded once."""
    with localcontext() as context:
        context.prec = 40
        return np.array([float(Decimal(2) ** (Decimal(-step) / _STEPS)) for step in range(_STEPS)])


_POWERS = _powers()


@njit(cache=True)
def halved(age: Integer, half_life: Integer) -> float:
    """2^(−age / half_life) for age ≥ 0, to three units in the last place.

    By table and series, with +, ×, ÷ only: libraries differ in the last bit of a power, these operations do not.
    """
    halvings = age // half_life
    if halvings > 1_100:
        return 0.0
    rest = float(age - halvings * half_life) / float(half_life)
    step = int(rest * _STEPS)
    y = (float(step) / _STEPS - rest) * _LN_2
    series = 1.0 + y * (1.0 + y * (0.5 + y * (1 / 6 + y * (1 / 24 + y * (1 / 120 + y * (1 / 720))))))
    return ldexp(_POWERS[step] * series, -int(halvings))


@njit(cache=True)
def deviation(count: Integer, total: Integer, low: Integer, high: Integer, scale: Integer) -> float:
    """√(Σ(x − mean)² / n) of n = count fixed-point values: √(n·Σx² − (Σx)²) / (n·scale).

    Σx² is high·2^31 + low (limbs of each square, summed one by one: `square_limbs`). The radicand is an exact integer
    of up to 124 bits, rounded once; so the result does not depend on the order of the values. n < 2^31, |Σx| < 2^53.
    """
    high += low >> LIMB
    low &= _MASK
    magnitude = abs(total)
    upper, lower = magnitude >> LIMB, magnitude & _MASK
    # Limbs of 31 bits: no product of two, and no sum of these, leaves 63.
    first = count * low - lower * lower
    second = count * (high & _MASK) - 2 * upper * lower + (first >> LIMB)
    third = count * (high >> LIMB) - upper * upper + (second >> LIMB)
    rest = ((second & _MASK) << LIMB) | (first & _MASK)
    return sqrt(_rounded(third, rest)) / float(count * scale)


@njit(cache=True)
def _rounded(high: Integer, low: Integer) -> float:
    """The float nearest to high·2^62 + low, for high ≥ 0 and 0 ≤ low < 2^62."""
    if high == 0:
        return float(low)
    bits = 0
    while (high >> bits) > 0:
        bits += 1
    kept = (high << (62 - bits)) | (low >> bits)
    if low & ((1 << bits) - 1):
        kept |= 1  # What is cut off only matters at a tie, which 62 bits with a mark for "and more" decide right.
    return ldexp(float(kept), bits)


def square_limbs(values: Int64s) -> tuple[Int64s, Int64s]:
    """(low, high) int64 with value² = high·2^31 + low and 0 ≤ low < 2^31, for |value| < 2^46."""
    magnitude = np.abs(values)
    upper, lower = magnitude >> LIMB, magnitude & _MASK
    square = lower * lower
    return square & _MASK, (square >> LIMB) + 2 * upper * lower + ((upper * upper) << LIMB)
