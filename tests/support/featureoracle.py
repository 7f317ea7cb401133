"""What the window engine must answer, computed slowly from lists of Python integers."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tidemill.features.core import kernels
from tidemill.features.core.definition import StageDefinition

NAN = float("nan")


class Row(NamedTuple):
    """One record for one key; `label` None makes it an event."""

    key: bytes
    identity: int
    ts: int
    amount: int
    label: int | None


@dataclass
class _Key:
    newest: int
    events: list[tuple[int, int, int]] = field(default_factory=list)
    """(ts, identity, amount)"""
    labels: dict[tuple[int, int], int] = field(default_factory=dict)
    """(ts, identity) → truth"""


class Oracle:
    """One partition of one stage."""

    def __init__(self, stage: StageDefinition) -> None:
        self._stage = stage
        self._keys: dict[bytes, _Key] = {}
        self._newest: int | None = None

    def apply(self, row: Row) -> tuple[int, list[float]]:
        """(status, features); the features are NaN unless the row is an accepted event."""
        nothing = [NAN] * len(self._stage.spec)
        if row.label is not None:
            return self._label(row, row.label), nothing
        if self._newest is not None and row.ts > self._newest:
            self._expire(row.ts)
        self._newest = row.ts if self._newest is None else max(self._newest, row.ts)
        key = self._keys.setdefault(row.key, _Key(row.ts))
        held = [(ts, identity) for ts, identity, _ in self._live(key)]
        if (row.ts, row.identity) in held:
            return kernels.DUPLICATE, nothing
        if row.ts < key.newest - self._stage.lateness:
            return kernels.LATE, nothing
        key.newest = max(key.newest, row.ts)
        key.events.append((row.ts, row.identity, row.amount))
        return kernels.ACCEPTED, [self._feature(key, row.ts, number) for number in range(len(self._stage.spec))]

    def _label(self, row: Row, truth: int) -> int:
        key = self._keys.get(row.key)
        if key is None or (row.ts, row.identity) not in [(ts, identity) for ts, identity, _ in self._live(key)]:
            return kernels.LABEL_UNMATCHED
        if key.labels.get((row.ts, row.identity)) == truth:
            return kernels.LABEL_DUPLICATE
        key.labels[(row.ts, row.identity)] = truth
        return kernels.LABEL_ACCEPTED

    def _live(self, key: _Key) -> list[tuple[int, int, int]]:
        return [event for event in key.events if event[0] > key.newest - self._stage.retention]

    def _feature(self, key: _Key, now: int, number: int) -> float:
        operation, near, far, _, scale = self._stage.spec[number].tolist()
        edges = self._stage.edges.tolist()
        inside = [event for event in self._live(key) if now - edges[far] < event[0] <= now - edges[near]]
        amounts = sum(amount for _, _, amount in inside)
        if operation == kernels.OP_COUNT:
            return float(len(inside))
        if operation == kernels.OP_SUM:
            return amounts / scale
        if operation == kernels.OP_MEAN:
            return amounts / (len(inside) * scale) if inside else NAN
        truths = sum(key.labels.get((ts, identity), 0) for ts, identity, _ in inside)
        return truths / len(inside) if inside else 0.0

    def _expire(self, ts: int) -> None:
        assert self._newest is not None
        grid = self._stage.expiry_grid
        if ts // grid > self._newest // grid:
            horizon = ts // grid * grid - self._stage.retention
            self._keys = {name: key for name, key in self._keys.items() if key.newest > horizon}
