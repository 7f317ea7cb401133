"""What must look at the rows of a window one by one: windows whose far edge is walked to, and aggregates that no
division of two sums gives. A stage without either runs code without all this. The cost of both grows with the rows
walked, but for the deviation and the ratio, which are of sums.

    walks [W, …]  a line a walked window: KIND, edge of u, what it counts in (ms of gap, or rows), within in ms, and
                  the column of the rows it COUNTS, −1 for events
    scans [F, …]  a line a feature, in the layout of `kernels.spec`
"""

import numpy as np
from numba import njit

from tidemill.features.core.exact import deviation, halved
from tidemill.features.core.rings import (
    ARRIVAL,
    BASE,
    CAP,
    NUMBERS,
    TAIL,
    TS,
    Floats,
    Int64s,
    Integer,
    between,
    value_at,
)
from tidemill.features.core.sketches import distinct, quantile

WALK_KIND, WALK_NEAR, WALK_LIMIT, WALK_WITHIN, WALK_COUNTS, WALK_WIDTH = 0, 1, 2, 3, 4, 5
SESSION, LAST_EVENTS = 0, 1

EDGE_DELAY, EDGE_GRID, EDGE_BACK, EDGE_WIDTH = 0, 1, 2, 3

SPEC_OP, SPEC_NEAR, SPEC_FAR, SPEC_COLUMN, SPEC_SCALE, SPEC_TAKEN, SPEC_OTHER, SPEC_OUT, SPEC_WIDTH = range(9)

OP_MIN, OP_MAX, OP_FIRST, OP_LAST, OP_DISTINCT, OP_QUANTILE, OP_SINCE_LAST = range(100, 107)
OP_DECAYED_COUNT, OP_DECAYED_SUM, OP_DECAYED_MEAN = range(107, 110)
OP_STD, OP_RATIO_TO_MEAN = range(110, 112)


@njit(cache=True)
def walk(arena: Int64s, line: Int64s, edges: Int64s, walks: Int64s, at: Int64s, ts: Integer) -> None:
    """Set `at[E + w]`, the first position of walked window w, for an event at `ts`; `at[:E]` is set already."""
    base, mask, tail = line[BASE], line[CAP] - 1, line[TAIL]
    for index in range(walks.shape[0]):
        near = walks[index, WALK_NEAR]
        u = ts - edges[near, EDGE_DELAY]
        horizon = u - walks[index, WALK_WITHIN]
        limit = walks[index, WALK_LIMIT]
        session = walks[index, WALK_KIND] == SESSION
        counts = walks[index, WALK_COUNTS]
        later, counted = u, 0
        position = at[near]
        while position > tail and (session or counted < limit):
            place = base + ((position - 1) & mask)
            time = arena[place, TS]
            if time <= horizon:
                break
            if counts < 0:
                counting = (arena[place, ARRIVAL] & 1) == 0
            else:
                counting = value_at(arena, line, position - 1, counts) != 0
            if counting:
                if session and later - time > limit:
                    break
                later = time
                counted += 1
            position -= 1
        at[edges.shape[0] + index] = position


@njit(cache=True)
def _extreme(
    arena: Int64s, line: Int64s, far: Integer, near: Integer, column: Integer, taken: Integer, sign: Integer
) -> Integer:
    """Position of the largest value × sign among the rows taken in [far, near), or −1."""
    found, best = -1, np.int64(0)
    for position in range(far, near):
        if value_at(arena, line, position, taken) != 0:
            value = sign * value_at(arena, line, position, column)
            if found < 0 or value > best:
                found, best = position, value
    return found


@njit(cache=True)
def _next_taken(arena: Int64s, line: Int64s, start: Integer, end: Integer, taken: Integer) -> Integer:
    """The first position from `start` towards `end`, without it, whose row is taken; −1 if none is."""
    step = 1 if end > start else -1
    for position in range(start, end, step):
        if value_at(arena, line, position, taken) != 0:
            return position
    return -1


