"""Each bad artefact is refused with a reason of its own, and what serves goes on serving."""

from collections.abc import Callable, Iterator

import orjson
import pytest

from support.inference_harness import Stage, feature_record
from support.inference_models import (
    OTHER_KEY,
    PRIVATE_KEY,
    PUBLIC_KEY,
    activation,
    activation_record,
    chunk_records,
    constant,
    external_weights,
    foreign_operator,
    manifest,
    manifest_record,
    mlp,
    nan_below_zero,
    unknown_operator,
    wrong_opset,
)
from tidemill.domain.model import Golden, digest, encode
from tidemill.domain.signing import sign_record
from tidemill.inference.core.artefact import REFUSALS
from tidemill.runtime.service import Record


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Version 2 serves; version 1 is known."""
    made = Stage()
    made.publish(1, constant(0.1))
    made.go_live(2, constant(0.25))
    made.recorder.refusals.clear()
    yield made
    made.close()


def publish(stage: Stage, data: bytes, **changes: object) -> None:
    stage.publish(3, data, **changes)


def other_bytes(stage: Stage) -> None:
    made = stage.publish(3, mlp())
    stage.source.stored.update(chunk_records(made, mlp()[:-1] + b"\0"))


def shorter_bytes(stage: Stage) -> None:
    made = stage.publish(3, mlp())
    stage.source.stored.update(chunk_records(made, mlp()[:-1]))


def lost_chunk(stage: Stage) -> None:
    stage.publish(3, mlp())
    del stage.source.stored[b"fraud-mlp/3/0"]


def foreign_key(stage: Stage) -> None:
    stage.source.publish(manifest(stage.pipeline, 3, mlp()), mlp(), OTHER_KEY)


def changed_after_signing(stage: Stage) -> None:
    record = manifest_record(manifest(stage.pipeline, 3, mlp()))
    altered = orjson.loads(record.value or b"") | {"metrics": {"auc": 1.0}}
    stage.source.pending.append(record._replace(value=orjson.dumps(altered)))


def replayed_old_version(stage: Stage) -> None:
    stage.publish(4, mlp())
    stage.deliver()
    stage.publish(3, mlp())


def reused_version(stage: Stage) -> None:
    stage.publish(2, mlp())


def other_version_under_the_key(stage: Stage) -> None:
    record = manifest_record(manifest(stage.pipeline, 3, mlp()))
    stage.source.pending.append(record._replace(key=b"fraud-mlp/9"))


def stale_activation(stage: Stage) -> None:
    stage.activate(1, 1)


def activation_without_manifest(stage: Stage) -> None:
    stage.activate(3, 77)


def foreign_activation(stage: Stage) -> None:
    stage.source.pending.append(activation_record(activation(stage.pipeline, 9, 1), OTHER_KEY))


def no_json(stage: Stage) -> None:
    stage.source.pending.append(Record("fraud-models", 0, 0, 0, b"fraud-mlp/3", b"\x08\x01\x12"))


def wrong_golden(stage: Stage) -> None:
    made = manifest(stage.pipeline, 3, mlp())
    outputs = tuple(output + 0.01 for output in made.golden.outputs)
    publish(stage, mlp(), golden=Golden(made.golden.inputs, outputs, 1e-4))


def nan_golden(stage: Stage) -> None:
    inputs = ((-1.0,) * 15,)
    publish(stage, nan_below_zero(), golden=Golden(inputs, (0.5,), 1.0))


def future_format(stage: Stage) -> None:
    made = manifest(stage.pipeline, 3, mlp())
    value = orjson.loads(encode(made, PRIVATE_KEY)) | {"v": 2}
    signed = sign_record(value, PRIVATE_KEY)
    stage.source.pending.append(Record("fraud-models", 0, 0, 0, b"fraud-mlp/3", signed))


CASES: dict[str, tuple[str, Callable[[Stage], None]]] = {
    "changed bytes": ("digest", other_bytes),
    "truncated bytes": ("size", shorter_bytes),
    "missing chunk": ("chunks", lost_chunk),
    "wrong key": ("signature", foreign_key),
    "changed manifest": ("signature", changed_after_signing),
    "replayed old version": ("old_version", replayed_old_version),
    "reused version": ("version_reused", reused_version),
    "wrong record key": ("wrong_key", other_version_under_the_key),
    "stale activation": ("old_epoch", stale_activation),
    "activation of nothing": ("not_published", activation_without_manifest),
    "forged activation": ("signature", foreign_activation),
    "no JSON": ("not_json", no_json),
    "future format": ("unknown_version", future_format),
    "garbage": ("not_onnx", lambda stage: publish(stage, b"not a protocol buffer" * 9)),
    "empty graph": ("not_onnx", lambda stage: publish(stage, b"\x08\x0a")),
    "external data": ("external_data", lambda stage: publish(stage, external_weights())),
    "custom domain": ("foreign_domain", lambda stage: publish(stage, foreign_operator())),
    "wrong opset": ("opset", lambda stage: publish(stage, wrong_opset())),
    "wrong input name": ("inputs", lambda stage: publish(stage, mlp(input_name="x"))),
    "wrong width": ("inputs", lambda stage: publish(stage, mlp(width=14))),
    "wrong output name": ("outputs", lambda stage: publish(stage, mlp(output_name="y"))),
    "wrong output shape": ("outputs", lambda stage: publish(stage, mlp(output_shape=("batch", 1)))),
    "unknown operator": ("session", lambda stage: publish(stage, unknown_operator())),
    "too large": ("too_large", lambda stage: publish(stage, mlp(), size=65_000_000)),
    "other feature set": ("feature_set", lambda stage: publish(stage, mlp(), feature_set="0" * 12)),
    "other features": ("features", lambda stage: publish(stage, mlp(), features=("amount",))),
    "other model": ("wrong_model", lambda stage: publish(stage, mlp(), name="spam-filter")),
    "wrong golden output": ("golden", wrong_golden),
    "NaN as golden output": ("golden", nan_golden),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_artefact_is_refused_with_its_own_reason_while_serving_goes_on(stage: Stage, case: str) -> None:
    reason, tamper = CASES[case]
    tamper(stage)
    stage.deliver(2)
    assert [refusal.reason for refusal in stage.recorder.refusals] == [reason]
    assert reason in REFUSALS
    assert stage.recorder.refusals[0].message
    output = stage.score([feature_record(0)])
    prediction = orjson.loads(output.records[0].value or b"")
    assert (prediction["model_version"], prediction["outputs"]) == (2, {"score": 0.25})


@pytest.mark.parametrize("case", ["changed bytes", "external data", "wrong golden output", "unknown operator"])
def test_an_activation_of_a_refused_version_changes_nothing(stage: Stage, case: str) -> None:
    CASES[case][1](stage)
    stage.deliver()
    stage.activate(3, 3)
    stage.deliver()
    assert stage.catalogue.selection.epoch == 2
    listed = next(one for one in stage.catalogue.listing() if one.version == 3)
    assert listed.state == "UNAVAILABLE" and listed.reason.startswith(CASES[case][0])
    assert len(stage.recorder.refusals) == 1, "a refused version is examined once"


def test_a_refused_challenger_leaves_the_champion_alone(stage: Stage) -> None:
    stage.publish(3, external_weights())
    stage.activate(3, 2, 3)
    stage.deliver()
    assert stage.catalogue.selection.challenger is None
    assert stage.catalogue.selection.epoch == 3


def test_records_wait_unread_until_there_is_a_public_key() -> None:
    stage = Stage(start=False)
    stage.key = None
    stage.publish(1, mlp())
    stage.activate(1, 1)
    stage.deliver(2)
    assert not stage.catalogue.caught_up
    stage.key = PUBLIC_KEY
    stage.deliver()
    assert stage.catalogue.selection.champion is not None
    assert stage.catalogue.caught_up


def test_at_start_only_what_serves_is_fetched_and_loaded() -> None:
    stage = Stage(start=False)
    for version in range(1, 6):
        stage.publish(version, constant(version / 10))
    stage.activate(1, 3)
    stage.activate(2, 5, 4)
    stage.deliver()
    assert sorted(stage.recorder.loads) == [4, 5]


def test_a_rollback_loads_an_older_version_again_and_only_a_few_are_kept() -> None:
    stage = Stage(start=False)
    stage.deliver()
    for version in range(1, 8):
        stage.go_live(version, constant(version / 10))
    assert stage.catalogue.find(1) is None
    assert sum(one.state == "READY" for one in stage.catalogue.listing()) == 4
    stage.activate(8, 1)
    stage.deliver()
    champion = stage.catalogue.selection.champion
    assert champion is not None and champion.version == 1


def test_a_multi_chunk_artefact_is_joined() -> None:
    stage = Stage(start=False)
    data = mlp()
    made = manifest(stage.pipeline, 1, data, chunks=3, sha256=digest(data))
    stage.source.pending.append(manifest_record(made))
    for index, piece in enumerate((data[:100], data[100:200], data[200:])):
        stage.source.stored[f"fraud-mlp/1/{index}".encode()] = piece
    stage.activate(1, 1)
    stage.deliver()
    assert stage.catalogue.selection.champion is not None
