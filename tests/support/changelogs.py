"""Changelogs in memory: what stages write, and readers of it that look like Kafka's."""

from collections.abc import Iterable, Mapping

from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record, StateEntry


class ListReader:
    """A topic's records, one a poll; `TopicReader` without a broker."""

    def __init__(self, topic: str, logs: Mapping[int, list[Record]], only: int | None) -> None:
        self.partitions: tuple[Partition, ...] = tuple(
            (topic, number) for number in sorted(logs) if only in (None, number)
        )
        self._records = [record for _, number in self.partitions for record in logs[number]]
        self._ends = {at: len(logs[at[1]]) for at in self.partitions}
        self._read: dict[Partition, int] = {}
        self.closed = False

    def poll(self, max_records: int = 1, timeout_s: float = 0.0) -> list[Record]:
        if not self._records:
            return []
        record = self._records.pop(0)
        self._read[record.topic, record.partition] = record.offset + 1
        return [record]

    def at_end(self) -> bool:
        return not self._records

    def end_offsets(self) -> dict[Partition, int]:
        return self._ends

    def has_passed(self, ends: Mapping[Partition, int]) -> bool:
        return all(self._read.get(at, 0) >= end for at, end in ends.items())

    def close(self) -> None:
        self.closed = True


def changelog(topic: str, partitions: int, entries: Iterable[StateEntry]) -> dict[int, list[Record]]:
    """Every entry as a record, deletions included, as if nothing had been compacted."""
    logs: dict[int, list[Record]] = {number: [] for number in range(partitions)}
    for entry in entries:
        log = logs[entry.partition]
        log.append(Record(topic, entry.partition, len(log), 0, entry.key, entry.value))
    return logs
