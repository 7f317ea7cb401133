"""The compiled part of what is done to records beside the windows: hashes of their ids, numbers checked and in fixed
point, and the features that an event has by itself."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tidemill.features.core.rings import NOT_A_LABEL, Floats, Int64s, Integer

Hashes = NDArray[np.uint64]

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
OF_AGGREGATES, OF_NUMBERS, WEEKEND, NIGHT = range(4)


@njit(cache=True)
def hash_ids(text: NDArray[np.uint8], lengths: Int64s, out: Hashes) -> None:
    """64-bit FNV-1a of each id, finished by murmur's mixer. The ids stand in `text` one behind the other."""
    start = 0
    for index in range(lengths.shape[0]):
        value = np.uint64(0xCBF29CE484222325)
        for at in range(start, start + lengths[index]):
            value = (value ^ np.uint64(text[at])) * np.uint64(0x100000001B3)
        value ^= value >> np.uint64(33)
        value *= np.uint64(0xFF51AFD7ED558CCD)
        value ^= value >> np.uint64(33)
        out[index] = value
        start += lengths[index]


@njit(cache=True)
def take(raw: Floats, labels: Int64s, least: Floats, largest: Floats, scales: Floats, fixed: Int64s) -> Integer:
    """Set `fixed` to the first columns of `raw` in fixed point. Numbers of labels are set to 0.

    Returns how many events have a number that is missing (NaN) or out of its bounds; what `fixed` has there is void.
    """
    wrong = 0
    for row in range(raw.shape[0]):
        if labels[row] != NOT_A_LABEL:
            raw[row] = 0.0
            fixed[row] = 0
            continue
        good = True
        for column in range(raw.shape[1]):
            good = good and least[column] <= raw[row, column] <= largest[column]
        if not good:
            wrong += 1
            continue
        for column in range(fixed.shape[1]):
            fixed[row, column] = np.int64(np.rint(raw[row, column] * scales[column]))
    return wrong


@njit(cache=True)
def assemble(times: Int64s, raw: Floats, aggregates: Floats, plan: Int64s, out: Floats) -> None:
    """Fill each column of `out` as a line of `plan` says: OF_AGGREGATES or OF_NUMBERS with the column there, WEEKEND or
    NIGHT (1 or 0 by UTC; night is before 07:00), and the column of `out`."""
    for row in range(times.shape[0]):
        for line in range(plan.shape[0]):
            kind, source, target = plan[line, 0], plan[line, 1], plan[line, 2]
            if kind == OF_AGGREGATES:
                out[row, target] = aggregates[row, source]
            elif kind == OF_NUMBERS:
                out[row, target] = raw[row, source]
            elif kind == WEEKEND:
                # 1970-01-01 was a Thursday; Monday counts 0.
                out[row, target] = 1.0 if (times[row] // _DAY_MS + 3) % 7 >= 5 else 0.0
            else:
                out[row, target] = 1.0 if times[row] // _HOUR_MS % 24 <= 6 else 0.0
