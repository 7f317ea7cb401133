"""Simulated payments as the raw records that arrive on the wire, in the order in which a day would bring them.

Three kinds are merged by stream time: payments when they are paid, chargebacks when their truth becomes known, and bad
records a few seconds after the good payment they imitate. Bad records come on top: no valid payment is left out. Pure;
everything follows from the transactions and the settings, and a stream cut in two equals the whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.durations import DAY_MS
from tidemill.scenarios.fraud.badrecords import BAD_KINDS, Original
from tidemill.scenarios.fraud.population import generator_seed
from tidemill.scenarios.fraud.simulator import EPOCH_MS, Transactions, label_delays_ms

PAYMENTS, CHARGEBACKS = "raw-payments", "raw-chargebacks"

_BAD_GENERATOR = 2_000_000_033  # a number that no customer, day or delay uses
_SHORTEST_LAG_MS, _LAG_SPAN_MS = 1_000, 29_000  # a bad record follows its original by 1 to 30 s
_LATER_BY_MS = 2 * 3_600_000  # late records are 1 to 3 h older than allowed
# Order at equal stream time: the truth about earlier payments, then payments, then what imitates them.
_CHARGEBACK, _PAYMENT, _BAD = 0, 1, 2


class WireRecord(NamedTuple):
    """One raw record. `role` names its topic, `timestamp` is the stream time in ms."""

    role: str
    key: bytes
    value: bytes
    timestamp: int


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What part of the simulation to stream, and what to mix in."""

    first_day: int
    """Payments before it do not exist for this stream, nor do their chargebacks."""
    from_ms: int
    """Records begin here; later than `first_day` when an earlier part was streamed before."""
    until_day: int
    """Records end at its midnight: chargebacks known later have not happened yet."""
    seed: int = 0
    bad_share: float = 0.005
    """Bad records, of all kinds together, per valid payment."""
    allowed_lateness_ms: int = 3_600_000
    max_record_bytes: int = 16_384


@dataclass(frozen=True, slots=True)
class Manifest:
    """Exactly what a stream holds."""

    payments: int
    chargebacks: int
    bad: dict[str, int]
    """Records of each bad kind, every kind named."""

    def __add__(self, other: "Manifest") -> "Manifest":
        bad = {kind: count + other.bad[kind] for kind, count in self.bad.items()}
        return Manifest(self.payments + other.payments, self.chargebacks + other.chargebacks, bad)

    @property
    def dead_letters(self) -> dict[str, int]:
        """Dead letters to expect, by code."""
        return {kind.code: self.bad[kind.name] for kind in BAD_KINDS if kind.code}

    @property
    def duplicates(self) -> int:
        """Records to expect in the duplicate counter."""
        return sum(self.bad[kind.name] for kind in BAD_KINDS if kind.code is None)


