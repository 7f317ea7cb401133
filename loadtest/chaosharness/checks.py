"""The audit's questions, each a function of the books. An empty list is right, else it says what is wrong. Pure."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from chaosharness.books import Books, Letter

_DAY_MS = 86_400_000


def every_input_has_its_output(books: Books) -> list[str]:
    """Each raw record is one event or label, or one dead letter; each event passes each stage once, or died once."""
    wrong = []
    for topic, stream in ((books.raw_topic, "events"), (books.raw_label_topic, "labels")):
        dead = {(letter.partition, letter.offset) for letter in books.letters if letter.topic == topic}
        accepted = Counter(name for at, (name, _, _) in books.raw[topic].items() if at not in dead)
        wrong += _difference(f"{topic} → {stream}", accepted, _count(books, stream))
    handed = _passed_labels(books)
    wrong += _difference("labels → rekeyed", _once(books, "labels") - _dead_ids(books, "labels"), handed)
    found = _once(books, "events")
    for stream, reading in (("rekeyed", "events"), ("features", "rekeyed"), ("predictions", "features")):
        wanted = found - (_dead_ids(books, reading) if reading != "rekeyed" else Counter())
        found = _count(books, stream) - (handed if stream == "rekeyed" else Counter())
        wrong += _difference(f"{reading} → {stream}", wanted, found)
    return wrong


def order_per_key_is_kept(books: Books) -> list[str]:
    """Records of a key leave each hop that keeps the key in the order in which they came; where a stage drops
    duplicates, the first counts."""
    wrong = []
    dead = {(letter.topic, letter.partition, letter.offset) for letter in books.letters}
    for topic, stream in ((books.raw_topic, "events"), (books.raw_label_topic, "labels")):
        came: dict[bytes, list[str | None]] = defaultdict(list)
        for (partition, offset), (name, key, _) in books.raw[topic].items():
            if (topic, partition, offset) not in dead:
                came[key].append(name)
        wrong += _order(f"{topic} → {stream}", came, _by_key(books, stream))
    dead_vectors = _dead_ids(books, "features")
    vectors = {
        key: [name for name in ids if name not in dead_vectors] for key, ids in _by_key(books, "features").items()
    }
    wrong += _order("features → predictions", vectors, _by_key(books, "predictions"))
    return wrong


def dead_letters_are_the_originals(books: Books) -> list[str]:
    """No record died twice in one stage, and each letter has the bytes of the record it names."""
    times = Counter((letter.stage, letter.topic, letter.partition, letter.offset) for letter in books.letters)
    wrong = [f"{place} has {count} dead letters" for place, count in times.items() if count > 1]
    for letter in books.letters:
        original = _original(books, letter)
        if original is not None and original != letter.value:
            wrong.append(f"the dead letter of {letter.topic}/{letter.partition}@{letter.offset} has other bytes")
    return wrong


def counters_are_exact(books: Books, sent: Mapping[str, Any]) -> list[str]:
    """Dead letters by code and dropped duplicates are what the producer says that it sent.

    A producer without transactions may write a record twice when the broker dies: what the raw topics hold beyond what
    was sent is taken as such copies, which must all be found as duplicates or as dead letters of their own.
    """
    found = Counter(letter.code for letter in books.letters)
    expected = Counter({code: count for code, count in sent["dead_letters"].items() if count})
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


def each_model_scored_its_part(books: Books, due_epoch: int, score_of: Callable[[int], float]) -> list[str]:
    """Every prediction is of the version recorded for its position, by what that version alone says; no promotion
    took effect twice in a partition, and none ends before `due_epoch`, which was published in good time."""
    wrong = []
    for partition, lines in books.streams["features"].items():
        switches = books.switches.get(partition, [])
        epochs = [switch.epoch for switch in switches]
        if any(later <= earlier for earlier, later in pairwise(epochs)):
            wrong.append(f"partition {partition} recorded the epochs {epochs}")
        if due_epoch and (not epochs or epochs[-1] < due_epoch):
            wrong.append(f"partition {partition} ends with epoch {epochs[-1:]}, {due_epoch} was due")
        starts = [switch.from_offset for switch in switches]
        for line in lines:
            version, score = books.scores.get(line.id, (None, -1.0))
            index = bisect_right(starts, line.offset) - 1
            expected = switches[index].champion if index >= 0 else None
            if line.id in books.scores and version != expected:
                wrong.append(f"{line.id} at {partition}@{line.offset} was scored by {version}, recorded is {expected}")
            elif version is not None and abs(score - score_of(version)) > 1e-6:
                wrong.append(f"{line.id} names version {version} and has a score of another: {score}")
    return wrong


def outcomes_are_complete(books: Books, maturity_ms: int) -> list[str]:
    """Each prediction that is ripe by the labels' time has one outcome, and no outcome is of anything else."""
    outcomes = _count(books, "outcomes")
    predicted = books.scores.keys()
    wrong = [f"{name} has {count} outcomes" for name, count in outcomes.items() if count > 1]
    wrong += [f"{name} has an outcome but no prediction" for name in outcomes if name not in predicted]
    if books.label_time:
        # A day less: labels of the last day are spread over partitions of their own.
        ripe_before = min(books.label_time.values()) - maturity_ms - _DAY_MS
        wrong += [
            f"{name} is ripe and has no outcome"
            for name, event in books.events.items()
            if event.event_time < ripe_before and name in predicted and name not in outcomes
        ]
    return wrong


