"""The fraud pipeline's 15 features by their definitions in plain Python, from the logs that the stages read.

Written from the definitions that `tidemill features explain fraud` prints, not from the engine: rows of a key in sorted
lists, each window found by bisection, each mean one division of a sum of cents. A stage's input is its log in offset
order, so this is what it must have served whatever happened to it meanwhile. Pure.
"""

from bisect import bisect_right
from collections import defaultdict
from datetime import UTC, datetime

from chaosharness.books import Books
from chaosharness.records import Event

_DAY_MS = 86_400_000
_SPANS = (_DAY_MS, 7 * _DAY_MS, 30 * _DAY_MS)
_DELAY = 7 * _DAY_MS
_SATURDAY, _NIGHT_ENDS = 5, 7
Features = list[float | None]


class _Card:
    """One customer's accepted payments by time."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.cents: list[int] = []

    def take(self, event: Event) -> Features:
        at = bisect_right(self.times, event.event_time)
        self.times.insert(at, event.event_time)
        self.cents.insert(at, round(event.amount * 100))
        moment = datetime.fromtimestamp(event.event_time / 1000, UTC)
        features: Features = [event.amount, float(moment.weekday() >= _SATURDAY), float(moment.hour < _NIGHT_ENDS)]
        for span in _SPANS:
            first = bisect_right(self.times, event.event_time - span)
            count = at + 1 - first
            features += [float(count), sum(self.cents[first : at + 1]) / (100 * count)]
        return features


class _Terminal:
    """One terminal's payments by time, and which are known to be frauds."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.ids: list[str] = []
        self.fraud: dict[str, int] = {}

    def take(self, event: Event) -> Features:
        at = bisect_right(self.times, event.event_time)
        self.times.insert(at, event.event_time)
        self.ids.insert(at, event.id)
        end = bisect_right(self.times, event.event_time - _DELAY)
        features: Features = []
        for span in _SPANS:
            first = bisect_right(self.times, event.event_time - _DELAY - span)
            frauds = sum(self.fraud.get(name, 0) for name in self.ids[first:end])
            features += [float(end - first), frauds / (end - first) if end > first else 0.0]
        return features


def recompute(books: Books) -> dict[str, Features]:
    """The vector of every event in the second stage's log, by id; of none that the first stage cannot have sent.

    What the stage refused has no part in it."""
    firsts = _first_stage(books)
    refused = books.dead(books.stages[1], books.names["rekeyed"])
    vectors: dict[str, Features] = {}
    for number, lines in sorted(books.streams["rekeyed"].items()):
        terminals: dict[str, _Terminal] = defaultdict(_Terminal)
        for line in lines:
            if (number, line.offset) in refused:
                continue
            if (label := books.passed_labels.get((line.id, line.offset))) is not None:
                terminals[label.terminal].fraud[line.id] = label.fraud
            elif line.id in firsts:
                event = books.events[line.id]
                vectors[line.id] = firsts[line.id] + terminals[event.terminal].take(event)
    return vectors


def _first_stage(books: Books) -> dict[str, Features]:
    """By customer; a customer's events all are in one partition. The first of several of one id counts; what was
    refused as late does not."""
    refused = books.dead(books.stages[0], books.names["events"])
    features: dict[str, Features] = {}
    for number, lines in sorted(books.streams["events"].items()):
        cards: dict[str, _Card] = defaultdict(_Card)
        for line in lines:
            if line.id not in features and (number, line.offset) not in refused:
                event = books.events[line.id]
                features[line.id] = cards[event.customer].take(event)
    return features
