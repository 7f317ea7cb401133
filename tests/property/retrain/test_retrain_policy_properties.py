"""Whatever order, repetition and restarts the drift records meet: the same decisions, within cooldown and budget."""

import asyncio
import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.durations import DAY_MS
from tidemill.retrain.core.records import Alarm, Decision, Statistics
from unit.retrain.retrainworld import World, alarm, pipeline, statistics

FRAUD = pipeline(budget_per_30d=4)
DETECTORS = ("feature:amount", "score", "loss", "floor", "missing:amount")


@st.composite
def streams(draw: st.DrawFn) -> list[Alarm | Statistics]:
    """Days pass; alarms on versions that may or may not serve come between them."""
    records: list[Alarm | Statistics] = []
    day = 0.0
    for number in range(draw(st.integers(5, 40))):
        day += draw(st.sampled_from([0.5, 1.0, 3.0, 8.0]))
        records.append(statistics(day))
        for detector in draw(st.lists(st.sampled_from(DETECTORS), max_size=2)):
            version = draw(st.integers(1, 6))
            policy = "performance" if detector in ("loss", "floor") else "drift"
            records.append(alarm(version, detector, policy, name=f"alarm/{number}/{detector}"))
    return records


def decided(records: list[Alarm | Statistics], verdicts: list[bool], restarts: set[int]) -> list[Decision]:
    """The decisions topic after a stream; the n-th job ends as `verdicts` says; new instances start at `restarts`."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), FRAUD)

        async def run() -> None:
            for number, record in enumerate(records):
                if number in restarts:
                    world.start()
                    await world.loop.settle()
                # by the version, not by the count: a restart may ask for the same job again
                version = world.journal.situation.known_version
                world.jobs.better = verdicts[version % len(verdicts)]
                world.jobs.gain = 0.1 if verdicts[(version + 1) % len(verdicts)] else -0.5
                await world.feed_async(record)

        asyncio.run(run())
        return world.topics.decisions(FRAUD)


@settings(max_examples=60, deadline=None)
@given(streams(), st.lists(st.booleans(), min_size=1, max_size=7))
def test_cooldown_and_budget_hold_on_any_stream(records: list[Alarm | Statistics], verdicts: list[bool]) -> None:
    decisions = decided(records, verdicts, set())
    starts = [decision.at for decision in decisions if decision.kind == "retrain"]
    assert all(later - earlier >= FRAUD.retrain.cooldown for earlier, later in pairwise(starts))
    for start in starts:
        assert sum(start - 30 * DAY_MS < at <= start for at in starts) <= FRAUD.retrain.budget_per_30d


@settings(max_examples=60, deadline=None)
@given(streams(), st.lists(st.booleans(), min_size=1, max_size=7))
def test_every_training_ends_before_the_next_begins_and_ids_are_unique(
    records: list[Alarm | Statistics], verdicts: list[bool]
) -> None:
    decisions = decided(records, verdicts, set())
    assert len({decision.id for decision in decisions}) == len(decisions)
    open_version: int | None = None
    for decision in decisions:
        if decision.kind == "retrain":
            assert open_version is None
            open_version = decision.model_version
        elif decision.kind in ("refused", "rejected", "promoted"):
            assert decision.model_version == open_version
            open_version = None


@settings(max_examples=60, deadline=None)
@given(streams(), st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_repeated_records_change_no_decision(
    records: list[Alarm | Statistics], verdicts: list[bool], data: st.DataObject
) -> None:
    repeated: list[Alarm | Statistics] = []
    for number, record in enumerate(records):
        repeated.append(record)
        again = data.draw(st.lists(st.integers(0, number), max_size=2))
        repeated.extend(records[index] for index in again)
    assert essence(decided(repeated, verdicts, set())) == essence(decided(records, verdicts, set()))


@settings(max_examples=60, deadline=None)
@given(streams(), st.lists(st.booleans(), min_size=1, max_size=7), st.sets(st.integers(0, 60), max_size=6))
def test_restarts_change_no_decision(
    records: list[Alarm | Statistics], verdicts: list[bool], restarts: set[int]
) -> None:
    assert essence(decided(records, verdicts, restarts)) == essence(decided(records, verdicts, set()))


def essence(decisions: list[Decision]) -> list[tuple[str, int, str, int | None]]:
    """What readers act on; `details` also name the offset read so far, which repetition shifts."""
    return [(decision.id, decision.at, decision.trigger, decision.model_version) for decision in decisions]