@njit(cache=True)
def _decayed(
    arena: Int64s, line: Int64s, far: Integer, near: Integer, u: Integer, feature: Int64s
) -> tuple[float, float]:
    """(Σw, Σw·x) over [far, near), oldest first. Rows of equal time are one term, so that their order is nothing."""
    base, mask = line[BASE], line[CAP] - 1
    column, taken, half_life = feature[SPEC_COLUMN], feature[SPEC_TAKEN], feature[SPEC_OTHER]
    weights, total = 0.0, 0.0
    position = far
    while position < near:
        time = arena[base + (position & mask), TS]
        end = position + 1
        while end < near and arena[base + (end & mask), TS] == time:
            end += 1
        count = between(arena, line, position, end, taken)
        if count > 0:
            weight = halved(u - time, half_life)
            weights += weight * float(count)
            total += weight * float(between(arena, line, position, end, column))
        position = end
    return weights, total


@njit(cache=True)
def _of_sums(arena: Int64s, line: Int64s, far: Integer, near: Integer, feature: Int64s, numbers: Int64s) -> float:
    """The deviation, or the ratio of the event's own value to the mean."""
    count = between(arena, line, far, near, feature[SPEC_TAKEN])
    total = between(arena, line, far, near, feature[SPEC_COLUMN])
    other = feature[SPEC_OTHER]
    if feature[SPEC_OP] == OP_RATIO_TO_MEAN:
        return float(numbers[other - NUMBERS] * count) / float(total) if total != 0 else np.nan
    if count == 0:
        return np.nan
    low, high = between(arena, line, far, near, other), between(arena, line, far, near, other + 1)
    return float(deviation(count, total, low, high, feature[SPEC_SCALE]))


@njit(cache=True)
def scan(
    arena: Int64s,
    line: Int64s,
    edges: Int64s,
    scans: Int64s,
    at: Int64s,
    ts: Integer,
    numbers: Int64s,
    scratch: Int64s,
    out: Floats,
) -> None:
    """Set the features of `scans` in `out` for an event at `ts` of values `numbers`, which is in the ring."""
    for index in range(scans.shape[0]):
        feature = scans[index]
        near, far = at[feature[SPEC_NEAR]], at[feature[SPEC_FAR]]
        operation, column, taken = feature[SPEC_OP], feature[SPEC_COLUMN], feature[SPEC_TAKEN]
        scale, target = float(feature[SPEC_SCALE]), feature[SPEC_OUT]
        if operation == OP_LAST:
            position = near
            for number in range(feature[SPEC_OTHER]):
                if position >= 0:
                    position = _next_taken(arena, line, position - 1, far - 1, taken)
                out[target + number] = (
                    float(value_at(arena, line, position, column)) / scale if position >= 0 else np.nan
                )
            continue
        if operation == OP_DISTINCT:
            out[target] = distinct(arena, line, far, near, column, taken, scratch)
            continue
        if operation == OP_QUANTILE:
            out[target] = quantile(arena, line, far, near, column, taken, feature[SPEC_OTHER], scratch) / scale
            continue
        if operation >= OP_STD:
            out[target] = _of_sums(arena, line, far, near, feature, numbers)
            continue
        if operation >= OP_DECAYED_COUNT:
            u = ts - edges[feature[SPEC_NEAR], EDGE_DELAY]
            weights, total = _decayed(arena, line, far, near, u, feature)
            if operation == OP_DECAYED_COUNT:
                out[target] = weights
            elif operation == OP_DECAYED_SUM:
                out[target] = total / scale
            else:
                out[target] = total / (weights * scale) if weights > 0.0 else np.nan
            continue
        if operation == OP_SINCE_LAST:
            # The event itself is the last row before `near`: it was put behind all others of its time.
            position = _next_taken(arena, line, near - 2, far - 1, taken)
            if position >= 0:
                out[target] = float(ts - arena[line[BASE] + (position & (line[CAP] - 1)), TS]) / 1_000.0
            else:
                out[target] = np.nan
            continue
        if operation == OP_FIRST:
            position = _next_taken(arena, line, far, near, taken)
        else:
            position = _extreme(arena, line, far, near, column, taken, 1 if operation == OP_MAX else -1)
        out[target] = float(value_at(arena, line, position, column)) / scale if position >= 0 else np.nan
