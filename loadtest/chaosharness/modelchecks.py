"""The audit's questions about models: who scored what, by which number, and which promotions took effect. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice, pairwise

from chaosharness.books import Books, Line, unpacked
from chaosharness.promotions import Promotions
from chaosharness.scoring import TOLERANCE, scores

_AT_ONCE = 50_000
"""Vectors in one matrix: some megabytes."""


def each_model_scored_its_part(books: Books) -> list[str]:
    """Every prediction is of the version recorded for its position, and its score is that version's of its own row;
    before any model it is the rule's."""
    wrong = []
    for partition, lines in books.streams["features"].items():
        switches = books.switches.get(partition, [])
        starts = [switch.from_offset for switch in switches]
        for line in lines:
            if line.id not in books.scores:
                continue  # a finding of another question
            index = bisect_right(starts, line.offset) - 1
            expected = switches[index].champion if index >= 0 else None
            if (version := books.scores[line.id][0]) != expected:
                wrong.append(f"{line.id} at {partition}@{line.offset} was scored by {version}, recorded is {expected}")
    return wrong + _wrong_scores(books) + _wrong_rules(books)


def promotions_took_effect(books: Books, due_epoch: int, promotions: Promotions) -> list[str]:
    """In each partition each promotion took effect once at most, with the model that it names; none that was due was
    passed over, and none ends before `due_epoch`, which was published in good time."""
    wrong = []
    for partition, lines in books.streams["features"].items():
        switches = books.switches.get(partition, [])
        epochs = [switch.epoch for switch in switches]
        if any(later <= earlier for earlier, later in pairwise(epochs)):
            wrong.append(f"partition {partition} recorded the epochs {epochs}")
        if due_epoch and (not epochs or epochs[-1] < due_epoch):
            wrong.append(f"partition {partition} ends with epoch {epochs[-1:]}, {due_epoch} was due")
        wrong += [
            f"partition {partition} took epoch {switch.epoch} for a promotion of {switch.champion}"
            for switch in switches
            if books.activations.get(switch.epoch, -1) != switch.champion
        ]
        wrong += [
            f"partition {partition} passed epoch {epoch} over, which was due: {epochs}"
            for epoch in promotions.opens
            if epoch not in epochs and _was_due(books, promotions, epoch, partition, lines)
        ]
    return wrong


def _was_due(books: Books, promotions: Promotions, epoch: int, partition: int, lines: Sequence[Line]) -> bool:
    """Whether a vector written in good time after this promotion was predicted in good time before the next."""
    opens = promotions.opens[epoch].get(partition)
    predicted = books.streams["predictions"].get(partition, [])
    closes = promotions.closes.get(epoch, {partition: len(predicted)}).get(partition, 0)
    if opens is None or not closes:
        return False
    last = predicted[min(closes, len(predicted)) - 1].id
    return any(line.id == last for line in lines[bisect_right(lines, opens - 1, key=_offset) :])


def _wrong_scores(books: Books) -> list[str]:
    wrong: list[str] = []
    width = len(books.pipeline.feature_names)
    of_models = (
        (name, version, score)
        for name, (version, score) in books.scores.items()
        if version is not None and len(books.vectors.get(name, b"")) == 8 * width
    )
    while part := list(islice(of_models, _AT_ONCE)):
        versions = [version for _, version, _ in part]
        due = scores(versions, unpacked([books.vectors[name] for name, _, _ in part]))
        wrong += [
            f"{name} has the score {score}, version {version} says {wanted:.7f} of its row"
            for (name, version, score), wanted in zip(part, due.tolist(), strict=True)
            if abs(score - wanted) > TOLERANCE
        ]
    return wrong


def _wrong_rules(books: Books) -> list[str]:
    fallback = books.pipeline.decision.fallback
    return [
        f"{name} has the score {score}, the rule says otherwise"
        for name, (version, score) in books.scores.items()
        if version is None
        and name in books.events
        and score != float(getattr(books.events[name], fallback.field) > fallback.above)
    ]


def _offset(line: Line) -> int:
    return line.offset
