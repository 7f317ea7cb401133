"""What a window remembers of its events for one value of a summary: a few integers, exact whatever their order.

An accumulator is a list: count [n] · sum, mean [n, Σx] · std [n, Σx, Σx²] · share [n, equal] · min, max [x] ·
first, last [time, x]; the last four empty over nothing. Python's integers do not overflow, and each answer is rounded
once, as the kernels round it. Only of equal times does the order of arrival decide: the earlier is first.
"""

from collections.abc import Sequence
from math import sqrt

from tidemill.features.core.summarydefinition import ALWAYS, Line

Accumulator = list[int]
Answer = float | int | None

_SUMS = {"count": 1, "sum": 2, "mean": 2, "std": 3, "share": 2}
"""How many sums an accumulator of this aggregate holds."""


def empty(line: Line) -> Accumulator:
    return [0] * _SUMS.get(line.aggregate, 0)


def add(line: Line, state: Accumulator, time: int, row: Sequence[int]) -> None:
    """One event at `time` with the columns `row`."""
    if line.taken != ALWAYS and not row[line.taken]:
        return
    aggregate = line.aggregate
    if aggregate == "count":
        state[0] += 1
        return
    value = row[line.value]
    if aggregate in _SUMS:
        state[0] += 1
        state[1] += value
        if aggregate == "std":
            state[2] += value * value
    elif aggregate == "min":
        state[:] = [min(value, *state)] if state else [value]
    elif aggregate == "max":
        state[:] = [max(value, *state)] if state else [value]
    elif not state or (time < state[0] if aggregate == "first" else time >= state[0]):
        state[:] = [time, value]


def merge(line: Line, earlier: Accumulator, later: Accumulator) -> Accumulator:
    """Of both together; of equal times those of `earlier` came first."""
    aggregate = line.aggregate
    if aggregate in _SUMS:
        return [one + other for one, other in zip(earlier, later, strict=True)]
    if not earlier or not later:
        return earlier or later
    if aggregate in ("min", "max"):
        return [(min if aggregate == "min" else max)(earlier[0], later[0])]
    if aggregate == "first":
        return later if later[0] < earlier[0] else earlier
    return earlier if earlier[0] > later[0] else later


def answer(line: Line, state: Accumulator) -> Answer:
    """The value of the summary: null over nothing, but for count and sum."""
    match line.aggregate:
        case "count":
            return state[0]
        case "sum":
            return state[1] / line.scale
        case "mean" | "share":
            return state[1] / (state[0] * line.scale) if state[0] else None
        case "std":
            count, total, squares = state
            return sqrt(count * squares - total * total) / (count * line.scale) if count else None
        case _:
            return state[-1] / line.scale if state else None
