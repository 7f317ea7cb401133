"""The only module that reads a clock. Cores take `now` as an argument instead."""

import time


def monotonic() -> float:
    """Seconds on a clock that never goes back; for durations and deadlines only."""
    return time.monotonic()


def wall_ms() -> int:
    """Milliseconds since 1970 UTC; for stamps that people read and for refusing timestamps in the future."""
    return time.time_ns() // 1_000_000


def pause(seconds: float) -> None:
    """Block this thread for `seconds`."""
    time.sleep(seconds)
