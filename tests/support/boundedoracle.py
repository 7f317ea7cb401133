"""What bounded stages must answer: `featureoracle` with rows that settle into cells, from `domain.statebounds`."""

from collections.abc import Sequence

from support.featureoracle import Answer, Oracle, Row, _Key
from tidemill.domain.featurespec import FeatureSpec
from tidemill.features.core import kernels
from tidemill.features.core.definition import StageDefinition


class MergingOracle(Oracle):
    """Keeps every event, and moves one that settles to the time of the newest of its cell: a window then holds the
    whole cell or nothing of it. How many rows a key has is counted from that."""

    def __init__(self, stage: StageDefinition, features: Sequence[FeatureSpec], scale: int) -> None:
        super().__init__(stage, features, scale)
        self._merging = stage.merging
        self._settled: dict[int, dict[int, int]] = {}
        """Of a key (by its object): identity of a settled event → its cell."""
        self._label_rows: dict[tuple[bytes, int, int], int] = {}
        self.merges = 0

    def rows(self) -> int:
        """Rows held, by the rules of the engine: an event, a label, and a cell are one each."""
        return sum(self._rows(key) for key in self._keys.values())

    def _rows(self, key: _Key) -> int:
        settled = self._settled.get(id(key), {})
        held = [event for event in key.events if event.ts > key.newest - self._stage.retention]
        plain = [event for event in held if event.identity not in settled]
        labels = sum(self._label_rows.get((event.key, event.ts, event.identity), 0) for event in plain)
        return len(plain) + labels + len({settled[event.identity] for event in held if event.identity in settled})

    def _before(self, key: _Key, row: Row) -> None:
        if self._merging is None or row.ts < key.newest:
            return
        bucket, after = self._merging.bucket, self._merging.settled_after
        key_before, key.newest = key.newest, row.ts
        key.events = [event for event in key.events if event.ts > row.ts - self._stage.retention]
        settled = self._settled.setdefault(id(key), {})
        cell_now = (row.ts - after) // bucket
        if cell_now <= (key_before - after) // bucket or self._rows(key) <= self._merging.max_rows:
            return
        moved = [event for event in key.events if event.identity not in settled and event.ts // bucket < cell_now]
        for event in moved:
            cell = event.ts // bucket
            newest = max(other.ts for other in moved if other.ts // bucket == cell)
            # A name of its own: no event or label that comes can be told to be this one.
            name = -1_000_000 - self.merges
            self.merges += 1
            settled[name] = cell
            if (event.ts, event.identity) in key.labels:
                key.labels[(newest, name)] = key.labels.pop((event.ts, event.identity))
            key.events[key.events.index(event)] = event._replace(ts=newest, identity=name)

    def _label(self, row: Row, truth: int) -> int:
        verdict = super()._label(row, truth)
        if verdict == kernels.LABEL_ACCEPTED:
            at = (row.key, row.ts, row.identity)
            self._label_rows[at] = self._label_rows.get(at, 0) + 1
        return verdict


class CappedOracle(Oracle):
    """Forgets keys before a row that would pass a cap, as `StateLimits` says with `when_full: evict`."""

    def __init__(self, stage: StageDefinition, features: Sequence[FeatureSpec], scale: int) -> None:
        super().__init__(stage, features, scale)
        assert stage.caps is not None
        self._most_keys, self._most_bytes = stage.caps.keys or 1 << 60, stage.caps.size or 1 << 60
        self._label_rows: dict[tuple[bytes, int, int], int] = {}
        self.evicted: list[bytes] = []

    @property
    def names(self) -> list[bytes]:
        return sorted(self._keys)

    def apply(self, row: Row) -> tuple[int, list[Answer]]:
        if row.label is None and self._newest is not None and row.ts > self._newest:
            self._expire(row.ts)
            self._newest = row.ts
        key = self._keys.get(row.key)
        if row.label is not None:
            # A label enters where its event is held and it says something new.
            if key is not None and (row.ts, row.identity) in self._held(key):
                if key.labels.get((row.ts, row.identity)) == row.label:
                    return super().apply(row)
                self._make_room(None)
        elif key is None:
            self._make_room(row.key)
        elif not self._refused(key, row):
            key.newest = max(key.newest, row.ts)
            self._make_room(row.key)
        verdict, answers = super().apply(row)
        if verdict == kernels.LABEL_ACCEPTED:
            at = (row.key, row.ts, row.identity)
            self._label_rows[at] = self._label_rows.get(at, 0) + 1
        return verdict, answers

    def _refused(self, key: _Key, row: Row) -> bool:
        return (row.ts, row.identity) in self._held(key) or row.ts < key.newest - self._stage.lateness

    def _rows(self, name: bytes, key: _Key) -> int:
        held = self._held(key)
        return len(held) + sum(self._label_rows.get((name, ts, identity), 0) for ts, identity in held)

    def _make_room(self, wanted: bytes | None) -> None:
        """For one more row, of the key `wanted`, which may be new, or of a key that is held (None)."""
        while len(self._keys) >= 2:
            keys = len(self._keys) + (wanted is not None and wanted not in self._keys)
            rows = sum(self._rows(name, key) for name, key in self._keys.items()) + 1
            size = rows * self._stage.row_bytes + keys * self._stage.line_bytes
            if keys <= self._most_keys and size <= self._most_bytes:
                return
            oldest = sorted(self._keys, key=lambda name: (self._keys[name].newest, name))
            for name in oldest[: max(1, len(oldest) // 64)]:
                del self._keys[name]
                self._label_rows = {at: rows for at, rows in self._label_rows.items() if at[0] != name}
                self.evicted.append(name)
