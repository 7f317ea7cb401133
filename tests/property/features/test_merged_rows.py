"""Keys with too many rows: windows over merged rows against a slow oracle, with any batching, crash and restore."""

import random
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.boundedoracle import MergingOracle
from support.comparison import compared
from support.featureoracle import Row
from support.featurestreams import CHANNELS, FILTERS, SCALE, SECOND, features, restored, shop, slide
from tidemill.domain.featurespec import FeatureSpec
from tidemill.domain.statebounds import of_sums
from tidemill.features.core import kernels, merging, rings
from tidemill.features.core.definition import StageDefinition, compile_stage
from tidemill.features.core.engine import WindowEngine

OF_SUMS = ("count", "sum", "mean", "std", "share", "label_rate", "ratio_to_mean")


@st.composite
def sums(draw: st.DrawFn, name: str, bucket: int | None) -> FeatureSpec:
    """A feature of sums over a window that is long beside the lateness; with `bucket` in its own window."""
    size = draw(st.integers(30, 300)) * SECOND
    shapes: list[Any] = [{"type": "sliding", "size": size, "bucket": bucket}]
    if bucket is None:
        shapes += [{"type": "tumbling", "size": size}, {"type": "hopping", "size": 4 * size, "hop": size}]
    aggregate = draw(st.sampled_from(OF_SUMS))
    more: dict[str, Any] = {"field": "amount"} if aggregate in ("sum", "mean", "std", "ratio_to_mean") else {}
    if aggregate == "share":
        more = {"field": "channel", "equals": draw(st.sampled_from(CHANNELS))}
    more |= {"where": draw(st.sampled_from(FILTERS)), "delay": draw(st.sampled_from([0, 0, 30, 70])) * SECOND}
    window = draw(st.sampled_from(shapes))
    return FeatureSpec.model_validate({"name": name, "aggregate": aggregate, "window": window, **more})


@st.composite
def stages(draw: st.DrawFn) -> tuple[tuple[FeatureSpec, ...], StageDefinition]:
    """Merging by itself or on request, some with windows that stay exact."""
    bucket = draw(st.integers(1, 25).map(lambda seconds: seconds * SECOND) | st.integers(1_000, 9_999))
    by_itself = draw(st.booleans())
    wanted = [draw(sums(f"s{at}", None if by_itself else bucket)) for at in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        wanted += [draw(features(f"f{at}")) for at in range(draw(st.integers(1, 2)))]
    late = draw(st.sampled_from([(0, 0), (10 * SECOND, 5 * SECOND), (20 * SECOND, 40 * SECOND)]))
    merged = {"max_rows_per_key": draw(st.sampled_from([16, 16, 40])), "bucket": bucket} if by_itself else None
    return tuple(wanted), compile_stage(shop(tuple(wanted), *late, merged), 0)


def arrivals(chance: random.Random, count: int) -> list[Row]:
    """One busy key or two; labels, repeats and late events near the clock and far behind it, and silences."""
    rows: list[Row] = []
    clock, silence = 1_000_000, chance.choice([30, 400])
    keys = [b"a", b"b"][: chance.randint(1, 2)]
    for number in range(count):
        if rows and chance.random() < 0.35:
            about = rows[-chance.randint(1, min(len(rows), chance.choice([10, 200])))]
            truth = chance.choice([None, 0, 1, 1])
            rows.append(about._replace(label=truth) if truth is not None else about)
            continue
        seconds = chance.choice([0, 0, 1, 1, 2, chance.randint(-40, 4), silence if chance.random() < 0.1 else 1])
        ts = clock + seconds * SECOND + chance.choice([0, 0, 1, -1])
        clock = max(clock, ts)
        amount = chance.choice([chance.randint(-50, 5_000)] * 7 + [700, 0, 1 << 33])
        rows.append(Row(chance.choice(keys), number % 997, ts, amount, None, chance.choice(CHANNELS)))
    return rows


def cut(rows: list[Row], chance: random.Random) -> list[list[Row]]:
    bounds = sorted({0, len(rows), *(chance.randint(0, len(rows)) for _ in range(chance.randint(1, 40)))})
    return [rows[begin:end] for begin, end in pairwise(bounds)]


@settings(max_examples=150, deadline=None)
@given(asked=stages(), seed=st.integers(0, 2**32), count=st.integers(30, 350))
def test_merged_windows_equal_the_oracle_for_any_order_batching_and_restarts(
    asked: tuple[tuple[FeatureSpec, ...], StageDefinition], seed: int, count: int
) -> None:
    wanted, stage = asked
    chance = random.Random(seed)
    rows = arrivals(chance, count)
    oracle = MergingOracle(stage, wanted, SCALE)
    whole, _ = slide(WindowEngine(stage), stage, rows)
    parts = [whole[:0]]
    changelog: dict[bytes, bytes] = {}
    for engine, matrix in compared(stage, oracle, cut(rows, chance), chance, changelog):
        parts.append(matrix)
        assert engine.rows == oracle.rows()
        assert held(restored(stage, changelog)) == held(engine)
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def held(engine: WindowEngine) -> dict[bytes, list[list[int]]]:
    """Every row of every key, without the number of its arrival, which begins anew where all others have gone."""
    found = {}
    for name in engine.names:
        rows = engine.rows_of(name)
        rows[rows[:, rings.ARRIVAL] != merging.MERGED, rings.ARRIVAL] &= 1
        found[name] = rows.tolist()
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    bucket=st.integers(1, 30),
    size=st.integers(31, 200),
    delay=st.sampled_from([0, 40]),
)
def test_a_count_differs_by_the_events_of_the_cells_at_its_edges_only(
    seed: int, bucket: int, size: int, delay: int
) -> None:
    chance = random.Random(seed)
    window = {"type": "sliding", "size": size * SECOND, "bucket": bucket * SECOND}
    one = {"name": "n", "aggregate": "count", "window": window, "delay": delay * SECOND}
    stage = compile_stage(shop((FeatureSpec.model_validate(one),), 10 * SECOND, 0), 0)
    rows = [row for row in arrivals(chance, 300) if row.label is None and row.key == b"a"]
    matrix, status = slide(WindowEngine(stage), stage, rows)
    seen: list[Row] = []
    for row, got, verdict in zip(rows, matrix[:, 0].tolist(), status.tolist(), strict=True):
        if verdict != kernels.ACCEPTED:
            continue
        seen.append(row)
        times = [other.ts for other in seen]
        near, far = row.ts - delay * SECOND, row.ts - (delay + size) * SECOND
        surely = sum(far < ts <= near - (bucket * SECOND if delay else 0) for ts in times)
        at_most = sum(far - bucket * SECOND < ts <= near for ts in times)
        assert surely <= got <= at_most


def test_the_streams_of_these_tests_merge_often() -> None:
    merged = 0
    one = FeatureSpec.model_validate({"name": "n", "aggregate": "count", "window": 200 * SECOND})
    stage = compile_stage(shop((one,), 10 * SECOND, 0, {"max_rows_per_key": 16, "bucket": 5 * SECOND}), 0)
    for seed in range(20):
        oracle = MergingOracle(stage, (one,), SCALE)
        for row in arrivals(random.Random(seed), 300):
            oracle.apply(row)
        merged += oracle.merges
    assert merged > 1_000
    assert of_sums(one)
