"""A hash of every record that was read, by its place: sixteen bytes a record, for dead letters to be held against."""

from array import array
from bisect import bisect_left
from collections.abc import Sequence

Headers = Sequence[tuple[str, bytes]]


def fingerprint(key: bytes | None, value: bytes | None, timestamp: int, headers: Headers) -> int:
    """Of all that a dead letter must keep. Holds within one process only."""
    return hash((key, value, timestamp, tuple(headers)))


class Fingerprints:
    """Entered in offset order within a partition; what comes again is ignored."""

    def __init__(self) -> None:
        self._offsets: dict[tuple[str, int], array[int]] = {}
        self._prints: dict[tuple[str, int], array[int]] = {}

    def enter(self, topic: str, partition: int, offset: int, found: int) -> None:
        offsets = self._offsets.setdefault((topic, partition), array("q"))
        if not offsets or offset > offsets[-1]:
            offsets.append(offset)
            self._prints.setdefault((topic, partition), array("q")).append(found)

    def find(self, topic: str, partition: int, offset: int) -> int | None:
        """None for a record that was never read."""
        offsets = self._offsets.get((topic, partition), array("q"))
        at = bisect_left(offsets, offset)
        return self._prints[topic, partition][at] if at < len(offsets) and offsets[at] == offset else None
