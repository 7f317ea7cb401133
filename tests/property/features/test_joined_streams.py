"""Joins with second streams against a slow oracle: any windows, any order, any batching, any crash, same bits."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.comparison import compared
from support.featureoracle import Oracle, Row
from support.featurestreams import (
    FIRST,
    JOINED,
    SCALE,
    SECOND,
    cut,
    joined_arrivals,
    joined_lists,
    restored,
    save,
    shop,
    slide,
    stage_of,
)
from tidemill.domain.durations import DAY_MS
from tidemill.domain.featurespec import FeatureSpec
from tidemill.features.core import kernels
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.engine import WindowEngine

lateness = st.sampled_from([(0, 0), (10 * SECOND, 5 * SECOND), (20 * SECOND, 40 * SECOND)])


@settings(max_examples=200, deadline=None)
@given(wanted=joined_lists(), late=lateness, seed=st.integers(0, 2**32), count=st.integers(1, 250))
def test_joined_features_equal_the_oracle_for_any_order_batching_and_restarts(
    wanted: tuple[FeatureSpec, ...], late: tuple[int, int], seed: int, count: int
) -> None:
    chance = random.Random(seed)
    stage = stage_of(wanted, *late)
    rows = joined_arrivals(chance, count, stage.streams)
    changelog: dict[bytes, bytes] = {}
    *_, (engine, _) = compared(stage, Oracle(stage, wanted, SCALE), cut(rows, chance), chance, changelog)
    again = restored(stage, changelog)
    assert (again.keys, again.rows, again.newest) == (engine.keys, engine.rows, engine.newest)


@settings(max_examples=100, deadline=None)
@given(wanted=joined_lists(), late=lateness, seed=st.integers(0, 2**32), count=st.integers(1, 200))
def test_batches_and_restarts_do_not_change_a_bit_of_a_join(
    wanted: tuple[FeatureSpec, ...], late: tuple[int, int], seed: int, count: int
) -> None:
    chance = random.Random(seed)
    stage = stage_of(wanted, *late)
    rows = joined_arrivals(chance, count, stage.streams)
    whole, _ = slide(WindowEngine(stage), stage, rows)
    engine, parts = WindowEngine(stage), []
    changelog: dict[bytes, bytes] = {}
    for part in cut(rows, chance):
        parts.append(slide(engine, stage, part)[0])
        save(engine, changelog)
        if chance.random() < 0.3:
            engine = restored(stage, changelog)
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    lead=st.integers(0, 40).map(lambda seconds: seconds * SECOND),
    late=st.integers(0, 20).map(lambda seconds: seconds * SECOND),
    seed=st.integers(0, 2**32),
)
def test_a_record_far_ahead_of_events_that_came_after_it_stays_in_the_changelog_while_it_lives(
    lead: int, late: int, seed: int
) -> None:
    """A chunk is deleted when its rows have expired; the first to arrive may be the last to expire."""
    chance = random.Random(seed)
    wanted = (FeatureSpec(name="f", aggregate="last", stream="limits", field="amount", window=60 * SECOND),)
    streams = {name: stream.model_copy(update={"max_lead": lead}) for name, stream in JOINED.streams.items()}
    stage = compile_stage(shop(wanted, late, 0, pipeline=JOINED.model_copy(update={"streams": streams})), 0)
    engine, whole = WindowEngine(stage), WindowEngine(stage)
    changelog: dict[bytes, bytes] = {}
    clock = 1_000_000_000
    for number in range(150):
        clock += chance.choice([0, 1, 2, 5]) * SECOND
        is_ahead = chance.random() < 0.2
        ts = clock + (lead if is_ahead else -chance.randint(0, late))
        row = Row(b"a", number, ts, number, None, "web", "limits" if is_ahead else None)
        assert slide(engine, stage, [row])[0].tobytes() == slide(whole, stage, [row])[0].tobytes()
        save(engine, changelog)
        engine = restored(stage, changelog)
        assert engine.rows == whole.rows


@settings(max_examples=100, deadline=None)
@given(wanted=joined_lists(), seed=st.integers(0, 2**32), count=st.integers(2, 80))
def test_events_and_records_in_any_order_within_the_lateness_end_in_the_same_state(
    wanted: tuple[FeatureSpec, ...], seed: int, count: int
) -> None:
    """Of one time, records of a stream stay in their order, and so do events."""
    chance = random.Random(seed)
    span = 60 * SECOND
    stage = stage_of(wanted, span, span)
    rows = [
        Row(chance.choice([b"a", b"b"]), number, FIRST + chance.randrange(span), chance.randint(-50, 5_000), None)
        for number in range(count)
    ]
    rows = [row._replace(stream=chance.choice(stage.streams)) if chance.random() < 0.6 else row for row in rows]
    probes = [Row(key, 999, FIRST + 2 * span + after, 100, None) for after in (0, 7_000) for key in (b"a", b"b")]
    answers = set()
    for order in range(3):
        moved = list(rows)
        if order:
            chance.shuffle(moved)
        ties = {ts: iter([row for row in rows if row.ts == ts]) for ts in {row.ts for row in rows}}
        moved = [next(ties[row.ts]) for row in moved]
        engine = WindowEngine(stage)
        _, status = slide(engine, stage, moved)
        assert set(status.tolist()) <= {kernels.ACCEPTED, kernels.STREAM_ACCEPTED}
        matrix, _ = slide(engine, stage, probes)
        answers.add((matrix.tobytes(), engine.keys, engine.rows))
    assert len(answers) == 1


@settings(max_examples=100, deadline=None)
@given(
    wanted=joined_lists(),
    late=st.sampled_from([0, 20 * SECOND]),
    seed=st.integers(0, 2**32),
    count=st.integers(1, 150),
)
def test_features_of_events_do_not_see_a_stream_that_stays_within_its_lead(
    wanted: tuple[FeatureSpec, ...], late: int, seed: int, count: int
) -> None:
    chance = random.Random(seed)
    stage = stage_of(wanted, late, DAY_MS)  # So long that no key is forgotten, and with it how far its events are.
    rows, newest = [], dict[bytes, int]()
    for row in joined_arrivals(chance, count, stage.streams):
        newest[row.key] = max(newest.get(row.key, 0), row.ts if row.stream is row.label is None else 0)
        rows.append(row if row.stream is None else row._replace(ts=min(row.ts, newest[row.key] + stage.lead)))
    rows = [row for row in rows if row.stream is None or newest[row.key]]
    streams = [feature.stream for feature in wanted for _ in feature.columns]
    columns = [at for at, stream in enumerate(streams) if stream is None]
    both, status = slide(WindowEngine(stage), stage, rows)
    events = np.array([row.stream is None for row in rows], np.bool_)
    alone, status_alone = slide(WindowEngine(stage), stage, [row for row in rows if row.stream is None])
    assert status[events].tolist() == status_alone.tolist()
    assert both[events][:, columns].tobytes() == alone[:, columns].tobytes()
