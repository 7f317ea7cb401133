"""One drift process: settings and a pipeline in, a wired service and its loop out."""

from tidemill.domain.pipeline import Pipeline
from tidemill.drift.config import DriftConfig
from tidemill.drift.manifests import PublishedModels
from tidemill.drift.metrics import DECLARED
from tidemill.drift.river_detectors import Adwin
from tidemill.drift.shell import DriftService
from tidemill.runtime.health import Health, serve_http
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.kafka import TopicReader
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.run import run_service
from tidemill.runtime.spec import Replaying, ServiceSpec
from tidemill.runtime.topics import plan

NAME = "drift"
_GAP_MS = 200.0
"""An alarm is about hours; it need not be written within milliseconds."""


def run(config: DriftConfig, pipeline: Pipeline) -> int:
    """Blocks until a signal or a fatal error; returns the exit code."""
    metrics = Metrics({"pipeline": pipeline.name, "service": NAME}, DECLARED)
    health = Health(NAME, metrics, config.instance)
    published = PublishedModels(
        pipeline.model.name,
        config.public_key_file,
        lambda: TopicReader(config.bootstrap_servers, [pipeline.topic("models")], options=config.kafka_options),
    )
    service = DriftService(pipeline, Adwin, published.champion, partitions(pipeline), metrics)
    server = serve_http(config, health)
    try:
        return run_service(service_spec(pipeline, service), config, service, health)
    finally:
        server.close()
        published.close()


def service_spec(pipeline: Pipeline, service: Replaying) -> ServiceSpec:
    """Predictions first: at equal times the detectors see an event's features before another's outcome."""
    return ServiceSpec(
        pipeline=pipeline.name,
        name=NAME,
        inputs=(InputTopic(pipeline.topic("predictions")), InputTopic(pipeline.topic("outcomes"))),
        dlq_topic=pipeline.topic("dlq"),
        state_topic=pipeline.topic("drift-state"),
        max_idle_ms=pipeline.features.max_idle_ms,
        max_skew_ms=pipeline.features.max_skew_ms,
        gap_ms=_GAP_MS,
        replay=service,
    )


def partitions(pipeline: Pipeline) -> int:
    """How many partitions the predictions have by the topic plan."""
    name = pipeline.topic("predictions")
    return next(topic.partitions for topic in plan(pipeline) if topic.name == name)
