"""The window engine: the keyed rows of one (stage, partition), and the features of each event that arrives.

Same records in the same order give the same bits, however they were batched and wherever the engine was restored:
values are integers, window sums are differences of prefix sums, and each feature is one rounded division. Keys are
forgotten only where the *log* says so. Not thread-safe; the owner thread calls it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import StateCorrupt
from tidemill.features.core import bounds, chunkreader, chunks, kernels, merging, rings, sketches
from tidemill.features.core.definition import StageDefinition
from tidemill.features.core.rings import Int64s

CHUNK_SUFFIX = 4
"""Bytes of a changelog key after the entity's: the chunk number, big-endian."""

_FIRST_SLOTS, _FIRST_ROWS = 1_024, 16_384
_NOTHING_SEEN = -(1 << 62)
_NO_SLOTS = np.empty(0, np.int64)


class WindowEngine:
    """Rings of one partition of one stage. `slide` applies rows, `pack` says what changed since the last call."""

    def __init__(self, definition: StageDefinition) -> None:
        self._definition = definition
        self._limits = np.zeros(rings.LIMITS, np.int64)
        self._limits[rings.LATENESS] = definition.lateness
        self._limits[rings.RETENTION] = definition.retention
        self._limits[rings.LEAD] = definition.lead
        self._limits[rings.STREAMS] = len(definition.streams)
        self._tables = definition.tables
        self._line = definition.line_bytes // 8
        self._bounds = definition.bounds
        self._merging = int(definition.merging is not None)
        tables = self._tables
        self._walks: Int64s | None = tables.walks if tables.rowwise else None
        self._scans: Int64s | None = tables.scans if tables.rowwise else None
        self._scratch = np.zeros(sketches.SCRATCH if tables.rowwise else 0, np.int64)
        self._clear()

    def _clear(self) -> None:
        self._arena = np.empty((_FIRST_ROWS, rings.PREFIX + self._definition.columns), np.int64)
        self._meta = np.zeros((_FIRST_SLOTS, self._line), np.int64)
        self._dirty = np.empty(_FIRST_SLOTS, np.int64)
        self._ctl = np.full(rings.CTL_SIZE, -1, np.int64)
        self._ctl[: rings.FREE_LISTS] = 0
        self._slots: dict[bytes, int] = {}
        self._names: list[bytes] = []
        self._free: list[int] = []
        self._gone: list[bytes] = []
        self._ctl[rings.NEWEST_SEEN] = self._ctl[rings.NEXT_EXPIRY] = _NOTHING_SEEN
        self._evicted = 0

    def take_evicted(self) -> int:
        """Keys forgotten because a cap was met, since the last call."""
        evicted, self._evicted = self._evicted, 0
        return evicted

    @property
    def keys(self) -> int:
        return len(self._slots)

    @property
    def memory_bytes(self) -> int:
        """Size of the arrays that hold the rows and the lines of the keys."""
        return int(self._arena.nbytes + self._meta.nbytes)

    @property
    def rows(self) -> int:
        return int((self._meta[:, rings.HEAD] - self._meta[:, rings.TAIL]).sum())

    @property
    def newest(self) -> int | None:
        """Largest event time accepted so far in this partition; a stream's record counts as its lead older."""
        newest = int(self._ctl[rings.NEWEST_SEEN])
        return None if newest == _NOTHING_SEEN else newest

    @property
    def names(self) -> list[bytes]:
        """Every key held, in the order of its bytes."""
        return sorted(self._slots)

    def rows_of(self, key: bytes) -> Int64s:
        """int64[rows, rings.PREFIX + V], oldest first: TS, ID and ARRIVAL as in the arena, then each column's own
        value. A copy. Raises KeyError for a key that is not held."""
        line = self._meta[self._slots[key]]
        positions = np.arange(line[rings.TAIL], line[rings.HEAD], dtype=np.int64)
        rows: Int64s = self._arena[line[rings.BASE] + (positions & (line[rings.CAP] - 1))]
        totals: Int64s = line[rings.FIXED : rings.FIXED + self._definition.columns]
        prefixes: Int64s = np.vstack([rows[:, rings.PREFIX :], totals[np.newaxis]])
        rows[:, rings.PREFIX :] = prefixes[1:] - prefixes[:-1]
        return rows

    def slide(
        self, keys: Sequence[bytes], times: Int64s, identities: Int64s, labels: Int64s, numbers: Int64s
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Apply n rows in order.

        `times` int64[n] ms, `identities` int64[n] id hashes, `labels` int64[n] (rings.NOT_A_LABEL for an event,
        rings.OF_A_STREAM for a record of a second stream),
        `numbers` int64[n, kept] the values of the definition's `kept` columns (`columns.fill`). Returns float64[n,
        aggregates], NaN where undefined or where the row is not an accepted event, and uint8[n] of kernels.ACCEPTED …
        STREAM_DUPLICATE.
        """
        count = len(keys)
        out = np.empty((count, len(self._definition.aggregates)))
        status = np.empty(count, np.uint8)
        if count == 0:
            return out, status
        slots = self._look_up(keys, labels)
        reached = 0
        tables = self._tables
        with rings.wrapping():
            while True:
                reached = kernels.slide(
                    self._arena,
                    self._meta,
                    self._ctl,
                    self._dirty,
                    tables.edges,
                    tables.spec,
                    self._walks,
                    self._scans,
                    tables.gates,
                    self._limits,
                    self._bounds,
                    self._scratch,
                    slots,
                    times,
                    identities,
                    labels,
                    numbers,
                    out,
                    status,
                    reached,
                )
                if reached == count:
                    return out, status
                gone = self._make_way()
                if len(gone):
                    # Rows to come may be of a key that is no more.
                    rows = reached + np.flatnonzero(np.isin(slots[reached:], gone))
                    self._look_up_each(rows, keys, labels, slots)

    def _make_way(self) -> Int64s:
        """See to what stopped the kernel; the slots of keys that were forgotten."""
        stopped = self._ctl[rings.STOPPED]
        self._ctl[rings.STOPPED] = rings.ARENA_FULL
        if stopped == rings.KEYS_EXPIRE:
            point = self._next_expiry()
            self._ctl[rings.NEXT_EXPIRY] = point
            return self._expire(point - self._definition.expiry_grid)
        if stopped == rings.CAP_MET:
            return self._evict()
        if not self._tidy_arena():
            self._widen_arena(2 * self._arena.shape[0])
        return _NO_SLOTS

    def _next_expiry(self) -> int:
        """The first moment of the grid that the newest event has not reached."""
        grid = self._definition.expiry_grid
        return (int(self._ctl[rings.NEWEST_SEEN]) // grid + 1) * grid

    def _look_up(self, keys: Sequence[bytes], labels: Int64s) -> Int64s:
        """The slot of each row's key. An unknown key gets one from what is then always accepted: all but a label."""
        found = list(map(self._slots.get, keys))
        if None not in found:
            return np.array(found, np.int64)
        slots = np.array([-1 if slot is None else slot for slot in found], np.int64)
        self._look_up_each(np.flatnonzero(slots < 0), keys, labels, slots)
        return slots

    def _look_up_each(self, rows: Int64s, keys: Sequence[bytes], labels: Int64s, slots: Int64s) -> None:
        """Set `slots` at `rows`, one after the other, as some may be of one new key."""
        for row in rows.tolist():
            slot = self._slots.get(keys[row], -1)
            if slot < 0 and labels[row] < 0:
                slot = self._admit(keys[row])
            slots[row] = slot

    def _admit(self, key: bytes) -> int:
        if self._free:
            slot = self._free.pop()
            self._names[slot] = key
        else:
            slot = len(self._names)
            self._names.append(key)
            if slot == self._meta.shape[0]:
                meta = np.zeros((2 * slot, self._line), np.int64)
                meta[:slot] = self._meta
                self._meta = meta
                self._dirty = np.concatenate([self._dirty, np.empty(slot, np.int64)])
        self._slots[key] = slot
        return slot

    def _widen_arena(self, rows: int) -> None:
        arena = np.empty((rows, self._arena.shape[1]), np.int64)
        used = self._ctl[rings.ARENA_USED]
        arena[:used] = self._arena[:used]
        self._arena = arena

    def _tidy_arena(self) -> bool:
        """Move the rings together where more than half of what was handed out has come back; says whether it was."""
        if self._arena.shape[0] == _FIRST_ROWS:
            return False
        used, free = self._ctl[rings.ARENA_USED].item(), self._ctl[rings.FREE_ROWS].item()
        if used <= _FIRST_ROWS or 2 * free <= used:
            return False
        rows = max(_FIRST_ROWS, (used - free) * 5 // 4)
        arena = np.empty((rows, self._arena.shape[1]), np.int64)
        rings.repack(self._arena, self._meta, self._ctl, len(self._names), arena)
        self._arena = arena
        return True

    def _tidy_slots(self) -> None:
        """Number the keys anew where only a few of many are left. Nothing is dirty."""
        if self._meta.shape[0] == _FIRST_SLOTS or 4 * len(self._slots) > self._meta.shape[0]:
            return
        order = np.fromiter(self._slots.values(), np.int64, len(self._slots))
        size = max(_FIRST_SLOTS, 2 * len(order))
        meta = np.zeros((size, self._line), np.int64)
        meta[: len(order)] = self._meta[order]
        self._meta, self._dirty = meta, np.empty(size, np.int64)
        self._names = list(self._slots)
        self._slots = {name: slot for slot, name in enumerate(self._names)}
        self._free = []

    def _expire(self, point: int) -> Int64s:
        """Forget the keys that no event at or after `point` can look back to; their slots."""
        return self._forget(rings.expired(self._meta, len(self._names), point - self._definition.retention))

    def _evict(self) -> Int64s:
        """Make room for a row that would pass a cap; the slots of the keys that went. Raises StateFull where nothing
        may be forgotten."""
        caps = self._definition.caps
        if caps is None or not caps.evict:
            assert self._bounds is not None
            raise bounds.full(self._definition.entity, caps, self._ctl, self._bounds)
        slots = bounds.oldest_keys(self._meta, self._names)
        self._evicted += len(slots)
        return self._forget(slots)

    def _forget(self, slots: Int64s) -> Int64s:
        for slot in slots.tolist():
            key = self._names[slot]
            line = self._meta[slot]
            for chunk in range(line[rings.FIRST_CHUNK], -(-int(line[rings.SAVED]) // chunks.CHUNK_ROWS)):
                self._gone.append(key + chunk.to_bytes(CHUNK_SUFFIX, "big"))
            if self._merging:
                end = -(-int(line[merging.MERGED_SAVED]) // chunks.CHUNK_ROWS)
                for chunk in range(line[merging.MERGED_FIRST] + chunks.MERGED_CHUNKS, end + chunks.MERGED_CHUNKS):
                    self._gone.append(key + chunk.to_bytes(CHUNK_SUFFIX, "big"))
            del self._slots[key]
            self._free.append(slot)
        rings.forget(self._arena, self._meta, self._ctl, self._dirty, slots)
        if self._bounds is not None:
            bounds.count_held(self._meta, self._ctl)
        return slots

    def pack(self) -> list[tuple[bytes, bytes | None]]:
        """Changelog entries since the last call: chunks that changed, and None for those that are no more.

        The state counts as saved from here on: if the entries are not committed, the engine must be restored.
        """
        entries = self._pack()
        # The one moment when nothing is dirty: where rows and keys lie can change.
        self._tidy_arena()
        self._tidy_slots()
        return entries

    def _pack(self) -> list[tuple[bytes, bytes | None]]:
        keys, self._gone = self._gone, []
        values: list[bytes | None] = [None] * len(keys)
        if self._ctl[rings.DIRTY_COUNT] == 0:
            return list(zip(keys, values, strict=True))
        stage = self._definition
        records, words = chunks.pack_bounds(self._meta, self._ctl, self._dirty, stage.columns, self._merging)
        table = np.empty((records, chunks.PACK_WIDTH), np.int64)
        buffer = np.empty(words, np.uint32)
        with rings.wrapping():
            count = chunks.pack(
                self._arena,
                self._meta,
                self._ctl,
                self._dirty,
                stage.fingerprint,
                stage.lateness + stage.lead,
                self._merging,
                table,
                buffer,
            )
        lines = table[:count]
        data = buffer[: lines[-1, chunks.PACK_END]].astype("<u4", copy=False).tobytes()
        suffixes = lines[:, chunks.PACK_CHUNK].astype(">u4").tobytes()
        names, at = self._names, 0
        for slot, _, start, end in lines.tolist():
            keys.append(names[slot] + suffixes[at : at + CHUNK_SUFFIX])
            values.append(data[start * 4 : end * 4] or None)
            at += CHUNK_SUFFIX
        return list(zip(keys, values, strict=True))

    def restore(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Replace everything by what committed `pack` entries say (latest value a key, none deleted, any order).

        Raises StateCorrupt where an entry was not written by this definition of the stage.
        """
        self._clear()
        ordered = sorted(entries, key=_merged_first) if self._merging else sorted(entries)
        if not ordered:
            return
        for key, value in ordered:
            if len(key) <= CHUNK_SUFFIX or len(value) % 4:
                raise self._corrupt(key, "is not a chunk record")
        slots = np.empty(len(ordered), np.int64)
        for row, (key, _) in enumerate(ordered):
            name = key[:-CHUNK_SUFFIX]
            slot = self._slots.get(name)
            slots[row] = self._admit(name) if slot is None else slot
        numbers = np.array([int.from_bytes(key[-CHUNK_SUFFIX:], "big") for key, _ in ordered], np.int64)
        starts = np.zeros(len(ordered) + 1, np.int64)
        np.cumsum([len(value) // 4 for _, value in ordered], out=starts[1:])
        words = np.frombuffer(b"".join(value for _, value in ordered), "<u4").astype(np.uint32)
        rows = np.zeros(len(self._names), np.int64)
        verdict = chunkreader.inspect(
            words, starts, self._definition.fingerprint, self._definition.columns, slots, rows
        )
        if verdict <= -2:
            raise self._corrupt(ordered[-2 - verdict][0], "was written by another definition of this stage")
        if verdict >= 0:
            raise self._corrupt(ordered[verdict][0], "has another format or is cut short")
        capacities = chunkreader.ring_capacities(rows)
        self._widen_arena(max(_FIRST_ROWS, int(capacities.sum()) * 5 // 4))
        with rings.wrapping():
            chunkreader.unpack(
                self._arena, self._meta, self._ctl, self._limits, words, starts, slots, numbers, capacities
            )
        self._ctl[rings.NEWEST_SEEN] = self._meta[: len(self._names), rings.NEWEST].max()
        self._ctl[rings.NEXT_EXPIRY] = self._next_expiry()
        if self._bounds is not None:
            bounds.count_held(self._meta, self._ctl)

    def _corrupt(self, key: bytes, fault: str) -> StateCorrupt:
        stage = self._definition
        return StateCorrupt(
            f"changelog entry {key!r} of stage {stage.entity} {fault}",
            hint="windows, filters, lateness or scales changed: raise features.version and say which one it replaces",
        )


def _merged_first(entry: tuple[bytes, bytes]) -> tuple[bytes, bool, bytes]:
    """The chunks of a key in the order in which they are read: merged rows are older than all others."""
    key, number = entry[0][:-CHUNK_SUFFIX], entry[0][-CHUNK_SUFFIX:]
    return key, number[:1] < b"\x80", number
