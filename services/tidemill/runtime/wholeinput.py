"""For a stage whose state is rebuilt from all partitions at once: what it was given so far, and how long it waits for
the rest. Pure.

The part of an instance that was killed stays with it until its session is over, so a process that starts meanwhile is
given some partitions first and the others later.
"""

from collections.abc import Collection, Iterable

from tidemill.errors import EnvironmentUnusable
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record
from tidemill.runtime.spec import ServiceSpec

_WITHIN_S = 60.0
"""More than a session and a rebalance."""


class WholeInput:
    """Nothing to wait for where the stage replays nothing."""

    def __init__(self, spec: ServiceSpec) -> None:
        self._spec = spec
        self._since: float | None = None
        self._held: set[Partition] = set()

    @property
    def waits(self) -> bool:
        """Whether partitions are missing: then nothing may be read."""
        return self._since is not None

    def given(self, partitions: Collection[Partition], now: float) -> list[Partition]:
        """This instance has these now. Returns what is missing."""
        needs = self._spec.replay.needs() if self._spec.replay is not None else frozenset()
        missing = needs - set(partitions)
        if not missing:
            self._since = None
        elif self._since is None:
            self._since = now
        return sorted(missing)

    def begins_anew(self, others: Collection[Partition]) -> bool:
        """Whether to rebuild when some partitions come, or go, while these others stay."""
        return self._spec.replay is not None and bool(others)

    def forget(self) -> None:
        """It has none, and waits for none."""
        self._since = None

    def hold(self, records: Iterable[Record], owned: Collection[Partition], now: float) -> set[Partition]:
        """The partitions that these have come from, to be paused. Raises EnvironmentUnusable once it took too long."""
        assert self._since is not None, "nothing is missing"
        if now - self._since > _WITHIN_S:
            raise EnvironmentUnusable(
                f"{self._spec.group} was not given all partitions of its input within {_WITHIN_S:.0f} s",
                hint=f"run one instance of {self._spec.name} for each pipeline",
            )
        arrived = {(record.topic, record.partition) for record in records} & set(owned)
        self._held |= arrived
        return arrived

    def release(self) -> set[Partition]:
        """What was held, to be resumed."""
        held, self._held = self._held, set()
        return held
