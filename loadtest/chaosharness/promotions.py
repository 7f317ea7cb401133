"""Which published models had to be taken over in which partition. Pure: it is told the time and what was read.

Promised is that a newer activation takes effect between two units of work of a partition; not promised is how soon an
instance has it. One that comes before the partition's next unit replaces the one before, which is then rightly never
recorded. So a promotion counts as due in a partition only if vectors were written there IN_GOOD_TIME_S after it was
read, and were predicted IN_GOOD_TIME_S before the next one was read.
"""

from collections import deque
from collections.abc import Mapping

IN_GOOD_TIME_S = 30.0
"""Several times what a lost answer of the broker, which is noticed after 5 s, can keep a model from an instance."""
_NOTED_EVERY_S = 1.0


class Promotions:
    """`opens` has, by epoch and partition, the offset of `features` from which on vectors were written in good time;
    `closes` how many predictions of the partition count. An epoch without `opens` had no time; one without `closes`
    was the last."""

    def __init__(self) -> None:
        self.opens: dict[int, Mapping[int, int]] = {}
        self.closes: dict[int, Mapping[int, int]] = {}
        self._epoch = 0
        self._since = 0.0
        self._counts: deque[tuple[float, Mapping[int, int]]] = deque()

    def wants_ends(self, now: float) -> bool:
        """Whether it is time to say where the partitions of `features` end."""
        return bool(self._epoch) and self._epoch not in self.opens and now - self._since >= IN_GOOD_TIME_S

    def ends(self, asked_at: float, ends: Mapping[int, int]) -> None:
        """The ends of `features`, which were asked for at `asked_at`."""
        if self.wants_ends(asked_at):
            self.opens[self._epoch] = dict(ends)

    def read(self, now: float, epoch: int, predicted: Mapping[int, int]) -> None:
        """The newest epoch read so far, and how many predictions of each partition."""
        while len(self._counts) > 1 and self._counts[1][0] <= now - IN_GOOD_TIME_S:
            self._counts.popleft()
        if epoch > self._epoch:
            if self._epoch:
                self.closes[self._epoch] = self._long_before(now)
            self._epoch, self._since = epoch, now
        if not self._counts or now - self._counts[-1][0] >= _NOTED_EVERY_S:
            self._counts.append((now, dict(predicted)))

    def _long_before(self, now: float) -> Mapping[int, int]:
        at, counts = self._counts[0] if self._counts else (now, {})
        return counts if at <= now - IN_GOOD_TIME_S else {}
