"""Bounded state in the kernels: settled rows of a key merged into one row a cell, and caps on what is held.

A merged row has the ARRIVAL of MERGED, the id 0, the time of the newest row it was made of, and the sum of all its
rows in every column. Merged rows are the oldest of their ring and of one piece: a merge takes every settled row, and
nothing is put in before a settled one. They are numbered on their own, in order of time, so that their chunks are of
one piece too. At the end of a line: MERGED_NEXT, the number that the next one gets; MERGED_SAVED, those below are in
the changelog; MERGED_FIRST, the first chunk of them that may be there.

    bounds [8]  BUCKET ms (0: nothing is merged), SETTLED_AFTER ms, MOST_ROWS of a key that are left alone;
                CAP_KEYS and CAP_BYTES of the partition, ROW_BYTES, KEY_BYTES, and SPARED: keys that may pass the caps

When merges happen, and when a cap is met, follows from the key's and the partition's rows in their order, never from
batches.
"""

from numba import njit

from tidemill.features.core.rings import (
    ARRIVAL,
    BASE,
    CAP,
    HEAD,
    HELD_KEYS,
    HELD_ROWS,
    ID,
    PREFIX,
    TAIL,
    TS,
    Int64s,
    Integer,
    insert,
    upper_bound,
    weigh,
)

BUCKET, SETTLED_AFTER, MOST_ROWS, CAP_KEYS, CAP_BYTES, ROW_BYTES, KEY_BYTES, SPARED, BOUNDS = range(9)

MERGED = -2
"""Even, so that it is no label's, and below the arrival of any row that came."""

MERGED_WORDS = 3
MERGED_NEXT, MERGED_SAVED, MERGED_FIRST = -3, -2, -1


@njit(cache=True)
def first_plain(arena: Int64s, line: Int64s) -> Integer:
    """The first position whose row is not merged."""
    base, mask = line[BASE], line[CAP] - 1
    low, high = line[TAIL], line[HEAD]
    while low < high:
        middle = (low + high) >> 1
        if arena[base + (middle & mask), ARRIVAL] == MERGED:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True)
def _merge(arena: Int64s, line: Int64s, bucket: Integer, before: Integer) -> None:
    """Merge the rows older than `before`, a multiple of `bucket`, that are not merged yet."""
    base, mask, head = line[BASE], line[CAP] - 1, line[HEAD]
    start = first_plain(arena, line)
    end = upper_bound(arena, base, mask, start, head, before - 1)
    target, position = start, start
    while position < end:
        place = base + (target & mask)
        cell = arena[base + (position & mask), TS] // bucket
        # The prefix sums of a cell's first row are those of the cell.
        arena[place, PREFIX:] = arena[base + (position & mask), PREFIX:]
        while position < end and arena[base + (position & mask), TS] // bucket == cell:
            arena[place, TS] = arena[base + (position & mask), TS]
            position += 1
        arena[place, ID] = 0
        arena[place, ARRIVAL] = MERGED
        target += 1
    gap = end - target
    if gap > 0:
        # Up to where the plain rows begin. A cursor that stays behind is a lower bound still.
        for moving in range(target - 1, line[TAIL] - 1, -1):
            arena[base + ((moving + gap) & mask)] = arena[base + (moving & mask)]
        line[TAIL] += gap
    line[MERGED_NEXT] += target - start


@njit(cache=True)
def settle(arena: Int64s, line: Int64s, bounds: Int64s, before: Integer, newest: Integer) -> None:
    """Merge what has settled, now that the key's newest event moved on from `before` to `newest`: looked at whenever
    another cell has, and done where the key holds more than MOST_ROWS."""
    bucket, after = bounds[BUCKET], bounds[SETTLED_AFTER]
    cell = (newest - after) // bucket
    if line[HEAD] - line[TAIL] > bounds[MOST_ROWS] and cell > (before - after) // bucket:
        _merge(arena, line, bucket, cell * bucket)


@njit(cache=True)
def put_merged(arena: Int64s, line: Int64s, columns: Integer, ts: Integer, values: Int64s) -> None:
    """Put a merged row of `values` behind all others; the ring has room."""
    position = line[HEAD]
    place = insert(arena, line, columns, position, ts, 0, 0)
    arena[place, ARRIVAL] = MERGED
    for column in range(columns):
        weigh(arena, line, position, column, values[column])


@njit(cache=True)
def is_full(ctl: Int64s, bounds: Int64s, new_keys: Integer) -> bool:
    """Whether one more row, of a key that is new or not, would pass a cap."""
    keys = ctl[HELD_KEYS] + new_keys
    size = (ctl[HELD_ROWS] + 1) * bounds[ROW_BYTES] + keys * bounds[KEY_BYTES]
    return bool(ctl[HELD_KEYS] >= bounds[SPARED] and (keys > bounds[CAP_KEYS] or size > bounds[CAP_BYTES]))
