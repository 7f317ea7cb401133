"""The records of the shipped `fraud` pipeline as ingest would have written them: events, and labels once known.

Events come from the published simulator. Their features can be told from columns alone, so every output of B3 is held
against an answer that no part of the engine took part in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.durations import DAY_MS
from tidemill.scenarios.fraud.cache import default_cache_dir
from tidemill.scenarios.fraud.simulator import EPOCH_MS, label_delays_ms, simulate

_EVENTS_A_DAY = 9_000
"""Fewer than a day of the simulator's 5,000 customers has."""
_WINDOW_DAYS = (1, 7, 30)
_DELAY_MS = 7 * DAY_MS

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Payments:
    """Columns of equal length, `times` ascending; a row's position is the payment's number."""

    times: Int64s
    customers: Int64s
    terminals: Int64s
    cents: Int64s
    frauds: Int64s
    known_at: Int64s

    def __len__(self) -> int:
        return len(self.times)

    def event(self, row: int) -> tuple[bytes, bytes, int]:
        """(key, value, timestamp) on the topic of events."""
        return next(self.events(row, row + 1))

    def events(self, begin: int, end: int) -> Iterator[tuple[bytes, bytes, int]]:
        columns = (self.times, self.customers, self.terminals, self.cents)
        for row, time, customer, terminal, cents in zip(
            range(begin, end), *(column[begin:end].tolist() for column in columns), strict=True
        ):
            value = b'{"v":1,"id":"%d","event_time":%d,"customer":"c-%07d","terminal":"t-%07d","amount":%d.%02d}' % (
                row,
                time,
                customer,
                terminal,
                cents // 100,
                cents % 100,
            )
            yield name(customer), value, time

    def label(self, row: int) -> tuple[bytes, bytes, int]:
        """(key, value, timestamp) on the topic of labels."""
        customer, known_at = int(self.customers[row]), int(self.known_at[row])
        value = (
            b'{"v":1,"id":"%d","event_time":%d,"known_at":%d,"customer":"c-%07d","terminal":"t-%07d","fraud":%d}'
            % (row, self.times[row], known_at, customer, self.terminals[row], self.frauds[row])
        )
        return name(customer), value, known_at

    def merged(self, begin: int, end: int) -> Iterator[tuple[bool, int]]:
        """(is it a label, row) from event `begin` to before event `end`, as time brings them: what is known by then.

        Labels due before event `begin` belong to an earlier part, those due after the last event to a later one.
        """
        since = int(self.times[begin]) if begin else 0
        until = int(self.times[end]) if end < len(self) else int(self.times[-1])
        due = np.flatnonzero((self.known_at >= since) & (self.known_at < until))
        due = due[due < end]
        times = np.concatenate([self.times[begin:end], self.known_at[due]])
        rows = np.concatenate([np.arange(begin, end), due])
        for place in np.argsort(times, kind="stable").tolist():
            yield place >= end - begin, int(rows[place])


def name(customer: int) -> bytes:
    """The key of a customer's records."""
    return b"c-%07d" % customer


def simulated(count: int, seed: int) -> Payments:
    """The first `count` payments of the simulation and their labels."""
    drawn = simulate(-(-count // _EVENTS_A_DAY) + 1, seed=seed, cache_dir=default_cache_dir())
    times = drawn.second[:count].astype(np.int64) * 1_000 + EPOCH_MS
    if len(times) < count:
        raise ValueError(f"the simulation has {len(times)} payments, not {count}")
    columns = (drawn.customer, drawn.terminal, drawn.cents, drawn.fraud)
    customers, terminals, cents, frauds = (column[:count].astype(np.int64) for column in columns)
    return Payments(times, customers, terminals, cents, frauds, times + label_delays_ms(count, seed))


def features(payments: Payments) -> NDArray[np.float64]:
    """float64[n, 15] in the order of the pipeline file, each figure as the file defines it."""
    out = np.empty((len(payments), 15))
    out[:, 0] = payments.cents / 100
    out[:, 1] = (payments.times // DAY_MS + 3) % 7 >= 5
    out[:, 2] = payments.times // 3_600_000 % 24 <= 6
    customers = _ByKey(payments.customers, payments.times)
    terminals = _ByKey(payments.terminals, payments.times)
    for at, days in enumerate(_WINDOW_DAYS):
        count, cents = customers.upto_itself(days * DAY_MS, payments.cents)
        out[:, 3 + 2 * at] = count
        out[:, 4 + 2 * at] = cents / (count * 100)
        count, frauds = terminals.delayed(days * DAY_MS, _DELAY_MS, payments.frauds)
        out[:, 9 + 2 * at] = count
        out[:, 10 + 2 * at] = np.where(count > 0, frauds / np.maximum(count, 1), 0.0)
    return out


class _ByKey:
    """Rows sorted by (key, time, arrival), so that a window of a key is a range of them."""

    def __init__(self, keys: Int64s, times: Int64s) -> None:
        self._order = np.lexsort((times, keys))
        self._span = int(times.max() - times.min()) + 1 + 100 * DAY_MS
        self._at = times[self._order] - times.min() + 50 * DAY_MS
        self._base = keys[self._order] * self._span
        self._places = self._base + self._at

    def upto_itself(self, window: int, values: Int64s) -> tuple[Int64s, Int64s]:
        """Rows and sum of `values` over (t − window, t], of those that arrived no later than the row itself."""
        first = np.searchsorted(self._places, self._base + self._at - window, "right")
        return self._between(first, np.arange(1, len(self._order) + 1), values)

    def delayed(self, window: int, delay: int, values: Int64s) -> tuple[Int64s, Int64s]:
        """Rows and sum of `values` over (t − delay − window, t − delay]."""
        first = np.searchsorted(self._places, self._base + self._at - delay - window, "right")
        last = np.searchsorted(self._places, self._base + self._at - delay, "right")
        return self._between(first, last, values)

    def _between(self, first: Int64s, last: Int64s, values: Int64s) -> tuple[Int64s, Int64s]:
        before = np.concatenate([[0], np.cumsum(values[self._order])])
        count, total = np.empty(len(first), np.int64), np.empty(len(first), np.int64)
        count[self._order] = last - first
        total[self._order] = before[last] - before[first]
        return count, total
