"""The compiled half of the window engine: rings of rows a key, prefix sums over them, and the features they give.

numba recompiles a cached kernel when its own file changes, not when one it imports does: the cache folder is therefore
named by the digest of all kernel sources (`kernel_cache.py`), and whatever runs once a row stands in this one file.

State of one (stage, partition), all int64 and owned by `engine.WindowEngine`:

    arena [N, PREFIX + V]   rows of all rings: TS ms | ID hash | ARRIVAL = sequence << 1 | is label | one exclusive
                            prefix sum a value column, mod 2^64. Column WEIGHT counts events, LABEL sums labels,
                            the rest are number fields in fixed point
    meta  [K, FIXED + V + E] one line a key: the columns BASE…FIXED, V running totals, one cursor an edge
    ctl   [64]              ARENA_USED, DIRTY_COUNT, then one free list of rings a power of two, linked through TS
    edges [E]               ascending offsets from an event's time; a window (t − edge b, t − edge a] needs two

Invariants: TAIL ≤ HEAD ≤ TAIL + CAP, CAP is 0 or a power of two, timestamps never decrease in a ring, labels stand
before events of equal time, prefix(i + 1) − prefix(i) = value(i) with prefix(HEAD) = total. A cursor is a lower bound
for the next event in order, never state. What a ring holds is a function of its key's own records in arrival order.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Integer = Any  # int64 in machine code; int or np.int64 where numba is switched off
Int64s = NDArray[np.int64]

TS, ID, ARRIVAL, PREFIX = 0, 1, 2, 3
WEIGHT, LABEL, NUMBERS = 0, 1, 2

BASE, CAP, TAIL, HEAD, NEWEST, SEQUENCE, FIRST_CHUNK, SAVED, FIXED = 0, 1, 2, 3, 4, 5, 6, 7, 8

ARENA_USED, DIRTY_COUNT, FREE_LISTS = 0, 1, 8
CTL_SIZE = 64
SMALLEST_RING = 4

OP_COUNT, OP_SUM, OP_MEAN, OP_LABEL_RATE = 0, 1, 2, 3
SPEC_OP, SPEC_NEAR, SPEC_FAR, SPEC_COLUMN, SPEC_SCALE, SPEC_WIDTH = 0, 1, 2, 3, 4, 5

LATENESS, RETENTION, LIMITS = 0, 1, 2

ACCEPTED, LATE, DUPLICATE, LABEL_ACCEPTED, LABEL_UNMATCHED, LABEL_DUPLICATE = 0, 1, 2, 3, 4, 5

NOT_A_LABEL = -1


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
        return free
    start = ctl[ARENA_USED]
    if start + capacity > arena.shape[0]:
        return -1
    ctl[ARENA_USED] = start + capacity
    return start


@njit(cache=True)
def _release(arena: Int64s, ctl: Int64s, base: Integer, capacity: Integer) -> None:
    level = FREE_LISTS + size_class(capacity)
    arena[base, TS] = ctl[level]
    ctl[level] = base


@njit(cache=True)
def _make_room(arena: Int64s, meta: Int64s, ctl: Int64s, slot: Integer) -> bool:
    """See that the ring of `slot` can take one more row; False when the arena must grow first."""
    line = meta[slot]
    capacity, tail, head = line[CAP], line[TAIL], line[HEAD]
    if head - tail < capacity:
        return True
    wider = max(SMALLEST_RING, 2 * capacity)
    base = allocate(arena, ctl, wider)
    if base < 0:
        return False
    old = line[BASE]
    for position in range(tail, head):
        arena[base + (position & (wider - 1))] = arena[old + (position & (capacity - 1))]
    if capacity > 0:
        _release(arena, ctl, old, capacity)
    line[BASE] = base
    line[CAP] = wider
    return True


@njit(cache=True)
def _insert(
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
    """Insert an event (label NOT_A_LABEL) or a label row of value `label`; the ring has room."""
    if label == NOT_A_LABEL:
        _insert(arena, line, columns, position, ts, identity, 0)
        weigh(arena, line, position, WEIGHT, 1)
        for column in range(NUMBERS, columns):
            weigh(arena, line, position, column, numbers[column - NUMBERS])
    else:
        _insert(arena, line, columns, position, ts, identity, 1)


@njit(cache=True)
def _mark_dirty(line: Int64s, ctl: Int64s, dirty: Int64s, slot: Integer) -> None:
    if line[SAVED] == line[SEQUENCE]:
        dirty[ctl[DIRTY_COUNT]] = slot
        ctl[DIRTY_COUNT] += 1


@njit(cache=True)
def prefix_sum(arena: Int64s, line: Int64s, position: Integer, column: Integer) -> Integer:
    if position == line[HEAD]:
        return line[FIXED + column]
    return arena[line[BASE] + (position & (line[CAP] - 1)), PREFIX + column]


@njit(cache=True)
def _aggregate(arena: Int64s, line: Int64s, spec: Int64s, at: Int64s, out: NDArray[np.float64]) -> None:
    """Each feature is one correctly rounded division of two integers, so it has the same bits everywhere."""
    for feature in range(spec.shape[0]):
        near, far = at[spec[feature, SPEC_NEAR]], at[spec[feature, SPEC_FAR]]
        operation = spec[feature, SPEC_OP]
        column = spec[feature, SPEC_COLUMN]
        scale = spec[feature, SPEC_SCALE]
        count = prefix_sum(arena, line, near, WEIGHT) - prefix_sum(arena, line, far, WEIGHT)
        if operation == OP_COUNT:
            out[feature] = float(count)
            continue
        total = prefix_sum(arena, line, near, column) - prefix_sum(arena, line, far, column)
        if operation == OP_SUM:
            out[feature] = float(total) / float(scale)
        elif operation == OP_MEAN:
            out[feature] = float(total) / float(count * scale) if count > 0 else np.nan
        else:
            out[feature] = float(total) / float(count) if count > 0 else 0.0


@njit(cache=True)
def slide(
    arena: Int64s,
    meta: Int64s,
    ctl: Int64s,
    dirty: Int64s,
    edges: Int64s,
    spec: Int64s,
    limits: Int64s,
    slots: Int64s,
    times: Int64s,
    identities: Int64s,
    labels: Int64s,
    numbers: Int64s,
    out: NDArray[np.float64],
    status: NDArray[np.uint8],
    start: Integer,
) -> Integer:
    """Apply rows start… in order; `out[i]` and `status[i]` are set for each. Returns how far it came.

    Less than the number of rows means that the arena is full: double it and call again from there; nothing of that
    row was applied. `slots[i]` is −1 for a label whose key is unknown. `labels[i]` is NOT_A_LABEL for an event.
    """
    columns = arena.shape[1] - PREFIX
    count = edges.shape[0]
    at = np.empty(count, np.int64)
    for row in range(start, slots.shape[0]):
        slot = slots[row]
        ts = times[row]
        identity = identities[row]
        label = labels[row]
        if slot < 0:
            status[row] = LABEL_UNMATCHED
            continue
        line = meta[slot]
        base, mask, tail, head = line[BASE], line[CAP] - 1, line[TAIL], line[HEAD]

        if label != NOT_A_LABEL:
            position = upper_bound(arena, base, mask, tail, head, ts - 1)
            matched, labelled, known = False, False, np.int64(0)
            seen = position
            while seen < head and arena[base + (seen & mask), TS] == ts:
                is_label = (arena[base + (seen & mask), ARRIVAL] & 1) == 1
                if is_label:
                    position = seen + 1
                if arena[base + (seen & mask), ID] == identity:
                    if is_label:
                        labelled = True
                        known += prefix_sum(arena, line, seen + 1, LABEL) - prefix_sum(arena, line, seen, LABEL)
                    else:
                        matched = True
                seen += 1
            if not matched:
                status[row] = LABEL_UNMATCHED
            elif labelled and known == label:
                status[row] = LABEL_DUPLICATE
            elif not _make_room(arena, meta, ctl, slot):
                return row
            else:
                _mark_dirty(line, ctl, dirty, slot)
                store(arena, line, columns, position, ts, identity, label, numbers[row])
                weigh(arena, line, position, LABEL, label - known)
                status[row] = LABEL_ACCEPTED
            continue

        in_order = head == tail or ts >= line[NEWEST]
        position = head if in_order else upper_bound(arena, base, mask, tail, head, ts)
        repeated = False
        seen = position - 1
        while seen >= tail and arena[base + (seen & mask), TS] == ts:
            place = base + (seen & mask)
            if arena[place, ID] == identity and (arena[place, ARRIVAL] & 1) == 0:
                repeated = True
                break
            seen -= 1
        if repeated:
            status[row] = DUPLICATE
            continue
        if not in_order and ts < line[NEWEST] - limits[LATENESS]:
            status[row] = LATE
            continue
        if in_order:
            line[NEWEST] = ts
            trim(arena, line, limits[RETENTION])
        if not _make_room(arena, meta, ctl, slot):
            return row
        _mark_dirty(line, ctl, dirty, slot)
        store(arena, line, columns, position, ts, identity, NOT_A_LABEL, numbers[row])
        status[row] = ACCEPTED

        base, mask, tail, head = line[BASE], line[CAP] - 1, line[TAIL], line[HEAD]
        for edge in range(count):
            limit = ts - edges[edge]
            if in_order:
                cursor = max(line[FIXED + columns + edge], tail)
                while cursor < head and arena[base + (cursor & mask), TS] <= limit:
                    cursor += 1
                line[FIXED + columns + edge] = cursor
                at[edge] = cursor
            else:
                at[edge] = upper_bound(arena, base, mask, tail, head, limit)
        _aggregate(arena, line, spec, at, out[row])
    return slots.shape[0]


@njit(cache=True)
def expired(meta: Int64s, used: Integer, horizon: Integer) -> Int64s:
    """The slots of keys that saw their newest event at or before `horizon`."""
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
        _release(arena, ctl, line[BASE], line[CAP])
        line[:] = 0
    kept = 0
    for index in range(ctl[DIRTY_COUNT]):
        if meta[dirty[index], CAP] > 0:
            dirty[kept] = dirty[index]
            kept += 1
    ctl[DIRTY_COUNT] = kept


@njit(cache=True)
def hash_ids(text: NDArray[np.uint8], ends: Int64s, out: NDArray[np.uint64]) -> None:
    """64-bit FNV-1a of each id, finished by murmur's mixer; id i is text[ends[i − 1]:ends[i]]."""
    start = 0
    for index in range(ends.shape[0]):
        value = np.uint64(0xCBF29CE484222325)
        for at in range(start, ends[index]):
            value = (value ^ np.uint64(text[at])) * np.uint64(0x100000001B3)
        value ^= value >> np.uint64(33)
        value *= np.uint64(0xFF51AFD7ED558CCD)
        value ^= value >> np.uint64(33)
        out[index] = value
        start = ends[index]
