"""The join's verdicts depend on the order of the log alone: not on batching, not on restarts."""

import random
from itertools import pairwise
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import OutcomesSpec
from tidemill.features.core.join import GRACE_MS, GRID_MS, Label, OutcomeJoin, Shadow, Verdict

HOUR = 3_600_000


class Prediction(NamedTuple):
    id: str
    event_time: int
    decision: str


Item = Label | Shadow | Prediction


def matured_log(chance: random.Random, count: int, maturity: int) -> list[Item]:
    """What the join reads, in the order in which it is released: labels by known_at, the others once matured."""
    items: list[tuple[int, int, Item]] = []
    for number in range(count):
        id_, event_time = f"p{number}", 10 * DAY_MS + number * chance.choice([60_000, HOUR])
        known_at = event_time + chance.choice([0, maturity // 2, maturity, maturity + 1])
        matured = event_time + maturity
        if chance.random() < 0.8:
            items.append((known_at, 0, Label(id_, event_time, known_at, chance.randint(0, 1))))
            for _ in range(chance.choice([0, 0, 1, 2])):
                again = known_at + chance.choice([0, 1, HOUR, maturity, 2 * GRACE_MS])
                items.append((again, 0, Label(id_, event_time, again, chance.randint(0, 1))))
        if chance.random() < 0.3:
            items.append((matured, 1, Shadow(id_, event_time, 2, 0.25)))
        if chance.random() < 0.9:
            items.append((matured, 2, Prediction(id_, event_time, chance.choice(["approve", "block"]))))
    items.sort(key=lambda item: item[:2])
    return [item for _, _, item in items]


def expected(rules: OutcomesSpec, log: list[Item]) -> list[object]:
    """The rules, once over the whole log without ever forgetting anything but what the horizon says."""
    labels: dict[str, Label] = {}
    shadows: dict[str, Shadow] = {}
    newest = -(1 << 60)
    answers: list[object] = []
    for item in log:
        horizon = newest // GRID_MS * GRID_MS - GRACE_MS
        if isinstance(item, Label):
            held = labels.get(item.id)
            if item.event_time <= horizon:
                answers.append("late")
            elif held is not None and held.value == item.value:
                answers.append("duplicate")
            elif item.known_at > item.event_time + rules.maturity:
                answers.append("late")
            elif held is not None and rules.conflicting_label == "first":
                answers.append("first_kept")
            else:
                labels[item.id] = item
                answers.append("kept" if held is None else "replaced")
        elif isinstance(item, Shadow):
            shadows[item.id] = item
            answers.append(None)
        else:
            newest = max(newest, item.event_time)
            horizon = newest // GRID_MS * GRID_MS - GRACE_MS
            label, shadow = labels.get(item.id), shadows.get(item.id)
            if label is not None and item.event_time > horizon:
                answers.append(Verdict(label.value, "labelled", label.known_at, shadow))
            elif item.decision == "block" or rules.missing_label == "censored":
                answers.append(Verdict(None, "censored", None, shadow))
            else:
                answers.append(Verdict(0, "negative", None, shadow))
    return answers


def read(join: OutcomeJoin, item: Item) -> object:
    if isinstance(item, Label):
        return join.label(item)
    if isinstance(item, Shadow):
        return join.shadow(item)
    return join.prediction(item.id, item.event_time, item.decision)


@settings(max_examples=200, deadline=None)
@given(
    missing=st.sampled_from(["negative", "censored"]),
    conflict=st.sampled_from(["first", "last"]),
    maturity=st.sampled_from([DAY_MS, 3 * HOUR]),
    seed=st.integers(0, 2**32),
    count=st.integers(1, 120),
)
def test_outcomes_equal_the_rules_for_any_batching_and_restarts(
    missing: str, conflict: str, maturity: int, seed: int, count: int
) -> None:
    chance = random.Random(seed)
    rules = OutcomesSpec.model_validate(
        {"maturity": maturity, "missing_label": missing, "conflicting_label": conflict, "blocking_decisions": ["block"]}
    )
    log = matured_log(chance, count, maturity)
    join, changelog = OutcomeJoin(rules), dict[bytes, bytes]()
    answers: list[object] = []
    bounds = sorted({0, len(log), *(chance.randint(0, len(log)) for _ in range(chance.randint(0, 40)))})
    for begin, end in pairwise(bounds):
        if chance.random() < 0.3:
            for item in log[begin:end]:
                read(join, item)  # Lost with the process, before the commit.
            join = OutcomeJoin(rules)
            join.restore(changelog)
        answers += [read(join, item) for item in log[begin:end]]
        for key, value in join.pack():
            if value is None:
                changelog.pop(key, None)
            else:
                changelog[key] = value
    assert answers == expected(rules, log)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_state_is_given_up_once_predictions_have_passed(seed: int) -> None:
    chance = random.Random(seed)
    rules = OutcomesSpec(maturity=DAY_MS)
    join, changelog = OutcomeJoin(rules), dict[bytes, bytes | None]()
    log = matured_log(chance, 100, DAY_MS)
    end = max(item.event_time for item in log) + GRACE_MS + 2 * GRID_MS
    kept: set[str] = set()
    for item in [*log, Prediction("last", end, "approve")]:
        if read(join, item) == "kept":
            kept.add(item.id)
        changelog.update(join.pack())
    assert join.held == 0
    assert {key for key, value in changelog.items() if value is not None} == {b"w"}
    assert join.expired_labels == len(kept - {item.id for item in log if isinstance(item, Prediction)})
