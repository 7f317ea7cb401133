"""The topics of a replay in memory: dead letters, markers, what is put back. A transaction may be cut off."""

from collections.abc import Iterator, Sequence

from tidemill.errors import TidemillError
from tidemill.runtime.dlq import to_record
from tidemill.runtime.reinjection import Ledger
from tidemill.runtime.service import DeadLetter, OutRecord, Record

MARKERS = "p-dlq-replays"


class CutOffError(BaseException):
    """The process died here."""


class LetterTopics:
    """Committed records only; implements redelivery.Desk."""

    marker_topic = MARKERS

    def __init__(self, partitions: int = 2) -> None:
        self.dlq: dict[int, list[Record]] = {number: [] for number in range(partitions)}
        self.written: list[OutRecord] = []
        self.holder = 0
        self.lows: dict[int, int] = {}

    def die(self, original: Record, code: str = "out_of_range", service: str = "ingest") -> None:
        """What a stage does with a bad record; its letter goes to the partition of its own number."""
        number = original.partition % len(self.dlq)
        letter = to_record(DeadLetter(original, code, "is bad"), "p-dlq", service)
        log = self.dlq[number]
        log.append(Record("p-dlq", number, len(log), letter.timestamp, letter.key, letter.value, letter.headers))

    def letters(self) -> Iterator[Record]:
        for number, log in self.dlq.items():
            yield from log[self.lows.get(number, 0) :]

    def ledger(self) -> Ledger:
        ledger = Ledger()
        for offset, out in enumerate(out for out in self.written if out.topic == MARKERS):
            ledger.learn(Record(MARKERS, 0, offset, out.timestamp, out.key, out.value, out.headers))
        return ledger

    def low(self) -> dict[int, int]:
        return {number: self.lows.get(number, 0) for number in self.dlq}

    @property
    def put_back(self) -> list[OutRecord]:
        return [out for out in self.written if out.topic != MARKERS]


class Producer:
    """Implements redelivery.Writer. `cut_off` maps the number of a write to `before` or `after` its commit; `renew`
    holds writes before which the producer has to be renewed."""

    def __init__(self, topics: LetterTopics, cut_off: tuple[int, str] | None = None, renew: Sequence[int] = ()) -> None:
        self._topics = topics
        self._cut_off = cut_off
        self._renew = set(renew)
        self._epoch = 0
        self.writes = 0
        self.sizes: list[int] = []

    def start(self) -> None:
        self._topics.holder += 1
        self._epoch = self._topics.holder

    def write(self, records: Sequence[OutRecord]) -> bool:
        self.writes += 1
        if self.writes in self._renew:
            self._renew.discard(self.writes)
            self.start()
            return False
        if self._epoch != self._topics.holder:
            raise TidemillError("fenced")
        if self._cut_off == (self.writes, "before"):
            raise CutOffError
        self._topics.written += records
        self.sizes.append(len(records))
        if self._cut_off == (self.writes, "after"):
            raise CutOffError
        return True
