"""The audit's questions about what the records say, from hop to hop. Pure."""

from collections.abc import Mapping, Sequence

from chaosharness.books import Books, Line, packed, unpacked


def records_are_carried_on(books: Books) -> list[str]:
    """Each stage writes into a record and leaves the rest as it was, byte for byte: a prediction holds the very vector
    that was served, an outcome the very prediction. A label is handed on as it is."""
    first, _ = books.stages
    events, labels = _bodies(books, "events", first), _bodies(books, "labels", first)
    wrong = []
    for line in _lines(books, "rekeyed"):
        is_label = (line.id, line.offset) in books.passed_labels
        wrong += _compared("rekeyed", line, labels if is_label else events)
    for stream, wanted in (
        ("features", events),
        ("predictions", _bodies(books, "features")),
        ("outcomes", _bodies(books, "predictions")),
    ):
        for line in _lines(books, stream):
            wrong += _compared(stream, line, wanted)
    return wrong


def records_are_what_they_say(books: Books) -> list[str]:
    """Key and timestamp of each record are those of its content, and a decision is that of its score."""
    return [f"{what}: {len(ids)} records, first {ids[0]}" for what, ids in books.flaws.items()]


def vectors_equal(books: Books, recomputed: Mapping[str, Sequence[float | None]]) -> list[str]:
    """Every served vector is, to the last bit, what the operators give over the whole log at once."""
    wrong = [
        f"{name}: served {unpacked([served]).tolist()[0]}, recomputed {list(recomputed[name])}"
        for name, served in books.vectors.items()
        if name in recomputed and served != packed(list(recomputed[name]))
    ]
    return wrong + [f"{name} was served and cannot be recomputed" for name in books.vectors if name not in recomputed]


def _compared(stream: str, line: Line, wanted: Mapping[str, int]) -> list[str]:
    """What was made of nothing is a finding of another question."""
    if wanted.get(line.id, line.carried) == line.carried:
        return []
    return [f"{stream}: {line.id} at {line.offset} does not hold the record that it was made from"]


def _bodies(books: Books, stream: str, stage: str = "") -> dict[str, int]:
    """Of the first record of each id that `stage` did not refuse."""
    dead = books.dead(stage, books.names[stream]) if stage else set()
    bodies: dict[str, int] = {}
    for number, lines in books.streams[stream].items():
        for line in lines:
            if (number, line.offset) not in dead:
                bodies.setdefault(line.id, line.body)
    return bodies


def _lines(books: Books, stream: str) -> list[Line]:
    return [line for lines in books.streams[stream].values() for line in lines]
