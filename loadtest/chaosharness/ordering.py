"""The audit's questions about order: what each hop promises, and nothing beyond it. Pure.

A stage takes the records of one input partition in the order of the log, and writes to any one partition of its output
in the order in which it took them. So, of what came from one partition and went to one partition, the order stays. How
records of several partitions interleave behind a hop that changes the key is promised to nobody.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from chaosharness.books import INFERENCE, INGEST, OUTCOMES, Books, Line

Place = tuple[int, int]
"""Partition and offset."""


def order_is_kept(books: Books) -> list[str]:
    """Of a key out of ingest, whose input has records without a readable id; of a partition behind every other hop."""
    wrong = []
    for topic, stream in ((books.raw_topic, "events"), (books.raw_label_topic, "labels")):
        dead = books.dead(INGEST, topic)
        came: dict[bytes, list[str | None]] = defaultdict(list)
        for place, (name, key) in books.raw[topic].items():
            if place not in dead:
                came[key].append(name)
        wrong += _sequences(f"{topic} → {stream}", came, _by_key(books, stream))
    first, second = books.stages
    rekeyed = books.streams["rekeyed"]
    for hop, origins, left in (
        ("events → rekeyed", _origins(books, "events", first), _only(books, rekeyed, labels=False)),
        ("labels → rekeyed", _origins(books, "labels", first), _only(books, rekeyed, labels=True)),
        ("rekeyed → features", _rekeyed_origins(books, second), books.streams["features"]),
        ("features → predictions", _origins(books, "features", INFERENCE), books.streams["predictions"]),
        ("predictions → outcomes", _origins(books, "predictions", OUTCOMES), books.streams["outcomes"]),
    ):
        wrong += _risings(hop, origins, left)
    return wrong + _labels_follow_their_events(books)


def _labels_follow_their_events(books: Books) -> list[str]:
    """The first stage hands a label on only once it holds the event, which it has handed on by then."""
    wrong = []
    for lines in books.streams["rekeyed"].values():
        handed: set[str] = set()
        for line in lines:
            if (line.id, line.offset) not in books.passed_labels:
                handed.add(line.id)
            elif line.id not in handed:
                wrong.append(f"rekeyed: the label of {line.id} stands in front of its event")
    return wrong


def _risings(hop: str, origins: Mapping[str, Place], left: Mapping[int, Iterable[Line]]) -> list[str]:
    wrong = []
    for number, lines in left.items():
        newest: dict[int, int] = {}
        for line in lines:
            if (place := origins.get(line.id)) is None:
                continue  # what was made of nothing is a finding of another question
            source, offset = place
            if offset < newest.get(source, -1):
                wrong.append(f"{hop}: {line.id} came to partition {number} behind a later record of partition {source}")
            newest[source] = max(offset, newest.get(source, -1))
    return wrong


def _origins(books: Books, stream: str, stage: str) -> dict[str, Place]:
    """The place of the first record of each id that the stage did not refuse: of duplicates, the first counts."""
    dead = books.dead(stage, books.names[stream])
    places: dict[str, Place] = {}
    for number, lines in books.streams[stream].items():
        for line in lines:
            if (number, line.offset) not in dead:
                places.setdefault(line.id, (number, line.offset))
    return places


def _rekeyed_origins(books: Books, stage: str) -> dict[str, Place]:
    dead = books.dead(stage, books.names["rekeyed"])
    return {
        line.id: (number, line.offset)
        for number, lines in _only(books, books.streams["rekeyed"], labels=False).items()
        for line in lines
        if (number, line.offset) not in dead
    }


def _only(books: Books, lines_of: Mapping[int, Sequence[Line]], *, labels: bool) -> dict[int, list[Line]]:
    return {
        number: [line for line in lines if ((line.id, line.offset) in books.passed_labels) == labels]
        for number, lines in lines_of.items()
    }


def _by_key(books: Books, stream: str) -> dict[bytes, list[str | None]]:
    keys: dict[bytes, list[str | None]] = defaultdict(list)
    for _, lines in sorted(books.streams[stream].items()):
        for line in lines:
            keys[line.key].append(line.id)
    return keys


def _sequences(
    hop: str, came: Mapping[bytes, Sequence[str | None]], left: Mapping[bytes, Sequence[str | None]]
) -> list[str]:
    return [
        f"{hop}: the order of key {key.decode(errors='replace')} changed"
        for key, ids in left.items()
        if list(came.get(key, ())) != list(ids)
    ]
