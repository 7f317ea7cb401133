"""One run that puts dead letters back: first a look that changes nothing, then batches, each a transaction.

The order is what makes it safe: fence earlier runs, which ends their open transaction; read the markers; only then
judge letters. A batch whose producer had to be renewed meanwhile is judged again by markers read anew.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from tidemill import clock
from tidemill.runtime.letters import Letter, Position, Selection, read_letter
from tidemill.runtime.reinjection import HELD_BACK, Fate, Ledger, Places, forget, marker
from tidemill.runtime.service import OutRecord, Record

BATCH_RECORDS = 500
BATCH_BYTES = 8 << 20
SHOWN = 20
"""So many positions are named of those that are held back."""


class Desk(Protocol):
    """The dead-letter topic and the marker topic of one pipeline, as this run sees them."""

    marker_topic: str

    def letters(self) -> Iterator[Record]:
        """Committed records of the dead-letter topic, up to where it ended when the run began."""
        ...

    def ledger(self) -> Ledger:
        """The markers that are committed at this moment."""
        ...

    def low(self) -> dict[int, int]:
        """The first offset of each partition of the dead-letter topic."""
        ...


class Writer(Protocol):
    """Writes in transactions under one identity a pipeline."""

    def start(self) -> None:
        """Fence earlier runs. Once it returns, what they wrote is committed or gone."""
        ...

    def write(self, records: Sequence[OutRecord]) -> bool:
        """All of it, committed, or nothing: False if the producer had to be renewed before, which another run may have
        used. Raises TidemillError where the outcome is not certain or another run has taken over."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for. `limit` counts letters that are put back."""

    selection: Selection
    places: Places
    max_attempts: int = 3
    limit: int | None = None
    rate: float | None = None
    """At most so many letters a second."""
    repaired: bytes | None = None
    """Written in place of the value."""


@dataclass(slots=True)
class Tally:
    """How many letters had which fate; what was, or would be, put back by reason and by topic."""

    fates: Counter[Fate] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    topics: Counter[str] = field(default_factory=Counter)
    held_back: list[tuple[Position, Fate]] = field(default_factory=list)
    unreadable: int = 0

    def count(self, letter: Letter, fate: Fate) -> None:
        self.fates[fate] += 1
        if fate is Fate.REPLAY:
            self.codes[letter.code] += 1
            self.topics[letter.original.topic] += 1
        elif fate in HELD_BACK and len(self.held_back) < SHOWN:
            self.held_back.append((letter.position, fate))

    @property
    def replayed(self) -> int:
        return self.fates[Fate.REPLAY]

    @property
    def in_need(self) -> int:
        """Letters that were asked for and cannot be put back as they are."""
        return sum(self.fates[fate] for fate in HELD_BACK)


def look(desk: Desk, order: Order) -> Tally:
    """What `deliver` would do at this moment. Writes nothing and fences nobody."""
    tally = Tally()
    ledger = desk.ledger()
    for _ in islice(_due(desk, order, ledger, tally), order.limit):
        pass
    return tally


def deliver(desk: Desk, writer: Writer, order: Order, progress: Callable[[int], None]) -> Tally:
    """Put back what is asked for. `progress(n)` is called after each committed batch with its number of letters.

    Blocks until it is done; `rate` makes it wait between batches. Raises TidemillError; what was committed until then
    has its markers, and another run goes on behind it.
    """
    writer.start()
    tally, ledger = Tally(), desk.ledger()
    _forget_expired(desk, writer, ledger)
    began = clock.monotonic()
    due = islice(_due(desk, order, ledger, tally), order.limit)
    size = BATCH_RECORDS if order.rate is None else max(1, min(BATCH_RECORDS, int(order.rate)))
    delivered = 0
    while batch := _batch(due, size):
        while not _write(desk, writer, order, batch):
            ledger.done = desk.ledger().done
            again = [letter for letter in batch if not ledger.holds(letter)]
            for letter in (letter for letter in batch if ledger.holds(letter)):
                tally.fates.update({Fate.REPLAY: -1, Fate.REPLAYED_BEFORE: 1})
                tally.codes[letter.code] -= 1
                tally.topics[letter.original.topic] -= 1
            batch = again
        ledger.done |= {letter.position: letter.sha256 for letter in batch}
        delivered += len(batch)
        progress(len(batch))
        if order.rate is not None:
            clock.pause(max(0.0, began + delivered / order.rate - clock.monotonic()))
    return tally


def _due(desk: Desk, order: Order, ledger: Ledger, tally: Tally) -> Iterator[Letter]:
    """The letters to put back, in the order of their topic; every other one is only counted."""
    for record in desk.letters():
        letter = read_letter(record)
        if letter is None:
            tally.unreadable += 1
        elif order.selection.wants(letter):
            fate = order.places.fate(letter, ledger, order.max_attempts)
            tally.count(letter, fate)
            if fate is Fate.REPLAY:
                yield letter


def _batch(due: Iterator[Letter], records: int) -> list[Letter]:
    batch: list[Letter] = []
    held = 0
    while len(batch) < records and held < BATCH_BYTES and (letter := next(due, None)) is not None:
        batch.append(letter)
        held += len(letter.original.value or b"")
    return batch


def _write(desk: Desk, writer: Writer, order: Order, batch: Sequence[Letter]) -> bool:
    now = clock.wall_ms()
    records = [order.places.record(letter, order.repaired) for letter in batch]
    return writer.write([*records, *(marker(letter, desk.marker_topic, now) for letter in batch)])


def _forget_expired(desk: Desk, writer: Writer, ledger: Ledger) -> None:
    """Markers of letters that are gone are removed, so that the marker topic stays as long as the letters' own."""
    now = clock.wall_ms()
    expired = iter([forget(position, desk.marker_topic, now) for position in ledger.expired(desk.low())])
    while chunk := list(islice(expired, BATCH_RECORDS)):
        while not writer.write(chunk):
            pass
