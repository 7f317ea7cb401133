"""The events of B1 and B2 and the right answers to them: a 10 s count and sum for each event of its key. Pure.

Times ascend by 1 ms an event, so no two events of a key share one, and values are whole numbers, so every sum is exact
in whatever a contestant adds it up with. A longer stream begins with the shorter one: a slow contestant that is given
fewer events is still given the same ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW_MS = 10_000
FIRST_MS = 1_700_000_000_000
"""A multiple of WINDOW_MS, so that the first tumbling window is a whole one."""
LARGEST_VALUE = 10_000

"""Rows from floor(t / 10 s) × 10 s up to t, or over (t − 10 s, t]."""


@dataclass(frozen=True, slots=True)
class Events:
    """Columns of equal length; a row's position is the event's number. `keys` are numbers below `key_count`."""

    keys: NDArray[np.int64]
    values: NDArray[np.int64]
    key_count: int

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def times(self) -> NDArray[np.int64]:
        return FIRST_MS + np.arange(len(self.keys), dtype=np.int64)

    def first(self, count: int) -> "Events":
        return Events(self.keys[:count], self.values[:count], self.key_count)

    def records(self, begin: int, end: int) -> list[tuple[bytes, bytes, int]]:
        """(key, value, timestamp in ms) of events `begin` to `end` − 1, as every contestant reads them."""
        keys, values = self.keys[begin:end].tolist(), self.values[begin:end].tolist()
        return [
            (
                b"k%06d" % key,
                b'{"v":1,"id":"%d","event_time":%d,"customer":"k%06d","amount":%d}' % (number, time, key, value),
                time,
            )
            for number, time, key, value in zip(
                range(begin, end), range(FIRST_MS + begin, FIRST_MS + end), keys, values, strict=True
            )
        ]


def draw(count: int, key_count: int, seed: int) -> Events:
    """`count` events over `key_count` uniform keys."""
    keys = np.random.default_rng([seed, 1]).integers(0, key_count, count)
    values = np.random.default_rng([seed, 2]).integers(1, LARGEST_VALUE + 1, count)
    return Events(keys, values, key_count)


@dataclass(frozen=True, slots=True)
class Answers:
    """The right answer of each event, by its number."""

    counts: NDArray[np.int64]
    sums: NDArray[np.int64]


def answers(events: Events) -> Answers:
    """Count and sum over the event's tumbling window, itself included."""
    times = events.times
    order = np.lexsort((times, events.keys))
    keys, at, values = events.keys[order], times[order], events.values[order]
    begins = at // WINDOW_MS * WINDOW_MS
    # One ascending number for (key, time), so that one search finds where each window of each key begins.
    span = int(at.max()) + 2 if len(at) else 1
    base = FIRST_MS - WINDOW_MS
    places = keys * (span - base) + (at - base)
    first = np.searchsorted(places, keys * (span - base) + (begins - base))
    rows = np.arange(len(order))
    before = np.concatenate([[0], np.cumsum(values)])
    counts, sums = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    counts[order] = rows - first + 1
    sums[order] = before[rows + 1] - before[first]
    return Answers(counts, sums)
