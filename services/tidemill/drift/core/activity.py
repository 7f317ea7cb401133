"""Which model version is live, learnt from the predictions alone, so that a replay learns the same.

Inference switches per input partition, inside the transaction that first uses a version; partitions may therefore
disagree for a moment. The version is the one that a partition changed to last.
"""

from collections.abc import Iterable, Mapping

from tidemill.drift.core.records import Version


class Activity:
    """The live version, and what each partition of the predictions last named."""

    def __init__(self, live: Version = None, partitions: Mapping[int, Version] | None = None) -> None:
        self.live = live
        self.partitions = dict(partitions or {})

    def sees(self, partition: int, version: Version) -> bool:
        """Note the version of the next prediction of `partition`; True if it makes another version the live one.

        A partition heard of for the first time has changed nothing, unless no model was live.
        """
        known = partition in self.partitions
        if known and self.partitions[partition] == version:
            return False
        self.partitions[partition] = version
        if version == self.live or not (known or self.live is None):
            return False
        self.live = version
        return True


class KeyAges:
    """Holds back the vectors of keys younger than `warm_up_ms`, whose windows are still filling.

    Age is measured from the first record of the key that this service read. One entry a key is kept for good.
    """

    def __init__(self, warm_up_ms: int, known: Iterable[tuple[bytes, int]] = ()) -> None:
        self._warm_up_ms = warm_up_ms
        self._first = dict(known)

    def sees(self, key: bytes, time: int) -> tuple[bool, bool]:
        """(the key is old enough at `time`, this was its first record)."""
        first = self._first.get(key)
        if first is None:
            self._first[key] = time
            return self._warm_up_ms == 0, True
        return time - first >= self._warm_up_ms, False
