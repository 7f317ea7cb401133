"""One inference process: the loop over the features topic, the models' delivery and the HTTP side beside it."""

from tidemill.domain.pipeline import Pipeline
from tidemill.inference.assembly import Inference
from tidemill.inference.config import InferenceConfig
from tidemill.inference.metrics import INFERENCE
from tidemill.runtime.health import Health, serve_http
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.run import run_service
from tidemill.runtime.spec import ServiceSpec

NAME = "inference"


def run(config: InferenceConfig, pipeline: Pipeline) -> int:
    """Blocks until a signal or a fatal error; returns the exit code. Raises TidemillError before anything runs."""
    health = Health(NAME, Metrics({"pipeline": pipeline.name, "service": NAME}, INFERENCE), config.instance)
    inference = Inference(config, pipeline, health)
    server = serve_http(config, health, inference.routes)
    inference.start()
    try:
        return run_service(service_spec(pipeline), config, inference.service, health)
    finally:
        server.close()
        inference.stop()


def service_spec(pipeline: Pipeline) -> ServiceSpec:
    return ServiceSpec(
        pipeline=pipeline.name,
        name=NAME,
        inputs=(InputTopic(pipeline.topic("features")),),
        dlq_topic=pipeline.topic("dlq"),
        state_topic=pipeline.topic("inference-state"),
        max_idle_ms=pipeline.features.max_idle_ms,
        max_skew_ms=pipeline.features.max_skew_ms,
    )
