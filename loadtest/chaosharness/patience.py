"""How long the audit reads on once it was asked to close. Pure: it is told the time."""

from typing import Literal

Ending = Literal["complete", "quiet", "overdue"]
_COMPLETE_SHARE = 1 / 4
"""Of the silence that is waited for, once everything is there: something may yet come too often."""
_LONGEST = 20.0
"""Times the silence in all: a trickle of records is no silence, and must not hold the audit for ever."""


class Patience:
    """Begins at `now`, in seconds; `quiet_s` is the silence after which a stream that lacks something has ended."""

    def __init__(self, quiet_s: float, now: float) -> None:
        self._quiet_s = quiet_s
        self._until = now + _LONGEST * quiet_s

    def ending(self, now: float, news_at: float, complete: bool) -> Ending | None:
        """None: read on. `overdue`: records kept coming, though the stream should have ended long ago."""
        if now - news_at > self._quiet_s * (_COMPLETE_SHARE if complete else 1):
            return "complete" if complete else "quiet"
        return "overdue" if now > self._until else None
