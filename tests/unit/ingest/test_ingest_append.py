"""Delivery reports, on a thread of their own, resolve the requests that wait for them, each its own."""

import asyncio
import queue
import threading
from collections.abc import Callable

import pytest

from tidemill.errors import TidemillError
from tidemill.ingest.append import KafkaAppender
from tidemill.ingest.core.intake import Accepted
from tidemill.ingest.core.ports import NotAcknowledgedError
from tidemill.runtime.service import OutRecord

RECORD = Accepted("fraud-events", b"c-1", b"{}", 7)
Report = Callable[[str | None], None]


class FakeProducer:
    """Reports on the polling thread: a failure for values in `failing`, nothing while `silent`."""

    def __init__(self, *, silent: bool = False, failing: frozenset[bytes] = frozenset()) -> None:
        self._reports: queue.Queue[tuple[Report, bytes]] = queue.Queue()
        self._silent = silent
        self._woken = threading.Event()
        self._failing = failing
        self.sent: list[OutRecord] = []
        self.closed = False

    def send(self, record: OutRecord, on_delivery: Report | None = None) -> None:
        if record.value == b"huge":
            raise TidemillError("producing to fraud-events was refused: MSG_SIZE_TOO_LARGE")
        self.sent.append(record)
        assert on_delivery is not None and record.value is not None
        self._reports.put((on_delivery, record.value))

    def poll(self, timeout_s: float = 0.0) -> int:
        if self._silent:
            self._woken.wait(timeout_s)
            return 0
        try:
            report, value = self._reports.get(timeout=timeout_s)
        except queue.Empty:
            return 0
        report("MSG_TIMED_OUT" if value in self._failing else None)
        return 1

    def close(self) -> None:
        self._silent = False
        while not self._reports.empty():
            self.poll(0)
        self.closed = True


def test_a_batch_is_acknowledged_when_its_last_record_is() -> None:
    producer = FakeProducer()
    appender = KafkaAppender(producer)
    asyncio.run(appender.append([RECORD] * 100, 30))
    appender.close()
    assert producer.sent == [OutRecord("fraud-events", b"c-1", b"{}", 7)] * 100
    assert producer.closed


def test_a_failed_record_fails_its_own_request_only() -> None:
    producer = FakeProducer(failing=frozenset({b"bad"}))
    appender = KafkaAppender(producer)

    async def both() -> None:
        good = asyncio.create_task(appender.append([RECORD] * 3, 30))
        with pytest.raises(NotAcknowledgedError, match="MSG_TIMED_OUT"):
            await appender.append([RECORD, RECORD._replace(value=b"bad")], 30)
        await good

    asyncio.run(both())
    appender.close()


def test_a_silent_broker_is_given_up_and_its_late_report_harms_nobody() -> None:
    producer = FakeProducer(silent=True)
    appender = KafkaAppender(producer)
    with pytest.raises(NotAcknowledgedError, match=r"within 0\.01 s"):
        asyncio.run(appender.append([RECORD], 0.01))
    appender.close()
    assert producer.closed


def test_a_record_that_can_never_be_sent_fails_its_request_at_once() -> None:
    appender = KafkaAppender(FakeProducer())
    with pytest.raises(NotAcknowledgedError, match="MSG_SIZE_TOO_LARGE"):
        asyncio.run(appender.append([RECORD, RECORD._replace(value=b"huge")], 30))
    asyncio.run(appender.append([RECORD], 30))
    appender.close()


def test_what_waits_for_a_silent_broker_is_bounded() -> None:
    producer = FakeProducer(silent=True)
    appender = KafkaAppender(producer)
    with pytest.raises(NotAcknowledgedError, match="within"):
        asyncio.run(appender.append([RECORD] * 60_000, 0.01))
    with pytest.raises(NotAcknowledgedError, match="60000 records wait"):
        asyncio.run(appender.append([RECORD] * 60_000, 0.01))
    assert len(producer.sent) == 60_000
    appender.close()
