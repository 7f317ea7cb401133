"""Closed windows against an oracle that keeps raw events; batching, crashes and restores change no byte."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.summaryoracle import Oracle, Payment, Written
from support.summarystreams import (
    FIELDS,
    LONG,
    SECOND,
    Counted,
    arrivals,
    flushed,
    shop,
    stage_of,
    summaries,
    written,
)
from tidemill.domain.summaryspec import SummarySpec
from tidemill.runtime.service import OutRecord

LATENESSES = (0, 2 * SECOND, 6 * SECOND, 20 * SECOND)
seeds = st.integers(0, 2**32)


@given(seeds)
@settings(max_examples=80, deadline=None)
def test_summaries_are_those_of_the_oracle_in_its_order(seed: int) -> None:
    chance = random.Random(seed)
    specs, lateness, counted = summaries(chance), chance.choice(LATENESSES), Counted()
    stage, oracle = stage_of(shop(specs, lateness), counted=counted), Oracle(specs, lateness)
    for item in arrivals(chance, 120):
        found, expected = written(flushed(stage, [item], {}).records), oracle.take(item)
        assert counted.missed == oracle.missed, item
        assert list(map(without_spread, found)) == list(map(without_spread, expected))
        for one, other in zip(found, expected, strict=True):
            assert one.values.get("spread", 0.0) == pytest.approx(other.values.get("spread", 0.0), rel=1e-14)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_neither_batches_nor_crashes_change_what_is_written_or_kept(seed: int) -> None:
    chance = random.Random(seed)
    behind = summaries(chance) if chance.random() < 0.5 else None
    pipeline = shop(summaries(chance, within=chance.choice([4 * SECOND, LONG])), chance.choice(LATENESSES), behind)
    items = arrivals(chance, 120)
    whole: dict[bytes, bytes] = {}
    expected = _outputs(flushed(stage_of(pipeline), items, whole).records)
    cut: dict[bytes, bytes] = {}
    found: list[OutRecord] = []
    stage = stage_of(pipeline)
    at = 0
    while at < len(items):
        size = chance.choice([1, 2, 7, 30])
        if chance.random() < 0.2:  # a transaction that is never committed, and the process with it
            flushed(stage, items[at : at + size], dict(cut))
            stage = stage_of(pipeline)
            stage.restore(0, cut.items())
        found += flushed(stage, items[at : at + size], cut).records
        at += size
    assert _outputs(found) == expected
    assert {key: value for key, value in cut.items() if key.endswith(b"\xff" * 4)} == {
        key: value for key, value in whole.items() if key.endswith(b"\xff" * 4)
    }


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_a_session_is_never_longer_than_within_and_no_event_is_lost_or_counted_twice(seed: int) -> None:
    chance = random.Random(seed)
    within = chance.choice([0, 1, 4, 9]) * SECOND + 3 * SECOND
    window = {"type": "session", "gap": 3 * SECOND, "within": within}
    spec = SummarySpec.model_validate({"name": "visits", "window": window, "fields": FIELDS[:1]})
    items = [item for item in arrivals(chance, 150, marks=False) if isinstance(item, Payment)]
    lateness = 6 * SECOND
    counted = Counted()
    stage, oracle = stage_of(shop([spec], lateness), counted=counted), Oracle([], lateness)
    for item in items:
        oracle.take(item)
    output = flushed(stage, [*items, items[-1]._replace(time=LONG * 2, identity=-1)], {})
    sessions = written(output.records)
    assert all(one.end - 3 * SECOND - one.start <= within for one in sessions)
    assert sum(one.values["payments"] for one in sessions) == len(oracle.accepted) - counted.missed


def _outputs(records: list[OutRecord]) -> tuple[list[OutRecord], list[OutRecord]]:
    """Summaries, and all else, each in order: a topic has an order, two topics have none between them."""
    made = [record for record in records if record.topic.endswith("-summaries")]
    return made, [record for record in records if not record.topic.endswith("-summaries")]


def without_spread(one: Written) -> Written:
    return one._replace(values={name: value for name, value in one.values.items() if name != "spread"})
