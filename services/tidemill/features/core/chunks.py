"""The window engine's changelog, written: rings to chunk records. `chunkreader` makes rings of them again.

The rows of a key are cut in *arrival* order into chunks of CHUNK_ROWS, so a late row or a label changes the newest
chunk only, however far back in time it lands. A record never holds more than the rows that still live.

    words, little-endian: VERSION | flags << 8 | (rows − 1) << 12 | columns << 16, fingerprint, first ts (2 words); with
    WIDE_VALUES a bit a column, ⌈columns / 32⌉ words, that says which columns are wide; then per row the ts offset (1
    word, or 2 with WIDE_TIMES) and the id hash (2); then per row a byte, arrival & 15 | label << 4 (a record of a
    second stream is a label here, told by its columns); then per row the values from column LABEL on (1 word each, or 2
    of a wide column). WEIGHT follows from the label bit.

Merged rows (`merging`) have chunks of their own, whose numbers begin at MERGED_CHUNKS and whose values, with WEIGHTS,
begin at column WEIGHT. A chunk of plain rows may still hold some that have been merged since: they are no newer than
the newest merged row, which is how a reader knows them.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tidemill.features.core.merging import MERGED_FIRST, MERGED_NEXT, MERGED_SAVED, first_plain
from tidemill.features.core.rings import (
    ARRIVAL,
    BASE,
    CAP,
    DIRTY_COUNT,
    FIRST_CHUNK,
    HEAD,
    ID,
    LABEL,
    PREFIX,
    SAVED,
    SEQUENCE,
    TAIL,
    TS,
    WEIGHT,
    Int64s,
    Integer,
    value_at,
)

CHUNK_ROWS = 16
CHUNK_HEADER = 4
CHUNK_VERSION = 2
MERGED_CHUNKS = 1 << 31
WIDE_VALUES, WIDE_TIMES, WEIGHTS = 1, 2, 4
PACK_SLOT, PACK_CHUNK, PACK_START, PACK_END, PACK_WIDTH = 0, 1, 2, 3, 4

Words = NDArray[np.uint32]


@njit(cache=True)
def mask_words(columns: Integer) -> Integer:
    return (columns + 31) >> 5


@njit(cache=True)
def is_wide(words: Words, mask: Integer, column: Integer) -> bool:
    """Whether the column takes two words, by the bits that begin at `mask`."""
    return bool(((np.int64(words[mask + (column >> 5)]) >> (column & 31)) & 1) == 1)


@njit(cache=True)
def pack_bounds(
    meta: Int64s, ctl: Int64s, dirty: Int64s, columns: Integer, merging: Integer
) -> tuple[Integer, Integer]:
    """(records, words) that `pack` may write at most."""
    records, chunks = 0, 0
    for index in range(ctl[DIRTY_COUNT]):
        line = meta[dirty[index]]
        last = (line[SEQUENCE] - 1) // CHUNK_ROWS
        records += last - line[FIRST_CHUNK] + 1
        chunks += last - line[SAVED] // CHUNK_ROWS + 1
        if merging:
            last = line[MERGED_NEXT] // CHUNK_ROWS
            records += last - line[MERGED_FIRST] + 1
            chunks += last - line[MERGED_SAVED] // CHUNK_ROWS + 1
    widest = CHUNK_HEADER + mask_words(columns) + CHUNK_ROWS * (4 + 2 * columns) + CHUNK_ROWS // 4
    return records, chunks * widest


@njit(cache=True)
def _write(words: Words, at: Integer, value: Integer, wide: bool) -> Integer:
    words[at] = np.uint32(value & 0xFFFFFFFF)
    if not wide:
        return at + 1
    words[at + 1] = np.uint32((value >> 32) & 0xFFFFFFFF)
    return at + 2


@njit(cache=True)
def _find(arena: Int64s, line: Int64s, chunk: Integer, places: Int64s) -> Integer:
    """Set `places` to the positions of the live rows of one chunk in arrival order, −1 where none lives; how many."""
    base, mask = line[BASE], line[CAP] - 1
    first = chunk * CHUNK_ROWS
    wanted = min(line[SEQUENCE] - first, CHUNK_ROWS)
    places[:] = -1
    rows = 0
    position = line[HEAD] - 1
    while rows < wanted and position >= line[TAIL]:
        within = (arena[base + (position & mask), ARRIVAL] >> 1) - first
        if 0 <= within < CHUNK_ROWS:
            places[within] = position
            rows += 1
        position -= 1
    return rows


@njit(cache=True)
def _find_merged(line: Int64s, chunk: Integer, plain: Integer, places: Int64s) -> Integer:
    """The same for a chunk of merged rows, which end before position `plain`."""
    places[:] = -1
    rows = 0
    for within in range(CHUNK_ROWS):
        behind = line[MERGED_NEXT] - (chunk * CHUNK_ROWS + within)
        if 0 < behind <= plain - line[TAIL]:
            places[within] = plain - behind
            rows += 1
    return rows


@njit(cache=True)
def _write_rows(
    arena: Int64s,
    line: Int64s,
    columns: Integer,
    lowest: Integer,
    fingerprint: Integer,
    places: Int64s,
    held: Int64s,
    rows: Integer,
    words: Words,
    at: Integer,
) -> Integer:
    """Write the `rows` rows at `places` with their values from column `lowest` on; returns the end. `held` is scratch,
    a line a place."""
    base, mask = line[BASE], line[CAP] - 1
    flags = WEIGHTS if lowest == WEIGHT else 0
    wide = at + CHUNK_HEADER
    for word in range(mask_words(columns)):
        words[wide + word] = np.uint32(0)
    origin = np.int64(0x7FFFFFFFFFFFFFFF)
    latest = -origin
    for within in range(CHUNK_ROWS):
        position = places[within]
        if position < 0:
            continue
        ts = arena[base + (position & mask), TS]
        origin = min(origin, ts)
        latest = max(latest, ts)
        for column in range(lowest, columns):
            value = value_at(arena, line, position, column)
            held[within, column] = value
            if value > 0x7FFFFFFF or value < -0x80000000:
                flags |= WIDE_VALUES
                at_word = wide + (column >> 5)
                words[at_word] = np.uint32(np.int64(words[at_word]) | (1 << (column & 31)))
    if latest - origin > 0xFFFFFFFF:
        flags |= WIDE_TIMES
    wide_times = (flags & WIDE_TIMES) != 0
    at = _write(words, at, CHUNK_VERSION | (flags << 8) | ((rows - 1) << 12) | (columns << 16), False)
    at = _write(words, at, fingerprint, False)
    at = _write(words, at, origin, True)
    if flags & WIDE_VALUES:
        at += mask_words(columns)
    else:
        wide = -1
    packed, packed_count = 0, 0
    arrivals = at + rows * (4 if wide_times else 3)
    values = arrivals + (rows + 3) // 4
    for within in range(CHUNK_ROWS):
        position = places[within]
        if position < 0:
            continue
        place = base + (position & mask)
        at = _write(words, at, arena[place, TS] - origin, wide_times)
        at = _write(words, at, arena[place, ID], True)
        packed |= (within | ((arena[place, ARRIVAL] & 1) << 4)) << (8 * (packed_count & 3))
        packed_count += 1
        if (packed_count & 3) == 0 or packed_count == rows:
            words[arrivals] = np.uint32(packed)
            arrivals += 1
            packed = 0
        for column in range(lowest, columns):
            value = held[within, column]
            if wide < 0:
                words[values] = np.uint32(value & 0xFFFFFFFF)
                values += 1
            else:
                values = _write(words, values, value, is_wide(words, wide, column))
    return values


@njit(cache=True)
def _lowest_arrival(arena: Int64s, line: Int64s, start: Integer, ahead: Integer) -> Integer:
    """The lowest sequence number among the rows from `start` on."""
    base, mask = line[BASE], line[CAP] - 1
    lowest = line[SEQUENCE]
    # What came before an event is newer than it by `ahead` at most: no need to look further than that.
    furthest = np.int64(0x7FFFFFFFFFFFFFFF)
    for position in range(start, line[HEAD]):
        place = base + (position & mask)
        if arena[place, TS] > furthest:
            break
        arrival = arena[place, ARRIVAL]
        if (arrival >> 1) < lowest:
            lowest = arrival >> 1
            if (arrival & 1) == 0:
                furthest = arena[place, TS] + ahead
    return lowest


@njit(cache=True)
def _name(records: Int64s, written: Integer, slot: Integer, chunk: Integer, start: Integer, end: Integer) -> Integer:
    records[written, PACK_SLOT] = slot
    records[written, PACK_CHUNK] = chunk
    records[written, PACK_START] = start
    records[written, PACK_END] = end
    return written + 1


@njit(cache=True)
def _pack_merged(
    arena: Int64s,
    line: Int64s,
    slot: Integer,
    fingerprint: Integer,
    places: Int64s,
    held: Int64s,
    records: Int64s,
    written: Integer,
    words: Words,
    at: Integer,
) -> tuple[Integer, Integer]:
    """Chunks of merged rows that changed or went; returns (lines of `records`, words) written so far."""
    plain = first_plain(arena, line)
    alive = line[MERGED_NEXT] - (plain - line[TAIL])
    if plain == line[TAIL] and line[MERGED_NEXT] % CHUNK_ROWS != 0:
        # None is left: the next one begins a chunk, so that the last chunk can be deleted now.
        line[MERGED_NEXT] += CHUNK_ROWS - line[MERGED_NEXT] % CHUNK_ROWS
        alive = line[MERGED_NEXT]
    first = alive // CHUNK_ROWS
    saved = line[MERGED_SAVED]
    for chunk in range(line[MERGED_FIRST], min(first, (saved + CHUNK_ROWS - 1) // CHUNK_ROWS)):
        written = _name(records, written, slot, MERGED_CHUNKS + chunk, at, at)
    line[MERGED_FIRST] = first
    if line[MERGED_NEXT] > saved:
        columns = arena.shape[1] - PREFIX
        for chunk in range(max(first, saved // CHUNK_ROWS), (line[MERGED_NEXT] - 1) // CHUNK_ROWS + 1):
            rows = _find_merged(line, chunk, plain, places)
            end = _write_rows(arena, line, columns, WEIGHT, fingerprint, places, held, rows, words, at)
            written = _name(records, written, slot, MERGED_CHUNKS + chunk, at, end)
            at = end
    line[MERGED_SAVED] = line[MERGED_NEXT]
    return written, at


@njit(cache=True)
def pack(
    arena: Int64s,
    meta: Int64s,
    ctl: Int64s,
    dirty: Int64s,
    fingerprint: Integer,
    ahead: Integer,
    merging: Integer,
    records: Int64s,
    words: Words,
) -> Integer:
    """Write the chunks that changed since the last call, and name those whose rows have all expired or been merged.

    A line of `records` is (slot, chunk, start, end) in words; start = end is a chunk to delete. Clears the dirty list
    and returns the number of lines. The caller sizes both buffers by `pack_bounds`. `ahead` is how much newer than an
    event a row may be that came before it: the lateness, and the lead of streams. `merging` is 1 where the stage merges
    rows, else 0.
    """
    columns = arena.shape[1] - PREFIX
    places = np.empty(CHUNK_ROWS, np.int64)
    held = np.empty((CHUNK_ROWS, columns), np.int64)
    written, at = 0, 0
    for index in range(ctl[DIRTY_COUNT]):
        slot = dirty[index]
        line = meta[slot]
        oldest = line[SAVED] // CHUNK_ROWS
        last = (line[SEQUENCE] - 1) // CHUNK_ROWS
        if line[SAVED] % CHUNK_ROWS == 0 or last > oldest:
            # A chunk was opened: the moment to look for the ones that nothing lives in any more.
            start = first_plain(arena, line) if merging else line[TAIL]
            alive = _lowest_arrival(arena, line, start, ahead) // CHUNK_ROWS
            for chunk in range(line[FIRST_CHUNK], min(alive, oldest + 1)):
                written = _name(records, written, slot, chunk, at, at)
            line[FIRST_CHUNK] = alive
            oldest = max(oldest, alive)
        if merging:
            written, at = _pack_merged(arena, line, slot, fingerprint, places, held, records, written, words, at)
        for chunk in range(oldest, last + 1):
            rows = _find(arena, line, chunk, places)
            end = at
            if rows > 0:
                end = _write_rows(arena, line, columns, LABEL, fingerprint, places, held, rows, words, at)
            written = _name(records, written, slot, chunk, at, end)
            at = end
        line[SAVED] = line[SEQUENCE]
    ctl[DIRTY_COUNT] = 0
    return written
