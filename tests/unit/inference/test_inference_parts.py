"""Parts that the other tests pass by: device binding, the key file, settings, and what is counted and logged."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from prometheus_client import generate_latest

from support.inference_harness import Stage, feature_record
from support.inference_models import PUBLIC_KEY, WIDTH, constant, fraud_pipeline, mlp, run_graph, write_public_key
from tidemill.errors import ConfigurationError
from tidemill.inference.assembly import Inference, PublicKeyFile
from tidemill.inference.catalogue import Selection
from tidemill.inference.config import InferenceConfig
from tidemill.inference.core.active import Active
from tidemill.inference.core.artefact import expectation
from tidemill.inference.core.blocks import Batch, CloseReason, limits
from tidemill.inference.core.model import Route
from tidemill.inference.core.registry import Refusal
from tidemill.inference.metrics import INFERENCE, Telemetry
from tidemill.inference.onnx import BucketBinding, OnnxLoader
from tidemill.inference.process import service_spec
from tidemill.runtime.health import Health
from tidemill.runtime.metrics import Metrics


@pytest.fixture
def health() -> Health:
    return Health("inference", Metrics({"pipeline": "fraud", "service": "inference"}, INFERENCE))


def sample(health: Health, name: str, **labels: str) -> float | None:
    return health.metrics.registry.get_sample_value(name, {"pipeline": "fraud", "service": "inference", **labels})


def test_a_bound_bucket_scores_as_an_unbound_run_and_keeps_no_view_of_its_buffer() -> None:
    """The device path, executed on the CPU: the binding itself is the same."""
    session = onnxruntime.InferenceSession(mlp(), providers=["CPUExecutionProvider"])
    binding = BucketBinding(session, "score", 8, WIDTH, "cpu")
    rows = np.random.default_rng(3).uniform(size=(2, 8, WIDTH)).astype(np.float32)
    first = binding.run(rows[0])
    second = binding.run(rows[1])
    np.testing.assert_allclose(first, run_graph(mlp(), rows[0]), atol=1e-6)
    np.testing.assert_allclose(second, run_graph(mlp(), rows[1]), atol=1e-6)


def test_asking_for_cuda_without_it_serves_on_the_cpu_and_says_so() -> None:
    told: list[bool] = []
    expected = expectation(fraud_pipeline(), "x")
    OnnxLoader(expected, (1,), "cuda", lambda: told.append(True))
    assert told == ([] if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else [True])
    OnnxLoader(expected, (1,), "cpu", lambda: told.append(False))
    assert False not in told


@pytest.mark.gpu
@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="no CUDA provider")
def test_the_gpu_gives_the_scores_of_the_cpu() -> None:
    stage = Stage()
    stage.deliver()
    stage.go_live(1, mlp())
    champion = stage.catalogue.selection.champion
    assert champion is not None and champion.provider == "CUDAExecutionProvider"
    rows = np.random.default_rng(3).uniform(size=(256, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(champion.score(rows), run_graph(mlp(), rows), atol=1e-4)
    stage.close()


def test_the_key_file_may_come_later_but_must_hold_a_key(tmp_path: Path, health: Health) -> None:
    telemetry = Telemetry(health)
    key = PublicKeyFile(tmp_path / "signing.pub", telemetry)
    assert key.read() is None
    write_public_key(tmp_path)
    assert key.read() == PUBLIC_KEY
    (tmp_path / "other.pub").write_text("zz")
    with pytest.raises(ConfigurationError, match=r"other\.pub"):
        PublicKeyFile(tmp_path / "other.pub", telemetry).read()


def test_limits_cap_a_batch_at_the_largest_bucket() -> None:
    assert limits(1_000, 2.0, (32, 1, 8, 8), 5)[:4] == (32, 0.002, (1, 8, 32), 5)
    with pytest.raises(ValueError, match="bucket"):
        limits(1, 0, (), 1)


def test_the_process_is_put_together_from_settings_and_pipeline(tmp_path: Path, health: Health) -> None:
    config = InferenceConfig(
        bootstrap_servers="127.0.0.1:1", pipeline="fraud", data_dir=tmp_path, public_key_file=tmp_path / "signing.pub"
    )
    inference = Inference(config, fraud_pipeline(), health)
    assert len(inference.routes) == 10
    spec = service_spec(fraud_pipeline())
    assert (spec.group, spec.state_topic) == ("fraud-inference", "fraud-inference-state")
    assert [topic.name for topic in spec.inputs] == ["fraud-features"]


def test_every_declared_metric_is_emitted(health: Health) -> None:
    telemetry = Telemetry(health)
    stage = Stage(start=False)
    stage.go_live(3, constant(0.5))
    model = stage.catalogue.selection.champion
    assert model is not None
    telemetry.batch_scored(Batch((), 3, 8, Route(model), CloseReason.IDLE_SLOT), 0.001, 1)
    telemetry.queue_changed(4, 2)
    telemetry.challenger_failed(2)
    telemetry.model_broken(model, "why")
    telemetry.refused(Refusal("fraud-mlp/4", 4, "digest", "changed"))
    telemetry.loaded(model, 0.2)
    telemetry.offered(Selection(1, model))
    telemetry.caught_up()
    telemetry.fell_back()
    telemetry.switched(0, Active(champion=3, epoch=1), "CPUExecutionProvider")
    telemetry.recorded(0, Active(champion=3, epoch=1))
    telemetry.predicted(5, 1, 2)
    telemetry.answered(429)
    text = generate_latest(health.metrics.registry).decode()
    for metric in INFERENCE:
        lines = [line for line in text.splitlines() if line.startswith((f"{metric.name}{{", f"{metric.name}_count"))]
        assert lines, f"{metric.name} is declared and never emitted"
        assert metric.action
    assert sample(health, "tidemill_inference_model_version", role="champion") == 3
    assert sample(health, "tidemill_inference_padded_rows_total") == 5
    assert sample(health, "tidemill_inference_refused_total", reason="digest") == 1
    assert sample(health, "tidemill_inference_provider", provider="CPUExecutionProvider") == 1
    telemetry.switched(0, Active(epoch=2), "rule")
    assert sample(health, "tidemill_inference_provider", provider="CPUExecutionProvider") == 0
    assert sample(health, "tidemill_inference_provider", provider="rule") == 1
    info: dict[str, Any] = dict(health.info)
    assert info["last_refusal"]["reason"] == "digest"
    assert info["model"]["epoch"] == 2


def test_a_version_that_was_refused_and_comes_again_with_good_bytes_is_served() -> None:
    """A publisher that died between chunks and manifest publishes the same version once more."""
    stage = Stage()
    stage.deliver()
    made = stage.publish(1, constant(0.5))
    kept = dict(stage.source.stored)
    stage.source.stored.clear()
    stage.activate(1, 1)
    stage.deliver()
    assert stage.catalogue.selection.champion is None
    stage.source.stored.update(kept)
    stage.source.publish(made, constant(0.5))
    stage.deliver()
    assert stage.catalogue.selection.champion is not None
    assert b'"model_version":1' in (stage.score([feature_record(0)]).records[0].value or b"")
    stage.close()
