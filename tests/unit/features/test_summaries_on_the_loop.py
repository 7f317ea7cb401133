"""Windows that close on the real loop: behind events, behind silence, and from stage to stage."""

import random

import pytest

from support.summaryoracle import Mark, Payment, answer
from support.summarystreams import FIELDS, SECOND, arrivals, shop
from support.summaryworld import World
from tidemill.domain.summaryspec import SummarySpec

T = 1_000 * SECOND
VISITS = SummarySpec.model_validate(
    {"name": "visits", "window": {"type": "session", "gap": 3 * SECOND, "within": 600 * SECOND}, "fields": FIELDS[:3]}
)
TENS = SummarySpec.model_validate(
    {"name": "tens", "window": {"type": "tumbling", "size": 10 * SECOND}, "fields": FIELDS[:3]}
)
LATENESS = 2 * SECOND


def payment(number: int, at_s: float, key: str = "a", cents: int = 500) -> Payment:
    return Payment(key, number, T + int(at_s * SECOND), cents, "web")


def test_a_quiet_keys_session_closes_by_a_record_and_a_replay_closes_it_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = shop([VISITS], LATENESS)
    world = World(pipeline, monkeypatch)
    world.send(0, payment(1, 0), payment(2, 2))
    world.wait(4)
    assert world.summaries() == [], "only 4 s of silence: idle_timeout is 5 s"
    assert len(world.events()) == 2
    world.wait(4)
    (closed,) = world.summaries()
    assert (closed.key, closed.start, closed.end, closed.revision) == ("a", T, T + 5 * SECOND, 0)
    assert closed.values["payments"] == 2
    assert [record.key for record in world.events()] == [b"a", b"a", None]
    world.wait(600, step=3)
    assert len(world.events()) == 3, "nothing is open any more: nothing to say"
    world.send(0, payment(3, 2.001))  # behind the watermark: what it could begin is closed
    world.wait(60, step=3)
    assert len(world.summaries()) == 1

    replayed = World(pipeline, monkeypatch)
    for record in world.events():
        replayed.append(record)
    replayed.turn(10)  # the clock stands still
    assert replayed.summaries() == world.summaries()


