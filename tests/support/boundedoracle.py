"""What bounded stages must answer: `featureoracle` with rows that settle into cells, from `domain.statebounds`."""

from collections.abc import Sequence

from support.featureoracle import Oracle, Row, _Key
from tidemill.domain.featurespec import FeatureSpec
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
        if verdict == 3:
            at = (row.key, row.ts, row.identity)
            self._label_rows[at] = self._label_rows.get(at, 0) + 1
        return verdict
