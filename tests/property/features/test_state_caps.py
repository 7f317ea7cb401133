"""A partition at its cap: which keys go, and when, is the log's to say; never a batch's, and no crash changes it."""

import random
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.boundedoracle import CappedOracle
from support.comparison import compared
from support.featureoracle import Row
from support.featurestreams import (
    CHANNELS,
    SCALE,
    SECOND,
    feature_lists,
    joined_arrivals,
    joined_lists,
    restored,
    save,
    shop,
    slide,
)
from tidemill.domain.featurespec import FeatureSpec, StateLimits
from tidemill.features.core.definition import StageDefinition, compile_stage
from tidemill.features.core.engine import WindowEngine

lateness = st.sampled_from([(0, 0), (10 * SECOND, 5 * SECOND), (20 * SECOND, 40 * SECOND)])


def capped(
    wanted: tuple[FeatureSpec, ...], late: tuple[int, int], keys: int | None, rows: int | None, **merged: int
) -> StageDefinition:
    """`rows` is about how many rows the cap on bytes has room for."""
    plain = compile_stage(shop(wanted, *late, merged or None), 0)
    size = None if rows is None else max(4_096, rows * (plain.row_bytes + plain.line_bytes // 4))
    limits = StateLimits(max_keys=keys, max_bytes=size, when_full="evict")
    return compile_stage(shop(wanted, *late, merged or None, limits), 0)


def arrivals(chance: random.Random, count: int, keys: int) -> list[Row]:
    """Many keys that come and go; labels and repeats of what came before; late events."""
    rows: list[Row] = []
    clock = 1_000_000
    for number in range(count):
        if rows and chance.random() < 0.3:
            about = rows[-chance.randint(1, min(len(rows), 40))]
            truth = chance.choice([None, 0, 1])
            rows.append(about._replace(label=truth) if truth is not None else about)
            continue
        ts = clock + chance.choice([0, 0, 1, 1, 0, chance.randint(-25, 3), 20]) * SECOND
        clock = max(clock, ts)
        key = b"k%d" % chance.choice([chance.randrange(keys), chance.randrange(min(3, keys))])
        rows.append(Row(key, number % 5, ts, chance.randint(0, 999), None, chance.choice(CHANNELS)))
    return rows


def cut(rows: list[Row], chance: random.Random) -> list[list[Row]]:
    bounds = sorted({0, len(rows), *(chance.randint(0, len(rows)) for _ in range(chance.randint(1, 40)))})
    return [rows[begin:end] for begin, end in pairwise(bounds)]


@settings(max_examples=150, deadline=None)
@given(
    wanted=feature_lists(),
    late=lateness,
    caps=st.sampled_from([(2, None), (3, None), (5, None), (None, 30), (None, 60), (4, 40)]),
    seed=st.integers(0, 2**32),
    count=st.integers(5, 250),
)
def test_evictions_equal_the_oracle_for_any_batching_and_restarts(
    wanted: tuple[FeatureSpec, ...],
    late: tuple[int, int],
    caps: tuple[int | None, int | None],
    seed: int,
    count: int,
) -> None:
    chance = random.Random(seed)
    stage = capped(wanted, late, *caps)
    rows = arrivals(chance, count, 12)
    oracle, at_once = CappedOracle(stage, wanted, SCALE), WindowEngine(stage)
    whole, _ = slide(at_once, stage, rows)
    parts, evicted = [whole[:0]], 0
    changelog: dict[bytes, bytes] = {}
    for engine, matrix in compared(stage, oracle, cut(rows, chance), chance, changelog):
        evicted += engine.take_evicted()
        parts.append(matrix)
        assert engine.names == oracle.names
        assert {key[:-4] for key in changelog} == set(engine.names)
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert evicted == at_once.take_evicted() == len(oracle.evicted)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), keys=st.integers(2, 6), rows=st.none() | st.integers(20, 60))
def test_caps_and_merged_rows_together_change_no_bit_with_batches_and_restarts(
    seed: int, keys: int, rows: int | None
) -> None:
    chance = random.Random(seed)
    wanted = (
        FeatureSpec(name="sum", aggregate="sum", field="amount", window=120 * SECOND),
        FeatureSpec(name="rate", aggregate="label_rate", window=90 * SECOND, delay=5 * SECOND),
    )
    stage = capped(wanted, (10 * SECOND, 5 * SECOND), keys, rows, max_rows_per_key=16, bucket=4 * SECOND)
    stream = arrivals(chance, 300, 8)
    whole, verdicts = slide(WindowEngine(stage), stage, stream)
    engine, parts, statuses = WindowEngine(stage), [whole[:0]], [verdicts[:0]]
    changelog: dict[bytes, bytes] = {}
    for part in cut(stream, chance):
        matrix, status = slide(engine, stage, part)
        parts.append(matrix)
        statuses.append(status)
        save(engine, changelog)
        if chance.random() < 0.5:
            engine = restored(stage, changelog)
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert np.concatenate(statuses).tobytes() == verdicts.tobytes()


@settings(max_examples=150, deadline=None)
@given(
    wanted=joined_lists(),
    late=lateness,
    caps=st.sampled_from([(2, None), (3, None), (None, 30), (4, 40)]),
    seed=st.integers(0, 2**32),
    count=st.integers(5, 250),
)
def test_records_of_streams_count_for_the_caps_and_batches_and_restarts_change_no_bit(
    wanted: tuple[FeatureSpec, ...],
    late: tuple[int, int],
    caps: tuple[int | None, int | None],
    seed: int,
    count: int,
) -> None:
    chance = random.Random(seed)
    stage = capped(wanted, late, *caps)
    rows = joined_arrivals(chance, count, stage.streams)
    whole, verdicts = slide(WindowEngine(stage), stage, rows)
    engine, parts, statuses = WindowEngine(stage), [whole[:0]], [verdicts[:0]]
    changelog: dict[bytes, bytes] = {}
    for part in cut(rows, chance):
        matrix, status = slide(engine, stage, part)
        parts.append(matrix)
        statuses.append(status)
        assert stage.caps is not None
        assert engine.keys <= (stage.caps.keys or engine.keys)
        held = engine.rows * stage.row_bytes + engine.keys * stage.line_bytes
        assert engine.keys <= 2 or held <= (stage.caps.size or held)
        save(engine, changelog)
        if chance.random() < 0.3:
            engine = restored(stage, changelog)
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert np.concatenate(statuses).tobytes() == verdicts.tobytes()


def test_of_many_keys_a_sixty_fourth_goes_at_a_time_the_oldest_first() -> None:
    wanted = (FeatureSpec(name="n", aggregate="count", window=1_000 * SECOND),)
    stage = capped(wanted, (0, 0), 320, None)
    chance = random.Random(3)
    # Four keys a second: those of one second go in the order of their bytes.
    rows = [Row(b"%08x" % chance.getrandbits(32), 1, 1_000_000 + at // 4 * SECOND, 1, None) for at in range(700)]
    engine, oracle = WindowEngine(stage), CappedOracle(stage, wanted, SCALE)
    for begin in range(0, len(rows), 61):
        slide(engine, stage, rows[begin : begin + 61])
        for row in rows[begin : begin + 61]:
            oracle.apply(row)
        assert engine.names == oracle.names
    assert engine.take_evicted() == len(oracle.evicted) == 380
    firsts = [row.key for row in sorted(rows[:320], key=lambda row: (row.ts, row.key))]
    assert oracle.evicted[:5] == firsts[:5]
