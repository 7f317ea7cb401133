"""A producer without transactions: producers of raw records, HTTP ingest, tools."""

import threading
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidemill.errors import TidemillError
from tidemill.runtime.kafka.settings import error_of, refused, writing_settings
from tidemill.runtime.service import OutRecord

OnDelivery = Callable[[str | None], None]


class PlainProducer:
    """Idempotent, acks=all, linger 5 ms: at-least-once in order per partition. Thread-safe."""

    def __init__(self, bootstrap_servers: str, options: Mapping[str, str] | None = None) -> None:
        settings = writing_settings(bootstrap_servers, {"linger.ms": "5", **(options or {})}) | {"log_level": 2}
        self._producer = Producer(settings)
        self._lock = threading.Lock()
        self._failed = 0
        self._first_failure: str | None = None

    def send(self, record: OutRecord, on_delivery: OnDelivery | None = None) -> None:
        """Queue a record; blocks only while the queue is full. `on_delivery` gets None or what went wrong, on the
        thread that polls or flushes. Raises TidemillError if the record can never be sent (too large)."""
        callback = self._delivered if on_delivery is None else self._delivery_to(on_delivery)
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    callback,
                    timestamp=record.timestamp,
                    headers=list(record.headers),
                )
                return
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as exception:
                raise refused(f"producing to {record.topic}", error_of(exception)) from None

    def poll(self, timeout_s: float = 0.0) -> int:
        """Run delivery callbacks, waiting at most this long for the first; returns how many ran."""
        return self._producer.poll(timeout_s)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Return once everything queued is acknowledged.

        Raises TidemillError if something is not by then, or if any record sent since the last flush failed.
        """
        waiting = self._producer.flush(timeout_s)
        with self._lock:
            failed, first = self._failed, self._first_failure
            self._failed, self._first_failure = 0, None
        if failed or waiting:
            why = first or f"no answer within {timeout_s:g} s"
            raise TidemillError(
                f"{failed + waiting} record(s) were not acknowledged: {why}",
                hint="check that Kafka runs, that the topic exists, and that records are within its size limit",
            )

    def close(self) -> None:
        """Give what is queued a last moment; call `flush` first where loss matters."""
        self._producer.flush(5.0)

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            with self._lock:
                self._failed += 1
                self._first_failure = self._first_failure or f"{error.name()}: {error.str()}"

    def _delivery_to(self, on_delivery: OnDelivery) -> Callable[[KafkaError | None, Message], None]:
        def delivered(error: KafkaError | None, _: Message) -> None:
            on_delivery(None if error is None else f"{error.name()}: {error.str()}")

        return delivered
