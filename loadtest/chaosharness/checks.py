"""The audit's questions about numbers: what there must be once, and what died. Each is a function of the books. Pure.

An empty list is right, else it says what is wrong. So it is in `ordering`, `contents`, `modelchecks`, `outcomechecks`
and `statechecks`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from chaosharness.books import INFERENCE, INGEST, Books

_OVERTOOK = "unmatched_label"


def every_input_has_its_output(books: Books) -> list[str]:
    """Each raw record is one event or label, or one dead letter of ingest; each event passes each stage once, or died
    once in it. What another stage refused excuses nobody."""
    wrong = []
    for topic, stream in ((books.raw_topic, "events"), (books.raw_label_topic, "labels")):
        dead = books.dead(INGEST, topic)
        accepted = Counter(name for at, (name, _) in books.raw[topic].items() if at not in dead)
        wrong += _difference(f"{topic} → {stream}", accepted, _count(books, stream))
    first, second = books.stages
    handed = _passed_labels(books)
    wrong += _difference("labels → rekeyed", _once(books, "labels") - _dead_ids(books, "labels", first), handed)
    found = _once(books, "events")
    for stream, reading, stage in (
        ("rekeyed", "events", first),
        ("features", "rekeyed", second),
        ("predictions", "features", INFERENCE),
    ):
        wanted = found - _dead_ids(books, reading, stage)
        found = _count(books, stream) - (handed if stream == "rekeyed" else Counter())
        wrong += _difference(f"{reading} → {stream}", wanted, found)
    return wrong


def dead_letters_are_the_originals(books: Books) -> list[str]:
    """No record died twice in one stage; each letter has key, value, timestamp and headers of the record it names."""
    times = Counter((letter.stage, letter.topic, letter.partition, letter.offset) for letter in books.letters)
    wrong = [f"{place} has {count} dead letters" for place, count in times.items() if count > 1]
    for letter in books.letters:
        place = f"{letter.topic}/{letter.partition}@{letter.offset}"
        original = books.prints.find(letter.topic, letter.partition, letter.offset)
        if original is None:
            wrong.append(f"the dead letter of {place}, by {letter.stage}, is of a record that nobody wrote")
        elif original != letter.print:
            wrong.append(f"the dead letter of {place}, by {letter.stage}, is not as the record was")
    return wrong


def counters_are_exact(books: Books, sent: Mapping[str, Any], *, labels_overtake: bool = False) -> list[str]:
    """Dead letters by code and dropped duplicates are what the producer says that it sent.

    `labels_overtake`: where all partitions stand still for a while, and some go on before others, a label may come by
    its stage before its event, which in this stream is days older. Then it is refused, and not counted here.

    A producer without transactions may write a record twice when the broker dies: what the raw topics hold beyond what
    was sent is taken as such copies, which must all be found as duplicates or as dead letters of their own.
    """
    found = Counter(letter.code for letter in books.letters)
    expected = Counter({code: count for code, count in sent["dead_letters"].items() if count})
    if labels_overtake:
        found.pop(_OVERTOOK, None)
    duplicates = sum(1 for _ in _lines(books, "events")) - len(books.events)
    copies = len(books.raw[books.raw_topic]) - sent["payments"] - sum(sent["bad"].values())
    wrong = []
    if expected - found or (found - expected).total() + duplicates - sent["duplicates"] != copies:
        wrong.append(
            f"sent {dict(expected)} and {sent['duplicates']} duplicates, found {dict(found)} and {duplicates}; "
            f"{copies} records are in the raw topic twice"
        )
    if (valid := len(books.events)) != (wanted := sent["payments"] + expected["late"]):
        wrong.append(f"{wanted} events were sent that ingest accepts, it wrote {valid}")
    return wrong


def nothing_was_seen_twice(books: Books) -> list[str]:
    """What showed while the stream was running."""
    wrong = [f"{count} ids were read twice from {name}" for name, count in books.repeats.items() if count]
    return wrong + ([f"{books.backwards} records came with an offset that had been read"] if books.backwards else [])


def _lines(books: Books, stream: str) -> list[Any]:
    return [line for lines in books.streams[stream].values() for line in lines]


def _count(books: Books, stream: str) -> Counter[str | None]:
    return Counter(line.id for line in _lines(books, stream))


def _passed_labels(books: Books) -> Counter[str | None]:
    return Counter(name for name, _ in books.passed_labels)


def _once(books: Books, stream: str) -> Counter[str | None]:
    """What is to be left of a stream by a stage that drops duplicates."""
    return Counter(dict.fromkeys((line.id for line in _lines(books, stream)), 1))


def _dead_ids(books: Books, stream: str, stage: str, *, labels: bool = False) -> Counter[str | None]:
    """Ids of the records of a stream that this stage refused; of `rekeyed`, of its events or of its labels."""
    dead = books.dead(stage, books.names[stream])
    if not dead:
        return Counter()
    return Counter(
        line.id
        for number, lines in books.streams[stream].items()
        for line in lines
        if (number, line.offset) in dead
        and (stream != "rekeyed" or ((line.id, line.offset) in books.passed_labels) == labels)
    )


def _difference(hop: str, wanted: Counter[str | None], found: Counter[str | None]) -> list[str]:
    lost, extra = wanted - found, found - wanted
    wrong = [f"{hop}: {name} is missing {count} times" for name, count in lost.items()]
    return wrong + [f"{hop}: {name} is there {count} times too often" for name, count in extra.items()]
