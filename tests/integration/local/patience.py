"""Waiting for other processes, never longer than a deadline."""

from collections.abc import Callable
from pathlib import Path

from tidemill import clock


def until(condition: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
    """Return as soon as `condition` holds; fail, saying `what` did not happen, when `within_s` have passed."""
    deadline = clock.monotonic() + within_s
    while not condition():
        assert clock.monotonic() < deadline, f"{what}: not within {within_s} s"
        clock.pause(0.02)


def alive(pid: int) -> bool:
    """True while `pid` runs; a zombie that nobody has reaped yet does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
