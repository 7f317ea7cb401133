"""Stops a service whose input has gone bad, before it turns a whole topic into dead letters. Pure."""

from collections import deque

from tidemill.domain.pipeline import BreakerSpec
from tidemill.errors import BreakerOpen


class Breaker:
    """Watches the share of dead letters among the last `window_records` records, batch by batch.

    It judges only once that many were seen. A batch counts when `commit` is called: an aborted one leaves no trace.
    """

    def __init__(self, spec: BreakerSpec) -> None:
        self._spec = spec
        self._batches: deque[tuple[int, int]] = deque()
        self._records = 0
        self._dead = 0
        self._pending = (0, 0)

    def check(self, records: int, dead: int) -> None:
        """Raises BreakerOpen if the window, with this batch in it, holds too large a share of dead letters."""
        self._pending = (records, dead)
        seen, bad = self._records + records, self._dead + dead
        for old_records, old_dead in self._batches:
            if seen - old_records < self._spec.window_records:
                break
            seen, bad = seen - old_records, bad - old_dead
        if seen >= self._spec.window_records and bad > self._spec.max_invalid_share * seen:
            raise BreakerOpen(
                f"{bad} of the last {seen} records were invalid, more than {self._spec.max_invalid_share:.0%}",
                hint="fix the producer or the source's mapping, or raise breaker.max_invalid_share; the service goes "
                "on where it stopped",
            )

    def commit(self) -> None:
        """The batch last checked is definite."""
        records, dead = self._pending
        self._pending = (0, 0)
        if not records:
            return
        self._batches.append((records, dead))
        self._records += records
        self._dead += dead
        while self._records - self._batches[0][0] >= self._spec.window_records:
            old_records, old_dead = self._batches.popleft()
            self._records -= old_records
            self._dead -= old_dead
