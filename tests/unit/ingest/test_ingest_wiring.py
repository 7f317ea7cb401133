"""Settings, metrics and the shipped pipeline's sources fit together."""

import orjson
import pytest
from prometheus_client import generate_latest

from tidemill.errors import ConfigurationError
from tidemill.ingest.config import IngestConfig
from tidemill.ingest.metrics import INGEST, HttpMetrics
from tidemill.ingest.process import service_spec
from tidemill.ingest.sources import Intakes, open_intakes
from tidemill.runtime.config import load_config
from tidemill.runtime.metrics import Metrics
from unit.ingest.samples import CHARGEBACK, EVENT_BYTES, LABEL_BYTES, NOW_MS, PAYMENT, fraud_pipeline


def test_the_shipped_pipelines_sources_are_open_by_topic_and_by_name() -> None:
    intakes = open_intakes(fraud_pipeline())
    assert set(intakes.by_topic) == {"fraud-raw-payments", "fraud-raw-chargebacks"}
    assert set(intakes.by_name) == {"card-payments", "chargebacks"}
    assert intakes.by_topic["fraud-raw-payments"].take(orjson.dumps(PAYMENT), NOW_MS).value == EVENT_BYTES
    assert intakes.by_name["chargebacks"].inspect(CHARGEBACK, NOW_MS) == (
        "fraud-labels",
        b"c-00042",
        LABEL_BYTES,
        1522590000000,
    )


def test_a_source_is_open_only_where_it_says() -> None:
    pipeline = fraud_pipeline()
    payments, chargebacks = pipeline.ingest.sources
    sources = (payments.model_copy(update={"topic": None}), chargebacks.model_copy(update={"http": False}))
    ingest = pipeline.ingest.model_copy(update={"sources": sources})
    intakes = open_intakes(pipeline.model_copy(update={"ingest": ingest}))
    assert set(intakes.by_topic) == {"fraud-raw-chargebacks"}
    assert set(intakes.by_name) == {"card-payments"}


def test_settings_come_from_the_environment_in_the_units_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    monkeypatch.setenv("TIDEMILL_PIPELINE", "fraud")
    monkeypatch.setenv("TIDEMILL_HTTP_READ_TIMEOUT_MS", "2500")
    limits = load_config(IngestConfig).http_limits
    assert limits.read_timeout_s == 2.5 and limits.max_body_bytes == 1_048_576
    monkeypatch.setenv("TIDEMILL_HTTP_MAX_BYTES_IN_FLIGHT", "300")
    with pytest.raises(ConfigurationError, match="must be at least http_max_body_bytes"):
        load_config(IngestConfig)
    monkeypatch.setenv("TIDEMILL_HTTP_MAX_RECORDS", "none")
    with pytest.raises(ConfigurationError, match="TIDEMILL_HTTP_MAX_RECORDS"):
        load_config(IngestConfig)


def test_every_declared_metric_is_emitted_and_no_other() -> None:
    metrics = Metrics({"pipeline": "fraud", "service": "ingest"}, INGEST)
    http = HttpMetrics(metrics)
    http.answered("card-payments", 202)
    http.accepted("card-payments", 3)
    http.in_flight(1, 100)
    with http.acknowledging():
        pass
    lines = [
        line for line in generate_latest(metrics.registry).decode().splitlines() if line.startswith("tidemill_ingest")
    ]
    emitted = {line.partition("{")[0] for line in lines}
    for declared in INGEST:
        assert declared.action and declared.help
        assert declared.name in emitted or f"{declared.name}_count" in emitted
    assert 'records_total{pipeline="fraud",service="ingest",source="card-payments"} 3.0' in "\n".join(lines)


def test_the_loop_reads_the_source_topics_in_time_order_and_stops_at_the_pipelines_breaker() -> None:
    pipeline = fraud_pipeline()
    spec = service_spec(pipeline, open_intakes(pipeline))
    assert (spec.group, spec.dlq_topic, spec.state_topic) == ("fraud-ingest", "fraud-dlq", None)
    assert [topic.name for topic in spec.inputs] == ["fraud-raw-payments", "fraud-raw-chargebacks"]
    assert spec.max_idle_ms == pipeline.features.max_idle_ms
    assert spec.breaker == pipeline.ingest.breaker


def test_a_pipeline_without_a_source_topic_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match="no source of pipeline fraud has a topic"):
        service_spec(fraud_pipeline(), Intakes({}, {}))
