"""The service as the loop drives it: generations, switches, dead letters, and nothing written twice."""

from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from tidemill.domain.pipeline import Pipeline
from tidemill.errors import StateCorrupt
from tidemill.runtime.service import Record
from unit.drift.streams import (
    AMOUNT,
    GAP_MS,
    OUTCOMES,
    PREDICTIONS,
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

TRAINING = vectors(8_000, seed=500)
CHAMPIONS = {version: champion_of(TRAINING, version) for version in (1, 2, 3)}


def stream(
    rows: int, version: Callable[[int], int | None], partitions: int = 2, shifted_from: int = 1_000_000, seed: int = 1
) -> list[Record]:
    """Predictions on `partitions`, and the outcome of each 1 s of event time after it."""
    matrix = vectors(rows, seed)
    matrix[shifted_from:, AMOUNT] *= 3
    offsets = dict.fromkeys(range(partitions), 0)
    records: list[Record] = []
    for row, vector in enumerate(nulls(matrix)):
        partition = row * 7 % 5 % partitions
        offset = offsets[partition]
        offsets[partition] += 1
        prediction = prediction_record(offset, partition, row, vector, version(row))
        records += [prediction, outcome_record(prediction, offset, int(row % 40 == 0), 1_000)]
    return merged(records)


def loop_of(pipeline: Pipeline, partitions: int = 2) -> MemoryLoop:
    return MemoryLoop(lambda: service_of(pipeline, CHAMPIONS, partitions), partitions)


def run(pipeline: Pipeline, records: list[Record], batch: int = 100) -> MemoryLoop:
    loop = loop_of(pipeline)
    loop.start(records)
    for chunk in chunks(records, [batch] * (len(records) // batch + 1)):
        loop.transact(chunk)
    loop.rest()
    return loop


def kinds(drift: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in drift if record["kind"] == kind]


PIPELINE = fraud_pipeline(statistics_every="1h", floor_window="6h", min_average_precision=None)


def test_nothing_is_compared_before_a_model_is_live_and_statistics_flow() -> None:
    loop = run(PIPELINE, stream(1_500, lambda _: None, shifted_from=0))
    assert {record["kind"] for record in loop.drift()} == {"statistics"}
    last = loop.drift()[-1]
    hour = 3_600_000 // GAP_MS
    assert last["outcomes"] == 1_500 // hour * hour
    assert last["window"]["rows"] > 0


def test_the_first_prediction_of_a_version_starts_a_generation_and_its_detectors() -> None:
    loop = run(PIPELINE, stream(3_000, lambda row: None if row < 1_000 else 1, shifted_from=1_500))
    (generation,) = kinds(loop.drift(), "generation")
    (alarm,) = kinds(loop.drift(), "alarm")
    assert (generation["id"], generation["model_version"]) == ("fraud-mlp/1/g1/generation/1", 1)
    assert generation["reason"] == "version 1 serves from here on"
    assert (alarm["id"], alarm["detector"]) == ("fraud-mlp/1/g1/feature:amount/1", "feature:amount")
    assert alarm["at"] >= generation["at"] + 500 * GAP_MS


def test_partitions_that_switch_one_after_the_other_start_one_generation() -> None:
    records = stream(2_000, lambda row: 1)
    late = [
        record._replace(value=(record.value or b"").replace(b'"model_version":1', b'"model_version":2'))
        if record.timestamp >= records[1_500].timestamp + (0 if record.partition else 600_000)
        and record.topic == PREDICTIONS
        else record
        for record in records
    ]
    generations = kinds(run(PIPELINE, late).drift(), "generation")
    assert [(g["generation"], g["model_version"]) for g in generations] == [(1, 1), (2, 2)]


def test_a_rollback_is_a_generation_too() -> None:
    loop = run(PIPELINE, stream(1_500, lambda row: 1 if row < 500 else 2 if row < 1_000 else 1))
    assert [g["model_version"] for g in kinds(loop.drift(), "generation")] == [1, 2, 1]
    assert [g["id"] for g in kinds(loop.drift(), "generation")] == [
        f"fraud-mlp/{version}/g{number}/generation/1" for number, version in ((1, 1), (2, 2), (3, 1))
    ]


def test_a_generation_ends_after_its_number_of_predictions() -> None:
    pipeline = fraud_pipeline(statistics_every="1h", generation_events=1_000, min_average_precision=None)
    loop = run(pipeline, stream(3_500, lambda _: 1, shifted_from=0))
    generations = kinds(loop.drift(), "generation")
    assert [g["generation"] for g in generations] == [1, 2, 3, 4]
    assert generations[1]["reason"] == "1000 predictions were seen"
    assert [a["generation"] for a in kinds(loop.drift(), "alarm") if a["detector"] == "feature:amount"] == [1, 2, 3, 4]


def test_only_the_sampled_share_is_watched() -> None:
    pipeline = fraud_pipeline(sample_share=0.25, statistics_every="1h", min_average_precision=None)
    records = stream(4_000, lambda _: 1, shifted_from=0)
    (alarm,) = kinds(run(pipeline, records).drift(), "alarm")
    rows_until_then = (alarm["at"] - records[0].timestamp) / GAP_MS + 1
    assert alarm["rows"] / rows_until_then == pytest.approx(0.25, abs=0.05)


def test_young_keys_are_held_back_until_their_windows_are_full_and_known_as_old_after_a_restart() -> None:
    pipeline = fraud_pipeline(warm_up="3h", statistics_every="1h", min_average_precision=None)
    records = stream(4_000, lambda _: 1, shifted_from=0)
    loop = loop_of(pipeline)
    loop.start(records)
    for chunk in chunks(records, [1_000] * 8):
        loop.transact(chunk)
        loop.start(records)
    loop.rest()
    (alarm,) = kinds(loop.drift(), "alarm")
    assert alarm["at"] >= records[0].timestamp + 3 * 3_600_000
    assert {key for values in loop.changelog.values() for key in values if key.startswith(b"key/")} == {
        b"key/c-00000",
        b"key/c-00001",
    }


def test_bad_records_become_dead_letters_once_and_do_not_stop_the_others() -> None:
    records = stream(400, lambda _: 1)
    bad = {20: b"not json", 31: b'{"v":1,"id":"p"}', 50: None}
    broken = [record._replace(value=bad[row]) if row in bad else record for row, record in enumerate(records)]
    loop = run(PIPELINE, broken, batch=60)
    loop.start(broken)
    loop.transact([records[-1]._replace(offset=10_000, value=b"{")])
    codes = [code for code, _, _ in loop.dead]
    assert codes.count("bad_record") == len(codes) == 4 - (broken[50].topic == PREDICTIONS)


def test_a_restart_writes_nothing_again_and_goes_on() -> None:
    records = stream(3_000, lambda row: None if row < 500 else 1, shifted_from=1_000)
    whole = run(PIPELINE, records)
    loop = loop_of(PIPELINE)
    for chunk in chunks(records, [700] * 10):
        loop.start(records, batch=333)
        loop.transact(chunk)
    loop.rest()
    assert loop.drift() == whole.drift()


@pytest.mark.parametrize("seed", range(8))
def test_partitions_that_lag_behind_each_other_live_but_not_in_the_replay_write_no_record_twice_or_never(
    seed: int,
) -> None:
    """The replay then meets the records in another order, and a detector may settle at another row, on either side of
    the committed offsets."""
    records = stream(3_000, lambda row: None if row < 500 else 1, shifted_from=1_000)
    expected = [record["id"] for record in run(PIPELINE, records).drift()]
    rng = np.random.default_rng(seed)
    lag = rng.integers(0, 400, size=2) * GAP_MS
    lagged = sorted(records, key=lambda record: record.timestamp + int(lag[record.partition]))
    loop = loop_of(PIPELINE)
    for chunk in chunks(lagged, rng.integers(100, 1_500, size=60).tolist()):
        loop.start(records, batch=333)
        loop.transact(chunk)
    loop.rest()
    ids = [record["id"] for record in loop.drift()]
    assert len(ids) == len(set(ids))
    assert {i for i in ids if "statistics" not in i} == {i for i in expected if "statistics" not in i}
    watermarks = [record["watermark"] for record in kinds(loop.drift(), "statistics")]
    assert watermarks == sorted(set(watermarks))


def test_an_aborted_transaction_is_done_again_to_the_same_end() -> None:
    records = stream(2_000, lambda _: 1, shifted_from=700)
    whole = run(PIPELINE, records)
    loop = loop_of(PIPELINE)
    loop.start(records)
    service = loop.service
    assert service is not None
    for chunk in chunks(records, [500] * 8):
        service.add(chunk, 0.0)
        service.flush(0.0)
        service.drop([0, 1])
        for partition in (0, 1):
            service.restore(partition, list(loop.changelog.get(partition, {}).items()))
        at = {(topic, p): loop.committed.get((topic, p), 0) for topic in (PREDICTIONS, OUTCOMES) for p in (0, 1)}
        begin = service.replay_from(at)
        again = [r for r in records if begin[r.topic, r.partition] <= r.offset < at[r.topic, r.partition]]
        service.add(again, 0.0)
        service.flush(0.0)
        loop.transact(chunk)
    loop.rest()
    assert loop.drift() == whole.drift()


def test_state_that_tells_of_two_generations_is_refused() -> None:
    loop = run(PIPELINE, stream(800, lambda row: 1 if row < 400 else 2))
    old = orjson.loads(loop.changelog[1][b"generation"])
    loop.changelog[1][b"generation"] = orjson.dumps({**old, "generation": 1})
    with pytest.raises(StateCorrupt, match="partition 1 says 1"):
        loop.start([])


def test_state_that_cannot_be_read_is_refused() -> None:
    loop = run(PIPELINE, stream(100, lambda _: 1))
    loop.changelog[0][b"snapshot"] = b"{}"
    with pytest.raises(StateCorrupt, match="Beginning"):
        loop.start([])


def test_records_carry_the_detector_as_key_and_stream_time_as_timestamp() -> None:
    loop = run(PIPELINE, stream(2_000, lambda _: 1, shifted_from=0))
    assert {record.topic for record in loop.written} == {"fraud-drift"}
    assert {record.key for record in loop.written} == {b"generation", b"feature:amount", b"statistics"}
    assert all(record.timestamp == orjson.loads(record.value or b"")["at"] for record in loop.written)


def test_the_changelog_stays_a_few_kilobytes() -> None:
    loop = run(PIPELINE, stream(3_000, lambda row: 1 if row < 2_500 else 2))
    assert sum(len(value) for values in loop.changelog.values() for value in values.values()) < 8_000
