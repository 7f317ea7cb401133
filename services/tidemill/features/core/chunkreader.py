"""The window engine's changelog, read: chunk records (format: `chunks`) to the rings that they were cut from."""

import numpy as np
from numba import njit

from tidemill.features.core.chunks import (
    CHUNK_HEADER,
    CHUNK_ROWS,
    CHUNK_VERSION,
    MERGED_CHUNKS,
    WEIGHTS,
    WIDE_TIMES,
    WIDE_VALUES,
    Words,
    is_wide,
    mask_words,
)
from tidemill.features.core.merging import MERGED_FIRST, MERGED_NEXT, MERGED_SAVED, put_merged
from tidemill.features.core.rings import (
    ARRIVAL,
    BASE,
    CAP,
    FIRST_CHUNK,
    HEAD,
    LABEL,
    LEAD,
    NEWEST,
    NOT_A_LABEL,
    NUMBERS,
    PREFIX,
    RETENTION,
    SAVED,
    SEQUENCE,
    SMALLEST_RING,
    STREAMS,
    TAIL,
    TS,
    WEIGHT,
    Int64s,
    Integer,
    allocate,
    size_class,
    store,
    trim,
    upper_bound,
    weigh,
)


@njit(cache=True)
def _read(words: Words, at: Integer, wide: bool) -> Integer:
    """One signed value."""
    low = np.int64(words[at])
    if wide:
        return low | (np.int64(words[at + 1]) << 32)
    return low - (np.int64(1) << 32) if low >= 0x80000000 else low


@njit(cache=True)
def _shape(words: Words, start: Integer, end: Integer) -> tuple[Integer, Integer]:
    """(rows, words) of the record that begins at `start` and should end at `end`, by what its head says."""
    flags = (np.int64(words[start]) >> 8) & 0xF
    rows = ((np.int64(words[start]) >> 12) & 0xF) + 1
    columns = (np.int64(words[start]) >> 16) & 0xFFFF
    lowest = WEIGHT if flags & WEIGHTS else LABEL
    row = (4 if flags & WIDE_TIMES else 3) + columns - lowest
    size = CHUNK_HEADER + (rows + 3) // 4
    if flags & WIDE_VALUES:
        size += mask_words(columns)
        if start + size > end:
            return rows, size
        for column in range(lowest, columns):
            if is_wide(words, start + CHUNK_HEADER, column):
                row += 1
    return rows, size + rows * row


@njit(cache=True)
def inspect(
    words: Words, starts: Int64s, fingerprint: Integer, columns: Integer, slots: Int64s, rows: Int64s
) -> Integer:
    """Check each record (`starts` has one entry more, the end) and add its row count to `rows[slot]`.

    Returns −1, or the index of the first record of another format or length, or −2 − index for another fingerprint.
    """
    for record in range(slots.shape[0]):
        start, end = starts[record], starts[record + 1]
        if end - start < CHUNK_HEADER or (words[start] & 0xFF) != CHUNK_VERSION:
            return record
        if np.int64(words[start + 1]) != fingerprint:
            return -2 - record
        count, size = _shape(words, start, end)
        if (words[start] >> 16) & 0xFFFF != columns or end - start != size:
            return record
        rows[slots[record]] += count
    return -1


@njit(cache=True)
def ring_capacities(rows: Int64s) -> Int64s:
    capacities = np.empty(rows.shape[0], np.int64)
    for slot in range(rows.shape[0]):
        capacities[slot] = max(SMALLEST_RING, 1 << size_class(rows[slot]))
    return capacities


