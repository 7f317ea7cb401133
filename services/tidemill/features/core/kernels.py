"""The compiled heart of the window engine: rows in, and the features they give, by differences of prefix sums.

numba recompiles a cached kernel when its own file changes, not when one it imports does: the cache folder is therefore
named by the digest of all kernel sources (`kernel_cache.py`).

What a stage computes, all int64 and made by `definition.compile_stage`:

    edges [E, 3]  an edge of windows, seen from an event at t: rows newer than t − DELAY, or with a GRID, newer than
                  the last multiple of it at or before t − DELAY, less BACK. Plain edges come first, by DELAY
    walks [W, …]  windows whose far edge is walked to (`scan.walk`); number E + w among the edges of a feature
    spec  [F, …]  a line a feature: OP, edges NEAR and FAR (rows newer than FAR that are not newer than NEAR), value
                  COLUMN, its SCALE, the column of rows TAKEN, one OTHER number, and OUT, the first column it fills
    scans [S, …]  the same for features that look at rows (`scan.scan`)
    gates [V]     for a column of filtered labels the column of rows taken, else −1
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tidemill.features.core.merging import BUCKET, is_full, settle
from tidemill.features.core.rings import (
    ARRIVAL,
    BASE,
    CAP,
    CAP_MET,
    DIRTY_COUNT,
    FIXED,
    HEAD,
    HELD_KEYS,
    HELD_ROWS,
    ID,
    KEYS_EXPIRE,
    LABEL,
    LATENESS,
    LEAD,
    NEWEST,
    NEWEST_SEEN,
    NEXT_EXPIRY,
    NOT_A_LABEL,
    NUMBERS,
    OF_A_STREAM,
    PREFIX,
    RETENTION,
    SAVED,
    SEQUENCE,
    STOPPED,
    TAIL,
    TS,
    Floats,
    Int64s,
    Integer,
    make_room,
    narrow,
    prefix_sum,
    store,
    trim,
    upper_bound,
    value_at,
    weigh,
)
from tidemill.features.core.scan import (
    EDGE_BACK,
    EDGE_DELAY,
    EDGE_GRID,
    SPEC_COLUMN,
    SPEC_FAR,
    SPEC_NEAR,
    SPEC_OP,
    SPEC_OUT,
    SPEC_SCALE,
    SPEC_TAKEN,
    scan,
    walk,
)

OP_COUNT, OP_SUM, OP_MEAN, OP_LABEL_RATE, OP_SHARE = range(5)

ACCEPTED, LATE, DUPLICATE, LABEL_ACCEPTED, LABEL_UNMATCHED, LABEL_DUPLICATE = 0, 1, 2, 3, 4, 5
STREAM_ACCEPTED, STREAM_LATE, STREAM_DUPLICATE, STREAM_PASSED = 6, 7, 8, 9
STATUSES = 10


@njit(cache=True)
def _mark_dirty(line: Int64s, ctl: Int64s, dirty: Int64s, slot: Integer) -> None:
    if line[SAVED] == line[SEQUENCE]:
        dirty[ctl[DIRTY_COUNT]] = slot
        ctl[DIRTY_COUNT] += 1


@njit(cache=True)
def _aggregate(arena: Int64s, line: Int64s, spec: Int64s, at: Int64s, out: Floats) -> None:
    """Each feature is one correctly rounded division of two integers, so it has the same bits everywhere."""
    for feature in range(spec.shape[0]):
        near, far = at[spec[feature, SPEC_NEAR]], at[spec[feature, SPEC_FAR]]
        operation = spec[feature, SPEC_OP]
        column = spec[feature, SPEC_COLUMN]
        scale = spec[feature, SPEC_SCALE]
        target = spec[feature, SPEC_OUT]
        taken = spec[feature, SPEC_TAKEN]
        count = prefix_sum(arena, line, near, taken) - prefix_sum(arena, line, far, taken)
        if operation == OP_COUNT:
            out[target] = float(count)
            continue
        total = prefix_sum(arena, line, near, column) - prefix_sum(arena, line, far, column)
        if operation == OP_SUM:
            out[target] = float(total) / float(scale)
        elif operation == OP_MEAN:
            out[target] = float(total) / float(count * scale) if count > 0 else np.nan
        elif operation == OP_LABEL_RATE:
            out[target] = float(total) / float(count) if count > 0 else 0.0
        else:
            out[target] = float(total) / float(count) if count > 0 else np.nan


@njit(cache=True)
def _join(
    arena: Int64s,
    line: Int64s,
    ctl: Int64s,
    dirty: Int64s,
    slot: Integer,
    limits: Int64s,
    bounds: Int64s | None,
    ts: Integer,
    identity: Integer,
    numbers: Int64s,
) -> Integer:
    """Insert a record of a second stream, which moves the time of its key as an event LEAD before it would.

    Returns its status, or −1 when space must be made first, as for `slide`. Late is what no event still accepted can
    look back to.
    """
    columns = arena.shape[1] - PREFIX
    fresh = line[HEAD] == line[TAIL]
    if not fresh and ts <= line[NEWEST] - limits[RETENTION]:
        return STREAM_LATE
    if fresh or ts - limits[LEAD] > line[NEWEST]:
        line[NEWEST] = ts - limits[LEAD]
        tail = line[TAIL]
        trim(arena, line, limits[RETENTION])
        if bounds is not None:
            ctl[HELD_ROWS] -= line[TAIL] - tail
        narrow(arena, line, ctl)
    base, mask, head = line[BASE], line[CAP] - 1, line[HEAD]
    position = upper_bound(arena, base, mask, line[TAIL], head, ts - 1)
    while position < head:
        place = base + (position & mask)
        if arena[place, TS] != ts or (arena[place, ARRIVAL] & 1) == 0:
            break
        if arena[place, ID] == identity:
            return STREAM_DUPLICATE
        position += 1
    if bounds is not None:
        new_keys = 1 if line[CAP] == 0 else 0
        if is_full(ctl, bounds, new_keys):
            ctl[STOPPED] = CAP_MET
            return -1
    if not make_room(arena, line, ctl):
        return -1
    if bounds is not None:
        ctl[HELD_ROWS] += 1
        ctl[HELD_KEYS] += new_keys
    _mark_dirty(line, ctl, dirty, slot)
    store(arena, line, columns, position, ts, identity, OF_A_STREAM, numbers)
    for column in range(NUMBERS, columns):
        weigh(arena, line, position, column, numbers[column - NUMBERS])
    return STREAM_ACCEPTED


@njit(cache=True)
def slide(
    arena: Int64s,
    meta: Int64s,
    ctl: Int64s,
    dirty: Int64s,
    edges: Int64s,
    spec: Int64s,
    walks: Int64s | None,
    scans: Int64s | None,
    gates: Int64s,
    limits: Int64s,
    bounds: Int64s | None,
    scratch: Int64s,
    slots: Int64s,
    times: Int64s,
    identities: Int64s,
    labels: Int64s,
    numbers: Int64s,
    out: Floats,
    status: NDArray[np.uint8],
    start: Integer,
) -> Integer:
    """Apply rows start… in order; `out[i]` (NaN but for an accepted event) and `status[i]` are set for each. Returns
    how far it came.

    Less than the number of rows means what ctl[STOPPED] says: see to it, blank it, and call again from there; the row
    was not put in. ARENA_FULL: make it larger. CAP_MET: evict keys. KEYS_EXPIRE: the row reaches NEXT_EXPIRY, so forget
    those that nothing looks back to. `slots[i]` is −1 for a label whose key is unknown.
    `labels[i]` is NOT_A_LABEL for an event, OF_A_STREAM for a record of a second stream. `numbers[i]` are the values of
    the columns from NUMBERS on. `walks` and `scans` are None where both are empty, `bounds` (`merging`) for a stage
    without: numba then compiles a variant without them. `scratch` is `sketches.SCRATCH` long where there are scans.
    """
    columns = arena.shape[1] - PREFIX
    count = edges.shape[0]
    at = np.empty(count if walks is None else count + walks.shape[0], np.int64)
    for row in range(start, slots.shape[0]):
        out[row] = np.nan
        slot = slots[row]
        ts = times[row]
        identity = identities[row]
        label = labels[row]
        if slot < 0:
            status[row] = LABEL_UNMATCHED
            continue
        if label < 0:
            moment = ts if label == NOT_A_LABEL else ts - limits[LEAD]
            if moment > ctl[NEWEST_SEEN]:
                ctl[NEWEST_SEEN] = moment
                if moment >= ctl[NEXT_EXPIRY]:
                    ctl[STOPPED] = KEYS_EXPIRE
                    return row
        line = meta[slot]
        base, mask, tail, head = line[BASE], line[CAP] - 1, line[TAIL], line[HEAD]

        if label == OF_A_STREAM:
            joined = _join(arena, line, ctl, dirty, slot, limits, bounds, ts, identity, numbers[row])
            if joined < 0:
                return row
            status[row] = joined
            continue

        if label != NOT_A_LABEL:
            position = upper_bound(arena, base, mask, tail, head, ts - 1)
            event, labelled, known = np.int64(-1), False, np.int64(0)
            seen = position
            while seen < head and arena[base + (seen & mask), TS] == ts:
                is_label = (arena[base + (seen & mask), ARRIVAL] & 1) == 1
                if is_label:
                    position = seen + 1
                if arena[base + (seen & mask), ID] == identity:
                    if is_label:
                        labelled = True
                        known += value_at(arena, line, seen, LABEL)
                    elif arena[base + (seen & mask), ARRIVAL] >= 0:
                        event = seen
                seen += 1
            if event < 0:
                status[row] = LABEL_UNMATCHED
            elif labelled and known == label:
                status[row] = LABEL_DUPLICATE
            elif bounds is not None and is_full(ctl, bounds, 0):
                ctl[STOPPED] = CAP_MET
                return row
            elif not make_room(arena, line, ctl):
                return row
            else:
                _mark_dirty(line, ctl, dirty, slot)
                store(arena, line, columns, position, ts, identity, label, numbers[row])
                weigh(arena, line, position, LABEL, label - known)
                for column in range(NUMBERS, columns):
                    if gates[column] >= 0:
                        # Labels stand before events, so the event moved up by the one row that was put in.
                        taken = value_at(arena, line, event + 1, gates[column])
                        weigh(arena, line, position, column, (label - known) * taken)
                if bounds is not None:
                    ctl[HELD_ROWS] += 1
                status[row] = LABEL_ACCEPTED
            continue

        in_order = head == tail or ts >= line[NEWEST]
        position = head
        if head > tail and arena[base + ((head - 1) & mask), TS] > ts:
            # Late, or in order with records of a second stream ahead of it.
            position = upper_bound(arena, base, mask, tail, head, ts)
        repeated = False
        seen = position - 1
        while seen >= tail and arena[base + (seen & mask), TS] == ts:
            place = base + (seen & mask)
            arrival = arena[place, ARRIVAL]
            # A merged row, below 0, has the id 0 and is no event's.
            if arena[place, ID] == identity and arrival >= 0 and (arrival & 1) == 0:
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
            before = line[NEWEST]
            line[NEWEST] = ts
            trim(arena, line, limits[RETENTION])
            if bounds is not None:
                if bounds[BUCKET] > 0:
                    settle(arena, line, bounds, before, ts)
                ctl[HELD_ROWS] -= line[TAIL] - tail
            narrow(arena, line, ctl)
        if bounds is not None:
            new_keys = 1 if line[CAP] == 0 else 0
            if is_full(ctl, bounds, new_keys):
                ctl[STOPPED] = CAP_MET
                return row
        if not make_room(arena, line, ctl):
            return row
        if bounds is not None:
            ctl[HELD_ROWS] += 1
            ctl[HELD_KEYS] += new_keys
        _mark_dirty(line, ctl, dirty, slot)
        store(arena, line, columns, position, ts, identity, NOT_A_LABEL, numbers[row])
        status[row] = ACCEPTED

        base, mask, tail, head = line[BASE], line[CAP] - 1, line[TAIL], line[HEAD]
        for edge in range(count):
            limit = ts - edges[edge, EDGE_DELAY]
            grid = edges[edge, EDGE_GRID]
            if grid > 0:
                limit = limit // grid * grid - edges[edge, EDGE_BACK]
            if in_order:
                cursor = max(line[FIXED + columns + edge], tail)
                while cursor < head and arena[base + (cursor & mask), TS] <= limit:
                    cursor += 1
                line[FIXED + columns + edge] = cursor
                at[edge] = cursor
            else:
                at[edge] = upper_bound(arena, base, mask, tail, head, limit)
        if walks is not None:
            walk(arena, line, edges, walks, at, ts)
        _aggregate(arena, line, spec, at, out[row])
        if scans is not None:
            scan(arena, line, edges, scans, at, ts, numbers[row], scratch, out[row])
    return slots.shape[0]
