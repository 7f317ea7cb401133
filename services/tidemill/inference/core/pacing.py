"""What a batch costs and how fast rows come, learned from those that came before. Pure: time is an argument.

Together they answer whether a batch should wait for more rows. Dispatched at n rows of a padded size B, batches are
served at n / T(B) rows a second. Where rows come faster than that, a fuller batch serves more of them within their
deadlines; where they come slower, waiting only adds latency. So waiting pays while n < rate · T(B).
"""

from math import exp

_MEMORY_BATCHES = 64.0
"""About so many of the latest batches decide: a swap, a neighbour on the machine or a hotter chip shows soon."""
_SURPRISE = 4.0
"""A batch that takes so many times what was expected counts as just that: it was a pause of the process."""
_ENOUGH = 8.0
_RATE_OVER_S = 0.05


class BatchCost:
    """Seconds of a batch as a line over its padded rows, t = a·n + b, by least squares with exponential forgetting."""

    def __init__(self) -> None:
        self._weight = self._n = self._t = self._nn = self._nt = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """A batch of `rows`, padding included, took so long."""
        expected = self.seconds(rows)
        if self._weight > _ENOUGH and expected:
            seconds = min(seconds, _SURPRISE * expected)
        keep = 1 - 1 / _MEMORY_BATCHES
        self._weight = self._weight * keep + 1
        self._n = self._n * keep + rows
        self._t = self._t * keep + seconds
        self._nn = self._nn * keep + rows * rows
        self._nt = self._nt * keep + rows * seconds

    def seconds(self, rows: int) -> float:
        """Of a batch of so many padded rows; 0 while nothing is known. Beyond a single size that was seen, time is
        taken to grow with the rows."""
        if not self._weight:
            return 0.0
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        spread = self._nn / self._weight - mean_n * mean_n
        if spread < 1e-6 * mean_n * mean_n:
            return mean_t * max(1.0, rows / mean_n)
        slope = max(0.0, (self._nt / self._weight - mean_n * mean_t) / spread)
        return max(0.0, mean_t - slope * mean_n) + slope * rows


class ArrivalRate:
    """Rows a second over about the last 50 ms, weighted exponentially."""

    def __init__(self) -> None:
        self._rows = 0.0
        self._at = float("-inf")

    def observe(self, rows: int, now: float) -> None:
        self._rows = self._faded(now) + rows
        self._at = now

    def per_second(self, now: float) -> float:
        return self._faded(now) / _RATE_OVER_S

    def _faded(self, now: float) -> float:
        return self._rows * exp((self._at - now) / _RATE_OVER_S) if self._rows else 0.0
