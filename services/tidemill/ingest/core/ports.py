"""What the HTTP side needs from the outside: a Kafka client and a place to count."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from tidemill.ingest.core.intake import Accepted


class NotAcknowledgedError(Exception):
    """The broker has not confirmed every record in time; some may be appended all the same, or still will be."""


class Appender(Protocol):
    """Appends records outside any transaction, idempotently, acknowledged by all in-sync replicas."""

    async def append(self, records: Sequence[Accepted], timeout_s: float) -> None:
        """Return once every record is acknowledged. Never blocks the event loop. Raises NotAcknowledgedError."""
        ...


class HttpTelemetry(Protocol):
    """Counts what the HTTP side does. Called from the event loop."""

    def answered(self, source: str, status: int) -> None:
        """A request for `source` (`unknown` if there is none of that name) was answered with `status`."""
        ...

    def accepted(self, source: str, records: int) -> None:
        """`records` records of a request are acknowledged."""
        ...

    def in_flight(self, requests: int, body_bytes: int) -> None:
        """What is held now."""
        ...

    def acknowledging(self) -> AbstractContextManager[None]:
        """Times the wait for the broker."""
        ...
