"""Puts the service together from its settings and its pipeline; knows every part, decides nothing."""

from pathlib import Path

from starlette.routing import BaseRoute

from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.signing import read_key
from tidemill.inference.catalogue import Catalogue
from tidemill.inference.config import InferenceConfig
from tidemill.inference.core.artefact import expectation
from tidemill.inference.core.batcher import Batcher
from tidemill.inference.core.blocks import Limits, limits
from tidemill.inference.core.registry import Registry
from tidemill.inference.delivery import Delivery, DeliveryThread
from tidemill.inference.http import ApiLimits, InferenceApi, ModelSignature
from tidemill.inference.metrics import Telemetry
from tidemill.inference.shell import InferenceService
from tidemill.inference.source import KafkaModelSource
from tidemill.inference.worker import ModelWorker
from tidemill.runtime.health import Health


class Inference:
    """The parts of one process: `service` for the loop, `routes` for the HTTP server, threads to start and stop."""

    def __init__(self, config: InferenceConfig, pipeline: Pipeline, health: Health) -> None:
        # onnxruntime starts a thread when it is imported, and a process with threads must not fork (runtime/respawn.py)
        from tidemill.inference.onnx import OnnxLoader

        feature_set = feature_set_hash(pipeline)
        bounds = _limits(pipeline)
        width = len(pipeline.feature_names)
        telemetry = Telemetry(health)
        catalogue = Catalogue()
        loader = OnnxLoader(expectation(pipeline, feature_set), bounds.buckets, config.device, telemetry.fell_back)
        registry = Registry(pipeline.model.name)
        key = PublicKeyFile(config.public_key_file, telemetry)
        self._worker = ModelWorker(Batcher(bounds), width, bounds.buckets, telemetry)
        source = KafkaModelSource(
            config.bootstrap_servers, pipeline.topic("models"), pipeline.topic("model-chunks"), config.kafka_options
        )
        delivery = Delivery(registry, loader, catalogue, telemetry, key.read)
        self._delivery = DeliveryThread(delivery, source, telemetry.waiting)
        self.service = InferenceService(pipeline, feature_set, self._worker, catalogue, telemetry, config.model_wait_s)
        self._api = InferenceApi(
            ModelSignature(pipeline.model.name, width, pipeline.model.output),
            ApiLimits(config.max_request_bytes, bounds.http_rows, config.http_deadline_ms),
            catalogue,
            self._worker,
            lambda: health.ready,
            telemetry.answered,
        )

    @property
    def routes(self) -> list[BaseRoute]:
        return self._api.routes()

    def start(self) -> None:
        self._worker.start()
        self._delivery.start()

    def stop(self) -> None:
        """After the loop has ended and closed the service, which stops the worker."""
        self._delivery.stop()


class PublicKeyFile:
    """The key that signatures are checked with. Retrain makes the pair on its first start, perhaps after this one."""

    def __init__(self, path: Path, telemetry: Telemetry) -> None:
        self._path = path
        self._telemetry = telemetry
        self._key: bytes | None = None
        self._told = False

    def read(self) -> bytes | None:
        """None while there is no file. Raises ConfigurationError if it holds no key."""
        if self._key is None and self._path.exists():
            self._key = read_key(self._path)
        if self._key is None and not self._told:
            self._told = True
            self._telemetry.waiting(f"models are published, but the public key file {self._path} does not exist")
        return self._key


def _limits(pipeline: Pipeline) -> Limits:
    batching = pipeline.model.batching
    return limits(batching.max_size, batching.max_wait_ms, batching.buckets, batching.queue_limit)
