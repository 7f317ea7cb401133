"""One time limit for a whole callback, passed down; and a guard for calls that ignore theirs."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tidemill import clock

WATCHDOG_EXIT_CODE = 70


class Deadline:
    """A moment that everything done in its name must keep."""

    def __init__(self, seconds: float) -> None:
        self._at = clock.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - clock.monotonic())

    @property
    def passed(self) -> bool:
        return self.remaining == 0.0

    def at_most(self, seconds: float) -> float:
        """A time-out for one step: `seconds`, or what is left if that is less."""
        return min(seconds, self.remaining)


def _end_process(doing: str) -> None:
    line = f'{{"level": "critical", "event": "call did not return", "doing": "{doing}"}}\n'
    sys.stderr.write(line)
    sys.stderr.flush()
    os._exit(WATCHDOG_EXIT_CODE)


class Watchdog:
    """Ends the process when a guarded call does not return: librdkafka's send_offsets_to_transaction can hang when a
    broker goes away (its issues 5456, 5511), and nothing in the process can interrupt it.

    The next start aborts the orphaned transaction. One daemon thread, started with the first guard.
    """

    def __init__(self, limit_s: float, on_expiry: Callable[[str], None] = _end_process) -> None:
        self._limit_s = limit_s
        self._on_expiry = on_expiry
        self._doing: str | None = None
        self._expires = 0.0
        self._thread: threading.Thread | None = None

    @contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """The body must end within the limit. Not reentrant."""
        self._expires = clock.monotonic() + self._limit_s
        self._doing = doing
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        try:
            yield
        finally:
            self._doing = None

    def _watch(self) -> None:
        while True:
            clock.pause(self._limit_s / 4)
            doing = self._doing
            if doing is not None and clock.monotonic() > self._expires:
                self._on_expiry(doing)
                return
