"""Appends HTTP records to Kafka: the client's delivery callbacks, on a thread of their own, resolve asyncio futures."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from tidemill.errors import TidemillError
from tidemill.ingest.core.intake import Accepted
from tidemill.ingest.core.ports import NotAcknowledgedError
from tidemill.runtime.service import OutRecord

_POLL_S = 0.1
_MAX_WAITING = 100_000
"""Records without a report, a fifth of what librdkafka queues: so `send` never blocks the event loop."""


class Producing(Protocol):
    """The part of runtime.kafka's PlainProducer that is used here. Thread-safe."""

    def send(self, record: OutRecord, on_delivery: Callable[[str | None], None] | None = None) -> None:
        """Queue a record; `on_delivery` gets None or what went wrong, on the thread that polls or flushes.

        Blocks while the producer's queue is full. Raises TidemillError if the record can never be sent.
        """
        ...

    def poll(self, timeout_s: float = 0.0) -> int:
        """Run delivery callbacks, waiting at most this long for the first."""
        ...

    def close(self) -> None:
        """Give what is queued a last moment."""
        ...


class _Batch:
    """One request's records. `delivered` runs on the polling thread; the future belongs to the event loop."""

    def __init__(self, size: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.waiting = size
        self._error: str | None = None
        self.done: asyncio.Future[str | None] = self._loop.create_future()

    def delivered(self, error: str | None) -> None:
        self._error = self._error or error
        self.waiting -= 1
        if self.waiting == 0:
            # A loop that is closed has nobody left to answer.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if not self.done.done():
            self.done.set_result(self._error)


class KafkaAppender:
    """An `Appender` on a producer of its own. `append` is called on one event loop; `close` after that loop's end.

    The producer gives a record up (`message.timeout.ms`) about when its request does, or retries during an outage of
    the brokers would pile up copies behind it.
    """

    def __init__(self, producer: Producing) -> None:
        self._producer = producer
        self._pending: set[_Batch] = set()
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="ingest-http-delivery", daemon=True)
        self._poller.start()

    async def append(self, records: Sequence[Accepted], timeout_s: float) -> None:
        """Return once the brokers hold every record. Raises NotAcknowledgedError."""
        self._pending = {batch for batch in self._pending if batch.waiting}
        waiting = sum(batch.waiting for batch in self._pending)
        if waiting + len(records) > _MAX_WAITING:
            raise NotAcknowledgedError(f"{waiting} records wait for the brokers already")
        batch = _Batch(len(records))
        self._pending.add(batch)
        try:
            for topic, key, value, timestamp in records:
                self._producer.send(OutRecord(topic, key, value, timestamp), batch.delivered)
        except TidemillError as error:
            self._pending.discard(batch)
            raise NotAcknowledgedError(error.message) from None
        try:
            failure = await asyncio.wait_for(batch.done, timeout_s)
        except TimeoutError:
            raise NotAcknowledgedError(f"the brokers have not acknowledged within {timeout_s:g} s") from None
        if failure is not None:
            raise NotAcknowledgedError(f"the brokers did not take the records ({failure})")

    def close(self) -> None:
        """Deliver what is queued, for a moment, and end the thread."""
        self._closing.set()
        self._poller.join()
        self._producer.close()

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(_POLL_S)
