"""The engine against a slow oracle: any windows, any order, any batching, any crash and restore, same bits."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.comparison import compared
from support.featureoracle import Oracle, Row
from support.featurestreams import (
    CHANNELS,
    SCALE,
    SECOND,
    arrivals,
    cut,
    feature_lists,
    restored,
    save,
    slide,
    stage_of,
)
from tidemill.domain.featurespec import FeatureSpec
from tidemill.features.core import kernels
from tidemill.features.core.engine import WindowEngine

lateness = st.sampled_from([(0, 0), (10 * SECOND, 5 * SECOND), (20 * SECOND, 40 * SECOND)])


@settings(max_examples=200, deadline=None)
@given(wanted=feature_lists(), late=lateness, seed=st.integers(0, 2**32), count=st.integers(1, 250))
def test_features_equal_the_oracle_for_any_order_batching_and_restarts(
    wanted: tuple[FeatureSpec, ...], late: tuple[int, int], seed: int, count: int
) -> None:
    chance = random.Random(seed)
    stage = stage_of(wanted, *late)
    rows = arrivals(chance, count)
    changelog: dict[bytes, bytes] = {}
    *_, (engine, _) = compared(stage, Oracle(stage, wanted, SCALE), cut(rows, chance), chance, changelog)
    again = restored(stage, changelog)
    assert (again.keys, again.rows, again.newest) == (engine.keys, engine.rows, engine.newest)


@settings(max_examples=100, deadline=None)
@given(wanted=feature_lists(), late=lateness, seed=st.integers(0, 2**32), count=st.integers(1, 200))
def test_batches_and_restarts_do_not_change_a_bit(
    wanted: tuple[FeatureSpec, ...], late: tuple[int, int], seed: int, count: int
) -> None:
    chance = random.Random(seed)
    stage = stage_of(wanted, *late)
    rows = arrivals(chance, count)
    whole, _ = slide(WindowEngine(stage), stage, rows)
    engine, parts = WindowEngine(stage), []
    changelog: dict[bytes, bytes] = {}
    for part in cut(rows, chance):
        parts.append(slide(engine, stage, part)[0])
        save(engine, changelog)
        if chance.random() < 0.3:
            engine = restored(stage, changelog)
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@settings(max_examples=100, deadline=None)
@given(wanted=feature_lists(), seed=st.integers(0, 2**32), count=st.integers(2, 80))
def test_any_order_within_the_lateness_ends_in_the_same_state(
    wanted: tuple[FeatureSpec, ...], seed: int, count: int
) -> None:
    """Labels stay behind their events, and events of equal time, which stand as they arrived, in their order."""
    chance = random.Random(seed)
    span = 60 * SECOND
    stage = stage_of(wanted, span, span)
    events = [
        Row(chance.choice([b"a", b"b"]), number, 1_000_000 + chance.randrange(span), 0, None)._replace(
            amount=chance.randint(-50, 5_000), channel=chance.choice(CHANNELS)
        )
        for number in range(count)
    ]
    labels = [row._replace(label=chance.randint(0, 1)) for row in events if chance.random() < 0.5]
    probes = [Row(key, 999, 1_000_000 + 2 * span + after, 100, None) for after in (0, 7_000) for key in (b"a", b"b")]
    answers = set()
    for order in range(3):
        moved = list(events)
        if order:
            chance.shuffle(moved)
        ties = {ts: iter([row for row in events if row.ts == ts]) for ts in {row.ts for row in events}}
        moved = [next(ties[row.ts]) for row in moved]
        engine = WindowEngine(stage)
        _, status = slide(engine, stage, mixed(moved, labels, chance))
        assert set(status.tolist()) <= {kernels.ACCEPTED, kernels.LABEL_ACCEPTED}
        matrix, _ = slide(engine, stage, probes)
        answers.add((matrix.tobytes(), engine.keys, engine.rows))
    assert len(answers) == 1


def mixed(events: list[Row], labels: list[Row], chance: random.Random) -> list[Row]:
    """The labels put in at random places behind their events."""
    rows = list(events)
    for label in labels:
        event = next(at for at, row in enumerate(rows) if row.label is None and row.identity == label.identity)
        rows.insert(chance.randint(event + 1, len(rows)), label)
    return rows
