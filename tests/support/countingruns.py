"""The counting service as processes of a test: started, fed, and asked what came out."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from support.brokers import KafkaUnderTest, read_all
from tidemill.runtime.deadline import WATCHDOG_EXIT_CODE
from tidemill.runtime.service import OutRecord

TESTS = Path(__file__).parents[1]
KEYS = 7


@contextmanager
def process(tmp_path: Path, kafka: str, prefix: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A counting process; its log goes to a file whose end is shown when something goes wrong."""
    settings = {
        "TIDEMILL_BOOTSTRAP_SERVERS": kafka,
        "TIDEMILL_PIPELINE": prefix,
        "TIDEMILL_ENDPOINT_FILE": str(tmp_path / "endpoint.json"),
        "TIDEMILL_MAX_POLL_RECORDS": "50",
        "TOY_PREFIX": prefix,
        "PYTHONPATH": str(TESTS),
        **environment,
    }
    with (tmp_path / "process.log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "support.counting_process"],
            env={**os.environ, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(10)


def create_topics(broker: KafkaUnderTest, prefix: str) -> None:
    for role in ("in", "out", "dlq"):
        broker.create_topic(f"{prefix}-{role}", 2)
    broker.create_topic(f"{prefix}-state", 2, compacted=True)


class Revived:
    """A counting process that is started again when its watchdog has ended it, as a supervisor does."""

    def __init__(self, tmp_path: Path, kafka: str, prefix: str, **environment: str) -> None:
        self._start = lambda: process(tmp_path, kafka, prefix, **environment)
        self._log = tmp_path / "process.log"
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.restarts = 0

    def look(self) -> None:
        """Start it again if it has ended; AssertionError if anything but the watchdog ended it."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            assert code == WATCHDOG_EXIT_CODE, self._log.read_text()
            self.restarts += 1
            self._process = self._stack.enter_context(self._start())

    def stop(self) -> None:
        """Ask it to end; AssertionError if it does not, or not well."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(30) == 0, self._log.read_text()

    def __enter__(self) -> Self:
        self._process = self._stack.enter_context(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class Traffic:
    """Records with running values; remembers what was sent."""

    def __init__(self, broker: KafkaUnderTest, prefix: str) -> None:
        self._broker = broker
        self._topic = f"{prefix}-in"
        self.sent: list[tuple[bytes, bytes]] = []

    def send(self, count: int) -> None:
        begin = len(self.sent)
        new = [(b"key-%d" % (number % KEYS), b"%d" % number) for number in range(begin, begin + count)]
        self.sent += new
        self._broker.append(*(OutRecord(self._topic, key, value, 1_000 + int(value)) for key, value in new))

    def arrived(self, kafka: str, prefix: str) -> list[bytes]:
        return sorted(record.value or b"" for record in read_all(kafka, f"{prefix}-out"))
