"""Reading old input again to rebuild state that no changelog holds. Pure: which records count, and when it is over."""

from collections.abc import Iterable, Mapping

from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record


class Replay:
    """Partitions on their way to `until` (committed offsets). Records from there on are not for the replay."""

    def __init__(self, until: Mapping[Partition, int]) -> None:
        self._until = dict(until)
        self._open = set(until)

    @property
    def over(self) -> bool:
        return not self._open

    def admit(self, records: Iterable[Record], ends: Mapping[Partition, int]) -> tuple[list[Record], list[Partition]]:
        """The records that belong to the replay, and the partitions that have just come to its end."""
        before = set(self._open)
        old = []
        for record in records:
            partition = (record.topic, record.partition)
            until = self._until.get(partition)
            if until is None:
                continue
            if record.offset < until:
                old.append(record)
            if record.offset >= until - 1:
                self._open.discard(partition)
        for partition, offset in ends.items():
            if offset >= self._until.get(partition, 0):
                self._open.discard(partition)
        return old, sorted(before - self._open)