@njit(cache=True)
def unpack(
    arena: Int64s,
    meta: Int64s,
    ctl: Int64s,
    limits: Int64s,
    words: Words,
    starts: Int64s,
    slots: Int64s,
    chunks: Int64s,
    capacities: Int64s,
) -> None:
    """Rebuild rings from inspected records, given in ascending chunk order for each slot, by inserting their rows in
    the order in which they first arrived; chunks of merged rows come first. The arena has room for `capacities`; every
    slot begins blank."""
    columns = arena.shape[1] - PREFIX
    held = np.zeros(columns, np.int64)
    merged_until = np.full(meta.shape[0], -0x7FFFFFFFFFFFFFFF, np.int64)
    for record in range(slots.shape[0]):
        at = starts[record]
        line = meta[slots[record]]
        flags = (np.int64(words[at]) >> 8) & 0xF
        wide_times = (flags & WIDE_TIMES) != 0
        rows = ((np.int64(words[at]) >> 12) & 0xF) + 1
        origin = _read(words, at + 2, True)
        if line[CAP] == 0:
            line[CAP] = capacities[slots[record]]
            line[BASE] = allocate(arena, ctl, line[CAP])
        merged = (flags & WEIGHTS) != 0
        lowest = WEIGHT if merged else LABEL
        if merged and line[MERGED_NEXT] == 0:
            line[MERGED_FIRST] = chunks[record] - MERGED_CHUNKS
        elif not merged and line[SAVED] == 0:
            line[FIRST_CHUNK] = chunks[record]
        at += CHUNK_HEADER
        wide = np.int64(-1)
        if flags & WIDE_VALUES:
            wide = at
            at += mask_words(columns)
        arrivals = at + rows * (4 if wide_times else 3)
        values = arrivals + (rows + 3) // 4
        for row in range(rows):
            if wide_times:
                ts = origin + _read(words, at, True)
                at += 2
            else:
                ts = origin + np.int64(words[at])
                at += 1
            identity = _read(words, at, True)
            at += 2
            arrival = (np.int64(words[arrivals + row // 4]) >> (8 * (row & 3))) & 0xFF
            for column in range(lowest, columns):
                two_words = bool(wide >= 0 and is_wide(words, wide, column))
                held[column - lowest] = _read(words, values, two_words)
                values += 2 if two_words else 1
            if merged:
                put_merged(arena, line, columns, ts, held)
                line[MERGED_NEXT] = (chunks[record] - MERGED_CHUNKS) * CHUNK_ROWS + (arrival & 15) + 1
                line[MERGED_SAVED] = line[MERGED_NEXT]
                line[SEQUENCE] = 0
                merged_until[slots[record]] = ts
                continue
            if ts <= merged_until[slots[record]]:
                # Merged since its chunk was written.
                line[SEQUENCE] = chunks[record] * CHUNK_ROWS + (arrival & 15) + 1
                line[SAVED] = line[SEQUENCE]
                continue
            base, mask, tail, head = line[BASE], line[CAP] - 1, line[TAIL], line[HEAD]
            line[SEQUENCE] = chunks[record] * CHUNK_ROWS + (arrival & 15)
            if arrival & 16:
                position = upper_bound(arena, base, mask, tail, head, ts - 1)
                while (
                    position < head
                    and arena[base + (position & mask), TS] == ts
                    and (arena[base + (position & mask), ARRIVAL] & 1) == 1
                ):
                    position += 1
                for column in range(NUMBERS, NUMBERS + limits[STREAMS]):
                    if held[column - LABEL] != 0 and (head == tail or ts - limits[LEAD] > line[NEWEST]):
                        line[NEWEST] = ts - limits[LEAD]
                store(arena, line, columns, position, ts, identity, 0, held)
                for column in range(LABEL, columns):
                    weigh(arena, line, position, column, held[column - LABEL])
            else:
                position = upper_bound(arena, base, mask, tail, head, ts)
                if head == tail or ts >= line[NEWEST]:
                    line[NEWEST] = ts
                store(arena, line, columns, position, ts, identity, NOT_A_LABEL, held[NUMBERS - LABEL :])
            line[SAVED] = line[SEQUENCE]
    for slot in range(meta.shape[0]):
        if meta[slot, CAP] > 0:
            trim(arena, meta[slot], limits[RETENTION])
