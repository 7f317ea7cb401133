"""The engine against a slow oracle: any order, any batching, any crash and restore, same bits."""

import random
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.featureoracle import Oracle, Row
from tidemill.domain.pipeline import FeatureSpec, Pipeline, StageSpec
from tidemill.features.core import kernels
from tidemill.features.core.definition import StageDefinition, compile_stage
from tidemill.features.core.engine import WindowEngine
from tidemill.runtime.pipelinefile import load_pipeline

SECOND = 1_000
FRAUD = load_pipeline("fraud")

windows = st.integers(1, 60).map(lambda seconds: seconds * SECOND)
delays = st.sampled_from([0, 0, 5 * SECOND, 30 * SECOND])
aggregates = st.sampled_from(["count", "sum", "mean", "label_rate"])


@st.composite
def stages(draw: st.DrawFn) -> StageDefinition:
    features = []
    for number in range(draw(st.integers(1, 5))):
        aggregate = draw(aggregates)
        field = "amount" if aggregate in ("sum", "mean") else None
        window, delay = draw(windows), draw(delays)
        features.append(FeatureSpec(name=f"f{number}", aggregate=aggregate, field=field, window=window, delay=delay))
    stage = StageSpec(entity="customer", features=tuple(features))
    lateness, label_lateness = draw(st.sampled_from([(0, 0), (10, 5), (20, 40)]))
    return compile_stage(pipeline_with(stage, lateness * SECOND, label_lateness * SECOND), 0)


def pipeline_with(stage: StageSpec, lateness: int, label_lateness: int) -> Pipeline:
    features = FRAUD.features.model_copy(
        update={"stages": (stage,), "allowed_lateness": lateness, "label_lateness": label_lateness}
    )
    return FRAUD.model_copy(update={"features": features})


def arrivals(chance: random.Random, count: int) -> list[Row]:
    """Events around a moving clock, some repeated, late or long after; labels mostly of events that came before."""
    rows: list[Row] = []
    clock = 1_000_000
    keys = [b"a", b"b", b"long-key", "schlüssel".encode()][: chance.randint(1, 4)]
    for _ in range(count):
        if rows and chance.random() < 0.4:
            about = rows[-chance.randint(1, min(len(rows), 30))]
            truth = chance.choice([None, 0, 1, 1])
            rows.append(about._replace(label=truth) if truth is not None else about)
            continue
        seconds = chance.choice([0, 0, 1, chance.randint(-30, 15), chance.randint(-30, 15), chance.choice([0, 5, 90])])
        ts = clock + seconds * SECOND
        clock = max(clock, ts)
        amount = chance.choice([chance.randint(-50, 5_000)] * 9 + [1 << 35])
        label = chance.choice([None] * 9 + [1])
        rows.append(Row(chance.choice(keys), chance.randint(0, 3), ts, amount, label))
    return rows


def slide(engine: WindowEngine, rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    columns = [np.array(column, np.int64) for column in zip(*((r.ts, r.identity) for r in rows), strict=True)]
    labels = np.array([kernels.NOT_A_LABEL if row.label is None else row.label for row in rows], np.int64)
    numbers = np.array([[row.amount] for row in rows], np.int64)
    return engine.slide([row.key for row in rows], *columns, labels, numbers[:, : engine.number_fields])


@settings(max_examples=200, deadline=None)
@given(stage=stages(), seed=st.integers(0, 2**32), count=st.integers(1, 250), batches=st.integers(1, 40))
def test_features_equal_the_oracle_for_any_order_batching_and_restarts(
    stage: StageDefinition, seed: int, count: int, batches: int
) -> None:
    chance = random.Random(seed)
    rows = arrivals(chance, count)
    oracle = Oracle(stage)
    engine = WindowEngine(stage)
    changelog: dict[bytes, bytes] = {}
    bounds = sorted({0, count, *(chance.randint(0, count) for _ in range(batches))})
    for begin, end in pairwise(bounds):
        part = rows[begin:end]
        if chance.random() < 0.3:
            slide(engine, part)  # The transaction of this batch was aborted: the state is read back from the log.
            engine = WindowEngine(stage)
            engine.restore(changelog.items())
        matrix, status = slide(engine, part)
        expected = [oracle.apply(row) for row in part]
        assert status.tolist() == [verdict for verdict, _ in expected]
        np.testing.assert_array_equal(matrix, np.array([values for _, values in expected]))
        for key, value in engine.pack():
            if value is None:
                changelog.pop(key, None)
            else:
                changelog[key] = value
    restored = WindowEngine(stage)
    restored.restore(changelog.items())
    assert (restored.keys, restored.rows, restored.newest) == (engine.keys, engine.rows, engine.newest)