class PaymentStream:
    """The raw records of `settings`, addressable by position; `times` ascends."""

    def __init__(self, transactions: Transactions, settings: StreamSettings) -> None:
        self._settings = settings
        self._transactions = transactions
        paid_at = transactions.paid_at_ms
        self._known_at = paid_at + label_delays_ms(len(paid_at), settings.seed)
        bad_rows, bad_at, self._bad_kind, self._late_by = self._draw_bad(paid_at)
        rows = np.arange(len(paid_at), dtype=np.int32)
        times = np.concatenate([self._known_at, paid_at, bad_at])
        row = np.concatenate([rows, rows, bad_rows])
        sort = np.repeat(np.array([_CHARGEBACK, _PAYMENT, _BAD], np.int8), [len(rows), len(rows), len(bad_rows)])
        # Position within a sort's own columns: bad records need theirs, a row can have only one.
        own = np.concatenate([rows, rows, np.arange(len(bad_rows), dtype=np.int32)])
        first, end = (EPOCH_MS + day * DAY_MS for day in (settings.first_day, settings.until_day))
        inside = np.flatnonzero((times >= settings.from_ms) & (times < end) & (paid_at[row] >= first))
        order = inside[np.lexsort((row[inside], sort[inside], times[inside]))]
        self.times: NDArray[np.int64] = times[order]
        self._row, self._sort, self._own = row[order], sort[order], own[order]
        self._cards = [b"c-%05d" % number for number in range(int(transactions.customer.max(initial=-1)) + 1)]
        self._terminals = [b"t-%05d" % number for number in range(int(transactions.terminal.max(initial=-1)) + 1)]

    def __len__(self) -> int:
        return len(self.times)

    def manifest(self, count: int | None = None) -> Manifest:
        """What the first `count` records are, or all of them."""
        sort, own = self._sort[:count], self._own[:count]
        kinds = np.bincount(self._bad_kind[own[sort == _BAD]], minlength=len(BAD_KINDS))
        return Manifest(
            payments=int((sort == _PAYMENT).sum()),
            chargebacks=int((sort == _CHARGEBACK).sum()),
            bad={kind.name: int(count) for kind, count in zip(BAD_KINDS, kinds, strict=True)},
        )

    def payments_before(self) -> NDArray[np.int64]:
        """For each record, how many payments precede it: what a producer needs to pace by events a second."""
        is_payment = self._sort == _PAYMENT
        before: NDArray[np.int64] = np.cumsum(is_payment) - is_payment
        return before

    def batches(self, step_ms: int) -> Iterator[list[WireRecord]]:
        """All records, those of `step_ms` of stream time at once; empty steps yield nothing."""
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self.times, self.times[first] + step_ms))
            yield self.encode(first, last)
            first = last

    def encode(self, first: int, last: int) -> list[WireRecord]:
        """The records at positions `first` to `last` − 1. About 1 µs a record."""
        rows = self._row[first:last]
        columns = self._transactions
        cards, terminals = self._cards, self._terminals
        records: list[WireRecord] = []
        append, make = records.append, WireRecord._make
        for position, sort, time, row, paid_at, customer, terminal, cents, fraud in zip(
            range(first, last),
            self._sort[first:last].tolist(),
            self.times[first:last].tolist(),
            rows.tolist(),
            columns.paid_at_of(rows).tolist(),
            columns.customer[rows].tolist(),
            columns.terminal[rows].tolist(),
            columns.cents[rows].tolist(),
            columns.fraud[rows].tolist(),
            strict=True,
        ):
            card, place = cards[customer], terminals[terminal]
            if sort == _PAYMENT:
                append(make((PAYMENTS, card, _payment(row, paid_at, card, place, cents), time)))
            elif sort == _CHARGEBACK:
                value = (
                    b'{"v":1,"payment_id":"p-%09d","paid_at_ms":%d,"known_at_ms":%d,"card":"%b","terminal":"%b","fraud":%d}'
                    % (row, paid_at, time, card, place, fraud)
                )
                append(make((CHARGEBACKS, card, value, time)))
            else:
                append(make((PAYMENTS, card, self._bad(position, row, paid_at, card, place, cents), time)))
        return records

    def _bad(self, position: int, row: int, paid_at: int, card: bytes, terminal: bytes, cents: int) -> bytes:
        number = self._own[position]
        original = Original(
            value=_payment(row, paid_at, card, terminal, cents),
            payment_id=f"p-{row:09d}",
            paid_at_ms=paid_at,
            card=card.decode(),
            terminal=terminal.decode(),
            amount=f"{cents // 100}.{cents % 100:02d}",
            number=row,
            late_event_ms=paid_at - int(self._late_by[number]),
            oversize_bytes=self._settings.max_record_bytes,
        )
        return BAD_KINDS[self._bad_kind[number]].encode(original)

    def _draw_bad(
        self, paid_at: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int8], NDArray[np.int64]]:
        """Row, stream time, kind and lateness of each bad record: one draw per payment, so any part agrees with any."""
        settings = self._settings
        random = np.random.RandomState(generator_seed(settings.seed, _BAD_GENERATOR))
        chance, lag, lateness = random.random_sample((len(paid_at), 3)).T
        rows = np.flatnonzero(chance < settings.bad_share).astype(np.int32)
        kind = (
            (chance[rows] / settings.bad_share * len(BAD_KINDS)).astype(np.int8) if len(rows) else np.zeros(0, np.int8)
        )
        at = paid_at[rows] + _SHORTEST_LAG_MS + (lag[rows] * _LAG_SPAN_MS).astype(np.int64)
        late_by = settings.allowed_lateness_ms + 3_600_000 + (lateness[rows] * _LATER_BY_MS).astype(np.int64)
        return rows, at, kind, late_by


def _payment(row: int, paid_at: int, card: bytes, terminal: bytes, cents: int) -> bytes:
    return b'{"v":1,"payment_id":"p-%09d","paid_at_ms":%d,"card":"%b","terminal":"%b","amount":%d.%02d}' % (
        row,
        paid_at,
        card,
        terminal,
        cents // 100,
        cents % 100,
    )
