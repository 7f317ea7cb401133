"""Appends HTTP records to Kafka: the client's delivery callbacks, on a thread of their own, resolve asyncio futures."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from tidemill.ingest.core.intake import Accepted
from tidemill.ingest.core.ports import NotAcknowledgedError
from tidemill.runtime.service import OutRecord

_POLL_S = 0.1


class Producing(Protocol):
    """The part of runtime.kafka's PlainProducer that is used here."""

    def send(self, record: OutRecord, on_delivery: Callable[[str | None], None] | None = None) -> None:
        """Queue a record; `on_delivery` gets None or what went wrong, on the thread that polls."""
        ...

    def poll(self, timeout_s: float) -> int:
        """Run delivery callbacks, waiting at most this long for the first."""
        ...

    def flush(self, timeout_s: float) -> None: ...


class _Batch:
    """One request's records. `delivered` runs on the polling thread; the future belongs to the event loop."""

    def __init__(self, size: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting = size
        self._error: str | None = None
        self.done: asyncio.Future[str | None] = self._loop.create_future()

    def delivered(self, error: str | None) -> None:
        self._error = self._error or error
        self._waiting -= 1
        if self._waiting == 0:
            # A loop that is closed has nobody left to answer.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if not self.done.done():
            self.done.set_result(self._error)


class KafkaAppender:
    """An `Appender` on a producer. `append` is called on one event loop; `close` from any thread, after that loop."""

    def __init__(self, producer: Producing) -> None:
        self._producer = producer
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="ingest-http-delivery", daemon=True)
        self._poller.start()

    async def append(self, records: Sequence[Accepted], timeout_s: float) -> None:
        """Return once the broker holds every record. Raises NotAcknowledgedError."""
        batch = _Batch(len(records))
        for accepted in records:
            topic, key, value, timestamp = accepted
            self._producer.send(OutRecord(topic, key, value, timestamp), batch.delivered)
        try:
            error = await asyncio.wait_for(batch.done, timeout_s)
        except TimeoutError:
            raise NotAcknowledgedError(f"the broker has not acknowledged within {timeout_s:g} s") from None
        if error is not None:
            raise NotAcknowledgedError(f"the broker did not take the records: {error}")

    def close(self, timeout_s: float) -> None:
        """Deliver what is queued, for at most `timeout_s`, and end the thread."""
        self._closing.set()
        self._poller.join(timeout_s)
        self._producer.flush(timeout_s)

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(_POLL_S)
