"""Whatever the batches and wherever the crashes, the committed drift records are the same."""

from functools import cache

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.drift.core.features import Champion
from tidemill.runtime.service import OutRecord, Record
from unit.drift.streams import (
    AMOUNT,
    MemoryLoop,
    champion_of,
    chunks,
    fraud_pipeline,
    merged,
    nulls,
    outcome_record,
    prediction_record,
    service_of,
    vectors,
)

PARTITIONS = 3
ROWS = 2_700
PIPELINE = fraud_pipeline(
    statistics_every="30m",
    floor_window="3h",
    generation_events=1_000,
    min_average_precision=0.5,
    min_positives=5,
    sample_share=0.7,
)


@cache
def champions() -> dict[int, Champion]:
    training = vectors(5_000, seed=3)
    return {version: champion_of(training, version) for version in (1, 2)}


@cache
def records() -> tuple[Record, ...]:
    """The rule, version 1, a shift, version 2 partition after partition, another shift; outcomes a minute later."""
    matrix = vectors(ROWS, 77)
    matrix[700:, AMOUNT] *= 3
    matrix[2_100:, AMOUNT + 3] += 6
    offsets = [0] * PARTITIONS
    made: list[Record] = []
    for row, vector in enumerate(nulls(matrix)):
        partition = row * 11 % 7 % PARTITIONS
        version = None if row < 450 else 1 if row < 1_800 + 20 * partition else 2
        score = (row * 37 % 101) / 101
        prediction = prediction_record(offsets[partition], partition, row, vector, version, score)
        label = None if row % 13 == 0 else int(row % 29 == 0)
        made += [prediction, outcome_record(prediction, offsets[partition], label, 60_000)]
        offsets[partition] += 1
    return tuple(merged(made))


def new_loop() -> MemoryLoop:
    return MemoryLoop(lambda: service_of(PIPELINE, champions(), PARTITIONS), PARTITIONS)


@cache
def undisturbed() -> list[OutRecord]:
    loop = new_loop()
    loop.start([])
    for chunk in chunks(records(), [3_000] * 2):
        loop.transact(chunk)
    loop.rest()
    return loop.written


def test_the_stream_of_this_module_raises_every_kind_of_record() -> None:
    ids = [record["id"] for record in _decoded(undisturbed())]
    assert len(set(ids)) == len(ids)
    assert {"feature:amount", "floor", "statistics", "generation"} <= {identifier.split("/")[3] for identifier in ids}
    assert {identifier.split("/")[1] for identifier in ids} == {"none", "1", "2"}
    assert len([i for i in ids if "/generation/" in i]) >= 3


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(st.integers(1, 500), min_size=12, max_size=40),
    crashes=st.sets(st.integers(0, 30), max_size=6),
    restarts=st.sets(st.integers(0, 30), max_size=6),
    replay_batch=st.integers(1, 900),
)
def test_any_batches_with_any_crashes_and_restarts_commit_the_same_drift_records(
    batches: list[int], crashes: set[int], restarts: set[int], replay_batch: int
) -> None:
    log = records()
    loop = new_loop()
    loop.start(log, replay_batch)
    rest = [3_000, 3_000]
    for number, chunk in enumerate(chunks(log, [*batches, *rest])):
        if number in crashes:
            loop.transact(chunk, crash=True)
            loop.start(log, replay_batch)
        elif number in restarts:
            loop.start(log, replay_batch)
        loop.transact(chunk)
    loop.rest()
    assert loop.written == undisturbed()


def _decoded(written: list[OutRecord]) -> list[dict[str, str]]:
    return [orjson.loads(record.value or b"") for record in written]
