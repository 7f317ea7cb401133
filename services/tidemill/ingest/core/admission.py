"""How much the HTTP side holds at once: a limit on requests and one on body bytes, so that memory stays bounded."""

from types import TracebackType
from typing import NamedTuple


class Limits(NamedTuple):
    """What the HTTP side accepts, and how long it waits."""

    max_body_bytes: int
    max_records: int
    max_requests_in_flight: int
    max_bytes_in_flight: int
    read_timeout_s: float
    acknowledge_timeout_s: float


class SaturatedError(Exception):
    """The limits are reached; the request may come again in a moment."""


class Admission:
    """Counts what is in flight. For one thread (the event loop's)."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    def enter(self) -> "Slot":
        """A request's slot, to be used in a `with`. Raises SaturatedError."""
        if self.requests >= self._max_requests:
            raise SaturatedError(f"{self.requests} requests are in flight already")
        self.requests += 1
        return Slot(self)

    def take(self, count: int) -> None:
        """Hold `count` more body bytes. Raises SaturatedError and holds none of them.

        One body always fits when nothing else is held, however small the limit.
        """
        if self.bytes and self.bytes + count > self._max_bytes:
            raise SaturatedError(f"{self.bytes} body bytes are in flight already")
        self.bytes += count


class Slot:
    """One request in flight; leaving the `with` gives everything back that it held."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._held = 0

    def hold(self, count: int) -> None:
        """Bring this request's bytes up to `count`. Raises SaturatedError."""
        if count > self._held:
            self._admission.take(count - self._held)
            self._held = count

    def __enter__(self) -> "Slot":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.requests -= 1
        self._admission.bytes -= self._held
        self._held = 0