def test_a_busy_partition_gets_no_watermark_record(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(shop([VISITS], LATENESS), monkeypatch)
    for number in range(40):
        world.send(0, payment(number, number))
        world.wait(1)
    assert len(world.events()) == 40


def test_without_an_idle_timeout_silence_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = shop([VISITS], LATENESS)
    features = pipeline.features.model_copy(update={"idle_timeout": 0})
    world = World(pipeline.model_copy(update={"features": features}), monkeypatch)
    world.send(0, payment(1, 0))
    world.wait(300, step=3)
    assert (world.summaries(), len(world.events())) == ([], 1)


@pytest.mark.parametrize("seed", range(6))
def test_deaths_after_any_step_lose_and_repeat_no_summary(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    corrected = TENS.model_copy(update={"on_late": "correct", "corrections_for": 20 * SECOND})
    world = World(shop([VISITS, corrected], LATENESS), monkeypatch, dying=0.03, seed=seed)
    for item in arrivals(chance, 80, marks=False):
        world.send(len(item.key) % 2, item) if isinstance(item, Payment) else None
        if chance.random() < 0.3:
            world.wait(chance.choice([1, 1, 12]))
    world.wait(60)
    assert world.deaths > 5
    replayed = World(world.pipeline, monkeypatch)
    for record in world.events():
        replayed.append(record)
    replayed.turn(200)
    assert len(replayed.summaries()) > 10
    assert replayed.summaries() == world.summaries()
    assert any(record.key is None for record in world.events())


def test_a_later_stage_waits_for_every_partition_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(shop([], LATENESS, [TENS]), monkeypatch)
    world.send(0, *(payment(number, number, "a") for number in range(0, 60, 2)))
    world.send(1, *(payment(100 + number, number, "b") for number in range(0, 20, 2)))
    world.turn(40)
    found = {(one.key, one.start): one.values["payments"] for one in world.summaries("terminal")}
    assert found == {("t", T): 10}, "the other partition is at 18 s, less the lateness"
    world.send(1, *(payment(200 + number, number, "b") for number in range(20, 60, 2)))
    world.turn(40)
    counts = [one.values["payments"] for one in world.summaries("terminal")]
    assert counts == [10, 10, 10, 10, 10]
    world.wait(60)
    assert [one.values["payments"] for one in world.summaries("terminal")] == [10] * 6, "silence closes the last"
    before = len(world.events())
    world.wait(600, step=3)
    assert len(world.events()) == before, "both partitions have said that they are idle"


@pytest.mark.parametrize("offset", range(0, 90, 13))
def test_silence_closes_a_session_of_a_later_stage_wherever_its_end_lies(
    monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    """Also between two steps of the grid by which watermarks are handed on."""
    visits = VISITS.model_copy(update={"window": VISITS.window.model_copy(update={"gap": 500 * SECOND})})
    world = World(shop([], LATENESS, [visits]), monkeypatch)
    world.send(0, payment(1, offset + offset / 1_000))
    world.wait(700, step=1)
    assert [one.values["payments"] for one in world.summaries("terminal")] == [1]


def test_a_partition_that_never_had_a_key_holds_nothing_back_for_longer_than_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(shop([], LATENESS, [TENS]), monkeypatch)
    world.send(0, *(payment(number, number) for number in range(30)))
    world.turn(30)
    assert world.summaries("terminal") == []
    world.wait(6)
    assert [one.values["payments"] for one in world.summaries("terminal")][:2] == [10, 10]
    world.send(1, payment(99, 40, "b"), payment(100, 41, "b"))
    world.turn(5)
    world.send(0, *(payment(100 + number, number) for number in range(40, 70)))
    world.turn(30)
    ends = [one.end for one in world.summaries("terminal")]
    assert max(ends) <= T + 40 * SECOND, "it has spoken, so it is waited for again"


@pytest.mark.parametrize("seed", range(5))
def test_a_later_stages_summaries_depend_on_no_interleaving_and_no_death(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    world = World(shop([TENS], LATENESS, [TENS, VISITS]), monkeypatch, dying=0.02, seed=seed)
    streams = [
        sorted((payment(1_000 * part + n, chance.uniform(0, 90), f"k{part}", n) for n in range(60)), key=_time)
        for part in range(2)
    ]
    left = [list(stream) for stream in streams]
    while any(left):
        part = chance.choice([number for number in range(2) if left[number]])
        count = chance.randint(1, 12)
        world.send(part, *left[part][:count])
        del left[part][:count]
        world.turn(chance.randint(0, 3))
    world.turn(400)
    world.send(0, payment(1, 500, "k0"))
    world.send(1, payment(2, 500, "k1"))
    world.turn(400)
    everything = [one for stream in streams for one in stream]
    found = [one for one in world.summaries("terminal") if one.summary == "tens"]
    expected = {}
    for start in range(T, T + 90 * SECOND, 10 * SECOND):
        inside = [one for one in everything if start <= one.time < start + 10 * SECOND]
        if inside:
            expected[start] = {wanted.name: answer(wanted, inside) for wanted in TENS.fields}
    assert {one.start: one.values for one in found} == expected
    assert len(found) == len(expected)
    visits = [one for one in world.summaries("terminal") if one.summary == "visits"]
    assert sum(one.values["payments"] for one in visits) == len(everything)


def test_a_watermark_record_of_another_partition_or_stage_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(shop([VISITS], LATENESS), monkeypatch)
    world.send(1, payment(1, 0))
    world.send(1, Mark(T + 100 * SECOND))  # as_record speaks of partition 0
    world.turn(10)
    assert world.summaries() == []
    assert not world.broker.read("fraud-dlq")


def _time(one: Payment) -> int:
    return one.time