def nothing_was_seen_twice(books: Books) -> list[str]:
    """What showed while the stream was running."""
    wrong = [f"{count} ids were read twice from {name}" for name, count in books.repeats.items() if count]
    return wrong + ([f"{books.backwards} records came with an offset that had been read"] if books.backwards else [])


def vectors_equal(books: Books, recomputed: Mapping[str, Sequence[float | None]]) -> list[str]:
    """Every served vector is, to the last bit, what the operators give over the whole log at once."""
    wrong = [
        f"{name}: served {served}, recomputed {list(recomputed[name])}"
        for name, served in books.vectors.items()
        if name in recomputed and _bits(served) != _bits(recomputed[name])
    ]
    wrong += [f"{name} was served and cannot be recomputed" for name in books.vectors if name not in recomputed]
    return wrong


def state_equals_inputs(
    books: Books,
    stage: str,
    rows: Mapping[str, Sequence[tuple[int, str]]],
    name_of: Mapping[str, str],
    look_back_ms: int,
) -> list[str]:
    """A key's rows in the changelog are its newest events, none missing and none twice, back as far as any window.

    A row is (event time, hash of the event's id); `name_of` gives the hash of each id.
    """
    wrong = []
    inputs: dict[str, list[tuple[int, str]]] = defaultdict(list)
    newest = 0
    late = _dead_ids(books, "events")
    for event in books.events.values():
        if event.id not in late:
            key = event.customer if stage == "customer" else event.terminal
            inputs[key].append((event.event_time, name_of[event.id]))
            newest = max(newest, event.event_time)
    for key, held in rows.items():
        have, came = sorted(held), sorted(inputs[key])
        missing = len(came) - len(have)
        if missing < 0 or have != came[missing:]:
            wrong.append(f"{stage} {key}: {len(have)} rows are not the newest of its {len(came)} events")
        elif missing and came[missing - 1][0] > came[-1][0] - look_back_ms:
            wrong.append(f"{stage} {key}: {len(have)} rows of {len(came)} events, and windows look back to more")
    wrong += [
        f"{stage} {key}: no state, though its last event is recent"
        for key, came in inputs.items()
        if key not in rows and max(came)[0] > newest - look_back_ms // 2
    ]
    return wrong


def _lines(books: Books, stream: str) -> list[Any]:
    return [line for lines in books.streams[stream].values() for line in lines]


def _count(books: Books, stream: str) -> Counter[str | None]:
    return Counter(line.id for line in _lines(books, stream))


def _passed_labels(books: Books) -> Counter[str | None]:
    return Counter(name for name, _ in books.passed_labels)


def _once(books: Books, stream: str) -> Counter[str | None]:
    """What is to be left of a stream by a stage that drops duplicates."""
    return Counter(dict.fromkeys((line.id for line in _lines(books, stream)), 1))


def _by_key(books: Books, stream: str) -> dict[bytes, list[str | None]]:
    keys: dict[bytes, list[str | None]] = defaultdict(list)
    for _, lines in sorted(books.streams[stream].items()):
        for line in lines:
            keys[line.key].append(line.id)
    return keys


def _dead_ids(books: Books, stream: str) -> Counter[str | None]:
    """Ids of the records of a stream that a later stage refused."""
    topic = books.names[stream]
    dead = {(letter.partition, letter.offset) for letter in books.letters if letter.topic == topic}
    if not dead:
        return Counter()
    return Counter(
        line.id for number, lines in books.streams[stream].items() for line in lines if (number, line.offset) in dead
    )


def _original(books: Books, letter: Letter) -> int | None:
    if letter.topic in books.raw:
        return books.raw[letter.topic].get((letter.partition, letter.offset), (None, b"", None))[2]
    return books.values.get((letter.partition, letter.offset)) if letter.topic == books.names["events"] else None


def _difference(hop: str, wanted: Counter[str | None], found: Counter[str | None]) -> list[str]:
    lost, extra = wanted - found, found - wanted
    wrong = [f"{hop}: {name} is missing {count} times" for name, count in lost.items()]
    return wrong + [f"{hop}: {name} is there {count} times too often" for name, count in extra.items()]


def _order(
    hop: str, came: Mapping[bytes, Sequence[str | None]], left: Mapping[bytes, Sequence[str | None]]
) -> list[str]:
    return [
        f"{hop}: the order of key {key.decode(errors='replace')} changed"
        for key, ids in left.items()
        if list(came.get(key, ())) != list(ids)
    ]


def _bits(vector: Sequence[float | None]) -> list[str | None]:
    return [None if value is None else float(value).hex() for value in vector]
