"""The ingest service on the runtime's loop: source topics in, clean events and labels out, the rest to the DLQ."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from tidemill import clock
from tidemill.errors import RecordError
from tidemill.ingest.core.intake import Intake
from tidemill.runtime.service import DeadLetter, Output, OutRecord, Record


class IngestService:
    """Stateless: a record's outcome depends on the record, the pipeline file and, for `future`, the wall clock."""

    def __init__(self, intakes: Mapping[str, Intake], wall_ms: Callable[[], int] = clock.wall_ms) -> None:
        """`intakes` by source topic."""
        self._intakes = intakes
        self._wall_ms = wall_ms
        self._waiting: list[Record] = []
        self._since: float | None = None

    def add(self, records: Sequence[Record], now: float) -> None:
        if records and self._since is None:
            self._since = now
        self._waiting.extend(records)

    def wake_at(self) -> float | None:
        """At once, while records wait: there is nothing to wait for."""
        return self._since

    def flush(self, now: float) -> Output:
        """Every waiting record becomes one output or one dead letter, in order."""
        output = Output()
        now_ms = self._wall_ms()
        for record in self._waiting:
            try:
                topic, key, value, timestamp = self._intakes[record.topic].take(record.value, now_ms)
            except RecordError as error:
                output.dead.append(DeadLetter(record, error.code, error.message))
            else:
                output.records.append(OutRecord(topic, key, value, timestamp))
        self._waiting.clear()
        self._since = None
        return output

    def restore(self, partition: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """There is no state to restore."""

    def drop(self, partitions: Iterable[int]) -> None:
        gone = set(partitions)
        self._waiting = [record for record in self._waiting if record.partition not in gone]
        if not self._waiting:
            self._since = None

    def committed(self) -> None:
        """Nothing waits for the commit."""

    def close(self) -> None:
        """Nothing to release."""
