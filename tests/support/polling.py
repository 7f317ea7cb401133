"""Waiting in integration tests: until something is true, within a deadline. Never a plain sleep."""

from collections.abc import Callable
from typing import TypeVar

from tidemill import clock

T = TypeVar("T")


def eventually(check: Callable[[], T], *, within_s: float = 20.0, every_s: float = 0.02) -> T:
    """The first true value of `check`; AssertionError if there is none in time."""
    give_up = clock.monotonic() + within_s
    while True:
        value = check()
        if value:
            return value
        assert clock.monotonic() < give_up, f"{check} stayed {value!r} for {within_s:g} s"
        clock.pause(every_s)
