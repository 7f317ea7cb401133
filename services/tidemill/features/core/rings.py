"""Rings of rows: the layout of the window engine's state, and everything that moves a row.

State of one (stage, partition), all int64 and owned by `engine.WindowEngine`:

    arena [N, PREFIX + V]    rows of all rings: TS ms | ID hash | ARRIVAL = sequence << 1 | is label | one exclusive
                             prefix sum a value column, mod 2^64. Column WEIGHT counts events, LABEL sums labels, what
                             the rest hold is said by the stage (`columns.Column`). Where a stage joins second streams,
                             the first STREAMS of those from NUMBERS on count the records of one each
    meta  [K, FIXED + V + E] one line a key: the columns BASE…FIXED, V running totals, one cursor an edge
    ctl   [64]               ARENA_USED, DIRTY_COUNT, FREE_ROWS, the counts that caps are held against (`merging`), why
                             the last call STOPPED, NEWEST_SEEN ms of all keys and the moment of the NEXT_EXPIRY; then
                             one free list of rings a power of two, linked through TS

A stage that merges rows (`merging`) has MERGED_WORDS more at the end of each line.

Invariants: TAIL ≤ HEAD ≤ TAIL + CAP, CAP is 0 or a power of two, timestamps never decrease in a ring, labels (and with
them records of second streams) stand before events of equal time, prefix(i + 1) − prefix(i) = value(i) with
prefix(HEAD) = total. A cursor is a lower bound for the next event in order, never state. What a ring holds is a
function of its key's own records in arrival order; where it lies, how wide it is and where its sums begin are not.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Integer = Any  # int64 in machine code; int or np.int64 where numba is switched off
Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]

TS, ID, ARRIVAL, PREFIX = 0, 1, 2, 3
WEIGHT, LABEL, NUMBERS = 0, 1, 2

BASE, CAP, TAIL, HEAD, NEWEST, SEQUENCE, FIRST_CHUNK, SAVED, FIXED = 0, 1, 2, 3, 4, 5, 6, 7, 8

ARENA_USED, DIRTY_COUNT, FREE_ROWS, HELD_ROWS, HELD_KEYS, STOPPED, NEWEST_SEEN, NEXT_EXPIRY, FREE_LISTS = range(9)
CTL_SIZE = 64
SMALLEST_RING = 4

LATENESS, RETENTION, LEAD, STREAMS, LIMITS = 0, 1, 2, 3, 4

NOT_A_LABEL, OF_A_STREAM = -1, -2

ARENA_FULL, CAP_MET, KEYS_EXPIRE = 0, 1, 2
"""Why a call of `kernels.slide` stopped."""


def wrapping() -> AbstractContextManager[object]:
    """Sums and hashes wrap around on purpose; only numpy scalars, where numba is switched off, would warn about it."""
    return _NOTHING if hasattr(upper_bound, "py_func") else np.errstate(over="ignore")


_NOTHING = nullcontext()


@njit(cache=True)
def upper_bound(arena: Int64s, base: Integer, mask: Integer, tail: Integer, head: Integer, ts: Integer) -> Integer:
    """The first position in [tail, head] whose row is newer than `ts`."""
    low, high = tail, head
    while low < high:
        middle = (low + high) >> 1
        if arena[base + (middle & mask), TS] <= ts:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True)
def size_class(capacity: Integer) -> Integer:
    level = 0
    while (1 << level) < capacity:
        level += 1
    return level


@njit(cache=True)
def allocate(arena: Int64s, ctl: Int64s, capacity: Integer) -> Integer:
    """The first row of a ring of `capacity` rows, or −1 when the arena must grow first. Nothing changes on −1."""
    level = FREE_LISTS + size_class(capacity)
    free = ctl[level]
    if free >= 0:
        ctl[level] = arena[free, TS]
        ctl[FREE_ROWS] -= capacity
        return free
    start = ctl[ARENA_USED]
    if start + capacity > arena.shape[0]:
        return -1
    ctl[ARENA_USED] = start + capacity
    return start


@njit(cache=True)
def release(arena: Int64s, ctl: Int64s, base: Integer, capacity: Integer) -> None:
    level = FREE_LISTS + size_class(capacity)
    arena[base, TS] = ctl[level]
    ctl[level] = base
    ctl[FREE_ROWS] += capacity


@njit(cache=True)
def _widen(arena: Int64s, line: Int64s, ctl: Int64s, capacity: Integer) -> bool:
    """Move the ring to one of `capacity` rows; False when the arena must grow first."""
    base = allocate(arena, ctl, capacity)
    if base < 0:
        return False
    before, old = line[CAP], line[BASE]
    for position in range(line[TAIL], line[HEAD]):
        arena[base + (position & (capacity - 1))] = arena[old + (position & (before - 1))]
    if before > 0:
        release(arena, ctl, old, before)
    line[BASE] = base
    line[CAP] = capacity
    return True


@njit(cache=True)
def make_room(arena: Int64s, line: Int64s, ctl: Int64s) -> bool:
    """See that the ring can take one more row; False when the arena must grow first."""
    if line[HEAD] - line[TAIL] < line[CAP]:
        return True
    return bool(_widen(arena, line, ctl, max(SMALLEST_RING, 2 * line[CAP])))


@njit(cache=True)
def narrow(arena: Int64s, line: Int64s, ctl: Int64s) -> None:
    """Give back most of a ring that is less than a quarter full: its first part, twice what it holds, stays."""
    base, capacity, tail, head = line[BASE], line[CAP], line[TAIL], line[HEAD]
    if capacity <= SMALLEST_RING or 4 * (head - tail) >= capacity:
        return
    kept = max(SMALLEST_RING, 1 << size_class(2 * (head - tail)))
    rows = np.empty((head - tail, arena.shape[1]), np.int64)
    for position in range(tail, head):
        rows[position - tail] = arena[base + (position & (capacity - 1))]
    for position in range(tail, head):
        arena[base + (position & (kept - 1))] = rows[position - tail]
    line[CAP] = kept
    while kept < capacity:
        # Halves of halves: each is as large as all before it, and a power of two.
        release(arena, ctl, base + kept, kept)
        kept *= 2


@njit(cache=True)
def insert(
    arena: Int64s, line: Int64s, columns: Integer, position: Integer, ts: Integer, identity: Integer, is_label: Integer
) -> Integer:
    """Open a row at `position`, whose values are still 0: later rows move up by one. Returns its place in the arena."""
    base, mask, head = line[BASE], line[CAP] - 1, line[HEAD]
    for moving in range(head, position, -1):
        arena[base + (moving & mask)] = arena[base + ((moving - 1) & mask)]
    place = base + (position & mask)
    if position == head:
        for column in range(columns):
            arena[place, PREFIX + column] = line[FIXED + column]
    # Otherwise the row that stood here moved up unchanged, and its prefix sums are those of the new row.
    arena[place, TS] = ts
    arena[place, ID] = identity
    arena[place, ARRIVAL] = (line[SEQUENCE] << 1) | is_label
    line[SEQUENCE] += 1
    line[HEAD] = head + 1
    return place


@njit(cache=True)
def weigh(arena: Int64s, line: Int64s, position: Integer, column: Integer, value: Integer) -> None:
    """Give the row at `position` its value: everything after it, and the total, grows by as much."""
    base, mask = line[BASE], line[CAP] - 1
    for after in range(position + 1, line[HEAD]):
        arena[base + (after & mask), PREFIX + column] += value
    line[FIXED + column] += value


@njit(cache=True)
def trim(arena: Int64s, line: Int64s, retention: Integer) -> None:
    """Drop the rows that no event still accepted can look back to. The newest row always stays."""
    base, mask, head, tail = line[BASE], line[CAP] - 1, line[HEAD], line[TAIL]
    horizon = line[NEWEST] - retention
    while tail < head and arena[base + (tail & mask), TS] <= horizon:
        tail += 1
    line[TAIL] = tail


@njit(cache=True)
def store(
    arena: Int64s,
    line: Int64s,
    columns: Integer,
    position: Integer,
    ts: Integer,
    identity: Integer,
    label: Integer,
    numbers: Int64s,
) -> None:
    """Insert an event with its values, or another row (any `label` but NOT_A_LABEL) without; the ring has room."""
    if label == NOT_A_LABEL:
        insert(arena, line, columns, position, ts, identity, 0)
        weigh(arena, line, position, WEIGHT, 1)
        for column in range(NUMBERS, columns):
            weigh(arena, line, position, column, numbers[column - NUMBERS])
    else:
        insert(arena, line, columns, position, ts, identity, 1)


@njit(cache=True)
def prefix_sum(arena: Int64s, line: Int64s, position: Integer, column: Integer) -> Integer:
    if position == line[HEAD]:
        return line[FIXED + column]
    return arena[line[BASE] + (position & (line[CAP] - 1)), PREFIX + column]


@njit(cache=True, inline="always")
def value_at(arena: Int64s, line: Int64s, position: Integer, column: Integer) -> Integer:
    """What the row at `position` holds in `column`."""
    # Written out: a call within a call costs numba more than the two reads.
    base, mask = line[BASE], line[CAP] - 1
    start = arena[base + (position & mask), PREFIX + column]
    if position + 1 == line[HEAD]:
        return line[FIXED + column] - start
    return arena[base + ((position + 1) & mask), PREFIX + column] - start


@njit(cache=True, inline="always")
def between(arena: Int64s, line: Int64s, far: Integer, near: Integer, column: Integer) -> Integer:
    """What the rows at [far, near) hold in `column` together."""
    return prefix_sum(arena, line, near, column) - prefix_sum(arena, line, far, column)


@njit(cache=True)
def expired(meta: Int64s, used: Integer, horizon: Integer) -> Int64s:
    """The slots of keys whose time, NEWEST, is at or before `horizon`."""
    found = np.empty(used, np.int64)
    count = 0
    for slot in range(used):
        if meta[slot, CAP] > 0 and meta[slot, NEWEST] <= horizon:
            found[count] = slot
            count += 1
    return found[:count]


@njit(cache=True)
def forget(arena: Int64s, meta: Int64s, ctl: Int64s, dirty: Int64s, slots: Int64s) -> None:
    """Give back the rings of `slots`, blank their lines, and take them off the dirty list."""
    for index in range(slots.shape[0]):
        line = meta[slots[index]]
        release(arena, ctl, line[BASE], line[CAP])
        line[:] = 0
    kept = 0
    for index in range(ctl[DIRTY_COUNT]):
        if meta[dirty[index], CAP] > 0:
            dirty[kept] = dirty[index]
            kept += 1
    ctl[DIRTY_COUNT] = kept


@njit(cache=True)
def repack(arena: Int64s, meta: Int64s, ctl: Int64s, used: Integer, fresh: Int64s) -> None:
    """Move every ring of the first `used` slots into `fresh`, one behind the other; what was free is gone. `fresh`
    has room for ARENA_USED − FREE_ROWS."""
    at = 0
    for slot in range(used):
        line = meta[slot]
        capacity = line[CAP]
        if capacity > 0:
            fresh[at : at + capacity] = arena[line[BASE] : line[BASE] + capacity]
            line[BASE] = at
            at += capacity
    ctl[FREE_LISTS:] = -1
    ctl[FREE_ROWS] = 0
    ctl[ARENA_USED] = at
