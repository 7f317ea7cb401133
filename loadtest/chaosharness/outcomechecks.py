"""The audit's questions about outcomes: which there must be, and what they say. Pure."""

from chaosharness.books import OUTCOMES, Books, Known, Line, Truth

_DAY_MS = 86_400_000
_SPREAD_MS = _DAY_MS
"""Labels of the last day are spread over partitions of their own, which come at their own times."""
_GRACE_MS = _DAY_MS
_GRID_MS = 3_600_000
"""Labels whose prediction is a day overdue, by hours of the newest one in its partition, are given up: so says the
feature stages' README."""


def outcomes_are_complete(books: Books) -> list[str]:
    """Each prediction that is ripe by the labels' time has one outcome, no outcome is of anything else, and none was
    passed over by the ones behind it in its partition."""
    maturity = books.pipeline.outcomes.maturity
    counted: dict[str, int] = {}
    for lines in books.streams["outcomes"].values():
        for line in lines:
            counted[line.id] = counted.get(line.id, 0) + 1
    predicted = books.scores.keys()
    wrong = [f"{name} has {count} outcomes" for name, count in counted.items() if count > 1]
    wrong += [f"{name} has an outcome but no prediction" for name in counted if name not in predicted]
    late = set()
    if books.label_time:
        ripe_before = min(books.label_time.values()) - maturity - _SPREAD_MS
        late = {name for name, event in books.events.items() if event.event_time < ripe_before}
    dead = books.dead(OUTCOMES, books.names["predictions"])
    for number, lines in books.streams["predictions"].items():
        passed = _last_of(lines, counted)
        wrong += [
            f"{line.id} is ripe and has no outcome"
            for at, line in enumerate(lines)
            if line.id not in counted and (at < passed or line.id in late) and (number, line.offset) not in dead
        ]
    return wrong


def truths_are_the_labels(books: Books) -> list[str]:
    """An outcome says of its event what a label that was known in time says, or that there is none. A label that came
    in good time, by its partition's order as well, must have been used. Nobody challenges here: there is no shadow."""
    wrong = []
    overdue = _overdue(books)
    for name, truth in books.truths.items():
        if truth.shadow:
            wrong.append(f"the outcome of {name} has the score of a challenger, and there was none")
        if truth != (wanted := _truth(books, name, truth, name in overdue)):
            wrong.append(f"the outcome of {name} says {truth[:3]}, its label {wanted[:3]}")
    return wrong


def _overdue(books: Books) -> set[str]:
    """Whose prediction was settled more than the grace behind another of its partition: an instance that stands still
    keeps back its share of a partition's rows, and seconds are hours of this stream."""
    found = set()
    for lines in books.streams["outcomes"].values():
        newest = 0
        for line in lines:
            if (event := books.events.get(line.id)) is None:
                continue
            newest = max(newest, event.event_time)
            if event.event_time <= newest // _GRID_MS * _GRID_MS - _GRACE_MS:
                found.add(line.id)
    return found


def _truth(books: Books, name: str, said: Truth, overdue: bool) -> Truth:
    rules = books.pipeline.outcomes
    missing = Truth(None, "censored", None, False) if rules.missing_label == "censored" else _NEGATIVE
    known = books.labels.get(name)
    if known is None or overdue or not _counts(known, rules.maturity):
        return missing._replace(shadow=said.shadow)
    labelled = Truth(known.fraud, "labelled", known.known_at, said.shadow)
    surely = known.reached <= known.event_time + rules.maturity - _SPREAD_MS
    return labelled if surely or said.status == "labelled" else missing._replace(shadow=said.shadow)


def _counts(known: Known, maturity_ms: int) -> bool:
    return known.known_at <= known.event_time + maturity_ms


def _last_of(lines: list[Line], named: dict[str, int]) -> int:
    """Index of the last line that has an outcome, −1 without."""
    return next((at for at in range(len(lines) - 1, -1, -1) if lines[at].id in named), -1)


_NEGATIVE = Truth(0, "negative", None, False)
