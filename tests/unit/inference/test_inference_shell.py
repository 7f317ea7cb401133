"""The service: predictions by rule and by model, dead letters, the recorded switch, restore, drop, challenger."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from support.inference_harness import Stage, feature_record, started
from support.inference_models import WIDTH, constant, mlp, nan_below_zero, raises_above, run_graph
from tidemill.errors import StateCorrupt, TidemillError
from tidemill.inference.catalogue import Selection
from tidemill.inference.core.active import Active
from tidemill.inference.core.blocks import Lane
from tidemill.inference.core.model import Matrix, ModelError, Scores
from tidemill.runtime.service import Output, Record


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    made.deliver()
    yield made
    made.close()


def predictions(output: Output) -> list[dict[str, Any]]:
    return [orjson.loads(record.value or b"") for record in output.records if record.topic == "fraud-predictions"]


def row(first: float) -> list[float | None]:
    return [first, *[0.5] * (WIDTH - 1)]


def test_before_any_model_the_rule_scores_and_says_so(stage: Stage) -> None:
    output = stage.score([feature_record(0, amount=219.99), feature_record(1, amount=220.01)])
    low, high = predictions(output)
    assert low | {"status": "no_model", "model": None, "model_version": None, "bucket": 0, "provider": "rule"} == low
    assert (low["outputs"], low["decision"]) == ({"score": 0.0}, "approve")
    assert (high["outputs"], high["decision"]) == ({"score": 1.0}, "review")
    assert output.state == []


def test_a_prediction_is_the_feature_record_with_members_added(stage: Stage) -> None:
    stage.go_live(1, constant(0.75))
    record = feature_record(3, [None, *[1.25] * 14])
    (made,) = stage.score([record]).records
    assert made.value is not None and record.value is not None
    assert made.value.startswith(record.value[:-1] + b',"status":"ok","model":"fraud-mlp","model_version":1,')
    assert (made.key, made.timestamp, made.partition) == (record.key, record.timestamp, -1)
    assert made.value.endswith(
        b'"outputs":{"score":0.75},"decision":"review","bucket":1,"provider":"CPUExecutionProvider"}'
    )


def test_scores_are_those_of_the_graph_whatever_the_bucket(stage: Stage) -> None:
    data = mlp()
    stage.go_live(1, data)
    rng = np.random.default_rng(5)
    rows = rng.uniform(0, 3, size=(300, WIDTH)).astype(np.float32).round(3)
    rows[rng.uniform(size=rows.shape) < 0.2] = np.nan
    vectors = [[None if np.isnan(x) else float(x) for x in vector] for vector in rows]
    output = stage.score([feature_record(i, vector) for i, vector in enumerate(vectors)])
    made = predictions(output)
    assert [one["bucket"] for one in made] == [256] * 256 + [128] * 44
    np.testing.assert_allclose([one["outputs"]["score"] for one in made], run_graph(data, rows), atol=1e-6)


@pytest.mark.parametrize(
    "record",
    [
        feature_record(1)._replace(value=b"{"),
        feature_record(1)._replace(value=None),
        feature_record(1)._replace(key=None),
        feature_record(1)._replace(value=(feature_record(1).value or b"") + b" "),
        feature_record(1)._replace(value=(feature_record(1).value or b"").replace(b"0.071", b"1e999")),
        feature_record(1)._replace(value=(feature_record(1).value or b"").replace(b"0.071", b"NaN")),
        feature_record(1)._replace(value=(feature_record(1).value or b"").replace(b"p-", b"\xff-")),
        feature_record(1, [1e39, *[0.0] * 14]),
        feature_record(1, [0.0] * 14),
        feature_record(1, fs="other"),
        feature_record(1, features=["1.0"] * 15),
        feature_record(1, amount=None),
        feature_record(1, id=7),
    ],
    ids=[
        "json",
        "tombstone",
        "key",
        "space",
        "1e999",
        "NaN",
        "utf-8",
        "overflow",
        "width",
        "fs",
        "text",
        "amount",
        "id",
    ],
)
def test_a_bad_record_is_a_dead_letter_and_costs_nobody_else(stage: Stage, record: Record) -> None:
    stage.go_live(1, constant(0.5))
    output = stage.score([feature_record(0), record, feature_record(2)])
    assert [(dead.record, dead.code) for dead in output.dead] == [(record, "bad_record")]
    assert [one["id"] for one in predictions(output)] == ["p-000000000", "p-000000002"]


def test_a_nan_or_out_of_range_score_becomes_a_dead_letter_never_a_prediction(stage: Stage) -> None:
    stage.go_live(1, nan_below_zero())
    output = stage.score([feature_record(i, row(x)) for i, x in enumerate([0.25, -1.0, 4.0, 1.0])])
    assert [(dead.record.offset, dead.code) for dead in output.dead] == [(1, "model_error"), (2, "model_error")]
    assert [one["outputs"] for one in predictions(output)] == [{"score": 0.5}, {"score": 1.0}]
    assert all(
        b"NaN" not in (record.value or b"") and b"null}" not in (record.value or b"") for record in output.records
    )


def test_a_row_that_makes_the_graph_raise_costs_itself_alone(stage: Stage) -> None:
    stage.go_live(1, raises_above(4))
    output = stage.score([feature_record(i, row(99.0 if i in (3, 77) else i % 5)) for i in range(100)])
    assert [dead.record.offset for dead in output.dead] == [3, 77]
    assert len(predictions(output)) == 98
    assert predictions(output)[2]["outputs"] == {"score": 0.5}


def test_the_switch_is_recorded_once_with_the_first_offset_it_scores(stage: Stage) -> None:
    assert stage.score([feature_record(0)]).state == []
    stage.go_live(1, constant(0.1))
    output = stage.score([feature_record(1), feature_record(5, partition=2)])
    assert [(entry.partition, entry.key, orjson.loads(entry.value or b"")) for entry in output.state] == [
        (0, b"active", {"v": 1, "champion": 1, "challenger": None, "epoch": 1, "from_offset": 1}),
        (2, b"active", {"v": 1, "champion": 1, "challenger": None, "epoch": 1, "from_offset": 5}),
    ]
    stage.service.committed()
    assert stage.score([feature_record(2)]).state == []
    stage.activate(2, None)
    stage.deliver()
    output = stage.score([feature_record(3)])
    assert orjson.loads(output.state[0].value or b"")["champion"] is None
    assert predictions(output)[0]["status"] == "no_model"


def test_records_added_before_a_switch_are_scored_by_what_held_then(stage: Stage) -> None:
    stage.go_live(1, constant(0.1))
    stage.service.add([feature_record(0)], 0.0)
    stage.go_live(2, constant(0.2))
    stage.service.add([feature_record(1)], 0.0)
    output = stage.service.flush(0.0)
    assert [one["model_version"] for one in predictions(output)] == [1, 2]
    assert [orjson.loads(entry.value or b"")["from_offset"] for entry in output.state] == [0, 1]


def test_an_aborted_switch_is_taken_over_again(stage: Stage) -> None:
    stage.restore(0, None)
    stage.go_live(1, constant(0.1))
    first = stage.score([feature_record(0)])
    stage.service.drop([0])
    stage.restore(0, None)
    assert stage.score([feature_record(0)]).state == first.state


def test_a_new_owner_that_is_behind_waits_for_the_recorded_version_before_it_scores(stage: Stage) -> None:
    stage.go_live(1, constant(0.1))
    stage.restore(0, Active(champion=2, epoch=2, from_offset=7))
    scored: list[Output] = []
    thread = started(lambda: scored.append(stage.score([feature_record(8)])))
    while not stage.catalogue.wanted():  # the owner thread is about to wait; it gives up after 5 s by itself
        assert thread.is_alive()
    assert not scored
    stage.go_live(2, constant(0.2))
    thread.join(10)
    assert predictions(scored[0])[0]["model_version"] == 2
    assert scored[0].state == [], "the partition goes on with what was recorded"


def test_a_recorded_version_with_a_newer_epoch_than_the_topic_is_loaded_on_demand(stage: Stage) -> None:
    """Someone replayed an old activation and compaction removed the newer one: the record in the state stands."""
    stage.publish(1, constant(0.1))
    stage.publish(2, constant(0.2))
    stage.activate(1, 1)
    stage.deliver()
    stage.restore(0, Active(champion=2, epoch=9, from_offset=7))
    delivering = threading.Event()

    def deliver() -> None:
        while not delivering.is_set():
            stage.deliver()

    thread = started(deliver)
    output = stage.score([feature_record(8)])
    delivering.set()
    thread.join()
    assert predictions(output)[0]["model_version"] == 2


def test_a_recorded_version_that_cannot_be_had_gives_way_to_the_rule_and_that_is_recorded(stage: Stage) -> None:
    stage.restore(0, Active(champion=5, epoch=9, from_offset=7))
    scored: list[Output] = []
    thread = started(lambda: scored.append(stage.score([feature_record(8)])))
    while not stage.catalogue.wanted():
        assert thread.is_alive()
    stage.deliver()
    thread.join(10)
    assert predictions(scored[0])[0]["status"] == "no_model"
    assert orjson.loads(scored[0].state[0].value or b"") == {
        "v": 1, "champion": None, "challenger": None, "epoch": 9, "from_offset": 8,
    }  # fmt: skip
    assert [refusal.reason for refusal in stage.recorder.refusals] == ["not_published"]


def test_nothing_is_scored_before_the_models_topic_was_read() -> None:
    stage = Stage(model_wait_s=0.01)
    with pytest.raises(TidemillError, match="models topic could not be read"):
        stage.service.add([feature_record(0)], 0.0)
    stage.close()


def test_unreadable_state_is_an_error_not_a_guess(stage: Stage) -> None:
    with pytest.raises(StateCorrupt):
        stage.service.restore(0, [(b"active", b"{}x")])
    with pytest.raises(StateCorrupt, match="version 2"):
        stage.service.restore(0, [(b"active", b'{"v":2}')])


def test_dropped_partitions_leave_no_output(stage: Stage) -> None:
    stage.go_live(1, constant(0.1))
    stage.service.add([feature_record(0), feature_record(0, partition=1), feature_record(1)._replace(value=b"")], 0.0)
    stage.service.drop([0])
    output = stage.service.flush(0.0)
    assert [one["id"] for one in predictions(output)] == ["p-000000000"]
    assert [entry.partition for entry in output.state] == [1]
    assert output.dead == []
    stage.service.add([feature_record(9)], 0.0)
    stage.service.drop([0, 1])
    assert stage.service.flush(0.0) == Output()


def test_a_challenger_writes_shadow_records_for_the_same_batch(stage: Stage) -> None:
    stage.publish(1, constant(0.1))
    stage.publish(2, nan_below_zero())
    stage.activate(1, 1, 2)
    stage.deliver()
    output = stage.score([feature_record(0, row(0.25)), feature_record(1, row(-1.0))])
    shadows = [record for record in output.records if record.topic == "fraud-shadow"]
    assert len(predictions(output)) == 2
    assert [orjson.loads(record.value or b"") for record in shadows] == [
        {
            "v": 1,
            "id": "p-000000000",
            "event_time": 1_522_540_800_000,
            "customer": "c-00000",
            "model": "fraud-mlp",
            "model_version": 2,
            "outputs": {"score": 0.5},
        }
    ]
    assert (shadows[0].key, shadows[0].timestamp) == (b"c-00000", 1_522_540_800_000)
    assert stage.recorder.challenger_failures == 1
    assert orjson.loads(output.state[0].value or b"")["challenger"] == 2


class BreaksLater:
    """Scores once, for its trial, and never again."""

    name, version, provider = "fraud-mlp", 1, "test"
    probe: Matrix = np.zeros((1, WIDTH), np.float32)

    def score(self, rows: Matrix) -> Scores:
        raise ModelError("the device is gone")


def test_a_model_that_cannot_score_at_all_stops_the_stream_with_its_reason(stage: Stage) -> None:
    stage.catalogue.offer(Selection(1, BreaksLater()))
    stage.service.add([feature_record(0), feature_record(1)], 0.0)
    with pytest.raises(TidemillError, match="version 1 cannot score: the device is gone"):
        stage.service.flush(0.0)
    assert stage.recorder.broken == ["the device is gone"] * 2
    with pytest.raises(TidemillError, match="the device is gone"):
        stage.service.add([feature_record(2)], 0.0)


def test_rows_wait_for_no_timer_while_the_model_is_free(stage: Stage) -> None:
    stage.go_live(1, constant(0.1))
    stage.score([feature_record(i) for i in range(300)])
    assert [(batch.size, batch.bucket) for batch in stage.recorder.batches] == [(256, 256), (44, 128)]
    assert stage.batcher.waiting(Lane.KAFKA) == 0


def test_the_first_challenger_is_compared_with_the_rule(stage: Stage) -> None:
    """No champion yet: the rule serves, and the candidate must show in shadow that it is better."""
    stage.publish(1, nan_below_zero())
    stage.activate(1, None, 1)
    stage.deliver()
    output = stage.score([feature_record(0, row(0.25), amount=300), feature_record(1, row(-1.0))])
    made = predictions(output)
    assert [(one["status"], one["model_version"], one["bucket"]) for one in made] == [("no_model", None, 0)] * 2
    assert [one["outputs"]["score"] for one in made] == [1.0, 0.0]
    shadows = [orjson.loads(record.value or b"") for record in output.records if record.topic == "fraud-shadow"]
    assert [(one["id"], one["model_version"], one["outputs"]) for one in shadows] == [
        ("p-000000000", 1, {"score": 0.5})
    ]
    assert output.dead == []
    assert orjson.loads(output.state[0].value or b"")["challenger"] == 1
    assert stage.recorder.predictions[-1] == (0, 2, 1)


def test_a_challenger_that_cannot_score_costs_the_stream_nothing(stage: Stage) -> None:
    stage.catalogue.offer(Selection(1, None, BreaksLater()))
    output = stage.score([feature_record(0), feature_record(1)])
    assert len(predictions(output)) == 2 == len(output.records)
    assert stage.recorder.challenger_failures == 2


def test_a_recorded_challenger_without_a_champion_is_restored(stage: Stage) -> None:
    stage.restore(0, Active(champion=None, challenger=2, epoch=2, from_offset=7))
    scored: list[Output] = []
    thread = started(lambda: scored.append(stage.score([feature_record(8)])))
    while not stage.catalogue.wanted():
        assert thread.is_alive()
    stage.publish(2, constant(0.2))
    stage.activate(2, None, 2)
    stage.deliver()
    thread.join(10)
    assert [record.topic for record in scored[0].records] == ["fraud-predictions", "fraud-shadow"]
    assert scored[0].state == []
