"""The audit's questions: right books raise none, and each kind of damage is seen by the question meant for it."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from chaosharness import checks, ordering
from chaosharness.books import Books, Letter, Line, unpacked
from support.chaosworld import DAY, FRAUD, PAYMENTS, SECOND_SWITCH, SENT, START, Change, Sent, World, event

Damage = Callable[[World], object]


@pytest.fixture(scope="module")
def whole() -> World:
    return World()


def test_right_books_raise_no_question(whole: World) -> None:
    assert {name: found for name, found in whole.findings().items() if found} == {}
    assert len(whole.vectors) == PAYMENTS


def lose(stream: str, at: int = 35) -> Damage:
    return lambda world: world.books.streams[stream][0].pop(at)


def repeat(stream: str) -> Damage:
    return lambda world: world.again(stream)


def swap(*streams: str, labels: bool = False) -> Damage:
    """Two neighbours of each stream change places: two labels in a stream of both, else two events."""

    def damage(world: World) -> None:
        books = world.books
        for stream in streams:
            lines = books.streams[stream][0]
            alike = [at for at, line in enumerate(lines) if is_label(books, line) == labels]
            first, second = alike[20], alike[21]
            one, other = lines[first], lines[second]
            moved = other._replace(offset=one.offset), one._replace(offset=other.offset)
            held = [books.passed_labels.pop((line.id, line.offset), None) for line in (other, one)]
            lines[first], lines[second] = moved
            books.passed_labels |= {
                (line.id, line.offset): label for line, label in zip(moved, held, strict=True) if label is not None
            }

    return damage


def is_label(books: Books, line: Line) -> bool:
    return (line.id, line.offset) in books.passed_labels


def label_before_its_event(world: World) -> None:
    lines = world.books.streams["rekeyed"][0]
    at = next(at for at, line in enumerate(lines) if is_label(world.books, line) and line.id == "p20")
    lines.insert(0, lines.pop(at))


def flip_a_bit(world: World) -> None:
    vector = unpacked([world.books.vectors["p40"]])[0].copy()
    vector[4] = np.nextafter(vector[4], np.inf)
    world.books.vectors["p40"] = vector.tobytes()


def score_by_another(world: World) -> None:
    world.books.scores["p40"] = (None, 0.0)


def rows_mixed_up(world: World) -> None:
    scores = world.books.scores
    scores["p40"], scores["p41"] = scores["p41"], scores["p40"]


def score_of_another_version(world: World) -> None:
    version, score = world.books.scores["p40"]
    world.books.scores["p40"] = (version, score + 0.0005)


def rule_misapplied(world: World) -> None:
    world.books.scores["p3"] = (None, 1.0)


def switch_twice(world: World) -> None:
    world.books.switches[0].append(world.books.switches[0][-1])


def promotion_of_another_model(world: World) -> None:
    world.books.switches[0][1] = world.books.switches[0][1]._replace(champion=1)


def promotion_passed_over(world: World) -> None:
    """The second had a minute and more in which vectors were written and predicted, and nothing records it."""
    world.promotions.opens[2] = {0: 30}
    world.promotions.closes[2] = {0: 44}


def last_promotion_passed_over(world: World) -> None:
    world.books.switches[0].pop()


def letter(**changed: Any) -> Damage:
    def damage(world: World) -> None:
        world.books.letters[0] = world.books.letters[0]._replace(**changed)

    return damage


def another_stage_refused(stream: str, stage: str) -> Damage:
    """A record is missing behind one stage, and the only stage that refused it is another."""

    def damage(world: World) -> None:
        books = world.books
        line = books.streams[stream][0][40]
        following = {"events": "rekeyed", "features": "predictions", "labels": "rekeyed"}[stream]
        print_ = books.prints.find(books.names[stream], 0, line.offset)
        assert print_ is not None
        books.letters.append(Letter("late", stage, books.names[stream], 0, line.offset, print_))
        books.streams[following][0] = [one for one in books.streams[following][0] if one.id != line.id]

    return damage


def state_row_lost(world: World) -> None:
    world.held[0]["c0"].rows.pop(20)


def state_row_twice(world: World) -> None:
    world.held[1]["t0"].rows.append(world.held[1]["t0"].rows[-1])


def state_key_lost(world: World) -> None:
    del world.held[1]["t1"]


def state_amount_changed(world: World) -> None:
    rows = world.held[0]["c1"].rows
    rows[3] = rows[3]._replace(cents=(rows[3].cents or 0) + 1)


def state_flag(stage: int, key: str, change: Callable[[dict[tuple[int, str], int]], object]) -> Damage:
    return lambda world: change(world.held[stage][key].flags)


def turn_one(flags: dict[tuple[int, str], int]) -> None:
    at = next(iter(flags))
    flags[at] = 1 - flags[at]


def flag_the_unlabelled(flags: dict[tuple[int, str], int]) -> None:
    flags[START + DAY // 2, "h-p1"] = 0


DAMAGE: list[tuple[Damage, str]] = [
    *((lose(stream), "outputs") for stream in ("events", "rekeyed", "features", "predictions")),
    (lose("labels", 10), "outputs"),
    (lose("outcomes"), "outcomes"),
    (lose("outcomes", -2), "outcomes"),
    *((repeat(stream), "outputs") for stream in ("rekeyed", "features", "predictions")),
    (repeat("outcomes"), "outcomes"),
    (swap("events"), "order"),
    (swap("rekeyed"), "order"),
    (swap("rekeyed", labels=True), "order"),
    (swap("features"), "order"),
    (swap("predictions"), "order"),
    (swap("features", "predictions"), "order"),
    (swap("features", "predictions", "outcomes"), "order"),
    (swap("outcomes"), "order"),
    (label_before_its_event, "order"),
    (flip_a_bit, "vectors"),
    (score_by_another, "models"),
    (rows_mixed_up, "models"),
    (score_of_another_version, "models"),
    (rule_misapplied, "models"),
    (switch_twice, "promotions"),
    (promotion_of_another_model, "promotions"),
    (promotion_passed_over, "promotions"),
    (last_promotion_passed_over, "promotions"),
    (lambda world: world.books.letters.append(world.books.letters[0]), "dead_letters"),
    (letter(print=1), "dead_letters"),
    (letter(offset=999), "dead_letters"),
    (letter(topic="fraud-shadow"), "dead_letters"),
    (letter(stage="features-terminal"), "outputs"),
    (lambda world: world.books.letters.pop(0), "outputs"),
    (lambda world: world.books.letters.pop(0), "counters"),
    (another_stage_refused("events", "drift"), "outputs"),
    (another_stage_refused("features", "drift"), "outputs"),
    (state_row_lost, "customer_state"),
    (state_row_twice, "terminal_state"),
    (state_key_lost, "terminal_state"),
    (state_amount_changed, "customer_state"),
    (state_flag(0, "c0", turn_one), "customer_state"),
    (state_flag(0, "c0", dict.popitem), "customer_state"),
    (state_flag(1, "t0", turn_one), "terminal_state"),
    (state_flag(1, "t1", flag_the_unlabelled), "terminal_state"),
    (lambda world: world.waiting.pop(), "outcomes_state"),
    (lambda world: world.waiting.append(world.waiting[0]), "outcomes_state"),
    (lambda world: world.waiting.append(world.waiting[0]._replace(label=1 - world.waiting[0].label)), "outcomes_state"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "seen_by"), DAMAGE)
def test_each_damage_is_seen(whole: World, damage: Damage, seen_by: str) -> None:
    world = copy.deepcopy(whole)
    damage(world)
    assert world.findings()[seen_by] != []


def member(**changed: Any) -> Change:
    return lambda sent: sent._replace(value=sent.value | changed)  # type: ignore[operator]


def another_bit(sent: Sent) -> Sent:
    assert isinstance(sent.value, dict)
    features = list(sent.value["features"])
    features[4] = float(np.nextafter(features[4], np.inf))
    return sent._replace(value=sent.value | {"features": features})


NO_LABEL = {"label": None, "label_status": "censored", "known_at": None}
CHANGES: list[tuple[str, str, Change, str]] = [
    ("by-terminal", "p10", member(amount=10.11), "contents"),
    ("by-terminal", "label of p10", member(fraud=1), "contents"),
    ("features", "p10", member(amount=10.11), "contents"),
    ("predictions", "p40", another_bit, "contents"),
    ("predictions", "p40", member(features=[]), "contents"),
    ("predictions", "p40", member(customer="c1"), "contents"),
    ("predictions", "p40", member(outputs={"score": 0.25}), "models"),
    ("predictions", "p40", member(model_version=2), "models"),
    ("predictions", "p3", member(decision="review"), "records"),
    ("outcomes", "p30", member(outputs={"score": 0.25}), "contents"),
    ("outcomes", "p30", member(model_version=3), "contents"),
    ("outcomes", "p30", another_bit, "contents"),
    ("outcomes", "p30", member(label=1), "truths"),
    ("outcomes", "p30", member(known_at=START), "truths"),
    ("outcomes", "p30", member(**NO_LABEL), "truths"),
    ("outcomes", "p31", member(label=0, label_status="labelled", known_at=START), "truths"),
    ("outcomes", "p31", member(label=0, label_status="negative"), "truths"),
    ("outcomes", "p31", member(shadow={"model_version": 2, "score": 0.5}), "truths"),
    ("dlq", "not_json", lambda sent: sent._replace(key=b"c1"), "dead_letters"),
    ("dlq", "not_json", lambda sent: sent._replace(value=b"{broke"), "dead_letters"),
    ("dlq", "not_json", lambda sent: sent._replace(timestamp=0), "dead_letters"),
    ("dlq", "not_json", lambda sent: sent._replace(headers=sent.headers[1:]), "dead_letters"),
    ("dlq", "late", lambda sent: sent._replace(key=b"c1"), "dead_letters"),
    ("dlq", "late", lambda sent: sent._replace(timestamp=0), "dead_letters"),
    *((role, name, lambda sent: sent._replace(timestamp=sent.timestamp + 1), "records") for role, name in (
        ("events", "p5"), ("labels", "p4"), ("by-terminal", "p5"), ("by-terminal", "label of p4"), ("features", "p5"),
        ("predictions", "p5"), ("outcomes", "p5"))),
    *((role, name, lambda sent: sent._replace(key=b"x"), "records") for role, name in (
        ("events", "p5"), ("labels", "p4"), ("by-terminal", "p5"), ("by-terminal", "label of p4"), ("features", "p5"),
        ("predictions", "p5"), ("outcomes", "p5"))),
]  # fmt: skip


@pytest.mark.parametrize(("role", "name", "change", "seen_by"), CHANGES)
def test_each_changed_record_is_seen(role: str, name: str, change: Change, seen_by: str) -> None:
    assert World({(role, name): change}).findings()[seen_by] != []


def test_a_label_of_the_last_day_may_have_been_used_or_not() -> None:
    """It lies in a partition of its own, whose time came when it came; but what is said of it must be true."""
    known_at = event(30)["event_time"] + FRAUD.outcomes.maturity - DAY // 2
    late = member(known_at=known_at)

    def dated(change: Change) -> Change:
        return lambda sent: change(sent)._replace(timestamp=known_at)

    changes = {("labels", "p30"): dated(late), ("by-terminal", "label of p30"): dated(late)}
    for said, right in ((member(known_at=known_at), True), (member(**NO_LABEL), True), (member(known_at=0), False)):
        world = World({**changes, ("outcomes", "p30"): said})
        assert (world.findings()["truths"] == []) is right


@pytest.mark.parametrize(("said", "in_turn", "overdue"), [(member(**NO_LABEL), False, True), (member(), True, False)])
def test_a_label_is_given_up_exactly_where_its_prediction_was_settled_a_day_behind_others(
    said: Change, in_turn: bool, overdue: bool
) -> None:
    world = World({("outcomes", "p30"): said})
    assert (world.findings()["truths"] == []) is in_turn
    lines = world.books.streams["outcomes"][0]
    lines.append(lines.pop(next(at for at, line in enumerate(lines) if line.id == "p30")))
    assert (world.findings()["truths"] == []) is overdue


def test_a_copy_that_the_producer_made_must_be_found_as_a_duplicate(whole: World) -> None:
    world = copy.deepcopy(whole)
    world.raw(event(59))
    assert not any(world.findings().values())
    world.books.raw["fraud-raw-payments"][0, 999] = ("p58", b"c0")
    assert world.findings()["counters"] != []


def test_what_came_twice_shows_while_the_stream_runs(whole: World) -> None:
    world = copy.deepcopy(whole)
    for stream in ("rekeyed", "features", "predictions", "outcomes"):
        world.again(stream)
    assert world.books.progress()["repeated"] == 4
    assert len(world.findings()["twice"]) == 4


def test_partitions_may_interleave_behind_a_hop_that_changes_the_key() -> None:
    """Two partitions of events meet in one of the next topic: only the order within each of the two is promised."""

    def findings(arrival: list[str]) -> list[str]:
        books = Books(FRAUD)
        for partition, names in enumerate((["a1", "a2"], ["b1", "b2"])):
            books.streams["events"][partition] = [Line(at, name, b"", 0, 0) for at, name in enumerate(names)]
        books.streams["rekeyed"][0] = [Line(at, name, b"", 0, 0) for at, name in enumerate(arrival)]
        return [found for found in ordering.order_is_kept(books) if "→ rekeyed" in found]

    assert findings(["a1", "b1", "a2", "b2"]) == findings(["b1", "b2", "a1", "a2"]) == []
    assert len(findings(["b1", "a2", "a1", "b2"])) == 1


def test_a_replaced_promotion_is_not_due(whole: World) -> None:
    assert [switch.epoch for switch in whole.books.switches[0]] == [1, 3]
    assert sorted(whole.promotions.opens) == [1, 3]
    assert whole.books.switches[0][1].from_offset == SECOND_SWITCH


def test_a_label_that_overtook_its_event_is_let_pass_only_where_everything_stood_still(whole: World) -> None:
    world = copy.deepcopy(whole)
    letter = world.books.letters[0]
    world.books.letters.append(letter._replace(code="unmatched_label"))
    assert checks.counters_are_exact(world.books, SENT) != []
    assert checks.counters_are_exact(world.books, SENT, labels_overtake=True) == []
    world.books.letters.append(letter)
    assert checks.counters_are_exact(world.books, SENT, labels_overtake=True) != []
