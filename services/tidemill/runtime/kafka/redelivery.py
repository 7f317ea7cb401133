"""The two topics of a run of `tidemill dlq replay` on a real Kafka, and the producer that it writes with."""

from collections.abc import Iterator, Mapping, Sequence

from tidemill.errors import TidemillError
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.kafka.producer import TransactionalProducer
from tidemill.runtime.kafka.reader import TopicReader
from tidemill.runtime.kafka.settings import writing_settings
from tidemill.runtime.ports import AbortedError, Partition, ProducerLostError
from tidemill.runtime.reinjection import Ledger
from tidemill.runtime.service import OutRecord, Record

_POLL_RECORDS = 1_000
_POLL_S = 0.2
_COMMIT_WITHIN_S = 30.0


class LetterDesk:
    """Implements redelivery.Desk. Blocks at construction for the topics' metadata.

    Where the letters end is settled then: one that dies again meanwhile is for another run.
    """

    def __init__(self, bootstrap_servers: str, options: Mapping[str, str], dlq_topic: str, marker_topic: str) -> None:
        self.marker_topic = marker_topic
        self._dlq_topic = dlq_topic
        self._where = (bootstrap_servers, options)
        reader = self._open(dlq_topic)
        try:
            self._low = {number: marks.low for (_, number), marks in reader.watermarks().items()}
            self._ends = reader.end_offsets()
        finally:
            reader.close()

    def letters(self) -> Iterator[Record]:
        for record in self._read(self._dlq_topic, self._ends):
            if record.offset < self._ends[record.topic, record.partition]:
                yield record

    def ledger(self) -> Ledger:
        ledger = Ledger()
        for record in self._read(self.marker_topic):
            ledger.learn(record)
        return ledger

    def low(self) -> dict[int, int]:
        return self._low

    def _read(self, topic: str, ends: Mapping[Partition, int] | None = None) -> Iterator[Record]:
        reader = self._open(topic)
        try:
            upto = reader.end_offsets() if ends is None else ends
            while True:
                records = reader.poll(_POLL_RECORDS, _POLL_S)
                yield from records
                if not records and reader.has_passed(upto):
                    return
        finally:
            reader.close()

    def _open(self, topic: str) -> TopicReader:
        servers, options = self._where
        return TopicReader(servers, [topic], options=options)


class RedeliveryProducer:
    """Implements redelivery.Writer. One identity a pipeline: a second run fences the first, which then stops."""

    def __init__(self, bootstrap_servers: str, options: Mapping[str, str], transactional_id: str) -> None:
        self._producer = TransactionalProducer(writing_settings(bootstrap_servers, options), transactional_id)
        self._known_starts = 0

    def start(self) -> None:
        self._producer.start()
        self._known_starts = self._producer.starts

    def write(self, records: Sequence[OutRecord]) -> bool:
        deadline = Deadline(_COMMIT_WITHIN_S)
        try:
            self._producer.begin()
            if self._producer.starts != self._known_starts:
                # Renewed after a doubt: another run may have used this identity before, and is fenced now.
                self._producer.abort()
                self._known_starts = self._producer.starts
                return False
            self._producer.produce(records)
            self._producer.commit(deadline)
        except (AbortedError, ProducerLostError) as error:
            raise TidemillError(
                f"a batch of the replay was not committed for certain: {error}",
                hint="run the same command again: what was replayed is not replayed twice. If another replay of this "
                "pipeline runs, it has taken over, and this one is not needed",
            ) from None
        return True

    def close(self) -> None:
        self._producer.close()
