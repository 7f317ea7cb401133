"""The audit's questions about state: what the changelogs hold, against what their stages have read. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from chaosharness.books import OUTCOMES, Books

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000


class Row(NamedTuple):
    """An event that a keyed stage holds, the hash of its id, and its amount in cents; None where no window of the stage
    asks for amounts."""

    event_time: int
    id_hash: str
    cents: int | None


class Holding(NamedTuple):
    """What a changelog says of one key: its events, and the label that each event has come to by the hash of its id."""

    rows: list[Row]
    flags: dict[tuple[int, str], int]


def state_equals_inputs(
    books: Books, index: int, held: Mapping[str, Holding], hash_of: Mapping[str, str], look_back_ms: int
) -> list[str]:
    """A key's rows in the changelog of stage `index` are its newest events, none missing and none twice, back as far as
    any window, each with its amount; each of them has the label that the stage took for it, and no other has one."""
    stage, name = books.entities[index], books.stages[index]
    late = _refused(books, "events", books.stages[0]) | (_refused(books, "rekeyed", name) if index else set())
    amounts = any(row.cents is not None for holding in held.values() for row in holding.rows)
    inputs: dict[str, list[tuple[Row, str]]] = defaultdict(list)
    newest = 0
    for event in books.events.values():
        if event.id not in late:
            cents = round(event.amount * 100) if amounts else None
            inputs[getattr(event, stage)].append((Row(event.event_time, hash_of[event.id], cents), event.id))
            newest = max(newest, event.event_time)
    labels = _labels_taken(books, index)
    wrong = []
    for key, holding in held.items():
        have, came = sorted(holding.rows), sorted(inputs[key])
        missing = len(came) - len(have)
        if missing < 0 or have != [row for row, _ in came[missing:]]:
            wrong.append(f"{stage} {key}: {len(have)} rows are not the newest of its {len(came)} events")
            continue
        if missing and came[missing - 1][0].event_time > came[-1][0].event_time - look_back_ms:
            wrong.append(f"{stage} {key}: {len(have)} rows of {len(came)} events, and windows look back to more")
        flags = {row[:2]: labels[name] for row, name in came[missing:] if name in labels}
        if flags != holding.flags:
            wrong.append(f"{stage} {key}: {_apart(flags, holding.flags)} differences to the labels of its events")
    return wrong + [
        f"{stage} {key}: no state, though its last event is recent"
        for key, came in inputs.items()
        if key not in held and max(came)[0].event_time > newest - look_back_ms // 2
    ]


class Waiting(NamedTuple):
    """A label that the outcomes hold, as the labels' topic has it."""

    id: str
    event_time: int
    known_at: int
    label: int


def waiting_labels_are_held(books: Books, held: Mapping[int, Sequence[Waiting]], shadows: int) -> list[str]:
    """Each partition holds the labels that were known in time, of events no more than a day, in whole hours, behind its
    newest outcome; and no challenger's score."""
    maturity = books.pipeline.outcomes.maturity
    dead = _refused(books, "labels", OUTCOMES)
    newest = {
        number: max(books.events[line.id].event_time for line in lines if line.id in books.events)
        for number, lines in books.streams["outcomes"].items()
        if any(line.id in books.events for line in lines)
    }
    wanted: dict[int, set[Waiting]] = defaultdict(set)
    for name, known in books.labels.items():
        horizon = newest[known.partition] // _HOUR_MS * _HOUR_MS - _DAY_MS if known.partition in newest else -1
        in_time = known.known_at <= known.event_time + maturity
        if known.event_time > horizon and in_time and name not in dead:
            wanted[known.partition].add(Waiting(name, known.event_time, known.known_at, known.fraud))
    wrong = []
    for number in wanted.keys() | held.keys():
        have = held.get(number, ())
        if len(have) != len(set(have)):
            wrong.append(f"outcomes {number}: a label is held twice")
        wrong += [f"outcomes {number}: the label of {name} is not held" for name, *_ in wanted[number] - set(have)]
        wrong += [f"outcomes {number}: a label of {name} is held" for name, *_ in set(have) - wanted[number]]
    return wrong + ([f"outcomes: {shadows} scores of a challenger are held, and there was none"] if shadows else [])


def _labels_taken(books: Books, index: int) -> dict[str, int]:
    """What the stage knows of each event that it was given a label for."""
    if index == 0:
        refused = _refused(books, "labels", books.stages[0])
        return {name: known.fraud for name, known in books.labels.items() if name not in refused}
    dead = books.dead(books.stages[index], books.names["rekeyed"])
    return {
        line.id: label.fraud
        for number, lines in books.streams["rekeyed"].items()
        for line in lines
        if (number, line.offset) not in dead and (label := books.passed_labels.get((line.id, line.offset)))
    }


def _refused(books: Books, stream: str, stage: str) -> set[str]:
    """Ids of which a stage refused every record that it read of a stream, labels among events left out."""
    dead = books.dead(stage, books.names[stream])
    if not dead:
        return set()
    refused, taken = set(), set()
    for number, lines in books.streams[stream].items():
        for line in lines:
            if stream == "rekeyed" and (line.id, line.offset) in books.passed_labels:
                continue
            (refused if (number, line.offset) in dead else taken).add(line.id)
    return refused - taken


def _apart(one: Mapping[tuple[int, str], int], other: Mapping[tuple[int, str], int]) -> int:
    return len(one.items() ^ other.items())
