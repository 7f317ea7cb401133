"""A toy service with state: counts the records of each key. Its output tells at once of a loss or a repetition."""

from collections.abc import Iterable, Sequence

from tidemill.runtime.service import DeadLetter, Output, OutRecord, Record, StateEntry


class Counting:
    """Writes `{key}:{count}:{value}` for each record; a value of `bad` becomes a dead letter."""

    def __init__(self, out_topic: str) -> None:
        self.counts: dict[int, dict[bytes, int]] = {}
        self.dropped: list[int] = []
        self.commits = 0
        self.closed = False
        self._out_topic = out_topic
        self._output = Output()
        self._dirty: dict[tuple[int, bytes], int] = {}

    def add(self, records: Sequence[Record], now: float) -> None:
        for record in records:
            key = record.key or b""
            if record.value == b"bad":
                self._output.dead.append(DeadLetter(record, "bad_record", "said so itself"))
                continue
            counts = self.counts[record.partition]
            counts[key] = counts.get(key, 0) + 1
            self._dirty[record.partition, key] = counts[key]
            value = b"%s:%d:%s" % (key, counts[key], record.value)
            self._output.records.append(OutRecord(self._out_topic, key, value, record.timestamp))

    def wake_at(self) -> float | None:
        return None

    def flush(self, now: float) -> Output:
        output, self._output = self._output, Output()
        output.state = [StateEntry(number, key, b"%d" % count) for (number, key), count in self._dirty.items()]
        self._dirty = {}
        return output

    def restore(self, partition: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        self.counts[partition] = {key: int(value) for key, value in entries}

    def drop(self, partitions: Iterable[int]) -> None:
        """Unflushed work of other partitions must not survive either: the loop only drops after it gave that up."""
        gone = set(partitions)
        self.dropped += sorted(gone)
        for number in gone:
            self.counts.pop(number, None)
        self._output = Output()
        self._dirty = {at: count for at, count in self._dirty.items() if at[0] not in gone}

    def committed(self) -> None:
        self.commits += 1

    def close(self) -> None:
        self.closed = True


def expected(values: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """What the records (key, value), each exactly once and in their keys' order, lead to; sorted."""
    counts: dict[bytes, int] = {}
    out = []
    for key, value in values:
        counts[key] = counts.get(key, 0) + 1
        out.append(b"%s:%d:%s" % (key, counts[key], value))
    return sorted(out)
