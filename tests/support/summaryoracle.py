"""Summaries worked out the slow way: every window is the list of its raw events, looked at afresh each time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, NamedTuple

from tidemill.domain.summaryspec import SummaryField, SummarySpec

CENTS = 100


class Payment(NamedTuple):
    key: str
    identity: int
    time: int
    cents: int
    channel: str


class Mark(NamedTuple):
    """A watermark record of the partition itself."""

    watermark: int


class Written(NamedTuple):
    summary: str
    key: str
    start: int
    end: int
    revision: int
    values: dict[str, Any]


@dataclass
class Box:
    """Events of one window; `revision` −1 while it is open."""

    start: int
    end: int
    closes: int
    events: list[Payment] = field(default_factory=list)
    revision: int = -1


class Oracle:
    """One partition of a first stage."""

    def __init__(self, summaries: Sequence[SummarySpec], lateness: int) -> None:
        self._summaries = summaries
        self._lateness = lateness
        self._boxes: dict[tuple[int, str], list[Box]] = {}
        self.accepted: set[Payment] = set()
        self._newest: dict[str, int] = {}
        self.watermark = -(10**15)
        self.missed = 0

    def take(self, item: Payment | Mark) -> list[Written]:
        """What is written on account of this record."""
        if isinstance(item, Mark):
            self.watermark = max(self.watermark, item.watermark)
            return list(self._close())
        late = item.time < self._newest.get(item.key, item.time) - self._lateness
        if item in self.accepted:
            return []
        written = [made for number in range(len(self._summaries)) for made in self._put(number, item, late)]
        if not late:
            self.accepted.add(item)
            self._newest[item.key] = max(self._newest.get(item.key, item.time), item.time)
            self.watermark = max(self.watermark, item.time - self._lateness)
            written += self._close()
        return written

    def _put(self, number: int, item: Payment, late: bool) -> Iterator[Written]:
        summary = self._summaries[number]
        corrects = summary.on_late == "correct"
        if late and not corrects:
            return
        boxes = self._boxes.setdefault((number, item.key), [])
        boxes[:] = [box for box in boxes if box.revision < 0 or box.closes + summary.corrections_for > self.watermark]
        for box in (
            self._of_session(summary, boxes, item)
            if summary.window.type == "session"
            else self._of_time(summary, boxes, item)
        ):
            if box.closes + summary.corrections_for <= self.watermark:
                self.missed += 1
                boxes.remove(box)
            elif not (corrects and item in box.events):
                box.events.append(item)
                if box.revision >= 0 or box.closes <= self.watermark:
                    self._fit(summary, box)
                    yield self._write(number, item.key, box)

    def _of_time(self, summary: SummarySpec, boxes: list[Box], item: Payment) -> list[Box]:
        window = summary.window
        hop = window.hop if window.type == "hopping" else window.size
        found = []
        for number in range((item.time - window.size) // hop, item.time // hop + 1):
            start = number * hop
            if start <= item.time < start + window.size:
                box = next((one for one in boxes if one.start == start), None)
                if box is None:
                    box = Box(start, start + window.size, start + window.size)
                    boxes.append(box)
                found.append(box)
        return found

    def _of_session(self, summary: SummarySpec, boxes: list[Box], item: Payment) -> list[Box]:
        """All open events of the key, cut anew at every silence; `within` is taken to be longer than any session."""
        gap = summary.window.gap

        def near(box: Box) -> bool:
            return any(abs(item.time - one.time) <= gap for one in box.events) or (
                min(one.time for one in box.events) <= item.time <= max(one.time for one in box.events)
            )

        touching = [box for box in boxes if box.revision < 0 and near(box)]
        if touching:
            whole = Box(0, 0, 0, [one for box in touching for one in box.events])
            boxes[:] = [box for box in boxes if box not in touching] + [whole]
            self._fit(summary, whole, item.time)
            return [whole]
        closed = sorted((box for box in boxes if near(box)), key=lambda box: box.start)
        if closed:
            self._fit(summary, closed[0])
            return closed[:1]
        boxes.append(Box(item.time, item.time + gap, item.time + gap + 1))
        return boxes[-1:]

    def _fit(self, summary: SummarySpec, box: Box, *further: int) -> None:
        if summary.window.type == "session":
            times = [one.time for one in box.events] + list(further)
            box.start, box.end = min(times), max(times) + summary.window.gap
            box.closes = box.end + 1

    def _close(self) -> Iterator[Written]:
        due = [
            (box.closes, key.encode(), number, box.start, box)
            for (number, key), boxes in self._boxes.items()
            for box in boxes
            if box.revision < 0 and box.closes <= self.watermark
        ]
        for _, key, number, _, box in sorted(due, key=lambda one: one[:4]):
            yield self._write(number, key.decode(), box)
            if self._summaries[number].on_late == "drop":
                self._boxes[number, key.decode()].remove(box)

    def _write(self, number: int, key: str, box: Box) -> Written:
        box.revision += 1
        summary = self._summaries[number]
        values = {one.name: answer(one, box.events) for one in summary.fields}
        return Written(summary.name, key, box.start, box.end, box.revision, values)


def answer(wanted: SummaryField, events: Sequence[Payment]) -> float | int | None:
    """`where` is one of the two filters that the tests use, or none."""
    taken = [one for one in events if _passes(wanted.where, one)]
    amounts = [one.cents for one in taken]
    count = len(taken)
    match wanted.aggregate:
        case "count":
            return count
        case "sum":
            return float(Fraction(sum(amounts), CENTS))
        case _ if not count:
            return None
        case "mean":
            return float(Fraction(sum(amounts), CENTS * count))
        case "min" | "max":
            return (min(amounts) if wanted.aggregate == "min" else max(amounts)) / CENTS
        case "std":
            mean = Fraction(sum(amounts), count)
            variance = sum((Fraction(one) - mean) ** 2 for one in amounts) / count
            with localcontext() as context:
                context.prec = 60
                root = (Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt() / CENTS
            return float(root)
        case "first":
            return min(enumerate(taken), key=lambda at: (at[1].time, at[0]))[1].cents / CENTS
        case "last":
            return max(enumerate(taken), key=lambda at: (at[1].time, at[0]))[1].cents / CENTS
        case _:
            return float(Fraction(sum(one.channel == wanted.equals for one in taken), count))


def _passes(where: str | None, event: Payment) -> bool:
    match where:
        case None:
            return True
        case 'channel == "web"':
            return event.channel == "web"
        case "amount > 12.5":
            return event.cents > 1_250
        case _:
            raise AssertionError(where)
