"""A warm copy of the changelog of partitions that other instances own, so that taking them over reads little.

A copy is the raw latest value of each key, as a restore would read it up to some offset: the restore goes on there.
"""

import threading
from collections.abc import Collection
from dataclasses import dataclass, field

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from tidemill.runtime.kafka.records import drain, harmless, sort_out
from tidemill.runtime.kafka.settings import Settings, error_of
from tidemill.runtime.logs import get_logger
from tidemill.runtime.service import Record

_POLL_S = 0.2
_POLL_RECORDS = 5_000
_AGAIN_AFTER_S = 5.0
_CLOSE_WITHIN_S = 10.0
_log = get_logger("standby")


@dataclass(slots=True)
class Copy:
    """Committed entries of one partition below `position`; deleted keys are left out."""

    latest: dict[bytes, bytes] = field(default_factory=dict)
    position: int = 0

    def apply(self, record: Record) -> None:
        self.position = record.offset + 1
        assert record.key is not None
        if record.value is None:
            self.latest.pop(record.key, None)
        else:
            self.latest[record.key] = record.value

    def reach(self, offset: int) -> None:
        """The partition ends there: nothing but markers stands before it that was not applied."""
        self.position = max(self.position, offset)


class Standby:
    """Tails all partitions of `topic` that are not taken, on a thread of its own. Memory: the entries it holds.

    It is a help, not a duty: where Kafka refuses it, it says so, begins anew later, and a takeover reads more.
    """

    def __init__(self, settings: Settings, topic: str, numbers: Collection[int]) -> None:
        self._settings = settings
        self._topic = topic
        self._lock = threading.Lock()
        self._copies = {number: Copy() for number in numbers}
        self._changed = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="standby", daemon=True)
        self._thread.start()

    def take(self, numbers: Collection[int]) -> dict[int, Copy]:
        """Hand over the copies of these partitions, and follow them no longer. Does not block for Kafka."""
        with self._lock:
            self._changed = True
            return {number: self._copies.pop(number) for number in numbers if number in self._copies}

    def follow(self, numbers: Collection[int]) -> None:
        """Another instance owns these now: copy them from their beginning."""
        with self._lock:
            self._changed = True
            self._copies |= {number: Copy() for number in numbers if number not in self._copies}

    def positions(self) -> dict[int, int]:
        """How far each partition that is followed has been copied."""
        with self._lock:
            return {number: copy.position for number, copy in self._copies.items()}

    def close(self) -> None:
        self._stop.set()
        self._thread.join(_CLOSE_WITHIN_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            consumer = Consumer({**self._settings, "auto.offset.reset": "earliest"})
            try:
                self._tail(consumer)
            except KafkaException as exception:
                _log.warning("standby copy begins anew", reason=error_of(exception).str())
                with self._lock:
                    self._copies = {number: Copy() for number in self._copies}
                    self._changed = True
                self._stop.wait(_AGAIN_AFTER_S)
            finally:
                consumer.close()

    def _tail(self, consumer: Consumer) -> None:
        while not self._stop.is_set():
            with self._lock:
                if self._changed:
                    self._changed = False
                    places = {number: copy.position or OFFSET_BEGINNING for number, copy in self._copies.items()}
                    consumer.assign([TopicPartition(self._topic, *place) for place in places.items()])
            polled = sort_out(drain(consumer, _POLL_RECORDS, _POLL_S), _raise_unless_harmless)
            with self._lock:
                if self._changed:
                    continue  # some of these may have been taken, or be asked for from the beginning
                for record in polled.records:
                    self._copies[record.partition].apply(record)
                for (_, number), offset in polled.ends.items():
                    self._copies[number].reach(offset)


def _raise_unless_harmless(error: KafkaError, message: Message) -> None:
    if not harmless(error):
        raise KafkaException(error)
