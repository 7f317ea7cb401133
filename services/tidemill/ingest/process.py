"""One ingest process: the loop over the source topics, and the HTTP side beside it."""

from tidemill import clock
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError
from tidemill.ingest.append import KafkaAppender
from tidemill.ingest.config import IngestConfig
from tidemill.ingest.http import EventsEndpoint
from tidemill.ingest.metrics import INGEST, HttpMetrics
from tidemill.ingest.shell import IngestService
from tidemill.ingest.sources import Intakes, open_intakes
from tidemill.runtime.health import Health, serve_http
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.kafka import PlainProducer
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.run import run_service
from tidemill.runtime.spec import ServiceSpec

NAME = "ingest"
_SHORTEST_DELIVERY_MS = 1_000


def run(config: IngestConfig, pipeline: Pipeline) -> int:
    """Blocks until a signal or a fatal error; returns the exit code. Raises TidemillError before anything runs."""
    intakes = open_intakes(pipeline, refuse_duplicate_keys=config.refuse_duplicate_keys)
    spec = service_spec(pipeline, intakes)
    metrics = Metrics({"pipeline": pipeline.name, "service": NAME}, INGEST)
    health = Health(NAME, metrics, config.instance)
    delivery_ms = max(config.http_acknowledge_timeout_ms, _SHORTEST_DELIVERY_MS)
    # Clients wait for every single request, so a short linger is latency saved; long lists fill batches anyway.
    options = {"linger.ms": "1", **config.kafka_options, "message.timeout.ms": str(delivery_ms)}
    appender = KafkaAppender(PlainProducer(config.bootstrap_servers, options))
    endpoint = EventsEndpoint(intakes.by_name, appender, config.http_limits, clock.wall_ms, HttpMetrics(metrics))
    server = serve_http(config, health, endpoint.routes())
    try:
        return run_service(spec, config, IngestService(intakes.by_topic), health)
    finally:
        server.close()
        appender.close()


def service_spec(pipeline: Pipeline, intakes: Intakes) -> ServiceSpec:
    """What the loop reads: the source topics, merged in timestamp order.

    Ingest itself knows no time, but it re-keys: were one source partition read ahead of another, the records of the
    other would look late in the topic that both are written to. Raises ConfigurationError if no source has a topic.
    """
    if not intakes.by_topic:
        raise ConfigurationError(
            f"no source of pipeline {pipeline.name} has a topic, so ingest has nothing to read",
            hint="Give one of ingest.sources a topic; HTTP alone is not supported yet.",
        )
    return ServiceSpec(
        pipeline=pipeline.name,
        name=NAME,
        inputs=tuple(InputTopic(topic) for topic in intakes.by_topic),
        dlq_topic=pipeline.topic("dlq"),
        max_idle_ms=pipeline.features.max_idle_ms,
        max_skew_ms=pipeline.features.max_skew_ms,
        breaker=pipeline.ingest.breaker,
    )
